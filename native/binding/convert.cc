#include "convert.h"

#include <cmath>

namespace vltune::binding {
namespace {

constexpr napi_type_tag kStorageTag = {0x6e1f0c3a52d94b17, 0x9b0d64c1f7a8e35d};
constexpr napi_type_tag kExecutableTag = {0x27c85b90e4f14d6b, 0xa3715ef8c09d2b46};
constexpr napi_type_tag kCommunicatorTag = {0x51f3d87ac64e4b02, 0xbd29e06f83c7514a};

template <class T>
Napi::Object wrap(Napi::Env env, std::shared_ptr<T> pointer, const napi_type_tag& tag) {
  Napi::Object object = Napi::Object::New(env);
  auto* held = new std::shared_ptr<T>(std::move(pointer));
  napi_status status = napi_wrap(
      env, object, held, [](napi_env, void* data, void*) { delete static_cast<std::shared_ptr<T>*>(data); }, nullptr, nullptr);
  if (status != napi_ok) {
    delete held;
    throw Napi::Error::New(env, "cannot wrap a native object");
  }
  napi_type_tag_object(env, object, &tag);
  return object;
}

template <class T>
std::shared_ptr<T>* held_by(const Napi::Value& value, const napi_type_tag& tag) {
  if (!value.IsObject()) return nullptr;
  bool matches = false;
  if (napi_check_object_type_tag(value.Env(), value, &tag, &matches) != napi_ok || !matches) return nullptr;
  void* data = nullptr;
  if (napi_unwrap(value.Env(), value, &data) != napi_ok) return nullptr;
  return static_cast<std::shared_ptr<T>*>(data);
}

template <class T>
std::shared_ptr<T> unwrap(const Napi::Value& value, const napi_type_tag& tag, const char* what) {
  auto* held = held_by<T>(value, tag);
  VLTUNE_CHECK(held, "ERR_ARGUMENT", "expected %s of vltune", what);
  VLTUNE_CHECK(*held, "ERR_ARGUMENT", "%s has been released", what);
  return *held;
}

// Fills dtype and shape from {dtype, shape}.
void read_shape(Tensor& tensor, const Napi::Object& object, const char* what) {
  tensor.dtype = dtype_argument(object.Get("dtype"));
  Napi::Value shape = object.Get("shape");
  VLTUNE_CHECK(shape.IsArray(), "ERR_ARGUMENT", "%s: shape must be a list of numbers", what);
  Napi::Array list = shape.As<Napi::Array>();
  const uint32_t rank = list.Length();  // read once: elements may be getters that change the list
  VLTUNE_CHECK(rank >= 1 && rank <= kMaxRank, "ERR_SHAPE", "%s: rank must be 1 to %d, got %u", what, kMaxRank, rank);
  for (uint32_t i = 0; i < rank; ++i) tensor.shape[i] = static_cast<int64_t>(bytes_argument(list.Get(i), what));
  tensor.rank = static_cast<uint8_t>(rank);
  check_numel(tensor, what);
}

}  // namespace

Napi::Object make_handle(Napi::Env env, std::shared_ptr<Storage> storage) { return wrap(env, std::move(storage), kStorageTag); }
Napi::Object make_handle(Napi::Env env, std::shared_ptr<Executable> executable) {
  return wrap(env, std::move(executable), kExecutableTag);
}
Napi::Object make_handle(Napi::Env env, std::shared_ptr<gpu::Communicator> communicator) {
  return wrap(env, std::move(communicator), kCommunicatorTag);
}
std::shared_ptr<Storage> storage_of(const Napi::Value& value) { return unwrap<Storage>(value, kStorageTag, "a storage"); }
std::shared_ptr<Executable> executable_of(const Napi::Value& value) {
  return unwrap<Executable>(value, kExecutableTag, "an executable");
}
std::shared_ptr<gpu::Communicator> communicator_of(const Napi::Value& value) {
  return unwrap<gpu::Communicator>(value, kCommunicatorTag, "a communicator");
}

void release_handle(const Napi::Value& value) {
  if (auto* storage = held_by<Storage>(value, kStorageTag)) storage->reset();
  else if (auto* executable = held_by<Executable>(value, kExecutableTag)) executable->reset();
  else if (auto* communicator = held_by<gpu::Communicator>(value, kCommunicatorTag)) communicator->reset();
  else VLTUNE_FAIL("ERR_ARGUMENT", "expected a storage, an executable or a communicator of vltune");
}

size_t bytes_argument(const Napi::Value& value, const char* what) {
  VLTUNE_CHECK(value.IsNumber(), "ERR_ARGUMENT", "%s: expected a number", what);
  const double number = value.As<Napi::Number>().DoubleValue();
  VLTUNE_CHECK(number >= 0 && number <= 9007199254740991.0 && std::floor(number) == number, "ERR_ARGUMENT",
               "%s: expected a whole number from 0, got %g", what, number);
  return static_cast<size_t>(number);
}

std::string string_argument(const Napi::Value& value, const char* what) {
  VLTUNE_CHECK(value.IsString(), "ERR_ARGUMENT", "%s: expected a string", what);
  return value.As<Napi::String>().Utf8Value();
}

DType dtype_argument(const Napi::Value& value) {
  const std::string name = string_argument(value, "dtype");
  for (DType dtype : {DType::F32, DType::BF16, DType::F16, DType::I32, DType::U8, DType::I64, DType::NF4})
    if (name == dtype_name(dtype)) return dtype;
  VLTUNE_FAIL("ERR_DTYPE", "unknown dtype %s", name.c_str());
}

Device device_argument(const Napi::Value& value) {
  const std::string name = string_argument(value, "device");
  for (Device device : {Device::Cpu, Device::Cuda, Device::Pinned})
    if (name == device_name(device)) return device;
  VLTUNE_FAIL("ERR_ARGUMENT", "device: expected cpu, cuda or pinned, got %s", name.c_str());
}

Attrs attrs_argument(const Napi::Value& value) {
  Attrs attrs;
  if (value.IsUndefined() || value.IsNull()) return attrs;
  VLTUNE_CHECK(value.IsObject(), "ERR_ARGUMENT", "attributes: expected an object of numbers");
  Napi::Object object = value.As<Napi::Object>();
  Napi::Array names = object.GetPropertyNames();
  for (uint32_t i = 0; i < names.Length(); ++i) {
    const std::string name = names.Get(i).As<Napi::String>().Utf8Value();
    Napi::Value item = object.Get(name);
    VLTUNE_CHECK(item.IsNumber(), "ERR_ARGUMENT", "attribute %s: expected a number", name.c_str());
    attrs.set(name, item.As<Napi::Number>().DoubleValue());
  }
  return attrs;
}

void check_numel(const Tensor& tensor, const char* what) {
  constexpr int64_t kMost = int64_t{1} << 53;
  int64_t product = 1;  // of the lengths but 0, so that no order of multiplication overflows
  for (int i = 0; i < tensor.rank; ++i) {
    const int64_t length = tensor.shape[i];
    if (length == 0) continue;
    VLTUNE_CHECK(length <= kMost / product, "ERR_SHAPE", "%s: a shape of more than 2^53 elements", what);
    product *= length;
  }
}

size_t element_bytes(DType dtype) { return dtype_bytes(dtype, 1); }

std::byte* range_of(const Storage& storage, size_t offset, size_t bytes, const char* what, size_t alignment) {
  VLTUNE_CHECK(offset % alignment == 0, "ERR_ARGUMENT", "%s: offset %zu, expected a multiple of %zu", what, offset, alignment);
  VLTUNE_CHECK(offset <= storage.bytes() && bytes <= storage.bytes() - offset, "ERR_ARGUMENT",
               "%s: bytes %zu to %zu do not lie in a storage of %zu", what, offset, offset + bytes, storage.bytes());
  return storage.data() + offset;
}

void bind_nf4(Tensor& tensor, const Napi::Value& value, std::vector<std::shared_ptr<Storage>>& keep) {
  VLTUNE_CHECK(value.IsObject(), "ERR_ARGUMENT", "an nf4 tensor needs its scales (nf4)");
  Napi::Object nf4 = value.As<Napi::Object>();
  const size_t blocks = static_cast<size_t>((tensor.numel() + kNf4Block - 1) / kNf4Block);
  auto bind = [&](const char* name, size_t bytes, size_t alignment) -> std::byte* {
    Napi::Value part = nf4.Get(name);
    VLTUNE_CHECK(part.IsObject(), "ERR_ARGUMENT", "nf4.%s: expected {storage, offset}", name);
    Napi::Object object = part.As<Napi::Object>();
    keep.push_back(storage_of(object.Get("storage")));
    VLTUNE_CHECK(keep.back()->device() == tensor.device, "ERR_ARGUMENT", "nf4.%s lies on %s, the codes on %s", name,
                 device_name(keep.back()->device()), device_name(tensor.device));
    return range_of(*keep.back(), bytes_argument(object.Get("offset"), name), bytes, name, alignment);
  };
  if (nf4.Has("absmaxU8")) {
    const size_t nested = (blocks + kNf4NestedBlock - 1) / kNf4NestedBlock;
    tensor.nf4.absmax_u8 = reinterpret_cast<const uint8_t*>(bind("absmaxU8", blocks, 1));
    tensor.nf4.nested_absmax = reinterpret_cast<const float*>(bind("nestedAbsmax", nested * 4, 4));
    Napi::Value offset = nf4.Get("nestedOffset");
    VLTUNE_CHECK(offset.IsNumber(), "ERR_ARGUMENT", "nf4.nestedOffset: expected a number");
    tensor.nf4.offset = offset.As<Napi::Number>().FloatValue();
  } else {
    tensor.nf4.absmax = reinterpret_cast<const float*>(bind("absmax", blocks * 4, 4));
  }
}

std::vector<BoundTensor> tensors_argument(const Napi::Value& value, const char* what) {
  VLTUNE_CHECK(value.IsArray(), "ERR_ARGUMENT", "%s: expected a list of tensors", what);
  Napi::Array list = value.As<Napi::Array>();
  std::vector<BoundTensor> tensors(list.Length());
  for (uint32_t i = 0; i < list.Length(); ++i) {
    Napi::Value item = list.Get(i);
    if (item.IsNull() || item.IsUndefined()) continue;
    VLTUNE_CHECK(item.IsObject(), "ERR_ARGUMENT", "%s[%u]: expected a tensor or null", what, i);
    Napi::Object object = item.As<Napi::Object>();
    BoundTensor& bound = tensors[i];
    read_shape(bound.tensor, object, what);
    bound.storages.push_back(storage_of(object.Get("storage")));
    const Storage& storage = *bound.storages.back();
    bound.tensor.device = storage.device();
    bound.tensor.data = range_of(storage, bytes_argument(object.Get("offset"), what),
                                 dtype_bytes(bound.tensor.dtype, bound.tensor.numel()), what, element_bytes(bound.tensor.dtype));
    if (bound.tensor.dtype == DType::NF4) bind_nf4(bound.tensor, object.Get("nf4"), bound.storages);
  }
  return tensors;
}

std::vector<Tensor> shapes_argument(const Napi::Value& value, const char* what) {
  VLTUNE_CHECK(value.IsArray(), "ERR_ARGUMENT", "%s: expected a list of shapes", what);
  Napi::Array list = value.As<Napi::Array>();
  std::vector<Tensor> tensors(list.Length());
  for (uint32_t i = 0; i < list.Length(); ++i) {
    Napi::Value item = list.Get(i);
    if (item.IsObject()) read_shape(tensors[i], item.As<Napi::Object>(), what);
  }
  return tensors;
}

std::pair<std::byte*, size_t> view_argument(const Napi::Value& value, const char* what) {
  if (value.IsTypedArray()) {
    Napi::TypedArray array = value.As<Napi::TypedArray>();
    return {static_cast<std::byte*>(array.ArrayBuffer().Data()) + array.ByteOffset(), array.ByteLength()};
  }
  if (value.IsDataView()) {
    Napi::DataView view = value.As<Napi::DataView>();
    return {static_cast<std::byte*>(view.Data()), view.ByteLength()};
  }
  VLTUNE_FAIL("ERR_ARGUMENT", "%s: expected a typed array", what);
}

Napi::Error to_js(Napi::Env env, const char* code, const std::string& message) {
  Napi::Error error = Napi::Error::New(env, message);
  error.Value().Set("code", Napi::String::New(env, code));
  return error;
}

}  // namespace vltune::binding
