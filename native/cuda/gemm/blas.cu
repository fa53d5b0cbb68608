#include "blas.h"

#include <library_types.h>

#ifndef _WIN32
#include <glob.h>
#endif

#include <array>
#include <cstdlib>
#include <mutex>
#include <utility>
#include <vector>

#include "../lru_cache.h"
#include "gemm.h"

namespace vltune::cuda {
namespace {

// The part of cuBLASLt's interface (stable from 11 to 13) that these products need.
using Status = int;            // cublasStatus_t: 0 is success
using Handle = void*;          // cublasLtHandle_t, and descriptors
using Described = void*;
struct Algorithm {             // cublasLtMatmulAlgo_t
  uint64_t data[8];
};
struct Candidate {             // cublasLtMatmulHeuristicResult_t
  Algorithm algorithm;
  size_t workspace_bytes;
  Status state;
  float waves;
  int reserved[4];
};
constexpr int kComputeF32 = 68;                            // cublasComputeType_t: F32 sums; products of F32 in F32, never TF32
constexpr int kTransposeA = 3, kTransposeB = 4, kEpilogue = 7, kBiasPointer = 8, kBiasType = 26;  // cublasLtMatmulDescAttributes_t
constexpr int kMostWorkspace = 1, kAlignmentA = 5;         // cublasLtMatmulPreferenceAttributes_t; 5..8 are A, B, C, D
constexpr int32_t kPlain = 0, kTransposed = 1;             // cublasOperation_t
constexpr int32_t kEpilogueBias = 4;                       // cublasLtEpilogue_t

constexpr size_t kWorkspaceBytes = size_t{32} << 20;       // what NVIDIA advises for Hopper
constexpr int kCandidates = 8;

struct Library {
  LibraryInfo info;
  Handle handle = nullptr;
  void* workspace = nullptr;
  size_t (*version)();
  Status (*create)(Handle*);
  Status (*matmul)(Handle, Described, const void* alpha, const void* a, Described, const void* b, Described, const void* beta,
                   const void* c, Described, void* d, Described, const Algorithm*, void* workspace, size_t, cudaStream_t);
  Status (*heuristic)(Handle, Described, Described, Described, Described, Described, Described, int, Candidate*, int*);
  Status (*create_product)(Described*, int compute, int scale);
  Status (*set_product)(Described, int, const void*, size_t);
  Status (*destroy_product)(Described);
  Status (*create_layout)(Described*, int type, uint64_t rows, uint64_t columns, int64_t ld);
  Status (*destroy_layout)(Described);
  Status (*create_preference)(Described*);
  Status (*set_preference)(Described, int, const void*, size_t);
  Status (*destroy_preference)(Described);
};

#ifdef _WIN32
std::vector<std::string> candidates() { return {"cublasLt64_13.dll", "cublasLt64_12.dll"}; }
#else
std::vector<std::string> candidates() {
  const char* const names[] = {"libcublasLt.so.13", "libcublasLt.so.12"};
  std::vector<std::string> files(std::begin(names), std::end(names));
  for (const char* name : names)
    for (const char* folder : {"/usr/local/cuda/lib64/", "/usr/local/cuda-1[23]*/lib64/", "/usr/local/cuda-1[23]*/targets/*/lib/",
                               "/usr/lib/*-linux-gnu/", "/opt/cuda/lib64/"}) {
      glob_t found;
      if (glob((std::string(folder) + name).c_str(), 0, nullptr, &found) == 0)
        for (size_t i = 0; i < found.gl_pathc; ++i) files.push_back(found.gl_pathv[i]);
      globfree(&found);
    }
  return files;
}
#endif

bool take_all(void* file, Library* l) {
  return take(file, "cublasLtGetVersion", &l->version) && take(file, "cublasLtCreate", &l->create) &&
         take(file, "cublasLtMatmul", &l->matmul) && take(file, "cublasLtMatmulAlgoGetHeuristic", &l->heuristic) &&
         take(file, "cublasLtMatmulDescCreate", &l->create_product) && take(file, "cublasLtMatmulDescSetAttribute", &l->set_product) &&
         take(file, "cublasLtMatmulDescDestroy", &l->destroy_product) && take(file, "cublasLtMatrixLayoutCreate", &l->create_layout) &&
         take(file, "cublasLtMatrixLayoutDestroy", &l->destroy_layout) &&
         take(file, "cublasLtMatmulPreferenceCreate", &l->create_preference) &&
         take(file, "cublasLtMatmulPreferenceSetAttribute", &l->set_preference) &&
         take(file, "cublasLtMatmulPreferenceDestroy", &l->destroy_preference);
}

// Opening may allocate, which a capture that is under way elsewhere on this thread would refuse.
struct AllowInCapture {
  cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
  AllowInCapture() { cudaThreadExchangeStreamCaptureMode(&mode); }
  ~AllowInCapture() { cudaThreadExchangeStreamCaptureMode(&mode); }
};

Library open_library() {
  Library l;
  const char* named = std::getenv("VLTUNE_CUBLASLT");
  std::string reason;
  for (const std::string& name : named && *named ? std::vector<std::string>{named} : candidates()) {
    void* file = open_file(name);
    if (!file) {
      if (reason.empty()) reason = why_not();
      continue;
    }
    if (!take_all(file, &l)) {
      reason = name + " lacks a function of cuBLASLt";
      continue;
    }
    enter();
    const AllowInCapture allowed;
    if (const Status status = l.create(&l.handle)) {
      l.handle = nullptr;
      reason = name + ": cublasLtCreate gave status " + std::to_string(status);
      continue;
    }
    VLTUNE_CUDA(cudaMalloc(&l.workspace, kWorkspaceBytes));
    l.info = {true, path_of(reinterpret_cast<void*>(l.version), name), static_cast<int>(l.version()), ""};
    return l;
  }
  l.info = {false, "", 0, reason};
  return l;
}

const Library& library() {
  static const Library opened = open_library();
  return opened;
}

// One product without a second run, as cuBLASLt sees it: column-major, so C^T = B^T A^T.
struct Shape {
  int64_t m, n, k, lda, ldb, ldc;
  int type, c_type, bias_type;
  bool a_is_km, b_is_nk, has_bias, adds;
  int alignment[3];  // of A, B and C, in bytes
  auto key() const {
    return std::array<int64_t, 14>{m, n, k, lda, ldb, ldc, type, c_type, a_is_km, b_is_nk, has_bias ? bias_type : -1,
                                   alignment[0], alignment[1], alignment[2] * 2 + adds};
  }
};

// The next size of which sixteen lie between a power of two and the next.
int64_t rounded_up(int64_t size) {
  int64_t step = 1;
  while (step * 32 <= size) step *= 2;
  return (size + step - 1) / step * step;
}

// What an algorithm is chosen for: the rows of packed batches differ from step to step, and to ask the library for each number of them would
// take longer than a small model's product. Only dimensions that no stride depends on.
Shape rounded(Shape s) {
  if (!s.a_is_km) s.m = rounded_up(s.m);
  else if (!s.b_is_nk) s.k = rounded_up(s.k);
  return s;
}

int type_of(DType dtype) { return dtype == DType::F32 ? CUDA_R_32F : dtype == DType::F16 ? CUDA_R_16F : CUDA_R_16BF; }
int alignment_of(const void* pointer) {
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  return address % 256 == 0 ? 256 : address % 16 == 0 ? 16 : address % 8 == 0 ? 8 : address % 4 == 0 ? 4 : 2;
}

// A product as the library describes it.
struct Product {
  const Library& l;
  Described product = nullptr, a = nullptr, b = nullptr, c = nullptr;

  Product(const Library& library, const Shape& s) : l(library) {
    l.create_product(&product, kComputeF32, CUDA_R_32F);
    set(kTransposeA, s.b_is_nk ? kTransposed : kPlain);
    set(kTransposeB, s.a_is_km ? kTransposed : kPlain);
    if (s.has_bias) {
      set(kEpilogue, kEpilogueBias);
      set(kBiasType, s.bias_type);
    }
    layout(&a, s.type, s.b_is_nk ? s.k : s.n, s.b_is_nk ? s.n : s.k, s.ldb);
    layout(&b, s.type, s.a_is_km ? s.m : s.k, s.a_is_km ? s.k : s.m, s.lda);
    layout(&c, s.c_type, s.n, s.m, s.ldc);
  }
  Product(const Product&) = delete;
  Product& operator=(const Product&) = delete;
  ~Product() {
    l.destroy_product(product);
    for (Described layout : {a, b, c}) l.destroy_layout(layout);
  }

 private:
  void set(int attribute, int32_t value) { l.set_product(product, attribute, &value, sizeof value); }
  void layout(Described* d, int type, int64_t rows, int64_t columns, int64_t ld) {
    l.create_layout(d, type, static_cast<uint64_t>(rows), static_cast<uint64_t>(columns), ld);
  }
};

// The algorithm that the library's heuristic puts first, if there is any.
struct Choice {
  Algorithm algorithm{};
  bool found = false;
};

Choice choose(const Library& l, const Shape& s) {
  const Product product(l, s);
  Described preference = nullptr;
  l.create_preference(&preference);
  const uint64_t most = kWorkspaceBytes;
  l.set_preference(preference, kMostWorkspace, &most, sizeof most);
  const uint32_t alignment[4] = {uint32_t(s.alignment[1]), uint32_t(s.alignment[0]), uint32_t(s.alignment[2]), uint32_t(s.alignment[2])};
  for (int i = 0; i < 4; ++i) l.set_preference(preference, kAlignmentA + i, &alignment[i], sizeof alignment[i]);
  Candidate candidates[kCandidates];
  int count = 0;
  const Status status = l.heuristic(l.handle, product.product, product.a, product.b, product.c, product.c, preference, kCandidates, candidates, &count);
  l.destroy_preference(preference);
  for (int i = 0; i < count && status == 0; ++i)
    if (candidates[i].state == 0) return {candidates[i].algorithm, true};
  return {};
}

// Rounded shapes of a run are some dozens of rows with two dozen of widths.
constexpr size_t kMostKept = 1024;

std::mutex mutex;

// The choice for a shape. To be called under the mutex.
Choice chosen_for(const Shape& s) {
  // Never destroyed: at the process's end the library may be gone before.
  static auto& kept = *new LruCache<decltype(s.key()), Choice>(kMostKept);
  const Shape asked = rounded(s);
  const Choice* found = kept.find(asked.key());
  return found ? *found : kept.insert(asked.key(), choose(library(), asked));
}

void run(const OpCall& call, const Shape& s, const Choice& chosen, const void* a, const void* b, const void* bias, void* c) {
  const Library& l = library();
  const Product product(l, s);
  if (s.has_bias) l.set_product(product.product, kBiasPointer, &bias, sizeof bias);
  const float one = 1, beta = s.adds ? 1.0f : 0.0f;
  const AllowInCapture allowed;  // a kernel of the library may be loaded now
  const auto multiply = [&](const Algorithm& algorithm) {
    return l.matmul(l.handle, product.product, &one, b, product.a, a, product.b, &beta, c, product.c, c, product.c, &algorithm, l.workspace,
                    kWorkspaceBytes, stream_of(call));
  };
  Status status = multiply(chosen.algorithm);
  if (status != 0) {  // refused for this size, though not for the rounded one
    const Choice exact = choose(l, s);
    if (exact.found) status = multiply(exact.algorithm);
  }
  VLTUNE_CHECK(status == 0, "ERR_DEVICE", "%s: cuBLASLt gave status %d for a product of %lld x %lld x %lld", call.op, status,
               static_cast<long long>(s.m), static_cast<long long>(s.n), static_cast<long long>(s.k));
}

}  // namespace

const LibraryInfo& blas_info() { return library().info; }

bool gemm_cublaslt(const OpCall& call, const Gemm& g) {
  if (!library().info.found) return false;
  // Biases of another dtype than C's are not among the library's combinations.
  if (g.bias != nullptr && g.bias_dtype != g.c_dtype) return false;
  const bool second = g.k2 > 0;
  Shape s{g.m, g.n, g.k, g.lda, g.ldb, g.ldc, type_of(g.dtype), type_of(g.c_dtype), type_of(g.bias_dtype), g.a_is_km, g.b_is_nk,
          g.bias != nullptr, g.accumulate || second, {alignment_of(g.a), alignment_of(g.b), alignment_of(g.c)}};
  // Both products are known to be taken before either runs.
  const std::lock_guard<std::mutex> lock(mutex);
  const Choice chosen = chosen_for(s);
  if (!chosen.found) return false;
  if (second) {
    // The second run first: its terms are the smaller ones, so that C rounded in between loses the least.
    Shape t = s;
    t.k = g.k2;
    t.lda = g.lda2;
    t.ldb = g.ldb2;
    t.has_bias = false;
    t.adds = g.accumulate;
    t.alignment[0] = alignment_of(g.a2);
    t.alignment[1] = alignment_of(g.b2);
    const Choice chosen_second = chosen_for(t);
    if (!chosen_second.found) return false;
    run(call, t, chosen_second, g.a2, g.b2, nullptr, g.c);
  }
  run(call, s, chosen, g.a, g.b, g.bias, g.c);
  return true;
}

}  // namespace vltune::cuda
