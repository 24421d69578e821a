#include <nanobind/nanobind.h>
void bind_dequantize(nanobind::module_&) {}
void bind_sampling(nanobind::module_&) {}
