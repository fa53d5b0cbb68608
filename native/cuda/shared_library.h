// NVIDIA's libraries, opened at run time so that the addon loads on a machine without them.
#pragma once
#include <string>

#ifdef _WIN32
#include <windows.h>
#else
#include <dlfcn.h>
#endif

namespace vltune::cuda {

// What was found of one.
struct LibraryInfo {
  bool found = false;
  std::string path;
  int version = 0;     // as the library counts
  std::string reason;  // why there is none
};

#ifdef _WIN32
inline void* open_file(const std::string& path) { return reinterpret_cast<void*>(LoadLibraryA(path.c_str())); }
inline void* symbol(void* file, const char* name) { return reinterpret_cast<void*>(GetProcAddress(static_cast<HMODULE>(file), name)); }
inline std::string why_not() { return "LoadLibrary failed"; }
inline std::string path_of(void*, const std::string& name) { return name; }
#else
inline void* open_file(const std::string& path) { return dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL); }
inline void* symbol(void* file, const char* name) { return dlsym(file, name); }
// Why the last file could not be opened.
inline std::string why_not() {
  const char* text = dlerror();
  return text ? text : "unknown reason";
}
// The file that holds a function; `name` if it cannot be told.
inline std::string path_of(void* function, const std::string& name) {
  Dl_info where;
  return dladdr(function, &where) && where.dli_fname ? where.dli_fname : name;
}
#endif

// Whether the file has the function.
template <class F> bool take(void* file, const char* name, F* function) {
  *function = reinterpret_cast<F>(symbol(file, name));
  return *function != nullptr;
}

}  // namespace vltune::cuda
