#include "schema/machine_spec.hpp"

#include <gtest/gtest.h>

#include "schema/json.hpp"

namespace skerry::schema {
namespace {

MachineSpec full() {
  MachineSpec s;
  s.name = "m";
  s.memory = {5 * GiB};
  s.cpus = 3;
  s.engine = EngineChoice::soft;
  s.cpu = "x86-64-v3,-avx2";
  s.code_cache = {1 * MiB};
  s.kernel = "/k";
  s.initrd = "i \"quoted\"";
  s.append = "console=ttyS0 x=\\y";
  s.modules = {{"mod", "arg, arg"}};
  s.disks = {{"a", DiskFormat::raw, true}, {"b", DiskFormat::raw, false}};
  s.nets = {
      NetSpec::from_text("switch,name=l,vlan=9,isolated,rate=1M,uplink=user,queues=2").value(),
      NetSpec::from_text("user,hostfwd=tcp::1-:2,hostfwd=udp::3-:4,restrict,link_down").value()};
  s.serials = {{SerialKind::file, "out"}, {SerialKind::none, ""}};
  s.consoles = {{SerialKind::unix_, "sock"}};
  s.cloud_init = {"u", "", "n"};
  s.ssh_keys = {"k.pub", "l.pub"};
  s.hostname = "h";
  s.user = "ann";
  s.debug_exit = s.no_reboot = s.stats = s.boot_from_disk = true;
  s.gdb = "tcp:127.0.0.1:1234";
  s.control = "unix:/tmp/c";
  s.balloon = true;
  s.channels = {{"p", "/p"}};
  s.shares = {{"t", "/d", true, ShareSandbox::chroot}};
  s.vsock = {5, "/v"};
  s.rng_rate = {4096};
  s.on_panic = PanicPolicy::pause;
  s.trace = "cpu,irq";
  return s;
}

std::string merge_error(std::string_view text) {
  MachineSpec spec;
  auto done = merge_json_text(text, "vm.json", spec);
  EXPECT_EQ(spec, MachineSpec{}) << "a refused document must change nothing";
  return done ? "accepted" : done.error().message();
}

TEST(SpecJson, EveryFieldComesBack) {
  MachineSpec back;
  ASSERT_TRUE(merge_json_text(to_json_text(full()), "x", back));
  EXPECT_EQ(back, full());
  // full() differs from the defaults everywhere, or the comparison above would not see a lost
  // field.
  Json changed = to_json(full()), preset = to_json(MachineSpec{});
  for (auto& [key, value] : preset.items()) EXPECT_NE(changed[key], value) << key;
}

TEST(SpecJson, AbsentKeysKeepWhatIsThereAndListsReplace) {
  MachineSpec spec = full();
  ASSERT_TRUE(
      merge_json_text(R"({"cpus": 2, "disks": [{"path": "only"}]}  // comment)", "x", spec));
  EXPECT_EQ(spec.cpus, 2u);
  EXPECT_EQ(spec.memory.count, 5 * GiB);
  ASSERT_EQ(spec.disks.size(), 1u);
  EXPECT_EQ(spec.disks[0], (DiskSpec{.path = "only"}));
}

TEST(SpecJson, TextFormsAreAccepted) {
  MachineSpec spec;
  ASSERT_TRUE(
      merge_json_text(R"({"memory": 1073741824, "cpus": "4", "serials": ["file:log", "none"],
                                  "disks": ["path=a,readonly"], "modules": ["m,x,y"]})",
                      "x", spec));
  EXPECT_EQ(spec.memory.count, GiB);
  EXPECT_EQ(spec.cpus, 4u);
  EXPECT_EQ(spec.serials[0], (SerialSpec{SerialKind::file, "log"}));
  EXPECT_TRUE(spec.disks[0].readonly);
  EXPECT_EQ(spec.modules[0], (ModuleSpec{"m", "x,y"}));
}

TEST(SpecJson, RefusesWithThePlace) {
  EXPECT_EQ(merge_error(R"({"memroy": 1})").substr(0, 62),
            "vm.json: unknown key 'memroy'; did you mean 'memory'?\n  known:");
  EXPECT_EQ(merge_error(R"({"disks": [{"path": "a"}, {"path": "b", "redonly": true}]})"),
            "vm.json: disks[1]: unknown key 'redonly'; did you mean 'readonly'?\n"
            "  known: path, format, readonly, overlay, direct, serial, bps, bps_burst, iops, "
            "iops_burst, aio, on_enospc, on_error");
  EXPECT_EQ(merge_error(R"({"disks": [{}]})"), "vm.json: 'disks[0].path' is missing");
  EXPECT_EQ(merge_error(R"({"cpus": 256})"),
            "vm.json: cpus: 256 is out of range\n  give a number from 1 to 255");
  EXPECT_EQ(merge_error(R"({"debug_exit": 1})"), "vm.json: debug_exit: true or false is needed");
  EXPECT_EQ(merge_error(R"({"kernel": 1})"), "vm.json: kernel: a string is needed");
  EXPECT_EQ(merge_error(R"({"disks": {}})"), "vm.json: disks: a list [...] is needed");
  EXPECT_EQ(merge_error("[]"), "vm.json: top: an object {...} is needed");
  EXPECT_NE(merge_error(R"({"cpus": -1})"), "accepted");
  EXPECT_NE(merge_error(R"({"cpus": 1.5})"), "accepted");
  EXPECT_NE(merge_error(R"({"memory": null})"), "accepted");
  EXPECT_EQ(merge_error("{\n \"cpus\": ]}").substr(0, 24), "vm.json:2:10: not JSON: ");
  EXPECT_NE(merge_error(""), "accepted");
  EXPECT_NE(merge_error("1e999"), "accepted");
  EXPECT_NE(merge_error(std::string(200'000, '[')), "accepted");  // deep nesting must not overflow
}

TEST(SpecJson, PathsThatAreNotUtf8DoNotThrow) {
  MachineSpec spec;
  spec.kernel = "\xff\xfe";
  EXPECT_FALSE(to_json_text(spec).empty());
}

TEST(Serial, Grammar) {
  EXPECT_EQ(*SerialSpec::from_text("stdio"), SerialSpec{});
  EXPECT_EQ(*SerialSpec::from_text("unix:/a:b"), (SerialSpec{SerialKind::unix_, "/a:b"}));
  for (auto bad : {"", "stdio:x", "none:", "file", "file:", "unix:", "tcp:1", "fil:x"}) {
    EXPECT_FALSE(SerialSpec::from_text(bad)) << bad;
  }
  EXPECT_EQ(SerialSpec::from_text("fil:x").error().what,
            "unknown serial port 'fil'; did you mean 'file'?");
}

TEST(Gdb, Grammar) {
  EXPECT_EQ(parse_gdb("unix:/tmp/g")->path, "/tmp/g");
  auto tcp = parse_gdb("tcp:127.0.0.1:1234");
  ASSERT_TRUE(tcp);
  EXPECT_TRUE(tcp->tcp);
  EXPECT_EQ(tcp->host, "127.0.0.1");
  EXPECT_EQ(tcp->port, 1234u);
  EXPECT_EQ(parse_gdb("tcp:[::1]:9")->host, "::1");
  for (auto bad : {"", "x", "unix:", "tcp:", "tcp:1234", "tcp::1234", "tcp:h:0", "tcp:h:65536",
                   "tcp:h:x", "tcp:h:"}) {
    EXPECT_FALSE(parse_gdb(bad)) << bad;
  }
  EXPECT_FALSE(parse_gdb("unix:" + std::string(108, 'x')));
}

TEST(Cpu, ModelsAndFeatures) {
  auto model = parse_cpu("x86-64-v3,+aes,-avx2");
  ASSERT_TRUE(model);
  EXPECT_EQ(model->base, "x86-64-v3");
  EXPECT_EQ(model->features,
            (std::vector<std::pair<std::string, bool>>{{"aes", true}, {"avx2", false}}));
  for (auto bad : {"", "v2", "x86-64-v2,aes", "host,", "host,+", "host,,+aes"}) {
    EXPECT_FALSE(parse_cpu(bad)) << bad;
  }
}

TEST(Validate, CrossField) {
  MachineSpec good;
  good.kernel = "k";
  ASSERT_TRUE(validate(good));
  MachineSpec all = full();
  all.boot_from_disk = false;  // it has a kernel
  ASSERT_TRUE(validate(all));

  auto refused = [&](auto change) {
    MachineSpec spec = good;
    change(spec);
    return !validate(spec);
  };
  EXPECT_TRUE(refused([](auto& s) { s.kernel.clear(); }));
  EXPECT_TRUE(refused([](auto& s) { s.boot_from_disk = true; }));  // and a kernel
  EXPECT_TRUE(refused([](auto& s) { s.kernel.clear(), s.boot_from_disk = true; }));
  EXPECT_FALSE(refused([](auto& s) {
    s.kernel.clear(), s.boot_from_disk = true;
    s.disks = {{"a"}};
  }));
  EXPECT_TRUE(refused([](auto& s) { s.hostname = "-"; }));
  EXPECT_TRUE(refused([](auto& s) { s.memory.count += 4096; }));
  EXPECT_TRUE(refused([](auto& s) { s.name.clear(); }));
  EXPECT_TRUE(refused([](auto& s) { s.append = std::string(5000, 'x'); }));
  EXPECT_TRUE(refused([](auto& s) { s.cpu = "pentium"; }));
  EXPECT_TRUE(refused([](auto& s) { s.gdb = "1234"; }));
  EXPECT_TRUE(refused([](auto& s) { s.control = "/tmp/c"; }));
  EXPECT_TRUE(refused([](auto& s) { s.control = "unix:"; }));
  EXPECT_TRUE(refused([](auto& s) { s.on_panic = PanicPolicy::pause; }));
  EXPECT_TRUE(refused([](auto& s) { s.control = "unix:" + std::string(108, 'x'); }));
  EXPECT_TRUE(refused([](auto& s) { s.disks = {{"a"}, {"a"}}; }));
  EXPECT_TRUE(refused([](auto& s) {
    s.disks = {{.path = "a", .on_enospc = DiskError::pause}};
    s.control.clear();
  }));
  EXPECT_FALSE(refused([](auto& s) {
    s.disks = {{"a", DiskFormat::raw, true}, {"a", DiskFormat::raw, true}};
  }));
  EXPECT_TRUE(refused([](auto& s) { s.disks = {{""}}; }));
  EXPECT_TRUE(refused([](auto& s) { s.serials.resize(2); }));   // two on stdio
  EXPECT_TRUE(refused([](auto& s) { s.consoles.resize(1); }));  // with COM1, two on stdio
  EXPECT_FALSE(refused([](auto& s) { s.serials.clear(), s.consoles.resize(1); }));
  EXPECT_FALSE(refused([](auto& s) { s.serials.clear(); }));
  EXPECT_TRUE(refused([](auto& s) { s.serials = {{SerialKind::file, ""}}; }));
  EXPECT_TRUE(refused([](auto& s) { s.serials = {{SerialKind::none, "x"}}; }));
  EXPECT_TRUE(refused([](auto& s) { s.serials.assign(5, {SerialKind::none, ""}); }));
}

}  // namespace
}  // namespace skerry::schema
