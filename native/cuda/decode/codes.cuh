// NF4 codes on their way from memory to the tensor cores, as the kernels of linears.cu and layers.cu share it. Codes become
// BF16 by a table of all bytes that has a column for each lane, so that no two lanes of a load meet in a bank; its address is a multiple of
// its size: a byte and a lane are then put into it bit by bit.
#pragma once
#include "../mma.cuh"
#include "../nf4.cuh"
#include "../sm90.cuh"
#include "../vector.cuh"

namespace vltune::cuda {

constexpr int kTableBytes = 256 * kWarp * 4;
[[maybe_unused]] constexpr int kTableParts = 512;  // that write_table writes

#if defined(__CUDACC__) && (!defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900)

__device__ inline void prefetch_l2(const void* p) { asm volatile("prefetch.global.L2 [%0];" ::"l"(p)); }

__device__ inline void copy_row(uint32_t to, const void* from, uint32_t bytes, uint32_t barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::"r"(to), "l"(from),
               "r"(bytes), "r"(barrier), "l"(sm90::kEvictFirst)
               : "memory");
}

__device__ inline uint32_t shared_word(uint32_t at) {
  uint32_t word;
  asm("ld.shared.b32 %0, [%1];" : "=r"(word) : "r"(at));
  return word;
}
__device__ inline uint2 shared_pair(uint32_t at) {
  uint2 pair;
  asm volatile("ld.shared.v2.b32 {%0, %1}, [%2];" : "=r"(pair.x), "=r"(pair.y) : "r"(at));
  return pair;
}

// Two elements by each byte of a word.
__device__ inline void look_up(uint32_t word, uint32_t lane_table, uint32_t (&to)[4]) {
  to[0] = shared_word(((word << 7) & 0x7f80u) | lane_table);
  to[1] = shared_word(((word >> 1) & 0x7f80u) | lane_table);
  to[2] = shared_word(((word >> 9) & 0x7f80u) | lane_table);
  to[3] = shared_word(((word >> 17) & 0x7f80u) | lane_table);
}

// Half a row of the table.
__device__ inline void write_table(char* table, int part) {
  const int byte = part / 2;
  const uint32_t word = pack_pair<Bf16>(kNf4Code[byte >> 4], kNf4Code[byte & 15]);
  uint4* to = reinterpret_cast<uint4*>(table + byte * (kWarp * 4) + part % 2 * 64);
#pragma unroll
  for (int j = 0; j < 4; ++j) to[j] = make_uint4(word, word, word, word);
}

// A block of 64 columns of 16 rows of a weight, without scales, by a warp: a lane holds 16 neighbours along K of rows lane / 4 and 8 more.
// Which of K a step of the tensor cores sees at which place does not matter as long as the row that it is multiplied by lies alike.
struct Codes {
  uint32_t low[2][4], high[2][4];

  // `low_row`: the lane's 8 bytes of the lower of its rows.
  __device__ void look_up(uint32_t low_row, uint32_t high_row, uint32_t lane_table) {
    const uint2 low_codes = shared_pair(low_row), high_codes = shared_pair(high_row);
    cuda::look_up(low_codes.x, lane_table, low[0]);
    cuda::look_up(high_codes.x, lane_table, high[0]);
    cuda::look_up(low_codes.y, lane_table, low[1]);
    cuda::look_up(high_codes.y, lane_table, high[1]);
  }
  // c and more += the block times a row; all columns of the sums are alike.
  __device__ void multiply(const uint4 (&factors)[2], float (&c)[4], float (&more)[4]) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint32_t first[4] = {low[half][0], high[half][0], low[half][1], high[half][1]};
      const uint32_t second[4] = {low[half][2], high[half][2], low[half][3], high[half][3]};
      mma<Bf16>(c, first, factors[half].x, factors[half].y);
      mma<Bf16>(more, second, factors[half].z, factors[half].w);
    }
  }
};

#endif

}  // namespace vltune::cuda
