#include "layouts/matrix.h"

#include <algorithm>
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

// Which rows lie where.
class Order {
 public:
  Order(const std::vector<StoredRows>& sources, Arrangement arrangement)
      : sources_(sources), together_(arrangement == Arrangement::kAlternating ? 2 : 1) {
    for (size_t i = 0; i < sources.size(); i += together_)
      ends_.push_back((ends_.empty() ? 0 : ends_.back()) + together_ * round_up(sources[i].rows, 16) / 16);
  }

  // The row of a block, or none where it is padding.
  RowAt find(int64_t block, int64_t row) const {
    const auto end = std::upper_bound(ends_.begin(), ends_.end(), block);
    const int64_t at = end - ends_.begin();
    if (at > 0) block -= end[-1];
    const StoredRows& source = sources_[at * together_ + block % together_];
    row += block / together_ * 16;
    return row < source.rows ? RowAt{&source, row} : RowAt{};
  }

 private:
  const std::vector<StoredRows>& sources_;
  int64_t together_;           // sources whose blocks take turns
  std::vector<int64_t> ends_;  // of those, in blocks
};

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
  const Order order(sources, arrangement);
  ThreadPool::instance().parallel_for(matrix.blocks(), [&](int64_t block) {
    RowAt rows[16];
    for (int r = 0; r < 16; ++r) rows[r] = order.find(block, r);
    pack_rows(rows, matrix.k, matrix.memory.as<uint8_t>() + block * block_bytes);
  });
  return matrix;
}

}  // namespace octavo
