// Compiled once per instruction set: see CMakeLists.txt.
#include "kernels/kernels.h"

#include "kernels/simd.h"

#include "kernels/attention.h"
#include "kernels/matmul.h"
#include "kernels/pointwise.h"
#include "kernels/sampling.h"

namespace octavo::OCTAVO_ISA {

#define OCTAVO_NAME(x) #x
#define OCTAVO_STRING(x) OCTAVO_NAME(x)

const Kernels table = {
    .name = OCTAVO_STRING(OCTAVO_ISA),
    .sampling = sampling_kernels,
};

}  // namespace octavo::OCTAVO_ISA
