#include "board/smbios.hpp"

#include <algorithm>
#include <span>

#include "base/append.hpp"
#include "board/e820.hpp"

namespace skerry::board {

namespace {

// One structure: the formatted area is filled with put(), then text fields with text(); strings
// follow in the order of their numbers (DSP0134 6.1).
class Structure {
 public:
  Structure(u8 type, u16 handle) { put(type).put(u8{0}).put(handle); }

  template <class T>
  Structure& put(T value) {
    append(area_, value);
    return *this;
  }
  Structure& text(const std::string& value) {
    if (value.empty()) return put(u8{0});
    strings_.push_back(value.substr(0, 64));
    return put(static_cast<u8>(strings_.size()));
  }
  std::vector<u8> take() {
    area_[1] = static_cast<u8>(area_.size());
    for (const std::string& s : strings_) {
      for (char c : s) area_.push_back(c == 0 ? '?' : static_cast<u8>(c));
      area_.push_back(0);
    }
    if (strings_.empty()) area_.push_back(0);
    area_.push_back(0);
    return std::move(area_);
  }

 private:
  std::vector<u8> area_;
  std::vector<std::string> strings_;
};

enum : u16 {
  kBios = 0x000,
  kSystem = 0x100,
  kChassis = 0x300,
  kProcessor = 0x400,
  kArray = 0x1000,
  kDevice = 0x1100,
  kMapped = 0x1300,
  kBoot = 0x2000,
  kEnd = 0x7f00
};
const std::string kVendor = "Skerry";

std::vector<u8> bios(const SmbiosConfig& c) {
  constexpr u64 kUnsupported = 1 << 3;        // 7.1.1: characteristics not given
  constexpr u8 kAcpi = 1, kVirtual = 1 << 4;  // extension bytes 1 and 2
  Structure s(0, kBios);
  s.text(kVendor).text(c.version.empty() ? "0" : c.version).put(u16{0xe800}).text("11/20/2026");
  s.put(u8{0}).put(kUnsupported).put(kAcpi).put(kVirtual);
  s.put(u8{0}).put(u8{1}).put(u8{0xff}).put(u8{0xff});  // release; no embedded controller
  return s.take();
}

std::vector<u8> system(const SmbiosConfig& c) {
  Structure s(1, kSystem);
  s.text(kVendor).text("Skerry virtual machine").text(c.version).text(c.name);
  for (u8 b : c.uuid) s.put(b);
  s.put(u8{6}).text("").text("Skerry");  // woken by the power switch
  return s.take();
}

std::vector<u8> chassis() {
  constexpr u8 kOther = 1, kSafe = 3, kNone = 3;
  Structure s(3, kChassis);
  s.text(kVendor).put(kOther).text("").text("").text("");
  s.put(kSafe).put(kSafe).put(kSafe).put(kNone).put(u32{0}).put(u8{0}).put(u8{0});
  s.put(u8{0}).put(u8{0}).text("");
  return s.take();
}

std::vector<u8> processor(const SmbiosConfig& c) {
  auto few = static_cast<u8>(std::min(c.cpus, 255u));
  Structure s(4, kProcessor);
  s.text("CPU 0").put(u8{3}).put(u8{1}).text(kVendor).put(u64{0}).text("Skerry vCPU").put(u8{0});
  s.put(u16{0}).put(u16{0}).put(u16{0}).put(u8{0x41}).put(u8{1});  // enabled; upgrade: other
  s.put(u16{0xffff}).put(u16{0xffff}).put(u16{0xffff});            // caches: not described
  s.text("").text("").text("").put(few).put(few).put(few);
  s.put(u16{0x04}).put(u16{1});  // 64-bit; family in the byte above
  auto many = static_cast<u16>(c.cpus);
  s.put(many).put(many).put(many);
  return s.take();
}

// 7.17: in KiB, or 0x80000000 and the size in bytes.
std::vector<u8> memory_array(u64 size, unsigned devices) {
  constexpr u8 kSystemBoard = 3, kSystemMemory = 3, kMultiBitEcc = 6;
  bool big = size / KiB >= 0x80000000;
  Structure s(16, kArray);
  s.put(kSystemBoard).put(kSystemMemory).put(kMultiBitEcc);
  s.put(big ? u32{0x80000000} : static_cast<u32>(size / KiB));
  s.put(u16{0xfffe}).put(static_cast<u16>(devices)).put(big ? size : u64{0});
  return s.take();
}

std::vector<u8> memory_device(unsigned index, u64 size) {
  constexpr u8 kDimm = 9, kRam = 7;
  u64 mib = size / MiB;
  bool big = mib >= 0x7fff;
  Structure s(17, static_cast<u16>(kDevice + index));
  s.put(u16{kArray}).put(u16{0xfffe}).put(u16{0xffff}).put(u16{0xffff});
  s.put(big ? u16{0x7fff} : static_cast<u16>(mib)).put(kDimm).put(u8{0});
  s.text("DIMM " + std::to_string(index)).text("").put(kRam).put(u16{2}).put(u16{0});
  s.text(kVendor).text("").text("").text("").put(u8{0});
  s.put(big ? static_cast<u32>(mib) : u32{0});
  s.put(u16{0}).put(u16{0}).put(u16{0}).put(u16{0});
  return s.take();
}

// 7.20: in KiB, or all ones and 64-bit addresses.
std::vector<u8> mapped_address(unsigned index, Window w) {
  u64 first = w.start / KiB, last = (w.end() - 1) / KiB;
  bool big = last >= 0xffffffff;
  Structure s(19, static_cast<u16>(kMapped + index));
  s.put(big ? ~u32{0} : static_cast<u32>(first)).put(big ? ~u32{0} : static_cast<u32>(last));
  s.put(u16{kArray}).put(u8{1}).put(big ? w.start : u64{0}).put(big ? w.end() - 1 : u64{0});
  return s.take();
}

u8 sum_to_zero(std::span<const u8> bytes) {
  u8 sum = 0;
  for (u8 b : bytes) sum = static_cast<u8>(sum + b);
  return static_cast<u8>(-sum);
}

}  // namespace

SmbiosTables build_smbios(const SmbiosConfig& config) {
  SmbiosTables t;
  auto add = [&](const std::vector<u8>& s) {
    t.structures.insert(t.structures.end(), s.begin(), s.end());
    t.largest = std::max(t.largest, static_cast<u32>(s.size()));
    ++t.count;
  };
  add(bios(config));
  add(system(config));
  add(chassis());
  add(processor(config));
  // 16 GiB a device, more when that would be too many for the area.
  u64 each = std::max(16 * GiB, align_up(config.memory / 64, GiB));
  auto devices = static_cast<unsigned>(std::max<u64>((config.memory + each - 1) / each, 1));
  add(memory_array(config.memory, devices));
  for (unsigned i = 0; i < devices; ++i)
    add(memory_device(i, std::min(each, config.memory - i * each)));
  u64 low = std::min<u64>(config.memory, memory::kHoleStart);
  add(mapped_address(0, {0, std::max<u64>(low, 1)}));
  if (config.memory > low) add(mapped_address(1, {memory::kHighStart, config.memory - low}));
  add(Structure(32, kBoot).put(u32{0}).put(u16{0}).put(u8{0}).take());
  add(Structure(127, kEnd).take());
  return t;
}

// 5.2.2
std::array<u8, 24> SmbiosTables::anchor64(Gpa at) const {
  std::array<u8, 24> a{'_', 'S', 'M', '3', '_', 0, 24, 3, 0, 0, 1, 0};
  store<u32>(&a[12], static_cast<u32>(structures.size()));
  store<u64>(&a[16], at);
  a[5] = sum_to_zero(a);
  return a;
}

// 5.2.1; the intermediate anchor "_DMI_" has a checksum of its own.
std::array<u8, 31> SmbiosTables::anchor32(Gpa at) const {
  std::array<u8, 31> a{'_', 'S', 'M', '_', 0, 31, 2, 8};
  store<u16>(&a[8], static_cast<u16>(largest));
  std::copy_n("_DMI_", 5, &a[16]);
  store<u16>(&a[22], static_cast<u16>(structures.size()));
  store<u32>(&a[24], static_cast<u32>(at));
  store<u16>(&a[28], static_cast<u16>(count));
  a[30] = 0x28;  // BCD revision
  a[21] = sum_to_zero(std::span(a).subspan(16));
  a[4] = sum_to_zero(a);
  return a;
}

Result<> SmbiosTables::install(memory::GuestMemory& memory, Window area) const {
  constexpr u64 kStructures = 0x40;  // behind both anchors, which are 16-aligned
  Gpa at = area.start + kStructures;
  if (structures.size() > area.size - kStructures) return fail("the SMBIOS tables are too big");
  if (!memory.write(area.start, anchor64(at)) || !memory.write(area.start + 0x20, anchor32(at)) ||
      !memory.write(at, structures))
    return fail_hint("use --memory 2M or more", "no guest memory for the SMBIOS tables");
  return {};
}

}  // namespace skerry::board
