// A number above 0 made of any: what some ops are told in place of it.
#pragma once

#include <cmath>

namespace octavo {

inline float softplus(float x) { return x > 20 ? x : std::log1p(std::exp(x)); }

}  // namespace octavo
