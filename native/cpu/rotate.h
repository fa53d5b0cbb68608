// Elements j and j + h/2 of a head, which rotary positions turn together, by the angle or back.
#pragma once
#include "simd.h"

namespace vltune::cpu::VLTUNE_ISA {

struct Pair { Vec low, high; };
inline Pair rotate(Pair z, Vec cos, Vec sin) { return {fnma(z.high, sin, z.low * cos), fma(z.low, sin, z.high * cos)}; }
inline Pair rotate_back(Pair y, Vec cos, Vec sin) { return {fma(y.high, sin, y.low * cos), fnma(y.low, sin, y.high * cos)}; }
template <class T> inline Pair load_pair(const T* p, int64_t half, int count) {
  return {load_part(p, count), load_part(p + half, count)};
}
template <class T> inline void store_pair(T* p, int64_t half, Pair a, int count) {
  store_part(p, a.low, count);
  store_part(p + half, a.high, count);
}

}  // namespace vltune::cpu::VLTUNE_ISA
