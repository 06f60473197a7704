// SeedSpec: what a guest's cloud-init is told at its first start, on a disk made for that (seed/).
#pragma once

#include <string>
#include <vector>

#include "schema/field.hpp"

namespace skerry::schema {

/// Files of the user's own, in the formats of cloud-init's NoCloud data source. Empty: none.
struct CloudInitSpec {
  std::string user_data, meta_data, network_config;

  static void describe(auto& s, auto& v) {
    v.field({.name = "user_data", .doc = "cloud-config or script", .value = "FILE"}, s.user_data);
    v.field({.name = "meta_data", .doc = "instance-id and more", .value = "FILE"}, s.meta_data);
    v.field({.name = "network_config", .doc = "network configuration", .value = "FILE"},
            s.network_config);
  }
  bool empty() const { return *this == CloudInitSpec{}; }
  bool operator==(const CloudInitSpec&) const = default;
};

struct MachineSpec;

/// Whether the machine gets a seed disk at all.
bool wants_seed(const MachineSpec& spec);
/// Part of validate(): what does not go together, and names that no guest would take.
Result<> validate_seed(const MachineSpec& spec);

}  // namespace skerry::schema
