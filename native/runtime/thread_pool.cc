#include "thread_pool.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "error.h"
#ifdef __linux__
#include <sched.h>
#endif

#include "pause.h"

namespace vltune {
namespace {

int cpus_of_process() {
#ifdef __linux__
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
  unsigned n = std::thread::hardware_concurrency();
  return n ? static_cast<int>(n) : 1;
}

int threads_by_default() {
  for (const char* name : {"VLTUNE_NUM_THREADS", "OMP_NUM_THREADS"}) {
    const char* text = std::getenv(name);
    if (text && std::atoi(text) > 0) return std::min(std::atoi(text), kMostThreads);
  }
  return cpus_of_process();
}

}  // namespace

// A job is published under `mutex`; workers first spin for a few microseconds, since ops of a small model follow each other
// within that time, and then sleep.
struct ThreadPool::Impl {
  static constexpr int kSpins = 4000;
  std::vector<std::thread> workers;
  std::mutex caller;  // one job at a time, whichever thread brings it
  std::mutex mutex;
  std::condition_variable wake;
  std::atomic<uint64_t> generation{0};
  std::atomic<int> running{0};
  std::atomic<bool> stop{false};
  void (*ranges)(void*, int64_t, int64_t) = nullptr;
  void (*all)(void*, int, int) = nullptr;
  void* context = nullptr;
  int64_t count = 0, grain = 1;
  std::atomic<int64_t> next{0};
  std::exception_ptr error;
  std::mutex error_mutex;
  int threads = 1;

  void work(int thread) {
    try {
      if (all) {
        all(context, thread, threads);
      } else {
        for (;;) {
          int64_t begin = next.fetch_add(grain, std::memory_order_relaxed);
          if (begin >= count) break;
          ranges(context, begin, begin + grain < count ? begin + grain : count);
        }
      }
    } catch (...) {
      std::lock_guard<std::mutex> lock(error_mutex);
      if (!error) error = std::current_exception();
      next.store(count, std::memory_order_relaxed);
    }
  }

  void loop(int thread) {
    uint64_t seen = 0;
    for (;;) {
      int spins = 0;
      while (generation.load(std::memory_order_acquire) == seen && !stop.load(std::memory_order_relaxed)) {
        if (++spins < kSpins) {
          pause_cpu();
        } else {
          std::unique_lock<std::mutex> lock(mutex);
          wake.wait(lock, [&] { return generation.load(std::memory_order_acquire) != seen || stop.load(); });
        }
      }
      if (stop.load()) return;
      seen = generation.load(std::memory_order_acquire);
      work(thread);
      running.fetch_sub(1, std::memory_order_acq_rel);
    }
  }

  void join() {
    {
      std::lock_guard<std::mutex> lock(mutex);
      stop.store(true);
    }
    wake.notify_all();
    for (auto& worker : workers) worker.join();
  }

  void launch() {
    next.store(0, std::memory_order_relaxed);
    error = nullptr;
    running.store(threads - 1, std::memory_order_relaxed);
    {
      std::lock_guard<std::mutex> lock(mutex);
      generation.fetch_add(1, std::memory_order_release);
    }
    wake.notify_all();
    work(0);
    int spins = 0;
    while (running.load(std::memory_order_acquire) > 0) {
      if (++spins < kSpins) pause_cpu();
      else std::this_thread::yield();
    }
    if (error) std::rethrow_exception(error);
  }
};

ThreadPool::ThreadPool(int threads) : impl_(new Impl) {
  Impl* impl = impl_;
  impl->threads = std::max(1, threads);
  try {
    for (int t = 1; t < impl->threads; ++t) impl->workers.emplace_back([impl, t] { impl->loop(t); });
  } catch (const std::system_error& error) {
    impl->join();
    delete impl;
    VLTUNE_FAIL("ERR_OUT_OF_MEMORY", "cannot start %d threads: %s", threads, error.what());
  }
}

ThreadPool::~ThreadPool() {
  impl_->join();
  delete impl_;
}

int ThreadPool::size() const { return impl_->threads; }

void ThreadPool::run_ranges(int64_t count, int64_t grain, void (*body)(void*, int64_t, int64_t), void* context) {
  std::lock_guard<std::mutex> one(impl_->caller);
  impl_->ranges = body;
  impl_->all = nullptr;
  impl_->context = context;
  impl_->count = count;
  impl_->grain = grain;
  impl_->launch();
}

void ThreadPool::run_all(void (*body)(void*, int, int), void* context) {
  std::lock_guard<std::mutex> one(impl_->caller);
  impl_->all = body;
  impl_->context = context;
  impl_->count = 0;
  impl_->launch();
}

namespace {
std::mutex pool_mutex;
// Never destroyed: a process that exits in the middle of a step must not join threads that still work.
std::shared_ptr<ThreadPool>& pool_slot() {
  static auto* pool = new std::shared_ptr<ThreadPool>;
  return *pool;
}
}  // namespace

std::shared_ptr<ThreadPool> default_pool() {
  std::lock_guard<std::mutex> lock(pool_mutex);
  auto& pool = pool_slot();
  if (!pool) pool = std::make_shared<ThreadPool>(threads_by_default());
  return pool;
}

void set_default_pool_threads(int threads) {
  auto pool = std::make_shared<ThreadPool>(threads);
  std::lock_guard<std::mutex> lock(pool_mutex);
  pool_slot().swap(pool);
}

}  // namespace vltune
