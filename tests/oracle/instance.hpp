// Random legal encodings of a row. See generate.hpp.
#pragma once

#include "oracle/generate.hpp"

namespace skerry::oracle {

/// Fills in c.code and c.insn. False: the random bytes were not an instruction of this row.
bool encode_instance(u16 row, Random& random, Case& c);

/// Changes the displacement of the memory operand (disp32 only) or of a relative branch in place.
void patch_displacement(Case& c, u32 at, unsigned size, i64 value);

}  // namespace skerry::oracle
