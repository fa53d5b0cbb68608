// What the ops of this family say about operands that do not fit: the op, the operand, what was expected and what came.
#pragma once
#include <string>

#include "../../runtime/op.h"

namespace vltune::cpu::VLTUNE_ISA {

inline const Tensor& operand(const Tensor* list, int count, int index) {
  static const Tensor absent;
  return index < count ? list[index] : absent;
}
inline const Tensor& input(const OpCall& call, int index) { return operand(call.in, call.in_count, index); }
inline const Tensor& output(const OpCall& call, int index) { return operand(call.out, call.out_count, index); }

inline std::string shape_text(const int64_t* shape, int rank) {
  std::string text = "[";
  for (int i = 0; i < rank; ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

inline void expect_present(const OpCall& call, const char* name, const Tensor& tensor) {
  VLTUNE_CHECK(tensor.present(), "ERR_ARGUMENT", "%s: %s is missing", call.op, name);
}

inline void expect_rank(const OpCall& call, const char* name, const Tensor& tensor, int rank) {
  VLTUNE_CHECK(tensor.rank == rank, "ERR_SHAPE", "%s: %s must have %d dimensions, got %s", call.op, name, rank,
               shape_text(tensor.shape, tensor.rank).c_str());
}

inline void expect_shape(const OpCall& call, const char* name, const Tensor& tensor, int64_t rows, int64_t columns = -1) {
  const int64_t shape[2] = {rows, columns};
  const int rank = columns < 0 ? 1 : 2;
  bool same = tensor.rank == rank;
  for (int i = 0; same && i < rank; ++i) same = tensor.shape[i] == shape[i];
  VLTUNE_CHECK(same, "ERR_SHAPE", "%s: %s must be %s, got %s", call.op, name, shape_text(shape, rank).c_str(),
               shape_text(tensor.shape, tensor.rank).c_str());
}

inline void expect_dtype(const OpCall& call, const char* name, const Tensor& tensor, DType wanted) {
  VLTUNE_CHECK(tensor.dtype == wanted, "ERR_DTYPE", "%s: %s must be %s, got %s", call.op, name, dtype_name(wanted), dtype_name(tensor.dtype));
}

inline void expect_activation(const OpCall& call, const char* name, const Tensor& tensor) {
  VLTUNE_CHECK(tensor.dtype == DType::F32 || tensor.dtype == DType::BF16, "ERR_DTYPE", "%s: %s must be f32 or bf16, got %s", call.op, name,
               dtype_name(tensor.dtype));
}

inline void expect_weight(const OpCall& call, const Tensor& weight) {
  expect_present(call, "weight", weight);
  VLTUNE_CHECK(weight.dtype == DType::F32 || weight.dtype == DType::BF16 || weight.dtype == DType::F16 || weight.dtype == DType::NF4, "ERR_DTYPE",
               "%s: weight must be f32, bf16, f16 or nf4, got %s", call.op, dtype_name(weight.dtype));
  expect_rank(call, "weight", weight, 2);
}

inline void expect_workspace(const OpCall& call, size_t bytes) {
  VLTUNE_CHECK(call.workspace_bytes >= bytes, "ERR_INTERNAL", "%s: needs %zu bytes of workspace, got %zu", call.op, bytes, call.workspace_bytes);
}

}  // namespace vltune::cpu::VLTUNE_ISA
