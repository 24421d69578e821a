// Quantized matrices: rows of stored formats that are made of the same numbers, rearranged; or any rows, as int8.
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/quantized_layout.h"
#include "layouts/matrix.h"

namespace octavo {

namespace {

// Codes of one row from column `first` on; both numbers of columns are multiples of kUnit.
template <QuantizedLayout L>
void put_codes(const uint8_t* q, int64_t count, int64_t first, int64_t k, int row, uint8_t* out) {
  for (int64_t unit = 0; unit < count / kUnit; ++unit) {
    uint32_t words[8];
    std::memcpy(words, q + unit * kUnit, sizeof words);
    auto* to = reinterpret_cast<uint32_t*>(out + L.values_at(k) + (first / kUnit + unit) * L.unit_bytes()) + row;
    for (int i = 0; i < L.bits; ++i) to[16 * i] = L.bits == 4 ? words[i] | words[i + 4] << 4 : words[i];
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
  for (int i = 0; i < format.block; ++i)
    if ((x.q[i] & 127) == 127) x.d[0] = std::bit_cast<uint32_t>(std::numeric_limits<float>::quiet_NaN());
}

// Codes get the layout's offset.
template <QuantizedLayout L>
void rearrange(const RowAt* rows, int64_t k, uint8_t* out) {
  thread_local std::vector<uint8_t> codes;
  const int64_t padded = round_up(k, kUnit);
  codes.assign(padded, 0);
  for (int row = 0; row < 16; ++row) {
    if (!rows[row].source) continue;
    const Format& format = *rows[row].source->format;
    const uint8_t shift = static_cast<uint8_t>(L.offset() - (L.has_minimum() ? 0 : format.offset));
    const int8_t* integers = L.codes == Codes::kIntegers ? integers_of(format.codes) : nullptr;
    const uint8_t* from = rows[row].bytes();
    for (int64_t first = 0; first < k; first += format.block, from += format.bytes) {
      Quants x;
      format.read(from, x);
      look_for_nan(format, x);
      put_scales<L>(format, x, first, row, out);
      for (int i = 0; i < format.block; ++i) codes[first + i] = (integers ? integers[x.q[i] & 15] : x.q[i]) + shift;
    }
    put_codes<L>(codes.data(), padded, 0, k, row, out);
  }
}

// Formats whose numbers fit: of the same scaling and group, and of the same codes, or of codes for integers of 8 bits.
template <QuantizedLayout L>
bool holds(const Format& format) {
  const bool same = (format.bits <= 4 ? 4 : 8) == L.bits && format.codes == L.codes;
  return format.scaling == L.scaling && format.group == L.group && format.wide == L.wide &&
         (same || (L.codes == Codes::kIntegers && L.bits == 8 && integers_of(format.codes)));
}

template <QuantizedLayout L>
constexpr Layout quantized(const char* name, PackRows pack = nullptr) {
  return {
      name, [](int64_t k) { return L.block_bytes(k); }, pack, rearrange<L>, holds<L>, L.group > kUnit ? L.group : 1};
}

// Any rows, in 4 bits.
void quantize_groups(const RowAt* rows, int64_t k, uint8_t* out) {
  constexpr QuantizedLayout L = kUint4G32;
  thread_local std::vector<float> values, columns;
  values.resize(k);
  columns.assign(round_up(k, kUnit) * 16, 0);
  for (int row = 0; row < 16; ++row) {
    if (!rows[row].source) continue;
    rows[row].decode(values.data());
    for (int64_t i = 0; i < k; ++i) columns[i * 16 + row] = values[i];
  }
  for (int64_t first = 0; first < k; first += kUnit) {
    uint8_t q[kUnit * 16], of_row[kUnit];
    auto* scale = reinterpret_cast<uint16_t*>(out + L.scale_at(first / kUnit));
    kernels().quantize_affine(&columns[first * 16], q, scale, scale + 16);
    for (int row = 0; row < 16; ++row) {
      for (int i = 0; i < kUnit; ++i) of_row[i] = q[i * 16 + row];
      put_codes<L>(of_row, kUnit, first, k, row, out);
    }
  }
}

// Any rows, in 8-bit floats of which the largest of a group is 448.
template <QuantizedLayout L>
void quantize_floats(const RowAt* rows, int64_t k, uint8_t* out) {
  thread_local std::vector<float> values;
  thread_local std::vector<uint8_t> codes;
  const int64_t padded = round_up(k, L.group);
  for (int row = 0; row < 16; ++row) {
    if (!rows[row].source) continue;
    values.assign(padded, 0);
    codes.resize(padded);
    rows[row].decode(values.data());
    for (int64_t first = 0; first < padded; first += L.group) {
      float top = 0, probe = 0;
      for (int i = 0; i < L.group; ++i)
        top = std::max(top, std::fabs(values[first + i])), probe += 0 * values[first + i];
      const float scale = top / 448 + probe, factor = top > kTiny && probe == 0 ? 448 / top : 0;
      for (int i = 0; i < L.group; ++i) codes[first + i] = factor > 0 ? to_e4m3(values[first + i] * factor) : 0;
      std::memcpy(out + L.scale_at(first / L.group) + 4 * row, &scale, sizeof scale);
    }
    put_codes<L>(codes.data(), padded, 0, k, row, out);
  }
}

// Any rows, each with the scale that takes its largest value to 127 or -127; NaN where a value is not finite.
void quantize_channels(const RowAt* rows, int64_t k, uint8_t* out) {
  thread_local std::vector<float> values;
  values.resize(k);
  for (int row = 0; row < 16; ++row) {
    if (!rows[row].source) continue;
    rows[row].decode(values.data());
    float top = 0, probe = 0;
    for (const float x : values) top = std::max(top, std::fabs(x)), probe += 0 * x;
    reinterpret_cast<float*>(out)[row] = top / 127 + probe;
    if (!std::isfinite(probe)) continue;
    const float factor = top > kTiny ? 127 / top : 0;
    uint8_t* to = out + kInt8.values_at(k) + 4 * row;
    for (int64_t i = 0; i < k; ++i)
      to[i / 4 * 64 + i % 4] = static_cast<uint8_t>(static_cast<int>(std::nearbyint(values[i] * factor)) + 128);
  }
}

// Rows of integers that have such a scale already.
void move_channels(const RowAt* rows, int64_t k, uint8_t* out) {
  for (int row = 0; row < 16; ++row) {
    if (!rows[row].source) continue;
    reinterpret_cast<float*>(out)[row] = rows[row].scale();
    const uint8_t* q = rows[row].bytes();
    uint8_t* to = out + kInt8.values_at(k) + 4 * row;
    for (int64_t i = 0; i < k; ++i) to[i / 4 * 64 + i % 4] = q[i] ^ 128;
  }
}

const RegisterLayout registered[] = {
    Layout{"int8", [](int64_t k) { return kInt8.block_bytes(k); }, quantize_channels, move_channels,
           [](const Format& format) { return format.scaling == Scaling::kChannel; }},
    quantized<kInt4G32>("int4_g32"),
    quantized<kInt8G32>("int8_g32"),
    quantized<kUint4G32>("uint4_g32", quantize_groups),
    quantized<kUint8G32>("uint8_g32"),
    quantized<kInt4K16>("int4_k16"),
    quantized<kInt8K16>("int8_k16"),
    quantized<kInt8K32>("int8_k32"),
    quantized<kScaled8G16>("scaled8_g16"),
    quantized<kScaled8G32>("scaled8_g32"),
    quantized<kUint4K16>("uint4_k16"),
    quantized<kUint4K32>("uint4_k32"),
    quantized<kUint8K32>("uint8_k32"),
    quantized<kAffine4G32>("affine4_g32"),
    quantized<kAffine4G64>("affine4_g64"),
    quantized<kAffine4G128>("affine4_g128"),
    quantized<kAffine8G32>("affine8_g32"),
    quantized<kAffine8G64>("affine8_g64"),
    quantized<kAffine8G128>("affine8_g128"),
    quantized<kE4m3G32>("e4m3_g32", quantize_floats<kE4m3G32>),
    quantized<kE4m3G64>("e4m3_g64", quantize_floats<kE4m3G64>),
    quantized<kE4m3G128>("e4m3_g128", quantize_floats<kE4m3G128>),
    quantized<kE2m1G16>("e2m1_g16"),
    quantized<kE2m1G32>("e2m1_g32"),
    quantized<kNf4G64>("nf4_g64"),
    quantized<kFp4G64>("fp4_g64"),
};

}  // namespace

}  // namespace octavo
