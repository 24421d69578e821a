// One pool of threads per process. A job runs on all of them at once (SPMD): each is told its number, and they meet at
// barriers. Inside a job a waiting thread spins, then yields, then sleeps; between jobs it spins for 200 µs, then sleeps,
// so that an idle engine uses no processor.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace octavo {

class ThreadPool {
 public:
  static ThreadPool& instance();

  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return num_threads_; }
  void resize(int num_threads);

  // Runs body(thread) on every thread, the caller being thread 0, and returns when all are done. `body` must not throw.
  template <class F>
  void run(F&& body) {
    auto call = [](void* f, int thread) { (*static_cast<std::remove_reference_t<F>*>(f))(thread); };
    run_job({call, &body});
  }

  // Runs body(i) for i in [0, count): each thread's first is static, the rest go to whoever is free. For a single one
  // nobody is woken.
  template <class F>
  void parallel_for(int64_t count, F&& body) {
    if (count == 1) return body(int64_t{0});
    std::atomic<int64_t> next{num_threads_};
    run([&](int thread) {
      for (int64_t i = thread; i < count; i = next.fetch_add(1, std::memory_order_relaxed)) body(i);
    });
  }

  // Inside a job only: returns once every thread has come here.
  void barrier();

 private:
  struct Job {
    void (*call)(void*, int) = nullptr;
    void* body = nullptr;
  };
  void run_job(Job job);
  void work(int thread, uint32_t seen);
  void start(int num_threads);
  void stop();

  std::mutex one_job_;  // several engines may share the pool; their steps take turns
  std::vector<std::thread> workers_;
  int num_threads_ = 1;
  int owner_ = 0;  // process that started the threads: a forked child has none of them
  Job job_;
  alignas(64) std::atomic<uint32_t> job_number_{0};
  alignas(64) std::atomic<uint32_t> arrived_{0};
  alignas(64) std::atomic<uint32_t> phase_{0};
  alignas(64) std::atomic<uint32_t> sleepers_{0};
  std::atomic<bool> stopping_{false};
};

}  // namespace octavo
