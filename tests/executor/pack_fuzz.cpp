// Random and forged blocks of stored formats are packed, read and multiplied, each in memory of just its size, so that
// AddressSanitizer sees every step outside of it. Arguments: how many inputs, the number of the first, and formats.
//
// What is read must be what the format's decoder says, products of rows that are not finite must not be finite, and
// others must be.
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <random>
#include <vector>

#include "kernels/kernels.h"
#include "layouts/matrix.h"

namespace octavo {

// Those that this file is compiled with: there is no choice at run time.
const Kernels& kernels() { return OCTAVO_ISA::table; }

namespace {

using Random = std::mt19937_64;

template <class T, size_t n>
T one_of(Random& random, const T (&choices)[n]) {
  return choices[random() % n];
}

// So many elements, all zero, from the begin of a cache line on.
template <class T>
struct Exact {
  explicit Exact(int64_t count) : data(static_cast<T*>(::operator new(count * sizeof(T), std::align_val_t{64}))) {
    std::memset(data, 0, count * sizeof(T));
  }
  Exact(const Exact&) = delete;
  ~Exact() { ::operator delete(data, std::align_val_t{64}); }
  T& operator[](int64_t i) const { return data[i]; }
  T* data;
};

// NaN, infinities, the smallest and largest numbers: float16, bfloat16 or upper halves of float32.
constexpr uint16_t kHalves[] = {0,      0x8000, 1,      0x8001, 0x03ff, 0x0400, 0x7bff, 0xfbff, 0x7c00, 0xfc00,
                                0x7c01, 0xffff, 0x7f7f, 0xff7f, 0x7f80, 0xff80, 0x7f81, 0x0001, 0x0080, 0x807f};

// Zeros, ones, subnormal numbers of two or four bytes, or mostly anything.
void forge(Random& random, uint8_t* bytes, int64_t count) {
  const uint64_t kind = random() % 8;
  for (int64_t i = 0; i < count; ++i) {
    const bool is_zero = kind == 0 || (kind == 2 && i % 4 != 0);
    bytes[i] = is_zero ? 0 : kind == 1 ? 255 : static_cast<uint8_t>(random());
  }
}

// Words at places where formats have their floats, or anywhere.
void forge_floats(Random& random, uint8_t* block, int bytes) {
  const int anywhere = static_cast<int>(random() % bytes);
  const int at = one_of(random, {0, 2, 4, bytes - 2, bytes - 4, 80, 82, anywhere});
  const uint16_t half = one_of(random, kHalves);
  if (at >= 0 && at + 2 <= bytes) std::memcpy(block + at, &half, 2);
}

void forge_rows(Random& random, const Format& format, uint8_t* bytes, int64_t blocks) {
  if (format.block == 1) return forge(random, bytes, blocks * format.bytes);
  for (int64_t i = 0; i < blocks; ++i) {
    uint8_t* block = bytes + i * format.bytes;
    forge(random, block, format.bytes);
    for (uint64_t n = random() % 4; n > 1; --n) forge_floats(random, block, format.bytes);
  }
}

// Rows of activations: normal numbers, sometimes tiny or huge ones; or, returning false, some that are no numbers.
bool forge_activations(Random& random, DType dtype, int64_t count, uint8_t* out) {
  const float factor = one_of(random, {1.0f, 1.0f, 1.0f, 1e-30f, 1e-36f, 1e-42f, 1e20f, 0.0f});
  const bool hostile = random() % 4 == 0;
  std::uniform_real_distribution<float> uniform(-2, 2);
  for (int64_t i = 0; i < count; ++i) {
    float x = uniform(random) * factor;
    if (hostile && random() % 64 == 0) x = to_float(bf16{one_of(random, kHalves)});
    const bf16 half = to_bf16(x);
    if (dtype == DType::kFloat32)
      std::memcpy(out + 4 * i, &x, 4);
    else
      std::memcpy(out + 2 * i, &half, 2);
  }
  return !hostile;
}

// Rows that are packed.
struct Matrix {
  const Layout& layout;
  const MatrixKernels& kernel;
  int64_t rows, k, blocks = round_up(rows, 16) / 16;
  Exact<uint8_t> memory{blocks * layout.block_bytes(k)};

  Matrix(const StoredRows& source, const Layout& layout, bool held)
      : layout(layout), kernel(kernels().matrices[kernels_of(layout)]), rows(source.rows), k(source.columns) {
    for (int64_t block = 0; block < blocks; ++block) {
      RowAt of_block[16];
      for (int64_t r = 0; r < 16 && block * 16 + r < rows; ++r) of_block[r] = {&source, block * 16 + r};
      (held ? layout.rearrange : layout.pack)(of_block, k, memory.data + block * layout.block_bytes(k));
    }
  }

  int64_t padded_k() const { return round_up(k, kernel.pack); }

  // Of one row, [k].
  void read(int64_t row, float* out) const { kernel.read_row(memory.data, padded_k(), row, k, out); }

  // Rows of activations [count, k padded to 16] times this, [count, 16 * blocks].
  void multiply(const uint8_t* activations, DType dtype, int count, float* out) const {
    const int64_t columns = round_up(k, 16), bytes = kernel.row_bytes(padded_k());
    const Exact<uint8_t> prepared(count * bytes);
    const Exact<float> scratch(count * blocks * 16);
    for (int i = 0; i < count; ++i)
      kernel.prepare[dtype == DType::kBFloat16](activations + i * columns * bytes_of(dtype), columns, padded_k(),
                                                prepared.data + i * bytes);
    const Matmul matmul{prepared.data,         bytes, memory.data, padded_k(), blocks, nullptr,
                        Epilogue::kStoreFloat, out,   blocks * 16, dtype};
    kernel.matmul(matmul, 0, count, 0, static_cast<int>(blocks), scratch.data);
  }
};

[[noreturn]] void fail(const char* what, int64_t input, const StoredRows& source, const Matrix& matrix) {
  std::printf("input %lld: %s in %s: %s\n", static_cast<long long>(input), source.format->name, matrix.layout.name,
              what);
  std::exit(1);
}

// The largest scale or minimum of a stored row; NaN if one is not finite. Values may be too large for float32 even so.
float largest_scale(const RowAt& row) {
  const Format& format = *row.source->format;
  const bool sub = format.scaling == Scaling::kSubScale || format.scaling == Scaling::kSubMinimum;
  const bool minimum = format.scaling == Scaling::kMinimum || format.scaling == Scaling::kSubMinimum;
  float largest = 0;
  const auto put = [&](uint32_t bits) {
    const float x = format.wide ? std::bit_cast<float>(bits) : half_to_float(static_cast<uint16_t>(bits));
    largest = std::max(largest, std::fabs(x)) + 0 * x;
  };
  for (int64_t i = 0; i < row.source->columns / format.block && format.read; ++i) {
    uint8_t codes[256];
    Quants x{.q = codes};
    format.read(row.bytes() + i * format.bytes, x);
    for (int g = 0; g < (sub ? 1 : format.block / format.group); ++g) put(x.d[g]);
    if (minimum) put(x.m);
  }
  return largest;
}

bool same(float a, float b) { return a == b || (std::isnan(a) && std::isnan(b)); }

// Of a product: small, with at most one size at the borders of tiles or slices.
struct Sizes {
  int64_t k, rows, count;

  Sizes(Random& random, int64_t block)
      : k(block * one_of(random, {1, 1, 1, 2, 3})),
        rows(one_of(random, {1, 2, 16})),
        count(one_of(random, {1, 1, 2, 3})) {
    const uint64_t large = random() % 32;
    if (large == 0) k = 512 / block * block + block * one_of(random, {0, 1});
    if (large == 1) rows = one_of(random, {15, 17, 32, 33});
    if (large == 2) count = one_of(random, {15, 16, 17, 33});
  }
};

// Reads all rows, and returns the largest scale of each, or value where other rows than the stored ones are packed.
std::vector<float> read_rows(int64_t input, const StoredRows& source, const Matrix& matrix, bool held) {
  const Exact<float> decoded(source.columns), read(source.columns);
  std::vector<float> largest;
  for (int64_t row = 0; row < source.rows; ++row) {
    const RowAt stored{&source, row};
    stored.decode(decoded.data);
    matrix.read(row, read.data);
    float top = held ? largest_scale(stored) : 0;
    for (int64_t i = 0; i < source.columns; ++i) {
      if (!held) top = std::max(top, std::fabs(decoded[i])) + 0 * decoded[i];
      const bool has_nans =
          source.format->codes == Codes::kE4m3;  // among its codes: those make NaN of their whole group
      if (has_nans && std::isnan(decoded[i])) top = decoded[i];
      if (held && !same(decoded[i], read[i]) && !(has_nans && std::isnan(read[i])))
        fail("a row is read as other numbers", input, source, matrix);
    }
    for (int64_t i = 0; i < source.columns && !held && top < 1e4f; ++i)
      if (!std::isfinite(read[i])) fail("a finite row is read as what is not", input, source, matrix);
    largest.push_back(top);
  }
  return largest;
}

// A layout that quantizes any rows of so many columns.
const Layout& quantizing(Random& random, int64_t k) {
  const char* const floats = k % 128 == 0 ? "e4m3_g128" : k % 64 == 0 ? "e4m3_g64" : "e4m3_g32";
  return layout_of(one_of(random, {"int8", "uint4_g32", floats}));
}

void try_one(int64_t input, const Format& format) {
  Random random(input);
  const auto [k, rows, count] = Sizes(random, format.block);
  const int64_t stored_blocks = rows * (k / format.block);
  const Exact<uint8_t> bytes(stored_blocks * format.bytes);
  forge_rows(random, format, bytes.data, stored_blocks);
  const StoredRows source{&format, bytes.data, rows, k};

  const Layout* holding = layout_holding(format);
  const bool held = holding && random() % 4;
  const Matrix matrix(source, held ? *holding : quantizing(random, k), held);
  const std::vector<float> largest = read_rows(input, source, matrix, held);

  const DType dtype = random() % 2 ? DType::kFloat32 : DType::kBFloat16;
  const int64_t columns = round_up(k, 16);
  const Exact<uint8_t> activations(count * columns * bytes_of(dtype));
  const Exact<float> out(count * matrix.blocks * 16);
  const bool tame = forge_activations(random, dtype, count * columns, activations.data);
  matrix.multiply(activations.data, dtype, static_cast<int>(count), out.data);
  for (int64_t i = 0; i < count * rows; ++i) {
    const float scale = largest[i % rows];
    const bool is_finite = std::isfinite(out[i / rows * matrix.blocks * 16 + i % rows]);
    if (is_finite && !std::isfinite(scale))
      fail("a row that is not finite has a finite product", input, source, matrix);
    if (!is_finite && tame && scale < 1e4f) fail("finite rows have a product that is not", input, source, matrix);
  }
}

}  // namespace

}  // namespace octavo

int main(int argc, char** argv) {
  const int64_t count = std::atoll(argv[1]), first = std::atoll(argv[2]);
  for (int64_t i = first; i < first + count; ++i) octavo::try_one(i, octavo::format_of(argv[3 + i % (argc - 3)]));
  std::printf("%lld inputs\n", static_cast<long long>(count));
}
