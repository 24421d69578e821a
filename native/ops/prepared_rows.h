// Rows of activations as quantized matrices are multiplied with.
#pragma once

#include "core/buffer.h"
#include "ops/op.h"

namespace octavo {

// The input of the matmul that runs now, prepared for it.
struct PreparedRows : Shared {
  Buffer memory;

  void reserve(int64_t bytes) {
    if (memory.bytes() < bytes) memory = Buffer(bytes);
  }
  void plan(const Run&) override {}
};

}  // namespace octavo
