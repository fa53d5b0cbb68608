#include "nccl.h"

#include <climits>
#include <cstdlib>

#include "device.h"

namespace vltune::cuda {
namespace {

// The part of NCCL's interface (stable since 2.14) that a sum over processes needs.
using Result = int;  // ncclResult_t
using Comm = void*;  // ncclComm_t
constexpr Result kSuccess = 0, kInProgress = 7;
constexpr int kFloat32 = 7, kSum = 0;  // ncclDataType_t, ncclRedOp_t

// ncclConfig_t as of 2.17; what later versions added has its default, as has what is undefined. Adding up gradients is some thousandths of an
// update: a third of the blocks that NCCL would take does it as well, in a third of a gigabyte less of each card's memory.
constexpr int kUndefined = INT_MIN;
struct Config {
  size_t size = sizeof(Config);
  unsigned magic = 0xcafebeef, version = 21700;
  int blocking = 0, cluster_size = kUndefined, min_blocks = kUndefined, max_blocks = 8;
};

struct Library {
  LibraryInfo info;
  Result (*version)(int*);
  Result (*unique_id)(NcclId*);
  Result (*init)(Comm*, int size, NcclId, int rank, Config*);
  Result (*all_reduce)(const void* from, void* to, size_t count, int type, int op, Comm, cudaStream_t);
  Result (*async_error)(Comm, Result*);
  Result (*abort)(Comm);
  const char* (*last_error)(Comm);
  const char* (*error_string)(Result);
};

bool take_all(void* file, Library* l) {
  return take(file, "ncclGetVersion", &l->version) && take(file, "ncclGetUniqueId", &l->unique_id) &&
         take(file, "ncclCommInitRankConfig", &l->init) && take(file, "ncclAllReduce", &l->all_reduce) &&
         take(file, "ncclCommGetAsyncError", &l->async_error) && take(file, "ncclCommAbort", &l->abort) &&
         take(file, "ncclGetLastError", &l->last_error) && take(file, "ncclGetErrorString", &l->error_string);
}

Library open_library() {
  Library l;
#ifdef _WIN32
  l.info = {false, "", 0, "NCCL is for Linux alone"};
#else
  const char* named = std::getenv("VLTUNE_NCCL");
  const std::string name = named && *named ? named : "libnccl.so.2";
  void* file = open_file(name);
  if (!file) {
    l.info = {false, "", 0, why_not()};
  } else if (!take_all(file, &l)) {
    l.info = {false, "", 0, name + " lacks a function of NCCL 2.14"};
  } else {
    int version = 0;
    l.version(&version);
    l.info = {true, path_of(reinterpret_cast<void*>(l.version), name), version, ""};
  }
#endif
  return l;
}

const Library& library() {
  static const Library opened = open_library();
  return opened;
}

const Library& needed() {
  const Library& l = library();
  VLTUNE_CHECK(l.info.found, "ERR_NO_DEVICE", "NCCL was not found: %s (VLTUNE_NCCL names its file)",
               l.info.reason.c_str());
  return l;
}

void check(Result result, const char* what, Comm comm) {
  if (result == kSuccess || result == kInProgress) return;
  const Library& l = library();
  const char* more = l.last_error(comm);
  VLTUNE_FAIL("ERR_DEVICE", "%s: %s%s%s", what, l.error_string(result), more && *more ? ": " : "", more ? more : "");
}

}  // namespace

const LibraryInfo& nccl_info() { return library().info; }

NcclId nccl_unique_id() {
  NcclId id;
  check(needed().unique_id(&id), "ncclGetUniqueId", nullptr);
  return id;
}

NcclComm::NcclComm(const NcclId& id, int rank, int size) {
  Config config;
  check(needed().init(&comm_, size, id, rank, &config), "ncclCommInitRankConfig", comm_);
}

// Every sum is done, or will not be: nothing is waited for.
NcclComm::~NcclComm() { abort(); }

void NcclComm::all_reduce(float* data, size_t count, cudaStream_t stream) {
  check(library().all_reduce(data, data, count, kFloat32, kSum, comm_, stream), "ncclAllReduce", comm_);
}

bool NcclComm::settled() const {
  Result state = kSuccess;
  check(library().async_error(comm_, &state), "ncclCommGetAsyncError", comm_);
  check(state, "NCCL", comm_);
  return state == kSuccess;
}

void NcclComm::abort() {
  if (!comm_) return;
  library().abort(comm_);
  comm_ = nullptr;
}

}  // namespace vltune::cuda
