// Log-mel spectrograms, as Whisper was trained on them.

#pragma once

#include <cstdint>
#include <vector>

namespace octavo {

constexpr int kSampleRate = 16000;
constexpr int kFrameSamples = 400;  // 25 ms, the size of the Fourier transform
constexpr int kHopSamples = 160;    // 10 ms, from frame to frame
constexpr int kBins = kFrameSamples / 2 + 1;

// Triangular filters on Slaney's mel scale from 0 to 8000 Hz, each of area 1 over its Hz: [n_mels][kBins].
std::vector<double> mel_filter_bank(int n_mels);

// Frame f is centred on sample f * kHopSamples; what lies beyond the ends is their reflection.
inline int64_t mel_frames(int64_t num_samples) { return num_samples / kHopSamples; }

// Writes out[n_mels][mel_frames]. Every value is max(log10 energy, the largest of them all - 8) / 4 + 1. There must be
// more than kFrameSamples / 2 samples, all finite. One thread computes, in double up to the logarithm: a weak band
// beside a loud one keeps its digits, and the bits do not depend on the number of threads.
void log_mel(const float* samples, int64_t num_samples, int n_mels, float* out);

}  // namespace octavo
