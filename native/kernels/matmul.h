// Matrix products over packed weights. One register tile serves decode, prefill, attention scores and attention sums.
#pragma once

#include "kernels/activations.h"
#include "kernels/amx.h"
#include "kernels/kernels.h"
#include "kernels/simd.h"

namespace octavo::OCTAVO_ISA {

// Two streams of weights that will be wanted soon: each step of a multiplication fetches a cache line of both.
template <class T>
struct Ahead {
  const typename T::Value* stream[2];
};

// c[Rows, Blocks * 16] (+)= a[Rows, steps * kPack] · b, where b[j] is the j-th block of 16 columns. Each element is one
// chain of sums over k; storing a chain to c and taking it up again changes no bit.
template <class T, int Rows, int Blocks>
inline void multiply(const typename T::Value* a, int64_t a_stride, const typename T::Value* const* b, int64_t steps,
                     bool accumulate, float* c, int64_t c_stride, const Ahead<T>* ahead = nullptr) {
  constexpr int kStep = kLanes * T::kPack;
  F32 sum[Rows][Blocks];
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 8
    for (int j = 0; j < Blocks; ++j) sum[r][j] = accumulate ? load(c + r * c_stride + j * kLanes) : zero();
  const auto* soon0 = ahead ? ahead->stream[0] : b[0];
  const auto* soon1 = ahead ? ahead->stream[1] : b[0];
  for (int64_t s = 0; s < steps; ++s) {
    if constexpr (Rows > 1) {
      __builtin_prefetch(soon0 + s * kStep, 0, 2);
      __builtin_prefetch(soon1 + s * kStep, 0, 2);
    }
#pragma GCC unroll 8
    for (int j = 0; j < Blocks; ++j) {
      const auto* block = b[j] + s * kStep;
#pragma GCC unroll 8
      for (int r = 0; r < Rows; ++r) sum[r][j] = T::dot(sum[r][j], a + r * a_stride + s * T::kPack, block);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 8
    for (int j = 0; j < Blocks; ++j) store(c + r * c_stride + j * kLanes, sum[r][j]);
}

template <class T, int Rows>
inline void multiply_blocks(int blocks, const typename T::Value* a, int64_t a_stride, const typename T::Value* const* b,
                            int64_t steps, bool accumulate, float* c, int64_t c_stride, const Ahead<T>* ahead) {
  constexpr int kBlocks = Rows == 1 ? kWideBlocks : kTileBlocks;
  while (blocks > 0) {
    int now = blocks < kBlocks ? blocks : kBlocks;
    if constexpr (kBlocks == 8) {
      if (now == 8)
        multiply<T, Rows, 8>(a, a_stride, b, steps, accumulate, c, c_stride, ahead);
      else if (now >= 6)
        multiply<T, Rows, 6>(a, a_stride, b, steps, accumulate, c, c_stride, ahead), now = 6;
      else if (now == 5)
        now = 4;
    }
    if constexpr (kBlocks >= 4) {
      if (now == 4)
        multiply<T, Rows, 4>(a, a_stride, b, steps, accumulate, c, c_stride, ahead);
      else if (now == 3)
        multiply<T, Rows, 3>(a, a_stride, b, steps, accumulate, c, c_stride, ahead);
    }
    if constexpr (kBlocks >= 2) {
      if (now == 2) multiply<T, Rows, 2>(a, a_stride, b, steps, accumulate, c, c_stride, ahead);
    }
    if (now == 1) multiply<T, Rows, 1>(a, a_stride, b, steps, accumulate, c, c_stride, ahead);
    b += now;
    c += now * kLanes;
    blocks -= now;
  }
}

// The same for any number of rows and blocks: rows are dealt into even groups of at most kTileRows. Group i fetches the
// streams of ahead[i], if i < num_ahead.
template <class T>
inline void multiply_any(int rows, int blocks, const typename T::Value* a, int64_t a_stride,
                         const typename T::Value* const* b, int64_t steps, bool accumulate, float* c, int64_t c_stride,
                         const Ahead<T>* all_ahead = nullptr, int num_ahead = 0) {
  int groups = (rows + kTileRows - 1) / kTileRows;
  for (int group = 0; rows > 0; ++group) {
    const Ahead<T>* ahead = group < num_ahead ? &all_ahead[group] : nullptr;
    const int now = (rows + groups - 1) / groups;
    with_constant<kTileRows>(now, [&]<int Rows>() {
      multiply_blocks<T, Rows>(blocks, a, a_stride, b, steps, accumulate, c, c_stride, ahead);
    });
    a += now * a_stride;
    c += now * c_stride;
    rows -= now;
    --groups;
  }
}

// Row `id` of a packed matrix: a table is kept once, in the layout that the output projection reads.
template <class T>
void read_row(const void* weight, int64_t k, int64_t id, int64_t columns, float* out) {
  const auto* row = static_cast<const typename T::Value*>(weight) + id / kLanes * k * kLanes + id % kLanes * T::kPack;
  for (int64_t i = 0; i < columns; ++i) out[i] = to_float(row[i / T::kPack * kLanes * T::kPack + i % T::kPack]);
}

inline void store_element(const Matmul& m, int row, int64_t column, F32 x) {
  const int64_t at = row * m.out_stride + column;
  if (m.element == DType::kFloat32)
    store(static_cast<float*>(m.out) + at, x);
  else
    store_bf16(static_cast<bf16*>(m.out) + at, x);
}

inline void finish(const Matmul& m, int row, int block, int blocks, const float* c) {
  const Activation activation = m.activation;
  if (m.epilogue == Epilogue::kGlu) {
    for (int j = 0; j + 1 < blocks; j += 2) {
      F32 gate = load(c + j * kLanes), up = load(c + (j + 1) * kLanes);
      if (m.bias) {
        gate = gate + load(m.bias + (block + j) * kLanes);
        up = up + load(m.bias + (block + j + 1) * kLanes);
      }
      store_element(m, row, (block + j) / 2 * kLanes, glu(activation, gate, up));
    }
    return;
  }
  const int out_row = m.out_rows ? m.out_rows[row] : row;
  const float factor = m.row_factors ? m.row_factors[row] : m.factor;
  for (int j = 0; j < blocks; ++j) {
    const int64_t column = (block + j) * kLanes;
    F32 x = load(c + j * kLanes);
    if (m.bias) x = x + load(m.bias + column);
    if (m.epilogue == Epilogue::kStore) {
      store_element(m, row, column, activate(activation, x));
      continue;
    }
    if (factor != 1) x = x * set1(factor);
    if (m.cap > 0) x = softcap(x, m.cap);
    float* out = static_cast<float*>(m.out) + out_row * m.out_stride + column;
    store(out, m.epilogue == Epilogue::kAdd ? load(out) + x : x);
  }
}

// At most kMaxMatmulRows rows and kMaxMatmulBlocks blocks, or one row and kWideBlocks; kGlu wants block_begin even
// and both blocks of a pair.
template <class T>
void matmul(const Matmul& m, int row_begin, int row_end, int block_begin, int block_end, float* scratch) {
  using Value = typename T::Value;
  constexpr int64_t kSlice = 288;  // of k: a panel of weights stays in cache while all rows pass
  const int rows = row_end - row_begin, blocks = block_end - block_begin;
  const int64_t c_stride = blocks * kLanes;
  const Value* a = static_cast<const Value*>(m.a) + row_begin * m.a_stride;
  const auto block_at = [&](int block, int64_t k) {
    return static_cast<const Value*>(m.weight) + (block * m.k + k) * kLanes;
  };
  for (int64_t k = 0; k < m.k; k += kSlice) {
    const int64_t slice = m.k - k < kSlice ? m.k - k : kSlice;
    const Value* b[kWideBlocks];
    for (int j = 0; j < blocks; ++j) b[j] = block_at(block_begin + j, k);
    if constexpr (kHasTiles<T>) {
      const auto tile = [&](int block, int64_t step) { return b[block] + step * kTileDepth * kLanes; };
      multiply_tiles(rows, blocks, a + k, m.a_stride, tile, slice, kTileDepth, k > 0, scratch, c_stride);
      continue;
    }
    // What comes next is the panel's next slice, or the next panel's first: memory works while we compute.
    Ahead<T> ahead[kWideBlocks / 2];
    const bool same_panel = k + kSlice < m.k;
    int num_ahead = 0;
    for (int j = same_panel ? block_begin : block_end; num_ahead < blocks / 2 && row_begin == 0; ++num_ahead, j += 2) {
      if (!same_panel && j + 1 >= m.blocks) break;
      const int64_t next = same_panel ? k + kSlice : 0;
      ahead[num_ahead] = {{block_at(j, next), block_at(j + 1, next)}};
    }
    multiply_any<T>(rows, blocks, a + k, m.a_stride, b, slice / T::kPack, k > 0, scratch, c_stride, ahead, num_ahead);
  }
  for (int r = 0; r < rows; ++r) finish(m, row_begin + r, block_begin, blocks, scratch + r * c_stride);
}

}  // namespace octavo::OCTAVO_ISA
