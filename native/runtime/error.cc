#include "error.h"

#include <cstdarg>
#include <cstdio>

namespace vltune {

void throw_error(const char* code, const char* file, int line, const char* format, ...) {
  char text[512];
  va_list args;
  va_start(args, format);
  std::vsnprintf(text, sizeof text, format, args);
  va_end(args);
  throw Error(code, text, file, line);
}

}  // namespace vltune
