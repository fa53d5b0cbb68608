// The export list of the addon, nothing else. Its types: lib/native.ts.
#include <napi.h>

#include "binding/exports.h"

static Napi::Object init(Napi::Env env, Napi::Object exports) {
  using namespace vltune::binding;
  auto add = [&](const char* name, Napi::Value (*function)(const Napi::CallbackInfo&)) {
    exports.Set(name, Napi::Function::New(env, function, name));
  };
  add("allocate", allocate);
  add("mapFile", map_file);
  add("storageBytes", storage_bytes);
  add("release", release);
  add("adviseUnneeded", advise_unneeded);
  add("read", read);
  add("write", write);
  add("copy", copy);
  add("copyAsync", copy_async);
  add("call", call);
  add("callAsync", call_async);
  add("workspace", workspace);
  add("opNames", op_names);
  add("compile", compile);
  add("run", run);
  add("cancel", cancel);
  add("times", times);
  add("profile", profile);
  add("timeOp", time_op);
  add("ncclUniqueId", nccl_unique_id);
  add("ncclCommunicator", nccl_communicator);
  add("ncclAllReduce", nccl_all_reduce);
  add("ncclAbort", nccl_abort);
  add("imagePatches", image_patches);
  add("largeArray", large_array);
  add("cpuInfo", cpu_info);
  add("setThreads", set_threads);
  add("memory", memory);
  add("resetPeak", reset_peak);
  add("cudaInfo", cuda_info);
  add("ncclInfo", nccl_info);
  add("selectDevice", select_device);
  add("deviceMemory", device_memory);
  return exports;
}

NODE_API_MODULE(vltune, init)
