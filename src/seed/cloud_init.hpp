// The seed disk: an ISO 9660 image labelled CIDATA from which cloud-init's NoCloud data source
// reads how the guest is to be set up (https://cloudinit.readthedocs.io, "NoCloud").
//
// The user's own files go onto it as they are; --ssh-key and --user become its vendor-data, over
// which user-data takes precedence, and --hostname its meta-data. The instance-id follows from the
// content: cloud-init sets the guest up again when, and only when, something here has changed.
#pragma once

#include "schema/machine_spec.hpp"
#include "seed/iso9660.hpp"

namespace skerry::seed {

/// Reads the files that the Spec names, which is valid and wants a seed.
Result<std::vector<File>> cloud_init_files(const schema::MachineSpec& spec);

/// The whole disk.
Result<std::vector<u8>> cloud_init_disk(const schema::MachineSpec& spec);

}  // namespace skerry::seed
