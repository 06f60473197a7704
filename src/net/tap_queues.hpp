// How many queues of a tap device are open, by whomever.
#pragma once

#include <optional>
#include <string>

#include "base/types.hpp"

namespace skerry::net {

/// Those in use and those detached; nullopt if the kernel does not say (one without several
/// queues).
std::optional<u32> tap_queues(const std::string& device);

}  // namespace skerry::net
