// What shapes a row of logits before a token is drawn. octavo/sampling/rules has each rule's meaning and its reference.
#pragma once

#include <memory>

#include "core/parameters.h"

namespace octavo {

constexpr float kBanned = -std::numeric_limits<float>::infinity();

// A rule of one sequence. Its constructor takes its fields from Parameters; see register_rule.
class LogitsRule {
 public:
  virtual ~LogitsRule() = default;
  // Notes a token of the output.
  virtual void accept(int32_t) {}
  // Whether apply() may change anything after this output.
  virtual bool applies(const TokenIds& /*output*/) const { return true; }
  // Changes a row of `size` logits after this output.
  virtual void apply(float* logits, int64_t size, const TokenIds& output) const = 0;
};

using RuleMaker = std::unique_ptr<LogitsRule> (*)(Parameters&);

// The makers of rules by name.
std::map<std::string, RuleMaker>& rule_makers();

// Makes a rule known under the name that its Python class has. The result is kept in a constant, so that this happens
// when the library is loaded.
template <class Rule>
bool register_rule(const char* name) {
  return rule_makers()
      .emplace(name, [](Parameters& given) -> std::unique_ptr<LogitsRule> { return std::make_unique<Rule>(given); })
      .second;
}

}  // namespace octavo
