// Attention over the cache: of a sequence's own tokens, or of its source's positions.
#include <algorithm>

#include "kernels/cache_layout.h"
#include "ops/executor.h"

namespace octavo {

namespace {

// Which keys a token sees.
enum class Mask : uint8_t {
  kCausal,  // its sequence's, up to its own
  kNone,    // all of its sequence's
  kSource,  // those of its sequence's source
};

// Items are cut so that their rows fill a tile; where that leaves threads without work, by segments of keys too. All
// layers with as many heads have one plan.
class AttentionPlan : public Shared {
 public:
  struct Split {
    AttentionItem item;
    int num_segments;
  };

  // `group` is the number of query heads to a KV head.
  AttentionPlan(Mask mask, int group, int kv_heads, int value_dim)
      : mask_(mask), group_(group), kv_heads_(kv_heads), value_dim_(value_dim) {}
  void plan(const Run& run) override;

  const std::vector<AttentionItem>& items() const { return items_; }
  const std::vector<Split>& splits() const { return splits_; }
  float* partials() const { return partials_.as<float>(); }         // the states of split items
  static int rows_of(int group) { return tile_of(group) * group; }  // of the largest item

 private:
  // The new tokens of one sequence: how many, the position of the first, and the keys that the last of them sees.
  struct Queries {
    int count, position, keys;
  };

  static int tile_of(int group) { return kGoodAttentionRows > group ? kGoodAttentionRows / group : 1; }
  void cut(const Queries& queries, int sequence, int first_token, bool split);

  Mask mask_;
  int group_, kv_heads_, value_dim_;
  std::vector<Queries> queries_;
  std::vector<AttentionItem> items_;
  std::vector<Split> splits_;
  int64_t num_partials_ = 0;
  Buffer partials_;
};

void AttentionPlan::plan(const Run& run) {
  const Step& step = run.step;
  const Range tokens = run.tokens();
  queries_.resize(step.num_sequences);
  for (int s = 0; s < step.num_sequences; ++s) {
    const int own = step.starts[s] + step.counts[s];
    queries_[s] = {step.counts[s], step.starts[s], mask_ == Mask::kSource ? step.source_lengths[s] : own};
  }
  if (tokens.size() < step.num_tokens) {  // of the only sequence
    queries_[0].count = static_cast<int>(tokens.size());
    queries_[0].position += static_cast<int>(tokens.begin);
  }
  const int tile = tile_of(group_);
  int64_t num_items = 0;
  for (const Queries& queries : queries_) num_items += round_up(queries.count, tile) / tile * kv_heads_;
  const bool split = run.threads > 1 && num_items < 4 * run.threads;
  items_.clear();
  splits_.clear();
  num_partials_ = 0;
  int token = static_cast<int>(tokens.begin);
  for (int s = 0; s < step.num_sequences; token += queries_[s++].count) cut(queries_[s], s, token, split);
  const auto cost = [](const AttentionItem& i) {
    return int64_t{i.count} * std::min((i.segment_end - i.segment_begin) * kSegment, i.keys);
  };
  std::stable_sort(items_.begin(), items_.end(),
                   [&](const AttentionItem& a, const AttentionItem& b) { return cost(a) > cost(b); });
  const int64_t bytes = num_partials_ * partial_stride(value_dim_) * sizeof(float);
  if (bytes > partials_.bytes()) partials_ = Buffer(bytes);
}

void AttentionPlan::cut(const Queries& queries, int sequence, int first_token, bool split) {
  const int tile = tile_of(group_);
  for (int begin = 0; begin < queries.count; begin += tile) {
    AttentionItem item{};
    item.sequence = sequence;
    item.token = first_token + begin;
    item.count = std::min(tile, queries.count - begin);
    item.position = queries.position + begin;
    item.keys = mask_ == Mask::kCausal ? item.position + item.count : queries.keys;
    const int segments = (item.keys + kSegment - 1) / kSegment;
    for (item.kv_head = 0; item.kv_head < kv_heads_; ++item.kv_head) {
      item.segment_begin = 0;
      item.segment_end = segments;
      item.partial = -1;
      if (!split || segments == 1) {
        items_.push_back(item);
        continue;
      }
      item.partial = static_cast<int>(num_partials_);
      splits_.push_back({item, segments});
      for (int s = 0; s < segments; ++s) {
        item.segment_begin = s;
        item.segment_end = s + 1;
        item.partial = static_cast<int>(num_partials_);
        items_.push_back(item);
        num_partials_ += item.count * group_;
      }
    }
  }
}

// Where keys and values lie: in a layer of the cache or in one of the step's own, in pages of sequences or of sources.
struct Place {
  KvCache cache;
  bool is_source, is_scratch;
  int group = 0;

  explicit Place(OpSpec& spec) {
    LayerSpec sizes{spec.params.integer("kv_heads", 1), spec.params.integer("head_dim", 1),
                    spec.params.integer("value_dim", 1)};
    const int layer = spec.params.integer("layer", -1);  // -1: none
    is_source = spec.params.flag("source");
    is_scratch = layer < 0;
    if (is_scratch) {
      cache = spec.executor.scratch_layer(sizes);
      return;
    }
    const CachePool& pool = spec.executor.cache();
    spec.check(layer < std::ssize(pool.layers()), "no such layer");
    sizes.group = group = pool.layers()[layer].group;
    spec.check(pool.layers()[layer] == sizes, "the layer has other heads");
    spec.check(!is_source || group == 0, "sources lie in the first group of layers");
    cache = pool.layer(layer);
  }

  BlockTables blocks(const Run& run) const {
    return is_source ? run.step.source_blocks : is_scratch ? run.scratch_blocks : run.step.blocks.of(group);
  }
  int page(const Run& run, const TokenPlace& at) const {
    const BlockTables tables = blocks(run);
    return tables.pages[at.sequence * tables.stride + at.position / cache.page_tokens];
  }
};

// Rotates queries and keys, if there are angles, and writes keys and values to the cache. Inputs are q, k, v and
// angles, all float32, each if `has_` it; the output has the queries in the model's type.
class StoreOp : public Op {
 public:
  explicit StoreOp(OpSpec& spec) : place_(spec), dtype_(index_of(spec.element())) {
    size_t next = 0;
    const auto take = [&](const char* has, Value& value) {
      if (!spec.params.flag(has)) return;
      value = spec.in(next++);
      spec.check(value.dtype == DType::kFloat32, "inputs must be float32");
    };
    take("has_q", q_);
    take("has_kv", k_);
    if (k_.memory) v_ = spec.in(next++);
    take("has_angles", angles_);
    const KvCache& cache = place_.cache;
    if (q_.memory) {
      queries_ = spec.out();
      spec.check(queries_.columns == q_.columns && q_.columns % cache.key_dim == 0, "queries have another width");
      spec.check(queries_.dtype == spec.element(), "queries have another type");
    }
    if (k_.memory) {
      spec.check(k_.columns == cache.kv_heads * cache.key_dim, "keys have another width");
      spec.check(v_.columns == cache.kv_heads * cache.value_dim, "values have another width");
      spec.check(v_.dtype == DType::kFloat32, "inputs must be float32");
    }
    interleaved_ = spec.params.flag("interleaved");
    spec.check(angles_.columns <= cache.key_dim, "more columns are rotated than a head has");
  }

  Needs needs() const override { return {.sources = place_.is_source, .one_sequence = place_.is_source}; }
  int64_t num_tiles(const Run& run, int) const override {
    const Range all = run.tokens();
    return are_long(run, all) ? run.row_tiles({0, (all.size() + 15) / 16}) : run.row_tiles(all);
  }
  void run(const Run& run, int, int64_t tile, int) const override {
    const Range all = run.tokens();
    Range rows = all.part(tile, num_tiles(run, 0));
    if (are_long(run, all)) {  // neighbours stay together
      const Range blocks = Range{0, (all.size() + 15) / 16}.part(tile, num_tiles(run, 0));
      rows = {all.begin + 16 * blocks.begin, std::min(all.end, all.begin + 16 * blocks.end)};
    }
    for (int64_t token = rows.begin, end; token < rows.end; token = end) {
      end = end_of_block(run, token, rows.end);
      store(run, token, static_cast<int>(end - token));
    }
  }

 private:
  // Whether sequences have 16 tokens on average.
  static bool are_long(const Run& run, Range tokens) { return tokens.size() >= int64_t{16} * run.step.num_sequences; }

  // Of tokens from one on, up to `end`, those of its sequence that go to the same 16 slots.
  static int64_t end_of_block(const Run& run, int64_t token, int64_t end) {
    const TokenPlace& first = run.places[token];
    const int64_t border = token + 16 - first.position % 16;
    for (int64_t next = token + 1; next < std::min(border, end); ++next)
      if (run.places[next].sequence != first.sequence) return next;
    return std::min(border, end);
  }

  void store(const Run& run, int64_t token, int count) const {
    const TokenPlace& at = run.places[token];
    const int pairs = static_cast<int>(angles_.columns / 2);
    const float* cos = pairs ? angles_.floats(token) : nullptr;
    kernels().rotate_and_store[dtype_]({
        .q = q_.memory ? q_.floats(token) : nullptr,
        .k = k_.memory ? k_.floats(token) : nullptr,
        .v = k_.memory ? v_.floats(token) : nullptr,
        .q_stride = q_.stride,
        .k_stride = k_.stride,
        .v_stride = v_.stride,
        .heads = static_cast<int>(q_.columns / place_.cache.key_dim),
        .rotation = {cos, cos + pairs, pairs, interleaved_},
        .rotation_stride = angles_.stride,
        .q_out = q_.memory ? queries_.row(token) : nullptr,
        .q_out_stride = queries_.stride,
        .cache = place_.cache,
        .page = place_.page(run, at),
        .slot = at.position % place_.cache.page_tokens,
        .count = count,
        .last_of_sequence = run.places[token + count - 1].last_of_sequence,
    });
  }

  Place place_;
  int dtype_;
  bool interleaved_ = false;
  Value q_, k_, v_, angles_, queries_;
};

// Queries of a step against what is in the cache: items of queries and keys, then the merge of those that were split.
class AttendOp : public Op {
 public:
  explicit AttendOp(OpSpec& spec)
      : q_(spec.in(0)),
        out_(spec.out()),
        place_(spec),
        dtype_(index_of(spec.element())),
        scale_(spec.params.real("scale")) {
    const KvCache& cache = place_.cache;
    const bool causal = spec.params.flag("causal");
    mask_ = place_.is_source ? Mask::kSource : causal ? Mask::kCausal : Mask::kNone;
    spec.check(scale_ > 0, "scale must be positive");
    window_ = spec.params.integer("window", 0);
    chunk_ = spec.params.integer("chunk", 0);
    lookback_ = spec.params.integer("lookback", 0);
    cap_ = spec.params.real("softcap");
    slopes_ = spec.params.numbers("slopes");
    by_root_ = spec.params.flag("by_root");
    heads_ = static_cast<int>(q_.columns / cache.key_dim);
    spec.check(heads_ > 0 && heads_ * cache.key_dim == q_.columns && heads_ % cache.kv_heads == 0,
               "heads are no multiple of KV heads");
    group_ = heads_ / cache.kv_heads;
    spec.check(slopes_.empty() || std::ssize(slopes_) == heads_, "slopes are not as many as heads");
    if (spec.vectors.contains("sinks")) sinks_ = spec.vector("sinks", heads_);
    if (spec.vectors.contains("biases")) lay_biases(spec);
    spec.check(group_ <= kMaxAttentionRows, "too many query heads to a KV head");
    spec.check(out_.columns == int64_t{heads_} * cache.value_dim, "output has another width");
    spec.check(q_.dtype == spec.element() && out_.dtype == spec.element(), "wrong dtype");
    std::string key = "attention";
    for (const int part : {static_cast<int>(mask_), group_, cache.kv_heads, cache.value_dim})
      key += " " + std::to_string(part);
    plan_ = spec.executor.share<AttentionPlan>(key, mask_, group_, cache.kv_heads, cache.value_dim);
  }

  Needs needs() const override { return {.sources = place_.is_source}; }
  int num_phases() const override { return 2; }
  int64_t num_tiles(const Run&, int phase) const override {
    return phase == 0 ? std::ssize(plan_->items()) : std::ssize(plan_->splits());
  }
  int64_t scratch_bytes() const override {
    return attention_scratch(AttentionPlan::rows_of(group_), place_.cache).bytes;
  }
  void run(const Run& run, int phase, int64_t tile, int thread) const override {
    if (phase == 1) {
      const AttentionPlan::Split& split = plan_->splits()[tile];
      kernels().merge[dtype_](arguments(run), split.item, split.num_segments);
      return;
    }
    AttentionItem item = plan_->items()[tile];
    const Attention a = arguments(run);
    if (item.partial < 0) {
      const int end = a.end_key(item.position + item.count - 1, item.keys);
      item.segment_begin = std::max(item.segment_begin, a.first_key(item.position) / kSegment);
      item.segment_end = std::min(item.segment_end, (end + kSegment - 1) / kSegment);
    }
    kernels().attend[dtype_](a, item, run.scratch[thread].as<void>());
  }

 private:
  // From biases by bucket and head, and the buckets of distances, those by head and distance.
  void lay_biases(OpSpec& spec) {
    const std::vector<float> buckets = spec.params.numbers("buckets");
    const int64_t rows = spec.vector_sizes["biases"] / heads_;
    const float* by_bucket = spec.vector("biases", rows * heads_)->as<float>();
    spec.check(buckets.size() % 2 == 1, "buckets are of as many distances on either side");
    for (const float bucket : buckets) spec.check(bucket >= 0 && bucket < rows, "no such bucket");
    reach_ = static_cast<int>(buckets.size() / 2);
    const int stride = Attention::bias_stride(reach_), before = stride / 2 - reach_;
    biases_ = Buffer(int64_t{heads_} * stride * sizeof(float));
    for (int head = 0; head < heads_; ++head)
      for (int i = 0; i < stride; ++i) {
        const auto bucket = static_cast<int64_t>(buckets[std::clamp(i - before, 0, 2 * reach_)]);
        biases_.as<float>()[head * stride + i] = by_bucket[bucket * heads_ + head];
      }
  }

  Attention arguments(const Run& run) const {
    const BlockTables blocks = place_.blocks(run);
    return {
        .q = q_.row(0),
        .q_stride = q_.stride,
        .out = out_.row(0),
        .out_stride = out_.stride,
        .heads = heads_,
        .scale = scale_,
        .window = window_,
        .chunk = chunk_,
        .lookback = lookback_,
        .causal = mask_ == Mask::kCausal,
        .cap = cap_,
        .slopes = slopes_.empty() ? nullptr : slopes_.data(),
        .by_root = by_root_,
        .biases = biases_.bytes() ? biases_.as<float>() : nullptr,
        .reach = reach_,
        .sinks = sinks_ ? sinks_->as<float>() : nullptr,
        .cache = place_.cache,
        .block_tables = blocks.pages,
        .block_table_stride = blocks.stride,
        .partials = plan_->partials(),
    };
  }

  Value q_, out_;
  Place place_;
  Mask mask_;
  int dtype_, window_, chunk_, lookback_, heads_, group_;
  float scale_, cap_;
  std::vector<float> slopes_;
  bool by_root_ = false;
  Buffer biases_;
  int reach_ = 0;
  std::shared_ptr<const Buffer> sinks_;
  std::shared_ptr<AttentionPlan> plan_;
};

const RegisterOp store("store", {{Type::kFloat, Type::kFloat, Type::kFloat}, Type::kElement, make_op<StoreOp>});
const RegisterOp attend("attend", {{Type::kElement}, Type::kElement, make_op<AttendOp>});

}  // namespace

}  // namespace octavo
