#include "convert.h"
#include "exports.h"
#include "promise_worker.h"

namespace vltune::binding {

Napi::Value nccl_unique_id(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const std::string id = gpu::nccl_unique_id();
    return Napi::Buffer<char>::Copy(info.Env(), id.data(), id.size());
  });
}

Napi::Value nccl_communicator(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const auto [data, bytes] = view_argument(info[0], "id");
    const size_t rank = bytes_argument(info[1], "rank"), size = bytes_argument(info[2], "size");
    VLTUNE_CHECK(rank < size && size <= 65536, "ERR_ARGUMENT", "rank: expected 0 to %zu, got %zu", size - 1, rank);
    const std::string id(reinterpret_cast<const char*>(data), bytes);
    return make_handle(info.Env(), std::shared_ptr<gpu::Communicator>(gpu::make_communicator(id, static_cast<int>(rank), static_cast<int>(size))));
  });
}

Napi::Value nccl_all_reduce(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    auto communicator = communicator_of(info[0]);
    auto storage = storage_of(info[1]);
    VLTUNE_CHECK(storage->device() == Device::Cuda, "ERR_ARGUMENT", "allReduce: expected a storage on cuda, got one on %s",
                 device_name(storage->device()));
    const size_t count = bytes_argument(info[3], "count");
    std::byte* data = range_of(*storage, bytes_argument(info[2], "offset"), count * sizeof(float), "allReduce", sizeof(float));
    return PromiseWorker::start(info.Env(), [=] { communicator->all_reduce(reinterpret_cast<float*>(data), count); },
                                [storage] {});  // which is kept until then
  });
}

Napi::Value nccl_abort(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    communicator_of(info[0])->abort();
    return info.Env().Undefined();
  });
}

}  // namespace vltune::binding
