// layers_one on Hopper and after, for BF16, NF4 weights with double quantisation and heads of 128: all layers of a token in one kernel that
// stays on every multiprocessor. Some of its warps copy the codes of the block's rows of all weights, in their order, through a ring in shared
// memory, or make the scales beside them, and never wait for a result (layers_feed.cuh); the others multiply (layers_multiply.cuh) and attend
// (layers_attend.cuh). So memory is read without a pause, while values go from one step to the next through L2, each with the turn that it
// is of (exchange.cuh): a token has no barrier among blocks, and no launch between its layers.
//
// Steps of a layer: q, k and v | attention, whose blocks are as many to a key/value head, and their parts put together | o | gate and up |
// down. Every block keeps the residual stream and norms it for itself. A unit of work is 16 rows of a weight (with a gate 16 rows of each of
// the two); block b does units b, b + gridDim.x, ... of each step. Every block has units of the first step and of the gate: each then
// waits, directly or not, for all others before it writes a place a second time.
#include "../../ops/decode.h"

#include <algorithm>
#include <cstddef>
#include <vector>

#include "../../ops/decode_parts.h"
#include "../launch.cuh"
#include "layers_attend.cuh"
#include "layers_feed.cuh"

namespace vltune::cuda {
namespace one_token {
namespace {

template <int kGroup> __global__ void __launch_bounds__(kThreads, 1) layers_kernel(const __grid_constant__ Job job) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) char memory[];
  char* origin = memory - sm90::shared_address(memory);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int past = *job.past;
  if (past < 0 || past >= job.capacity) {
    if (blockIdx.x == 0 && threadIdx.x == 0) report_fault(job.fault, FaultKind::CacheFull, 0, past, job.capacity - 1);
    return;
  }
  const Layer* layers = reinterpret_cast<const Layer*>(origin + job.at.layers);
  for (int i = threadIdx.x; i < job.layers * static_cast<int>(sizeof(Layer) / sizeof(uint4)); i += kThreads)
    reinterpret_cast<uint4*>(origin + job.at.layers)[i] = reinterpret_cast<const uint4*>(job.of)[i];
  for (int i = threadIdx.x; i < kTableParts; i += kThreads) write_table(origin + job.at.table, i);
  if (threadIdx.x < 256) reinterpret_cast<float*>(origin + job.at.map)[threadIdx.x] = kDynamicMapSigned[threadIdx.x];
  if (threadIdx.x < kSteps) reinterpret_cast<StepOfBlock*>(origin + job.at.steps)[threadIdx.x] = StepOfBlock(job, static_cast<int>(threadIdx.x));
  if (threadIdx.x == 0) {
    for (int i = 0; i < job.slots; ++i) {
      sm90::barrier_init(full_barrier(job, i), kCopyWarps + sm90::kWarpArrivals);  // the codes, the scales
      sm90::barrier_init(consumed_barrier(job, i), kConsumerWarps * sm90::kWarpArrivals);
    }
    sm90::barrier_init_fence();
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  }
  __syncthreads();
  if (warp < kConsumerWarps) {
#ifdef VLTUNE_SM90A
    sm90::registers_grow<216>();
#endif
    Consumer consumer{job, origin, lane, warp};
    const Stretch stretch = stretch_of(job, past);
    for (; consumer.layer < job.layers; ++consumer.layer) {
      for (int step = 0; step < kSteps; ++step) {
        if (step == kOut) attend<kGroup>(consumer, stretch, past);
        consumer.run_step(step);
      }
    }
    if (blockIdx.x == 0)
      for (int i = threadIdx.x; i < job.hidden / 4; i += kConsumers)
        reinterpret_cast<uint2*>(job.sum)[i] = reinterpret_cast<const uint2*>(origin + job.at.stream)[i];
  } else {
#ifdef VLTUNE_SM90A
    sm90::registers_shrink<64>();
#endif
    const int feeder = warp - kConsumerWarps;
    if (feeder < kCopyWarps) copy_codes(job, layers, past, feeder, lane);
    else make_scales(job, layers, origin, feeder - kCopyWarps, lane);
  }
#endif
}

// ------------------------------------------------------------------------------------------------------------------------------------

struct Ops {
  static constexpr OpRun linears_one = cuda::linears_one, attention_one = cuda::attention_one;
  static constexpr OpWorkspace linears_one_workspace = cuda::linears_one_workspace, attention_one_workspace = cuda::attention_one_workspace;
};

// A launch, and where in the exchange its words are. `exchange_bytes` depends on shapes alone.
struct Launch {
  Job job;
  int group = 0, blocks = 0;
  size_t exchange_bytes = 0;
};

bool is_row(const Tensor& t, int64_t width) { return t.rank == 2 && t.dtype == DType::BF16 && t.shape[0] == 1 && t.shape[1] == width; }
bool is_vector(const Tensor& t, int64_t length) { return t.rank == 1 && t.shape[0] == length && (t.dtype == DType::BF16 || t.dtype == DType::F32); }

bool take_linear(const OpCall& call, int64_t layer, int which, int64_t out, int64_t width, Linear* to) {
  const Tensor &weight = of_layer(call, layer, which), &bias = of_layer(call, layer, which + 1);
  const Tensor &a = of_layer(call, layer, which + 2), &b = of_layer(call, layer, which + 3);
  if (weight.rank != 2 || weight.dtype != DType::NF4 || weight.shape[0] != out || weight.shape[1] != width || !weight.nf4.absmax_u8) return false;
  if (bias.present() && !is_vector(bias, out)) return false;
  if (a.present() != b.present() || (a.present() && (a.rank != 2 || b.rank != 2 || a.dtype != DType::F32 || b.dtype != DType::F32))) return false;
  const int64_t rank = a.present() ? a.shape[0] : 0;
  if (a.present() && (a.shape[1] != width || b.shape[0] != out || b.shape[1] != rank || rank < 1 || rank > kMostRanks)) return false;
  if (!all_aligned(kVectorBytes, weight.data, a.data) || !all_aligned(4, weight.nf4.absmax_u8)) return false;
  *to = {weight.as<uint8_t>(), weight.nf4.absmax_u8, weight.nf4.nested_absmax, bias.data, a.as<float>(), b.as<float>(), weight.nf4.offset,
         static_cast<uint16_t>(rank), bias.dtype == DType::BF16};
  return true;
}

// Widths and the places of the exchange, by shapes alone. False if there is no kernel for them.
bool plan_shapes(const OpCall& call, int64_t layers, Launch* to) {
  using L = LayersOne;
  const Tensor &x = input(call, L::kX), &q = of_layer(call, 0, L::kQ), &k = of_layer(call, 0, L::kK), &gate = of_layer(call, 0, L::kGate);
  const Attrs& attrs = *call.attrs;
  const double heads = attrs.number("heads", 0), kv_heads = attrs.number("kv_heads", 0), scale = attrs.number("scale", 0);
  if (x.rank != 2 || q.rank != 2 || k.rank != 2 || gate.rank != 2 || layers < 1) return false;
  if (attrs.number("head_dim", 0) != kDim || !(scale > 0 && scale < 3e38)) return false;
  if (!(kv_heads >= 1 && kv_heads <= 128) || !(heads == kv_heads || heads == 2 * kv_heads || heads == 4 * kv_heads)) return false;
  const int64_t widths[] = {x.shape[1], q.shape[0], k.shape[0], gate.shape[0]};
  for (const int64_t width : widths)
    if (width < 256 || width % 256 != 0 || width > 1 << 15) return false;
  if (static_cast<double>(widths[1]) != heads * kDim || static_cast<double>(widths[2]) != kv_heads * kDim) return false;
  Job& job = to->job;
  job.hidden = static_cast<int>(widths[0]);
  job.inner = static_cast<int>(widths[1]);
  job.keys = static_cast<int>(widths[2]);
  job.intermediate = static_cast<int>(widths[3]);
  job.scale = static_cast<float>(scale);
  to->group = static_cast<int>(heads / kv_heads);
  // Words of the exchange, each place at a multiple of 16 bytes. Of any number of splits, the most has the most parts.
  const int64_t counts[] = {(job.inner + 2 * job.keys) / 2, job.inner / 2, job.hidden / 2, job.intermediate / 2, job.hidden / 2, kSteps * kMostRanks,
                            static_cast<int64_t>(kv_heads) * kMostSplits * to->group * (kDim + 2 * kMostSplits)};
  Word* at = static_cast<Word*>(call.workspace);
  Word** const places[] = {&job.qkv, &job.attention, &job.out, &job.gated, &job.down, &job.ranks, &job.parts};
  size_t words = 0;
  for (size_t i = 0; i < std::size(counts); ++i) {
    *places[i] = at ? at + words : nullptr;
    words += static_cast<size_t>(counts[i] + 1) / 2 * 2;
  }
  to->exchange_bytes = words * sizeof(Word);
  return true;
}

// `layers` layers from `first` on. False if there is no kernel for these operands.
bool plan_layers(const OpCall& call, int64_t first, int64_t layers, Launch* to) {
  using L = LayersOne;
  Job& job = to->job;
  const Attrs& attrs = *call.attrs;
  const Tensor &x = input(call, L::kX), &residual = input(call, L::kResidual), &cos = input(call, L::kCos), &sin = input(call, L::kSin);
  const Tensor &past = input(call, L::kPast), &y = output(call, L::kY), &sum = output(call, L::kSum);
  const auto is_table = [](const Tensor& t) { return t.rank == 2 && t.dtype == DType::F32 && t.shape[0] == 1 && t.shape[1] == kHalf; };
  if (!is_row(x, job.hidden) || !is_row(y, job.hidden) || !is_row(sum, job.hidden) || (residual.present() && !is_row(residual, job.hidden))) return false;
  if (!is_table(cos) || !is_table(sin) || past.rank != 1 || past.dtype != DType::I32 || past.shape[0] != 1) return false;
  if (!all_aligned(kVectorBytes, x.data, residual.data, cos.data, sin.data, y.data, sum.data)) return false;
  job.x = (first > 0 ? y : x).as<Bf16>();
  job.residual = (first > 0 ? sum : residual).as<Bf16>();
  job.cos = cos.as<float>();
  job.sin = sin.as<float>();
  job.past = past.as<int32_t>();
  job.y = y.as<Bf16>();
  job.sum = sum.as<Bf16>();
  job.fault = call.fault;
  job.eps = static_cast<float>(attrs.number("eps", 1e-6));
  job.lora_scale = static_cast<float>(attrs.number("lora_scale", 1));
  job.layers = static_cast<int>(layers);
  job.capacity = output(call, L::kCaches).present() ? output(call, L::kCaches).shape[0] : 0;
  if (job.capacity > INT32_MAX / 8) return false;
  job.most_ranks = 0;
  for (int64_t i = 0; i < layers; ++i) {
    const int64_t layer = first + i;
    const auto at = [&](int which) -> const Tensor& { return of_layer(call, layer, which); };
    const Tensor &k_cache = output(call, static_cast<int>(L::kCaches + 2 * layer)), &v_cache = output(call, static_cast<int>(L::kCaches + 2 * layer + 1));
    for (const Tensor* cache : {&k_cache, &v_cache})
      if (cache->rank != 2 || cache->dtype != DType::BF16 || cache->shape[0] != job.capacity || cache->shape[1] != job.keys) return false;
    const Tensor *norms[] = {&at(L::kInputNorm), &at(L::kPostNorm)}, *head_norms[] = {&at(L::kQNorm), &at(L::kKNorm)};
    for (const Tensor* norm : norms)
      if (!is_vector(*norm, job.hidden) || !all_aligned(kVectorBytes, norm->data)) return false;
    for (const Tensor* norm : head_norms)
      if (norm->present() && !(is_vector(*norm, kDim) && all_aligned(kVectorBytes, norm->data))) return false;
    if (!all_aligned(kVectorBytes, k_cache.data, v_cache.data)) return false;
    Layer& own = job.of[i];
    own = {norms[0]->data, norms[1]->data, head_norms[0]->data, head_norms[1]->data, k_cache.as<Bf16>(), v_cache.as<Bf16>(), {},
           norms[0]->dtype == DType::BF16, norms[1]->dtype == DType::BF16, head_norms[0]->dtype == DType::BF16, head_norms[1]->dtype == DType::BF16};
    const struct { int which; int64_t out, width; } linears[] = {
        {L::kQ, job.inner, job.hidden}, {L::kK, job.keys, job.hidden}, {L::kV, job.keys, job.hidden}, {L::kO, job.hidden, job.inner},
        {L::kGate, job.intermediate, job.hidden}, {L::kUp, job.intermediate, job.hidden}, {L::kDown, job.hidden, job.intermediate}};
    for (int j = 0; j < 7; ++j)
      if (!take_linear(call, layer, linears[j].which, linears[j].out, linears[j].width, &own.linears[j])) return false;
    for (int step = 0; step < kSteps; ++step) {
      int ranks = 0;
      for (int j = 0; j < linears_of(step); ++j) ranks += own.linears[first_linear(step) + j].rank;
      if (ranks > kMostRanks) return false;
      job.most_ranks = std::max(job.most_ranks, ranks);
    }
  }
  return true;
}

auto kernel_for(int group) { return group == 1 ? layers_kernel<1> : group == 2 ? layers_kernel<2> : layers_kernel<4>; }

// Where things lie in shared memory. The attention's scratch memory is the place of the row and its sums, which are no more then.
Places places_of(const Job& job, int group, int most_tiles) {
  uint32_t end = kReserved;
  const auto take = [&](int64_t bytes, uint32_t alignment = 16) {
    const uint32_t at = (end + alignment - 1) / alignment * alignment;
    end = at + static_cast<uint32_t>(bytes);
    return at;
  };
  Places at{};
  at.barriers = take(2 * kMostSlots * 8);
  at.steps = take(kStepBytes);
  at.partial = take(2 * kConsumerWarps * 4);
  at.map = take(256 * 4);
  at.stream = take(job.hidden * 2);
  at.heads = take((group + 1) * kDim * 4);
  at.new_value = take(kDim * 2);
  at.parts = take(group * (kDim + 2 * kMostSplits) * 4);
  at.ranks = take(job.most_ranks * 4);
  at.layers = take(job.layers * static_cast<int64_t>(sizeof(Layer)));
  at.scratch = at.row = take(std::max({job.hidden, job.inner, job.intermediate}) * 2);
  at.sums = take(most_tiles * kTileRows * (kConsumerWarps + 1) * 4);
  at.states = at.scratch + static_cast<uint32_t>(kConsumerWarps * group * kDim * 4);
  end = std::max(end, at.states + static_cast<uint32_t>(kConsumerWarps * group * 8));
  at.scales = take(job.slots * kScaleBytes);
  at.table = take(kTableBytes, kTableBytes);
  at.codes = take(job.slots * kSlotBytes, 128);
  at.end = end;
  return at;
}

// Blocks, one to a multiprocessor at most, and the slots of their ring.
bool plan_blocks(Launch* to) {
  Job& job = to->job;
  const int kv_heads = job.keys / kDim;
  to->blocks = std::min({device().multiprocessors, units_of(job, kQkv), units_of(job, kGated)});
  if (kv_heads > to->blocks) return false;
  for (job.splits_log2 = 0; 2 << job.splits_log2 <= kMostSplits && kv_heads * (2 << job.splits_log2) <= to->blocks;) ++job.splits_log2;
  int most_tiles = 0;
  for (int step = 0; step < kSteps; ++step) {
    job.whole[step] = units_of(job, step) / to->blocks;
    job.rest[step] = units_of(job, step) % to->blocks;
    most_tiles = std::max(most_tiles, (job.whole[step] + (job.rest[step] > 0)) * (step == kGated ? 2 : 1));
  }
  for (job.slots = kMostSlots; job.slots >= kLeastSlots; --job.slots) {
    job.at = places_of(job, to->group, most_tiles);
    if (job.at.end <= device().shared_bytes) return true;
  }
  return false;
}

// A launch brings more than 4 KiB along from CUDA 12.1 on.
bool takes_long_launches() {
  static const bool takes = [] {
    int version = 0;
    return cudaDriverGetVersion(&version) == cudaSuccess && version >= 12010;
  }();
  return takes;
}

void launch(const OpCall& call, const Launch& from) {
  const auto kernel = kernel_for(from.group);
  static const bool allowed = [] {
    for (const int group : {1, 2, 4})
      VLTUNE_CUDA(cudaFuncSetAttribute(kernel_for(group), cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(device().shared_bytes)));
    return true;
  }();
  static_cast<void>(allowed);
  VLTUNE_CUDA(cudaMemsetAsync(call.workspace, 0, from.exchange_bytes, stream_of(call)));
  LaunchConfig config(stream_of(call), dim3(static_cast<unsigned>(from.blocks)), kThreads, from.job.at.end);
  config.together();
  VLTUNE_CUDA(cudaLaunchKernelEx(&config.config, kernel, from.job));
  check_launch(call);
}

}  // namespace
}  // namespace one_token

size_t layers_one_workspace(const OpCall& call) {
  using namespace one_token;
  Launch shapes{};
  const size_t exchange_bytes = plan_shapes(call, layers_of(call), &shapes) ? shapes.exchange_bytes : 0;
  return std::max(parts::layers<Ops>(call, false), exchange_bytes);
}

void layers_one(const OpCall& call) {
  using namespace one_token;
  const int64_t layers = layers_of(call);
  std::vector<Launch> launches;
  bool takes = device().capability() >= 90 && takes_long_launches();
  for (int64_t first = 0; takes && first < layers; first += kMostLayersOfLaunch) {
    launches.emplace_back();
    takes = plan_shapes(call, layers, &launches.back()) &&
            plan_layers(call, first, std::min<int64_t>(layers - first, kMostLayersOfLaunch), &launches.back()) && plan_blocks(&launches.back());
  }
  if (!takes) {
    parts::layers<Ops>(call, true);
    return;
  }
  for (const Launch& each : launches) launch(call, each);
}

}  // namespace vltune::cuda
