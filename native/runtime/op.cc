#include "op.h"

namespace vltune {

int64_t Attrs::integer(const char* name, int64_t fallback) const {
  constexpr double kMost = 9007199254740992.0;
  const double* value = find(name);
  if (!value) return fallback;
  VLTUNE_CHECK(*value >= -kMost && *value <= kMost && *value == static_cast<double>(static_cast<int64_t>(*value)), "ERR_ARGUMENT",
               "attribute %s is %g, expected a whole number", name, *value);
  return static_cast<int64_t>(*value);
}

}  // namespace vltune
