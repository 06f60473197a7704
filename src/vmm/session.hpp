// Session: one VM process from its Spec to its exit status.
#pragma once

#include "schema/machine_spec.hpp"

namespace skerry::vmm {

/// Builds the machine, runs it in the foreground until it ends, and returns the process's exit
/// status (schema/exit_status.hpp). Says on stderr what went wrong.
int run_session(const schema::MachineSpec& spec);

}  // namespace skerry::vmm
