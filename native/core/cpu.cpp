#include "core/cpu.h"

#include <stdexcept>

#if defined(__linux__) && defined(__x86_64__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace octavo {

namespace {

#ifdef OCTAVO_HAS_amx
// Linux lets a process use tile registers once it has asked, as they take much memory to save.
bool may_use_tiles() {
#ifdef __linux__
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}
#endif

struct Candidate {
  const Kernels* kernels;
  bool runs;
};

std::vector<Candidate> candidates() {
  std::vector<Candidate> all;
#ifdef OCTAVO_HAS_avx2
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  const bool avx512vnni = avx512 && __builtin_cpu_supports("avx512vnni");
  const bool avx512bf16 = avx512vnni && __builtin_cpu_supports("avx512bf16");
  const bool amx = avx512bf16 && __builtin_cpu_supports("amx-int8") && __builtin_cpu_supports("amx-bf16");
  all.push_back({&amx::table, amx && may_use_tiles()});
  all.push_back({&avx512bf16::table, avx512bf16});
  all.push_back({&avx512vnni::table, avx512vnni});
  all.push_back({&avx512::table, avx512});
  all.push_back({&avxvnni::table, avx2 && __builtin_cpu_supports("avxvnni")});
  all.push_back({&avx2::table, avx2});
#endif
  all.push_back({&portable::table, true});
  return all;
}

const Kernels*& selected() {
  static const Kernels* choice = [] {
    for (const Candidate& c : candidates())
      if (c.runs) return c.kernels;
    return &portable::table;
  }();
  return choice;
}

}  // namespace

std::vector<std::string> built_isas() {
  std::vector<std::string> names;
  for (const Candidate& c : candidates()) names.push_back(c.kernels->name);
  return names;
}

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const Candidate& c : candidates())
    if (c.runs) names.push_back(c.kernels->name);
  return names;
}

const Kernels& kernels() { return *selected(); }

void select_isa(std::string_view isa) {
  std::string known;
  for (const Candidate& c : candidates()) {
    if (c.runs && isa == c.kernels->name) {
      selected() = c.kernels;
      return;
    }
    if (c.runs) known += (known.empty() ? "" : ", ") + std::string(c.kernels->name);
  }
  throw std::invalid_argument("'" + std::string(isa) + "' can't run on this processor; it has: " + known);
}

}  // namespace octavo
