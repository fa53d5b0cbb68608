// Checks of an op's operands before it touches memory. Messages name op, operand, what was expected and what came:
//   "rms_norm: weight has shape [64], expected [128]"   ERR_SHAPE
//   "rms_norm: weight is u8, expected f32 or bf16"      ERR_DTYPE
//   "rms_norm: weight is missing"                       ERR_ARGUMENT
// `static`, not `inline`: these are compiled into the sources of every instruction set, and must not be merged among them.
#pragma once
#include <cstdio>
#include <initializer_list>

#include "../runtime/op.h"

namespace vltune {

constexpr unsigned dtype_bit(DType dtype) { return 1u << static_cast<unsigned>(dtype); }
constexpr unsigned kIsF32 = dtype_bit(DType::F32), kIsBf16 = dtype_bit(DType::BF16), kIsF16 = dtype_bit(DType::F16),
                   kIsI32 = dtype_bit(DType::I32), kIsU8 = dtype_bit(DType::U8), kIsNf4 = dtype_bit(DType::NF4);
constexpr unsigned kIsFloat = kIsF32 | kIsBf16 | kIsF16;
#ifdef __CUDACC__
constexpr unsigned kIsActivation = kIsFloat;               // D of the contracts
#else
constexpr unsigned kIsActivation = kIsF32 | kIsBf16;
#endif
constexpr unsigned kIsNormWeight = kIsF32 | kIsBf16;
constexpr int64_t kAny = -1;                               // any length of this dimension

// Operand i, or an absent one where the caller gave fewer.
[[maybe_unused]] static const Tensor& input(const OpCall& call, int i) {
  static const Tensor absent;
  return i < call.in_count ? call.in[i] : absent;
}
[[maybe_unused]] static const Tensor& output(const OpCall& call, int i) {
  static const Tensor absent;
  return i < call.out_count ? call.out[i] : absent;
}

[[maybe_unused]] static void print_shape(char* text, size_t size, const int64_t* shape, int rank) {
  size_t used = static_cast<size_t>(std::snprintf(text, size, "["));
  for (int i = 0; i < rank && used < size; ++i) {
    const char* comma = i ? "," : "";
    used += static_cast<size_t>(shape[i] == kAny ? std::snprintf(text + used, size - used, "%s*", comma)
                                                 : std::snprintf(text + used, size - used, "%s%lld", comma,
                                                                 static_cast<long long>(shape[i])));
  }
  if (used < size) std::snprintf(text + used, size - used, "]");
}

[[maybe_unused]] static void check_present(const OpCall& call, const Tensor& tensor, const char* name) {
  VLTUNE_CHECK(tensor.present(), "ERR_ARGUMENT", "%s: %s is missing", call.op, name);
}

[[maybe_unused]] static void check_absent(const OpCall& call, const Tensor& tensor, const char* name, const char* why) {
  VLTUNE_CHECK(!tensor.present(), "ERR_ARGUMENT", "%s: %s was given, expected none %s", call.op, name, why);
}

[[maybe_unused]] static void check_dtype(const OpCall& call, const Tensor& tensor, const char* name, unsigned allowed) {
  if (allowed & dtype_bit(tensor.dtype)) return;
  char expected[64] = "";
  size_t used = 0;
  for (unsigned i = 0; i <= static_cast<unsigned>(DType::NF4); ++i)
    if (allowed >> i & 1)
      used += static_cast<size_t>(std::snprintf(expected + used, sizeof expected - used, "%s%s", used ? " or " : "",
                                                dtype_name(static_cast<DType>(i))));
  VLTUNE_FAIL("ERR_DTYPE", "%s: %s is %s, expected %s", call.op, name, dtype_name(tensor.dtype), expected);
}

[[maybe_unused]] static void check_shape(const OpCall& call, const Tensor& tensor, const char* name,
                                         std::initializer_list<int64_t> shape) {
  bool same = tensor.rank == shape.size();
  for (int i = 0; same && i < tensor.rank; ++i) same = shape.begin()[i] == kAny || shape.begin()[i] == tensor.shape[i];
  if (same) return;
  char actual[96], expected[96];
  print_shape(actual, sizeof actual, tensor.shape, tensor.rank);
  print_shape(expected, sizeof expected, shape.begin(), static_cast<int>(shape.size()));
  VLTUNE_FAIL("ERR_SHAPE", "%s: %s has shape %s, expected %s", call.op, name, actual, expected);
}

[[maybe_unused]] static void check_numel(const OpCall& call, const Tensor& tensor, const char* name, int64_t numel) {
  VLTUNE_CHECK(tensor.numel() == numel, "ERR_SHAPE", "%s: %s has %lld elements, expected %lld", call.op, name,
               static_cast<long long>(tensor.numel()), static_cast<long long>(numel));
}

// Present, of one of these dtypes, and of this shape.
[[maybe_unused]] static void check_operand(const OpCall& call, const Tensor& tensor, const char* name, unsigned allowed,
                                           std::initializer_list<int64_t> shape) {
  check_present(call, tensor, name);
  check_dtype(call, tensor, name, allowed);
  check_shape(call, tensor, name, shape);
}

// The residual of a norm, of this dtype and shape, and the sum that it asks for: both or neither.
[[maybe_unused]] static void check_residual(const OpCall& call, const Tensor& residual, const Tensor& sum, unsigned allowed,
                                            std::initializer_list<int64_t> shape) {
  if (residual.present()) {
    check_operand(call, residual, "residual", allowed, shape);
    check_operand(call, sum, "sum", allowed, shape);
  } else {
    check_absent(call, sum, "sum", "without residual");
  }
}

// The scratch memory of a call is as large as was asked for.
[[maybe_unused]] static void check_workspace(const OpCall& call, size_t bytes) {
  VLTUNE_CHECK(call.workspace_bytes >= bytes, "ERR_INTERNAL", "%s: workspace of %zu bytes, expected %zu", call.op, call.workspace_bytes,
               bytes);
}

constexpr int64_t kNoId = INT64_MIN;

// Every one of `ids` lies in 0..limit-1, or is `ignored`.
[[maybe_unused]] static void check_ids(const OpCall& call, const char* name, const int32_t* ids, int64_t count, int64_t limit,
                                       int64_t ignored = kNoId) {
  for (int64_t i = 0; i < count; ++i)
    if ((ids[i] < 0 || ids[i] >= limit) && ids[i] != ignored)
      VLTUNE_FAIL("ERR_ARGUMENT", "%s: %s[%lld] is %d, expected 0..%lld", call.op, name, static_cast<long long>(i), ids[i],
                  static_cast<long long>(limit - 1));
}

}  // namespace vltune
