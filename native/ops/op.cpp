#include "ops/op.h"

#include <stdexcept>

#include "ops/executor.h"

namespace octavo {

void refuse(const std::string& why) { throw std::invalid_argument(why); }

std::map<std::string, OpKind>& op_kinds() {
  static std::map<std::string, OpKind> kinds;
  return kinds;
}

std::shared_ptr<const Buffer> OpSpec::vector(const std::string& weight, int64_t size) const {
  const auto found = vectors.find(weight);
  check(found != vectors.end(), "a vector is missing");
  check(found->second->bytes() == round_up(size, 16) * 4, "a vector has another length");
  return found->second;
}

Activation activation_of(OpSpec& spec, const char* param) {
  static const std::map<std::string, Activation> kinds = {
      {"none", Activation::kNone},
      {"silu", Activation::kSilu},
      {"gelu", Activation::kGelu},
      {"gelu_tanh", Activation::kGeluTanh},
      {"quick_gelu", Activation::kQuickGelu},
      {"relu", Activation::kRelu},
      {"relu2", Activation::kRelu2},
      {"sigmoid", Activation::kSigmoid},
      {"swigluoai", Activation::kSwigluoai},
  };
  const std::string name = spec.params.word(param);
  if (!kinds.contains(name)) refuse(spec.name + ": no such activation: " + name);
  return kinds.at(name);
}

DType OpSpec::element() const { return executor.config().dtype; }

}  // namespace octavo
