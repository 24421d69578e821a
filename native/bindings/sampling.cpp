// A SequenceSampler per sequence, sample() per step, top_logprobs() for prompts and beams.
#include "ops/sampling.h"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

namespace nb = nanobind;
using namespace nb::literals;

namespace octavo {

namespace {

using Logits = nb::ndarray<const float, nb::ndim<2>, nb::device::cpu>;
using Ids = std::vector<int32_t>;
using Timestamps = std::tuple<int32_t, int32_t, int32_t>;
template <class T>
using Array = nb::ndarray<nb::numpy, const T>;

// An array over memory that `owner`, a Python object, keeps alive.
template <class T>
Array<T> view(const std::vector<T>& values, nb::handle owner, std::vector<size_t> shape = {}) {
  if (shape.empty()) shape = {values.size()};
  return Array<T>(values.data(), shape.size(), shape.data(), owner);
}

LogitRows rows_of(const Logits& logits) {
  if (logits.shape(1) > 1 && logits.stride(1) != 1)
    throw std::invalid_argument("the logits of a row must lie side by side");
  return {logits.data(), static_cast<int64_t>(logits.shape(0)), static_cast<int64_t>(logits.shape(1)),
          logits.stride(0)};
}

void init_sampler(SequenceSampler* self, int64_t vocab_size, double temperature, double top_p, int64_t top_k,
                  double min_p, float presence_penalty, float frequency_penalty, float repetition_penalty,
                  uint64_t seed, Ids bias_ids, std::vector<float> bias_values, Ids allowed_ids,
                  std::vector<Ids> bad_words, int64_t min_tokens, Ids early_stop_ids, const Ids& prompt_token_ids,
                  int64_t num_logprobs, bool adjusted_logprobs, const std::optional<Timestamps>& timestamps) {
  SamplingOptions options{
      .vocab_size = vocab_size,
      .temperature = temperature,
      .top_p = top_p,
      .top_k = top_k,
      .min_p = min_p,
      .presence_penalty = presence_penalty,
      .frequency_penalty = frequency_penalty,
      .repetition_penalty = repetition_penalty,
      .num_logprobs = num_logprobs,
      .adjusted_logprobs = adjusted_logprobs,
      .min_tokens = min_tokens,
      .bias_ids = std::move(bias_ids),
      .bias_values = std::move(bias_values),
      .allowed_ids = std::move(allowed_ids),
      .early_stop_ids = std::move(early_stop_ids),
      .bad_words = std::move(bad_words),
      .timestamps = {},
  };
  if (timestamps) {
    const auto [begin, end_of_text, max_initial] = *timestamps;
    options.timestamps = TimestampRules{begin, end_of_text, max_initial};
  }
  new (self) SequenceSampler(std::move(options), seed, prompt_token_ids);
}

}  // namespace

void bind_sampling(nb::module_& m) {
  using nb::handle;

  nb::class_<SequenceSampler>(m, "SequenceSampler",
                              "Sampling parameters, output history and random stream of one sequence.")
      .def("__init__", &init_sampler, "vocab_size"_a, nb::kw_only(), "temperature"_a = 1.0, "top_p"_a = 1.0,
           "top_k"_a = 0, "min_p"_a = 0.0, "presence_penalty"_a = 0.0f, "frequency_penalty"_a = 0.0f,
           "repetition_penalty"_a = 1.0f, "seed"_a = 0, "bias_ids"_a = Ids(), "bias_values"_a = std::vector<float>(),
           "allowed_ids"_a = Ids(), "bad_words"_a = std::vector<Ids>(), "min_tokens"_a = 0, "early_stop_ids"_a = Ids(),
           "prompt_token_ids"_a = Ids(), "num_logprobs"_a = -1, "adjusted_logprobs"_a = false,
           "timestamps"_a = nb::none())
      .def("accept", &SequenceSampler::accept, "token"_a, "Appends a token to the output.")
      .def("fork", &SequenceSampler::fork, "seed"_a, "A copy with the same history and another random stream.")
      .def_prop_ro("num_output", &SequenceSampler::num_output);

  nb::class_<SampleResult>(m, "SampleResult", "One entry per sampler; arrays are views into this object.")
      .def_prop_ro(
          "tokens", [](handle self) { return view(nb::cast<SampleResult&>(self).tokens, self); },
          "int32 [n]; -1 where the row has NaN or infinity, -2 where the sampler bans every token")
      .def_prop_ro(
          "logprobs", [](handle self) { return view(nb::cast<SampleResult&>(self).logprobs, self); },
          "float32 [n], of the raw or, where the sampler says so, the adjusted logits; NaN where it has "
          "num_logprobs=-1")
      .def_prop_ro(
          "ranks", [](handle self) { return view(nb::cast<SampleResult&>(self).ranks, self); },
          "int32 [n]; 1 is the likeliest, 0 where the sampler has num_logprobs=-1")
      .def(
          "top",
          [](handle self, size_t i) {
            const TopTokens& top = nb::cast<SampleResult&>(self).top.at(i);
            return std::pair(view(top.ids, self), view(top.logprobs, self));
          },
          "i"_a, "The likeliest tokens for sampler i, likeliest first: ids int32 [k], logprobs float32 [k]");

  m.def(
      "sample",
      [](const Logits& logits, const std::vector<int64_t>& rows, const std::vector<const SequenceSampler*>& samplers) {
        const LogitRows view = rows_of(logits);
        nb::gil_scoped_release release;
        return sample(view, rows, samplers);
      },
      "logits"_a, "rows"_a, "samplers"_a,
      "Draws a token for each sampler from the row of logits [rows, vocab] named for it.");

  nb::class_<TopLogprobs>(m, "TopLogprobs", "One entry per row; arrays are views into this object.")
      .def_prop_ro(
          "ids",
          [](handle self) {
            auto& top = nb::cast<TopLogprobs&>(self);
            return view(top.ids, self, {top.chosen.size(), static_cast<size_t>(top.k)});
          },
          "int32 [rows, k], likeliest first; -1 where the row has NaN or infinity, or nothing more is "
          "possible")
      .def_prop_ro(
          "logprobs",
          [](handle self) {
            auto& top = nb::cast<TopLogprobs&>(self);
            return view(top.logprobs, self, {top.chosen.size(), static_cast<size_t>(top.k)});
          },
          "float32 [rows, k]; NaN where ids is -1")
      .def_prop_ro(
          "chosen", [](handle self) { return view(nb::cast<TopLogprobs&>(self).chosen, self); },
          "float32 [rows], logprob of the row's token")
      .def_prop_ro(
          "ranks", [](handle self) { return view(nb::cast<TopLogprobs&>(self).ranks, self); },
          "int32 [rows], rank of the row's token, 1 is the likeliest");

  m.def(
      "top_logprobs",
      [](const Logits& logits, int64_t k, const Ids& token_ids) {
        const LogitRows view = rows_of(logits);
        nb::gil_scoped_release release;
        return top_logprobs(view, k, token_ids);
      },
      "logits"_a, "k"_a, "token_ids"_a,
      "The k likeliest tokens of each row, and how likely the row's token in token_ids is.");
}

}  // namespace octavo
