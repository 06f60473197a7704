// ACPI tables as a guest's kernel finds and checks them; iasl's opinion where it is installed.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "board/acpi.hpp"
#include "board/aml.hpp"
#include "pci/chipset.hpp"

namespace skerry::board {
namespace {

u8 sum(std::span<const u8> bytes) {
  u8 s = 0;
  for (u8 b : bytes) s = static_cast<u8>(s + b);
  return s;
}

AcpiConfig full(unsigned cpus = 4) {
  AcpiConfig c;
  c.cpus = cpus;
  c.uarts = {kUarts[0], kUarts[1]};
  c.pci_window64 = high_window(8 * GiB, 40);
  return c;
}

// Follows the pointers in guest memory as Linux does.
struct Found {
  std::vector<std::pair<std::string, std::vector<u8>>> tables;
  const std::vector<u8>& get(const std::string& signature) const {
    for (const auto& [s, t] : tables)
      if (s == signature) return t;
    static const std::vector<u8> kNone;
    return kNone;
  }
};

std::vector<u8> read_table(const memory::GuestMemory& memory, Gpa at) {
  u32 size = memory.read_value<u32>(at + 4).value();
  EXPECT_LT(size, 0x10000u);
  std::vector<u8> t(size);
  EXPECT_TRUE(memory.read(at, t));
  return t;
}

Found walk(const memory::GuestMemory& memory, Gpa rsdp) {
  Found f;
  std::vector<u8> root(36);
  EXPECT_TRUE(memory.read(rsdp, root));
  EXPECT_EQ(std::string(root.begin(), root.begin() + 8), "RSD PTR ");
  EXPECT_EQ(sum({root.data(), 20}), 0);
  EXPECT_EQ(sum(root), 0);
  EXPECT_EQ(root[15], 2);
  auto add = [&](Gpa at) {
    auto t = read_table(memory, at);
    f.tables.emplace_back(std::string(t.begin(), t.begin() + 4), t);
  };
  Gpa xsdt_at = load<u64>(&root[24]);
  add(xsdt_at);
  auto xsdt = f.tables[0].second;
  for (size_t i = 36; i + 8 <= xsdt.size(); i += 8) add(load<u64>(&xsdt[i]));
  auto fadt = f.get("FACP");
  EXPECT_EQ(load<u32>(&fadt[40]), load<u64>(&fadt[140])) << "DSDT and X_DSDT";
  add(load<u64>(&fadt[140]));
  EXPECT_EQ(load<u32>(&fadt[36]) % 64, 0u);
  add(load<u32>(&fadt[36]));
  return f;
}

TEST(Acpi, EveryTableIsFoundWithItsChecksum) {
  auto memory = memory::GuestMemory::create(4 * MiB).value();
  Gpa rsdp = build_acpi(full()).install(*memory).value();
  EXPECT_EQ(rsdp, 0xe0000u);
  Found f = walk(*memory, rsdp);
  for (const char* s : {"XSDT", "FACP", "APIC", "MCFG", "HPET", "DSDT"}) {
    ASSERT_FALSE(f.get(s).empty()) << s;
    EXPECT_EQ(sum(f.get(s)), 0) << s;
  }
  EXPECT_EQ(f.get("FACS").size(), 64u);
}

TEST(Acpi, FadtFieldsAreWhereTheSpecificationHasThem) {
  auto memory = memory::GuestMemory::create(4 * MiB).value();
  Found f = walk(*memory, build_acpi(full()).install(*memory).value());
  auto t = f.get("FACP");
  ASSERT_EQ(t.size(), 276u);
  EXPECT_EQ(load<u16>(&t[46]), 9);
  EXPECT_EQ(load<u32>(&t[48]), 0xb2u);
  EXPECT_EQ(load<u32>(&t[56]), 0x600u);
  EXPECT_EQ(load<u32>(&t[64]), 0x604u);
  EXPECT_EQ(load<u32>(&t[76]), 0x608u);
  EXPECT_EQ(load<u32>(&t[80]), 0x620u);
  EXPECT_EQ(t[88], 4);
  EXPECT_EQ(t[91], 4);
  EXPECT_EQ(t[108], 0x32);
  EXPECT_EQ(load<u16>(&t[109]) & 6, 6) << "8042 there, no VGA";
  EXPECT_TRUE(load<u32>(&t[112]) & 1 << 10) << "reset register";
  EXPECT_FALSE(load<u32>(&t[112]) & 1 << 4) << "power button is the fixed one";
  EXPECT_EQ(t[116], 1);
  EXPECT_EQ(load<u64>(&t[120]), 0xcf9u);
  EXPECT_EQ(t[128], 6);
  EXPECT_EQ(load<u64>(&t[152]), 0x600u);
  EXPECT_EQ(load<u64>(&t[212]), 0x608u);
}

TEST(Acpi, MadtListsEveryProcessor) {
  for (unsigned cpus : {1u, 255u, 300u}) {
    auto t = build_acpi(full(cpus));
    const AcpiTables::Table* madt = nullptr;
    for (const auto& table : t.tables())
      if (table.signature == "APIC") madt = &table;
    ASSERT_TRUE(madt);
    unsigned local = 0, x2 = 0, ioapic = 0;
    for (u32 at = madt->offset + 44; at < madt->offset + madt->size;) {
      const u8* e = &t.bytes()[at];
      if (e[0] == 0) {
        EXPECT_EQ(e[3], local);
        ++local;
      }
      if (e[0] == 9) {
        EXPECT_EQ(load<u32>(e + 4), local + x2);
        ++x2;
      }
      if (e[0] == 1) ++ioapic;
      ASSERT_GE(e[1], 2);
      at += e[1];
    }
    EXPECT_EQ(local + x2, cpus);
    EXPECT_EQ(local, std::min(cpus, 255u));
    EXPECT_EQ(ioapic, 1u);
  }
}

TEST(Acpi, TooManyProcessorsForTheAreaIsAnError) {
  auto memory = memory::GuestMemory::create(4 * MiB).value();
  auto done = build_acpi(full(4096)).install(*memory);
  ASSERT_FALSE(done);
  EXPECT_NE(done.error().message().find("--cpus"), std::string::npos);
  EXPECT_TRUE(build_acpi(full(255)).install(*memory));
}

TEST(Aml, PackageLengthsAtTheirLimits) {
  // The length counts itself: a body of 62 bytes is the last that one byte describes.
  for (size_t body : {0u, 1u, 61u, 62u, 63u, 4092u, 4093u, 4094u, 70000u}) {
    aml::Code code = aml::scope("\\", aml::Code(body, 0xa3));  // Noop
    size_t follow = code[1] >> 6;
    size_t length = follow ? code[1] & 15 : code[1] & 63;
    for (size_t i = 0; i < follow; ++i) length |= size_t{code[2 + i]} << (4 + 8 * i);
    EXPECT_EQ(length, code.size() - 1) << body;
  }
}

TEST(Aml, NamesAndIntegers) {
  EXPECT_EQ(aml::name_string("\\_SB.PCI0"),
            (aml::Code{'\\', 0x2e, '_', 'S', 'B', '_', 'P', 'C', 'I', '0'}));
  EXPECT_EQ(aml::eisa_id("PNP0A03"), (aml::Code{0x0c, 0x41, 0xd0, 0x0a, 0x03}));
  EXPECT_EQ(aml::integer(1), (aml::Code{1}));
  EXPECT_EQ(aml::integer(0x1234), (aml::Code{0x0b, 0x34, 0x12}));
}

// ---- iasl

struct TempDir {
  std::filesystem::path path;
  TempDir() {
    std::string name = (std::filesystem::temp_directory_path() / "skerry-acpi-XXXXXX").string();
    if (::mkdtemp(name.data())) path = name;
  }
  ~TempDir() {
    std::error_code ignored;
    if (!path.empty()) std::filesystem::remove_all(path, ignored);
  }
};

std::string run(const std::string& command, int& status) {
  std::string output;
  FILE* pipe = ::popen((command + " 2>&1").c_str(), "r");
  if (!pipe) return "";
  for (char buffer[4096]; size_t n = std::fread(buffer, 1, sizeof buffer, pipe);)
    output.append(buffer, n);
  status = ::pclose(pipe);
  return output;
}

class Iasl : public testing::TestWithParam<unsigned> {};

TEST_P(Iasl, DisassemblesAndRecompilesEveryTable) {
  int status = 0;
  run("iasl -v", status);
  if (status != 0) GTEST_SKIP() << "iasl is not installed (Debian package acpica-tools)";
  TempDir dir;
  ASSERT_FALSE(dir.path.empty());
  AcpiTables tables = build_acpi(full(GetParam()));
  std::vector<u8> bytes = tables.placed(kAcpiArea.start);
  for (const auto& t : tables.tables()) {
    if (t.signature == "RSDP" || t.signature == "XSDT") continue;
    auto file = dir.path / t.signature;
    std::ofstream(file.string() + ".aml", std::ios::binary)
        .write(reinterpret_cast<const char*>(&bytes[t.offset]), t.size);
    std::string out = run("iasl -d " + file.string() + ".aml", status);
    ASSERT_EQ(status, 0) << out;
    EXPECT_EQ(out.find("Warning"), out.npos) << out;
    EXPECT_EQ(out.find("rror"), out.npos) << out;
    out = run("iasl -we -p " + file.string() + ".again " + file.string() + ".dsl", status);
    EXPECT_EQ(status, 0) << out;
    EXPECT_NE(out.find(" 0 Errors"), out.npos) << out;
    if (t.signature != "DSDT") continue;
    std::ifstream in(file.string() + ".dsl");
    std::string dsl((std::istreambuf_iterator<char>(in)), {});
    EXPECT_NE(dsl.find("COM2"), dsl.npos);
    EXPECT_EQ(dsl.find("COM3"), dsl.npos);
    EXPECT_NE(dsl.find("\"ACPI0007\""), dsl.npos);
    EXPECT_NE(dsl.find("_S5"), dsl.npos);
  }
}
INSTANTIATE_TEST_SUITE_P(Cpus, Iasl, testing::Values(1u, 2u, 255u));

}  // namespace
}  // namespace skerry::board
