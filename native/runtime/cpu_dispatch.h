// Finds an op by name among the tables of the instruction sets that were compiled in; the best one this CPU runs.
#pragma once
#include "../runtime/op.h"

namespace vltune::cpu {

const OpEntry* find_op(const char* name);  // nullptr: no such op
const OpEntry* all_ops();                  // ends with name == nullptr
const char* isa_name();                    // "avx512", "avx2" or "portable"

}  // namespace vltune::cpu
