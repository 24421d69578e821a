// How a step is planned and run.
#include "ops/executor.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>

#include "core/cpu.h"
#include "core/thread_pool.h"

namespace octavo {

namespace {

int index_of(DType dtype) { return static_cast<int>(dtype); }

}  // namespace

void Executor::plan(const Step& step) {
  threads_ = ThreadPool::instance().size();
  places_.resize(step.num_tokens);
  for (int s = 0, token = 0; s < step.num_sequences; ++s) {
    for (int i = 0; i < step.counts[s]; ++i, ++token) {
      const int position = step.starts[s] + i;
      const int page = step.block_tables[s * step.block_table_stride + position / config_.page_tokens];
      places_[token] = {position, page, position % config_.page_tokens, i == step.counts[s] - 1};
    }
  }
  plan_attention(step);
  plan_phases(step);
}

void Executor::plan_attention(const Step& step) {
  std::vector<Queries> queries(step.num_sequences);
  int64_t partials = 0;
  for (const Sight sight : {Sight::kCausal, Sight::kAll, Sight::kSource}) {
    if (!sees(sight)) continue;
    for (int s = 0; s < step.num_sequences; ++s) {
      const int own = step.starts[s] + step.counts[s];
      queries[s] = {step.counts[s], step.starts[s], sight == Sight::kSource ? step.source_lengths[s] : own};
    }
    const int first = std::min(step.first_token, step.num_tokens), last = std::min(step.last_token, step.num_tokens);
    if (last - first < step.num_tokens) {  // of an encoder's only sequence
      queries[0].count = last - first;
      queries[0].position += first;
    }
    AttentionPlan& plan = plans_[static_cast<int>(sight)];
    plan.make(queries, first, sight == Sight::kCausal, group_, config_.kv_heads, threads_);
    partials = std::max(partials, plan.num_partials());
  }
  const int64_t bytes = partials * partial_stride(config_.head_dim) * sizeof(float);
  if (bytes > partials_.bytes()) partials_ = Buffer(bytes);
  scratch_.resize(std::max<size_t>(scratch_.size(), threads_));
  const int rows = std::max(AttentionPlan::tile_of(group_) * group_, group_);
  const int64_t scratch =
      std::max<int64_t>(attention_scratch_bytes(rows, config_.head_dim), kMatmulScratch * sizeof(float));
  for (Buffer& buffer : scratch_)
    if (buffer.bytes() < scratch) buffer = Buffer(scratch);
}

// How a matmul is cut: all row tiles of a panel of weights follow each other.
struct Executor::Cut {
  int64_t panels, width, row_tiles;

  // Panels are narrow where wide ones would be too few for all threads.
  Cut(const Op& op, int rows, int threads) : row_tiles((rows + kMaxMatmulRows - 1) / kMaxMatmulRows) {
    const int64_t blocks = op.weight->blocks(), narrowest = op.epilogue == Epilogue::kSiluMul ? 2 : 1;
    width = kMaxMatmulBlocks;
    if (rows == 1) {  // as wide as can be, with as many for each thread
      const int64_t each = (blocks + kWideBlocks * threads - 1) / (kWideBlocks * threads);
      width = round_up((blocks + each * threads - 1) / (each * threads), narrowest);
    }
    while (rows > 1 && width > narrowest && (blocks + width - 1) / width * row_tiles < 8 * threads) width /= 2;
    panels = (blocks + width - 1) / width;
  }
  int64_t tiles() const { return panels * row_tiles; }
};

// The step as phases: what a phase reads, earlier ones have written.
void Executor::plan_phases(const Step& step) {
  phases_.clear();
  phases_.push_back({Phase::kCopyPages, -1, step.num_copies});
  phases_.push_back({Phase::kRopeTables, -1, row_tiles(step.num_tokens)});
  const int last = std::min<int>(step.last_op, std::ssize(ops_));
  for (int i = step.first_op; i < last; ++i) {
    const Op& op = ops_[i];
    const int64_t rows = rows_of(op, step).size();
    if (rows == 0) continue;
    if (op.kind == OpKind::kMatmul) {
      phases_.push_back({Phase::kMatmul, i, Cut(op, static_cast<int>(rows), threads_).tiles()});
    } else if (op.kind == OpKind::kAttention) {
      phases_.push_back({Phase::kAttend, i, std::ssize(plan_of(op).items())});
      if (!plan_of(op).splits().empty()) phases_.push_back({Phase::kMerge, i, std::ssize(plan_of(op).splits())});
    } else {
      phases_.push_back({Phase::kRows, i, row_tiles(rows)});
    }
  }
  if (tiles_.size() < phases_.size()) tiles_ = std::vector<Tiles>(phases_.size());
  for (size_t i = 0; i < phases_.size(); ++i) tiles_[i].deal(phases_[i].num_tiles, threads_);
}

Executor::Range Executor::rows_of(const Op& op, const Step& step) const {
  if (op.logit_rows) return {0, step.num_logit_rows};
  const int64_t first = std::min(step.first_token, step.num_tokens), last = std::min(step.last_token, step.num_tokens);
  return {first * op.rows_per_token, last * op.rows_per_token};
}

// Rows are taken in tiles of several, four tiles to a thread.
int64_t Executor::row_tiles(int64_t rows) const { return std::min<int64_t>(rows, 4 * threads_); }

void Executor::copy_page(const Step& step, int64_t i) {
  const int64_t bytes = cache_of(0).page_stride * bytes_of(config_.dtype);
  std::memcpy(kv_->as<char>() + step.copies[2 * i + 1] * bytes, kv_->as<char>() + step.copies[2 * i] * bytes, bytes);
}

void Executor::fill_ropes(int64_t token) {
  for (const RopeTable& table : ropes_) {
    const int64_t half = table.inverse_frequencies.size();
    for (int64_t i = 0; i < half; ++i) {
      const float angle = static_cast<float>(places_[token].position) * table.inverse_frequencies[i];
      table.cos.as<float>()[token * half + i] = static_cast<float>(std::cos(static_cast<double>(angle))) * table.scale;
      table.sin.as<float>()[token * half + i] = static_cast<float>(std::sin(static_cast<double>(angle))) * table.scale;
    }
  }
}

void Executor::run(const Step& step) {
  check(step);
  plan(step);
  using Clock = std::chrono::steady_clock;
  ThreadPool::instance().run([&](int thread) {
    if (thread >= threads_) return;  // the pool has grown since the step was planned
    Clock::time_point begin = Clock::now();
    for (size_t i = 0; i < phases_.size(); ++i) {
      run_phase(phases_[i], tiles_[i], step, thread);
      if (!profiling_ || thread != 0) continue;
      const Clock::time_point end = Clock::now();
      if (phases_[i].op >= 0) seconds_[phases_[i].op] += std::chrono::duration<double>(end - begin).count();
      begin = end;
    }
  });
}

void Executor::run_phase(const Phase& phase, Tiles& tiles, const Step& step, int thread) {
  const Op* op = phase.op >= 0 ? &ops_[phase.op] : nullptr;
  const Range rows = op ? rows_of(*op, step) : Range{0, step.num_tokens};
  const auto each_row = [&](int64_t tile, auto&& body) {
    const int64_t end = rows.begin + (tile + 1) * rows.size() / phase.num_tiles;
    for (int64_t row = rows.begin + tile * rows.size() / phase.num_tiles; row < end; ++row) body(row);
  };
  tiles.run(thread, [&](int64_t tile) {
    switch (phase.kind) {
      case Phase::kCopyPages:
        copy_page(step, tile);
        break;
      case Phase::kRopeTables:
        each_row(tile, [&](int64_t row) { fill_ropes(row); });
        break;
      case Phase::kRows:
        each_row(tile, [&](int64_t row) { run_row(*op, step, row); });
        break;
      case Phase::kMatmul:
        run_matmul(*op, rows, tile, thread);
        break;
      case Phase::kAttend:
        run_attention(*op, step, tile, thread);
        break;
      case Phase::kMerge:
        run_merge(*op, step, tile);
        break;
    }
  });
}

void Executor::run_row(const Op& op, const Step& step, int64_t i) {
  const Kernels& k = kernels();
  const int dtype = index_of(config_.dtype);
  const Activation& out = buffers_[op.out >= 0 ? op.out : op.in];
  const int64_t from = op.logit_rows ? step.logit_rows[i] : i;
  const auto in = [&](int buffer) { return static_cast<const float*>(buffers_[buffer].row(from)); };
  switch (op.kind) {
    case OpKind::kEmbed:
      k.embed[dtype](op.weight->memory.as<void>(), op.weight->padded_k(), step.tokens[i], op.weight->k,
                     static_cast<float*>(out.row(i)));
      break;
    case OpKind::kPositions:
      k.embed[dtype](op.weight->memory.as<void>(), op.weight->padded_k(), places_[i].position, op.weight->k,
                     static_cast<float*>(out.row(i)));
      break;
    case OpKind::kFeatures:
      k.narrow[dtype](step.features + i * step.features_stride, op.columns, out.row(i));
      break;
    case OpKind::kUnfold:
      run_unfold(op, step, i);
      break;
    case OpKind::kRmsNorm:
      k.rms_norm[dtype](in(op.in), op.vector->as<float>(), op.eps, op.columns, out.row(i));
      break;
    case OpKind::kLayerNorm:
      k.layer_norm[dtype](in(op.in), op.vector->as<float>(), op.bias->as<float>(), op.eps, op.columns, out.row(i));
      break;
    case OpKind::kRope:
      run_rope(op, static_cast<int>(i));
      break;
    case OpKind::kAdd: {
      auto* sum = static_cast<float*>(out.row(i));
      for (int64_t c = 0; c < op.columns; ++c) sum[c] = in(op.in)[c] + in(op.in2)[c];
      break;
    }
    case OpKind::kSiluMul:
      k.silu_mul[dtype](in(op.in), in(op.in2), op.columns, out.row(i));
      break;
    case OpKind::kGelu:
      k.gelu[dtype](in(op.in), op.columns, out.dtype == DType::kFloat32, out.row(i));
      break;
    case OpKind::kNarrow:
      k.narrow[dtype](in(op.in), op.columns, out.row(i));
      break;
    case OpKind::kMatmul:
    case OpKind::kAttention:
      break;
  }
}

// The rows of the input that a row of a convolution is made from, side by side.
void Executor::run_unfold(const Op& op, const Step& step, int64_t i) {
  const Activation &in = buffers_[op.in], &out = buffers_[op.out];
  const int64_t rows = int64_t{step.num_tokens} * in.rows_per_token, bytes = in.columns * bytes_of(in.dtype);
  auto* to = static_cast<char*>(out.row(i));
  for (int64_t from = i * op.stride - op.kernel / 2, end = from + op.kernel; from < end; ++from, to += bytes) {
    if (from < 0 || from >= rows)
      std::memset(to, 0, bytes);
    else
      std::memcpy(to, in.row(from), bytes);
  }
}

void Executor::run_matmul(const Op& op, Range range, int64_t tile, int thread) {
  const int rows = static_cast<int>(range.size());
  const Cut cut(op, rows, threads_);
  const Activation &in = buffers_[op.in], &out = buffers_[op.out];
  const Matmul matmul{
      .a = in.row(range.begin),
      .a_stride = in.stride,
      .weight = op.weight->memory.as<void>(),
      .k = op.weight->padded_k(),
      .blocks = op.weight->blocks(),
      .bias = op.vector ? op.vector->as<float>() : nullptr,
      .epilogue = op.epilogue,
      .out = out.row(range.begin),
      .out_stride = out.stride,
  };
  const int64_t panel = tile / cut.row_tiles, row = tile % cut.row_tiles;
  kernels().matmul[index_of(config_.dtype)](
      matmul, static_cast<int>(row * rows / cut.row_tiles), static_cast<int>((row + 1) * rows / cut.row_tiles),
      static_cast<int>(panel * cut.width), static_cast<int>(std::min(op.weight->blocks(), (panel + 1) * cut.width)),
      scratch_[thread].as<float>());
}

void Executor::run_rope(const Op& op, int token) {
  const RopeTable* table = op.rope >= 0 ? &ropes_[op.rope] : nullptr;
  const int64_t half = table ? table->inverse_frequencies.size() : 0;
  const TokenPlace& place = places_[token];
  kernels().rope[index_of(config_.dtype)]({
      .qkv = static_cast<const float*>(buffers_[op.in].row(token)),
      .cos = table ? table->cos.as<float>() + token * half : nullptr,
      .sin = table ? table->sin.as<float>() + token * half : nullptr,
      .heads = op.heads,
      .kv_heads = config_.kv_heads,
      .rotary_dim = static_cast<int>(2 * half),
      .interleaved = table && table->interleaved,
      .q_out = op.out >= 0 ? buffers_[op.out].row(token) : nullptr,
      .cache = cache_of(op.layer),
      .page = place.page,
      .slot = place.slot,
      .last_of_sequence = place.last_of_sequence,
  });
}

Attention Executor::attention_of(const Op& op, const Step& step) const {
  const Activation &q = buffers_[op.in], &out = buffers_[op.out];
  return {
      .q = q.row(0),
      .q_stride = q.stride,
      .out = out.row(0),
      .out_stride = out.stride,
      .heads = op.heads,
      .kv_heads = config_.kv_heads,
      .scale = op.scale,
      .window = op.window,
      .causal = op.sight == Sight::kCausal,
      .cache = cache_of(op.layer),
      .block_tables = op.sight == Sight::kSource ? step.source_tables : step.block_tables,
      .block_table_stride = op.sight == Sight::kSource ? step.source_table_stride : step.block_table_stride,
      .partials = partials_.as<float>(),
  };
}

void Executor::run_attention(const Op& op, const Step& step, int64_t i, int thread) {
  AttentionItem item = plan_of(op).items()[i];
  const int hidden = op.window > 0 ? std::max(0, item.position - op.window + 1) / kSegment : 0;
  if (item.partial < 0) item.segment_begin = std::max(item.segment_begin, hidden);
  kernels().attend[index_of(config_.dtype)](attention_of(op, step), item, scratch_[thread].as<void>());
}

void Executor::run_merge(const Op& op, const Step& step, int64_t i) {
  const AttentionPlan::Split& split = plan_of(op).splits()[i];
  kernels().merge[index_of(config_.dtype)](attention_of(op, step), split.item, split.num_segments);
}

}  // namespace octavo
