#include "ops/executor.h"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cstring>

namespace nb = nanobind;

namespace octavo {

namespace {

using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Ints = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using FloatTable = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using IntTable = nb::ndarray<const int32_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Source = std::tuple<std::string, Bytes, int64_t, int64_t, std::optional<Ints>>;
using Weight = std::shared_ptr<const PackedWeight>;

DType dtype_of(const std::string& name) {
  if (name == "float32") return DType::kFloat32;
  if (name == "bfloat16") return DType::kBFloat16;
  throw nb::value_error(("dtype must be float32 or bfloat16, got " + name).c_str());
}

Epilogue epilogue_of(const std::string& name) {
  if (name == "store_float") return Epilogue::kStoreFloat;
  if (name == "add") return Epilogue::kAdd;
  if (name == "silu_mul") return Epilogue::kSiluMul;
  if (name == "gelu") return Epilogue::kGelu;
  if (name == "store") return Epilogue::kStore;
  throw nb::value_error(("no such epilogue: " + name).c_str());
}

// Checks that every source's bytes are all there, so that the loops below need not.
Weight pack_sources(const std::vector<Source>& sources, const std::string& arrangement, const std::string& dtype) {
  std::vector<StoredRows> rows;
  if (sources.empty()) throw nb::value_error("nothing to pack");
  for (const auto& [format_name, data, n, k, order] : sources) {
    const Format format = format_of(format_name);
    const FormatInfo& info = format_info(format);
    if (n < 1 || k < 1 || k % info.block != 0 || data.size() != static_cast<size_t>(n * (k / info.block) * info.bytes))
      throw nb::value_error("stored rows: the number of bytes does not fit the shape");
    if (k != std::get<3>(sources[0])) throw nb::value_error("stored rows: columns differ");
    if (order) {
      if (order->size() != static_cast<size_t>(n)) throw nb::value_error("stored rows: order has another length");
      for (size_t i = 0; i < order->size(); ++i)
        if ((*order)(i) < 0 || (*order)(i) >= n) throw nb::value_error("stored rows: order leads outside");
    }
    rows.push_back({format, data.data(), n, k, order ? order->data() : nullptr});
  }
  const bool alternating = arrangement == "alternating";
  if (!alternating && arrangement != "stacked") throw nb::value_error("arrangement: stacked or alternating");
  const DType to = dtype_of(dtype);
  nb::gil_scoped_release release;
  return std::make_shared<PackedWeight>(
      pack(rows, alternating ? Arrangement::kAlternating : Arrangement::kStacked, to));
}

std::shared_ptr<const Buffer> padded(const std::optional<Floats>& values) {
  if (!values) return nullptr;
  auto buffer = std::make_shared<Buffer>(round_up(values->size(), 16) * sizeof(float));
  std::memcpy(buffer->as<void>(), values->data(), values->size() * sizeof(float));
  return buffer;
}

void add_matmul(Executor& e, int x, Weight weight, const std::optional<Floats>& bias, const std::string& epilogue,
                int out, bool logit_rows) {
  if (bias && bias->size() != static_cast<size_t>(weight->n)) throw nb::value_error("matmul: bias has another length");
  Op op{.kind = OpKind::kMatmul, .in = x, .out = out, .logit_rows = logit_rows};
  op.weight = std::move(weight);
  op.vector = padded(bias);
  op.epilogue = epilogue_of(epilogue);
  e.add_op(std::move(op));
}

void add_rms_norm(Executor& e, int x, Floats weight, float eps, int out, bool logit_rows) {
  Op op{.kind = OpKind::kRmsNorm, .in = x, .out = out, .logit_rows = logit_rows};
  op.vector = padded(weight);
  op.eps = eps;
  op.columns = weight.size();
  e.add_op(std::move(op));
}

void add_layer_norm(Executor& e, int x, Floats weight, Floats bias, float eps, int out, bool logit_rows) {
  if (weight.size() != bias.size()) throw nb::value_error("layer_norm: weight and bias differ in length");
  Op op{.kind = OpKind::kLayerNorm, .in = x, .out = out, .logit_rows = logit_rows};
  op.vector = padded(weight);
  op.bias = padded(bias);
  op.eps = eps;
  op.columns = weight.size();
  e.add_op(std::move(op));
}

void add_table(Executor& e, OpKind kind, Weight weight, int out) {
  Op op{.kind = kind, .out = out};
  op.weight = std::move(weight);
  e.add_op(std::move(op));
}

void add_unfold(Executor& e, int x, int kernel, int stride, int out) {
  Op op{.kind = OpKind::kUnfold, .in = x, .out = out};
  op.kernel = kernel;
  op.stride = stride;
  e.add_op(std::move(op));
}

Sight sight_of(const std::string& name) {
  if (name == "causal") return Sight::kCausal;
  if (name == "all") return Sight::kAll;
  if (name == "source") return Sight::kSource;
  throw nb::value_error(("sight must be causal, all or source, got " + name).c_str());
}

void add_pointwise(Executor& e, OpKind kind, int a, int b, int64_t columns, int out) {
  Op op{.kind = kind, .in = a, .in2 = b, .out = out};
  op.columns = columns;
  e.add_op(std::move(op));
}

Step step_of(Ints tokens, Ints starts, Ints counts, IntTable tables, Ints logit_rows, IntTable copies) {
  if (starts.size() != counts.size() || tables.shape(0) != starts.size() ||
      (copies.shape(0) > 0 && copies.shape(1) != 2))
    throw nb::value_error("step: arrays disagree");
  Step step;
  step.num_tokens = static_cast<int>(tokens.size());
  step.num_sequences = static_cast<int>(starts.size());
  step.num_logit_rows = static_cast<int>(logit_rows.size());
  step.num_copies = static_cast<int>(copies.shape(0));
  step.tokens = tokens.data();
  step.starts = starts.data();
  step.counts = counts.data();
  step.block_tables = tables.data();
  step.block_table_stride = tables.shape(1);
  step.logit_rows = logit_rows.data();
  step.copies = copies.data();
  return step;
}

void add_sources(Step& step, const std::optional<IntTable>& tables, const std::optional<Ints>& lengths) {
  if (tables.has_value() != lengths.has_value()) throw nb::value_error("step: sources need tables and lengths");
  if (!tables) return;
  const auto sequences = static_cast<size_t>(step.num_sequences);
  if (tables->shape(0) != sequences || lengths->size() != sequences)
    throw nb::value_error("step: sources and sequences disagree");
  step.source_tables = tables->data();
  step.source_table_stride = tables->shape(1);
  step.source_lengths = lengths->data();
}

// Runs operations [first, last) of an encoder for positions [first, last) of a source that lies in `blocks`.
void encode(Executor& e, FloatTable features, Ints blocks, int positions, std::pair<int, int> ops,
            std::pair<int, int> tokens) {
  const int32_t start = 0, count = positions;
  const auto rows = static_cast<size_t>(int64_t{e.features_rows()} * positions);
  if (features.shape(0) != rows || features.shape(1) != static_cast<size_t>(e.features_stride()))
    throw nb::value_error("encode: features have another shape");
  Step step;
  step.num_tokens = positions;
  step.num_sequences = 1;
  step.starts = &start;
  step.counts = &count;
  step.block_tables = blocks.data();
  step.block_table_stride = static_cast<int64_t>(blocks.size());
  step.features = features.data();
  step.features_stride = e.features_stride();
  std::tie(step.first_op, step.last_op) = ops;
  std::tie(step.first_token, step.last_token) = tokens;
  nb::gil_scoped_release release;
  e.run(step);
}

nb::ndarray<nb::numpy, float, nb::ndim<3>> keys_of(const Executor& e, int layer, Ints blocks, int positions) {
  auto* values =
      new std::vector<float>(e.read_keys(layer, blocks.data(), static_cast<int64_t>(blocks.size()), positions));
  nb::capsule owner(values, [](void* p) noexcept { delete static_cast<std::vector<float>*>(p); });
  const size_t shape[3] = {static_cast<size_t>(e.config().kv_heads), static_cast<size_t>(positions),
                           static_cast<size_t>(e.config().head_dim)};
  return {values->data(), 3, shape, owner};
}

nb::ndarray<nb::numpy, const float, nb::ndim<2>> logits_view(const Executor& e, size_t rows, nb::handle owner) {
  const size_t shape[2] = {rows, static_cast<size_t>(e.config().vocab_size)};
  const int64_t strides[2] = {e.logits_stride(), 1};
  return {e.logits(), 2, shape, owner, strides};
}

}  // namespace

void bind_executor(nb::module_& m) {
  nb::class_<PackedWeight>(m, "PackedWeight")
      .def_ro("n", &PackedWeight::n)
      .def_ro("k", &PackedWeight::k)
      .def_prop_ro("nbytes", [](const PackedWeight& w) { return w.memory.bytes(); });
  m.def("pack", &pack_sources, nb::arg("sources"), nb::arg("arrangement"), nb::arg("dtype"),
        "Packs rows [(format, bytes, rows, columns, row order or None), ...] into the kernels' layout.");

  nb::class_<Executor>(m, "Executor")
      .def(
          "__init__",
          [](Executor* self, const std::string& dtype, int num_layers, int kv_heads, int head_dim, int page_tokens,
             int64_t num_pages, int max_tokens, int max_sequences, int max_logit_rows, int vocab_size,
             const Executor* decoder) {
            new (self) Executor({dtype_of(dtype), num_layers, kv_heads, head_dim, page_tokens, num_pages, max_tokens,
                                 max_sequences, max_logit_rows, vocab_size},
                                decoder);
          },
          nb::kw_only(), nb::arg("dtype"), nb::arg("num_layers"), nb::arg("kv_heads"), nb::arg("head_dim"),
          nb::arg("page_tokens"), nb::arg("num_pages"), nb::arg("max_tokens"), nb::arg("max_sequences"),
          nb::arg("max_logit_rows"), nb::arg("vocab_size"), nb::arg("decoder").none() = nb::none(),
          "With `decoder`, an encoder that leaves keys and values in that executor's cache.")
      .def(
          "buffer",
          [](Executor& e, int64_t columns, bool floats, bool logit_rows, int rows_per_token) {
            return e.add_buffer(columns, floats ? DType::kFloat32 : e.config().dtype, logit_rows, rows_per_token);
          },
          nb::arg("columns"), nb::arg("floats"), nb::arg("logit_rows") = false, nb::arg("rows_per_token") = 1)
      .def(
          "rope_table",
          [](Executor& e, Floats frequencies, float scale, bool interleaved) {
            return e.add_rope({frequencies.data(), frequencies.data() + frequencies.size()}, scale, interleaved);
          },
          nb::arg("inverse_frequencies"), nb::arg("scale"), nb::arg("interleaved"))
      .def(
          "embed", [](Executor& e, Weight weight, int out) { add_table(e, OpKind::kEmbed, std::move(weight), out); },
          nb::arg("weight"), nb::arg("out"))
      .def(
          "positions",
          [](Executor& e, Weight weight, int out) { add_table(e, OpKind::kPositions, std::move(weight), out); },
          nb::arg("weight"), nb::arg("out"))
      .def(
          "features",
          [](Executor& e, int64_t columns, int out) {
            Op op{.kind = OpKind::kFeatures, .out = out};
            op.columns = columns;
            e.add_op(std::move(op));
          },
          nb::arg("columns"), nb::arg("out"))
      .def("unfold", &add_unfold, nb::arg("x"), nb::arg("kernel"), nb::arg("stride"), nb::arg("out"))
      .def("layer_norm", &add_layer_norm, nb::arg("x"), nb::arg("weight"), nb::arg("bias"), nb::arg("eps"),
           nb::arg("out"), nb::arg("logit_rows") = false)
      .def("rms_norm", &add_rms_norm, nb::arg("x"), nb::arg("weight"), nb::arg("eps"), nb::arg("out"),
           nb::arg("logit_rows") = false)
      .def("matmul", &add_matmul, nb::arg("x"), nb::arg("weight"), nb::arg("bias").none(), nb::arg("epilogue"),
           nb::arg("out"), nb::arg("logit_rows") = false)
      .def(
          "rope",
          [](Executor& e, int qkv, int heads, int table, int layer, int out) {
            Op op{.kind = OpKind::kRope, .in = qkv, .out = out};
            op.heads = heads;
            op.rope = table;
            op.layer = layer;
            e.add_op(std::move(op));
          },
          nb::arg("qkv"), nb::arg("heads"), nb::arg("table"), nb::arg("layer"), nb::arg("out"))
      .def(
          "attention",
          [](Executor& e, int q, int heads, int layer, int window, float scale, int out, const std::string& sight) {
            Op op{.kind = OpKind::kAttention, .in = q, .out = out};
            op.sight = sight_of(sight);
            op.heads = heads;
            op.layer = layer;
            op.window = window;
            op.scale = scale;
            e.add_op(std::move(op));
          },
          nb::arg("q"), nb::arg("heads"), nb::arg("layer"), nb::arg("window"), nb::arg("scale"), nb::arg("out"),
          nb::arg("sight") = "causal")
      .def("add", [](Executor& e, int a, int b, int64_t n, int out) { add_pointwise(e, OpKind::kAdd, a, b, n, out); })
      .def("silu_mul",
           [](Executor& e, int a, int b, int64_t n, int out) { add_pointwise(e, OpKind::kSiluMul, a, b, n, out); })
      .def("gelu", [](Executor& e, int a, int64_t n, int out) { add_pointwise(e, OpKind::kGelu, a, a, n, out); })
      .def("narrow", [](Executor& e, int a, int64_t n, int out) { add_pointwise(e, OpKind::kNarrow, a, a, n, out); })
      .def("set_logits", &Executor::set_logits, nb::arg("buffer"))
      .def(
          "run",
          [](Executor& e, Ints tokens, Ints starts, Ints counts, IntTable tables, Ints logit_rows, IntTable copies,
             std::optional<IntTable> source_tables, std::optional<Ints> source_lengths, int first_op, int last_op) {
            Step step = step_of(tokens, starts, counts, tables, logit_rows, copies);
            add_sources(step, source_tables, source_lengths);
            step.first_op = first_op;
            step.last_op = last_op;
            nb::gil_scoped_release release;
            e.run(step);
          },
          nb::arg("tokens"), nb::arg("starts"), nb::arg("counts"), nb::arg("block_tables"), nb::arg("logit_rows"),
          nb::arg("copies"), nb::arg("source_tables") = nb::none(), nb::arg("source_lengths") = nb::none(),
          nb::arg("first_op") = 0, nb::arg("last_op") = 1 << 30,
          "Computes one step, or a part of it; its logits are then in logits(rows).")
      .def("encode", &encode, nb::arg("features"), nb::arg("blocks"), nb::arg("positions"), nb::arg("ops"),
           nb::arg("tokens"), "Runs a part of an encoder's tape over float32 features [rows, columns padded to 16].")
      .def(
          "logits", [](nb::handle self, size_t rows) { return logits_view(nb::cast<Executor&>(self), rows, self); },
          nb::arg("rows"), "The last step's logits, float32 [rows, vocab_size]: a view, valid until the next step.")
      .def("keys", &keys_of, nb::arg("layer"), nb::arg("blocks"), nb::arg("positions"),
           "The keys in blocks of the cache: float32 [kv_heads, positions, head_dim].")
      .def("read_row", &Executor::read_row, nb::arg("buffer"), nb::arg("row"), nb::arg("columns"))
      .def("set_profiling", &Executor::set_profiling, nb::arg("on"))
      .def("profile",
           [](const Executor& e) {
             std::vector<std::pair<std::string, double>> rows;
             for (size_t i = 0; i < e.ops().size(); ++i)
               rows.emplace_back(name_of(e.ops()[i].kind), e.seconds_of_ops()[i]);
             return rows;
           })
      .def_prop_ro("workspace_bytes", &Executor::workspace_bytes)
      .def_prop_ro("kv_bytes", &Executor::kv_bytes);
}

}  // namespace octavo
