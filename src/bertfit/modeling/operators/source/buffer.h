// Scratch memory that each thread keeps between calls.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

namespace bertfit {

// Aligned to a cache line: a tile row that crosses two lines loads half as fast.
template <typename Number>
class Buffer {
 public:
  Number* reserve(std::int64_t count) {
    if (count > count_) {
      constexpr std::size_t kLine = 64;
      const std::size_t bytes = (count * sizeof(Number) + kLine - 1) / kLine * kLine;
      numbers_.reset(static_cast<Number*>(std::aligned_alloc(kLine, bytes)));
      if (numbers_ == nullptr) {
        count_ = 0;
        throw std::bad_alloc();
      }
      count_ = count;
    }
    return numbers_.get();
  }

 private:
  struct Free {
    void operator()(Number* numbers) const { std::free(numbers); }
  };
  std::unique_ptr<Number, Free> numbers_;
  std::int64_t count_ = 0;
};

}  // namespace bertfit
