// The next token of one sequence, and the step to it, so that a run of tokens needs no word from the host.
//   sample   in: logits D[1,V], sampling F32[4] = {temperature, top_k, top_p, repetition_penalty}, uniform F32[S]
//            out: seen U8[V], ids I32[1], positions I32[3,1], past I32[1], tokens I32[S], count I32[1]      (all read and written)
//            t = count; the token is chosen with uniform[t]; then tokens[t] = ids = token, seen[token] = 1, positions += 1, past += 1,
//            count = t + 1. Nothing happens where t = S.
// The choice, in the order of transformers' logits processors: a seen token's logit x becomes x * penalty below zero, else x / penalty;
// temperature 0 takes the highest (of several the first); else the top_k highest stay (none of 1..kMostCandidates: that many; ties of
// the last stay, as long as there is room), sorted by falling logit, then by id; of these the first that reach top_p of their mass together;
// one of them by its weight exp((x - highest) / temperature), in F64. NaN counts as -infinity.
#pragma once
#include "declare.h"

namespace vltune {
constexpr int kMostCandidates = 1024;
}

VLTUNE_OP(sample)
VLTUNE_OP_WORKSPACE(sample)
