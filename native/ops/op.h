// What the tape is made of. An op is one file here: a class, and its registration by name.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/cpu.h"
#include "core/parameters.h"
#include "layouts/matrix.h"
#include "ops/step.h"

namespace octavo {

class Executor;

[[noreturn]] void refuse(const std::string& why);  // throws std::invalid_argument

// One record of the tape, as the lowering writes it.
struct OpSpec {
  std::string name;
  std::vector<Value> inputs, outputs;
  std::map<std::string, std::shared_ptr<const PackedMatrix>> matrices;
  std::map<std::string, std::shared_ptr<const Buffer>> vectors;  // float32, padded to 16
  std::map<std::string, int64_t> vector_sizes;                   // without the padding
  Parameters params;
  Executor& executor;

  const Value& in(size_t i) const { return check(i < inputs.size(), "an input is missing"), inputs[i]; }
  const Value& out() const { return check(!outputs.empty(), "an output is missing"), outputs[0]; }
  std::shared_ptr<const PackedMatrix> matrix(const std::string& weight) const {
    return check(matrices.contains(weight), "a matrix is missing"), matrices.at(weight);
  }
  std::shared_ptr<const Buffer> vector(const std::string& name, int64_t size) const;
  DType element() const;  // the model's type
  void check(bool holds, const char* why) const {
    if (!holds) refuse(name + ": " + why);
  }
};

// What of a step an op looks at: a step must have what its tape looks at, and nothing else.
struct Needs {
  bool tokens = false, features = false, sources = false, states = false, one_sequence = false;
  int64_t positions = INT32_MAX;  // that it has
};

class Op {
 public:
  virtual ~Op() = default;
  virtual Needs needs() const { return {}; }
  virtual int num_phases() const { return 1; }
  // Asked when all phases before are over, and so free to depend on what those computed.
  virtual int64_t num_tiles(const Run& run, int phase) const = 0;
  virtual void run(const Run& run, int phase, int64_t tile, int thread) const = 0;
  virtual int64_t scratch_bytes() const { return 0; }  // that a thread has in Run::scratch
};

Activation activation_of(OpSpec& spec, const char* param);

inline int index_of(DType dtype) { return static_cast<int>(dtype); }

// An op that computes one row at a time, from its first input if it has any.
class RowOp : public Op {
 public:
  explicit RowOp(const OpSpec& spec)
      : in_(spec.inputs.empty() ? Value() : spec.in(0)), out_(spec.out()), dtype_(index_of(spec.element())) {}
  int64_t num_tiles(const Run& run, int) const override { return run.row_tiles(run.rows_of(out_)); }
  void run(const Run& run, int, int64_t tile, int) const override {
    const Range all = run.rows_of(out_), rows = all.part(tile, run.row_tiles(all));
    for (int64_t i = rows.begin; i < rows.end; ++i) row(run, i);
  }

 protected:
  virtual void row(const Run& run, int64_t i) const = 0;
  // The row of an input that row i of the output is made from.
  int64_t from(const Run& run, const Value& in, int64_t i) const {
    return out_.logit_rows && !in.logit_rows ? run.step.logit_rows[i] : i;
  }
  int64_t from(const Run& run, int64_t i) const { return from(run, in_, i); }
  bool floats() const { return out_.dtype == DType::kFloat32; }

  Value in_, out_;
  int dtype_;  // of the model
};

// What several ops of a tape have in common: planned anew for each step, before any of them runs.
class Shared {
 public:
  virtual ~Shared() = default;
  virtual void plan(const Run& run) = 0;
};

// The type of an op's input or output: float32, the model's own, or either.
enum class Type : uint8_t { kFloat, kElement, kAny };

struct OpKind {
  std::vector<Type> inputs;
  Type output;
  std::function<std::unique_ptr<Op>(OpSpec&)> make;  // throws std::invalid_argument where sizes disagree
};

std::map<std::string, OpKind>& op_kinds();

// Makes an op known by the name that its node has.
struct RegisterOp {
  RegisterOp(const std::string& name, OpKind kind) { op_kinds().emplace(name, std::move(kind)); }
};

template <class T>
std::unique_ptr<Op> make_op(OpSpec& spec) {
  return std::make_unique<T>(spec);
}

}  // namespace octavo
