// A boot loader's menu as a guest leaves it for --boot-from-disk: grub.cfg with its grubenv, and
// BLS entries.
#include "bootdisk/boot_menu.hpp"
#include "fuzz/input.hpp"

namespace skerry::fuzz {
namespace {

using namespace bootdisk;

void check(const BootEntry* entry) {
  if (entry) expect(!entry->kernel.empty() && entry->options.size() <= kMostOptions, "bounded");
}

void one(Input& input) {
  auto text = [&](size_t most) {
    auto bytes = input.bytes(most);
    return std::string(bytes.begin(), bytes.end());
  };
  Variables saved = parse_grubenv(text(input.take<u8>()));
  std::vector<BootEntry> entries;
  for (u8 n = input.take<u8>() % 4; n > 0; --n) {
    std::string name = text(input.take<u8>() % 16);
    if (auto entry = parse_bls(name, text(input.take<u8>()), saved)) entries.push_back(*entry);
  }
  sort_bls(entries);
  std::string pattern = text(input.take<u8>() % 16);
  check(match_entry(entries, pattern));
  check(choose_entry(entries, pattern));
  if (auto menu = parse_grub(text(input.size()), saved))
    check(choose_entry(menu->entries, menu->chosen));
}

}  // namespace
}  // namespace skerry::fuzz

extern "C" int LLVMFuzzerTestOneInput(const skerry::u8* data, size_t size) {
  skerry::fuzz::Input input(data, size);
  skerry::fuzz::one(input);
  return 0;
}
