// What a thread does between two looks at a value that another thread is about to change.
#pragma once

namespace vltune {

inline void pause_cpu() {
#if defined(__x86_64__) || defined(_M_X64)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace vltune
