// What this CPU can do, read once; VLTUNE_ISA=portable|avx2|avx512|avx512_bf16|amx caps it (for tests and for comparing).
#pragma once

namespace vltune {

struct CpuFeatures {
  bool avx2 = false;         // AVX2, FMA and F16C
  bool avx512 = false;       // AVX-512 F, BW, DQ and VL
  bool avx512_bf16 = false;
  bool avx512_vnni = false;
  bool amx_bf16 = false;     // and the kernel lets this process use the tiles
  char model[64] = "";
};

const CpuFeatures& cpu_features();

}  // namespace vltune
