// The software engine: interprets guest code, on any host, with the host's own CPU for vector
// instructions. One thread per vCPU; LAPICs are given to it (owns_lapic() is false).
#pragma once

#include "machine/engine.hpp"

namespace skerry::soft {

Result<std::unique_ptr<machine::Engine>> create_engine();

}  // namespace skerry::soft
