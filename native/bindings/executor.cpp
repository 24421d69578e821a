#include "ops/executor.h"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>

#include <cstring>

#include "bindings/masks.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace octavo {

namespace {

using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Ints = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using FloatTable = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using IntTable = nb::ndarray<const int32_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
// Format, bytes, rows, columns, the order of rows, and, of a format that has them, scales of stored rows.
using Source = std::tuple<std::string, Bytes, int64_t, int64_t, std::optional<Ints>, std::optional<Floats>>;
using Matrix = std::shared_ptr<const PackedMatrix>;
using Columns = std::tuple<int, int64_t, int64_t>;  // of a buffer: its number, the first, and how many
using Layers = std::vector<std::tuple<int, int, int, int>>;

DType dtype_of(const std::string& name) {
  if (name == "float32") return DType::kFloat32;
  if (name == "bfloat16") return DType::kBFloat16;
  throw nb::value_error(("dtype must be float32 or bfloat16, got " + name).c_str());
}

DType cache_dtype_of(const std::string& name) { return name == "int8" ? DType::kInt8 : dtype_of(name); }

std::vector<LayerSpec> layers_of(const Layers& layers) {
  std::vector<LayerSpec> specs;
  for (const auto& [kv_heads, key_dim, value_dim, group] : layers)
    specs.push_back({kv_heads, key_dim, value_dim, group});
  return specs;
}

// Checks that every source's bytes are all there, so that the loops of packing need not.
StoredRows rows_of(const Source& source) {
  const auto& [format_name, data, n, k, order, scales] = source;
  const Format& format = format_of(format_name);
  const int64_t row_bytes = k / format.block * format.bytes;
  if (n < 1 || k < 1 || k % format.block != 0 || static_cast<int64_t>(data.size()) % row_bytes != 0)
    throw nb::value_error("stored rows: the number of bytes does not fit the shape");
  const int64_t stored = static_cast<int64_t>(data.size()) / row_bytes;
  if (!order && stored != n) throw nb::value_error("stored rows: the number of bytes does not fit the shape");
  if (order) {
    if (order->size() != static_cast<size_t>(n)) throw nb::value_error("stored rows: order has another length");
    for (size_t i = 0; i < order->size(); ++i)
      if ((*order)(i) < 0 || (*order)(i) >= stored) throw nb::value_error("stored rows: order leads outside");
  }
  if (scales.has_value() != (format.scaling == Scaling::kChannel) ||
      (scales && static_cast<int64_t>(scales->size()) != stored))
    throw nb::value_error("stored rows: scales are missing, too many, or of a format without them");
  return {&format, data.data(), n, k, order ? order->data() : nullptr, scales ? scales->data() : nullptr};
}

Matrix pack_sources(const std::vector<Source>& sources, const std::string& arrangement, const std::string& layout,
                    Arena& arena, const std::optional<Ints>& column_order) {
  std::vector<StoredRows> rows;
  if (sources.empty()) throw nb::value_error("nothing to pack");
  for (const Source& source : sources) {
    rows.push_back(rows_of(source));
    if (rows.back().columns != rows[0].columns) throw nb::value_error("stored rows: columns differ");
  }
  const bool alternating = arrangement == "alternating";
  if (!alternating && arrangement != "stacked") throw nb::value_error("arrangement: stacked or alternating");
  if (alternating && sources.size() % 2 != 0) throw nb::value_error("alternating matrices come in pairs");
  const Layout& to = layout_of(layout);
  std::vector<int32_t> order;
  if (column_order) order.assign(column_order->data(), column_order->data() + column_order->size());
  if (column_order && static_cast<int64_t>(order.size()) != rows[0].columns)
    throw nb::value_error("column order: has another length");
  for (const int32_t column : order)
    if (column < 0 || column >= rows[0].columns) throw nb::value_error("column order: leads outside");
  nb::gil_scoped_release release;
  auto matrix = std::make_shared<PackedMatrix>(
      pack(rows, alternating ? Arrangement::kAlternating : Arrangement::kStacked, to, arena));
  matrix->column_order = std::move(order);
  return matrix;
}

std::shared_ptr<const Buffer> padded(const Floats& values) {
  auto buffer = std::make_shared<Buffer>(round_up(values.size(), 16) * sizeof(float));
  std::memcpy(buffer->as<void>(), values.data(), values.size() * sizeof(float));
  return buffer;
}

void add_op(Executor& e, const std::string& name, const std::vector<Columns>& inputs,
            const std::vector<Columns>& outputs, const std::map<std::string, Matrix>& matrices,
            const std::map<std::string, Floats>& vectors, Parameters::Values params) {
  OpSpec spec{name, {}, {}, matrices, {}, {}, Parameters(name, std::move(params)), e};
  for (const auto& [buffer, first, columns] : inputs) spec.inputs.push_back(e.view(buffer, first, columns));
  for (const auto& [buffer, first, columns] : outputs) spec.outputs.push_back(e.view(buffer, first, columns));
  for (const auto& [weight, values] : vectors) {
    spec.vectors[weight] = padded(values);
    spec.vector_sizes[weight] = static_cast<int64_t>(values.size());
  }
  e.add_op(spec);
}

const char* name_of(Type type) { return type == Type::kFloat ? "float32" : type == Type::kElement ? "element" : "any"; }

// The types of each op's inputs, and of its output.
std::map<std::string, std::pair<std::vector<std::string>, std::string>> op_types() {
  std::map<std::string, std::pair<std::vector<std::string>, std::string>> found;
  for (const auto& [name, kind] : op_kinds()) {
    auto& [inputs, output] = found[name];
    for (const Type type : kind.inputs) inputs.emplace_back(name_of(type));
    output = name_of(kind.output);
  }
  return found;
}

void init(Executor* self, const std::string& dtype, const std::string& cache_dtype, const Layers& layers,
          int page_tokens, const std::vector<int64_t>& num_pages, int max_tokens, int max_sequences, int max_logit_rows,
          int vocab_size, int num_slots, const Executor* decoder) {
  const DType model = dtype_of(dtype), cache = cache_dtype_of(cache_dtype);
  if (cache != model && cache != DType::kInt8) throw nb::value_error("cache_dtype must be int8 or the model's type");
  new (self) Executor({model, cache, layers_of(layers), page_tokens, num_pages, max_tokens, max_sequences,
                       max_logit_rows, num_slots, vocab_size},
                      decoder);
}

int add_buffer(Executor& e, int64_t columns, bool floats, bool logit_rows, int rows_per_token) {
  return e.add_buffer(columns, floats ? DType::kFloat32 : e.config().dtype, logit_rows, rows_per_token);
}

int64_t packed_bytes(const std::string& layout, const std::vector<int64_t>& rows, int64_t columns) {
  return round_up(packed_rows(rows), 16) / 16 * layout_of(layout).block_bytes(columns);
}

int64_t prepared_row_bytes(const std::string& layout, int64_t columns) {
  const MatrixKernels& kernel = kernels().matrices[kernels_of(layout_of(layout))];
  return kernel.prepares_rows() ? kernel.row_bytes(round_up(columns, kernel.pack)) : 0;
}

int activation_bits(const std::string& layout) {
  return kernels().matrices[kernels_of(layout_of(layout))].activation_bits;
}

std::optional<std::string> layout_of_format(const std::string& format) {
  const Layout* layout = layout_holding(format_of(format));
  return layout ? std::optional<std::string>(layout->name) : std::nullopt;
}

int64_t page_bytes(const std::string& dtype, const Layers& layers, int page_tokens) {
  return CachePool::page_bytes(cache_dtype_of(dtype), layers_of(layers), page_tokens);
}

// Tables of `groups` side by side.
BlockTables blocks_of(const IntTable& tables, size_t groups = 1) {
  const auto stride = static_cast<int64_t>(tables.shape(1));
  return {tables.data(), stride, stride / static_cast<int64_t>(groups)};
}

void run(Executor& e, Ints tokens, Ints starts, Ints counts, IntTable tables, Ints logit_rows, IntTable copies,
         std::optional<IntTable> source_tables, std::optional<Ints> source_lengths, std::optional<IntTable> states,
         std::optional<Ints> second_starts, int first_op, int last_op, int first_token, int last_token) {
  if (starts.size() != counts.size() || tables.shape(0) != starts.size() ||
      tables.shape(1) % e.config().num_pages.size() != 0 || (copies.shape(0) > 0 && copies.shape(1) != 2))
    throw nb::value_error("step: arrays disagree");
  if (source_tables.has_value() != source_lengths.has_value() ||
      (source_tables && (source_tables->shape(0) != starts.size() || source_lengths->size() != starts.size())))
    throw nb::value_error("step: sources and sequences disagree");
  Step step;
  step.num_tokens = static_cast<int>(tokens.size());
  step.num_sequences = static_cast<int>(starts.size());
  step.num_logit_rows = static_cast<int>(logit_rows.size());
  step.num_copies = static_cast<int>(copies.shape(0));
  step.tokens = tokens.data();
  step.starts = starts.data();
  step.counts = counts.data();
  step.blocks = blocks_of(tables, e.config().num_pages.size());
  step.logit_rows = logit_rows.data();
  step.copies = copies.data();
  if (source_tables) {
    step.source_blocks = blocks_of(*source_tables);
    step.source_lengths = source_lengths->data();
  }
  if (states && (states->shape(0) != starts.size() || states->shape(1) != 3))
    throw nb::value_error("step: states and sequences disagree");
  step.states = states ? reinterpret_cast<const StateUse*>(states->data()) : nullptr;
  if (second_starts && second_starts->size() != starts.size())
    throw nb::value_error("step: second texts and sequences disagree");
  step.second_starts = second_starts ? second_starts->data() : nullptr;
  step.first_op = first_op;
  step.last_op = last_op;
  step.first_token = first_token;
  step.last_token = last_token;
  nb::gil_scoped_release release;
  e.run(step);
}

// Runs operations [first, last) of an encoder for positions [first, last) of a source that lies in `blocks`.
void encode(Executor& e, FloatTable features, Ints blocks, int positions, std::pair<int, int> ops,
            std::pair<int, int> tokens) {
  const int32_t start = 0, count = positions;
  const Value* into = e.features();
  if (!into) throw nb::value_error("encode: this is no encoder");
  if (features.shape(0) != static_cast<size_t>(int64_t{into->rows_per_token} * positions) ||
      features.shape(1) != static_cast<size_t>(into->stride))
    throw nb::value_error("encode: features have another shape");
  Step step;
  step.num_tokens = positions;
  step.num_sequences = 1;
  step.starts = &start;
  step.counts = &count;
  const auto width = static_cast<int64_t>(blocks.size());
  step.source_blocks = {blocks.data(), width, width};
  step.source_lengths = &count;
  step.features = features.data();
  step.features_stride = into->stride;
  std::tie(step.first_op, step.last_op) = ops;
  std::tie(step.first_token, step.last_token) = tokens;
  nb::gil_scoped_release release;
  e.run(step);
}

nb::ndarray<nb::numpy, float, nb::ndim<3>> keys_of(const Executor& e, int layer, Ints blocks, int positions) {
  auto* values =
      new std::vector<float>(e.read_keys(layer, blocks.data(), static_cast<int64_t>(blocks.size()), positions));
  nb::capsule owner(values, [](void* p) noexcept { delete static_cast<std::vector<float>*>(p); });
  const LayerSpec& spec = e.config().layers[layer];
  const size_t shape[3] = {static_cast<size_t>(spec.kv_heads), static_cast<size_t>(positions),
                           static_cast<size_t>(spec.key_dim)};
  return {values->data(), 3, shape, owner};
}

using Memory = nb::ndarray<nb::numpy, uint8_t, nb::ndim<2>>;

// Records of the executor `self`, which keeps them alive.
Memory memory_of(nb::handle self, const Records& records) {
  const size_t shape[2] = {static_cast<size_t>(records.count), static_cast<size_t>(records.bytes)};
  return {records.begin, 2, shape, self};
}

std::vector<Memory> pages_of(nb::handle self) {
  const CachePool& cache = nb::cast<const Executor&>(self).cache();
  std::vector<Memory> groups;
  for (int g = 0; g < cache.num_groups(); ++g) groups.push_back(memory_of(self, cache.pages(g)));
  return groups;
}

std::vector<Memory> states_of(nb::handle self) {
  const auto& executor = nb::cast<const Executor&>(self);
  std::vector<Memory> states;
  for (int i = 0; i < executor.num_states(); ++i) states.push_back(memory_of(self, executor.state(i)));
  return states;
}

// Rows of a buffer of the executor `self`, which keeps it alive.
template <const Value& (Executor::*buffer)() const>
nb::ndarray<nb::numpy, const float, nb::ndim<2>> view_of(nb::handle self, size_t rows) {
  const Value& value = (nb::cast<Executor&>(self).*buffer)();
  const size_t shape[2] = {rows, static_cast<size_t>(value.columns)};
  const int64_t strides[2] = {value.stride, 1};
  return {value.floats(0), 2, shape, self, strides};
}

SampleResult sample_step(const Executor& e, const std::vector<int64_t>& rows,
                         const std::vector<const SequenceSampler*>& samplers, const std::optional<MaskArray>& masks,
                         const std::vector<int64_t>& mask_rows) {
  const Value &logits = e.logits(), &maxima = e.maxima();
  return sample({logits.floats(0), e.num_logit_rows(), logits.columns, logits.stride, maxima.floats(0), maxima.stride},
                rows, samplers, masks_of(masks), mask_rows);
}

void bind_weights(nb::module_& m) {
  nb::class_<PackedMatrix>(m, "PackedMatrix");
  nb::class_<Arena>(m, "Arena", "Memory in which matrices lie side by side.").def(nb::init<>());
  m.def("pack", &pack_sources, "sources"_a, "arrangement"_a, "layout"_a, "arena"_a, "column_order"_a = nb::none(),
        "Packs rows [(format, bytes, rows, columns, row order or None, scales or None), ...] into a layout. With a "
        "`column_order`, their column i is to be multiplied with an input's column column_order[i].");
  m.def("packed_bytes", &packed_bytes, "layout"_a, "rows"_a, "columns"_a,
        "Bytes of matrices that are packed into one.");
  m.def("prepared_row_bytes", &prepared_row_bytes, "layout"_a, "columns"_a,
        "Bytes of a row of activations that is prepared for a matrix in that layout; 0 where it is not.");
  m.def(
      "activation_bits", &activation_bits, "layout"_a,
      "Of the integers that activations are quantized to for a matrix in that layout; 0 where they are not quantized.");
  m.def("layout_of_format", &layout_of_format, "format"_a,
        "The layout that has the very numbers of a stored format, or None.");
  m.def("page_bytes", &page_bytes, "dtype"_a, "layers"_a, "page_tokens"_a,
        "Bytes of a page of the cache, in int8 or a type of models, for layers [(kv_heads, key_dim, value_dim, group), "
        "...].");
  m.def("op_types", &op_types,
        "The ops that a tape may have: {name: (types of inputs, type of output)}; a type is float32, element or any.");
}

}  // namespace

void bind_executor(nb::module_& m) {
  bind_weights(m);
  nb::class_<Executor>(m, "Executor")
      .def("__init__", &init, nb::kw_only(), "dtype"_a, "cache_dtype"_a, "layers"_a, "page_tokens"_a, "num_pages"_a,
           "max_tokens"_a, "max_sequences"_a, "max_logit_rows"_a, "vocab_size"_a, "num_slots"_a = 0,
           "decoder"_a.none() = nb::none(),
           "The cache is int8 or of the model's type. Its `layers` are (kv_heads, key_dim, value_dim, group); "
           "`num_pages` "
           "are those of each group. With `decoder`, an encoder that leaves keys and values in that executor's cache.")
      .def("buffer", &add_buffer, "columns"_a, "floats"_a, "logit_rows"_a = false, "rows_per_token"_a = 1)
      .def("add", &add_op, "name"_a, "inputs"_a, "outputs"_a, "matrices"_a, "vectors"_a, "params"_a,
           "Adds an op to the tape. Inputs and outputs are columns of buffers: (buffer, first, count).")
      .def("set_logits", &Executor::set_logits, "buffer"_a, "maxima"_a)
      .def(
          "run", &run, "tokens"_a, "starts"_a, "counts"_a, "block_tables"_a, "logit_rows"_a, "copies"_a,
          "source_tables"_a = nb::none(), "source_lengths"_a = nb::none(), "states"_a = nb::none(),
          "second_starts"_a = nb::none(), "first_op"_a = 0, "last_op"_a = 1 << 30, "first_token"_a = 0,
          "last_token"_a = 1 << 30,
          "Computes one step, or a part of it: some operations, of a single sequence for some of its tokens; its "
          "logits are then in logits(rows). `states` are (slot, tokens, kept "
          "slot) of "
          "each sequence: where lies what is kept of it beside its pages, and where that after so many tokens is to be "
          "left, if not 0. `second_starts` are the positions where second texts begin, or 0.")
      .def("copy_state", &Executor::copy_state, "source"_a, "target"_a,
           "Copies what is kept of the sequence in one slot, beside its pages, to another.")
      .def("pages", &pages_of,
           "The memory of the KV cache: of each group of layers uint8 [pages, bytes], to read and to write between "
           "steps.")
      .def("states", &states_of, "The memory of what is kept beside pages: uint8 [slots, bytes] each, likewise.")
      .def("encode", &encode, "features"_a, "blocks"_a, "positions"_a, "ops"_a, "tokens"_a,
           "Runs a part of an encoder's tape over float32 features [rows, columns padded to 16].")
      .def("logits", &view_of<&Executor::logits>, "rows"_a,
           "The last step's logits, float32 [rows, vocab_size]: a view, valid until the next step.")
      .def("maxima", &view_of<&Executor::maxima>, "rows"_a,
           "The largest of each SAMPLING_BLOCK of them, infinity where they are not all finite: likewise.")
      .def("sample", &sample_step, "rows"_a, "samplers"_a, "masks"_a = nb::none(),
           "mask_rows"_a = std::vector<int64_t>{}, nb::call_guard<nb::gil_scoped_release>(),
           "Draws a token for each sampler from the row of the last step's logits that is named for it; see sample().")
      .def("keys", &keys_of, "layer"_a, "blocks"_a, "positions"_a,
           "The keys in blocks of the cache: float32 [kv_heads, positions, head_dim].")
      .def("read_row", &Executor::read_row, "buffer"_a, "row"_a, "columns"_a)
      .def("set_profiling", &Executor::set_profiling, "on"_a, "Whether steps note how long each op takes.")
      .def("op_seconds", &Executor::op_seconds, "The seconds of each op of the tape, in all such steps.")
      .def("give_back", &Executor::give_back, nb::call_guard<nb::gil_scoped_release>(),
           "Gives the memory of the cache and of buffers back to the system, until they are used again; weights stay. "
           "What was kept of sequences is gone.")
      .def_prop_ro("workspace_bytes", &Executor::workspace_bytes)
      .def_prop_ro("kv_bytes", &Executor::kv_bytes);
}

}  // namespace octavo
