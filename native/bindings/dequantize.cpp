// Python bindings of core/dequantize.h, for tests and for code that wants a tensor's values in numpy, and of
// core/grids.h.

#include "core/dequantize.h"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string_view.h>

#include <memory>
#include <stdexcept>
#include <string>

#include "core/grids.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace octavo {
namespace {

using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<nb::numpy, float, nb::ndim<1>>;

Floats dequantize(std::string_view name, Bytes data, int64_t count) {
  const Format& format = format_of(name);
  if (count < 0 || count % format.block != 0) {
    throw std::invalid_argument("count " + std::to_string(count) + " is not a multiple of " + format.name +
                                "'s block of " + std::to_string(format.block));
  }
  const int64_t num_blocks = count / format.block;
  // Compared by dividing, since multiplying could overflow.
  if (int64_t(data.size()) % format.bytes != 0 || int64_t(data.size()) / format.bytes != num_blocks) {
    throw std::invalid_argument(std::to_string(data.size()) + " bytes of data are not " + std::to_string(num_blocks) +
                                " blocks of " + std::to_string(format.bytes));
  }
  auto values = std::make_unique_for_overwrite<float[]>(size_t(count));
  {
    nb::gil_scoped_release release;
    format.decode(data.data(), count, values.get());
  }
  float* raw = values.get();
  nb::capsule owner(raw, [](void* p) noexcept { delete[] static_cast<float*>(p); });
  values.release();
  return Floats(raw, {size_t(count)}, owner);
}

nb::ndarray<nb::numpy, const uint8_t, nb::ndim<2>> grid(std::string_view name) {
  const Grid& found = grid_of(name);
  return {found.digits, {size_t(found.points), size_t(found.width)}, nb::handle()};  // it lives as long as the module
}

}  // namespace

void bind_dequantize(nb::module_& m) {
  m.def("dequantize", &dequantize, "format"_a, "data"_a.noconvert(), "count"_a,
        "Decode `count` elements of a stored format (\"Q4_K\", …) from exactly their bytes into float32.");
  m.def("grid", &grid, "name"_a,
        "The points that an IQ format (\"IQ1\", \"IQ2_XXS\", …) chooses from: digits, uint8 [points, 8 or 4].");
}

}  // namespace octavo
