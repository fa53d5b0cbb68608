#include "../runtime/storage.h"

#include "../runtime/gpu.h"

#include <cstring>
#include <functional>

#include "convert.h"
#include "exports.h"
#include "promise_worker.h"

namespace vltune::binding {

Napi::Value allocate(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const size_t bytes = bytes_argument(info[0], "bytes");
    return make_handle(info.Env(), Storage::allocate(bytes, device_argument(info[1])));
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
    if (bytes && storage->device() == Device::Cuda) gpu::copy(into, from, bytes);
    else if (bytes) std::memcpy(into, from, bytes);
    return info.Env().Undefined();
  });
}

Napi::Value write(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    auto storage = storage_of(info[0]);
    VLTUNE_CHECK(!storage->read_only(), "ERR_ARGUMENT", "write: a mapped file is read-only");
    auto [from, bytes] = view_argument(info[2], "from");
    std::byte* to = range_of(*storage, bytes_argument(info[1], "offset"), bytes, "write");
    if (bytes && storage->device() == Device::Cuda) gpu::write(to, from, bytes);
    else if (bytes) std::memcpy(to, from, bytes);
    return info.Env().Undefined();
  });
}

namespace {

// copy(to, toOffset, from, fromOffset, bytes), now or later.
std::function<void()> copy_of(const Napi::CallbackInfo& info) {
  auto to = storage_of(info[0]), from = storage_of(info[2]);
  VLTUNE_CHECK(!to->read_only(), "ERR_ARGUMENT", "copy: a mapped file is read-only");
  const size_t bytes = bytes_argument(info[4], "bytes");
  std::byte* target = range_of(*to, bytes_argument(info[1], "toOffset"), bytes, "copy to");
  const std::byte* source = range_of(*from, bytes_argument(info[3], "fromOffset"), bytes, "copy from");
  return [=] { copy_bytes(*to, target, *from, source, bytes); };
}

}  // namespace

Napi::Value copy(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    copy_of(info)();
    return info.Env().Undefined();
  });
}

Napi::Value copy_async(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value { return PromiseWorker::start(info.Env(), copy_of(info)); });
}

}  // namespace vltune::binding
