// What both devices read of a rotary table's attributes on the host: which frequencies belong to which axis, and their values.
// `static`, not `inline`, for the reason that check.h gives.
#pragma once
#include <cmath>

#include "check.h"

namespace vltune {

struct RopeSections {
  int64_t t, h, w;  // frequencies of each axis
  bool interleaved, axial;
  double theta;

  int64_t half() const { return t + h + w; }
};

// Of a table of `half` columns.
[[maybe_unused]] static RopeSections rope_sections(const OpCall& call, int64_t half) {
  const RopeSections s{call.attrs->integer("section_t", half), call.attrs->integer("section_h", 0), call.attrs->integer("section_w", 0),
                       call.attrs->flag("interleaved"),        call.attrs->flag("axial"),           call.attrs->number("theta", 10000)};
  VLTUNE_CHECK(s.theta > 0, "ERR_ARGUMENT", "%s: theta is %g, expected a positive number", call.op, s.theta);
  VLTUNE_CHECK(s.t >= 0 && s.h >= 0 && s.w >= 0 && s.half() == half, "ERR_ARGUMENT",
               "%s: sections %lld + %lld + %lld do not sum to head_dim/2 = %lld", call.op, static_cast<long long>(s.t),
               static_cast<long long>(s.h), static_cast<long long>(s.w), static_cast<long long>(half));
  VLTUNE_CHECK(!(s.interleaved && s.axial), "ERR_ARGUMENT", "%s: interleaved and axial are both set, expected one at most", call.op);
  return s;
}

// transformers: 1 / theta ** (arange(0, width, 2) / width), each step rounded to F32; width is that of the head, or with axial that
// of the axis.
[[maybe_unused]] static float rope_frequency(const RopeSections& s, int64_t j) {
  int64_t width = 2 * s.half();
  if (s.axial) {
    const int64_t section = j < s.t ? s.t : j < s.t + s.h ? s.h : s.w;
    j -= j < s.t ? 0 : j < s.t + s.h ? s.t : s.t + s.h;
    width = 2 * section;
  }
  const float exponent = static_cast<float>(2 * j) / static_cast<float>(width);
  return 1.0f / static_cast<float>(std::pow(s.theta, static_cast<double>(exponent)));
}

}  // namespace vltune
