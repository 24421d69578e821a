// The vector kernels that sampling is made of, one set per instruction set. The logic above them is in ops/sampling.cpp.
#pragma once

#include <cstdint>

namespace octavo {

struct SamplingKernels {
  int reserved = 0;
};

}  // namespace octavo
