// Which software engine the tests in this process run on: $SKERRY_TEST_ENGINE, "soft" (the default)
// or "soft,interpreter". ctest registers many of them twice.
#pragma once

#include <cstdlib>
#include <string_view>

#include "schema/machine_spec.hpp"

namespace skerry {

inline schema::EngineChoice test_engine() {
  const char* name = std::getenv("SKERRY_TEST_ENGINE");
  return name && std::string_view(name) == "soft,interpreter"
             ? schema::EngineChoice::soft_interpreter
             : schema::EngineChoice::soft;
}

}  // namespace skerry
