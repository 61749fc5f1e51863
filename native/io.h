// Reads of files that go on beside the computation: by threads of their own, in blocks, past the page cache.
//
// Knows files and memory. Knows nothing of Python or of what is read. Direct reads want offsets, lengths and memory at
// multiples of ALIGNED; where the file system refuses them, or something is not aligned, a read is an ordinary one and
// the pages that it leaves in the cache are dropped.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace io {

constexpr int64_t ALIGNED = 4096;
constexpr int64_t BLOCK = 4 << 20;  // bytes of one read; a request's blocks are read by several threads

// How a request ended. error: an errno, 0 for none. got: bytes from its start that are there (all, unless the file is
// shorter). started, ended: seconds of the monotonic clock. direct: whether every block was read past the page cache.
struct Outcome {
    int error;
    int64_t got;
    double started, ended;
    bool direct;
};

class Reader {
  public:
    explicit Reader(int threads);
    ~Reader();  // what has not begun is left undone; waits for what has
    Reader(const Reader&) = delete;
    Reader& operator=(const Reader&) = delete;

    // A number for a file, which stays open as long as the reader. Throws std::system_error.
    int open(const std::string& path, bool direct);

    // Begin to read `length` bytes at `offset` into `out`, which must stay until `wait` has returned. Requests are
    // begun in the order in which they come.
    uint64_t submit(int file, int64_t offset, int64_t length, uint8_t* out);

    // Wait for a request and forget it. Each may be waited for once.
    Outcome wait(uint64_t request);

  private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace io
