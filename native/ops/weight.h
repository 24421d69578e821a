// Weights as the kernels want them: 16 output rows interleaved, repacked once while loading.
#pragma once

#include <cstdint>
#include <vector>

#include "core/buffer.h"
#include "core/dequantize.h"
#include "kernels/kernels.h"

namespace octavo {

// Rows of a stored tensor: [rows, columns] in `format`, starting at `data`. Output row i is stored row order[i], or i.
struct StoredRows {
  Format format;
  const uint8_t* data;
  int64_t rows, columns;
  const int32_t* order = nullptr;
};

// [n, k] in the layout of kernels.h. `n` and `k` are the true sizes; memory is padded with zeros.
struct PackedWeight {
  DType dtype;
  int64_t n, k;
  Buffer memory;

  int64_t padded_k() const { return round_up(k, pack_of(dtype)); }
  int64_t blocks() const { return round_up(n, 16) / 16; }
};

enum class Arrangement : uint8_t {
  kStacked,      // one below the other: q, k, v
  kAlternating,  // 16 rows of each in turn: gate, up
};

// Reads all rows in parallel, in any stored format, and packs them. All sources have the same number of columns;
// alternating ones the same number of rows.
PackedWeight pack(const std::vector<StoredRows>& sources, Arrangement arrangement, DType dtype);

}  // namespace octavo
