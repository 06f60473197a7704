// Host ports that lead to the guest: free ones are chosen, and the user is told how to get in.
#pragma once

#include <string>

#include "base/result.hpp"
#include "schema/machine_spec.hpp"

namespace skerry::vmm {

/// Puts a free port of the host into each forward that has port 0. Another program may take it
/// before the machine listens there; the start then ends with a message that names it. True if
/// there was any.
Result<bool> choose_ports(schema::MachineSpec& spec);

/// "log in with: ssh -p 2222 ann@127.0.0.1"; empty if the machine is not set up for that.
std::string ssh_advice(const schema::MachineSpec& spec);

}  // namespace skerry::vmm
