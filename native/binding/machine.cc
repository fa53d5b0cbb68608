#include "../runtime/cpu_dispatch.h"
#include "../runtime/cpu_features.h"
#include "../runtime/gpu.h"
#include "../runtime/storage.h"
#include "convert.h"
#include "exports.h"

namespace vltune::binding {

Napi::Value op_names(const Napi::CallbackInfo& info) {
  Napi::Array names = Napi::Array::New(info.Env());
  uint32_t i = 0;
  for (const OpEntry* op = cpu::all_ops(); op->name; ++op) names.Set(i++, Napi::String::New(info.Env(), op->name));
  return names;
}

Napi::Value cpu_info(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const CpuFeatures& cpu = cpu_features();
  const int threads = guarded(env, [] { return default_pool()->size(); });
  Napi::Object object = Napi::Object::New(env);
  object.Set("model", Napi::String::New(env, cpu.model));
  object.Set("threads", Napi::Number::New(env, threads));
  object.Set("isa", Napi::String::New(env, cpu::isa_name()));
  object.Set("avx512Bf16", Napi::Boolean::New(env, cpu.avx512_bf16));
  object.Set("avx512Vnni", Napi::Boolean::New(env, cpu.avx512_vnni));
  object.Set("amxBf16", Napi::Boolean::New(env, cpu.amx_bf16));
  return object;
}

Napi::Value set_threads(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const size_t threads = bytes_argument(info[0], "threads");
    VLTUNE_CHECK(threads >= 1 && threads <= kMostThreads, "ERR_ARGUMENT", "threads: expected 1 to %d, got %zu", kMostThreads,
                 threads);
    set_default_pool_threads(static_cast<int>(threads));
    return info.Env().Undefined();
  });
}

static MemoryCount& count_of(const Napi::Value& device) {
  return memory_count(device.IsUndefined() ? Device::Cpu : device_argument(device));
}

Napi::Value memory(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const MemoryCount& count = count_of(info[0]);
    Napi::Object object = Napi::Object::New(info.Env());
    object.Set("current", Napi::Number::New(info.Env(), static_cast<double>(count.current.load())));
    object.Set("peak", Napi::Number::New(info.Env(), static_cast<double>(count.peak.load())));
    return object;
  });
}

Napi::Value reset_peak(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    MemoryCount& count = count_of(info[0]);
    count.peak.store(count.current.load());
    return info.Env().Undefined();
  });
}

static Napi::Object library_object(Napi::Env env, const gpu::LibrarySummary& library) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("found", Napi::Boolean::New(env, library.found));
  object.Set("path", Napi::String::New(env, library.path));
  object.Set("version", Napi::String::New(env, library.found ? library.version : ""));
  object.Set("reason", Napi::String::New(env, library.reason));
  return object;
}

Napi::Value cuda_info(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const Napi::Env env = info.Env();
    const gpu::Info found = gpu::info();
    auto text = [&](const std::string& value) { return Napi::String::New(env, value); };
    auto number = [&](auto value) { return Napi::Number::New(env, static_cast<double>(value)); };
    Napi::Object object = Napi::Object::New(env);
    object.Set("compiled", Napi::Boolean::New(env, found.compiled));
    object.Set("available", Napi::Boolean::New(env, found.compiled && found.reason.empty()));
    object.Set("reason", text(found.reason));
    object.Set("driver", text(found.driver));
    object.Set("runtime", text(found.runtime));
    Napi::Array devices = Napi::Array::New(env);
    for (const gpu::DeviceSummary& device : found.devices) {
      Napi::Object item = Napi::Object::New(env);
      item.Set("index", number(device.index));
      item.Set("name", text(device.name));
      item.Set("computeCapability", text(device.compute_capability));
      item.Set("multiprocessors", number(device.multiprocessors));
      item.Set("totalMemory", number(device.total_bytes));
      if (device.free_bytes) item.Set("freeMemory", number(*device.free_bytes));
      devices.Set(devices.Length(), item);
    }
    object.Set("devices", devices);
    object.Set("blas", library_object(env, found.blas));
    return object;
  });
}

Napi::Value nccl_info(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value { return library_object(info.Env(), gpu::nccl_info()); });
}

Napi::Value select_device(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    gpu::select_device(static_cast<int>(bytes_argument(info[0], "index")));
    return info.Env().Undefined();
  });
}

Napi::Value device_memory(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    size_t free_bytes = 0, total_bytes = 0;
    gpu::memory(&free_bytes, &total_bytes);
    Napi::Object object = Napi::Object::New(info.Env());
    object.Set("free", Napi::Number::New(info.Env(), static_cast<double>(free_bytes)));
    object.Set("total", Napi::Number::New(info.Env(), static_cast<double>(total_bytes)));
    return object;
  });
}

}  // namespace vltune::binding
