// Compiled once per instruction set: see CMakeLists.txt.
#include "kernels/kernels.h"

#include "kernels/attention.h"
#include "kernels/channels.h"
#include "kernels/coded.h"
#include "kernels/matmul.h"
#include "kernels/norm.h"
#include "kernels/pointwise.h"
#include "kernels/quantized.h"
#include "kernels/rope.h"
#include "kernels/route.h"
#include "kernels/sampling.h"
#include "kernels/simd.h"
#include "kernels/state.h"
#include "kernels/weights.h"

namespace octavo::OCTAVO_ISA {

#define OCTAVO_NAME(x) #x
#define OCTAVO_STRING(x) OCTAVO_NAME(x)

// A line for each layout of weights.
constexpr MatrixKernels matrices[] = {
    {.layout = "float32", .pack = 1, .matmul = matmul<Float32>, .read_row = read_row<Float32>},
    {.layout = "bfloat16", .pack = 2, .matmul = matmul<BFloat16>, .read_row = read_row<BFloat16>},
    channels("int8"),
    quantized<kInt4G32>("int4_g32"),
    quantized<kInt5G32>("int5_g32"),
    quantized<kInt8G32>("int8_g32"),
    quantized<kUint4G32>("uint4_g32"),
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
    coded<kE4m3G32>("e4m3_g32"),
    coded<kE4m3G64>("e4m3_g64"),
    coded<kE4m3G128>("e4m3_g128"),
    coded<kNf4G64>("nf4_g64"),
    coded<kFp4G64>("fp4_g64"),
};

constinit const Kernels table = {
    .name = OCTAVO_STRING(OCTAVO_ISA),
    .matrices = {matrices, matrices + sizeof matrices / sizeof *matrices},
    .pointwise = {pointwise, pointwise + sizeof pointwise / sizeof *pointwise},
    .cast = {cast<Float32>, cast<BFloat16>},
    .activate = {activate_row<Float32>, activate_row<BFloat16>},
    .scores = scores,
    .xielu = {xielu<Float32>, xielu<BFloat16>},
    .rms_norm = {rms_norm<Float32>, rms_norm<BFloat16>},
    .layer_norm = {layer_norm<Float32>, layer_norm<BFloat16>},
    .normalise = normalise,
    .causal_conv = causal_conv,
    .delta = delta,
    .rotate = rotate_heads,
    .rotate_and_store = {rotate_and_store<Float32>, rotate_and_store<BFloat16>},
    .attend = {attend<Float32>, attend<BFloat16>},
    .merge = {merge<Float32>, merge<BFloat16>},
    .quantize_affine = quantize_affine,
    .sampling = sampling_kernels,
};

}  // namespace octavo::OCTAVO_ISA
