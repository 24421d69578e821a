// The machine's own limits, measured: what kernels and engines are compared against.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <atomic>
#include <chrono>

#include "core/buffer.h"
#include "core/cpu.h"
#include "core/thread_pool.h"
#include "layouts/matrix.h"

namespace nb = nanobind;

namespace octavo {

namespace {

double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// Bytes per second that all threads together read from memory, over `bytes` that fit no cache. Each thread reads four
// streams at once: one alone does not keep the prefetchers busy.
double read_bandwidth(int64_t bytes) {
  constexpr int64_t kStreams = 4, kLine = 8, kParts = 16;  // lines are 8 words; each thread takes several parts
  Buffer memory(bytes);
  ThreadPool& pool = ThreadPool::instance();
  const int64_t parts = kParts * pool.size(), stream = bytes / 8 / kLine / kStreams / parts * kLine;
  auto* data = memory.as<uint64_t>();
  pool.parallel_for(parts, [&](int64_t p) { std::fill_n(data + p * stream * kStreams, stream * kStreams, p); });
  double best = 0;
  for (int round = 0; round < 3; ++round) {
    std::atomic<uint64_t> sink{0};
    const auto begin = std::chrono::steady_clock::now();
    pool.parallel_for(parts, [&](int64_t p) {
      const uint64_t* at = data + p * stream * kStreams;
      uint64_t sum[kStreams] = {};
      for (int64_t i = 0; i < stream; i += kLine)
        for (int64_t s = 0; s < kStreams; ++s)
          for (int64_t w = 0; w < kLine; ++w) sum[s] += at[s * stream + i + w];
      for (uint64_t s : sum) sink.fetch_add(s);
    });
    best = std::max(best, static_cast<double>(stream * kStreams * parts * 8) / seconds_since(begin));
  }
  return best;
}

// Of the matmul kernel of a layout, where multiply-adds count twice: one register tile over data in the first-level
// cache, on all threads. Throws std::invalid_argument if there is no such layout.
double matmul_flops(const std::string& name) {
  constexpr int64_t kRows = 48, kBlocks = 4, kColumns = 16 * kBlocks, kDepth = 256, kRepeat = 16, kParts = 32;
  const Layout& layout = layout_of(name);
  const MatrixKernels& kernel = kernels().matrices[kernels_of(layout)];
  const DType dtype = kernel.pack == pack_of(DType::kFloat32) ? DType::kFloat32 : DType::kBFloat16;
  ThreadPool& pool = ThreadPool::instance();
  const int64_t stride = kernel.prepares_rows() ? kernel.row_bytes(kDepth) : kDepth;
  const int64_t a = round_up(kRows * stride * (kernel.prepares_rows() ? 1 : bytes_of(dtype)), 64);
  const int64_t w = round_up(kBlocks * layout.block_bytes(kDepth), 64), out = kRows * kColumns * 4;
  const int64_t all = a + w + out + kMatmulScratch * 4, parts = kParts * pool.size();
  Buffer memory(all * parts);
  double best = 0;
  for (int round = 0; round < 3; ++round) {
    const auto begin = std::chrono::steady_clock::now();
    pool.parallel_for(parts, [&](int64_t part) {
      char* base = memory.as<char>() + part * all;
      const Matmul m{base,         stride,   base + a, kDepth, kBlocks, nullptr, Epilogue::kStoreFloat,
                     base + a + w, kColumns, dtype};
      for (int64_t i = 0; i < kRepeat; ++i)
        kernel.matmul(m, 0, kRows, 0, kBlocks, reinterpret_cast<float*>(base + a + w + out));
    });
    best =
        std::max(best, 2.0 * kRows * kColumns * kDepth * kRepeat * static_cast<double>(parts) / seconds_since(begin));
  }
  return best;
}

}  // namespace

void bind_machine(nb::module_& m) {
  m.def("read_bandwidth", &read_bandwidth, nb::arg("bytes"), nb::call_guard<nb::gil_scoped_release>(),
        "Bytes per second that all threads read from memory.");
  m.def("matmul_flops", &matmul_flops, nb::arg("layout"), nb::call_guard<nb::gil_scoped_release>(),
        "FLOP/s of the matmul kernel of a layout of weights on data in cache, all threads.");
}

}  // namespace octavo
