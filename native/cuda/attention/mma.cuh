// Products of tiles in shared memory by mma.sync, T being BF16 or F16. A tile holds rows of a head, in units of 16 bytes that are swizzled
// so that the eight rows of an ldmatrix lie in different banks. In an accumulator thread t has the columns t % 4 * 2 and the next of the
// rows t / 4 (elements 0, 1) and t / 4 + 8 (elements 2, 3).
#pragma once
#include "../mma.cuh"
#include "tiles.cuh"

namespace vltune::cuda::attn {

constexpr int kMmaHeadDim = 128;  // the widest that the kernels take

inline bool takes_mma(DType dtype, int head_dim) {
  return has_mma(dtype, device().capability()) && head_dim % 8 == 0 && head_dim <= kMmaHeadDim;
}

#ifdef __CUDACC__

// A tile of rows of kWidth elements (32, 64, 96 or 128).
template <int kWidth>
struct TileOf {
  static constexpr int kRowBytes = kWidth == 96 ? 256 : kWidth * 2;
  static constexpr int kUnits = kWidth / 8;
  __host__ __device__ static constexpr int bytes(int rows) { return rows * kRowBytes; }
  // Swizzle of a row. A unit's place is its number xor this; so where the unit is even, its address is that of unit 0 or 1 xor a constant.
  __device__ static int key(int row) { return kRowBytes == 64 ? row / 2 % 4 : row % 8; }
  __device__ static uint32_t at(int row, int unit) { return row * kRowBytes + ((unit ^ key(row)) * 16); }
};

// 2^x, results under 2^-126 as 0
__device__ inline float power_of_two(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

// kRows rows of `width` elements to the tile at `to`; zeros from row `count` and element `width` on.
template <int kWidth, int kRows, int kThreads, class T>
__device__ inline void copy_rows(uint32_t to, const T* from, int64_t stride, int count, int width) {
  using Tile = TileOf<kWidth>;
  constexpr int kCopies = (kRows * Tile::kUnits + kThreads - 1) / kThreads;
  constexpr bool kWhole = kRows * Tile::kUnits % kThreads == 0;  // every thread copies as many
  if constexpr (kThreads % Tile::kUnits == 0) {
    constexpr int kStep = kThreads / Tile::kUnits;  // rows; a multiple of 8, so that the swizzle stays
    const int row = static_cast<int>(threadIdx.x) / Tile::kUnits, unit = static_cast<int>(threadIdx.x) % Tile::kUnits;
    const bool inside = unit * 8 < width;
    const T* at = from + row * stride + unit * 8;
    const uint32_t first = to + Tile::at(row, unit);
#pragma unroll
    for (int i = 0; i < kCopies; ++i, at += kStep * stride) {
      if (!kWhole && row + i * kStep >= kRows) break;
      const bool wanted = inside && row + i * kStep < count;
      copy_async_16(first + i * kStep * Tile::kRowBytes, wanted ? at : from, wanted ? 16 : 0);
    }
  } else {
#pragma unroll
    for (int i = 0; i < kCopies; ++i) {
      const int copy = i * kThreads + static_cast<int>(threadIdx.x), row = copy / Tile::kUnits, unit = copy % Tile::kUnits;
      if (!kWhole && row >= kRows) break;
      const bool wanted = row < count && unit * 8 < width;
      copy_async_16(to + Tile::at(row, unit), wanted ? from + row * stride + unit * 8 : from, wanted ? 16 : 0);
    }
  }
}

// Lane addresses for load_matrices, of the tile's first rows; xor with 32 * i for columns 16 * i, add a multiple of 16 rows.
//   left: A operand, 16 rows by 16 columns
template <int kWidth>
__device__ inline uint32_t left_address(uint32_t tile) {
  const int lane = threadIdx.x % 32;
  return tile + TileOf<kWidth>::at(lane % 16, lane / 16);
}
//   right: B operand of A B^T, 16 rows of B (columns of the product) by 16 columns: two B fragments, {0, 1} and {2, 3}
template <int kWidth>
__device__ inline uint32_t right_address(uint32_t tile) {
  const int lane = threadIdx.x % 32;
  return tile + TileOf<kWidth>::at(lane % 8 + lane / 16 * 8, lane / 8 % 2);
}
//   For load_matrices_turned the left address gives the B operand of A B, 16 rows (summed over) by 16 columns: two fragments likewise.

struct Nothing {
  __device__ void operator()(int) const {}
};

// c[i][j] = A B^T over kWidth columns; A has kTall x 16 rows from `a` on (left), B kWide x 16 rows from `b` on (right). meanwhile(n) is
// called after the n-th of kWidth / 16 * kWide parts of the product, with arithmetic that the matrix units do not wait for.
template <class T, int kWidth, int kTall, int kWide, class Meanwhile = Nothing>
__device__ inline void product_nt(float (&c)[kTall][2 * kWide][4], uint32_t a, uint32_t b, Meanwhile&& meanwhile = {}) {
  constexpr int kStep = 16 * TileOf<kWidth>::kRowBytes;
#pragma unroll
  for (int i = 0; i < kTall; ++i)
#pragma unroll
    for (int j = 0; j < 2 * kWide; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) c[i][j][e] = 0;
  // Operands are read one product ahead of their use.
  uint32_t left[2][kTall][4], right[2][4];
  load_matrices(right[0], b);
#pragma unroll
  for (int i = 0; i < kTall; ++i) load_matrices(left[0][i], a + i * kStep);
#pragma unroll
  for (int n = 0; n < kWidth / 16 * kWide; ++n) {
    const int k = n / kWide, j = n % kWide, next_k = (n + 1) / kWide, next_j = (n + 1) % kWide;
    if (next_k < kWidth / 16) load_matrices(right[(n + 1) % 2], (b ^ (next_k * 32)) + next_j * kStep);
    if (j == 0 && k + 1 < kWidth / 16) {
#pragma unroll
      for (int i = 0; i < kTall; ++i) load_matrices(left[(k + 1) % 2][i], (a ^ ((k + 1) * 32)) + i * kStep);
    }
#pragma unroll
    for (int i = 0; i < kTall; ++i) {
      mma<T>(c[i][2 * j], left[k % 2][i], right[n % 2][0], right[n % 2][1]);
      mma<T>(c[i][2 * j + 1], left[k % 2][i], right[n % 2][2], right[n % 2][3]);
    }
    meanwhile(n);
  }
}

// c += P B, P an accumulator rounded to T with kDeep x 16 columns, B kDeep x 16 rows of kWidth columns from `b` on (left). meanwhile as
// above, for kDeep * kWidth / 16 parts.
template <class T, int kWidth, int kTall, int kDeep, class Meanwhile = Nothing>
__device__ inline void product_nn(float (&c)[kTall][kWidth / 8][4], const float (&p)[kTall][2 * kDeep][4], uint32_t b,
                                  Meanwhile&& meanwhile = {}) {
  constexpr int kStep = 16 * TileOf<kWidth>::kRowBytes;
  constexpr int kWide = kWidth / 16;
  uint32_t left[kTall][4], right[2][4];
  load_matrices_turned(right[0], b);
#pragma unroll
  for (int n = 0; n < kDeep * kWide; ++n) {
    const int k = n / kWide, j = n % kWide, next_k = (n + 1) / kWide, next_j = (n + 1) % kWide;
    if (next_k < kDeep) load_matrices_turned(right[(n + 1) % 2], (b ^ (next_j * 32)) + next_k * kStep);
    if (j == 0) {
#pragma unroll
      for (int i = 0; i < kTall; ++i) {
        left[i][0] = pack_pair<T>(p[i][2 * k][0], p[i][2 * k][1]);
        left[i][1] = pack_pair<T>(p[i][2 * k][2], p[i][2 * k][3]);
        left[i][2] = pack_pair<T>(p[i][2 * k + 1][0], p[i][2 * k + 1][1]);
        left[i][3] = pack_pair<T>(p[i][2 * k + 1][2], p[i][2 * k + 1][3]);
      }
    }
#pragma unroll
    for (int i = 0; i < kTall; ++i) {
      mma<T>(c[i][2 * j], left[i], right[n % 2][0], right[n % 2][1]);
      mma<T>(c[i][2 * j + 1], left[i], right[n % 2][2], right[n % 2][3]);
    }
    meanwhile(n);
  }
}

// kTall x 16 rows of an accumulator, multiplied by factor[i][row half], rounded, and by way of the tile at `rows` (the warp's own) to
// device memory.
template <class T, int kWidth, int kTall>
__device__ inline void store_rows(const float (&c)[kTall][kWidth / 8][4], const float (&factor)[kTall][2], char* rows, T* to,
                                  int64_t stride, int count, int width) {
  using Tile = TileOf<kWidth>;
  const int lane = threadIdx.x % 32;
  __syncwarp();
#pragma unroll
  for (int i = 0; i < kTall; ++i)
#pragma unroll
    for (int j = 0; j < kWidth / 8; ++j)
#pragma unroll
      for (int half = 0; half < 2; ++half)
        *reinterpret_cast<uint32_t*>(rows + Tile::at(i * 16 + half * 8 + lane / 4, j) + lane % 4 * 4) =
            pack_pair<T>(c[i][j][2 * half] * factor[i][half], c[i][j][2 * half + 1] * factor[i][half]);
  __syncwarp();
#pragma unroll
  for (int i = 0; i < kTall * 16 * Tile::kUnits / 32; ++i) {
    const int copy = i * 32 + lane, row = copy / Tile::kUnits, unit = copy % Tile::kUnits;
    if (row < count && unit * 8 < width)
      *reinterpret_cast<uint4*>(to + row * stride + unit * 8) = *reinterpret_cast<const uint4*>(rows + Tile::at(row, unit));
  }
}

#endif  // __CUDACC__

}  // namespace vltune::cuda::attn
