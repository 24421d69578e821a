// Products on the tile registers of AMX: eight of up to 16 rows of 64 bytes. Sums lie in four of them, in two rows of
// two blocks of 16 columns, or, of at most 16 rows, in one row of four blocks. Source: Intel's Software Developer's
// Manual, volume 1, chapter 18.
#pragma once

#include "kernels/kernels.h"
#include "kernels/simd.h"

namespace octavo::OCTAVO_ISA {

constexpr int kTile = 16;       // rows of a tile, and columns of one of sums
constexpr int kTileDepth = 32;  // values of a row

// Whether matrices of a type are multiplied on tile registers.
template <class T>
constexpr bool kHasTiles = false;

// c[rows, blocks * 16] (+)= a[rows, k] · b, where b(block, step) is a block of 16 columns of `depth` of k. There are 32
// of them at most, and an even number: what lies between two such borders is one sum.
template <class B>
inline void multiply_tiles(int rows, int blocks, const bf16* a, int64_t a_stride, B&& b, int64_t k, int64_t depth,
                           bool accumulate, float* c, int64_t c_stride);

#ifdef __AMX_BF16__

template <>
constexpr bool kHasTiles<BFloat16> = true;

// The compiler does not know what tile instructions read: here all of it is in memory.
inline void settle(const void* p) { __asm__ volatile("" ::"r"(p) : "memory"); }

// Sums of `rows` rows are tiles 0 to 3, theirs of activations 4 and 5, and weights 6 and 7. `bytes` of k are multiplied
// at once. Whoever configures tiles releases them, or each switch of threads would save them.
struct Tiles {
  Tiles(int rows, int64_t bytes) {
    const int first = rows < kTile ? rows : kTile, second = rows > kTile ? rows - kTile : first;
    alignas(64) uint8_t config[64] = {1};
    const auto set = [&](int tile, int tile_rows, int64_t tile_bytes) {
      config[16 + 2 * tile] = (uint8_t)tile_bytes;
      config[48 + tile] = (uint8_t)tile_rows;
    };
    for (int i = 0; i < 2; ++i) {
      set(i, first, 64);
      set(2 + i, second, 64);
      set(4 + i, i ? second : first, bytes);
      set(6 + i, (int)bytes / 4, 64);
    }
    settle(config);
    _tile_loadconfig(config);
  }
  ~Tiles() { _tile_release(); }
};

// What is multiplied: a[rows, steps * depth] with b(block, step), which are blocks of 16 columns of `depth` rows.
template <class B>
struct TileProduct {
  const bf16* a;
  int64_t a_stride;
  B b;
  int64_t first_step, steps, depth;
  bool accumulate;
  float* c;
  int64_t c_stride;
};

inline void begin_sums(const float* c) {
  settle(c);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
}

// c[up to 32 rows, 32] (+)= a · b
template <class B>
inline void multiply_two_by_two(const TileProduct<B>& p, int row, int block, bool two) {
  const bf16 *a = p.a + row * p.a_stride, *below = a + kTile * p.a_stride;
  float *c = p.c + row * p.c_stride + block * kTile, *c_below = c + kTile * p.c_stride;
  const int64_t a_bytes = p.a_stride * 2, c_bytes = p.c_stride * 4;
  begin_sums(c);
  if (p.accumulate) {
    _tile_loadd(0, c, c_bytes);
    _tile_loadd(2, c_below, c_bytes);
    if (two) {
      _tile_loadd(1, c + kTile, c_bytes);
      _tile_loadd(3, c_below + kTile, c_bytes);
    }
  }
  for (int64_t s = p.first_step; s < p.first_step + p.steps; ++s) {
    _tile_loadd(4, a + s * p.depth, a_bytes);
    _tile_loadd(6, p.b(block, s), 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(5, below + s * p.depth, a_bytes);
    _tile_dpbf16ps(2, 5, 6);
    if (two) {
      _tile_loadd(7, p.b(block + 1, s), 64);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, c, c_bytes);
  _tile_stored(2, c_below, c_bytes);
  if (two) {
    _tile_stored(1, c + kTile, c_bytes);
    _tile_stored(3, c_below + kTile, c_bytes);
  }
}

// c[up to 16 rows, 16 * Blocks] (+)= a · b
template <int Blocks, class B>
inline void multiply_one_by_four(const TileProduct<B>& p, int row, int block) {
  const bf16* a = p.a + row * p.a_stride;
  float* c = p.c + row * p.c_stride + block * kTile;
  const int64_t a_bytes = p.a_stride * 2, c_bytes = p.c_stride * 4;
  begin_sums(c);
  if (p.accumulate) {
    _tile_loadd(0, c, c_bytes);
    if constexpr (Blocks > 1) _tile_loadd(1, c + kTile, c_bytes);
    if constexpr (Blocks > 2) _tile_loadd(2, c + 2 * kTile, c_bytes);
    if constexpr (Blocks > 3) _tile_loadd(3, c + 3 * kTile, c_bytes);
  }
  for (int64_t s = p.first_step; s < p.first_step + p.steps; ++s) {
    _tile_loadd(4, a + s * p.depth, a_bytes);
    _tile_loadd(6, p.b(block, s), 64);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (Blocks > 1) {
      _tile_loadd(7, p.b(block + 1, s), 64);
      _tile_dpbf16ps(1, 4, 7);
    }
    if constexpr (Blocks > 2) {
      _tile_loadd(6, p.b(block + 2, s), 64);
      _tile_dpbf16ps(2, 4, 6);
    }
    if constexpr (Blocks > 3) {
      _tile_loadd(7, p.b(block + 3, s), 64);
      _tile_dpbf16ps(3, 4, 7);
    }
  }
  _tile_stored(0, c, c_bytes);
  if constexpr (Blocks > 1) _tile_stored(1, c + kTile, c_bytes);
  if constexpr (Blocks > 2) _tile_stored(2, c + 2 * kTile, c_bytes);
  if constexpr (Blocks > 3) _tile_stored(3, c + 3 * kTile, c_bytes);
}

template <class B>
inline void multiply_steps(const TileProduct<B>& p, int64_t bytes, int rows, int blocks) {
  const int full = rows / (2 * kTile) * (2 * kTile), rest = rows - full;
  if (full) {
    const Tiles tiles(2 * kTile, bytes);
    for (int j = 0; j < blocks; j += 2)
      for (int row = 0; row < full; row += 2 * kTile) multiply_two_by_two(p, row, j, j + 1 < blocks);
  }
  if (!rest) return;
  const Tiles tiles(rest, bytes);
  if (rest > kTile) {
    for (int j = 0; j < blocks; j += 2) multiply_two_by_two(p, full, j, j + 1 < blocks);
    return;
  }
  for (int j = 0; j < blocks; j += 4)
    with_constant<4>(blocks - j < 4 ? blocks - j : 4, [&]<int Blocks>() { multiply_one_by_four<Blocks>(p, full, j); });
}

template <class B>
inline void multiply_tiles(int rows, int blocks, const bf16* a, int64_t a_stride, B&& b, int64_t k, int64_t depth,
                           bool accumulate, float* c, int64_t c_stride) {
  const int64_t steps = k / depth, rest = (k % depth + 1) / 2 * 2;
  if (steps)
    multiply_steps(TileProduct<B>{a, a_stride, b, 0, steps, depth, accumulate, c, c_stride}, depth * 2, rows, blocks);
  if (rest)
    multiply_steps(TileProduct<B>{a, a_stride, b, steps, 1, depth, accumulate || steps, c, c_stride}, rest * 2, rows,
                   blocks);
}

#endif

}  // namespace octavo::OCTAVO_ISA
