// From `--engine` to an engine.
#pragma once

#include "machine/engine.hpp"
#include "schema/machine_spec.hpp"

namespace skerry::vmm {

struct ChosenEngine {
  std::unique_ptr<machine::Engine> engine;
  std::string why;  ///< for `auto`: what decided it, else empty
};
Result<ChosenEngine> choose_engine(schema::EngineChoice choice);

}  // namespace skerry::vmm
