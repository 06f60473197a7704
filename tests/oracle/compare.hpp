// Compares the outcomes of both sides, masking what the architecture leaves undefined, and prints a
// case so that it can be reproduced.
#pragma once

#include "oracle/case.hpp"

namespace skerry::oracle {

/// Empty if equal; else one line per difference. Changes the outcomes where processors may differ.
std::string differences(const Case& c, Outcome& host, Outcome& guest);
/// Bytes, disassembly, and the inputs that the instruction names.
std::string describe(const Case& c);

}  // namespace skerry::oracle
