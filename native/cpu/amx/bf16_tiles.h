// BF16 micro-kernels for CPUs that have AMX tiles or AVX-512's BF16 dot products; called only where cpu_features() says so.
// They are compiled apart from the other kernels, so this header holds declarations alone.
#pragma once
#include <cstdint>

namespace vltune::cpu::amx {

// A run of k of one product, in steps of 32 along k; what lies beyond the matrices is zero.
//   a  a panel of rows, element (i, k) at a[i * a_row + k / 32 * a_step + k % 32]
//   b  a panel of 32 columns in pairs, element (k, j) at b[k / 2 * 64 + j * 2 + k % 2]
struct Run {
  const uint16_t* a;
  int64_t a_row, a_step;
  const uint16_t* b;
  int64_t steps;
};

constexpr int kColumns = 32;
constexpr int kAmxRows = 32;  // of a panel of A
constexpr int kDotRows = 16;

// Between the two, this thread's tile registers are configured for amx_tile.
void amx_begin();
void amx_end();

// out[rows][32] = the sum over the runs, plus `sums` of the same shape if it is not null. `sums` may be `out`.
void amx_tile(const Run* runs, int count, const float* sums, float* out);
void dot_tile(const Run* runs, int count, const float* sums, float* out);

// c[i][j] = bf16(in[i][j]) for i < rows, j < columns; rows of `in` lie 32 apart, those of c c_ld.
void store_bf16(const float* in, int rows, int columns, uint16_t* c, int64_t c_ld);

}  // namespace vltune::cpu::amx
