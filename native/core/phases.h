// A step on all threads: phases one after another, each a number of tiles that may be computed in any order.
#pragma once

#include <vector>

#include "core/thread_pool.h"
#include "core/tiles.h"

namespace octavo {

class Phases {
 public:
  // Runs phases 0 … count - 1 on `threads` of the pool at most. tiles_of(phase) is asked when all phases before it are
  // over, so it may depend on what those have computed; run(phase, tile, thread) computes a tile, and over(phase,
  // thread) is called when a thread has seen the end of a phase.
  template <class TilesOf, class Run, class Over>
  void run(int count, int threads, TilesOf&& tiles_of, Run&& run, Over&& over) {
    if (static_cast<int>(tiles_.size()) <= count) tiles_ = std::vector<Tiles>(count + 1);
    for (int i = 0; i <= count; ++i) tiles_[i].reset();
    deal(0, count, threads, tiles_of);
    ThreadPool::instance().run([&](int thread) {
      if (thread >= threads) return;  // the pool has grown since the step was planned
      tiles_[0].wait_until_dealt();
      for (int i = 0; i < count; ++i) {
        if (tiles_[i].work(thread, [&](int64_t tile) { run(i, tile, thread); })) deal(i + 1, count, threads, tiles_of);
        tiles_[i + 1].wait_until_dealt();
        over(i, thread);
      }
    });
  }

 private:
  // Whoever ends a phase deals the next one that has tiles. After the last there is one more, without any.
  template <class TilesOf>
  void deal(int phase, int count, int threads, TilesOf&& tiles_of) {
    for (int64_t tiles = 0; tiles == 0 && phase <= count; ++phase) {
      tiles = phase < count ? tiles_of(phase) : 0;
      tiles_[phase].deal(tiles, threads);
    }
  }

  std::vector<Tiles> tiles_;
};

}  // namespace octavo
