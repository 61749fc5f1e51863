#include "io.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <stdexcept>
#include <system_error>
#include <thread>
#include <unordered_map>
#include <vector>

namespace io {
namespace {

struct File {
    int plain = -1, direct = -1;
    std::atomic<bool> refused{false};  // direct reads, by the file system, once it was asked

    ~File() {
        if (plain >= 0) close(plain);
        if (direct >= 0) close(direct);
    }
};

struct Request {
    Outcome outcome{0, 0, 0, 0, true};
    int64_t blocks, done = 0;  // of them
};

struct Block {
    std::shared_ptr<Request> request;
    std::shared_ptr<File> file;
    int64_t offset, length;
    uint8_t* out;
    int64_t before;  // bytes of its request that come first
};

double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

int open_read_only(const std::string& path, int flags) {
    int file;
    do file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | flags);
    while (file < 0 && errno == EINTR);
    return file;
}

// Bytes that were read, fewer where the file ends; -errno where it fails.
int64_t read_block(File& file, int64_t offset, int64_t length, uint8_t* out, bool& direct) {
    int64_t done = 0;
    direct = true;
    while (done < length) {
        const bool aligned = !((uint64_t)(offset + done) % ALIGNED || (uint64_t)(length - done) % ALIGNED ||
                               (uintptr_t)(out + done) % ALIGNED);
        const bool past_cache = file.direct >= 0 && aligned && !file.refused;
        const ssize_t got =
            pread(past_cache ? file.direct : file.plain, out + done, (size_t)(length - done), (off_t)(offset + done));
        if (got < 0) {
            if (errno == EINTR) continue;
            if (past_cache && (errno == EINVAL || errno == EOPNOTSUPP)) {
                file.refused = true;
                continue;
            }
            return -errno;
        }
        if (got == 0) break;
        direct &= past_cache;
        done += got;
    }
#ifdef POSIX_FADV_DONTNEED
    if (!direct) posix_fadvise(file.plain, (off_t)offset, (off_t)length, POSIX_FADV_DONTNEED);
#endif
    return done;
}

}  // namespace

struct Reader::State {
    std::mutex mutex;
    std::condition_variable work, finished;
    std::deque<Block> queue;
    std::vector<std::shared_ptr<File>> files;
    std::unordered_map<uint64_t, std::shared_ptr<Request>> requests;
    uint64_t next = 0;
    bool ending = false;
    std::vector<std::thread> threads;

    void serve() {
        std::unique_lock<std::mutex> lock(mutex);
        for (;;) {
            work.wait(lock, [this] { return ending || !queue.empty(); });
            if (ending) return;
            const Block block = std::move(queue.front());
            queue.pop_front();
            Outcome& outcome = block.request->outcome;
            if (outcome.started == 0) outcome.started = now();
            lock.unlock();
            bool direct;
            const int64_t got = read_block(*block.file, block.offset, block.length, block.out, direct);
            lock.lock();
            if (got < 0) {
                outcome.error = outcome.error ? outcome.error : (int)-got;
            } else if (got < block.length) {
                outcome.got = std::min(outcome.got, block.before + got);
            }
            outcome.direct &= direct;
            if (++block.request->done == block.request->blocks) {
                outcome.ended = now();
                finished.notify_all();
            }
        }
    }
};

Reader::Reader(int threads) : state_(new State) {
    for (int i = 0; i < threads; ++i) state_->threads.emplace_back([this] { state_->serve(); });
}

Reader::~Reader() {
    {
        std::lock_guard<std::mutex> lock(state_->mutex);
        state_->ending = true;
    }
    state_->work.notify_all();
    for (std::thread& thread : state_->threads) thread.join();
}

int Reader::open(const std::string& path, bool direct) {
    auto file = std::make_shared<File>();
    file->plain = open_read_only(path, 0);
    if (file->plain < 0) throw std::system_error(errno, std::generic_category(), path);
#ifdef O_DIRECT
    if (direct) file->direct = open_read_only(path, O_DIRECT);  // -1 where the file system has no such thing
#else
    (void)direct;
#endif
    std::lock_guard<std::mutex> lock(state_->mutex);
    state_->files.push_back(std::move(file));
    return (int)state_->files.size() - 1;
}

uint64_t Reader::submit(int file, int64_t offset, int64_t length, uint8_t* out) {
    auto request = std::make_shared<Request>();
    request->blocks = std::max<int64_t>(1, (length + BLOCK - 1) / BLOCK);
    request->outcome.got = length;
    std::lock_guard<std::mutex> lock(state_->mutex);
    const std::shared_ptr<File>& found = state_->files.at((size_t)file);
    for (int64_t i = 0; i < request->blocks; ++i) {
        const int64_t before = i * BLOCK, part = std::min(BLOCK, length - before);
        state_->queue.push_back({request, found, offset + before, part, out + before, before});
    }
    state_->requests[state_->next] = request;
    request->blocks == 1 ? state_->work.notify_one() : state_->work.notify_all();
    return state_->next++;
}

Outcome Reader::wait(uint64_t number) {
    std::unique_lock<std::mutex> lock(state_->mutex);
    const auto found = state_->requests.find(number);
    if (found == state_->requests.end()) throw std::out_of_range("this request was waited for already");
    const std::shared_ptr<Request> request = found->second;
    state_->finished.wait(lock, [&] { return request->done == request->blocks; });
    state_->requests.erase(number);
    return request->outcome;
}

}  // namespace io
