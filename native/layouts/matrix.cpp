#include "layouts/matrix.h"

#include <map>
#include <stdexcept>
#include <string_view>

#include "core/cpu.h"
#include "core/thread_pool.h"

namespace octavo {

namespace {

std::map<std::string, Layout>& layouts() {
  static std::map<std::string, Layout> known;
  return known;
}

// The source of output row `n`, or none where it is padding.
RowAt find_row(const std::vector<StoredRows>& sources, Arrangement arrangement, int64_t n) {
  if (arrangement == Arrangement::kAlternating) {
    const int64_t block = n / 16, count = sources.size();
    const StoredRows& source = sources[block % count];
    const int64_t row = block / count * 16 + n % 16;
    return row < source.rows ? RowAt{&source, row} : RowAt{};
  }
  for (const StoredRows& source : sources) {
    if (n < source.rows) return {&source, n};
    n -= round_up(source.rows, 16);
    if (n < 0) break;
  }
  return {};
}

PackRows how_to_pack(const std::vector<StoredRows>& sources, const Layout& layout) {
  for (const StoredRows& source : sources) {
    if (layout.holds && layout.holds(*source.format)) continue;
    if (layout.pack && source.columns % layout.multiple == 0) return layout.pack;
    throw std::invalid_argument(std::string("rows in ") + source.format->name + " can't be packed as " + layout.name);
  }
  return layout.rearrange;
}

}  // namespace

void RowAt::decode(float* out) const {
  source->format->decode(bytes(), source->columns, out);
  if (source->scales)
    for (int64_t i = 0; i < source->columns; ++i) out[i] *= scale();
}

RegisterLayout::RegisterLayout(const Layout& layout) { layouts().emplace(layout.name, layout); }

const Layout& layout_of(const std::string& name) {
  if (const auto found = layouts().find(name); found != layouts().end()) return found->second;
  std::string known;
  for (const auto& [other, _] : layouts()) known += (known.empty() ? "" : " or ") + other;
  throw std::invalid_argument("a layout must be " + known + ", got " + name);
}

const Layout* layout_holding(const Format& format) {
  for (const auto& [_, layout] : layouts())
    if (layout.holds && layout.holds(format)) return &layout;
  return nullptr;
}

int kernels_of(const Layout& layout) {
  int place = 0;
  for (const MatrixKernels& k : kernels().matrices) {
    if (std::string_view(k.layout) == layout.name) return place;
    ++place;
  }
  throw std::invalid_argument(std::string("there are no kernels for the layout ") + layout.name);
}

int64_t packed_rows(const std::vector<int64_t>& rows) {
  if (rows.size() == 1) return rows[0];
  int64_t n = 0;
  for (const int64_t count : rows) n += round_up(count, 16);
  return n;
}

PackedMatrix pack(const std::vector<StoredRows>& sources, Arrangement arrangement, const Layout& layout, Arena& arena) {
  std::vector<int64_t> rows;
  for (const StoredRows& source : sources) rows.push_back(source.rows);
  PackedMatrix matrix{&layout, kernels_of(layout), packed_rows(rows), sources[0].columns, {}};
  const PackRows pack_rows = how_to_pack(sources, layout);
  const int64_t block_bytes = layout.block_bytes(matrix.k);
  matrix.memory = arena.take(matrix.blocks() * block_bytes);
  ThreadPool::instance().parallel_for(matrix.blocks(), [&](int64_t block) {
    RowAt rows[16];
    for (int r = 0; r < 16; ++r) rows[r] = find_row(sources, arrangement, block * 16 + r);
    pack_rows(rows, matrix.k, matrix.memory.as<uint8_t>() + block * block_bytes);
  });
  return matrix;
}

}  // namespace octavo
