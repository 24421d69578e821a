// Python binding of ops/mel.h.

#include "ops/mel.h"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <algorithm>
#include <memory>
#include <stdexcept>
#include <string>

namespace nb = nanobind;
using namespace nb::literals;

namespace octavo {
namespace {

using Samples = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <class T>
using Matrix = nb::ndarray<nb::numpy, T, nb::ndim<2>>;

template <class T>
Matrix<T> matrix(std::unique_ptr<T[]> values, size_t rows, size_t columns) {
  nb::capsule owner(values.get(), [](void* p) noexcept { delete[] static_cast<T*>(p); });
  return Matrix<T>(values.release(), {rows, columns}, owner);
}

void check_mels(int n_mels) {
  if (n_mels != 80 && n_mels != 128)
    throw std::invalid_argument("n_mels must be 80 or 128, got " + std::to_string(n_mels));
}

Matrix<float> log_mel_of(const Samples& samples, int n_mels) {
  check_mels(n_mels);
  const int64_t num_samples = int64_t(samples.size());
  if (num_samples <= kFrameSamples / 2) {
    throw std::invalid_argument("log_mel needs more than " + std::to_string(kFrameSamples / 2) + " samples, got " +
                                std::to_string(num_samples));
  }
  const auto frames = size_t(mel_frames(num_samples));
  auto values = std::make_unique_for_overwrite<float[]>(size_t(n_mels) * frames);
  {
    nb::gil_scoped_release release;
    log_mel(samples.data(), num_samples, n_mels, values.get());
  }
  return matrix(std::move(values), size_t(n_mels), frames);
}

Matrix<double> filter_bank(int n_mels) {
  check_mels(n_mels);
  const std::vector<double> filters = mel_filter_bank(n_mels);
  auto values = std::make_unique_for_overwrite<double[]>(filters.size());
  std::copy(filters.begin(), filters.end(), values.get());
  return matrix(std::move(values), size_t(n_mels), kBins);
}

}  // namespace

void bind_mel(nb::module_& m) {
  m.def("log_mel", &log_mel_of, "samples"_a.noconvert(), "n_mels"_a,
        "Whisper's log-mel spectrogram, float32 [n_mels, samples / 160], of mono audio at 16 kHz: float32 [samples], "
        "finite, more than 200 of them. n_mels is 80 or 128.");
  m.def("mel_filter_bank", &filter_bank, "n_mels"_a, "The filters of log_mel: float64 [n_mels, 201].");
}

}  // namespace octavo
