// Quantized matrices: rows of stored formats that are made of the same numbers, rearranged; or any rows, as int8.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/quantized_layout.h"
#include "layouts/interleave.h"
#include "layouts/matrix.h"

namespace octavo {

namespace {

constexpr int kChunk = 256;  // columns that are rearranged at once: a whole number of blocks and units

// Codes of 16 rows. Those that are padding are zero.
struct ChunkOfCodes {
  alignas(16) uint8_t rows[16][kChunk] = {};
};

// The bits above the nibbles of all words that are in line `line`.
template <int bits>
uint32_t above_nibbles(const uint8_t* codes, int line) {
  constexpr int kWords = 8 / bits;
  uint32_t words[kWords], found = 0;
  std::memcpy(words, codes + line * sizeof words, sizeof words);
  for (int i = 0; i < kWords; ++i) found |= (words[i] >> 4 & 0x01010101u * ((1 << bits) - 1)) << i * bits;
  return found;
}

// Units of `chunk`, whose first column is `first`.
template <QuantizedLayout L>
void put_codes(const ChunkOfCodes& chunk, int64_t first, int64_t k, uint8_t* out) {
  auto* to = reinterpret_cast<uint32_t*>(out + L.values_at(k) + first / kUnit * L.unit_bytes());
  for (int64_t at = 0; at < kChunk && first + at < k; at += kUnit, to += L.unit_bytes() / 4) {
    Words left[16], right[16];
    for (int row = 0; row < 16; ++row) {
      left[row] = words_at(chunk.rows[row] + at), right[row] = words_at(chunk.rows[row] + at + kUnit / 2);
      if (L.bits < 8) left[row] = (left[row] & 0x0f0f0f0f) | (right[row] & 0x0f0f0f0f) << 4;
      if constexpr (L.bits == 5 || L.bits == 6)
        for (int line = 0; line < L.bits - 4; ++line)
          to[16 * (4 + line) + row] = above_nibbles<L.bits - 4>(chunk.rows[row] + at, line);
    }
    put_lines(left, to);
    if (L.bits == 8) put_lines(right, to + 64);
  }
}

// The scales of a block of one of 16 rows.
template <QuantizedLayout L>
void put_scales(const Format& format, const Quants& x, int64_t first, int row, uint8_t* out) {
  constexpr int kBytes = L.wide ? 4 : 2;
  for (int g = 0; g < format.block / format.group; ++g) {
    uint8_t* scale = out + L.scale_at(first / format.group + g);
    if (L.has_sub_scales()) {
      scale[row] = x.scale[g];
      if (L.has_minimum()) scale[16 + row] = x.minimum[g];
    }
    if (L.has_sub_scales()) scale = out + L.head_at(first / format.group + g);
    std::memcpy(scale + kBytes * row, &x.d[L.has_sub_scales() ? 0 : g], kBytes);
    if (L.has_minimum()) std::memcpy(scale + kBytes * (16 + row), &x.m, kBytes);
  }
}

// Kernels take all codes for numbers: where one is not, the scale says so.
void look_for_nan(const Format& format, Quants& x) {
  if (format.codes != Codes::kE4m3) return;
  bool found = false;
  for (int i = 0; i < format.block; ++i) found |= (x.q[i] & 127) == 127;
  if (found) x.d[0] = std::bit_cast<uint32_t>(std::numeric_limits<float>::quiet_NaN());
}

// The integers that codes of 16 rows stand for: rows of one matrix, so they are the same.
template <QuantizedLayout L>
void put_table(const RowAt& row, int64_t k, uint8_t* out) {
  const int8_t* integers = integers_of(row.source->format->codes);
  for (int i = 0; i < 64; ++i) out[L.values_at(k) - 64 + i] = static_cast<uint8_t>(integers[i % 16] + L.offset());
}

// Codes of integers get the layout's offset.
template <QuantizedLayout L>
void rearrange(const RowAt* rows, int64_t k, uint8_t* out) {
  const Format& format = *rows[0].source->format;
  const uint8_t shift = L.by_table || L.has_minimum() ? 0 : static_cast<uint8_t>(L.offset() - format.offset);
  const uint8_t* from[16];
  for (int row = 0; row < 16; ++row) from[row] = rows[row].source ? rows[row].bytes() : nullptr;
  ChunkOfCodes chunk;
  for (int64_t first = 0; first < k; first += kChunk) {
    const int64_t columns = std::min<int64_t>(k - first, kChunk);
    for (int row = 0; row < 16 && from[row]; ++row) {
      uint8_t* codes = chunk.rows[row];
      for (int64_t at = 0; at < columns; at += format.block, from[row] += format.bytes) {
        Quants x{.q = codes + at};
        format.read(from[row], x);
        look_for_nan(format, x);
        put_scales<L>(format, x, first + at, row, out);
      }
      for (int64_t i = 0; shift && i < columns; ++i) codes[i] += shift;
      std::fill(codes + columns, codes + kChunk, 0);
    }
    put_codes<L>(chunk, first, k, out);
  }
  if (L.by_table) put_table<L>(rows[0], k, out);
}

// Formats whose numbers fit: of the same scaling and group, and of the same codes, or of codes for integers.
template <QuantizedLayout L>
bool holds(const Format& format) {
  const int bits = std::max(format.bits, 4);
  return format.scaling == L.scaling && format.group == L.group && format.wide == L.wide && bits == L.bits &&
         (L.by_table ? integers_of(format.codes) != nullptr : format.codes == L.codes);
}

template <QuantizedLayout L>
constexpr Layout quantized(const char* name, PackRows pack = nullptr) {
  return {
      name, [](int64_t k) { return L.block_bytes(k); }, pack, rearrange<L>, holds<L>, L.group > kUnit ? L.group : 1};
}

// Decoded rows, float32 [16][k], zero where there is padding; valid until the next call on this thread.
struct Decoded {
  const float* rows[16];

  Decoded(const RowAt* from, int64_t k, int64_t padded) {
    thread_local std::vector<float> values;
    values.assign(16 * padded, 0);
    for (int row = 0; row < 16; ++row) {
      rows[row] = &values[row * padded];
      if (from[row].source) from[row].decode(&values[row * padded]);
    }
  }
};

// Any rows, in 4 bits.
void quantize_groups(const RowAt* rows, int64_t k, uint8_t* out) {
  constexpr QuantizedLayout L = kUint4G32;
  const Decoded values(rows, k, round_up(k, kUnit));
  ChunkOfCodes chunk;
  for (int64_t first = 0; first < k; first += kChunk) {
    for (int64_t at = 0; at < kChunk && first + at < k; at += kUnit) {
      alignas(64) uint32_t columns[kUnit * 16];
      uint8_t q[kUnit * 16];
      const void* from[16];
      for (int row = 0; row < 16; ++row) from[row] = values.rows[row] + first + at;
      interleave(from, kUnit, columns);
      auto* scale = reinterpret_cast<uint16_t*>(out + L.scale_at((first + at) / kUnit));
      kernels().quantize_affine(reinterpret_cast<const float*>(columns), q, scale, scale + 16);
      for (int row = 0; row < 16; ++row)
        for (int i = 0; i < kUnit; ++i) chunk.rows[row][at + i] = q[i * 16 + row];
    }
    put_codes<L>(chunk, first, k, out);
  }
}

// The largest size of values, or NaN where one is not finite.
float largest_of(const float* x, int64_t count) {
  int32_t top = 0;  // sizes are ordered as their bits are
  for (int64_t i = 0; i < count; ++i) top = std::max(top, std::bit_cast<int32_t>(x[i]) & INT32_MAX);
  const float largest = std::bit_cast<float>(top);
  return std::isfinite(largest) ? largest : std::numeric_limits<float>::quiet_NaN();
}

// Any rows, in 8-bit floats of which the largest of a group is 448.
template <QuantizedLayout L>
void quantize_floats(const RowAt* rows, int64_t k, uint8_t* out) {
  const int64_t padded = round_up(k, L.group);
  const Decoded values(rows, k, padded);
  ChunkOfCodes chunk;
  for (int64_t first = 0; first < padded; first += kChunk) {
    for (int row = 0; row < 16; ++row) {
      for (int64_t at = 0; at < kChunk && first + at < padded; at += L.group) {
        const float* x = values.rows[row] + first + at;
        const float top = largest_of(x, L.group), scale = top / 448, factor = top > kTiny ? 448 / top : 0;
        for (int i = 0; i < L.group; ++i) chunk.rows[row][at + i] = to_e4m3(factor > 0 ? x[i] * factor : 0);
        std::memcpy(out + L.scale_at((first + at) / L.group) + 4 * row, &scale, sizeof scale);
      }
    }
    put_codes<L>(chunk, first, k, out);
  }
}

// Any rows, each with the scale that takes its largest value to 127 or -127; NaN where a value is not finite.
void quantize_channels(const RowAt* rows, int64_t k, uint8_t* out) {
  const Decoded values(rows, k, round_up(k, kChunk));
  auto* scales = reinterpret_cast<float*>(out);
  float factors[16];
  for (int row = 0; row < 16; ++row) {
    const float top = largest_of(values.rows[row], k);
    scales[row] = top / 127, factors[row] = top > kTiny ? 127 / top : 0;
  }
  ChunkOfCodes chunk;
  for (int64_t first = 0; first < k; first += kChunk) {
    for (int row = 0; row < 16; ++row)
      for (int64_t i = 0; i < kChunk; ++i) {
        const float rounded = factors[row] > 0 ? values.rows[row][first + i] * factors[row] + kInteger : kInteger;
        chunk.rows[row][i] = static_cast<uint8_t>(std::bit_cast<uint32_t>(rounded)) ^ 128;
      }
    put_codes<kInt8>(chunk, first, k, out);
  }
}

// Rows of integers that have such a scale already.
void move_channels(const RowAt* rows, int64_t k, uint8_t* out) {
  ChunkOfCodes chunk;
  for (int row = 0; row < 16; ++row)
    if (rows[row].source) reinterpret_cast<float*>(out)[row] = rows[row].scale();
  for (int64_t first = 0; first < k; first += kChunk) {
    const int64_t columns = std::min<int64_t>(k - first, kChunk);
    for (int row = 0; row < 16 && rows[row].source; ++row) {
      const uint8_t* q = rows[row].bytes() + first;
      for (int64_t i = 0; i < columns; ++i) chunk.rows[row][i] = q[i] ^ 128;
      std::fill(chunk.rows[row] + columns, chunk.rows[row] + kChunk, 0);
    }
    put_codes<kInt8>(chunk, first, k, out);
  }
}

const RegisterLayout registered[] = {
    Layout{"int8", [](int64_t k) { return kInt8.block_bytes(k); }, quantize_channels, move_channels,
           [](const Format& format) { return format.scaling == Scaling::kChannel; }},
    quantized<kInt4G32>("int4_g32"),
    quantized<kInt5G32>("int5_g32"),
    quantized<kInt8G32>("int8_g32"),
    quantized<kUint4G32>("uint4_g32", quantize_groups),
    quantized<kUint5G32>("uint5_g32"),
    quantized<kInt4K16>("int4_k16"),
    quantized<kInt6K16>("int6_k16"),
    quantized<kUint4K16>("uint4_k16"),
    quantized<kUint4K32>("uint4_k32"),
    quantized<kUint5K32>("uint5_k32"),
    quantized<kTable4G16>("table4_g16"),
    quantized<kTable4G32>("table4_g32"),
    quantized<kTable4K16>("table4_k16"),
    quantized<kTable4K32>("table4_k32"),
    quantized<kAffine4G32>("affine4_g32"),
    quantized<kAffine4G64>("affine4_g64"),
    quantized<kAffine4G128>("affine4_g128"),
    quantized<kAffine8G32>("affine8_g32"),
    quantized<kAffine8G64>("affine8_g64"),
    quantized<kAffine8G128>("affine8_g128"),
    quantized<kE4m3G32>("e4m3_g32", quantize_floats<kE4m3G32>),
    quantized<kE4m3G64>("e4m3_g64", quantize_floats<kE4m3G64>),
    quantized<kE4m3G128>("e4m3_g128", quantize_floats<kE4m3G128>),
    quantized<kNf4G64>("nf4_g64"),
    quantized<kFp4G64>("fp4_g64"),
};

}  // namespace

}  // namespace octavo
