// Attention over the paged cache: all query heads of one KV head, and some query tokens, share each load of keys and
// values. Per segment of keys: scores, softmax against the segment's own maximum, sum over values; then a merge.
#pragma once

#include "kernels/activations.h"
#include "kernels/cache_layout.h"
#include "kernels/int8_cache.h"
#include "kernels/kernels.h"
#include "kernels/matmul.h"
#include "kernels/simd.h"

namespace octavo::OCTAVO_ISA {

// A thread's scratch memory for one item, as AttentionScratchLayout has it.
template <class T>
struct AttentionScratch {
  typename T::Value* q;
  float* scores;
  typename T::Value* p;
  float* sums;
  float* state;
  int8_t *q8, *p8;
  uint8_t* values;

  AttentionScratch(void* memory, int rows, const KvCache& cache) {
    const AttentionScratchLayout at = attention_scratch(rows, cache);
    auto* base = static_cast<char*>(memory);
    q = reinterpret_cast<typename T::Value*>(base + at.q);
    scores = reinterpret_cast<float*>(base + at.scores);
    p = reinterpret_cast<typename T::Value*>(base + at.p);
    sums = reinterpret_cast<float*>(base + at.sums);
    state = reinterpret_cast<float*>(base + at.state);
    q8 = reinterpret_cast<int8_t*>(base + at.q8);
    p8 = reinterpret_cast<int8_t*>(base + at.p);
    values = reinterpret_cast<uint8_t*>(base + at.values);
  }
};

// Which keys of a segment a row sees that sees [first, last) of all of them: [begin, end), relative to the segment.
struct Span {
  int begin, end;
};

inline Span visible(int first, int last, int segment_start) {
  const int begin = first > segment_start ? first - segment_start : 0;
  const int end = last - segment_start;
  return {begin, end > kSegment ? kSegment : end};
}

// 2^x for x <= 0, at least 2^-126: within 1e-7 of it. NaN stays NaN.
inline F32 exp2_of_negative(F32 x) {
  x = max(set1(-126), x);
  const F32 n = round(x), f = x - n;
  F32 p = fma(set1(0.00132647f), f, set1(0.00967151f));
  p = fma(p, f, set1(0.05550734f));
  p = fma(p, f, set1(0.24022242f));
  p = fma(p, f, set1(0.69314698f));
  return scale_by_power_of_two(fma(p, f, set1(1)), n);
}

// Scaled scores of one segment of keys for one row, softly capped, less slope * distance, or slope * sqrt(distance),
// with the bias of the distance; `to_first` is how many positions the segment's first key is behind the row's token.
inline void change_scores(float* scores, int padded, const Attention& a, int head, int to_first) {
  static const float kIota[kLanes] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const F32 slope = set1(a.slopes ? -a.slopes[head] : 0);
  const int nearest = -a.reach - (kLanes - 1);  // of the first of a head's biases
  const float* biases = a.biases ? a.biases + (int64_t)head * a.bias_stride(a.reach) - nearest : nullptr;
  for (int i = 0; i < padded; i += kLanes) {
    F32 s = load(scores + i) * set1(a.scale);
    if (a.cap > 0) s = softcap(s, a.cap);
    const F32 behind = set1((float)(to_first - i)) - load(kIota);
    const F32 distance = max(behind, zero() - behind);
    s = fma(a.by_root ? sqrt(distance) : distance, slope, s);
    if (biases) {
      const int ahead = i - to_first;
      s = s + load(biases + (ahead < nearest ? nearest : ahead > a.reach ? a.reach : ahead));
    }
    store(scores + i, s);
  }
}

// put(i, exp(scale * (score - maximum))) for the keys i in `span`, with zero for the others up to `padded`; state gets
// the scaled maximum, and the sum.
template <class T, class Put>
inline void softmax(float* scores, Put&& put, Span span, int padded, float scale, float* maximum, float* sum) {
  static const float kIota[kLanes] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const F32 iota = load(kIota);
  const auto is_edge = [&](int i) { return i < span.begin || i + kLanes > span.end; };
  const auto hide = [&](int i, F32 x, F32 hidden) {
    const F32 index = iota + set1((float)i);
    x = select_less(index, set1((float)span.begin), hidden, x);
    return select_less(index, set1((float)span.end), x, hidden);
  };
  F32 top = set1(kMinusInfinity);
  for (int i = 0; i < padded; i += kLanes) {
    const F32 s = load(scores + i);
    top = max(is_edge(i) ? hide(i, s, set1(kMinusInfinity)) : s, top);
  }
  const float highest = reduce_max(top);
  *maximum = highest * scale;
  constexpr bool kOfTwo = T::kPack > 1;
  const float factor = kOfTwo ? scale * 1.44269504f : scale;  // of powers of two, or of e
  const F32 by = set1(factor), from = set1(-highest * factor);
  F32 total = zero();
  for (int i = 0; i < padded; i += kLanes) {
    F32 e = zero();
    if (span.begin < span.end) {
      const F32 x = fma(load(scores + i), by, from);
      e = kOfTwo ? exp2_of_negative(x) : exp(x);
    }
    if (is_edge(i)) e = hide(i, e, zero());
    total = total + e;
    put(i, e);
  }
  *sum = reduce_add(total);
}

// state = state merged with the segment (maximum, sum, values).
inline void merge_state(float* state, float maximum, float sum, const float* values, int64_t columns) {
  if (maximum == kMinusInfinity) return;  // the row sees nothing of this segment
  const float old = state[0], top = old > maximum ? old : maximum;
  if (old == kMinusInfinity) {  // it is the first of which the row sees something
    state[0] = maximum;
    state[1] = sum;
    memcpy(state + kLanes, values, columns * sizeof *values);
    return;
  }
  float factor[kLanes] = {old - top, maximum - top};
  store(factor, exp(load(factor)));
  state[0] = top;
  state[1] = state[1] * factor[0] + sum * factor[1];
  for (int64_t i = 0; i < columns; i += kLanes) {
    float* v = state + kLanes + i;
    store(v, fma(load(v), set1(factor[0]), load(values + i) * set1(factor[1])));
  }
}

inline void clear_state(float* state, int64_t columns) {
  state[0] = kMinusInfinity;
  state[1] = 0;
  for (int64_t i = 0; i < columns; i += kLanes) store(state + kLanes + i, zero());
}

template <class T>
inline void write_output(const Attention& a, const AttentionItem& item, int row, const float* state) {
  const int group = a.heads / a.cache.kv_heads, d = a.cache.value_dim;
  float share = 1.0f / state[1];
  if (a.sinks) {  // one more term of the sum
    const float sink = a.sinks[item.kv_head * group + row % group], top = sink > state[0] ? sink : state[0];
    float term[kLanes] = {state[0] - top, sink - top};
    store(term, exp(load(term)));
    share = term[0] / (state[1] * term[0] + term[1]);
  }
  const F32 scale = set1(share);
  auto* out = static_cast<typename T::Value*>(a.out) + (item.token + row / group) * a.out_stride +
              (int64_t)(item.kv_head * group + row % group) * d;
  for (int i = 0; i < d; i += kLanes) {
    float lane[kLanes];
    typename T::Value value[kLanes];
    store(lane, load(state + kLanes + i) * scale);
    T::store16(value, load(lane));
    memcpy(out + i, value, (d - i < kLanes ? d - i : kLanes) * sizeof value[0]);
  }
}

// scores[rows, kSegment] of keys in the model's type.
template <class T>
inline void multiply_keys(const Segment& segment, int rows, const typename T::Value* q, float* scores) {
  using Value = typename T::Value;
  const int64_t d_steps = (segment.cache.key_dim + T::kPack - 1) / T::kPack;
  const int key_blocks = segment.key_blocks(), blocks_of_page = segment.cache.page_tokens / kLanes;
  const Value* block[kSegment / kLanes];
  for (int i = 0; i < key_blocks; ++i)
    block[i] = (const Value*)segment.page(i / blocks_of_page) + i % blocks_of_page * d_steps * kLanes * T::kPack;
  if constexpr (kHasTiles<T>) {
    const auto keys_of = [&](int i, int64_t step) { return block[i] + step * kTileDepth * kLanes; };
    multiply_tiles(rows, key_blocks, q, d_steps * 2, keys_of, d_steps * 2, kTileDepth, false, scores, kSegment);
  }
  for (int i = 0; i < key_blocks && !kHasTiles<T>; i += kTileBlocks) {
    const int now = key_blocks - i < kTileBlocks ? key_blocks - i : kTileBlocks;
    multiply_any<T>(rows, now, q, d_steps * T::kPack, block + i, d_steps, false, scores + i * kLanes, kSegment);
  }
}

// sums[rows, padded value_dim] of values in the model's type, weighted with p[rows, kSegment].
template <class T>
inline void multiply_values(const Segment& segment, int rows, const typename T::Value* p, float* sums) {
  using Value = typename T::Value;
  const int keys = segment.keys, page_tokens = segment.cache.page_tokens;
  const int64_t d_blocks = (segment.cache.value_dim + kLanes - 1) / kLanes, columns = d_blocks * kLanes;
  const int64_t values_at = (int64_t)page_tokens * round_up(segment.cache.key_dim, 2);
  const auto values = [&](int page) { return (const Value*)segment.page(page) + values_at; };
  if constexpr (kHasTiles<T>) {
    const int depth = page_tokens < kTileDepth ? page_tokens : kTileDepth;
    const auto values_of = [&](int j, int64_t step) {
      const int64_t at = step * depth;
      return values(at / page_tokens) + (j * page_tokens + at % page_tokens) * kLanes;
    };
    multiply_tiles(rows, (int)d_blocks, p, kSegment, values_of, keys, depth, false, sums, columns);
  }
  for (int64_t j = 0; j < d_blocks && !kHasTiles<T>; j += kTileBlocks) {
    const int now = d_blocks - j < kTileBlocks ? (int)(d_blocks - j) : kTileBlocks;
    for (int k = 0; k < keys; k += page_tokens) {
      const Value* b[kTileBlocks];
      for (int i = 0; i < now; ++i) b[i] = values(k / page_tokens) + (j + i) * page_tokens * kLanes;
      const int tokens = keys - k < page_tokens ? keys - k : page_tokens;
      multiply_any<T>(rows, now, p + k, kSegment, b, (tokens + T::kPack - 1) / T::kPack, k > 0, sums + j * kLanes,
                      columns);
    }
  }
}

// Scores, p and sums of one segment for all rows, merged into the state.
template <class T>
inline void attend_segment(const Attention& a, const AttentionItem& item, int number, int rows,
                           AttentionScratch<T>& s) {
  const bool is_int8 = a.cache.dtype == DType::kInt8, is_changed = a.cap > 0 || a.slopes || a.biases;
  const int start = number * kSegment, left = item.keys - start, group = a.heads / a.cache.kv_heads;
  const int32_t* table = a.block_tables + item.sequence * a.block_table_stride + start / a.cache.page_tokens;
  const Segment segment{a.cache, table, item.kv_head, left < kSegment ? left : kSegment};
  if (is_int8)
    multiply_int8_keys(segment, rows, s.q8, s.scores);
  else
    multiply_keys<T>(segment, rows, s.q, s.scores);

  float maximum[kMaxAttentionRows], sum[kMaxAttentionRows], value_scales[kSegment];
  if (is_int8) read_value_scales(segment, value_scales);
  for (int r = 0; r < rows; ++r) {
    const int position = item.position + r / group;
    const Span span = visible(a.first_key(position), a.end_key(position, item.keys), start);
    const int padded = segment.key_blocks() * kLanes;
    float* scores = s.scores + r * kSegment;
    float scale = a.scale;
    if (is_changed) {
      change_scores(scores, padded, a, item.kv_head * group + r % group, position - start);
      scale = 1;
    }
    const auto probabilities = [&](auto&& put) { softmax<T>(scores, put, span, padded, scale, &maximum[r], &sum[r]); };
    if (is_int8)
      probabilities([&](int i, F32 p) { store(scores + i, scale_p(p, value_scales + i)); });
    else
      probabilities([&](int i, F32 p) { T::store16(s.p + r * kSegment + i, p); });
  }

  if (is_int8)
    multiply_int8_values(segment, rows, s.scores, s.p8, s.values, s.sums);
  else
    multiply_values<T>(segment, rows, s.p, s.sums);
  const int64_t columns = round_up(a.cache.value_dim, kLanes), stride = partial_stride(a.cache.value_dim);
  for (int r = 0; r < rows; ++r) merge_state(s.state + r * stride, maximum[r], sum[r], s.sums + r * columns, columns);
}

template <class T>
void attend(const Attention& a, const AttentionItem& item, void* memory) {
  using Value = typename T::Value;
  const int group = a.heads / a.cache.kv_heads, d = a.cache.key_dim;
  const int rows = item.count * group;
  const int64_t width = round_up(d, T::kPack), columns = round_up(a.cache.value_dim, kLanes);
  const int64_t stride = partial_stride(a.cache.value_dim);
  AttentionScratch<T> s(memory, rows, a.cache);
  for (int r = 0; r < rows; ++r) {
    const auto* q = static_cast<const Value*>(a.q) + (item.token + r / group) * a.q_stride +
                    (int64_t)(item.kv_head * group + r % group) * d;
    clear_state(s.state + r * stride, columns);
    if (a.cache.dtype == DType::kInt8) {
      quantize_query<T>(a.cache, q, s.q8 + r * int8_page(a.cache).query_bytes());
      continue;
    }
    for (int i = 0; i < d; ++i) s.q[r * width + i] = q[i];
    if (width > d) s.q[r * width + d] = 0;
  }
  for (int segment = item.segment_begin; segment < item.segment_end; ++segment)
    attend_segment<T>(a, item, segment, rows, s);
  for (int r = 0; r < rows; ++r) {
    float* state = s.state + r * stride;
    if (item.partial < 0)
      write_output<T>(a, item, r, state);
    else
      memcpy(a.partials + (item.partial + r) * stride, state, stride * sizeof(float));
  }
}

// The output of an item that was split by segments: `item.partial` is the first segment's, the others follow it.
template <class T>
void merge(const Attention& a, const AttentionItem& item, int num_segments) {
  const int rows = item.count * (a.heads / a.cache.kv_heads), d = a.cache.value_dim;
  const int64_t stride = partial_stride(d), columns = round_up(d, kLanes);
  for (int r = 0; r < rows; ++r) {
    float* state = a.partials + (item.partial + r) * stride;
    for (int s = 1; s < num_segments; ++s) {
      const float* other = state + s * rows * stride;
      merge_state(state, other[0], other[1], other + kLanes, columns);
    }
    write_output<T>(a, item, r, state);
  }
}

}  // namespace octavo::OCTAVO_ISA
