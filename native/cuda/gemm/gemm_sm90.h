// How a dense product is cut for Hopper, decided from sizes alone; and the product itself with a given cut.
#pragma once
#include "gemm.h"

namespace vltune::cuda {

struct Sm90Plan {
  int tile_n = 256;        // columns of a block's tile (128 rows): 256 or 128
  int pair = 2;            // blocks of a cluster that share B by multicast: neighbours along M
  int splits = 1;          // blocks of a cluster that share a tile along K, each a fixed range, summed in rank order
  int group = 8;           // clusters along M whose tiles follow each other, so that what they read stays in L2
  int turn = 1;            // k-steps of one consumer before the other's turn
  bool stream_b = false;   // B is read once, A many times: L2 is told so
};

Sm90Plan sm90_plan(int64_t m, int64_t n, int64_t k, int multiprocessors);
// False if TMA cannot address an operand.
bool gemm_sm90_with(const OpCall& call, const Gemm& product, const Sm90Plan& plan);

}  // namespace vltune::cuda
