#pragma once
namespace octavo::OCTAVO_ISA {
constexpr SamplingKernels sampling_kernels{};
}
