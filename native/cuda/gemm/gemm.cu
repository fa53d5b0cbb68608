#include "gemm.h"

#include <cstdlib>
#include <cstring>

#include "blas.h"

namespace vltune::cuda {
namespace {

enum class Path { Sm90, Cublaslt, Plain };

// VLTUNE_GEMM=sm90|cublaslt|plain makes one path the first, for tests; products that it does not take go on to the next.
Path first_path() {
  static const Path path = [] {
    const char* name = std::getenv("VLTUNE_GEMM");
    if (name && std::strcmp(name, "cublaslt") == 0) return Path::Cublaslt;
    if (name && std::strcmp(name, "plain") == 0) return Path::Plain;
    return Path::Sm90;
  }();
  return path;
}

// gemm_sm90.cu is there.
#ifdef VLTUNE_NO_GEMM_SM90
constexpr bool kHasSm90 = false;
#else
constexpr bool kHasSm90 = true;
#endif

// What gemm_sm90 may be asked for; it looks at sizes and alignment itself.
bool suits_sm90(const Gemm& g) { return kHasSm90 && g.dtype == DType::BF16 && !g.a_is_km && device().sm90a(); }

}  // namespace

void gemm(const OpCall& call, const Gemm& g) {
  if (g.m == 0 || g.n == 0) return;
  const Path first = first_path();
  if constexpr (kHasSm90)
    if (first == Path::Sm90 && g.k > 0 && suits_sm90(g) && gemm_sm90(call, g)) return;
  if (first != Path::Plain && g.k > 0 && gemm_cublaslt(call, g)) return;
  gemm_plain(call, g);
}

}  // namespace vltune::cuda
