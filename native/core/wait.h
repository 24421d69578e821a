// Waiting for other threads: spinning first, since what is waited for is mostly about to happen.
#pragma once

#include <chrono>
#include <thread>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace octavo {

inline void pause() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

// Looks at ready() for at most `span`; whether it came true.
template <class Ready>
bool spin_until(Ready ready, std::chrono::steady_clock::duration span) {
  const auto begin = std::chrono::steady_clock::now();
  do {
    for (int i = 0; i < 64; ++i) {
      if (ready()) return true;
      pause();
    }
  } while (std::chrono::steady_clock::now() - begin < span);
  return false;
}

// Spins for 50 µs; then whoever is waited for may need this processor, so its time is given away, from 2 ms on in naps.
template <class Ready>
void wait_until(Ready ready) {
  if (spin_until(ready, std::chrono::microseconds(50))) return;
  const auto begin = std::chrono::steady_clock::now();
  while (!ready()) {
    if (std::chrono::steady_clock::now() - begin < std::chrono::milliseconds(2))
      std::this_thread::yield();
    else
      std::this_thread::sleep_for(std::chrono::microseconds(50));
  }
}

}  // namespace octavo
