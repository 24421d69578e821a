// The machine's own limits, measured: what kernels and engines are compared against.
#include <nanobind/nanobind.h>

#include <chrono>

#include "core/buffer.h"
#include "core/cpu.h"
#include "core/thread_pool.h"

namespace nb = nanobind;

namespace octavo {

namespace {

double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// Bytes per second that all threads together read from memory, over `bytes` that fit no cache.
double read_bandwidth(int64_t bytes) {
  Buffer memory(bytes);
  ThreadPool& pool = ThreadPool::instance();
  const int64_t words = bytes / 8, slice = words / pool.size();
  auto* data = memory.as<uint64_t>();
  pool.run([&](int t) {
    for (int64_t i = t * slice; i < (t + 1) * slice; i += 8) data[i] = i;
  });
  double best = 0;
  for (int round = 0; round < 3; ++round) {
    std::atomic<uint64_t> sink{0};
    const auto begin = std::chrono::steady_clock::now();
    pool.run([&](int t) {
      uint64_t sum[8] = {};
      for (int64_t i = t * slice; i + 8 <= (t + 1) * slice; i += 8)
        for (int j = 0; j < 8; ++j) sum[j] += data[i + j];
      for (uint64_t s : sum) sink.fetch_add(s);
    });
    best = std::max(best, static_cast<double>(slice * pool.size() * 8) / seconds_since(begin));
  }
  return best;
}

// Multiply-adds count twice. One register tile over data in the first-level cache, on all threads.
double matmul_flops(DType dtype) {
  constexpr int kRows = 48, kColumns = 64, kDepth = 256, kRepeat = 400;
  ThreadPool& pool = ThreadPool::instance();
  const int64_t a = kRows * kDepth * bytes_of(dtype), w = kColumns * kDepth * bytes_of(dtype);
  const int64_t out = kRows * kColumns * 4, all = round_up(a + w + out, 64) + kMatmulScratch * 4;
  Buffer memory(all * pool.size());
  double best = 0;
  for (int round = 0; round < 3; ++round) {
    const auto begin = std::chrono::steady_clock::now();
    pool.run([&](int t) {
      char* base = memory.as<char>() + t * all;
      const Matmul m{base, kDepth, base + a, kDepth, nullptr, Epilogue::kStoreFloat, base + a + w, kColumns};
      auto* scratch = reinterpret_cast<float*>(base + round_up(a + w + out, 64));
      for (int i = 0; i < kRepeat; ++i)
        kernels().matmul[static_cast<int>(dtype)](m, 0, kRows, 0, kColumns / 16, scratch);
    });
    best = std::max(best, 2.0 * kRows * kColumns * kDepth * kRepeat * pool.size() / seconds_since(begin));
  }
  return best;
}

}  // namespace

void bind_machine(nb::module_& m) {
  m.def("read_bandwidth", &read_bandwidth, nb::arg("bytes"), nb::call_guard<nb::gil_scoped_release>(),
        "Bytes per second that all threads read from memory.");
  m.def(
      "matmul_flops",
      [](bool float32) { return matmul_flops(float32 ? DType::kFloat32 : DType::kBFloat16); }, nb::arg("float32"),
      nb::call_guard<nb::gil_scoped_release>(), "FLOP/s of the matmul kernel on data in cache, all threads.");
}

}  // namespace octavo
