#include "storage/qcow2_header.hpp"

#include <algorithm>
#include <array>

namespace skerry::storage::qcow2 {

namespace {

constexpr u32 kV2Length = 72, kV3Length = 104, kOurLength = 112;
constexpr u32 kExtBackingFormat = 0xe2792aca, kExtFeatureNames = 0x6803f857, kExtEnd = 0;
constexpr u32 kExtEncryption = 0x0537be77, kExtDataFile = 0x44415441;
constexpr size_t kMaxBackingName = 1023;

struct FeatureName {
  u8 type, bit;
  std::string_view name;
};
constexpr std::array kFeatureNames = {FeatureName{0, kDirty, "dirty bit"},
                                      FeatureName{0, kCorrupt, "corrupt bit"},
                                      FeatureName{0, kExternalData, "external data file"},
                                      FeatureName{0, kCompressionType, "compression type"},
                                      FeatureName{0, kExtendedL2, "extended L2 entries"},
                                      FeatureName{1, kLazyRefcounts, "lazy refcounts"}};

std::string name_of_feature(unsigned bit, std::span<const u8> names) {
  for (; names.size() >= 48; names = names.subspan(48))  // the image's own table knows best
    if (names[0] == 0 && names[1] == bit) {
      std::string name(reinterpret_cast<const char*>(&names[2]), 46);
      name.resize(std::min(name.find('\0'), name.size()));
      std::erase_if(name, [](char c) { return c < ' ' || c > '~'; });
      return name;
    }
  for (const FeatureName& f : kFeatureNames)
    if (f.type == 0 && f.bit == bit) return std::string(f.name);
  return fmt::format("bit {}", bit);
}

}  // namespace

bool looks_like_qcow2(std::span<const u8> start) {
  return start.size() >= 4 && load_be<u32>(start.data()) == kMagic;
}

Result<Header> parse_header(std::span<const u8> start, const std::string& path) {
  auto corrupt = [&](std::string_view why) {
    return fail("{} is not a valid qcow2 image: {}", path, why);
  };
  if (!looks_like_qcow2(start))
    return fail_hint("if it is a raw image, say so with the format raw", "{} is not a qcow2 image",
                     path);
  if (start.size() < kV2Length) return corrupt("its header is cut off");
  const u8* p = start.data();
  Header h;
  h.version = load_be<u32>(p + 4);
  if (h.version != 2 && h.version != 3)
    return fail("{}: qcow2 version {} is not supported, only 2 and 3", path, h.version);
  u64 name_at = load_be<u64>(p + 8);
  u32 name_length = load_be<u32>(p + 16);
  u32 bits = load_be<u32>(p + 20);
  if (bits < kMinClusterBits || bits > kMaxClusterBits)
    return corrupt(fmt::format("clusters of 2^{} bytes", bits));
  h.cluster_bits = bits;
  h.size = load_be<u64>(p + 24);
  if (load_be<u32>(p + 32) != 0) return fail("{} is encrypted, which is not supported", path);
  h.l1_entries = load_be<u32>(p + 36);
  h.l1_offset = load_be<u64>(p + 40);
  h.refcount_table_offset = load_be<u64>(p + 48);
  h.refcount_table_clusters = load_be<u32>(p + 56);
  h.snapshots = load_be<u32>(p + 60);
  h.snapshots_offset = load_be<u64>(p + 64);
  u32 length = kV2Length;
  if (h.version == 3) {
    if (start.size() < kV3Length) return corrupt("its header is cut off");
    h.incompatible = load_be<u64>(p + 72);
    h.compatible = load_be<u64>(p + 80);
    h.autoclear = load_be<u64>(p + 88);
    u32 order = load_be<u32>(p + 96);
    length = load_be<u32>(p + 100);
    if (order > 6) return corrupt(fmt::format("refcounts of 2^{} bits", order));
    h.refcount_order = order;
    if (length < kV3Length || length > h.cluster() || length > start.size())
      return corrupt(fmt::format("a header of {} bytes", length));
    if (length > kV3Length && bit(h.incompatible, kCompressionType)) {
      if (p[104] > 1) return fail("{}: compression type {} is not supported", path, p[104]);
      h.compression = static_cast<Compression>(p[104]);
    }
  }

  // Header extensions lie between the header and the backing file's name, within one cluster.
  u64 limit = std::min<u64>(h.cluster(), start.size());
  std::span<const u8> feature_names;
  u64 at = length;
  while (at + 8 <= limit && (name_at == 0 || at < name_at)) {
    u32 type = load_be<u32>(p + at), size = load_be<u32>(p + at + 4);
    if (type == kExtEnd) break;
    if (size > limit - at - 8) return corrupt("a header extension is cut off");
    auto data = start.subspan(at + 8, size);
    if (type == kExtBackingFormat) {
      h.backing_format.assign(data.begin(), data.end());
    } else if (type == kExtFeatureNames) {
      feature_names = data;
    } else if (type == kExtEncryption || type == kExtDataFile) {
      // The feature bit or the encryption method refuses it where it matters.
    } else {
      h.extensions.push_back({type, {data.begin(), data.end()}});
    }
    at += 8 + align_up(size, 8);
  }
  constexpr u64 known = 1 << kDirty | 1 << kCorrupt | 1 << kCompressionType;
  for (unsigned b = 0; b < 64; ++b)
    if (bit(h.incompatible & ~known, b))
      return fail_hint("convert it with the program that made it, without that feature",
                       "{} uses a qcow2 feature that is not supported: {}", path,
                       name_of_feature(b, feature_names));

  if (name_at != 0) {
    if (name_length > kMaxBackingName || name_at > limit || name_length > limit - name_at)
      return corrupt("the name of its backing file is out of place");
    h.backing_file.assign(reinterpret_cast<const char*>(p) + name_at, name_length);
    if (h.backing_file.find('\0') != std::string::npos)
      return corrupt("the name of its backing file has a zero byte");
  }

  auto aligned = [&](u64 offset) { return (offset & (h.cluster() - 1)) == 0 && offset >> 56 == 0; };
  if (h.size > u64{1} << 62) return corrupt("its size is impossible");
  if (u64{h.l1_entries} * 8 > kMaxL1Bytes) return corrupt("its L1 table is too large");
  if (h.l1_needed(h.size) > h.l1_entries) return corrupt("its L1 table is too small");
  if (!aligned(h.l1_offset) || (h.l1_entries && h.l1_offset == 0))
    return corrupt("its L1 table is out of place");
  if (u64{h.refcount_table_clusters} << h.cluster_bits > kMaxRefcountTableBytes)
    return corrupt("its refcount table is too large");
  if (h.refcount_table_clusters == 0 || !aligned(h.refcount_table_offset) ||
      h.refcount_table_offset == 0)
    return corrupt("its refcount table is out of place");
  if (h.snapshots > kMaxSnapshots) return corrupt("it has too many snapshots");
  if (h.snapshots && (!aligned(h.snapshots_offset) || h.snapshots_offset == 0))
    return corrupt("its snapshot table is out of place");
  return h;
}

Result<std::vector<u8>> encode_header(const Header& h, u64 name_at) {
  std::vector<u8> out(h.version == 2 ? kV2Length : kOurLength);
  u8* p = out.data();
  store_be<u32>(p, kMagic);
  store_be<u32>(p + 4, h.version);
  store_be<u32>(p + 20, h.cluster_bits);
  store_be<u64>(p + 24, h.size);
  store_be<u32>(p + 36, h.l1_entries);
  store_be<u64>(p + 40, h.l1_offset);
  store_be<u64>(p + 48, h.refcount_table_offset);
  store_be<u32>(p + 56, h.refcount_table_clusters);
  store_be<u32>(p + 60, h.snapshots);
  store_be<u64>(p + 64, h.snapshots_offset);
  if (h.version >= 3) {
    store_be<u64>(p + 72, h.incompatible);
    store_be<u64>(p + 80, h.compatible);
    store_be<u64>(p + 88, h.autoclear);
    store_be<u32>(p + 96, h.refcount_order);
    store_be<u32>(p + 100, kOurLength);
    p[104] = static_cast<u8>(h.compression);
  }
  auto extension = [&](u32 type, std::span<const u8> data) {
    size_t at = out.size();
    out.resize(at + 8 + align_up(data.size(), 8));
    store_be<u32>(&out[at], type);
    store_be<u32>(&out[at + 4], static_cast<u32>(data.size()));
    std::copy(data.begin(), data.end(), out.begin() + static_cast<ptrdiff_t>(at + 8));
  };
  if (!h.backing_format.empty())
    extension(kExtBackingFormat,
              {reinterpret_cast<const u8*>(h.backing_format.data()), h.backing_format.size()});
  for (const Header::Extension& e : h.extensions) extension(e.type, e.data);
  // Names for programs that do not know a feature; only where they leave the first sector whole,
  // which is what one write changes or does not.
  if (h.version >= 3 && h.extensions.empty() && h.cluster_bits > kMinClusterBits) {
    std::vector<u8> names;
    for (const FeatureName& f : kFeatureNames) {
      size_t at = names.size();
      names.resize(at + 48);
      names[at] = f.type;
      names[at + 1] = f.bit;
      std::copy(f.name.begin(), f.name.end(), names.begin() + static_cast<ptrdiff_t>(at + 2));
    }
    extension(kExtFeatureNames, names);
  }
  extension(kExtEnd, {});
  if (!h.backing_file.empty()) {
    u64 at = name_at ? name_at : out.size();
    if (at < out.size()) return fail("the header has no room there");
    out.resize(at + h.backing_file.size());
    std::copy(h.backing_file.begin(), h.backing_file.end(),
              out.begin() + static_cast<ptrdiff_t>(at));
    store_be<u64>(&out[8], at);
    store_be<u32>(&out[16], static_cast<u32>(h.backing_file.size()));
  }
  if (out.size() > h.cluster() || h.backing_file.size() > kMaxBackingName)
    return fail("the header with its backing file's name does not fit into a cluster of {} bytes",
                h.cluster());
  return out;
}

}  // namespace skerry::storage::qcow2
