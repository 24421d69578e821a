// Named values that come from Python as they are. The code that uses a value takes it, once, and says its range.
#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <variant>
#include <vector>

namespace octavo {

using TokenIds = std::vector<int32_t>;

// All functions throw std::invalid_argument, which names the parameter.
class Parameters {
 public:
  using Numbers = std::vector<double>;
  using Values = std::map<std::string, std::variant<double, std::string, Numbers, std::vector<Numbers>>>;

  static constexpr double kMinFloat = std::numeric_limits<float>::denorm_min();  // above 0
  static constexpr double kMaxFloat = std::numeric_limits<float>::max();
  static constexpr double kMaxInteger = 1ll << 53;  // that a double holds, and so does its neighbour

  // `owner` is whose they are, in errors.
  Parameters(std::string owner, Values values, int64_t vocab_size = 0)
      : vocab_size(vocab_size), owner_(std::move(owner)), values_(std::move(values)) {}

  const int64_t vocab_size;

  template <class T = double>
  T number(const char* name, double low, double high) {
    return cast<T>(name, {take<double>(name)}, low, high)[0];
  }
  bool flag(const char* name) { return number(name, 0, 1) != 0; }
  int integer(const char* name, int low) { return number<int>(name, low, std::numeric_limits<int>::max()); }
  float real(const char* name) { return number<float>(name, -kMaxFloat, kMaxFloat); }
  std::string word(const char* name) { return take<std::string>(name); }
  std::vector<float> numbers(const char* name) { return cast<float>(name, take<Numbers>(name), -kMaxFloat, kMaxFloat); }
  TokenIds token_ids(const char* name) { return cast<int32_t>(name, take<Numbers>(name), 0, vocab_size - 1.0); }
  std::vector<TokenIds> words(const char* name) {
    std::vector<TokenIds> words;
    for (const Numbers& word : take<std::vector<Numbers>>(name)) {
      if (word.empty()) fail(name, "has an empty list");
      words.push_back(cast<int32_t>(name, word, 0, vocab_size - 1.0));
    }
    return words;
  }

  // Refuses what nobody has taken.
  void finish() const {
    if (!values_.empty()) fail(values_.begin()->first, "is unknown");
  }

  [[noreturn]] void fail(const std::string& name, const std::string& problem) const {
    throw std::invalid_argument(owner_ + ": " + name + " " + problem);
  }

 private:
  template <class T>
  T take(const char* name) {
    auto node = values_.extract(name);
    if (node.empty()) fail(name, "is missing");
    if (auto* found = std::get_if<T>(&node.mapped())) return std::move(*found);
    fail(name, "is of another type: a list in place of a number, say");
  }

  template <class T>
  std::vector<T> cast(const char* name, const Numbers& values, double low, double high) const {
    for (double value : values) {
      if (low <= value && value <= high) continue;  // which NaN is not
      std::ostringstream problem;
      problem << "has " << value << ", which is not in " << low << ".." << high;
      fail(name, problem.str());
    }
    return {values.begin(), values.end()};
  }

  std::string owner_;
  Values values_;
};

}  // namespace octavo
