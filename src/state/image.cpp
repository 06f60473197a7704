#include "state/image.hpp"

#include "base/append.hpp"

namespace skerry::state {
namespace {

constexpr u8 kMagic[8] = {'S', 'K', 'E', 'R', 'R', 'Y', 'I', 'M'};
constexpr u32 kContainerVersion = 1;

constexpr std::array<u32, 256> make_crc_table() {
  std::array<u32, 256> table{};
  for (u32 i = 0; i < 256; ++i) {
    u32 c = i;
    for (int k = 0; k < 8; ++k) c = c & 1 ? 0x82f63b78u ^ (c >> 1) : c >> 1;
    table[i] = c;
  }
  return table;
}
constexpr std::array<u32, 256> kCrcTable = make_crc_table();

struct Cursor {
  std::span<const u8> rest;
  bool ok = true;
  std::span<const u8> take(u64 n) {
    if (n > rest.size()) {
      ok = false;
      return {};
    }
    auto head = rest.first(n);
    rest = rest.subspan(n);
    return head;
  }
  template <class T>
  T number() {
    auto bytes = take(sizeof(T));
    return ok ? load<T>(bytes.data()) : T{};
  }
};

}  // namespace

u32 crc32c(std::span<const u8> data) {
  u32 c = ~u32{0};
  for (u8 b : data) c = kCrcTable[(c ^ b) & 0xff] ^ (c >> 8);
  return ~c;
}

const Section* Image::find(const std::string& name) const {
  auto it = sections_.find(name);
  return it == sections_.end() ? nullptr : &it->second;
}

std::vector<u8> Image::serialize() const {
  std::vector<u8> out(std::begin(kMagic), std::end(kMagic));
  append(out, kContainerVersion);
  append(out, static_cast<u32>(sections_.size()));
  for (const auto& [name, section] : sections_) {
    append(out, static_cast<u16>(name.size()));
    out.insert(out.end(), name.begin(), name.end());
    append(out, section.version);
    append(out, static_cast<u64>(section.body.size()));
    append(out, crc32c(section.body));
    out.insert(out.end(), section.body.begin(), section.body.end());
  }
  return out;
}

Result<Image> Image::parse(std::span<const u8> data) {
  Cursor in{data};
  auto magic = in.take(sizeof kMagic);
  if (!in.ok || std::memcmp(magic.data(), kMagic, sizeof kMagic) != 0)
    return fail("this is not a Skerry image");
  u32 version = in.number<u32>();
  if (version != kContainerVersion)
    return fail("the image has container version {}; this Skerry reads {}", version,
                kContainerVersion);
  u32 count = in.number<u32>();
  Image image;
  for (u32 i = 0; i < count && in.ok; ++i) {
    auto name = in.take(in.number<u16>());
    std::string key(name.begin(), name.end());
    u32 section_version = in.number<u32>();
    u64 length = in.number<u64>();
    u32 crc = in.number<u32>();
    auto body = in.take(length);
    if (!in.ok) break;
    if (crc32c(body) != crc)
      return fail("section '{}' is damaged: its checksum does not match", key);
    if (!image.sections_.emplace(key, Section{section_version, {body.begin(), body.end()}}).second)
      return fail("section '{}' appears twice", key);
  }
  if (!in.ok) return fail("the image is cut short");
  if (!in.rest.empty()) return fail("the image has {} bytes too many", in.rest.size());
  return image;
}

}  // namespace skerry::state
