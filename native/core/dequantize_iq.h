// The IQ formats of ggml.

#pragma once

#include <span>

#include "core/dequantize.h"

namespace octavo {

std::span<const Format> iq_formats();

}  // namespace octavo
