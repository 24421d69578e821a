#include "ops/op.h"

#include <stdexcept>

#include "ops/executor.h"

namespace octavo {

void refuse(const std::string& why) { throw std::invalid_argument(why); }

std::map<std::string, OpKind>& op_kinds() {
  static std::map<std::string, OpKind> kinds;
  return kinds;
}

Params::Value Params::take(const std::string& name) {
  const auto found = values_.find(name);
  if (found == values_.end()) refuse("parameter " + name + " is missing");
  taken_[name] = true;
  return found->second;
}

namespace {

template <class T>
T as(const std::string& name, Params::Value value) {
  if (auto* found = std::get_if<T>(&value)) return *found;
  refuse("parameter " + name + " is of another type");
}

}  // namespace

int64_t Params::integer(const std::string& name) { return as<int64_t>(name, take(name)); }
bool Params::flag(const std::string& name) { return as<bool>(name, take(name)); }
std::string Params::word(const std::string& name) { return as<std::string>(name, take(name)); }
std::vector<float> Params::numbers(const std::string& name) { return as<std::vector<float>>(name, take(name)); }
double Params::number(const std::string& name) {
  Value value = take(name);
  if (auto* whole = std::get_if<int64_t>(&value)) return static_cast<double>(*whole);
  return as<double>(name, value);
}

void Params::check_all_taken(const std::string& op) const {
  for (const auto& [name, _] : values_)
    if (!taken_.contains(name)) refuse(op + " has no parameter " + name);
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
