// JavaScript values to native ones: handles with type tags, tensors, attributes; and native errors back to JavaScript.
#pragma once
#include <napi.h>

#include <memory>
#include <string>
#include <vector>

#include "../runtime/executable.h"
#include "../runtime/gpu.h"
#include "../runtime/storage.h"

namespace vltune::binding {

// A handle is an object that wraps a shared pointer and carries a type tag, so that a wrong one is refused and never read.
Napi::Object make_handle(Napi::Env env, std::shared_ptr<Storage> storage);
Napi::Object make_handle(Napi::Env env, std::shared_ptr<Executable> executable);
Napi::Object make_handle(Napi::Env env, std::shared_ptr<gpu::Communicator> communicator);
std::shared_ptr<Storage> storage_of(const Napi::Value& value);        // ERR_ARGUMENT: not a storage, or released
std::shared_ptr<Executable> executable_of(const Napi::Value& value);  // likewise
std::shared_ptr<gpu::Communicator> communicator_of(const Napi::Value& value);
void release_handle(const Napi::Value& value);

// Arguments. Each throws ERR_ARGUMENT naming `what`.
size_t bytes_argument(const Napi::Value& value, const char* what);
std::string string_argument(const Napi::Value& value, const char* what);
DType dtype_argument(const Napi::Value& value);
Device device_argument(const Napi::Value& value);
Attrs attrs_argument(const Napi::Value& value);
// A list of `{storage, offset, dtype, shape, nf4?}` or null.
std::vector<BoundTensor> tensors_argument(const Napi::Value& value, const char* what);
// A list of `{dtype, shape}` or null, without memory.
std::vector<Tensor> shapes_argument(const Napi::Value& value, const char* what);
// Binds scales to an NF4 tensor; appends what must be kept alive.
void bind_nf4(Tensor& tensor, const Napi::Value& nf4, std::vector<std::shared_ptr<Storage>>& keep);
// What the number of elements can be counted in: no product of lengths overflows. ERR_SHAPE, naming `what`.
void check_numel(const Tensor& tensor, const char* what);
// Bytes of one element, of which the offset of a tensor is a multiple.
size_t element_bytes(DType dtype);
// Pointer to [offset, offset + bytes) of a storage. ERR_ARGUMENT if it does not lie within, or offset is no multiple of `alignment`.
std::byte* range_of(const Storage& storage, size_t offset, size_t bytes, const char* what, size_t alignment = 1);

// The view's memory.
std::pair<std::byte*, size_t> view_argument(const Napi::Value& value, const char* what);

Napi::Error to_js(Napi::Env env, const char* code, const std::string& message);
// Runs body, turning native errors into JavaScript ones.
template <class Body>
auto guarded(Napi::Env env, Body&& body) -> decltype(body()) {
  try {
    return body();
  } catch (const Error& error) {
    throw to_js(env, error.code, error.what());
  } catch (const std::bad_alloc&) {
    throw to_js(env, "ERR_OUT_OF_MEMORY", "out of memory");
  } catch (const Napi::Error&) {
    throw;
  } catch (const std::exception& error) {
    throw to_js(env, "ERR_INTERNAL", error.what());
  }
}

}  // namespace vltune::binding
