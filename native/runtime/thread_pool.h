// A pool of worker threads shared by the whole process. The calling thread works too, so size() == 1 means no workers.
#pragma once
#include <cstdint>
#include <memory>
#include <type_traits>

namespace vltune {

class ThreadPool {
 public:
  // ERR_OUT_OF_MEMORY: the system does not give that many threads.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const;

  // Calls body(begin, end) on disjoint ranges that cover [0, count), each `grain` long but the last. The ranges do not
  // depend on the number of threads, so a sum kept per range gives the same bits on any machine. Ranges are handed out
  // dynamically. An exception in body is rethrown here. Not reentrant: body must not use the pool.
  template <class Body>
  void parallel_for(int64_t count, int64_t grain, Body&& body) {
    if (count <= 0) return;
    if (grain < 1) grain = 1;
    if (size() == 1 || count <= grain) {
      for (int64_t begin = 0; begin < count; begin += grain) body(begin, begin + grain < count ? begin + grain : count);
      return;
    }
    using Plain = std::remove_reference_t<Body>;
    run_ranges(count, grain, [](void* context, int64_t begin, int64_t end) { (*static_cast<Plain*>(context))(begin, end); },
               const_cast<void*>(static_cast<const void*>(&body)));
  }

  // Calls body(thread, threads) once on each of the size() threads at the same time.
  template <class Body>
  void parallel(Body&& body) {
    if (size() == 1) {
      body(0, 1);
      return;
    }
    using Plain = std::remove_reference_t<Body>;
    run_all([](void* context, int thread, int threads) { (*static_cast<Plain*>(context))(thread, threads); },
            const_cast<void*>(static_cast<const void*>(&body)));
  }

 private:
  void run_ranges(int64_t count, int64_t grain, void (*body)(void*, int64_t, int64_t), void* context);
  void run_all(void (*body)(void*, int, int), void* context);
  struct Impl;
  Impl* impl_;
};

constexpr int kMostThreads = 1024;

// The process's pool. Threads: VLTUNE_NUM_THREADS, else OMP_NUM_THREADS (at most kMostThreads), else the CPUs this process may
// run on. Setting another number makes a new pool: work under way keeps its own, which lives as long as someone holds it.
std::shared_ptr<ThreadPool> default_pool();
void set_default_pool_threads(int threads);

}  // namespace vltune
