// BF16 micro-kernels for CPUs that have AMX tiles or AVX-512's BF16 dot products; called only where cpu_features() says so.
// They are compiled apart from the other kernels, so this header holds declarations alone.
#pragma once
#include <cstdint>

namespace vltune::cpu::amx {

// A run of k of one product: A as rows of BF16, B as a panel of 32 columns in pairs of k (element (k, j) at
// b[k / 2 * 64 + j * 2 + k % 2]). k is a multiple of 32; what lies beyond the matrix is zero.
struct Run {
  const uint16_t* a;
  int64_t a_ld;
  const uint16_t* b;
  int64_t k;
};

constexpr int kColumns = 32;
constexpr int kAmxRows = 32;
constexpr int kDotRows = 14;

// Between the two, this thread's tile registers are configured for amx_tile.
void amx_begin();
void amx_end();

// out[32][32] (+)= the sum over the runs, of 32 rows of A.
void amx_tile(const Run* runs, int count, float* out, bool add);
// The same of `rows` <= 14 rows with AVX512_BF16.
void dot_tile(const Run* runs, int count, int rows, float* out, bool add);

// c[i][j] = bf16(in[i][j]) for i < rows, j < columns; rows of `in` lie 32 apart, those of c c_ld.
void store_bf16(const float* in, int rows, int columns, uint16_t* c, int64_t c_ld);

}  // namespace vltune::cpu::amx
