// Python bindings of core/integers.h.

#include "core/integers.h"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <optional>
#include <vector>

namespace nb = nanobind;
using namespace nb::literals;

namespace octavo {

namespace {

template <class T>
using Words = nb::ndarray<const T, nb::ndim<2>, nb::device::cpu>;
using Codes = nb::ndarray<const uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Numbers = nb::ndarray<const float, nb::ndim<2>, nb::device::cpu>;
using Indices = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Out = nb::ndarray<uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

void check(bool holds, const char* why) {
  if (!holds) throw nb::value_error(why);
}

template <class T>
WordRows rows_of(const Words<T>& words) {
  constexpr int64_t kBytes = sizeof(T);
  const int64_t rows = words.shape(0), columns = words.shape(1);
  const bool are_side_by_side = columns == 1 || words.stride(1) == 1;
  check(kBytes == 4 || are_side_by_side, "unpack: the bytes of a row must be side by side");
  return {reinterpret_cast<const uint8_t*>(words.data()), rows, kBytes * columns, kBytes * words.stride(0),
          are_side_by_side ? 4 : kBytes * words.stride(1)};
}

template <class T>
void unpack_words(Words<T> words, int bits, Out out) {
  const WordRows rows = rows_of(words);
  const int64_t columns = out.shape(1);
  check(1 <= bits && bits <= 8, "unpack: integers must have 1 to 8 bits");
  check(static_cast<int64_t>(out.shape(0)) == rows.rows && columns <= rows.row_bytes * 8 / bits,
        "unpack: the words are of fewer columns, or of another number of rows");
  nb::gil_scoped_release release;
  unpack(rows, bits, columns, out.data());
}

void unpack_words_of_eight(Words<int32_t> words, std::array<uint8_t, 8> places, Out out) {
  const WordRows rows = rows_of(words);
  for (const uint8_t place : places) check(place < 8, "unpack_eights: places must be 0 to 7");
  check(static_cast<int64_t>(out.shape(0)) == rows.rows * 8 && static_cast<int64_t>(out.shape(1)) * 4 == rows.row_bytes,
        "unpack_eights: the words are of another shape");
  nb::gil_scoped_release release;
  unpack_eights(rows, places, out.data());
}

void pack_blocks(Codes codes, const std::vector<Numbers>& numbers, Indices group_of_block, int bits,
                 std::optional<Indices> order, Out out) {
  const int64_t rows = codes.shape(0), blocks = group_of_block.size(), block = blocks ? codes.shape(1) / blocks : 0;
  check(block <= kLargestBlock && (bits == 8 || (bits == 4 && block % 16 == 0)) &&
            block * blocks == static_cast<int64_t>(codes.shape(1)),
        "to_blocks: columns are no whole number of blocks, or these are too large, or not of 4 or 8 bits");
  GroupedCodes matrix{
      codes.data(), rows, blocks, block, bits, {}, group_of_block.data(), order ? order->data() : nullptr};
  int64_t groups = INT32_MAX;
  for (const Numbers& one : numbers) {
    check(static_cast<int64_t>(one.shape(0)) == rows, "to_blocks: numbers are of another number of rows");
    groups = std::min<int64_t>(groups, one.shape(1));
    matrix.numbers.push_back({reinterpret_cast<const uint8_t*>(one.data()), 4 * one.stride(0), 4 * one.stride(1)});
  }
  for (int64_t i = 0; i < blocks; ++i)
    check(0 <= group_of_block(i) && group_of_block(i) < groups, "to_blocks: there is no such group");
  check(!order || order->size() == codes.shape(1), "to_blocks: the order is of another number of columns");
  for (size_t i = 0; order && i < order->size(); ++i)
    check(0 <= (*order)(i) && static_cast<size_t>((*order)(i)) < codes.shape(1), "to_blocks: order leads outside");
  check(
      static_cast<int64_t>(out.shape(0)) == rows &&
          static_cast<int64_t>(out.shape(1)) == blocks * (4 * static_cast<int64_t>(numbers.size()) + block * bits / 8),
      "to_blocks: the blocks have another size");
  nb::gil_scoped_release release;
  to_blocks(matrix, out.data());
}

}  // namespace

void bind_integers(nb::module_& m) {
  m.def("unpack", &unpack_words<int32_t>, "words"_a, "bits"_a, "out"_a,
        "Writes the integers in rows of words, a byte each: uint8 [rows, columns].");
  m.def("unpack", &unpack_words<uint8_t>, "words"_a, "bits"_a, "out"_a, "The same of rows of bytes.");
  m.def("unpack_eights", &unpack_words_of_eight, "words"_a, "places"_a, "out"_a,
        "Writes the 4-bit integers of words [rows / 8, columns] that have eight rows each: uint8 [rows, columns]. Row "
        "i of eight is at place places[i] of a word.");
  m.def("to_blocks", &pack_blocks, "codes"_a, "numbers"_a, "group_of_block"_a, "bits"_a, "column_order"_a.none(),
        "out"_a,
        "Writes rows of blocks: of each of `numbers`, float32 [rows, groups], that of the block's group, and the "
        "block's codes, in 4 bits or 8. With a `column_order`, column i of the blocks is that of the codes at [i].");
}

}  // namespace octavo
