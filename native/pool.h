// Threads that wait for chunks of work.
//
// Knows nothing of kernels. Chunks are handed out one by one, so a thread that the system takes its processor
// from delays the others by the chunk that it holds and no more. Idle threads spin briefly, because calls
// follow each other closely, and then sleep: a spinning thread would steal the processor from the one that
// it waits for.
#pragma once
#include <cstddef>
#include <memory>

class Pool {
  public:
    explicit Pool(int threads);
    ~Pool();
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    int threads() const { return threads_; }

    // Held while a kernel runs, so that calls from several Python threads take turns.
    class Turn {
      public:
        explicit Turn(Pool& pool);
        ~Turn();

      private:
        Pool& pool_;
    };

    // work(chunk, thread) for each chunk in [0, count), in any order, on any threads. Call it within a Turn.
    template <class Work>
    void run(ptrdiff_t count, Work&& work) {
        run(
            count, [](void* context, ptrdiff_t chunk, int thread) { (*static_cast<Work*>(context))(chunk, thread); },
            &work);
    }

    // At least so many bytes, aligned to 64, kept until the next call for the same slot. Slots: one for each
    // thread, and slot threads() for what they share. Throws std::bad_alloc.
    void* scratch(int slot, size_t bytes);

    // Floats for the length of a call, counted with what scratch() keeps.
    class Room {
      public:
        Room(Pool& pool, ptrdiff_t floats);
        ~Room();
        Room(const Room&) = delete;
        Room& operator=(const Room&) = delete;
        float* get() const { return floats_.get(); }

      private:
        Pool& pool_;
        size_t bytes_;
        std::unique_ptr<float[]> floats_;
    };

    // Most bytes that were in use at once since the last call of this.
    size_t most_bytes();

  private:
    struct State;
    void count(size_t more, size_t less);
    void run(ptrdiff_t count, void (*work)(void*, ptrdiff_t, int), void* context);

    int threads_;
    State* state_;
    size_t bytes_ = 0, most_ = 0;
};
