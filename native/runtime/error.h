// The one error type of native code. The binding turns it into a JavaScript Error with `.code`.
// Codes are part of the public API: ERR_SHAPE, ERR_DTYPE, ERR_ARGUMENT, ERR_OUT_OF_MEMORY, ERR_NO_DEVICE, ERR_DEVICE,
// ERR_IO, ERR_CANCELLED, ERR_INTERNAL.
#pragma once
#include <stdexcept>
#include <string>

namespace vltune {

class Error : public std::runtime_error {
 public:
  Error(const char* code, const std::string& message, const char* file, int line)
      : std::runtime_error(message), code(code), file(file), line(line) {}
  const char* code;
  const char* file;
  int line;
};

// Out of line, so that no copy of it is compiled for an instruction set that the machine may lack.
[[noreturn]] void throw_error(const char* code, const char* file, int line, const char* format, ...);

}  // namespace vltune

#define VLTUNE_FAIL(code, ...) ::vltune::throw_error(code, __FILE__, __LINE__, __VA_ARGS__)
#define VLTUNE_CHECK(condition, code, ...) \
  do {                                     \
    if (!(condition)) VLTUNE_FAIL(code, __VA_ARGS__); \
  } while (0)
