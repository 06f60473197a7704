// BootMenu: what a boot loader on the disk would start by default: GRUB's grub.cfg (GRUB manual,
// 6.3 and 16) or Boot Loader Specification entries (uapi-group.org/specifications/specs/
// boot_loader_specification, type #1).
//
// The menu is read, not run: conditions of GRUB's scripts are not evaluated, every branch counts,
// and of commands only those are known that make a menu. What one-time choices (next_entry) say is
// left aside, since nobody could take them back. All texts are a guest's: sizes, depths and what
// variables expand to are bounded; a menu beyond the bounds is none.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/types.hpp"

namespace skerry::bootdisk {

struct BootEntry {
  std::string title, id;
  std::string kernel;                ///< a path on the filesystem where the menu is
  std::vector<std::string> initrds;  ///< one behind the other in memory
  std::string options;               ///< the kernel's command line
  std::string version;               ///< of BLS entries, to sort by
  std::vector<BootEntry> children;   ///< of a submenu
  bool operator==(const BootEntry&) const = default;
};

constexpr size_t kMostMenuBytes = 1 * MiB;    ///< of a grub.cfg
constexpr size_t kMostEntryBytes = 16 * KiB;  ///< of a BLS entry, loader.conf or grubenv
constexpr size_t kMostEntries = 1024;
constexpr size_t kMostOptions = 2047;  ///< COMMAND_LINE_SIZE - 1 of Linux (arch/x86)

using Variables = std::map<std::string, std::string, std::less<>>;

/// The variables of a grubenv file.
Variables parse_grubenv(std::string_view text);

struct GrubMenu {
  std::vector<BootEntry> entries;
  std::string chosen;    ///< its `default`: a number, title or id, with > between levels
  bool has_bls = false;  ///< blscfg: the BLS entries belong to it
  Variables variables;   ///< at the end
};
/// Of a grub.cfg, `saved` being grubenv's variables. nullopt if it is beyond the bounds.
std::optional<GrubMenu> parse_grub(std::string_view text, const Variables& saved);

/// A file of loader/entries, called `name`. nullopt if it starts no Linux kernel. $NAME in its
/// options stands for a variable.
std::optional<BootEntry> parse_bls(std::string_view name, std::string_view text,
                                   const Variables& variables);
/// Newest first.
void sort_bls(std::vector<BootEntry>& entries);

/// What `chosen` names in GRUB's way, else the first; of a submenu its first. Never one without a
/// kernel: nullptr if the choice has none.
const BootEntry* choose_entry(const std::vector<BootEntry>& entries, std::string_view chosen);
/// Which entry systemd-boot's `default` pattern (loader.conf) names, else the first.
const BootEntry* match_entry(const std::vector<BootEntry>& entries, std::string_view pattern);

}  // namespace skerry::bootdisk
