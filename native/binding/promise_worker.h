// Work on a thread of Node's pool that settles a promise: the one way in which the addon leaves the main thread.
#pragma once
#include <functional>
#include <memory>

#include "convert.h"

namespace vltune::binding {

class PromiseWorker {
 public:
  // `work` runs off the main thread and may throw; `done` runs on the main thread in either case, before the promise settles.
  // `result`, if given, makes what the promise resolves to; otherwise that is undefined.
  // Written on Node-API's C functions: their wrapper throws where the environment is being torn down (a terminated worker
  // thread), with nobody left to catch it. Here a promise that nobody can hear of is simply not settled.
  static Napi::Promise start(Napi::Env env, std::function<void()> work, std::function<void()> done = {},
                             std::function<napi_value(napi_env)> result = {}) {
    auto worker = std::unique_ptr<PromiseWorker>(new PromiseWorker(std::move(work), std::move(done), std::move(result)));
    napi_value promise, name;
    check(env, napi_create_promise(env, &worker->deferred_, &promise));
    check(env, napi_create_string_utf8(env, "vltune", NAPI_AUTO_LENGTH, &name));
    check(env, napi_create_async_work(env, nullptr, name, execute, complete, worker.get(), &worker->handle_));
    check(env, napi_queue_async_work(env, worker->handle_));
    worker.release();  // `complete` deletes it
    return Napi::Promise(env, promise);
  }

 private:
  PromiseWorker(std::function<void()> work, std::function<void()> done, std::function<napi_value(napi_env)> result)
      : work_(std::move(work)), done_(std::move(done)), result_(std::move(result)) {}

  static void check(Napi::Env env, napi_status status) {
    if (status != napi_ok) throw Napi::Error::New(env);
  }

  static void execute(napi_env, void* data) {
    auto* self = static_cast<PromiseWorker*>(data);
    try {
      self->work_();
    } catch (const Error& error) {
      self->fail(error.code, error.what());
    } catch (const std::bad_alloc&) {
      self->fail("ERR_OUT_OF_MEMORY", "out of memory");
    } catch (const std::exception& error) {
      self->fail("ERR_INTERNAL", error.what());
    }
  }

  static void complete(napi_env env, napi_status, void* data) {
    std::unique_ptr<PromiseWorker> self(static_cast<PromiseWorker*>(data));
    if (self->done_) self->done_();
    napi_handle_scope scope;
    if (napi_open_handle_scope(env, &scope) != napi_ok) return;
    self->settle(env);
    napi_close_handle_scope(env, scope);
    napi_delete_async_work(env, self->handle_);
  }

  void settle(napi_env env) {
    napi_value value;
    if (code_ == nullptr) {
      if (result_) value = result_(env);
      else if (napi_get_undefined(env, &value) != napi_ok) return;
      if (value) napi_resolve_deferred(env, deferred_, value);
      return;
    }
    napi_value code, message;
    if (napi_create_string_utf8(env, code_, NAPI_AUTO_LENGTH, &code) == napi_ok &&
        napi_create_string_utf8(env, message_.c_str(), message_.size(), &message) == napi_ok &&
        napi_create_error(env, code, message, &value) == napi_ok) {
      napi_reject_deferred(env, deferred_, value);
    }
  }

  void fail(const char* code, const char* message) {
    code_ = code;
    message_ = message;
  }

  napi_deferred deferred_ = nullptr;
  napi_async_work handle_ = nullptr;
  std::function<void()> work_, done_;
  std::function<napi_value(napi_env)> result_;
  const char* code_ = nullptr;  // nullptr: it went well
  std::string message_;
};

}  // namespace vltune::binding
