#include <cstring>

#include "convert.h"
#include "exports.h"
#include "promise_worker.h"

namespace vltune::binding {
namespace {

std::vector<Tensor> plain(const std::vector<BoundTensor>& bound, bool written) {
  std::vector<Tensor> tensors;
  for (const BoundTensor& item : bound) {
    VLTUNE_CHECK(!written || item.storages.empty() || !item.storages.front()->read_only(), "ERR_ARGUMENT",
                 "outputs: a mapped file is read-only");
    tensors.push_back(item.tensor);
  }
  return tensors;
}

// An op with its operands: the first four arguments of call, callAsync and timeOp.
struct OpWork {
  explicit OpWork(const Napi::CallbackInfo& info)
      : op(string_argument(info[0], "op")),
        bound_in(tensors_argument(info[1], "inputs")),
        bound_out(tensors_argument(info[2], "outputs")),
        in(plain(bound_in, false)),
        out(plain(bound_out, true)),
        attrs(attrs_argument(info[3])) {}
  std::string op;
  std::vector<BoundTensor> bound_in, bound_out;  // keep the storages alive
  std::vector<Tensor> in, out;
  Attrs attrs;
};

std::vector<int> indices(const Napi::Value& value, size_t limit, const char* what) {
  VLTUNE_CHECK(value.IsArray(), "ERR_ARGUMENT", "%s: expected a list of value indices", what);
  Napi::Array list = value.As<Napi::Array>();
  std::vector<int> result;
  for (uint32_t i = 0; i < list.Length(); ++i) {
    Napi::Value item = list.Get(i);
    const double number = item.IsNumber() ? item.As<Napi::Number>().DoubleValue() : -2;
    VLTUNE_CHECK(number >= -1 && number < static_cast<double>(limit), "ERR_ARGUMENT", "%s: expected -1 to %zu", what, limit);
    result.push_back(static_cast<int>(number));
  }
  return result;
}

Napi::Object object_of(const Napi::Value& value, const char* what) {
  VLTUNE_CHECK(value.IsObject(), "ERR_ARGUMENT", "%s: expected an object", what);
  return value.As<Napi::Object>();
}

void read_dims(Program& program, const Napi::Object& dims) {
  Napi::Array names = dims.GetPropertyNames();
  for (uint32_t i = 0; i < names.Length(); ++i) {
    program.dim_names.push_back(names.Get(i).As<Napi::String>().Utf8Value());
    program.dim_limits.push_back(static_cast<int64_t>(bytes_argument(dims.Get(program.dim_names.back()), "dims")));
  }
}

void read_value(Program& program, const Napi::Object& object, Storage* arena) {
  ProgramValue value;
  value.tensor.dtype = dtype_argument(object.Get("dtype"));
  Napi::Value shape = object.Get("shape");
  VLTUNE_CHECK(shape.IsArray(), "ERR_ARGUMENT", "values: shape must be a list");
  Napi::Array list = shape.As<Napi::Array>();
  const uint32_t rank = list.Length();  // read once: elements may be getters that change the list
  VLTUNE_CHECK(rank >= 1 && rank <= kMaxRank, "ERR_SHAPE", "values: rank must be 1 to %d", kMaxRank);
  value.tensor.rank = static_cast<uint8_t>(rank);
  for (uint32_t d = 0; d < rank; ++d) {
    Napi::Value dim = list.Get(d);
    if (!dim.IsString()) {
      value.tensor.shape[d] = static_cast<int64_t>(bytes_argument(dim, "values: shape"));
      continue;
    }
    const std::string name = dim.As<Napi::String>().Utf8Value();
    for (size_t k = 0; k < program.dim_names.size(); ++k)
      if (program.dim_names[k] == name) value.dims[d] = static_cast<int>(k);
    VLTUNE_CHECK(value.dims[d] >= 0, "ERR_ARGUMENT", "values: unknown dimension %s", name.c_str());
    value.tensor.shape[d] = program.dim_limits[value.dims[d]];
  }
  check_numel(value.tensor, "values");
  const size_t bytes = dtype_bytes(value.tensor.dtype, value.tensor.numel()), alignment = element_bytes(value.tensor.dtype);
  if (object.Has("ref")) {
    Napi::Object ref = object_of(object.Get("ref"), "values: ref");
    auto storage = storage_of(ref.Get("storage"));
    value.read_only = storage->read_only();
    value.tensor.device = storage->device();
    value.tensor.data = range_of(*storage, bytes_argument(ref.Get("offset"), "values: offset"), bytes, "values", alignment);
    program.storages.push_back(std::move(storage));
    if (value.tensor.dtype == DType::NF4) bind_nf4(value.tensor, ref.Get("nf4"), program.storages);
  } else {
    VLTUNE_CHECK(arena, "ERR_ARGUMENT", "values: the program has no arena");
    value.tensor.device = arena->device();
    value.tensor.data = range_of(*arena, bytes_argument(object.Get("arena"), "values: arena"), bytes, "values", alignment);
  }
  program.values.push_back(value);
}

Napi::Array array_of(const Napi::Value& value, const char* what) {
  VLTUNE_CHECK(value.IsArray(), "ERR_ARGUMENT", "%s: expected a list", what);
  return value.As<Napi::Array>();
}

}  // namespace

Napi::Value call(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const OpWork work(info);
    run_op(work.op.c_str(), work.in, work.out, work.attrs);
    return info.Env().Undefined();
  });
}

Napi::Value call_async(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    auto work = std::make_shared<OpWork>(info);
    return PromiseWorker::start(info.Env(), [work] { run_op(work->op.c_str(), work->in, work->out, work->attrs); });
  });
}

Napi::Value workspace(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const std::string op = string_argument(info[0], "op");
    const size_t bytes = op_workspace(op.c_str(), shapes_argument(info[1], "inputs"), shapes_argument(info[2], "outputs"),
                                      attrs_argument(info[3]),
                                      info[4].IsUndefined() ? Device::Cpu : device_argument(info[4]));
    return Napi::Number::New(info.Env(), static_cast<double>(bytes));
  });
}

Napi::Value compile(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    Napi::Object description = object_of(info[0], "program");
    Program program;
    read_dims(program, object_of(description.Get("dims"), "dims"));
    std::shared_ptr<Storage> arena;
    if (!description.Get("arena").IsUndefined()) {
      arena = storage_of(description.Get("arena"));
      program.storages.push_back(arena);
      program.workspace_bytes = bytes_argument(description.Get("workspaceBytes"), "workspaceBytes");
      program.workspace =
          range_of(*arena, bytes_argument(description.Get("workspaceOffset"), "workspaceOffset"), program.workspace_bytes, "workspace", 64);
    }
    Napi::Array values = array_of(description.Get("values"), "values");
    for (uint32_t i = 0; i < values.Length(); ++i) {
      Napi::HandleScope scope(info.Env());
      read_value(program, object_of(values.Get(i), "values"), arena.get());
    }
    Napi::Array ops = array_of(description.Get("ops"), "ops");
    for (uint32_t i = 0; i < ops.Length(); ++i) {
      Napi::HandleScope scope(info.Env());
      Napi::Object object = object_of(ops.Get(i), "ops");
      ProgramOp op;
      op.name = string_argument(object.Get("op"), "op");
      op.in = indices(object.Get("in"), program.values.size(), "in");
      op.out = indices(object.Get("out"), program.values.size(), "out");
      op.attrs = attrs_argument(object.Get("attrs"));
      program.ops.push_back(std::move(op));
    }
    return make_handle(info.Env(), std::make_shared<Executable>(std::move(program)));
  });
}

Napi::Value run(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    auto executable = executable_of(info[0]);
    Napi::Object dims = object_of(info[1], "dims");
    std::vector<int64_t> lengths;
    for (const std::string& name : executable->program().dim_names)
      lengths.push_back(static_cast<int64_t>(bytes_argument(dims.Get(name), name.c_str())));
    const auto repeats = info[2].IsUndefined() ? 1 : static_cast<int>(bytes_argument(info[2], "repeats"));
    VLTUNE_CHECK(executable->acquire(), "ERR_ARGUMENT", "this program is running already");
    try {
      return PromiseWorker::start(
          info.Env(), [executable, lengths, repeats] { executable->run(lengths, repeats); }, [executable] { executable->release(); });
    } catch (...) {
      executable->release();
      throw;
    }
  });
}

Napi::Value times(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    Napi::Array list = Napi::Array::New(info.Env());
    for (const Executable::Time& time : executable_of(info[0])->times()) {
      Napi::Object object = Napi::Object::New(info.Env());
      object.Set("op", Napi::String::New(info.Env(), time.op));
      object.Set("calls", Napi::Number::New(info.Env(), static_cast<double>(time.calls)));
      object.Set("nanoseconds", Napi::Number::New(info.Env(), static_cast<double>(time.nanoseconds)));
      list.Set(list.Length(), object);
    }
    return list;
  });
}

Napi::Value profile(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    executable_of(info[0])->profile(info[1].ToBoolean());
    return info.Env().Undefined();
  });
}

Napi::Value time_op(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    auto work = std::make_shared<OpWork>(info);
    VLTUNE_CHECK(info[4].IsObject(), "ERR_ARGUMENT", "options: expected an object");
    Napi::Object options = info[4].As<Napi::Object>();
    const auto repeats = static_cast<int>(bytes_argument(options.Get("repeats"), "repeats"));
    const bool flush_l2 = options.Get("flushL2").ToBoolean();
    auto times = std::make_shared<std::vector<double>>();
    return PromiseWorker::start(
        info.Env(), [=] { *times = vltune::time_op(work->op.c_str(), work->in, work->out, work->attrs, repeats, flush_l2); }, {},
        [=](napi_env env) -> napi_value {
          napi_value buffer = nullptr, array = nullptr;
          void* data = nullptr;
          if (napi_create_arraybuffer(env, times->size() * sizeof(double), &data, &buffer) != napi_ok) return nullptr;
          std::memcpy(data, times->data(), times->size() * sizeof(double));
          return napi_create_typedarray(env, napi_float64_array, times->size(), buffer, 0, &array) == napi_ok ? array : nullptr;
        });
  });
}

Napi::Value cancel(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    executable_of(info[0])->cancel();
    return info.Env().Undefined();
  });
}

}  // namespace vltune::binding
