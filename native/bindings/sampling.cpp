// A SequenceSampler per sequence, sample() per step, top_logprobs() for prompts and beams.
#include "ops/sampling.h"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>

#include "bindings/masks.h"
#include "kernels/sampling_table.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace octavo {

namespace {

using Logits = nb::ndarray<const float, nb::ndim<2>, nb::device::cpu>;
template <class T>
using Array = nb::ndarray<nb::numpy, const T>;

// An array over memory that `owner`, a Python object, keeps alive.
template <class T>
Array<T> view(const std::vector<T>& values, nb::handle owner, std::vector<size_t> shape = {}) {
  if (shape.empty()) shape = {values.size()};
  return Array<T>(values.data(), shape.size(), shape.data(), owner);
}

// The array `member` of the object `self`, which keeps it alive.
template <auto member, class C>
auto array_of(nb::handle self) {
  return view(nb::cast<C&>(self).*member, self);
}

// One with k columns for each row.
template <auto member>
auto columns_of(nb::handle self) {
  auto& top = nb::cast<TopLogprobs&>(self);
  return view(top.*member, self, {top.chosen.size(), static_cast<size_t>(top.k)});
}

LogitRows rows_of(const Logits& logits) {
  if (logits.shape(1) > 1 && logits.stride(1) != 1)
    throw std::invalid_argument("the logits of a row must lie side by side");
  return {logits.data(), static_cast<int64_t>(logits.shape(0)), static_cast<int64_t>(logits.shape(1)),
          logits.stride(0)};
}

}  // namespace

void bind_sampling(nb::module_& m) {
  m.attr("SAMPLING_BLOCK") = kSamplingBlock;
  nb::class_<SequenceSampler>(m, "SequenceSampler", "Options, rules, output and random stream of one sequence.")
      .def(nb::init<Parameters::Values, SequenceSampler::Rules, uint64_t>(), "options"_a, "rules"_a, "seed"_a,
           "`rules` are names and parameters, in order: see octavo.sampling.options.SamplerOptions.as_data.")
      .def("accept", &SequenceSampler::accept, "token"_a, "Appends a token to the output.")
      .def_prop_ro("num_output", &SequenceSampler::num_output);

  nb::class_<SampleResult>(m, "SampleResult", "One entry per sampler; arrays are views into this object.")
      .def_prop_ro("tokens", &array_of<&SampleResult::tokens, SampleResult>,
                   "int32 [n]; -1 where the row has NaN or infinity, -2 where the sampler bans every token")
      .def_prop_ro("logprobs", &array_of<&SampleResult::logprobs, SampleResult>,
                   "float32 [n], of the raw or, where the sampler says so, the adjusted logits; NaN where it has "
                   "num_logprobs=-1")
      .def_prop_ro("ranks", &array_of<&SampleResult::ranks, SampleResult>,
                   "int32 [n]; 1 is the likeliest, 0 where the sampler has num_logprobs=-1")
      .def(
          "top",
          [](nb::handle self, size_t i) {
            const TopTokens& top = nb::cast<SampleResult&>(self).top.at(i);
            return std::pair(view(top.ids, self), view(top.logprobs, self));
          },
          "i"_a, "The likeliest tokens for sampler i, likeliest first: ids int32 [k], logprobs float32 [k]");

  m.def(
      "sample",
      [](const Logits& logits, const std::vector<int64_t>& rows, const std::vector<const SequenceSampler*>& samplers,
         const std::optional<MaskArray>& masks, const std::vector<int64_t>& mask_rows) {
        const LogitRows view = rows_of(logits);
        nb::gil_scoped_release release;
        return sample(view, rows, samplers, masks_of(masks), mask_rows);
      },
      "logits"_a, "rows"_a, "samplers"_a, "masks"_a = nb::none(), "mask_rows"_a = std::vector<int64_t>{},
      "Draws a token for each sampler from the row of logits [rows, vocab] named for it. `masks`, uint32 [masks, "
      "words], "
      "have a bit for each token that may be drawn; `mask_rows` names one for each sampler, or -1.");

  nb::class_<TopLogprobs>(m, "TopLogprobs", "One entry per row; arrays are views into this object.")
      .def_prop_ro("ids", &columns_of<&TopLogprobs::ids>,
                   "int32 [rows, k], likeliest first; -1 where the row has NaN or infinity, or nothing more is "
                   "possible")
      .def_prop_ro("logprobs", &columns_of<&TopLogprobs::logprobs>, "float32 [rows, k]; NaN where ids is -1")
      .def_prop_ro("chosen", &array_of<&TopLogprobs::chosen, TopLogprobs>, "float32 [rows], logprob of the row's token")
      .def_prop_ro("ranks", &array_of<&TopLogprobs::ranks, TopLogprobs>,
                   "int32 [rows], rank of the row's token, 1 is the likeliest");

  m.def(
      "top_logprobs",
      [](const Logits& logits, int64_t k, const TokenIds& token_ids) {
        const LogitRows view = rows_of(logits);
        nb::gil_scoped_release release;
        return top_logprobs(view, k, token_ids);
      },
      "logits"_a, "k"_a, "token_ids"_a,
      "The k likeliest tokens of each row, and how likely the row's token in token_ids is.");
}

}  // namespace octavo
