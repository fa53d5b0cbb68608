#include "../runtime/storage.h"

#include <cstring>

#include "convert.h"
#include "exports.h"

namespace vltune::binding {

Napi::Value allocate(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const size_t bytes = bytes_argument(info[0], "bytes");
    const std::string device = string_argument(info[1], "device");
    VLTUNE_CHECK(device == "cpu" || device == "cuda", "ERR_ARGUMENT", "device: expected cpu or cuda, got %s", device.c_str());
    return make_handle(info.Env(), Storage::allocate(bytes, device == "cpu" ? Device::Cpu : Device::Cuda));
  });
}

Napi::Value map_file(const Napi::CallbackInfo& info) {
  return guarded(info.Env(),
                 [&]() -> Napi::Value { return make_handle(info.Env(), Storage::map_file(string_argument(info[0], "path"))); });
}

Napi::Value storage_bytes(const Napi::CallbackInfo& info) {
  return guarded(info.Env(),
                 [&]() -> Napi::Value { return Napi::Number::New(info.Env(), static_cast<double>(storage_of(info[0])->bytes())); });
}

Napi::Value release(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    release_handle(info[0]);
    return info.Env().Undefined();
  });
}

Napi::Value advise_unneeded(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    auto storage = storage_of(info[0]);
    const size_t offset = bytes_argument(info[1], "offset"), bytes = bytes_argument(info[2], "bytes");
    range_of(*storage, offset, bytes, "adviseUnneeded");
    storage->advise_unneeded(offset, bytes);
    return info.Env().Undefined();
  });
}

Napi::Value read(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    auto storage = storage_of(info[0]);
    auto [into, bytes] = view_argument(info[2], "into");
    const std::byte* from = range_of(*storage, bytes_argument(info[1], "offset"), bytes, "read");
    if (bytes) std::memcpy(into, from, bytes);
    return info.Env().Undefined();
  });
}

Napi::Value write(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    auto storage = storage_of(info[0]);
    VLTUNE_CHECK(!storage->read_only(), "ERR_ARGUMENT", "write: a mapped file is read-only");
    auto [from, bytes] = view_argument(info[2], "from");
    std::byte* to = range_of(*storage, bytes_argument(info[1], "offset"), bytes, "write");
    if (bytes) std::memcpy(to, from, bytes);
    return info.Env().Undefined();
  });
}

Napi::Value copy(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    auto to = storage_of(info[0]), from = storage_of(info[2]);
    VLTUNE_CHECK(!to->read_only(), "ERR_ARGUMENT", "copy: a mapped file is read-only");
    const size_t bytes = bytes_argument(info[4], "bytes");
    std::byte* target = range_of(*to, bytes_argument(info[1], "toOffset"), bytes, "copy to");
    const std::byte* source = range_of(*from, bytes_argument(info[3], "fromOffset"), bytes, "copy from");
    if (bytes) std::memmove(target, source, bytes);
    return info.Env().Undefined();
  });
}

}  // namespace vltune::binding
