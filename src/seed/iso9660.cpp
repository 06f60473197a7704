#include "seed/iso9660.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <span>

#include "base/append.hpp"

namespace skerry::seed {

namespace {

constexpr u32 kBlock = 2048;
constexpr size_t kMaxFiles = 16;
constexpr u64 kMaxBytes = 16 * MiB;

// Where things are, in blocks. The directories have room for kMaxFiles records of 255 bytes.
constexpr u32 kPrimary = 16, kJoliet = 17, kTerminator = 18;
constexpr u32 kPathTables = 19;  // primary L, primary M, Joliet L, Joliet M
constexpr u32 kDirectoryBlocks = 3, kPrimaryRoot = 23,
              kJolietRoot = kPrimaryRoot + kDirectoryBlocks;
constexpr u32 kFiles = kJolietRoot + kDirectoryBlocks;
constexpr u32 kPathTableBytes = 10;
static_assert(kDirectoryBlocks * (kBlock / 255) >= kMaxFiles + 2);

using Bytes = std::vector<u8>;

/// 2000-01-01 00:00 UTC in a directory record (ECMA-119, 9.1.5): always the same.
constexpr std::array<u8, 7> kDate = {100, 1, 1, 0, 0, 0, 0};

// ECMA-119, 7.2.3 and 7.3.3: a number in both byte orders.
void both16(Bytes& out, u16 v) {
  append<u16>(out, v);
  append<u16>(out, static_cast<u16>(__builtin_bswap16(v)));
}
void both32(Bytes& out, u32 v) {
  append<u32>(out, v);
  append<u32>(out, __builtin_bswap32(v));
}
void text(Bytes& out, std::string_view s, size_t width) {
  for (size_t i = 0; i < width; ++i) out.push_back(i < s.size() ? static_cast<u8>(s[i]) : ' ');
}
/// The same as big-endian UCS-2, for Joliet.
void wide(Bytes& out, std::string_view s, size_t width) {
  for (size_t i = 0; i < width / 2; ++i) {
    out.push_back(0);
    out.push_back(i < s.size() ? static_cast<u8>(s[i]) : ' ');
  }
  if (width % 2) out.push_back(0);
}

/// ECMA-119, 9.1.
Bytes record(std::span<const u8> identifier, u32 block, u32 size, bool directory,
             std::span<const u8> system_use) {
  Bytes out;
  size_t padded = align_up(33 + identifier.size(), 2);
  size_t length = align_up(padded + system_use.size(), 2);
  out.push_back(static_cast<u8>(length));
  out.push_back(0);  // extended attributes
  both32(out, block);
  both32(out, size);
  out.insert(out.end(), kDate.begin(), kDate.end());
  out.push_back(directory ? 2 : 0);
  append<u16>(out, 0);  // not interleaved
  both16(out, 1);       // volume 1 of the set
  out.push_back(static_cast<u8>(identifier.size()));
  out.insert(out.end(), identifier.begin(), identifier.end());
  out.resize(padded);
  out.insert(out.end(), system_use.begin(), system_use.end());
  out.resize(length);
  return out;
}

/// P1282, 4.1.1: root's, and readable by all.
Bytes posix_entry(bool directory) {
  Bytes out{'P', 'X', 36, 1};
  both32(out, directory ? 0040555 : 0100444);
  both32(out, directory ? 2 : 1);
  both32(out, 0);
  both32(out, 0);
  return out;
}
/// What the root's own record begins with (SUSP 5.3, 5.5): that entries follow, and whose.
Bytes root_entries() {
  Bytes out{'S', 'P', 7, 1, 0xbe, 0xef, 0};
  Bytes px = posix_entry(true);
  out.insert(out.end(), px.begin(), px.end());
  constexpr std::string_view id = "RRIP_1991A";
  Bytes er{'E', 'R', static_cast<u8>(8 + id.size()), 1, static_cast<u8>(id.size()), 0, 0, 1};
  out.insert(out.end(), er.begin(), er.end());
  out.insert(out.end(), id.begin(), id.end());
  return out;
}
/// P1282, 4.1.4: the name as it is.
Bytes name_entries(const std::string& name) {
  Bytes out = posix_entry(false);
  Bytes nm{'N', 'M', static_cast<u8>(5 + name.size()), 1, 0};
  out.insert(out.end(), nm.begin(), nm.end());
  out.insert(out.end(), name.begin(), name.end());
  return out;
}

/// ECMA-119, 8.4 and 8.5: the primary descriptor, or Joliet's supplementary one.
Bytes descriptor(bool joliet, std::string_view label, u32 blocks) {
  auto name = [&](Bytes& out, std::string_view s, size_t width) {
    joliet ? wide(out, s, width) : text(out, s, width);
  };
  Bytes out{static_cast<u8>(joliet ? 2 : 1), 'C', 'D', '0', '0', '1', 1, 0};
  name(out, "", 32);  // system
  name(out, label, 32);
  out.resize(out.size() + 8);
  both32(out, blocks);
  out.resize(out.size() + 32);
  if (joliet) std::memcpy(&out[88], "%/E", 3);  // UCS-2 level 3
  both16(out, 1);                               // volumes in the set
  both16(out, 1);                               // this one
  both16(out, kBlock);
  both32(out, kPathTableBytes);
  u32 table = kPathTables + (joliet ? 2 : 0);
  append<u32>(out, table);
  append<u32>(out, 0);
  append<u32>(out, __builtin_bswap32(table + 1));
  append<u32>(out, 0);
  const u8 self[] = {0};
  Bytes root =
      record(self, joliet ? kJolietRoot : kPrimaryRoot, kDirectoryBlocks * kBlock, true, {});
  out.insert(out.end(), root.begin(), root.end());
  name(out, "", 128);                             // volume set
  name(out, "", 128);                             // publisher
  name(out, "", 128);                             // preparer
  name(out, "SKERRY", 128);                       // application
  for (int i = 0; i < 3; ++i) name(out, "", 37);  // copyright, abstract, bibliography files
  for (int i = 0; i < 2; ++i) {                   // made and changed
    text(out, "2000010100000000", 16);
    out.push_back(0);
  }
  for (int i = 0; i < 2; ++i) {  // never expires, in effect at once
    out.insert(out.end(), 16, '0');
    out.push_back(0);
  }
  out.push_back(1);  // the structure's version
  out.resize(kBlock);
  return out;
}

/// ECMA-119, 9.4: the root alone.
Bytes path_table(u32 root, bool big_endian) {
  Bytes out{1, 0};
  append<u32>(out, big_endian ? __builtin_bswap32(root) : root);
  append<u16>(out, big_endian ? 0x0100 : 1);  // its own parent
  append<u16>(out, 0);                        // identifier 0, padding
  return out;
}

/// Records do not cross blocks (ECMA-119, 6.8.1.1).
Bytes directory(const std::vector<Bytes>& records) {
  Bytes out;
  for (const Bytes& r : records) {
    if (out.size() % kBlock + r.size() > kBlock) out.resize(align_up(out.size(), kBlock));
    out.insert(out.end(), r.begin(), r.end());
  }
  out.resize(kDirectoryBlocks * kBlock);
  return out;
}

/// The name for readers of neither extension: of the characters that ECMA-119, 7.4.1 allows.
std::string plain(std::string s) {
  for (char& c : s) c = c == '-' ? '_' : static_cast<char>(std::toupper(c));
  return s;
}

Result<> check(std::string_view label, const std::vector<File>& files) {
  auto in = [](std::string_view s, std::string_view allowed) {
    return s.find_first_not_of(allowed) == s.npos;
  };
  constexpr std::string_view upper = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_";
  constexpr std::string_view lower = "abcdefghijklmnopqrstuvwxyz0123456789_-";
  if (label.size() > 16 || !in(label, upper)) return fail("'{}' is no volume label", label);
  if (files.size() > kMaxFiles) return fail("more than {} files", kMaxFiles);
  u64 bytes = 0;
  for (size_t i = 0; i < files.size(); ++i) {
    const std::string& name = files[i].name;
    if (name.empty() || name.size() > 28 || !in(name, lower))
      return fail("'{}' is no file name", name);
    if (i > 0 && plain(files[i - 1].name) == plain(name)) return fail("'{}' is there twice", name);
    bytes += files[i].content.size();
  }
  if (bytes > kMaxBytes) return fail("the files have {} bytes; at most {} fit", bytes, kMaxBytes);
  return {};
}

}  // namespace

Result<std::vector<u8>> make_iso9660(std::string_view label, std::vector<File> files) {
  // The order that ECMA-119, 9.3 asks for.
  std::sort(files.begin(), files.end(),
            [](const File& a, const File& b) { return plain(a.name) < plain(b.name); });
  TRY_VOID(check(label, files));

  const u8 self[] = {0}, parent[] = {1};
  constexpr u32 kDirectoryBytes = kDirectoryBlocks * kBlock;
  std::vector<Bytes> primary{
      record(self, kPrimaryRoot, kDirectoryBytes, true, root_entries()),
      record(parent, kPrimaryRoot, kDirectoryBytes, true, posix_entry(true))};
  std::vector<Bytes> joliet{record(self, kJolietRoot, kDirectoryBytes, true, {}),
                            record(parent, kJolietRoot, kDirectoryBytes, true, {})};
  u32 block = kFiles;
  for (const File& file : files) {
    auto size = static_cast<u32>(file.content.size());
    std::string short_name = plain(file.name) + ".;1";
    Bytes narrow(short_name.begin(), short_name.end()), ucs;
    wide(ucs, file.name, 2 * file.name.size());
    primary.push_back(record(narrow, block, size, false, name_entries(file.name)));
    joliet.push_back(record(ucs, block, size, false, {}));
    block += static_cast<u32>(align_up(size, kBlock) / kBlock);
  }

  Bytes image(u64{block} * kBlock);
  auto put = [&](u32 at, std::span<const u8> bytes) {
    std::copy(bytes.begin(), bytes.end(), image.begin() + u64{at} * kBlock);
  };
  put(kPrimary, descriptor(false, label, block));
  put(kJoliet, descriptor(true, label, block));
  put(kTerminator, Bytes{255, 'C', 'D', '0', '0', '1', 1});
  put(kPathTables, path_table(kPrimaryRoot, false));
  put(kPathTables + 1, path_table(kPrimaryRoot, true));
  put(kPathTables + 2, path_table(kJolietRoot, false));
  put(kPathTables + 3, path_table(kJolietRoot, true));
  put(kPrimaryRoot, directory(primary));
  put(kJolietRoot, directory(joliet));
  block = kFiles;
  for (const File& file : files) {
    put(block, {reinterpret_cast<const u8*>(file.content.data()), file.content.size()});
    block += static_cast<u32>(align_up(file.content.size(), kBlock) / kBlock);
  }
  return image;
}

}  // namespace skerry::seed
