// One pool of threads per process. A job is entered by its caller and by those workers that come in time: whoever has
// lost its processor to another program holds nobody up, and a worker that wakes late joins in or finds the job closed.
// Work is shared by tiles (core/tiles.h), never by thread number. Between jobs workers spin for 200 µs, then sleep, so
// that an idle engine uses no processor.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

#include "core/tiles.h"

namespace octavo {

// A ticket lock: it is given to whoever has waited longest.
class TicketLock {
 public:
  void lock() {
    std::unique_lock lock(mutex_);
    const uint64_t mine = next_++;
    changed_.wait(lock, [&] { return serving_ == mine; });
  }
  void unlock() {
    std::lock_guard lock(mutex_);
    ++serving_;
    if (next_ != serving_) changed_.notify_all();
  }
  bool is_taken() {
    std::lock_guard lock(mutex_);
    return next_ > serving_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  uint64_t next_ = 0, serving_ = 0;
};

class ThreadPool {
 public:
  static ThreadPool& instance();

  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return num_threads_; }    // of the moment: another thread may resize it
  bool is_busy() { return lock_.is_taken(); }  // whether a job runs, or waits to
  void resize(int num_threads);

  // Runs body(thread) on the caller as thread 0, and on any number of workers, and returns when all that entered have
  // left. `body` must not throw, and must do all there is to do whoever comes.
  template <class F>
  void run(F&& body) {
    auto call = [](void* f, int thread) { (*static_cast<std::remove_reference_t<F>*>(f))(thread); };
    run_job({call, &body});
  }

  // Runs body(i) for i in [0, count). For a single one nobody is woken.
  template <class F>
  void parallel_for(int64_t count, F&& body) {
    if (count == 1) return body(int64_t{0});
    Tiles tiles;
    tiles.deal(count, num_threads_);
    run([&](int thread) {
      for (int64_t i; (i = tiles.take(thread)) >= 0;) body(i);
    });
  }

 private:
  struct Job {
    void (*call)(void*, int) = nullptr;
    void* body = nullptr;
  };
  static constexpr uint32_t kClosed = 1u << 31;

  void run_job(Job job);
  bool enter();
  void work(int thread);
  void start(int num_threads);
  void stop();

  TicketLock lock_;  // several engines may share the pool: their jobs alternate
  std::vector<std::thread> workers_;
  std::atomic<int> num_threads_{1};  // written while `lock_` is held, read at any time
  int owner_ = 0;                    // process that started the threads: a forked child has none of them
  Job job_;
  alignas(64) std::atomic<uint32_t> job_number_{0};
  alignas(64) std::atomic<uint32_t> inside_{kClosed};  // workers in the job, and whether no more may enter
  alignas(64) std::atomic<uint32_t> sleepers_{0};
  std::atomic<bool> stopping_{false};
};

}  // namespace octavo
