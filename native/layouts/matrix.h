// Weights as the kernels want them: 16 output rows interleaved, repacked once while loading.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/buffer.h"
#include "core/cpu.h"
#include "core/dequantize.h"
#include "kernels/kernels.h"

namespace octavo {

// Rows of a stored tensor: [stored_rows, columns] in `format`, at `data`. Output row i is stored row order[i], or i.
// Formats of one scale for a row have those in `scales`, by stored rows.
struct StoredRows {
  const Format* format;
  const uint8_t* data;
  int64_t rows, columns;
  const int32_t* order = nullptr;
  const float* scales = nullptr;

  int64_t stored(int64_t i) const { return order ? order[i] : i; }
};

struct RowAt {
  const StoredRows* source = nullptr;  // none: padding
  int64_t row = 0;
  const uint8_t* bytes() const {
    const Format& format = *source->format;
    return source->data + source->stored(row) * (source->columns / format.block * format.bytes);
  }
  float scale() const { return source->scales ? source->scales[source->stored(row)] : 1; }
  void decode(float* out) const;  // all columns
};

using PackRows = void (*)(const RowAt* rows, int64_t k, uint8_t* out);  // 16 rows; `out` is zero before

// How 16 rows of a matrix lie in memory for the kernels of that name.
struct Layout {
  const char* name;                               // of its entry among Kernels::matrices
  int64_t (*block_bytes)(int64_t k);              // of 16 rows of k columns
  PackRows pack;                                  // rows of any format, converted; null: only those that it holds
  PackRows rearrange = nullptr;                   // rows that …
  bool (*holds)(const Format& format) = nullptr;  // … are made of the same numbers
  int multiple = 1;                               // of columns that `pack` takes
};

// Makes a layout known to layout_of().
struct RegisterLayout {
  RegisterLayout(const Layout& layout);
};

// Throws std::invalid_argument if there is no layout of that name.
const Layout& layout_of(const std::string& name);
// The layout that has the numbers of a quantized format; none for others.
const Layout* layout_holding(const Format& format);

// The place of a layout's kernels among Kernels::matrices.
int kernels_of(const Layout& layout);

// [n, k] in a layout. `n` and `k` are the true sizes; rows are padded to 16 with zeros.
struct PackedMatrix {
  const Layout* layout;
  int kernels;  // the place of its kernels among Kernels::matrices
  int64_t n, k;
  Buffer memory;
  std::vector<int32_t> column_order{};  // its column i is multiplied with an input's column_order[i]; empty: with i

  int64_t blocks() const { return round_up(n, 16) / 16; }
  const MatrixKernels& kernel() const { return octavo::kernels().matrices[kernels]; }
  int64_t padded_k() const { return round_up(k, kernel().pack); }
};

enum class Arrangement : uint8_t {
  kStacked,      // one below the other, each padded to 16 rows: q, k, v
  kAlternating,  // 16 rows of two in turn, gate and up, and such pairs one below the other
};

// Rows of several sources in one matrix.
int64_t packed_rows(const std::vector<int64_t>& rows);

// Reads all rows in parallel and packs them. All sources have the same number of columns; the two of a pair the same
// number of rows. Throws std::invalid_argument for formats that the layout can't take.
PackedMatrix pack(const std::vector<StoredRows>& sources, Arrangement arrangement, const Layout& layout, Arena& arena);

}  // namespace octavo
