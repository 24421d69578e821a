#include "core/thread_pool.h"

#include <unistd.h>

#include "core/wait.h"

namespace octavo {

namespace {

// Python needs some 100 µs from one step to the next.
constexpr auto kSpinBetweenJobs = std::chrono::microseconds(200);

}  // namespace

ThreadPool& ThreadPool::instance() {
  static ThreadPool* pool = new ThreadPool(1);  // never destroyed: its threads may outlive static destructors
  return *pool;
}

ThreadPool::ThreadPool(int num_threads) { start(num_threads); }

ThreadPool::~ThreadPool() { stop(); }

void ThreadPool::resize(int num_threads) {
  std::lock_guard lock(lock_);
  if (num_threads == num_threads_ && owner_ == getpid()) return;
  stop();
  start(num_threads);
}

void ThreadPool::start(int num_threads) {
  num_threads_ = num_threads;
  owner_ = getpid();
  stopping_ = false;
  for (int thread = 1; thread < num_threads; ++thread) workers_.emplace_back([this, thread] { work(thread); });
}

void ThreadPool::stop() {
  if (owner_ != getpid()) {  // forked: the handles name threads of the parent
    for (auto& worker : workers_) new std::thread(std::move(worker));
    workers_.clear();
    inside_ = kClosed;
    sleepers_ = 0;
    return;
  }
  stopping_ = true;
  job_number_.fetch_add(1);
  job_number_.notify_all();
  for (auto& worker : workers_) worker.join();
  workers_.clear();
}

bool ThreadPool::enter() {
  uint32_t inside = inside_.load(std::memory_order_acquire);
  while (!(inside & kClosed))
    if (inside_.compare_exchange_weak(inside, inside + 1, std::memory_order_acq_rel)) return true;
  return false;
}

void ThreadPool::work(int thread) {
  uint32_t seen = 0;
  for (;;) {
    if (!spin_until([&] { return job_number_.load(std::memory_order_acquire) != seen; }, kSpinBetweenJobs)) {
      sleepers_.fetch_add(1, std::memory_order_seq_cst);
      job_number_.wait(seen, std::memory_order_seq_cst);
      sleepers_.fetch_sub(1, std::memory_order_seq_cst);
      continue;
    }
    seen = job_number_.load(std::memory_order_acquire);
    if (stopping_) return;
    if (!enter()) continue;
    seen = job_number_.load(std::memory_order_acquire);  // it may be a later job than the one that woke us
    job_.call(job_.body, thread);
    inside_.fetch_sub(1, std::memory_order_release);
  }
}

void ThreadPool::run_job(Job job) {
  std::lock_guard lock(lock_);
  if (owner_ != getpid()) {
    stop();
    start(num_threads_);
  }
  if (num_threads_ == 1) return job.call(job.body, 0);
  job_ = job;
  inside_.store(0, std::memory_order_release);
  job_number_.fetch_add(1, std::memory_order_seq_cst);
  if (sleepers_.load(std::memory_order_seq_cst) > 0) job_number_.notify_all();
  job.call(job.body, 0);
  inside_.fetch_or(kClosed, std::memory_order_acq_rel);
  wait_until([&] { return inside_.load(std::memory_order_acquire) == kClosed; });
}

}  // namespace octavo
