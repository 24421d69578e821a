// Compiled once per instruction set: see CMakeLists.txt.
#include "kernels/kernels.h"

#include "kernels/attention.h"
#include "kernels/matmul.h"
#include "kernels/pointwise.h"
#include "kernels/sampling.h"
#include "kernels/simd.h"

namespace octavo::OCTAVO_ISA {

#define OCTAVO_NAME(x) #x
#define OCTAVO_STRING(x) OCTAVO_NAME(x)

const Kernels table = {
    .name = OCTAVO_STRING(OCTAVO_ISA),
    .matmul = {matmul<Float32>, matmul<BFloat16>},
    .embed = {embed<Float32>, embed<BFloat16>},
    .rms_norm = {rms_norm<Float32>, rms_norm<BFloat16>},
    .layer_norm = {layer_norm<Float32>, layer_norm<BFloat16>},
    .rope = {rope<Float32>, rope<BFloat16>},
    .attend = {attend<Float32>, attend<BFloat16>},
    .merge = {merge<Float32>, merge<BFloat16>},
    .silu_mul = {silu_mul<Float32>, silu_mul<BFloat16>},
    .gelu = {gelu_row<Float32>, gelu_row<BFloat16>},
    .narrow = {narrow_row<Float32>, narrow_row<BFloat16>},
    .sampling = sampling_kernels,
};

}  // namespace octavo::OCTAVO_ISA
