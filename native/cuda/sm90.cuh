// Hopper's own instructions as small functions: mbarriers, the tensor memory accelerator (TMA), wgmma, clusters, register budgets.
// The PTX ISA is the reference. Device functions are for kernels compiled for sm_90a (VLTUNE_SM90A); on other targets a kernel must
// compile its body away and the host must not launch it (device().sm90a()).
//
// Conventions: shared memory is named by its 32-bit address (shared_address). Operand tiles lie in shared memory in rows of 128 bytes,
// swizzled as TMA does with kSwizzle128: 16-byte unit u of row r is at r * 128 + ((u ^ (r & 7)) * 16); a tile starts at a multiple of 1024.
//   K-major operand  [mn, k]: row = mn, 64 bf16 of k a row, so k-step j of 16 starts 32 * j bytes further (descriptor_k_major).
//   MN-major operand [k, mn]: row = k, 64 bf16 of mn a row, blocks of 64 mn apart by `block_bytes` (rows of k * 128); k-step j of 16
//                             starts 2048 * j bytes further (descriptor_mn_major).
#pragma once
#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "device.h"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define VLTUNE_SM90A 1
#endif

namespace vltune::cuda::sm90 {

// ---- Host: tensor maps ----

// The driver's encoder, found through the runtime: vltune never links libcuda. nullptr if the driver has none.
inline decltype(&cuTensorMapEncodeTiled) tensor_map_encoder() {
  static const auto encoder = [] {
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult found;
#if CUDART_VERSION >= 12050
    const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault, &found);
#else  // of this toolkit's own version, which is 12.0 at least
    const cudaError_t error = cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &entry, cudaEnableDefault, &found);
#endif
    if (error != cudaSuccess || found != cudaDriverEntryPointSuccess) {
      cudaGetLastError();
      entry = nullptr;
    }
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(entry);
  }();
  return encoder;
}

// Can TMA address rows of this many bytes from here? (Otherwise encode_* return false.)
inline bool tensor_map_takes(const void* data, int64_t row_bytes) {
  return (reinterpret_cast<uintptr_t>(data) & 15) == 0 && (row_bytes & 15) == 0 && row_bytes > 0 && row_bytes < (int64_t{1} << 40);
}

// A tensor of up to 5 dimensions, innermost first. strides[i] is in bytes, of dimension i + 1. The box is what one copy moves; elements
// outside the tensor read as zero and are not written. The innermost box dimension is 128 bytes for kSwizzle128 (any for none).
inline bool encode_tensor_map(CUtensorMap* map, CUtensorMapDataType type, const void* data, int rank, const uint64_t* sizes, const uint64_t* strides,
                              const uint32_t* box, CUtensorMapSwizzle swizzle = CU_TENSOR_MAP_SWIZZLE_128B,
                              CUtensorMapL2promotion promotion = CU_TENSOR_MAP_L2_PROMOTION_L2_256B) {
  const auto encode = tensor_map_encoder();
  const uint32_t steps[5] = {1, 1, 1, 1, 1};
  return encode != nullptr && encode(map, type, static_cast<cuuint32_t>(rank), const_cast<void*>(data), sizes, strides, box, steps,
                                     CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, promotion, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

// A row-major matrix [rows, columns] with `stride` elements between rows.
inline bool encode_matrix(CUtensorMap* map, DType dtype, const void* data, int64_t rows, int64_t columns, int64_t stride, uint32_t box_rows,
                          uint32_t box_columns, CUtensorMapSwizzle swizzle = CU_TENSOR_MAP_SWIZZLE_128B) {
  const uint64_t element = dtype == DType::F32 ? 4 : 2;
  const uint64_t sizes[2] = {static_cast<uint64_t>(columns), static_cast<uint64_t>(rows)};
  const uint64_t strides[1] = {static_cast<uint64_t>(stride) * element};
  const uint32_t box[2] = {box_columns, box_rows};
  return tensor_map_takes(data, static_cast<int64_t>(strides[0])) &&
         encode_tensor_map(map, dtype == DType::F32 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT32 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, data, 2, sizes, strides, box, swizzle);
}

#ifdef __CUDACC__

// ---- Addresses, clusters ----

__device__ inline uint32_t shared_address(const void* pointer) { return static_cast<uint32_t>(__cvta_generic_to_shared(pointer)); }
// The same place in the shared memory of another block of the cluster.
__device__ inline uint32_t cluster_address(uint32_t address, uint32_t rank) {
  uint32_t mapped;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(mapped) : "r"(address), "r"(rank));
  return mapped;
}
__device__ inline uint32_t cluster_rank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
__device__ inline void cluster_arrive() { asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory"); }
// Orders no memory.
__device__ inline void cluster_arrive_relaxed() { asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory"); }
__device__ inline void cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }
__device__ inline void cluster_sync() {
  cluster_arrive();
  cluster_wait();
}
// True in one lane of a converged warp.
__device__ inline bool elect_one() {
  uint32_t elected;
  asm volatile("{\n.reg .pred p;\nelect.sync _|p, 0xffffffff;\nselp.u32 %0, 1, 0, p;\n}\n" : "=r"(elected));
  return elected != 0;
}

// ---- mbarriers ----

__device__ inline void barrier_init(uint32_t barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
// After barrier_init, before other threads (or TMA, or other blocks) use the barriers; followed by __syncthreads or cluster_sync.
__device__ inline void barrier_init_fence() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ inline void barrier_arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
// A warp's arrival, when all its lanes have read or written what the barrier hands on: __syncwarp(), then barrier_arrive where
// arrives_for_warp(lane), kWarpArrivals of the barrier's count. That is one lane, but with VLTUNE_RACECHECK each: racecheck may take what the
// others did for unordered, as it does not follow __syncwarp() and another lane's arrival.
#ifdef VLTUNE_RACECHECK
constexpr uint32_t kWarpArrivals = 32;
__device__ inline bool arrives_for_warp(int) { return true; }
#else
constexpr uint32_t kWarpArrivals = 1;
__device__ inline bool arrives_for_warp(int lane) { return lane == 0; }
#endif
// On a barrier of another block of the cluster (or one's own), by its own address and the block's rank. Orders what wgmma read before
// (after wgmma_wait); a release at the scope of the cluster would order ordinary writes too, and cost a fence of all memory.
__device__ inline void barrier_arrive_cluster(uint32_t barrier, uint32_t rank) {
  asm volatile("{\n.reg .b32 remote;\nmapa.shared::cluster.u32 remote, %0, %1;\nmbarrier.arrive.shared::cluster.b64 _, [remote];\n}\n" ::"r"(barrier),
               "r"(rank)
               : "memory");
}
// Arrives, and the phase is complete only when this many bytes have been copied.
__device__ inline void barrier_arrive_expect(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
// Waits until the phase of this parity is complete: the first phase has parity 0; a new barrier passes a wait for parity 1.
__device__ inline void barrier_wait(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{\n.reg .pred done;\nagain:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@done bra.uni finished;\nbra.uni again;\nfinished:\n}\n" ::"r"(
          barrier),
      "r"(parity)
      : "memory");
}
// ---- Barriers among some threads of a block (id 1..15; 0 is __syncthreads) ----

__device__ inline void named_barrier_sync(int id, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
__device__ inline void named_barrier_arrive(int id, int threads) { asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory"); }

// ---- TMA ----

// For L2: data read once, data that many blocks read again.
constexpr uint64_t kEvictNormal = 0x1000000000000000ull, kEvictFirst = 0x12F0000000000000ull, kEvictLast = 0x14F0000000000000ull;

__device__ inline void prefetch_tensor_map(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(reinterpret_cast<uint64_t>(map)) : "memory");
}
// One thread calls these. `x` is the innermost coordinate. The map must be a __grid_constant__ parameter (or in constant or global memory).
__device__ inline void tma_load(uint32_t shared, const CUtensorMap* map, uint32_t barrier, int x, int y) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(shared), "l"(map),
               "r"(barrier), "r"(x), "r"(y)
               : "memory");
}
__device__ inline void tma_load(uint32_t shared, const CUtensorMap* map, uint32_t barrier, int x, int y, uint64_t hint) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1, {%3, %4}], [%2], %5;" ::"r"(
                   shared),
               "l"(map), "r"(barrier), "r"(x), "r"(y), "l"(hint)
               : "memory");
}
__device__ inline void tma_load_3d(uint32_t shared, const CUtensorMap* map, uint32_t barrier, int x, int y, int z) {
  asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];" ::"r"(shared),
               "l"(map), "r"(barrier), "r"(x), "r"(y), "r"(z)
               : "memory");
}
__device__ inline void tma_load_3d(uint32_t shared, const CUtensorMap* map, uint32_t barrier, int x, int y, int z, uint64_t hint) {
  asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1, {%3, %4, %5}], [%2], %6;" ::"r"(
                   shared),
               "l"(map), "r"(barrier), "r"(x), "r"(y), "r"(z), "l"(hint)
               : "memory");
}
// Into the same place of every block in `blocks` (a bit a rank); the bytes count on the barrier at the same place of each.
__device__ inline void tma_load_multicast(uint32_t shared, const CUtensorMap* map, uint32_t barrier, int x, int y, uint16_t blocks, uint64_t hint) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster.L2::cache_hint [%0], [%1, {%3, %4}], [%2], "
      "%5, %6;" ::"r"(shared),
      "l"(map), "r"(barrier), "r"(x), "r"(y), "h"(blocks), "l"(hint)
      : "memory");
}
// Stores (after fence_async by the threads that wrote, and a barrier among them), then commit; the wait is for the thread that issued.
__device__ inline void tma_store(const CUtensorMap* map, uint32_t shared, int x, int y) {
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%2, %3}], [%1];" ::"l"(map), "r"(shared), "r"(x), "r"(y) : "memory");
}
__device__ inline void tma_store_3d(const CUtensorMap* map, uint32_t shared, int x, int y, int z) {
  asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group [%0, {%2, %3, %4}], [%1];" ::"l"(map), "r"(shared), "r"(x), "r"(y), "r"(z)
               : "memory");
}
// C += in L2, each element once.
__device__ inline void tma_reduce_add(const CUtensorMap* map, uint32_t shared, int x, int y) {
  asm volatile("cp.reduce.async.bulk.tensor.2d.global.shared::cta.add.tile.bulk_group [%0, {%2, %3}], [%1];" ::"l"(map), "r"(shared), "r"(x), "r"(y)
               : "memory");
}
__device__ inline void tma_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
// All but the last `Pending` groups have read their shared memory (it can be overwritten).
template <int Pending>
__device__ inline void tma_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(Pending) : "memory");
}
// All but the last `Pending` groups are complete.
template <int Pending>
__device__ inline void tma_wait() {
  asm volatile("cp.async.bulk.wait_group %0;" ::"n"(Pending) : "memory");
}
// Ordinary writes to shared memory, before TMA or wgmma read them: in each writing thread, before the barrier.
__device__ inline void fence_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// ---- Registers ----

template <int Count>
__device__ inline void registers_grow() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Count));
}
template <int Count>
__device__ inline void registers_shrink() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Count));
}

// ---- wgmma: D[64, N] (+)= A[64, 16] B[16, N], bf16 factors, f32 sums ----
// Accumulators of thread t of the warpgroup: d[4 j + e] is row 16 (t / 32) + (t % 32) / 4 + 8 (e / 2), column 8 j + 2 (t % 4) + e % 2.
// A in registers: a[0] = (row, k), (row, k + 1) packed, a[1] = row + 8, a[2] = k + 8, a[3] = both, with row = 16 (t / 32) + (t % 32) / 4 and
// k = 2 (t % 4): an accumulator tile of 16 columns, rounded pairwise, is already such an operand.

// Addresses and distances are told in units of 16 bytes.
__device__ constexpr uint64_t descriptor_field(uint32_t bytes) { return (bytes & 0x3ffff) >> 4; }
// Groups of 8 rows follow each other: 1024 bytes.
__device__ inline uint64_t descriptor_k_major(uint32_t shared) {
  return descriptor_field(shared) | (uint64_t{1} << 16) | (descriptor_field(1024) << 32) | (uint64_t{1} << 62);
}
__device__ inline uint64_t descriptor_mn_major(uint32_t shared, uint32_t block_bytes) {
  return descriptor_field(shared) | (descriptor_field(block_bytes) << 16) | (descriptor_field(1024) << 32) | (uint64_t{1} << 62);
}
// To add to a descriptor for the next 16 of K.
constexpr uint64_t kNextK16 = 32 >> 4, kNextK16Mn = 2048 >> 4;

// Before the first wgmma, and whenever registers it reads or writes were touched.
__device__ inline void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int Pending>
__device__ inline void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
}
// Keeps the compiler from moving uses of accumulators across a wait.
template <int Count>
__device__ inline void wgmma_pin(float (&d)[Count]) {
#pragma unroll
  for (int i = 0; i < Count; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

#define VLTUNE_R0 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
#define VLTUNE_R1 "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define VLTUNE_R2 "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47"
#define VLTUNE_R3 "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define VLTUNE_R4 "%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79"
#define VLTUNE_R5 "%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95"
#define VLTUNE_R6 "%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111"
#define VLTUNE_R7 "%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
#define VLTUNE_D4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define VLTUNE_D16(i) VLTUNE_D4(i), VLTUNE_D4(i + 4), VLTUNE_D4(i + 8), VLTUNE_D4(i + 12)

#define VLTUNE_WGMMA_SS(N, LIST, A, B, P, TA, TB, ...)                                                                                     \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #P ", 0;\nwgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" LIST "}, %" #A   \
               ", %" #B ", p, 1, 1, %" #TA ", %" #TB ";\n}\n"                                                                              \
               : __VA_ARGS__                                                                                                               \
               : "l"(a), "l"(b), "r"(add), "n"(AMn), "n"(BMn))
#define VLTUNE_WGMMA_RS(N, LIST, A0, A1, A2, A3, B, P, TB, ...)                                                                            \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #P ", 0;\nwgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" LIST "}, {%" #A0 \
               ", %" #A1 ", %" #A2 ", %" #A3 "}, %" #B ", p, 1, 1, %" #TB ";\n}\n"                                                         \
               : __VA_ARGS__                                                                                                               \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add), "n"(BMn))

// A and B by descriptor; AMn, BMn: 1 if that operand is MN-major. add: 0 to overwrite D.
template <int N, int AMn, int BMn>
__device__ inline void wgmma(float (&d)[N / 2], uint64_t a, uint64_t b, int add) {
  static_assert(N == 8 || N == 16 || N == 32 || N == 64 || N == 96 || N == 128 || N == 160 || N == 192 || N == 224 || N == 256, "a width with a wrapper");
  if constexpr (N == 8) {
    VLTUNE_WGMMA_SS(8, "%0,%1,%2,%3", 4, 5, 6, 7, 8, VLTUNE_D4(0));
  } else if constexpr (N == 16) {
    VLTUNE_WGMMA_SS(16, "%0,%1,%2,%3,%4,%5,%6,%7", 8, 9, 10, 11, 12, VLTUNE_D4(0), VLTUNE_D4(4));
  } else if constexpr (N == 32) {
    VLTUNE_WGMMA_SS(32, VLTUNE_R0, 16, 17, 18, 19, 20, VLTUNE_D16(0));
  } else if constexpr (N == 64) {
    VLTUNE_WGMMA_SS(64, VLTUNE_R0 "," VLTUNE_R1, 32, 33, 34, 35, 36, VLTUNE_D16(0), VLTUNE_D16(16));
  } else if constexpr (N == 96) {
    VLTUNE_WGMMA_SS(96, VLTUNE_R0 "," VLTUNE_R1 "," VLTUNE_R2, 48, 49, 50, 51, 52, VLTUNE_D16(0), VLTUNE_D16(16), VLTUNE_D16(32));
  } else if constexpr (N == 128) {
    VLTUNE_WGMMA_SS(128, VLTUNE_R0 "," VLTUNE_R1 "," VLTUNE_R2 "," VLTUNE_R3, 64, 65, 66, 67, 68, VLTUNE_D16(0), VLTUNE_D16(16), VLTUNE_D16(32),
                    VLTUNE_D16(48));
  } else if constexpr (N == 160) {
    VLTUNE_WGMMA_SS(160, VLTUNE_R0 "," VLTUNE_R1 "," VLTUNE_R2 "," VLTUNE_R3 "," VLTUNE_R4, 80, 81, 82, 83, 84, VLTUNE_D16(0), VLTUNE_D16(16),
                    VLTUNE_D16(32), VLTUNE_D16(48), VLTUNE_D16(64));
  } else if constexpr (N == 192) {
    VLTUNE_WGMMA_SS(192, VLTUNE_R0 "," VLTUNE_R1 "," VLTUNE_R2 "," VLTUNE_R3 "," VLTUNE_R4 "," VLTUNE_R5, 96, 97, 98, 99, 100, VLTUNE_D16(0),
                    VLTUNE_D16(16), VLTUNE_D16(32), VLTUNE_D16(48), VLTUNE_D16(64), VLTUNE_D16(80));
  } else if constexpr (N == 224) {
    VLTUNE_WGMMA_SS(224, VLTUNE_R0 "," VLTUNE_R1 "," VLTUNE_R2 "," VLTUNE_R3 "," VLTUNE_R4 "," VLTUNE_R5 "," VLTUNE_R6, 112, 113, 114, 115, 116,
                    VLTUNE_D16(0), VLTUNE_D16(16), VLTUNE_D16(32), VLTUNE_D16(48), VLTUNE_D16(64), VLTUNE_D16(80), VLTUNE_D16(96));
  } else {
    VLTUNE_WGMMA_SS(256, VLTUNE_R0 "," VLTUNE_R1 "," VLTUNE_R2 "," VLTUNE_R3 "," VLTUNE_R4 "," VLTUNE_R5 "," VLTUNE_R6 "," VLTUNE_R7, 128, 129, 130,
                    131, 132, VLTUNE_D16(0), VLTUNE_D16(16), VLTUNE_D16(32), VLTUNE_D16(48), VLTUNE_D16(64), VLTUNE_D16(80), VLTUNE_D16(96),
                    VLTUNE_D16(112));
  }
}

// A from registers.
template <int N, int BMn>
__device__ inline void wgmma(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, int add) {
  static_assert(N == 16 || N == 32 || N == 64 || N == 96 || N == 128 || N == 192 || N == 256, "a width with a wrapper");
  if constexpr (N == 16) {
    VLTUNE_WGMMA_RS(16, "%0,%1,%2,%3,%4,%5,%6,%7", 8, 9, 10, 11, 12, 13, 14, VLTUNE_D4(0), VLTUNE_D4(4));
  } else if constexpr (N == 32) {
    VLTUNE_WGMMA_RS(32, VLTUNE_R0, 16, 17, 18, 19, 20, 21, 22, VLTUNE_D16(0));
  } else if constexpr (N == 64) {
    VLTUNE_WGMMA_RS(64, VLTUNE_R0 "," VLTUNE_R1, 32, 33, 34, 35, 36, 37, 38, VLTUNE_D16(0), VLTUNE_D16(16));
  } else if constexpr (N == 96) {
    VLTUNE_WGMMA_RS(96, VLTUNE_R0 "," VLTUNE_R1 "," VLTUNE_R2, 48, 49, 50, 51, 52, 53, 54, VLTUNE_D16(0), VLTUNE_D16(16), VLTUNE_D16(32));
  } else if constexpr (N == 128) {
    VLTUNE_WGMMA_RS(128, VLTUNE_R0 "," VLTUNE_R1 "," VLTUNE_R2 "," VLTUNE_R3, 64, 65, 66, 67, 68, 69, 70, VLTUNE_D16(0), VLTUNE_D16(16),
                    VLTUNE_D16(32), VLTUNE_D16(48));
  } else if constexpr (N == 192) {
    VLTUNE_WGMMA_RS(192, VLTUNE_R0 "," VLTUNE_R1 "," VLTUNE_R2 "," VLTUNE_R3 "," VLTUNE_R4 "," VLTUNE_R5, 96, 97, 98, 99, 100, 101, 102, VLTUNE_D16(0),
                    VLTUNE_D16(16), VLTUNE_D16(32), VLTUNE_D16(48), VLTUNE_D16(64), VLTUNE_D16(80));
  } else {
    VLTUNE_WGMMA_RS(256, VLTUNE_R0 "," VLTUNE_R1 "," VLTUNE_R2 "," VLTUNE_R3 "," VLTUNE_R4 "," VLTUNE_R5 "," VLTUNE_R6 "," VLTUNE_R7, 128, 129, 130,
                    131, 132, 133, 134, VLTUNE_D16(0), VLTUNE_D16(16), VLTUNE_D16(32), VLTUNE_D16(48), VLTUNE_D16(64), VLTUNE_D16(80), VLTUNE_D16(96),
                    VLTUNE_D16(112));
  }
}

#undef VLTUNE_WGMMA_SS
#undef VLTUNE_WGMMA_RS
#undef VLTUNE_R0
#undef VLTUNE_R1
#undef VLTUNE_R2
#undef VLTUNE_R3
#undef VLTUNE_R4
#undef VLTUNE_R5
#undef VLTUNE_R6
#undef VLTUNE_R7
#undef VLTUNE_D4
#undef VLTUNE_D16

// ---- Between registers and shared memory ----

// Four 8 x 8 matrices of 16-bit elements: lane l gives the address of row l % 8 of matrix l / 8 (16 bytes); register i is matrix i in the
// accumulator layout (row l / 4, columns 2 (l % 4) and the next).
__device__ inline void store_matrices(uint32_t shared, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared), "r"(a), "r"(b), "r"(c), "r"(d) : "memory");
}
__device__ inline void store_matrices_transposed(uint32_t shared, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared), "r"(a), "r"(b), "r"(c), "r"(d) : "memory");
}
__device__ inline void load_matrices(uint32_t shared, uint32_t& a, uint32_t& b, uint32_t& c, uint32_t& d) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(a), "=r"(b), "=r"(c), "=r"(d) : "r"(shared) : "memory");
}
// Two floats rounded to bf16, the first in the low half.
__device__ inline uint32_t pack_bf16(float low, float high) {
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}
// Byte offset of 16-byte unit `unit` of row `row` in a tile of 128-byte rows as kSwizzle128 lays it out.
__device__ inline uint32_t swizzle128(uint32_t row, uint32_t unit) { return row * 128 + ((unit ^ (row & 7)) << 4); }

#endif  // __CUDACC__

}  // namespace vltune::cuda::sm90
