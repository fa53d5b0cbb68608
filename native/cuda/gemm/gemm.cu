#include "gemm.h"

#include <cstdlib>
#include <cstring>

#include "blas.h"

namespace vltune::cuda {
namespace {

enum class Path { Best, Sm90, Cublaslt, Plain };

// VLTUNE_GEMM=sm90|cublaslt|plain makes one path the only fast one, for tests: products that it does not take are made by gemm_plain.
Path first_path() {
  static const Path path = [] {
    const char* name = std::getenv("VLTUNE_GEMM");
    if (name && std::strcmp(name, "sm90") == 0) return Path::Sm90;
    if (name && std::strcmp(name, "cublaslt") == 0) return Path::Cublaslt;
    if (name && std::strcmp(name, "plain") == 0) return Path::Plain;
    return Path::Best;
  }();
  return path;
}

// Which of the two fast paths is the better one, from sizes alone; measured on an H200. The library's products are faster than ours,
// but it makes the second run along K a product of its own: C is written and read once more.
constexpr double kSm90Rate = 675e6, kCublasRate = 690e6;  // operations in a microsecond
constexpr double kBytesRate = 4e6;                        // bytes of C in a microsecond
constexpr int64_t kFullSize = int64_t{1} << 22;           // elements of C that keep all multiprocessors busy with our tiles

bool prefers_sm90(const Gemm& g, bool has_library) {
  if (!has_library) return true;
  if (g.k2 == 0 || g.m * g.n < kFullSize) return false;
  const double size = static_cast<double>(g.m) * static_cast<double>(g.n), operations = 2 * size * static_cast<double>(g.k + g.k2);
  const double again = 2 * size * (g.c_dtype == DType::F32 ? 4 : 2);
  return operations / kSm90Rate < operations / kCublasRate + again / kBytesRate;
}

}  // namespace

void gemm(const OpCall& call, const Gemm& g) {
  if (g.m == 0 || g.n == 0) return;
  const bool suits = g.k > 0 && g.dtype == DType::BF16 && device().sm90a();
  switch (first_path()) {
    case Path::Best:
      if (suits && prefers_sm90(g, blas_info().found) && gemm_sm90(call, g)) return;
      if (g.k > 0 && gemm_cublaslt(call, g)) return;
      if (suits && gemm_sm90(call, g)) return;
      break;
    case Path::Sm90:
      if (suits && gemm_sm90(call, g)) return;
      break;
    case Path::Cublaslt:
      if (g.k > 0 && gemm_cublaslt(call, g)) return;
      break;
    case Path::Plain:
      break;
  }
  gemm_plain(call, g);
}

}  // namespace vltune::cuda
