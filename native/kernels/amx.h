// Products on the tile registers of AMX: eight of up to 16 rows of 64 bytes. Sums lie in four of them, in two rows of two
// blocks of 16 columns, or, of at most 16 rows, in one row of four blocks. Source: Intel's Software Developer's Manual,
// volume 1, chapter 18.
#pragma once

#include "kernels/kernels.h"
#include "kernels/simd.h"

namespace octavo::OCTAVO_ISA {

constexpr int kTile = 16;  // rows of a tile, and columns of one of sums

// The compiler does not know what tile instructions read: here all of it is in memory.
inline void settle(const void* p) { __asm__ volatile("" ::"r"(p) : "memory"); }

// Sums of `rows` rows are tiles 0 to 3, theirs of activations 4 and 5, and weights 6 and 7. `bytes` of k are multiplied at
// once. Whoever configures tiles releases them, or each switch of threads would save them.
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

// c[up to 32 rows, 32] (+)= a · b
inline void multiply_two_by_two(const bf16* a, int64_t a_stride, const bf16* const* b, bool two, int64_t steps,
                                bool accumulate, float* c, int64_t c_stride) {
  const bf16* second = a + kTile * a_stride;
  float* below = c + kTile * c_stride;
  const int64_t a_bytes = a_stride * 2, c_bytes = c_stride * 4;
  settle(c);
  const bf16 *b0 = b[0], *b1 = two ? b[1] : b[0];
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  if (accumulate) {
    _tile_loadd(0, c, c_bytes);
    _tile_loadd(2, below, c_bytes);
    if (two) {
      _tile_loadd(1, c + kTile, c_bytes);
      _tile_loadd(3, below + kTile, c_bytes);
    }
  }
  for (int64_t s = 0; s < steps; ++s) {
    _tile_loadd(4, a + s * 32, a_bytes);
    _tile_loadd(6, b0 + s * 512, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(5, second + s * 32, a_bytes);
    _tile_dpbf16ps(2, 5, 6);
    if (!two) continue;
    _tile_loadd(7, b1 + s * 512, 64);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, c, c_bytes);
  _tile_stored(2, below, c_bytes);
  if (two) {
    _tile_stored(1, c + kTile, c_bytes);
    _tile_stored(3, below + kTile, c_bytes);
  }
}

// c[up to 16 rows, 64] (+)= a · b. Weights are read once, and so fetched ahead.
inline void multiply_one_by_four(const bf16* a, int64_t a_stride, const bf16* const* b, int blocks, int64_t steps,
                                 bool accumulate, float* c, int64_t c_stride) {
  const int64_t a_bytes = a_stride * 2, c_bytes = c_stride * 4;
  settle(c);
  const bf16 *b0 = b[0], *b1 = b[blocks > 1], *b2 = b[blocks > 2 ? 2 : 0], *b3 = b[blocks > 3 ? 3 : 0];
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  if (accumulate) {
    _tile_loadd(0, c, c_bytes);
    if (blocks > 1) _tile_loadd(1, c + kTile, c_bytes);
    if (blocks > 2) _tile_loadd(2, c + 2 * kTile, c_bytes);
    if (blocks > 3) _tile_loadd(3, c + 3 * kTile, c_bytes);
  }
  for (int64_t s = 0; s < steps; ++s) {
    _tile_loadd(4, a + s * 32, a_bytes);
    _tile_loadd(6, b0 + s * 512, 64);
    _tile_dpbf16ps(0, 4, 6);
    if (blocks > 1) {
      _tile_loadd(7, b1 + s * 512, 64);
      _tile_dpbf16ps(1, 4, 7);
    }
    if (blocks > 2) {
      _tile_loadd(6, b2 + s * 512, 64);
      _tile_dpbf16ps(2, 4, 6);
    }
    if (blocks > 3) {
      _tile_loadd(7, b3 + s * 512, 64);
      _tile_dpbf16ps(3, 4, 7);
    }
  }
  _tile_stored(0, c, c_bytes);
  if (blocks > 1) _tile_stored(1, c + kTile, c_bytes);
  if (blocks > 2) _tile_stored(2, c + 2 * kTile, c_bytes);
  if (blocks > 3) _tile_stored(3, c + 3 * kTile, c_bytes);
}

// As multiply_any(), 32 of k at a time from the first on: what lies between two such borders is one sum.
inline void multiply_tiles(int rows, int blocks, const bf16* a, int64_t a_stride, const bf16* const* b, int64_t k,
                           bool accumulate, float* c, int64_t c_stride) {
  const int64_t steps = k / 32, rest = k % 32;
  const auto multiply = [&](int64_t at, int64_t count, int64_t width_of_k, bool more) {
    for (int row = 0; row < rows; row += 2 * kTile) {
      const int now = rows - row < 2 * kTile ? rows - row : 2 * kTile, width = now > kTile ? 2 : 4;
      const Tiles tiles(now, width_of_k * 2);
      for (int j = 0; j < blocks; j += width) {
        const int some = blocks - j < width ? blocks - j : width;
        const bf16* from[4];
        for (int i = 0; i < some; ++i) from[i] = b[j + i] + at * kTile;
        const bf16* x = a + row * a_stride + at;
        float* sums = c + row * c_stride + j * kTile;
        if (now > kTile)
          multiply_two_by_two(x, a_stride, from, some == 2, count, more, sums, c_stride);
        else
          multiply_one_by_four(x, a_stride, from, some, count, more, sums, c_stride);
      }
    }
  };
  if (steps) multiply(0, steps, 32, accumulate);
  if (rest) multiply(steps * 32, 1, rest, accumulate || steps);
}

}  // namespace octavo::OCTAVO_ISA
