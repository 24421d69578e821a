// Memory that is zero until it is written, comes in whole pages, and costs nothing until it is touched.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <new>
#include <utility>

namespace octavo {

enum class Pages : uint8_t {
  kSmall,
  kHuge,  // where the machine has them: fewer faults, and longer streams for the prefetcher
};

class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(int64_t bytes, Pages pages = Pages::kSmall) : bytes_(bytes) {
    if (bytes == 0) return;
    void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) throw std::bad_alloc();
    if (pages == Pages::kHuge) madvise(p, bytes, MADV_HUGEPAGE);
    data_ = p;
  }
  // Bytes [first, first + bytes) of another buffer, which lives at least as long.
  Buffer(std::shared_ptr<const Buffer> whole, int64_t first, int64_t bytes)
      : data_(whole->as<char>() + first), bytes_(bytes), whole_(std::move(whole)) {}
  Buffer(Buffer&& other) noexcept { *this = std::move(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(whole_, other.whole_);
    return *this;
  }
  ~Buffer() {
    if (data_ && !whole_) munmap(data_, bytes_);
  }

  // Gives its pages back to the system; it is zero again, and takes memory as it is touched.
  void give_back() {
    if (data_) madvise(data_, bytes_, MADV_DONTNEED);
  }

  int64_t bytes() const { return bytes_; }
  template <class T = void>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
  int64_t bytes_ = 0;
  std::shared_ptr<const Buffer> whole_;
};

// Buffers that lie side by side in huge pages.
class Arena {
 public:
  Buffer take(int64_t bytes) {
    if (!chunk_ || chunk_->bytes() - used_ < bytes) {
      chunk_ = std::make_shared<const Buffer>(std::max(bytes, kChunkBytes), Pages::kHuge);
      used_ = 0;
    }
    const int64_t first = used_;
    used_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
    return Buffer(chunk_, first, bytes);
  }

 private:
  static constexpr int64_t kChunkBytes = int64_t{1} << 28, kAlignment = 4096;

  std::shared_ptr<const Buffer> chunk_;
  int64_t used_ = 0;  // of the chunk
};

}  // namespace octavo
