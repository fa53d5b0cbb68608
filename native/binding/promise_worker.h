// Work on a thread of Node's pool that settles a promise: the one way in which the addon leaves the main thread.
#pragma once
#include <functional>

#include "convert.h"

namespace vltune::binding {

class PromiseWorker : public Napi::AsyncWorker {
 public:
  // `work` runs off the main thread and may throw; `done` runs on the main thread in either case, before the promise settles.
  static Napi::Promise start(Napi::Env env, std::function<void()> work, std::function<void()> done = {}) {
    auto* worker = new PromiseWorker(env, std::move(work), std::move(done));
    Napi::Promise promise = worker->deferred_.Promise();
    worker->Queue();
    return promise;
  }

 private:
  PromiseWorker(Napi::Env env, std::function<void()> work, std::function<void()> done)
      : Napi::AsyncWorker(env, "vltune"), deferred_(Napi::Promise::Deferred::New(env)), work_(std::move(work)), done_(std::move(done)) {}

  void Execute() override {
    try {
      work_();
    } catch (const Error& error) {
      code_ = error.code;
      SetError(error.what());
    } catch (const std::bad_alloc&) {
      code_ = "ERR_OUT_OF_MEMORY";
      SetError("out of memory");
    } catch (const std::exception& error) {
      code_ = "ERR_INTERNAL";
      SetError(error.what());
    }
  }
  void OnOK() override {
    finish();
    deferred_.Resolve(Env().Undefined());
  }
  void OnError(const Napi::Error& error) override {
    finish();
    deferred_.Reject(to_js(Env(), code_, error.Message()).Value());
  }
  void finish() {
    if (done_) done_();
    work_ = nullptr;
    done_ = nullptr;
  }

  Napi::Promise::Deferred deferred_;
  std::function<void()> work_, done_;
  const char* code_ = "ERR_INTERNAL";
};

}  // namespace vltune::binding
