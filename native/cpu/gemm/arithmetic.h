#pragma once
#include <cstddef>
#include <cstdint>

namespace vltune::cpu::VLTUNE_ISA {

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }
inline size_t aligned(size_t bytes) { return (bytes + 63) / 64 * 64; }

}  // namespace vltune::cpu::VLTUNE_ISA
