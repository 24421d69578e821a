// The points that IQ formats choose from: 8 or 4 neighbouring values at once, by their place in a list.

#pragma once

#include <cstdint>
#include <string_view>

namespace octavo {

// [points, width]: the coordinates, as digits of which each stands for a value.
struct Grid {
  int points, width;
  const uint8_t* digits;
};

// IQ1_S and IQ1_M have one in common.
extern const Grid kIq1Grid, kIq2XxsGrid, kIq2XsGrid, kIq2SGrid, kIq3XxsGrid, kIq3SGrid;

// "IQ1", "IQ2_XXS" and so on. Throws std::invalid_argument if there is no grid of that name.
const Grid& grid_of(std::string_view name);

}  // namespace octavo
