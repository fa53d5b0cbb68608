// The functions of lib/native.ts, by the file that holds them.
#pragma once
#include <napi.h>

namespace vltune::binding {

// storage.cc
Napi::Value allocate(const Napi::CallbackInfo& info);
Napi::Value map_file(const Napi::CallbackInfo& info);
Napi::Value storage_bytes(const Napi::CallbackInfo& info);
Napi::Value release(const Napi::CallbackInfo& info);
Napi::Value advise_unneeded(const Napi::CallbackInfo& info);
Napi::Value read(const Napi::CallbackInfo& info);
Napi::Value write(const Napi::CallbackInfo& info);
Napi::Value copy(const Napi::CallbackInfo& info);
Napi::Value copy_async(const Napi::CallbackInfo& info);
// program.cc
Napi::Value call(const Napi::CallbackInfo& info);
Napi::Value call_async(const Napi::CallbackInfo& info);
Napi::Value workspace(const Napi::CallbackInfo& info);
Napi::Value compile(const Napi::CallbackInfo& info);
Napi::Value run(const Napi::CallbackInfo& info);
Napi::Value cancel(const Napi::CallbackInfo& info);
Napi::Value times(const Napi::CallbackInfo& info);
Napi::Value profile(const Napi::CallbackInfo& info);
Napi::Value time_op(const Napi::CallbackInfo& info);
// nccl.cc
Napi::Value nccl_unique_id(const Napi::CallbackInfo& info);
Napi::Value nccl_communicator(const Napi::CallbackInfo& info);
Napi::Value nccl_all_reduce(const Napi::CallbackInfo& info);
Napi::Value nccl_abort(const Napi::CallbackInfo& info);
// image.cc
Napi::Value image_patches(const Napi::CallbackInfo& info);
Napi::Value large_array(const Napi::CallbackInfo& info);
// machine.cc
Napi::Value op_names(const Napi::CallbackInfo& info);
Napi::Value cpu_info(const Napi::CallbackInfo& info);
Napi::Value set_threads(const Napi::CallbackInfo& info);
Napi::Value memory(const Napi::CallbackInfo& info);
Napi::Value reset_peak(const Napi::CallbackInfo& info);
Napi::Value cuda_info(const Napi::CallbackInfo& info);
Napi::Value nccl_info(const Napi::CallbackInfo& info);
Napi::Value select_device(const Napi::CallbackInfo& info);
Napi::Value device_memory(const Napi::CallbackInfo& info);

}  // namespace vltune::binding
