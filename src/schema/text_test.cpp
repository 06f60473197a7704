#include "schema/text.hpp"

#include <gtest/gtest.h>

#include "schema/help.hpp"
#include "schema/machine_spec.hpp"

namespace skerry::schema {
namespace {

TEST(Numbers, DecimalAndHexadecimalOnly) {
  EXPECT_EQ(parse_number("0"), 0u);
  EXPECT_EQ(parse_number("18446744073709551615"), ~u64{0});
  EXPECT_EQ(parse_number("0xfF"), 255u);
  for (auto bad : {"", "-1", "+1", " 1", "1 ", "0x", "1x", "18446744073709551616", "1.5", "--1"}) {
    EXPECT_FALSE(parse_number(bad)) << bad;
  }
}

TEST(Sizes, UnitsArePowersOf1024) {
  const std::pair<const char*, u64> good[] = {
      {"0", 0},      {"4097", 4097},   {"512M", 512 * MiB}, {"2G", 2 * GiB},  {"2g", 2 * GiB},
      {"1KiB", KiB}, {"3MB", 3 * MiB}, {"1T", 1024 * GiB},  {"0x1000", 4096}, {"0x1B", 27},
  };
  for (auto [text, count] : good) {
    ASSERT_TRUE(parse_bytes(text)) << text;
    EXPECT_EQ(parse_bytes(text)->count, count) << text;
  }
  for (auto bad : {"", "M", "B", "iB", "-1M", "1.5G", "1X", "1MM", "99999999T", "1 M"}) {
    EXPECT_FALSE(parse_bytes(bad)) << bad;
  }
}

TEST(Sizes, WrittenSizesReadBackExactly) {
  for (u64 count : {u64{0}, u64{1}, KiB, KiB + 1, 512 * MiB, 3 * GiB, 5 * MiB + 4 * KiB, ~u64{0}}) {
    EXPECT_EQ(parse_bytes(to_text(Bytes{count}))->count, count);
  }
  EXPECT_EQ(to_text(Bytes{1536 * MiB}), "1536M");
}

TEST(Words, DistanceCountsSlips) {
  EXPECT_EQ(edit_distance("memory", "memory"), 0u);
  EXPECT_EQ(edit_distance("memroy", "memory"), 1u);  // a swap is one slip
  EXPECT_EQ(edit_distance("", "abc"), 3u);
  EXPECT_EQ(edit_distance("kernel", "kenrle"), 2u);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3u);
}

TEST(Words, NearestOnlyWhenNear) {
  constexpr std::string_view choices[] = {"memory", "cpus", "kernel", "no-reboot"};
  EXPECT_EQ(nearest("memroy", choices), "memory");
  EXPECT_EQ(nearest("mem", choices), "memory");
  EXPECT_EQ(nearest("cpu", choices), "cpus");
  EXPECT_EQ(nearest("noreboot", choices), "no-reboot");
  EXPECT_EQ(nearest("zebra", choices), "");
  EXPECT_EQ(nearest("", choices), "");
  EXPECT_EQ(nearest(std::string(100'000, 'a'), choices), "");  // and does not take for ever
}

TEST(Values, MessagesNameTheFieldAndWhatIsAllowed) {
  u32 n = 7;
  Field cpus{.name = "cpus", .doc = "", .min = 1, .max = 255};
  auto low = value_from_text(cpus, "0", n);
  ASSERT_FALSE(low);
  EXPECT_EQ(low.error().what, "cpus: 0 is out of range");
  EXPECT_EQ(low.error().hint, "give a number from 1 to 255");
  EXPECT_FALSE(value_from_text(cpus, "4294967297", n));  // must not wrap to 1
  EXPECT_FALSE(value_from_text({.name = "n", .doc = ""}, "4294967297", n));
  EXPECT_EQ(n, 7u);
  EXPECT_TRUE(value_from_text(cpus, "255", n));
  EXPECT_EQ(n, 255u);

  EngineChoice engine{};
  auto word = value_from_text({.name = "engine", .doc = ""}, "kmv", engine);
  ASSERT_FALSE(word);
  EXPECT_EQ(word.error().what, "unknown engine 'kmv'; did you mean 'kvm'?");
  EXPECT_EQ(word.error().hint,
            "known: auto, kvm, soft, 'soft,interpreter', 'soft,jit', 'soft,tables'");

  std::string text;
  EXPECT_FALSE(value_from_text({.name = "path", .doc = ""}, std::string_view("a\0b", 3), text));
}

TEST(KeyValue, ReadsADisk) {
  auto disk = from_text<DiskSpec>("path=a.img,format=raw,readonly");
  ASSERT_TRUE(disk);
  EXPECT_EQ(*disk, (DiskSpec{"a.img", DiskFormat::raw, true}));
  EXPECT_EQ(from_text<DiskSpec>("path=a,,b=c,readonly=off")->path, "a,b=c");
  EXPECT_FALSE(from_text<DiskSpec>("path=a,readonly=off")->readonly);
  EXPECT_EQ(from_text<DiskSpec>("path=")->path, "");  // validate() refuses it
}

TEST(KeyValue, RefusesWithTheReason) {
  auto what = [](std::string_view text) {
    auto disk = from_text<DiskSpec>(text);
    return disk ? std::string("accepted") : disk.error().message();
  };
  EXPECT_EQ(what("path=a,fromat=raw"),
            "unknown key 'fromat'; did you mean 'format'?\n  known: path, format, readonly, "
            "overlay, direct, "
            "serial, bps, bps_burst, iops, iops_burst, aio, on_enospc, on_error");
  EXPECT_EQ(
      what("a.img"),
      "unknown key 'a.img'\n  write path=a.img; keys: path, format, readonly, overlay, direct, "
      "serial, bps, bps_burst, iops, iops_burst, aio, on_enospc, on_error");
  EXPECT_EQ(what("readonly"), "'path' is missing\n  add path=VALUE");
  EXPECT_EQ(what("path"), "'path' needs a value\n  write path=VALUE");
  EXPECT_EQ(what("path=a,path=b"), "'path' is given twice in 'path=a,path=b'");
  EXPECT_EQ(what("path=a,readonly=perhaps"),
            "readonly: 'perhaps' is neither on nor off\n  give on or off");
  EXPECT_EQ(what("path=a,format=qcow"),
            "unknown format 'qcow'; did you mean 'qcow2'?\n  known: auto, raw, qcow2");
  EXPECT_NE(what(""), "accepted");
  EXPECT_NE(what("path=a,"), "accepted");
}

TEST(Help, SaysEveryFieldWithItsDefault) {
  auto fields = help_of<MachineSpec>();
  auto find = [&](std::string_view name) {
    for (auto& f : fields) {
      if (f.name == name) return f;
    }
    return FieldHelp{};
  };
  EXPECT_EQ(find("memory").preset, "512M");
  EXPECT_EQ(find("engine").value, "auto|kvm|soft[,interpreter|,tables]");
  EXPECT_EQ(find("engine").preset, "auto");
  EXPECT_EQ(find("no_reboot").option, "no-reboot");
  EXPECT_TRUE(find("no_reboot").flag);
  EXPECT_EQ(find("disks").option, "disk");
  EXPECT_TRUE(find("disks").list);
  for (auto& f : fields) EXPECT_FALSE(f.doc.empty()) << f.name;
  EXPECT_EQ(key_value_grammar<DiskSpec>(),
            "path=FILE[,format=auto|raw|qcow2][,readonly][,overlay][,direct][,serial=TEXT]"
            "[,bps=SIZE][,bps_burst=SIZE][,iops=N][,iops_burst=N]"
            "[,aio=auto|io_uring|threads][,on_enospc=auto|report|pause]"
            "[,on_error=auto|report|pause]");
}

}  // namespace
}  // namespace skerry::schema
