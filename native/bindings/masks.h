// Masks of tokens as arrays of Python: uint32 [rows, words], or None.
#pragma once

#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>

#include "ops/sampling.h"

namespace octavo {

using MaskArray = nanobind::ndarray<const uint32_t, nanobind::ndim<2>, nanobind::c_contig, nanobind::device::cpu>;

inline TokenMasks masks_of(const std::optional<MaskArray>& masks) {
  if (!masks) return {};
  return {masks->data(), static_cast<int64_t>(masks->shape(0)), static_cast<int64_t>(masks->shape(1))};
}

}  // namespace octavo
