#include "../runtime/cpu_dispatch.h"
#include "../runtime/cpu_features.h"
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

Napi::Value memory(const Napi::CallbackInfo& info) {
  Napi::Object object = Napi::Object::New(info.Env());
  object.Set("current", Napi::Number::New(info.Env(), static_cast<double>(memory_count().current.load())));
  object.Set("peak", Napi::Number::New(info.Env(), static_cast<double>(memory_count().peak.load())));
  return object;
}

Napi::Value reset_peak(const Napi::CallbackInfo& info) {
  memory_count().peak.store(memory_count().current.load());
  return info.Env().Undefined();
}

Napi::Value cuda_info(const Napi::CallbackInfo& info) {
  Napi::Object object = Napi::Object::New(info.Env());
  object.Set("compiled", Napi::Boolean::New(info.Env(), false));
  object.Set("reason", Napi::String::New(info.Env(), "this build of vltune has no CUDA kernels"));
  return object;
}

}  // namespace vltune::binding
