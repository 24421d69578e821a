#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "core/cpu.h"
#include "core/thread_pool.h"

namespace nb = nanobind;

namespace octavo {
void bind_dequantize(nb::module_& m);
void bind_executor(nb::module_& m);
void bind_integers(nb::module_& m);
void bind_sampling(nb::module_& m);
void bind_machine(nb::module_& m);
void bind_mel(nb::module_& m);
}  // namespace octavo

NB_MODULE(_native, m) {
  using namespace octavo;
  m.doc() =
      "The native executor: weights, tape, sampling, spectrograms. Everything here releases the GIL while it computes.";
  m.def("built_isas", &built_isas, "Instruction sets that this build has kernels for, best first.");
  m.def("available_isas", &available_isas, "Instruction sets with kernels that run here, best first.");
  m.def("select_isa", [](const std::string& isa) { select_isa(isa); }, nb::arg("isa"));
  m.def("isa", [] { return std::string(kernels().name); }, "The instruction set in use.");
  m.def(
      "pool_is_busy", [] { return ThreadPool::instance().is_busy(); },
      "Whether the threads are running a job, another engine's for example.");
  m.def("num_threads", [] { return ThreadPool::instance().size(); });
  m.def(
      "set_num_threads",
      [](int n) {
        if (n < 1 || n > 1024) throw nb::value_error("num_threads must be 1..1024");
        nb::gil_scoped_release release;
        ThreadPool::instance().resize(n);
      },
      nb::arg("num_threads"));
  bind_dequantize(m);
  bind_executor(m);
  bind_integers(m);
  bind_sampling(m);
  bind_machine(m);
  bind_mel(m);
}
