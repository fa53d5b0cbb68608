#include "cpu_dispatch.h"

#include "../ops/image_patches.h"
#include "cpu_features.h"

namespace vltune::cpu {

namespace portable { extern const OpEntry kTable[]; }
#ifdef VLTUNE_X86
namespace avx2 { extern const OpEntry kTable[]; }
namespace avx512 { extern const OpEntry kTable[]; }
#endif

const OpEntry* all_ops() {
#ifdef VLTUNE_X86
  if (cpu_features().avx512) return avx512::kTable;
  if (cpu_features().avx2) return avx2::kTable;
#endif
  return portable::kTable;
}

const char* isa_name() {
#ifdef VLTUNE_X86
  if (cpu_features().avx512) return "avx512";
  if (cpu_features().avx2) return "avx2";
#endif
  return "portable";
}

void image_patches(const ImagePatches& work) {
#ifdef VLTUNE_X86
  if (cpu_features().avx512) return avx512::image_patches(work);
  if (cpu_features().avx2) return avx2::image_patches(work);
#endif
  return portable::image_patches(work);
}

const OpEntry* find_op(const char* name) {
  for (const OpEntry* op = all_ops(); op->name; ++op)
    if (std::strcmp(op->name, name) == 0) return op;
  return nullptr;
}

}  // namespace vltune::cpu
