#include "ops/mel.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <numbers>

namespace octavo {
namespace {

constexpr int kSignals = 4;  // complex signals that are transformed side by side
// The real part of a signal is one frame, the imaginary part the next: their spectra come apart by symmetry.
constexpr int kBlockFrames = 2 * kSignals;

struct Complex {
  double re[kSignals], im[kSignals];
};

struct Block {
  Complex x[kFrameSamples], y[kFrameSamples];
  double power[kBins][kBlockFrames];
};

struct Tables {
  double cosine[kFrameSamples], sine[kFrameSamples];  // roots of unity, clockwise
  double window[kFrameSamples];                       // Hann's, periodic

  Tables() {
    for (int i = 0; i < kFrameSamples; ++i) {
      const double angle = 2 * std::numbers::pi * i / kFrameSamples;
      cosine[i] = std::cos(angle);
      sine[i] = -std::sin(angle);
      window[i] = 0.5 - 0.5 * cosine[i];
    }
  }
};

const Tables& tables() {
  static const Tables tables;
  return tables;
}

// The windowed frames from `first_frame` on, as signals; frames after the last are zero.
void load_frames(const float* samples, int64_t num_samples, int64_t first_frame, Complex* x) {
  const double* window = tables().window;
  const int64_t last = num_samples - 1;
  for (int f = 0; f < kBlockFrames; ++f) {
    const int64_t start = (first_frame + f) * kHopSamples - kFrameSamples / 2;
    const bool exists = first_frame + f < mel_frames(num_samples);
    for (int i = 0; i < kFrameSamples; ++i) {
      const int64_t inside = last - std::abs(last - std::abs(start + i));  // reflected at both ends
      const double value = exists ? window[i] * samples[inside] : 0;
      (f % 2 == 0 ? x[i].re : x[i].im)[f / 2] = value;
    }
  }
}

// One pass of a Stockham transform. `kStride` transforms of kRadix * kPart elements are left to do; each is cut into
// kRadix times as many of kPart. Twiddles and butterfly are one root, so that every radix is the same dense sum.
template <int kRadix, int kPart, int kStride>
void pass(const Complex* x, Complex* y) {
  const Tables& roots = tables();
  for (int p = 0; p < kPart; ++p) {
    for (int j = 0; j < kRadix; ++j) {
      double cosine[kRadix], sine[kRadix];
      for (int i = 0; i < kRadix; ++i) {
        const int root = j * (p + i * kPart) % (kRadix * kPart) * kStride;
        cosine[i] = roots.cosine[root];
        sine[i] = roots.sine[root];
      }
      for (int q = 0; q < kStride; ++q) {
        Complex sum = {};
        for (int i = 0; i < kRadix; ++i) {
          const Complex& value = x[q + kStride * (p + i * kPart)];
          for (int s = 0; s < kSignals; ++s) {
            sum.re[s] += value.re[s] * cosine[i] - value.im[s] * sine[i];
            sum.im[s] += value.re[s] * sine[i] + value.im[s] * cosine[i];
          }
        }
        y[q + kStride * (kRadix * p + j)] = sum;
      }
    }
  }
}

void transform(Block& block) {
  static_assert(4 * 4 * 5 * 5 == kFrameSamples);
  pass<4, 100, 1>(block.x, block.y);
  pass<4, 25, 4>(block.y, block.x);
  pass<5, 5, 16>(block.x, block.y);
  pass<5, 1, 80>(block.y, block.x);
}

// Frames a and b of a signal a + ib: A = (X[k] + conj X[-k]) / 2, and B the same with a minus, turned by -i.
void take_powers(Block& block) {
  for (int k = 0; k < kBins; ++k) {
    const Complex& up = block.x[k];
    const Complex& down = block.x[k == 0 ? 0 : kFrameSamples - k];
    for (int s = 0; s < kSignals; ++s) {
      const double a_re = up.re[s] + down.re[s], a_im = up.im[s] - down.im[s];
      const double b_re = up.im[s] + down.im[s], b_im = up.re[s] - down.re[s];
      block.power[k][2 * s] = 0.25 * (a_re * a_re + a_im * a_im);
      block.power[k][2 * s + 1] = 0.25 * (b_re * b_re + b_im * b_im);
    }
  }
}

// log10 of what a filter lets through of each frame; only bins inside [first, last) do.
void filter_block(const Block& block, const double* filter, int first, int last, int num_frames, float* out) {
  double energy[kBlockFrames] = {};
  for (int k = first; k < last; ++k) {
    for (int f = 0; f < kBlockFrames; ++f) energy[f] += filter[k] * block.power[k][f];
  }
  for (int f = 0; f < num_frames; ++f) {
    out[f] = std::log2(float(std::max(energy[f], 1e-10))) * float(std::numbers::ln2 / std::numbers::ln10);
  }
}

// The scale is linear up to 1000 Hz, which is 15 mel; above, 27 mel are a factor of 6.4.
const double kMelsOfFactor = 27 / std::log(6.4);

double mel_of_hz(double hz) { return hz < 1000 ? hz * 15 / 1000 : 15 + std::log(hz / 1000) * kMelsOfFactor; }

double hz_of_mel(double mel) { return mel < 15 ? mel * 1000 / 15 : 1000 * std::exp((mel - 15) / kMelsOfFactor); }

}  // namespace

std::vector<double> mel_filter_bank(int n_mels) {
  const double top = mel_of_hz(kSampleRate / 2);
  auto corner = [&](int i) { return hz_of_mel(top * i / (n_mels + 1)); };
  std::vector<double> filters(size_t(n_mels) * kBins);
  for (int m = 0; m < n_mels; ++m) {
    const double low = corner(m), peak = corner(m + 1), high = corner(m + 2);
    for (int k = 0; k < kBins; ++k) {
      const double hz = double(k) * kSampleRate / kFrameSamples;
      const double height = std::min((hz - low) / (peak - low), (high - hz) / (high - peak));
      filters[size_t(m) * kBins + k] = std::max(height, 0.0) * 2 / (high - low);
    }
  }
  return filters;
}

void log_mel(const float* samples, int64_t num_samples, int n_mels, float* out) {
  const std::vector<double> filters = mel_filter_bank(n_mels);
  std::vector<int> first(n_mels), last(n_mels);
  for (int m = 0; m < n_mels; ++m) {
    const double* filter = &filters[size_t(m) * kBins];
    auto passes = [](double weight) { return weight != 0; };
    first[m] = int(std::find_if(filter, filter + kBins, passes) - filter);
    last[m] = first[m] + int(std::count_if(filter, filter + kBins, passes));
  }

  const auto block = std::make_unique<Block>();
  const int64_t frames = mel_frames(num_samples);
  for (int64_t frame = 0; frame < frames; frame += kBlockFrames) {
    load_frames(samples, num_samples, frame, block->x);
    transform(*block);
    take_powers(*block);
    const int num_frames = int(std::min<int64_t>(kBlockFrames, frames - frame));
    for (int m = 0; m < n_mels; ++m) {
      filter_block(*block, &filters[size_t(m) * kBins], first[m], last[m], num_frames, out + m * frames + frame);
    }
  }

  const int64_t count = n_mels * frames;
  const float floor = count == 0 ? 0 : *std::max_element(out, out + count) - 8;
  for (int64_t i = 0; i < count; ++i) out[i] = (std::max(out[i], floor) + 4) / 4;
}

}  // namespace octavo
