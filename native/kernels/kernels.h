// What a set of kernels offers. Kernels take checked arguments and never validate: ops/ does.
#pragma once

#include <cstdint>

#include "core/bf16.h"
#include "kernels/sampling_table.h"

namespace octavo {

enum class DType : uint8_t { kFloat32, kBFloat16, kInt8 };  // int8 is for the KV cache alone

constexpr int64_t bytes_of(DType dtype) { return dtype == DType::kFloat32 ? 4 : dtype == DType::kBFloat16 ? 2 : 1; }
constexpr int64_t pack_of(DType dtype) { return dtype == DType::kFloat32 ? 1 : 2; }
constexpr int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// What happens to a tile of a matmul's sums before it is stored.
enum class Epilogue : uint8_t {
  kStoreFloat,  // factor * x in float32, softly capped where there is a cap
  kAdd,         // factor * x is added to the float32 already there: the residual stream
  kGlu,         // weight blocks alternate gate, up: activation(gate) * up, in the element type
  kStore,       // activation(x), in the element type
};

// Functions between two matrices: graph/ops/pointwise.py has their equations. The last is of a gate and a value only.
enum class Activation : uint8_t { kNone, kSilu, kGelu, kGeluTanh, kQuickGelu, kRelu, kRelu2, kSigmoid, kSwigluoai };

// out[rows, n] = a[rows, k] · wᵀ. Plain weights are packed [n / 16][k / pack][16][pack], quantized ones as
// quantized_layout.h says; k and n are padded with zeros. Every output element is the sum over k in rising order,
// whatever the tile: results do not depend on the batch.
struct Matmul {
  const void* a;
  int64_t a_stride;  // elements between rows, here and below; of prepared rows, bytes
  const void* weight;
  int64_t k;          // padded to pack
  int64_t blocks;     // of 16 columns
  const float* bias;  // [n], or null
  Epilogue epilogue;
  void* out;
  int64_t out_stride;
  DType element;  // of `out`, where the epilogue does not say float32
  Activation activation = Activation::kNone;
  float factor = 1, cap = 0;  // cap 0: none
  // Of kAdd: the rows of `out` that rows are added to, and a factor for each.
  const int32_t* out_rows = nullptr;
  const float* row_factors = nullptr;
};

constexpr int kMaxMatmulRows = 96;   // of one tile
constexpr int kMaxMatmulBlocks = 4;  // blocks of 16 columns of one tile …
constexpr int kWideBlocks = 8;       // … or so many for a single row, which is as fast as it reads: more streams
constexpr int64_t kMatmulScratch = int64_t{kMaxMatmulRows} * kMaxMatmulBlocks * 16;  // floats

// One layer of a KV cache: pages of `page_tokens` positions, which have the keys and values of all layers. For a KV
// head, keys lie as [page_tokens / 16][key_dim / pack][16][pack] and values as [value_dim / 16][page_tokens /
// pack][16][pack]: both are packed like weights, so that scores and sums over values are matmuls. How they lie as int8
// is in cache_layout.h.
struct KvCache {
  void* pool;
  DType dtype;
  int64_t page_stride;   // bytes from page to page
  int64_t layer_offset;  // bytes from a page's start to this layer
  int64_t head_stride;   // bytes from KV head to KV head: keys, then values
  int page_tokens;
  int kv_heads, key_dim, value_dim;

  char* head(int64_t page, int kv_head) const {
    return static_cast<char*>(pool) + page * page_stride + layer_offset + kv_head * head_stride;
  }
};

// Rotation by a token's position: of `pairs` pairs of columns of a head.
struct Rotation {
  const float *cos, *sin;  // [pairs]
  int pairs;               // 0: none
  bool interleaved;        // pairs are (2i, 2i + 1), not (i, i + pairs)
};

// Rotates the queries and keys of neighbours among a sequence's tokens, which go to the same 16 slots of a page, and
// writes keys and values to the cache. Pointers are to the first token's row; strides are elements from row to row.
struct RotateAndStore {
  const float *q, *k, *v;  // rows of heads; without q, or without k and v, nothing is done with them
  int64_t q_stride, k_stride, v_stride;
  int heads;  // of q
  Rotation rotation;
  int64_t rotation_stride;
  void* q_out;  // [tokens, heads * key_dim]
  int64_t q_out_stride;
  KvCache cache;
  int page, slot, count;  // where the first token goes, and how many there are
  bool last_of_sequence;  // no later token of the same sequence is in this step
};

// Queries of up to some dozens of consecutive tokens of one sequence, all heads of one KV head's group, against
// segments [segment_begin, segment_end) of its keys.
struct AttentionItem {
  int token;     // row of the first query token in the step
  int count;     // query tokens
  int position;  // of the first of them
  int keys;      // that the last of them sees; all see as many, unless attention is causal
  int kv_head;
  int sequence;
  int segment_begin, segment_end;
  int partial;  // where the states of a split item go; -1: the item covers all segments, and writes its output
};

struct Attention {
  const void* q;  // [tokens, heads * key_dim]
  int64_t q_stride;
  void* out;
  int64_t out_stride;
  int heads;
  float scale;
  int window;    // keys as far away as this many positions are not seen; 0: all are
  int chunk;     // nor are those of other blocks of this many positions; 0: all are …
  int lookback;  // … but of as many blocks before a token's own
  bool causal;
  float cap;            // of scores, softly; 0: none
  const float* slopes;  // [heads] what is taken from a score for each position between query and key; or null
  bool by_root;         // … or for the root of so many
  const float* biases;  // [heads, bias_stride] what is added to scores, by the key's position less the query's, from
                        // -reach - 15 to reach + 15; farther keys have what those at `reach` have; or null
  int reach;
  const float* sinks;  // [heads] scores of a key without a value; or null
  KvCache cache;
  const int32_t* block_tables;  // [sequences, block_table_stride]
  int64_t block_table_stride;
  float* partials;  // states of split items, each [rows, partial_stride]: maximum, sum, weighted values

  static constexpr int bias_stride(int reach) { return 2 * reach + 31; }
  // A token at `position` sees keys [first_key, end_key), of so many `keys`.
  int end_key(int position, int keys) const {
    if (causal) return position + 1;
    return window > 0 && position + window < keys ? position + window : keys;
  }
  int first_key(int position) const {
    if (chunk > 0) return position / chunk > lookback ? (position / chunk - lookback) * chunk : 0;
    return window > 0 && position >= window ? position - window + 1 : 0;
  }
};

// Attention reduces over keys in segments of this many positions: inside one, scores are complete before the softmax;
// segments are merged in rising order. That order is the same for a prompt, a chunk and a decode, on one thread or
// many.
constexpr int kSegment = 256;

constexpr int64_t partial_stride(int value_dim) { return 16 + round_up(value_dim, 16); }
constexpr int kMaxAttentionRows = 128;  // of one item, and so the largest group of query heads to a KV head
constexpr int kGoodAttentionRows = 48;  // what a prompt's items are cut to
constexpr int kMaxHeadDim = 1024;

// What multiplies with the matrices of one layout.
struct MatrixKernels {
  const char* layout;
  int64_t pack;  // what k is padded to a multiple of
  void (*matmul)(const Matmul&, int row_begin, int row_end, int block_begin, int block_end, float* scratch);
  void (*read_row)(const void* weight, int64_t k, int64_t id, int64_t columns, float* out);
  // Indexed by DType: how rows are prepared before they are multiplied: quantized, or put in another order. Without it
  // they are taken as they are, and are of the matrix's own type.
  void (*prepare[2])(const void* x, int64_t columns, int64_t k, void* out) = {};
  int64_t (*row_bytes)(int64_t k) = nullptr;  // of a prepared row, in whole cache lines
  int activation_bits = 0;                    // that values of one are quantized to; 0: they are not

  bool prepares_rows() const { return prepare[0] != nullptr; }
};

// A norm of each group of `width` columns of a row. `x`, `weight`, `bias` and `out` are padded to 16 with zeros.
struct NormRow {
  const float *x, *weight, *bias;  // [columns] each; an RMS norm has no bias
  int64_t columns, width;
  float eps;
  bool floats;  // `out` is float32, else of the element type
  void* out;
};

struct Xielu {
  float positive, negative, beta, eps;
};

// A row of a convolution of each column over several rows, of `columns` columns padded to 16.
struct CausalConvRow {
  const float* const* rows;    // [kernel], the oldest first; null is a row of zeros
  const float *weight, *bias;  // [kernel, columns padded], [columns]
  int kernel;
  int64_t columns;
  Activation activation;
  float* out;
};

constexpr int kDeltaColumns = 32;  // of values whose state lies together: what a core keeps at hand
constexpr int kDeltaTokens = 64;   // that are computed at once, at most

// The gated delta rule for some tokens of one sequence and one head, see graph/ops/state.py. Pointers are to the first
// token's; strides are from token to token.
struct Delta {
  const float *q, *k, *v;
  int64_t q_stride, k_stride, v_stride, out_stride;
  const float *decay, *beta;  // [tokens]: e^g, and beta
  int tokens;
  int64_t key_dim, columns;  // of a key, and of the values
  float eps;
  float* state;  // [columns / kDeltaColumns, rounded up][key_dim][kDeltaColumns]
  float* out;
};

constexpr int kMaxPointwiseParams = 4;

// A function of single values. `out` is float32 if `floats`, else of the element type.
struct PointwiseKernel {
  const char* name;  // the op's
  int num_inputs;    // 1 or 2
  const char* params[kMaxPointwiseParams];
  void (*run[2])(const float* x, const float* y, const float* params, int64_t n, bool floats, void* out);
};

template <class T>
struct Table {
  const T* begin_;
  const T* end_;
  const T* begin() const { return begin_; }
  const T* end() const { return end_; }
  const T& operator[](int64_t i) const { return begin_[i]; }
};

struct Kernels {
  const char* name;
  Table<MatrixKernels> matrices;  // in one order for all instruction sets, as the next
  Table<PointwiseKernel> pointwise;
  // Indexed by DType.
  void (*cast[2])(const float* x, int64_t n, bool floats, void* out);
  void (*activate[2])(Activation, const float* x, const float* y, int64_t n, bool floats, void* out);
  void (*scores)(bool are_sigmoid, const float* logits, int64_t n, float* out);  // of experts
  void (*xielu[2])(const Xielu&, const float* x, int64_t n, bool floats, void* out);
  void (*rms_norm[2])(const NormRow&);
  void (*layer_norm[2])(const NormRow&);
  void (*normalise)(const float* x, int64_t groups, int64_t width, float eps, float* out);
  void (*causal_conv)(const CausalConvRow&);
  void (*delta)(const Delta&);
  void (*rotate)(const float* x, const Rotation&, int heads, int head_dim, float* out);
  void (*rotate_and_store[2])(const RotateAndStore&);
  void (*attend[2])(const Attention&, const AttentionItem&, void* scratch);
  void (*merge[2])(const Attention&, const AttentionItem&, int num_segments);
  // Of 32 columns of 16 rows, [32][16]: 4-bit numbers, and float16 scales and minima.
  void (*quantize_affine)(const float* values, uint8_t* q, uint16_t* d, uint16_t* m);
  SamplingKernels sampling;
};

namespace portable {
extern const Kernels table;
}
namespace avx2 {
extern const Kernels table;
}
namespace avxvnni {
extern const Kernels table;
}
namespace avx512 {
extern const Kernels table;
}
namespace avx512vnni {
extern const Kernels table;
}
namespace avx512bf16 {
extern const Kernels table;
}
namespace amx {
extern const Kernels table;
}

}  // namespace octavo
