#include "../ops/sample.h"

#include <algorithm>
#include <cmath>

#include "../ops/sample_checks.h"
#include "dispatch.h"
#include "simd.h"

namespace vltune::cpu::VLTUNE_ISA {
namespace {

struct Candidate {
  float logit;
  int32_t id;
};

inline bool before(const Candidate& a, const Candidate& b) { return a.logit > b.logit || (a.logit == b.logit && a.id < b.id); }

int32_t choose(Candidate* all, int64_t vocab, const float* sampling, float uniform) {
  const float temperature = sampling[0], top_p = sampling[2];
  if (temperature == 0) {
    const Candidate* best = all;
    for (int64_t i = 1; i < vocab; ++i)
      if (all[i].logit > best->logit) best = all + i;
    return best->id;
  }
  const float top_k = sampling[1];
  int64_t kept = top_k >= 1 && top_k <= kMostCandidates ? static_cast<int64_t>(top_k) : kMostCandidates;
  if (kept > vocab) kept = vocab;
  const int64_t sorted = std::min<int64_t>(vocab, kMostCandidates);
  std::partial_sort(all, all + sorted, all + vocab, before);
  while (kept < sorted && all[kept].logit == all[kept - 1].logit) ++kept;

  double weights[kMostCandidates], total = 0;
  for (int64_t i = 0; i < kept; ++i) {
    weights[i] = std::exp((static_cast<double>(all[i].logit) - static_cast<double>(all[0].logit)) / static_cast<double>(temperature));
    total += weights[i];
  }
  double mass = 0;
  int64_t nucleus = 0;
  while (nucleus < kept && (nucleus == 0 || mass < static_cast<double>(top_p) * total)) mass += weights[nucleus++];
  double target = static_cast<double>(uniform) * mass;
  for (int64_t i = 0; i < nucleus; ++i) {
    target -= weights[i];
    if (target < 0) return all[i].id;
  }
  return all[nucleus - 1].id;
}

}  // namespace

size_t sample_workspace(const OpCall& call) { return static_cast<size_t>(input(call, 0).numel()) * sizeof(Candidate); }

void sample(const OpCall& call) {
  const Tensor &logits = input(call, 0), &sampling = input(call, 1), &uniform = input(call, 2);
  check_sample(call);
  const int64_t vocab = logits.dim(1), steps = uniform.dim(0);
  auto* seen = output(call, 0).as<uint8_t>();
  auto* count = output(call, 5).as<int32_t>();
  const int32_t t = *count;
  if (t < 0 || t >= steps) return;

  const auto* settings = sampling.as<float>();
  const float penalty = settings[3];
  auto* all = static_cast<Candidate*>(call.workspace);
  with_activation(logits.dtype, [&](auto tag) {
    const auto* x = logits.as<decltype(tag)>();
    for (int64_t i = 0; i < vocab; ++i) {
      float value = to_float(x[i]);
      if (seen[i] && penalty != 1) value = value < 0 ? value * penalty : value / penalty;
      all[i] = {value == value ? value : -INFINITY, static_cast<int32_t>(i)};  // NaN has no place in an order
    }
  });
  const int32_t token = choose(all, vocab, settings, uniform.as<float>()[t]);
  seen[token] = 1;
  output(call, 1).as<int32_t>()[0] = token;
  for (int axis = 0; axis < 3; ++axis) output(call, 2).as<int32_t>()[axis] += 1;
  output(call, 3).as<int32_t>()[0] += 1;
  output(call, 4).as<int32_t>()[t] = token;
  *count = t + 1;
}

}  // namespace vltune::cpu::VLTUNE_ISA
