#include "pool.h"

#include <pthread.h>
#ifdef __linux__
#include <sched.h>
#endif

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

namespace {

// Counts forks: a child has none of its parent's threads and must start its own.
std::atomic<int> forks{0};

void count_forks() {
    static const int registered = pthread_atfork(nullptr, nullptr, [] { forks.fetch_add(1); });
    (void)registered;
}

void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("isb");  // "yield" does nothing on most cores
#endif
}

template <class Done>
bool spin_until(Done done, std::chrono::microseconds limit) {
    auto start = std::chrono::steady_clock::now();
    do {
        for (int i = 0; i < 64; ++i) {
            if (done()) return true;
            pause();
        }
    } while (std::chrono::steady_clock::now() - start < limit);
    return false;
}

constexpr std::chrono::microseconds WORKER_SPIN{50};  // covers what Python does between two calls
constexpr std::chrono::microseconds CALLER_SPIN{20};

// Keeps threads off the processor of the thread that they help. Left alone, Linux wakes a thread that has slept a
// while on the processor of its waker, although another is idle, and it waits there for tens of milliseconds.
class Apart {
  public:
#ifdef __linux__
    Apart() { usable_ = sched_getaffinity(0, sizeof allowed_, &allowed_) == 0 && CPU_COUNT(&allowed_) > 1; }

    // A hint: where the system refuses, threads stay where they are.
    void from_here(std::vector<std::thread>& threads) {
        int here = sched_getcpu();
        if (!usable_ || here == home_ || here < 0 || here >= CPU_SETSIZE) return;
        home_ = here;
        cpu_set_t others = allowed_;
        CPU_CLR(here, &others);
        if (CPU_COUNT(&others) == 0) return;
        for (auto& thread : threads) pthread_setaffinity_np(thread.native_handle(), sizeof others, &others);
    }

  private:
    cpu_set_t allowed_;
    bool usable_;
    int home_ = -1;
#else
    void from_here(std::vector<std::thread>&) {}
#endif
};

struct Block {
    void* data = nullptr;
    size_t size = 0;
};

}  // namespace

struct Pool::State {
    std::mutex turn;
    int generation = forks.load();

    // The job. `ticket` holds its number (high half) and how many chunks are still to be claimed (low half). A
    // thread that has claimed a chunk may read the rest, because the job cannot end before that chunk has.
    std::atomic<uint64_t> ticket{0};
    std::atomic<ptrdiff_t> finished{0};
    void (*work)(void*, ptrdiff_t, int) = nullptr;
    void* context = nullptr;
    ptrdiff_t count = 0;

    std::mutex mutex;  // for sleeping only
    std::condition_variable work_ready, work_done;
    std::atomic<int> sleepers{0};
    std::atomic<bool> caller_sleeps{false}, stop{false};

    std::vector<std::thread> workers;
    Apart apart;
    std::vector<Block> blocks;

    explicit State(int threads) : blocks(threads + 1) {
        for (int i = 1; i < threads; ++i) workers.emplace_back([this, i] { serve(i); });
    }

    ~State() {
        {
            std::lock_guard<std::mutex> lock(mutex);
            stop = true;
        }
        work_ready.notify_all();
        for (auto& worker : workers) worker.join();
        for (auto& block : blocks) std::free(block.data);
    }

    bool claimable() const { return (uint32_t)ticket.load() != 0; }

    // Do chunks of whatever job is on until none is left to claim.
    void take_part(int thread) {
        uint64_t seen = ticket.load();
        while ((uint32_t)seen != 0) {
            if (!ticket.compare_exchange_weak(seen, seen - 1)) continue;
            ptrdiff_t total = count;
            work(context, total - (ptrdiff_t)(uint32_t)seen, thread);
            if (finished.fetch_add(1) + 1 == total && caller_sleeps.load()) {
                std::lock_guard<std::mutex> lock(mutex);
                work_done.notify_all();
            }
            seen = ticket.load();
        }
    }

    void serve(int thread) {
        while (!stop.load()) {
            if (!spin_until([this] { return claimable() || stop.load(); }, WORKER_SPIN)) {
                std::unique_lock<std::mutex> lock(mutex);
                sleepers.fetch_add(1);
                work_ready.wait(lock, [this] { return claimable() || stop.load(); });
                sleepers.fetch_sub(1);
            }
            take_part(thread);
        }
    }
};

Pool::Pool(int threads) : threads_(threads) {
    count_forks();
    state_ = new State(threads);
}

Pool::~Pool() {
    if (state_->generation == forks.load()) delete state_;  // in a forked child the threads are not there to join
}

Pool::Turn::Turn(Pool& pool) : pool_(pool) {
    if (pool.state_->generation != forks.load()) pool.state_ = new State(pool.threads_);
    pool.state_->turn.lock();
}

Pool::Turn::~Turn() { pool_.state_->turn.unlock(); }

void Pool::run(ptrdiff_t count, void (*work)(void*, ptrdiff_t, int), void* context) {
    State& s = *state_;
    if (threads_ == 1 || count <= 1) {
        for (ptrdiff_t i = 0; i < count; ++i) work(context, i, 0);
        return;
    }
    s.apart.from_here(s.workers);
    s.work = work;
    s.context = context;
    s.count = count;
    s.finished.store(0);
    s.ticket.store((((s.ticket.load() >> 32) + 1) << 32) | (uint64_t)count);
    if (s.sleepers.load() > 0) {
        std::lock_guard<std::mutex> lock(s.mutex);
        s.work_ready.notify_all();
    }
    s.take_part(0);
    auto all_done = [&s] { return s.finished.load() == s.count; };
    if (spin_until(all_done, CALLER_SPIN)) return;
    std::unique_lock<std::mutex> lock(s.mutex);
    s.caller_sleeps = true;
    s.work_done.wait(lock, all_done);
    s.caller_sleeps = false;
}

void* Pool::scratch(int slot, size_t bytes) {
    Block& block = state_->blocks[slot];
    if (block.size < bytes) {
        std::free(block.data);
        count(0, block.size);
        block = Block{};
        size_t rounded = (bytes + 4095) / 4096 * 4096;
        block.data = std::aligned_alloc(64, rounded);
        if (!block.data) throw std::bad_alloc();
        block.size = rounded;
        count(rounded, 0);
    }
    return block.data;
}

Pool::Room::Room(Pool& pool, ptrdiff_t floats)
    : pool_(pool), bytes_((size_t)floats * sizeof(float)), floats_(new float[(size_t)floats]) {
    pool_.count(bytes_, 0);
}

Pool::Room::~Room() { pool_.count(0, bytes_); }

void Pool::count(size_t more, size_t less) {
    bytes_ += more - less;
    if (bytes_ > most_) most_ = bytes_;
}

size_t Pool::most_bytes() {
    const size_t most = most_;
    most_ = bytes_;
    return most;
}
