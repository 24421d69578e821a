// Matrix products over quantized weights. Activations are quantized too, in groups of at most as many values, so that a
// group's sum is one of integers: exact, whatever computes it. Groups are summed in float32 in rising order, so results
// do not depend on the batch.
#pragma once

#include "kernels/matmul.h"
#include "kernels/quantized_layout.h"
#include "kernels/simd.h"

namespace octavo::OCTAVO_ISA {

constexpr int kPrefetch = 4096;  // bytes before values are read
constexpr int kVectors = kUnit / 4;

template <QuantizedLayout L>
inline void unpack(const uint8_t* p, U8* b) {
  for (int i = 0; i < kVectors * L.bits / 8; ++i) {
    const U8 x = load(p + 64 * i);
    b[i] = L.bits == 4 ? low_nibbles(x) : x;
    if (L.bits == 4) b[i + kVectors / 2] = high_nibbles(x);
    __builtin_prefetch(p + 64 * i + kPrefetch);
  }
}

// The scales of 16 rows' group `g`, and its minima.
template <QuantizedLayout L>
inline F32 scale_of(const uint8_t* block, int64_t g) {
  const uint8_t* p = block + L.scale_at(g);
  if (L.is_by_channel()) return load((const float*)block);
  if (!L.has_sub_scales()) return L.wide ? load((const float*)p) : load_halves((const uint16_t*)p);
  const F32 factor = L.has_minimum() ? to_floats(p) : to_floats((const int8_t*)p);
  return load_halves((const uint16_t*)(block + L.head_at(g))) * factor;
}

template <QuantizedLayout L>
inline F32 minimum_of(const uint8_t* block, int64_t g) {
  const uint8_t* p = block + L.scale_at(g) + L.scale_bytes() / 2;
  if (!L.has_minimum()) return zero();
  if (!L.has_sub_scales()) return L.wide ? load((const float*)p) : load_halves((const uint16_t*)p);
  return zero() - load_halves((const uint16_t*)(block + L.head_at(g) + 32)) * to_floats(p);
}

// c[Rows, 16] = a[Rows, k] times 16 rows of weights.
template <QuantizedLayout L, int Rows>
inline void multiply_quantized(const int8_t* a, int64_t a_stride, const uint8_t* block, int64_t k, float* c,
                               int64_t c_stride) {
  constexpr int kSums = kUnit / L.sums();
  const uint8_t* values = block + L.values_at(k);
  const auto* sums = (const GroupSums*)(a + k * L.bytes());
  F32 total[Rows];
  for (int r = 0; r < Rows; ++r) total[r] = zero();
  for (int64_t unit = 0; unit < k / kUnit; ++unit, values += L.unit_bytes()) {
    U8 b[kVectors];
    unpack<L>(values, b);
#pragma GCC unroll 2
    for (int part = 0; part < kSums; ++part) {
      const int64_t g = unit * kSums + part;
      const F32 scale = scale_of<L>(block, g * L.sums() / L.group);
      const F32 minimum = minimum_of<L>(block, g * L.sums() / L.group);
#pragma GCC unroll 8
      for (int r = 0; r < Rows; ++r) {
        const auto& of_row = *(const GroupSums*)((const char*)(sums + g) + r * a_stride);
        const int8_t* x = a + r * a_stride + g * L.sums() * L.bytes();
        I32 sum = set1_int(of_row.start), high = set1_int(0);
        for (int v = 0; v < L.sums() / 4; ++v) {
          const U8 values = b[part * kVectors / kSums + v];
          if (L.bytes() == 2) high = dot<L.bits == 4>(high, values, x + 4 * v);
          sum = dot<L.bits == 4>(sum, values, x + 4 * v + (L.bytes() - 1) * L.sums());
        }
        if (L.bytes() == 2) sum = sum + times_eight(high);
        const F32 factor = set1(of_row.scale);
        total[r] = fma(to_floats(sum), L.is_by_channel() ? factor : scale * factor, total[r]);
        if (L.has_minimum()) total[r] = fma(minimum, set1(of_row.sum), total[r]);
      }
    }
  }
  for (int r = 0; r < Rows; ++r)
    store(c + r * c_stride, L.is_by_channel() ? total[r] * scale_of<L>(block, 0) : total[r]);
}

}  // namespace octavo::OCTAVO_ISA

#ifdef __AMX_INT8__
#include "kernels/quantized_amx.h"
#endif

namespace octavo::OCTAVO_ISA {

// c[rows, Blocks * 16] = a times 16 rows of weights each.
template <QuantizedLayout L, int Blocks>
inline void multiply_rows(int rows, const int8_t* a, int64_t a_stride, const uint8_t* block, int64_t k, float* c,
                          int64_t c_stride) {
  int done = 0;
#ifdef __AMX_INT8__
  done = multiply_quantized_tiles<L, Blocks>(rows, a, a_stride, block, k, c, c_stride);
#endif
  for (int j = 0; j < Blocks; ++j, block += L.block_bytes(k), c += kLanes) {
    int groups = (rows - done + kRowsAtOnce - 1) / kRowsAtOnce;
    for (int row = done, now; row < rows; row += now, --groups) {
      now = (rows - row + groups - 1) / groups;
      with_constant<kRowsAtOnce>(now, [&]<int Rows>() {
        multiply_quantized<L, Rows>(a + row * a_stride, a_stride, block, k, c + row * c_stride, c_stride);
      });
    }
  }
}

// Tiles as those of matmul().
template <QuantizedLayout L>
void matmul_quantized(const Matmul& m, int row_begin, int row_end, int block_begin, int block_end, float* scratch) {
  const int rows = row_end - row_begin, blocks = block_end - block_begin;
  const auto* a = (const int8_t*)m.a + row_begin * m.a_stride;
  const auto* weights = (const uint8_t*)m.weight + block_begin * L.block_bytes(m.k);
  for (int j = 0; j < blocks; j += 2)
    with_constant<2>(blocks - j < 2 ? 1 : 2, [&]<int Blocks>() {
      multiply_rows<L, Blocks>(rows, a, m.a_stride, weights + j * L.block_bytes(m.k), m.k, scratch + j * kLanes,
                               blocks * kLanes);
    });
  for (int r = 0; r < rows; ++r) finish(m, row_begin + r, block_begin, blocks, scratch + r * blocks * kLanes);
}

// Rounds x[0, L.sums()) to integers of which the largest is L.top(), and takes their sum; values from `n` on are zeros.
// NaN and infinity make the scale NaN, and so every sum of the group.
template <class T, QuantizedLayout L>
inline GroupSums quantize_group(const typename T::Value* x, int64_t n, int8_t* out) {
  F32 v[L.sums() / kLanes], largest = zero(), probe = zero();
  for (int i = 0; i < L.sums() / kLanes; ++i) {
    v[i] = i * kLanes < n ? T::load16(x + i * kLanes) : zero();
    largest = max(largest, max(v[i], zero() - v[i]));
    probe = fma(v[i], zero(), probe);
  }
  const float top = reduce_max(largest);
  const F32 factor = set1(top > 0 ? L.top() / top : 0);
  F32 sum = zero();
  for (int i = 0; i < L.sums() / kLanes; ++i) {
    const F32 rounded = round(v[i] * factor);
    sum = sum + rounded;
    if (L.bytes() == 1) {
      store_rounded(out + i * kLanes, rounded);
      continue;
    }
    const F32 high = round(rounded * set1(0.125f));
    store_rounded(out + i * kLanes, high);
    store_rounded(out + i * kLanes + L.sums(), fma(high, set1(-8), rounded));
  }
  const float scale = top / L.top() + reduce_add(probe), whole = reduce_add(sum);
  return {scale, scale * whole, -L.offset() * (int32_t)(whole == whole ? whole : 0)};
}

// Rows of activations are padded to 16 columns with zeros, and here to k, which is a multiple of kUnit.
template <class T, QuantizedLayout L>
void quantize_row(const void* x, int64_t columns, int64_t k, void* out) {
  auto* values = (int8_t*)out;
  auto* sums = (GroupSums*)(values + k * L.bytes());
  for (int64_t i = 0; i < k; i += L.sums())
    *sums++ = quantize_group<T, L>((const typename T::Value*)x + i, columns - i, values + i * L.bytes());
}

// Row `id` in float32: kUnit columns at a time, all 16 rows' scales with them.
template <QuantizedLayout L>
void read_quantized_row(const void* weight, int64_t k, int64_t id, int64_t columns, float* out) {
  const auto* block = (const uint8_t*)weight + id / kLanes * L.block_bytes(k);
  const int64_t row = id % kLanes;
  float scale[kLanes], minimum[kLanes];
  for (int64_t i = 0; i < columns; ++i) {
    if (i % L.sums() == 0) {
      store(scale, scale_of<L>(block, i / L.group));
      store(minimum, minimum_of<L>(block, i / L.group));
    }
    const uint8_t* unit = block + L.values_at(k) + i / kUnit * L.unit_bytes();
    const int64_t e = i % kUnit, word = L.bits == 4 ? e % 16 / 4 : e / 4;
    const uint8_t byte = unit[word * 64 + row * 4 + e % 4];
    const int q = (L.bits == 8 ? byte : e < 16 ? byte & 15 : byte >> 4) - L.offset();
    out[i] = scale[row] * (float)q + minimum[row];
  }
}

template <QuantizedLayout L>
constexpr MatrixKernels quantized(const char* name) {
  return {.layout = name,
          .pack = kUnit,
          .matmul = matmul_quantized<L>,
          .read_row = read_quantized_row<L>,
          .quantize = {quantize_row<Float32, L>, quantize_row<BFloat16, L>},
          .columns_of_a_sum = L.sums(),
          .bytes_of_a_value = L.bytes()};
}

}  // namespace octavo::OCTAVO_ISA
