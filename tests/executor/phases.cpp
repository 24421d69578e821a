// Phases whose tiles are known only when the phase before is over: ThreadSanitizer says whether that is a race.
#include "core/phases.h"

#include <cstdio>

int main() {
  octavo::ThreadPool::instance().resize(4);
  octavo::Phases phases;
  std::atomic<bool> right{true};
  for (int64_t step = 0; step < 300; ++step) {
    // Phase 0 counts to `step` % 7; phase 1 has as many tiles as it found, none at times; phase 2 has as many as phase
    // 1 has computed and one more; phase 3 has none.
    std::atomic<int64_t> found{0}, computed{0}, last{0};
    int64_t over = 0, tiles[4] = {};
    phases.run(
        4, 1 + static_cast<int>(step % 4),
        [&](int phase) {
          return tiles[phase] = phase == 0 ? step % 7 : phase == 1 ? found.load() : phase == 2 ? computed + 1 : 0;
        },
        [&](int phase, int64_t tile, int) {
          if (tile >= tiles[phase]) right = false;
          (phase == 0 ? found : phase == 1 ? computed : last).fetch_add(1);
        },
        [&](int, int thread) {
          if (thread == 0) ++over;
        });
    right = right && found == step % 7 && computed == found && last == computed + 1 && over == 4;
  }
  std::printf("%s\n", right ? "right" : "wrong");
}
