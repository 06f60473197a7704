// Turns this process into skerry-vmm: the command line never links the VMM, and an exec leaves
// terminal, signals and exit status to it without anything in between.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/fd.hpp"
#include "schema/machine_spec.hpp"

namespace skerry::cli {

/// A memfd that holds the Spec as JSON, at its start, inherited over exec.
Result<Fd> spec_fd(const schema::MachineSpec& spec);

/// Our executable; `hint` is what to do if the host does not tell.
Result<std::filesystem::path> self_path(std::string hint);

/// $SKERRY_VMM, or skerry-vmm beside our executable, or in ../lib/skerry from there.
Result<std::string> find_vmm();
/// skerry-switch, in the same places or $SKERRY_SWITCH.
Result<std::string> find_switch();

/// A file of ours that is no program of its own: in ../share/skerry from our executable.
Result<std::string> find_shared(std::string_view name);

/// Execs `program`; returns only with the error.
Error exec_program(const std::string& program, const std::vector<std::string>& args);

}  // namespace skerry::cli
