// Jobs run, and others ask for the pool's size, while it is resized: ThreadSanitizer says whether that is a race.
#include "core/thread_pool.h"

#include <cstdio>

int main() {
  octavo::ThreadPool pool(2);
  std::atomic<bool> done{false};
  std::atomic<int64_t> sum{0};
  int64_t jobs = 0;
  std::thread resizer([&] {
    for (int i = 0; i < 200; ++i) pool.resize(1 + i % 4);
    done = true;
  });
  for (; !done; ++jobs) pool.parallel_for(8 * pool.size(), [&](int64_t) { sum.fetch_add(1); });
  resizer.join();
  pool.resize(3);
  std::printf("%d %d\n", pool.size(), sum >= 8 * jobs);
}
