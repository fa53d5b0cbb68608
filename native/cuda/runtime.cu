// The runtime's side of CUDA (native/runtime/gpu.h): one stream, its queue of ops, CUDA graphs, copies.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <deque>
#include <mutex>
#include <optional>
#include <thread>

#include "../runtime/gpu.h"
#include "../runtime/thread_pool.h"
#include "device.h"
#include "gemm/blas.h"
#include "lru_cache.h"
#include "move.h"
#include "nccl.h"
#include "table.h"

namespace vltune::gpu {
namespace {

using cuda::device;
using cuda::enter;

// Whoever puts work on the stream holds this, so that a graph under capture sees its own work alone. So does whoever waits for the
// stream, or frees memory, which waits for all streams: to wait for one under capture is an error that ends the capture. A wait that
// should not keep others from the stream is for an Event that was recorded while this was held.
std::mutex stream_mutex;

cudaStream_t main_stream() {
  static cudaStream_t stream = [] {
    cudaStream_t made;
    VLTUNE_CUDA(cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking));
    return made;
  }();
  return stream;
}

// A point in the stream.
class Event {
 public:
  explicit Event(unsigned flags = cudaEventDisableTiming) { VLTUNE_CUDA(cudaEventCreateWithFlags(&event_, flags)); }
  ~Event() { cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  void record() { VLTUNE_CUDA(cudaEventRecord(event_, main_stream())); }
  void wait() const { VLTUNE_CUDA(cudaEventSynchronize(event_)); }
  bool has_passed() const {
    const cudaError_t state = cudaEventQuery(event_);
    if (state == cudaErrorNotReady) return false;
    VLTUNE_CUDA(state);
    return true;
  }
  double milliseconds_since(const Event& earlier) const {
    float milliseconds = 0;
    VLTUNE_CUDA(cudaEventElapsedTime(&milliseconds, earlier.event_, event_));
    return static_cast<double>(milliseconds);
  }

 private:
  cudaEvent_t event_ = nullptr;
};

struct FaultRecord {
  Fault* const record = static_cast<Fault*>(allocate_pinned(sizeof(Fault)));
  FaultRecord() { *record = {}; }
  ~FaultRecord() { release_pinned(record); }
  FaultRecord(const FaultRecord&) = delete;
  FaultRecord& operator=(const FaultRecord&) = delete;

  // Throws what a kernel reported since the last call.
  void check() {
    const Fault fault = *record;
    *record = {};
    const auto index = static_cast<long long>(fault.index), limit = static_cast<long long>(fault.limit);
    switch (static_cast<FaultKind>(fault.kind)) {
      case FaultKind::None:
        return;
      case FaultKind::Id:
        VLTUNE_FAIL("ERR_ARGUMENT", "embedding: ids[%lld] is %d, expected 0..%lld", index, fault.value, limit - 1);
      case FaultKind::Target:
        VLTUNE_FAIL("ERR_ARGUMENT", "linear_cross_entropy: targets[%lld] is %d, expected 0..%lld", index, fault.value, limit - 1);
      case FaultKind::Row:
        VLTUNE_FAIL("ERR_ARGUMENT", "select_rows: rows[%lld] is %d, expected 0..%lld", index, fault.value, limit - 1);
      case FaultKind::Bound:
        VLTUNE_FAIL("ERR_ARGUMENT", "attention: bounds[%lld] is %d, expected ascending from 0 to %lld", index, fault.value, limit);
      case FaultKind::CacheFull:
        VLTUNE_FAIL("ERR_ARGUMENT", "attention_cached: past is %d, expected at most %lld", fault.value, limit);
      case FaultKind::Segment:
        VLTUNE_FAIL("ERR_ARGUMENT", "adamw: segments[%lld] lies outside of its arrays", index);
      case FaultKind::BagId:
        VLTUNE_FAIL("ERR_ARGUMENT", "embedding_bag: ids[%lld] is %d, expected 0..%lld", index, fault.value, limit - 1);
      case FaultKind::Scatter:
        VLTUNE_FAIL("ERR_ARGUMENT", "scatter_rows: rows[%lld] is %d, expected 0..%lld, ascending", index, fault.value, limit - 1);
    }
    VLTUNE_FAIL("ERR_INTERNAL", "a kernel reported %d", fault.kind);
  }
};

// Waits for all that was started, copies beside the stream too. To be called under the lock.
cudaError_t settle() {
  const cudaError_t ops = cudaStreamSynchronize(main_stream()), moves = cuda::settle_moves();
  return ops != cudaSuccess ? ops : moves;
}

// Does `work`, which puts work on the stream. If it throws, what it had started is waited for, as its memory may be freed next, and
// what that reports is dropped. To be called under the lock.
template <class Work> void start_or_settle(FaultRecord& fault, const Work& work) {
  try {
    work();
  } catch (...) {
    settle();
    cudaGetLastError();  // the error to tell is the one that is under way
    *fault.record = {};
    throw;
  }
}

class StreamQueue : public Queue {
 public:
  StreamQueue(Fault* fault) : fault_(fault) {}
  void run(const OpEntry& entry, OpCall& call) override {
    call.stream = main_stream();
    call.fault = fault_;
    entry.run(call);
  }

 private:
  Fault* fault_;
};

// Records an event after each op.
class TimedQueue : public Queue {
 public:
  explicit TimedQueue(Fault* fault) : queue_(fault) { mark(); }
  void run(const OpEntry& entry, OpCall& call) override {
    queue_.run(entry, call);
    mark();
  }
  // Waits for the last op.
  std::vector<int64_t> nanoseconds() const {
    events_.back().wait();
    std::vector<int64_t> times;
    for (size_t i = 1; i < events_.size(); ++i)
      times.push_back(static_cast<int64_t>(events_[i].milliseconds_since(events_[i - 1]) * 1e6));
    return times;
  }

 private:
  void mark() { events_.emplace_back(cudaEventDefault).record(); }
  StreamQueue queue_;
  std::deque<Event> events_;
};

constexpr size_t kMostGraphs = 8;

struct DestroyGraph {
  void operator()(cudaGraphExec_t graph) const { cudaGraphExecDestroy(graph); }
};
using Graph = std::unique_ptr<CUgraphExec_st, DestroyGraph>;

class CudaRunner : public Runner {
 public:
  void run(const std::vector<int64_t>& key, const std::function<void(Queue&)>& enqueue, int repeats) override {
    enter();
    {
      const std::lock_guard<std::mutex> lock(stream_mutex);
      start_or_settle(fault_, [&] {
        for (int i = 0; i < repeats; ++i) start(key, enqueue);
        end_.record();
      });
    }
    end_.wait();
    fault_.check();
  }

  std::vector<int64_t> run_timed(const std::function<void(Queue&)>& enqueue) override {
    enter();
    std::unique_lock<std::mutex> lock(stream_mutex);
    TimedQueue queue(fault_.record);
    start_or_settle(fault_, [&] { enqueue(queue); });
    lock.unlock();
    const std::vector<int64_t> times = queue.nanoseconds();
    fault_.check();
    return times;
  }

 private:
  void start(const std::vector<int64_t>& key, const std::function<void(Queue&)>& enqueue) {
    Graph* graph = graphs_.find(key);
    if (!graph) {
      StreamQueue queue(fault_.record);
      enqueue(queue);  // loads every kernel and chooses every algorithm, which a capture must not do
      graphs_.insert(key, nullptr);
      return;
    }
    if (!*graph) *graph = capture(enqueue);
    VLTUNE_CUDA(cudaGraphLaunch(graph->get(), main_stream()));
  }

  Graph capture(const std::function<void(Queue&)>& enqueue) {
    VLTUNE_CUDA(cudaStreamBeginCapture(main_stream(), cudaStreamCaptureModeThreadLocal));
    cudaGraph_t graph = nullptr;
    try {
      StreamQueue queue(fault_.record);
      enqueue(queue);
    } catch (...) {
      // Ends it for the stream that copies too, which a copy that was begun had drawn in.
      cudaStreamEndCapture(main_stream(), &graph);
      if (graph) cudaGraphDestroy(graph);
      throw;
    }
    VLTUNE_CUDA(cudaStreamEndCapture(main_stream(), &graph));
    cudaGraphExec_t made = nullptr;
    const cudaError_t error = cudaGraphInstantiate(&made, graph, 0);
    cudaGraphDestroy(graph);
    VLTUNE_CUDA(error);
    return Graph(made);
  }

  FaultRecord fault_;
  Event end_;
  cuda::LruCache<std::vector<int64_t>, Graph> graphs_{kMostGraphs};  // nullptr: run once so far
};

// What all processes do together ends for all or for none, so it is waited for by looking: an abort must be heard meanwhile.
class NcclCommunicator : public Communicator {
 public:
  NcclCommunicator(const std::string& id, int rank, int size) : rank_(rank), size_(size) {
    VLTUNE_CHECK(id.size() == id_.bytes.size(), "ERR_ARGUMENT", "id: expected the %zu bytes of NCCL's unique id, got %zu",
                 id_.bytes.size(), id.size());
    std::copy(id.begin(), id.end(), id_.bytes.begin());
  }

  void all_reduce(float* data, size_t count) override {
    enter();
    VLTUNE_CHECK(!aborted_, "ERR_CANCELLED", "the sum over all processes was given up");
    if (!comm_) {
      comm_.emplace(id_, rank_, size_);
      wait_until([] { return true; });
    }
    {
      const std::lock_guard<std::mutex> lock(stream_mutex);
      comm_->all_reduce(data, count, main_stream());
      wait_until([] { return true; });  // until it is in the stream
      end_.record();
    }
    wait_until([&] { return end_.has_passed(); });
  }

  void abort() override { aborted_ = true; }

 private:
  // Until NCCL has nothing under way and `done` says so.
  template <class Done> void wait_until(const Done& done) {
    constexpr auto kPause = std::chrono::microseconds(50);
    try {
      while (!comm_->settled() || !done()) {
        VLTUNE_CHECK(!aborted_, "ERR_CANCELLED", "the sum over all processes was given up");
        std::this_thread::sleep_for(kPause);
      }
    } catch (...) {
      aborted_ = true;
      comm_->abort();
      throw;
    }
  }

  cuda::NcclId id_;
  const int rank_, size_;
  std::optional<cuda::NcclComm> comm_;
  Event end_;
  std::atomic<bool> aborted_ = false;
};

// Scratch memory of single ops: grown, never shrunk. cudaFree waits for the work that may use it.
void* scratch(size_t bytes) {
  static void* data = nullptr;
  static size_t have = 0;
  if (bytes > have) {
    VLTUNE_CUDA(cudaFree(data));
    data = nullptr;
    have = 0;
    VLTUNE_CUDA(cudaMalloc(&data, bytes));
    have = bytes;
  }
  return data;
}

void bind_scratch(const OpEntry& entry, OpCall& call) {
  if (!entry.workspace) return;
  call.workspace_bytes = entry.workspace(call);
  call.workspace = call.workspace_bytes > 0 ? scratch(call.workspace_bytes) : nullptr;
}

FaultRecord& shared_fault() {
  static FaultRecord fault;
  return fault;
}

double mebibytes(size_t bytes) { return static_cast<double>(bytes) / 1048576.0; }

std::string version_text(int version) { return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10); }

// Libraries count otherwise than CUDA: 130100 is 13.1.0, 22803 is 2.28.3.
LibrarySummary summary_of(const cuda::LibraryInfo& library) {
  const int version = library.version;
  return {library.found, library.path,
          std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." + std::to_string(version % 100), library.reason};
}

}  // namespace

Info info() {
  Info info;
  info.compiled = true;
  int version = 0;
  if (cudaRuntimeGetVersion(&version) == cudaSuccess) info.runtime = version_text(version);
  version = 0;
  if (cudaDriverGetVersion(&version) == cudaSuccess && version > 0) info.driver = version_text(version);
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  cudaGetLastError();
  if (error != cudaSuccess || count == 0) {
    info.reason = info.driver.empty() ? "no NVIDIA driver was found" : cudaGetErrorString(error);
    return info;
  }
  try {
    device();
  } catch (const Error& failure) {
    info.reason = failure.what();
  }
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp properties;
    if (cudaGetDeviceProperties(&properties, i) != cudaSuccess) continue;
    const int capability = info.reason.empty() ? cuda::counted_capability(properties) : properties.major * 10 + properties.minor;
    DeviceSummary summary{i,
                          properties.name,
                          std::to_string(capability / 10) + "." + std::to_string(capability % 10),
                          properties.multiProcessorCount,
                          properties.totalGlobalMem,
                          std::nullopt};
    if (info.reason.empty() && i == device().index) {
      size_t free_bytes = 0, total = 0;
      enter();
      if (cudaMemGetInfo(&free_bytes, &total) == cudaSuccess) summary.free_bytes = free_bytes;
    }
    info.devices.push_back(summary);
  }
  if (info.reason.empty()) {
    info.blas = summary_of(cuda::blas_info());
  }
  return info;
}

void select_device(int index) { cuda::select_device(index); }

const OpEntry* find_op(const char* name) {
  for (const OpEntry* entry = cuda::kTable; entry->name; ++entry)
    if (std::strcmp(entry->name, name) == 0) return entry;
  return nullptr;
}

void* allocate(size_t bytes) {
  enter();
  void* data = nullptr;
  if (cudaMalloc(&data, bytes) != cudaSuccess) {
    cudaGetLastError();
    size_t free_bytes = 0, total_bytes = 0;
    cudaMemGetInfo(&free_bytes, &total_bytes);
    VLTUNE_FAIL("ERR_OUT_OF_MEMORY", "cannot allocate %.1f MiB on %s: %.1f of its %.1f MiB are free", mebibytes(bytes),
                device().name.c_str(), mebibytes(free_bytes), mebibytes(total_bytes));
  }
  const std::lock_guard<std::mutex> lock(stream_mutex);
  VLTUNE_CUDA(cudaMemsetAsync(data, 0, bytes, main_stream()));
  return data;
}

// cudaFree waits for the work that may use the memory.
void release(void* data) {
  const std::lock_guard<std::mutex> lock(stream_mutex);
  cudaFree(data);
}

void* allocate_pinned(size_t bytes) {
  enter();
  void* data = nullptr;
  const cudaError_t error = cudaHostAlloc(&data, bytes, cudaHostAllocMapped | cudaHostAllocPortable);
  cudaGetLastError();
  VLTUNE_CHECK(error == cudaSuccess, "ERR_OUT_OF_MEMORY", "cannot allocate %.1f MiB of page-locked memory (%s)", mebibytes(bytes),
               cudaGetErrorString(error));
  std::memset(data, 0, bytes);
  return data;
}

void release_pinned(void* data) {
  const std::lock_guard<std::mutex> lock(stream_mutex);
  cudaFreeHost(data);
}

void memory(size_t* free_bytes, size_t* total_bytes) {
  enter();
  VLTUNE_CUDA(cudaMemGetInfo(free_bytes, total_bytes));
}

void copy(void* to, const void* from, size_t bytes) {
  enter();
  Event end;
  {
    const std::lock_guard<std::mutex> lock(stream_mutex);
    VLTUNE_CUDA(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, main_stream()));
    end.record();
  }
  end.wait();
}

void write(void* to, const void* from, size_t bytes) {
  enter();
  const std::lock_guard<std::mutex> lock(stream_mutex);
  VLTUNE_CUDA(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, main_stream()));
}

void upload(void* to, const void* from, size_t bytes) {
  constexpr size_t kPiece = size_t{16} << 20, kGrain = size_t{1} << 20;
  if (bytes <= kGrain) return copy(to, from, bytes);
  enter();
  static std::mutex staging_mutex;
  const std::lock_guard<std::mutex> staging_lock(staging_mutex);
  struct Piece {
    void* data = nullptr;
    Event done;
    Piece() { VLTUNE_CUDA(cudaHostAlloc(&data, kPiece, cudaHostAllocDefault)); }
  };
  static Piece pieces[2];  // kept for the next tensor
  const auto pool = default_pool();
  for (size_t at = 0, turn = 0; at < bytes; at += kPiece, ++turn) {
    Piece& piece = pieces[turn % 2];
    piece.done.wait();
    const size_t length = std::min(kPiece, bytes - at);
    // Several threads: one does not read a mapped file as fast as the bus takes it.
    pool->parallel_for(static_cast<int64_t>(length), kGrain, [&](int64_t begin, int64_t end) {
      std::memcpy(static_cast<std::byte*>(piece.data) + begin, static_cast<const std::byte*>(from) + at + begin,
                  static_cast<size_t>(end - begin));
    });
    const std::lock_guard<std::mutex> lock(stream_mutex);
    VLTUNE_CUDA(cudaMemcpyAsync(static_cast<std::byte*>(to) + at, piece.data, length, cudaMemcpyHostToDevice, main_stream()));
    piece.done.record();
  }
  for (const Piece& piece : pieces) piece.done.wait();
}

void run_op(const OpEntry& entry, OpCall& call) {
  enter();
  FaultRecord& fault = shared_fault();
  const std::lock_guard<std::mutex> lock(stream_mutex);  // held to the end: the scratch memory and the fault record are shared
  start_or_settle(fault, [&] {
    bind_scratch(entry, call);
    StreamQueue(fault.record).run(entry, call);
    VLTUNE_CUDA(settle());
  });
  fault.check();
}

std::vector<double> time_op(const OpEntry& entry, OpCall& call, int repeats, bool flush_l2) {
  enter();
  FaultRecord& fault = shared_fault();
  const std::lock_guard<std::mutex> lock(stream_mutex);
  const size_t flush_bytes = flush_l2 ? 4 * device().l2_bytes : 0;
  Event begin(cudaEventDefault), end(cudaEventDefault);
  std::vector<double> microseconds;
  void* flush = nullptr;
  if (flush_bytes > 0) VLTUNE_CUDA(cudaMalloc(&flush, flush_bytes));
  const std::unique_ptr<void, cudaError_t (*)(void*)> freed_at_the_end(flush, cudaFree);
  start_or_settle(fault, [&] {
    bind_scratch(entry, call);
    StreamQueue queue(fault.record);
    queue.run(entry, call);
    VLTUNE_CUDA(settle());
    for (int i = 0; i < repeats; ++i) {
      if (flush) VLTUNE_CUDA(cudaMemsetAsync(flush, i, flush_bytes, main_stream()));
      begin.record();
      queue.run(entry, call);
      end.record();
      VLTUNE_CUDA(settle());
      microseconds.push_back(end.milliseconds_since(begin) * 1000);
    }
  });
  fault.check();
  return microseconds;
}

std::unique_ptr<Runner> make_runner() {
  enter();
  return std::make_unique<CudaRunner>();
}

LibrarySummary nccl_info() { return summary_of(cuda::nccl_info()); }

std::string nccl_unique_id() {
  enter();
  const cuda::NcclId id = cuda::nccl_unique_id();
  return {id.bytes.begin(), id.bytes.end()};
}

std::unique_ptr<Communicator> make_communicator(const std::string& id, int rank, int size) {
  enter();
  return std::make_unique<NcclCommunicator>(id, rank, size);
}

}  // namespace vltune::gpu
