#include "core/thread_pool.h"

#include <unistd.h>

#include <chrono>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace octavo {

namespace {

inline void pause() {
#if defined(__x86_64__)
  _mm_pause();
#else
  std::this_thread::yield();
#endif
}

using Clock = std::chrono::steady_clock;
// Inside a job somebody is about to arrive. Between jobs, Python needs some 100 µs from one step to the next.
constexpr auto kSpinInsideJob = std::chrono::microseconds(50);
constexpr auto kYieldInsideJob = std::chrono::milliseconds(2);
constexpr auto kSpinBetweenJobs = std::chrono::microseconds(200);

// Waits until `value` is no longer `old`: spinning, then giving its time slices away, then asleep.
void wait_while(const std::atomic<uint32_t>& value, uint32_t old, std::atomic<uint32_t>& sleepers,
                Clock::duration spin, Clock::duration yield) {
  const Clock::time_point begin = Clock::now();
  for (Clock::duration waited{0}; waited < spin + yield; waited = Clock::now() - begin) {
    for (int i = 0; i < 64; ++i) {
      if (value.load(std::memory_order_acquire) != old) return;
      pause();
    }
    if (waited > spin) std::this_thread::yield();
  }
  sleepers.fetch_add(1, std::memory_order_seq_cst);
  while (value.load(std::memory_order_seq_cst) == old) value.wait(old, std::memory_order_seq_cst);
  sleepers.fetch_sub(1, std::memory_order_seq_cst);
}

void wake(std::atomic<uint32_t>& value, std::atomic<uint32_t>& sleepers) {
  if (sleepers.load(std::memory_order_seq_cst) > 0) value.notify_all();
}

}  // namespace

ThreadPool& ThreadPool::instance() {
  static ThreadPool* pool = new ThreadPool(1);  // never destroyed: its threads may outlive static destructors
  return *pool;
}

ThreadPool::ThreadPool(int num_threads) { start(num_threads); }

ThreadPool::~ThreadPool() { stop(); }

void ThreadPool::resize(int num_threads) {
  std::lock_guard lock(one_job_);
  if (num_threads == num_threads_ && owner_ == getpid()) return;
  stop();
  start(num_threads);
}

void ThreadPool::start(int num_threads) {
  num_threads_ = num_threads;
  owner_ = getpid();
  stopping_ = false;
  for (int thread = 1; thread < num_threads; ++thread)
    workers_.emplace_back([this, thread, seen = job_number_.load()] { work(thread, seen); });
}

void ThreadPool::stop() {
  if (owner_ != getpid()) {  // forked: the handles name threads of the parent
    for (auto& worker : workers_) new std::thread(std::move(worker));
    workers_.clear();
    arrived_ = sleepers_ = 0;
    return;
  }
  stopping_ = true;
  job_number_.fetch_add(1);
  job_number_.notify_all();
  for (auto& worker : workers_) worker.join();
  workers_.clear();
}

void ThreadPool::work(int thread, uint32_t seen) {
  for (;;) {
    wait_while(job_number_, seen, sleepers_, kSpinBetweenJobs, {});
    seen = job_number_.load(std::memory_order_acquire);
    if (stopping_) return;
    job_.call(job_.body, thread);
    barrier();
  }
}

void ThreadPool::run_job(Job job) {
  std::lock_guard lock(one_job_);
  if (owner_ != getpid()) {
    stop();
    start(num_threads_);
  }
  job_ = job;
  if (num_threads_ > 1) {
    job_number_.fetch_add(1, std::memory_order_seq_cst);
    wake(job_number_, sleepers_);
  }
  job.call(job.body, 0);
  barrier();
}

void ThreadPool::barrier() {
  if (num_threads_ == 1) return;
  const uint32_t phase = phase_.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == static_cast<uint32_t>(num_threads_)) {
    arrived_.store(0, std::memory_order_relaxed);
    phase_.fetch_add(1, std::memory_order_seq_cst);
    wake(phase_, sleepers_);
  } else {
    wait_while(phase_, phase, sleepers_, kSpinInsideJob, kYieldInsideJob);
  }
}

}  // namespace octavo
