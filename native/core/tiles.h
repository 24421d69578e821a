// The work of one phase, dealt to threads as they come for it.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "core/wait.h"

namespace octavo {

// Tiles 0 … count - 1. Each thread takes those of its own contiguous share first, so that it reads memory in one
// stream, and then what is left of the others'.
class Tiles {
 public:
  // While no thread takes: deals `count` tiles to `threads`.
  void deal(int64_t count, int threads) {
    if (threads != threads_) shares_ = std::make_unique<Share[]>(threads_ = threads);
    for (int t = 0; t < threads; ++t) {
      shares_[t].next.store(count * t / threads, std::memory_order_relaxed);
      shares_[t].end = count * (t + 1) / threads;
    }
    left_.store(count, std::memory_order_release);
  }

  // The next tile for `thread`, or -1.
  int64_t take(int thread) {
    for (int i = 0; i < threads_; ++i) {
      Share& share = shares_[(thread + i) % threads_];
      if (share.next.load(std::memory_order_relaxed) >= share.end) continue;
      const int64_t tile = share.next.fetch_add(1, std::memory_order_relaxed);
      if (tile < share.end) return tile;
    }
    return -1;
  }

  // Runs body(tile) for the tiles that fall to `thread`; whether it has finished the last one of all.
  template <class F>
  bool work(int thread, F&& body) {
    int64_t finished = 0;
    for (int64_t tile; (tile = take(thread)) >= 0; ++finished) body(tile);
    return finished && left_.fetch_sub(finished, std::memory_order_acq_rel) == finished;
  }

  // Until deal() is called again, there is nothing to take.
  void reset() { left_.store(kNotDealt, std::memory_order_relaxed); }
  void wait_until_dealt() const {
    wait_until([&] { return left_.load(std::memory_order_acquire) != kNotDealt; });
  }

 private:
  static constexpr int64_t kNotDealt = -1;
  struct alignas(64) Share {
    std::atomic<int64_t> next{0};
    int64_t end = 0;
  };
  std::unique_ptr<Share[]> shares_;
  int threads_ = 0;
  alignas(64) std::atomic<int64_t> left_{0};
};

}  // namespace octavo
