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
    const std::string op = string_argument(info[0], "op");
    const auto in = tensors_argument(info[1], "inputs"), out = tensors_argument(info[2], "outputs");
    run_op(op.c_str(), plain(in, false), plain(out, true), attrs_argument(info[3]));
    return info.Env().Undefined();
  });
}

Napi::Value call_async(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    struct Work {
      std::string op;
      std::vector<BoundTensor> in, out;  // keep the storages alive
      std::vector<Tensor> plain_in, plain_out;
      Attrs attrs;
    };
    auto work = std::make_shared<Work>();
    work->op = string_argument(info[0], "op");
    work->in = tensors_argument(info[1], "inputs");
    work->out = tensors_argument(info[2], "outputs");
    work->plain_in = plain(work->in, false);
    work->plain_out = plain(work->out, true);
    work->attrs = attrs_argument(info[3]);
    return PromiseWorker::start(info.Env(), [work] { run_op(work->op.c_str(), work->plain_in, work->plain_out, work->attrs); });
  });
}

Napi::Value workspace(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const std::string op = string_argument(info[0], "op");
    const size_t bytes = op_workspace(op.c_str(), shapes_argument(info[1], "inputs"), shapes_argument(info[2], "outputs"),
                                      attrs_argument(info[3]));
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
    VLTUNE_CHECK(executable->acquire(), "ERR_ARGUMENT", "this program is running already");
    try {
      return PromiseWorker::start(
          info.Env(), [executable, lengths] { executable->run(lengths); }, [executable] { executable->release(); });
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

Napi::Value cancel(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    executable_of(info[0])->cancel();
    return info.Env().Undefined();
  });
}

}  // namespace vltune::binding
