#include "../ops/image_patches.h"

#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>

#include "convert.h"
#include "exports.h"
#include "promise_worker.h"

namespace vltune::binding {
namespace {

constexpr size_t kLongestSide = 1 << 20;
constexpr size_t kLargestPatch = 4096;
constexpr size_t kLongestArray = size_t{1} << 32;

// Tables are copied (they are small), frames and patches are not: a reference keeps each alive.
struct ImageWork {
  std::vector<Napi::ObjectReference> keep;
  std::vector<int32_t> numbers[2][2];  // of columns and rows: starts, weights
  Resampling columns, rows;
  std::vector<float> table;
  ImagePatches patches;
};

size_t side(const Napi::Value& value, const char* what, size_t most = kLongestSide) {
  const size_t size = bytes_argument(value, what);
  VLTUNE_CHECK(size >= 1 && size <= most, "ERR_ARGUMENT", "%s: expected 1 to %zu, got %zu", what, most, size);
  return size;
}

template <class T>
std::vector<T> numbers(const Napi::Value& value, napi_typedarray_type type, const char* what) {
  VLTUNE_CHECK(value.IsTypedArray() && value.As<Napi::TypedArray>().TypedArrayType() == type, "ERR_ARGUMENT",
               "%s: expected another kind of typed array", what);
  const auto [data, bytes] = view_argument(value, what);
  std::vector<T> copy(bytes / sizeof(T));
  if (!copy.empty()) std::memcpy(copy.data(), data, bytes);
  return copy;
}

// Checked so far that no input makes the kernel read outside a frame or overflow a sum.
const Resampling* resampling(const Napi::Value& value, int64_t inputs, std::vector<int32_t> (&tables)[2], Resampling& to, const char* what) {
  if (value.IsNull() || value.IsUndefined()) return nullptr;
  VLTUNE_CHECK(value.IsObject(), "ERR_ARGUMENT", "%s: expected an object or null", what);
  const auto object = value.As<Napi::Object>();
  auto &starts = tables[0], &weights = tables[1];
  starts = numbers<int32_t>(object.Get("starts"), napi_int32_array, what);
  weights = numbers<int32_t>(object.Get("weights"), napi_int32_array, what);
  to.shift = static_cast<int>(side(object.Get("shift"), what, 30));
  to.outputs = static_cast<int64_t>(starts.size());
  VLTUNE_CHECK(to.outputs >= 1 && starts.size() <= kLongestSide && weights.size() % starts.size() == 0, "ERR_ARGUMENT",
               "%s: %zu weights for %zu outputs", what, weights.size(), starts.size());
  to.taps = static_cast<int64_t>(weights.size() / starts.size());
  for (int64_t i = 0; i < to.outputs; ++i) {
    VLTUNE_CHECK(starts[i] >= 0 && starts[i] + to.taps <= inputs, "ERR_ARGUMENT", "%s: output %lld reads outside the picture", what,
                 static_cast<long long>(i));
    VLTUNE_CHECK(i == 0 || starts[i] >= starts[i - 1], "ERR_ARGUMENT", "%s: the starts fall at output %lld", what,
                 static_cast<long long>(i));
    int64_t sum = int64_t{1} << to.shift;
    for (int64_t k = 0; k < to.taps; ++k) sum += 255 * std::abs(static_cast<int64_t>(weights[i * to.taps + k]));
    VLTUNE_CHECK(sum <= std::numeric_limits<int32_t>::max(), "ERR_ARGUMENT", "%s: the weights of output %lld are too large", what,
                 static_cast<long long>(i));
  }
  to.starts = starts.data();
  to.weights = weights.data();
  return &to;
}

void read_frames(const Napi::Value& value, ImageWork& work) {
  VLTUNE_CHECK(value.IsArray() && value.As<Napi::Array>().Length() >= 1, "ERR_ARGUMENT", "frames: expected a list of at least one");
  const auto list = value.As<Napi::Array>();
  const auto expected = static_cast<size_t>(work.patches.width * work.patches.height * kColors);
  for (uint32_t i = 0; i < list.Length(); ++i) {
    const Napi::Value frame = list.Get(i);
    const auto [data, bytes] = view_argument(frame, "frames");
    VLTUNE_CHECK(bytes == expected, "ERR_SHAPE", "frames: frame %u has %zu bytes, expected %zu", i, bytes, expected);
    work.keep.push_back(Napi::Persistent(frame.As<Napi::Object>()));
    work.patches.frames.push_back(reinterpret_cast<const uint8_t*>(data));
  }
}

void read_out(const Napi::Value& value, ImageWork& work) {
  VLTUNE_CHECK(value.IsTypedArray() && value.As<Napi::TypedArray>().TypedArrayType() == napi_float32_array, "ERR_ARGUMENT",
               "out: expected a Float32Array");
  const auto [data, bytes] = view_argument(value, "out");
  const auto expected = static_cast<size_t>(work.patches.out_numel());
  VLTUNE_CHECK(bytes / sizeof(float) == expected, "ERR_SHAPE", "out: %zu numbers, expected %zu", bytes / sizeof(float), expected);
  work.keep.push_back(Napi::Persistent(value.As<Napi::Object>()));
  work.patches.out = reinterpret_cast<float*>(data);
}

std::shared_ptr<ImageWork> read_work(const Napi::CallbackInfo& info) {
  auto work = std::make_shared<ImageWork>();
  ImagePatches& patches = work->patches;
  VLTUNE_CHECK(info[1].IsObject(), "ERR_ARGUMENT", "layout: expected an object");
  const auto layout = info[1].As<Napi::Object>();
  patches.width = static_cast<int64_t>(side(layout.Get("width"), "width"));
  patches.height = static_cast<int64_t>(side(layout.Get("height"), "height"));
  patches.patch = static_cast<int64_t>(side(layout.Get("patchSize"), "patchSize", kLargestPatch));
  patches.merge = static_cast<int64_t>(side(layout.Get("mergeSize"), "mergeSize", kLargestPatch));
  patches.temporal = static_cast<int64_t>(side(layout.Get("temporalPatchSize"), "temporalPatchSize", kLargestPatch));
  patches.columns = resampling(layout.Get("columns"), patches.width, work->numbers[0], work->columns, "columns");
  patches.rows = resampling(layout.Get("rows"), patches.height, work->numbers[1], work->rows, "rows");
  patches.rows_first = layout.Get("rowsFirst").ToBoolean();
  const int64_t group = patches.patch * patches.merge;
  VLTUNE_CHECK(patches.out_width() % group == 0 && patches.out_height() % group == 0, "ERR_SHAPE",
               "a resized picture of %lldx%lld is not made of groups of %lld", static_cast<long long>(patches.out_width()),
               static_cast<long long>(patches.out_height()), static_cast<long long>(group));
  work->table = numbers<float>(layout.Get("table"), napi_float32_array, "table");
  VLTUNE_CHECK(work->table.size() == kColors * 256, "ERR_SHAPE", "table: expected %d numbers, got %zu", kColors * 256, work->table.size());
  patches.table = work->table.data();
  read_frames(info[0], *work);
  read_out(info[2], *work);
  return work;
}

}  // namespace

Napi::Value large_array(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const napi_env env = info.Env();
    const size_t length = bytes_argument(info[0], "length");
    VLTUNE_CHECK(length >= 1 && length <= kLongestArray, "ERR_ARGUMENT", "length: expected 1 to %zu, got %zu", kLongestArray, length);
    auto owner = std::make_unique<std::shared_ptr<Storage>>(Storage::allocate(length * sizeof(float), Device::Cpu));
    const auto free_memory = [](napi_env, void*, void* owned) { delete static_cast<std::shared_ptr<Storage>*>(owned); };
    napi_value buffer = nullptr;
    if (napi_create_external_arraybuffer(env, (*owner)->data(), length * sizeof(float), free_memory, owner.get(), &buffer) != napi_ok)
      return Napi::Float32Array::New(env, length);  // an engine that takes no memory from outside
    owner.release();
    return Napi::Float32Array::New(env, length, Napi::ArrayBuffer(env, buffer), 0);
  });
}

Napi::Value image_patches(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    auto work = read_work(info);
    return PromiseWorker::start(info.Env(), [work] { cpu::image_patches(work->patches); });
  });
}

}  // namespace vltune::binding
