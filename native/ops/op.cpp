#include "ops/op.h"

#include <stdexcept>

#include "ops/executor.h"

namespace octavo {

void refuse(const std::string& why) { throw std::invalid_argument(why); }

std::map<std::string, OpKind>& op_kinds() {
  static std::map<std::string, OpKind> kinds;
  return kinds;
}

const Value& OpSpec::in(size_t i) const {
  check(i < inputs.size(), "an input is missing");
  return inputs[i];
}

const Value& OpSpec::out(size_t i) const {
  check(i < outputs.size(), "an output is missing");
  return outputs[i];
}

std::shared_ptr<const PackedMatrix> OpSpec::matrix(const std::string& weight) const {
  const auto found = matrices.find(weight);
  check(found != matrices.end(), "a matrix is missing");
  return found->second;
}

std::shared_ptr<const Buffer> OpSpec::vector(const std::string& weight, int64_t size) const {
  const auto found = vectors.find(weight);
  check(found != vectors.end(), "a vector is missing");
  check(found->second->bytes() == round_up(size, 16) * 4, "a vector has another length");
  return found->second;
}

DType OpSpec::element() const { return executor.config().dtype; }

void OpSpec::check(bool holds, const char* why) const {
  if (!holds) refuse(name + ": " + why);
}

}  // namespace octavo
