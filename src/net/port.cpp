#include "net/port.hpp"

namespace skerry::net {

std::string to_text(const Mac& m) {
  return fmt::format("{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", m[0], m[1], m[2], m[3], m[4],
                     m[5]);
}

// FNV-1a over name, a separator that no name holds, and index; the last step of SplitMix64 spreads
// the few bits in which short names differ.
Mac stable_mac(std::string_view name, unsigned index) {
  u64 hash = 0xcbf2'9ce4'8422'2325;
  auto mix = [&](u8 byte) { hash = (hash ^ byte) * 0x100'0000'01b3; };
  for (char c : name) mix(static_cast<u8>(c));
  mix(0);
  for (unsigned i = 0; i < 4; ++i) mix(static_cast<u8>(index >> 8 * i));
  hash = (hash ^ hash >> 30) * 0xbf58'476d'1ce4'e5b9;
  hash = (hash ^ hash >> 27) * 0x94d0'49bb'1331'11eb;
  hash ^= hash >> 31;
  Mac mac;
  for (unsigned i = 0; i < 6; ++i) mac[i] = static_cast<u8>(hash >> 8 * i);
  mac[0] = static_cast<u8>((mac[0] & 0xfc) | 0x02);
  return mac;
}

}  // namespace skerry::net
