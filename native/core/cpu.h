// What this processor can do, and the kernels chosen for it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "kernels/kernels.h"

namespace octavo {

// Instruction sets that this build has kernels for, best first.
std::vector<std::string> built_isas();

// Instruction sets that this build has kernels for and this processor runs, best first.
std::vector<std::string> available_isas();

// The kernels in use: the best ones, or those that select_isa() chose.
const Kernels& kernels();

// Switches every later step to the kernels of `isa`; throws std::invalid_argument where they can't run.
void select_isa(std::string_view isa);

}  // namespace octavo
