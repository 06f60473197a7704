#include "cli/run_options.hpp"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>

#include "cli/launch.hpp"

namespace skerry::cli {
namespace {

using Args = std::vector<std::string>;

schema::MachineSpec spec_of(Args args) {
  args.insert(args.begin(), "run");
  auto command = parse_command(args);
  if (!command || !std::holds_alternative<RunCommand>(*command)) {
    ADD_FAILURE() << (command ? std::string("not a run") : command.error().message());
    return {};
  }
  return std::get<RunCommand>(*command).spec;
}
std::string error_of(Args args) {
  auto command = parse_command(args);
  return command ? "accepted" : command.error().message();
}
std::string text_of(Args args) {
  auto command = parse_command(args);
  auto* print = command ? std::get_if<PrintCommand>(&*command) : nullptr;
  return print ? print->text : std::string();
}

TEST(Run, EveryOption) {
  auto s = spec_of({"--kernel",
                    "k",
                    "--initrd=i",
                    "--append",
                    "a b=c",
                    "--memory",
                    "2G",
                    "--cpus",
                    "4",
                    "--engine",
                    "soft",
                    "--cpu",
                    "x86-64-v3,+aes",
                    "--disk",
                    "path=a,format=raw",
                    "--disk",
                    "path=b,readonly",
                    "--module",
                    "m,x,y",
                    "--module",
                    "n",
                    "--serial",
                    "file:log",
                    "--serial",
                    "none",
                    "--cloud-init",
                    "user-data=u,network-config=n",
                    "--ssh-key",
                    "k.pub",
                    "--user",
                    "ann",
                    "--hostname",
                    "h",
                    "--debug-exit",
                    "--gdb",
                    "unix:/g",
                    "--no-reboot",
                    "--trace",
                    "cpu,irq",
                    "--name",
                    "n"});
  schema::MachineSpec want;
  want.name = "n";
  want.memory = {2 * GiB};
  want.cpus = 4;
  want.engine = schema::EngineChoice::soft;
  want.cpu = "x86-64-v3,+aes";
  want.kernel = "k";
  want.initrd = "i";
  want.append = "a b=c";
  want.modules = {{"m", "x,y"}, {"n", ""}};
  want.disks = {{"a", schema::DiskFormat::raw, false}, {"b", schema::DiskFormat::auto_, true}};
  want.serials = {{schema::SerialKind::file, "log"}, {schema::SerialKind::none, ""}};
  want.cloud_init = {"u", "", "n"};
  want.ssh_keys = {"k.pub"};
  want.user = "ann";
  want.hostname = "h";
  want.debug_exit = want.no_reboot = true;
  want.gdb = "unix:/g";
  want.trace = "cpu,irq";
  EXPECT_EQ(s, want);
}

TEST(Run, DefaultsAreTheSpecs) {
  schema::MachineSpec want;
  want.kernel = "k";
  EXPECT_EQ(spec_of({"--kernel", "k"}), want);
}

TEST(Run, ValuesAreTakenAsTheyStand) {
  EXPECT_EQ(spec_of({"--kernel", "k", "--append", "--help"}).append, "--help");
  EXPECT_EQ(spec_of({"--kernel", "k", "--append", ""}).append, "");
  EXPECT_EQ(spec_of({"--kernel", "k", "--append", "[a,b]"}).append, "[a,b]");
  EXPECT_EQ(spec_of({"--kernel", "k", "--append", "a=\"b c\""}).append, "a=\"b c\"");
  EXPECT_EQ(spec_of({"--kernel", "k", "--cpus", "1", "--cpus", "2"}).cpus, 2u);  // the last counts
}

TEST(Run, MistakesNameTheOptionAndTheRemedy) {
  EXPECT_EQ(error_of({"run", "--memroy", "1G"}),
            "unknown option '--memroy'; did you mean --memory?\n  see: skerry help run");
  EXPECT_EQ(error_of({"run", "--kernel", "k", "--memroy=1G"}),
            "unknown option '--memroy'; did you mean --memory?\n  see: skerry help run");
  EXPECT_EQ(error_of({"run", "--kernel", "k", "-memory", "1G"}),
            "unknown option '-memory'; did you mean --memory?\n  see: skerry help run");
  EXPECT_EQ(error_of({"run", "memory"}),
            "unexpected argument 'memory'; did you mean --memory?\n  see: skerry help run");
  EXPECT_EQ(error_of({"run", "--kernel"}), "--kernel needs a value\n  see: skerry help run");
  EXPECT_EQ(error_of({"run", "--kernel", "k", "--memory", "1M"}),
            "--memory: 1M is too little\n  give from 2M to 1T");
  EXPECT_EQ(error_of({"run", "--kernel", "k", "--engine", "kmv"}),
            "--engine: unknown engine 'kmv'; did you mean 'kvm'?\n"
            "  known: auto, kvm, soft, 'soft,interpreter', 'soft,jit', 'soft,tables'");
  EXPECT_EQ(error_of({"run", "--kernel", "k", "--disk", "a.img"}),
            "--disk: unknown key 'a.img'\n  write path=a.img; keys: path, format, readonly, "
            "overlay, direct, "
            "serial, bps, bps_burst, iops, iops_burst, aio, on_enospc, on_error");
  EXPECT_EQ(error_of({"run"}),
            "no kernel to boot\n  give one with --kernel FILE, or \"kernel\" in the configuration; "
            "--boot-from-disk takes it from the disk");
  EXPECT_EQ(error_of({"run", "--kernel", "k", "--trace", "cpux"}).substr(0, 8), "--trace:");
  EXPECT_EQ(error_of({"rnu"}), "unknown command 'rnu'; did you mean 'run'?\n  see: skerry help");
  EXPECT_NE(error_of({}), "accepted");
  EXPECT_NE(error_of({""}), "accepted");
  EXPECT_NE(error_of({"run", ""}), "accepted");
  EXPECT_NE(error_of({"run", "--"}), "accepted");
  EXPECT_NE(error_of({"doctor", "--jsn"}), "accepted");
}

class Config : public testing::Test {
 protected:
  void write(std::string_view text) { std::ofstream(path_) << text; }
  ~Config() override { std::remove(path_.c_str()); }
  std::string path_ = testing::TempDir() + "skerry-config-" + std::to_string(getpid()) + ".json";
};

TEST_F(Config, TheCommandLineOverridesIt) {
  write(
      R"({"kernel": "k", "cpus": 2, "memory": "1G", "no_reboot": true, "disks": [{"path": "a"}]})");
  auto s = spec_of({"--cpus", "3", "--config", path_, "--disk", "path=b"});
  EXPECT_EQ(s.kernel, "k");
  EXPECT_EQ(s.cpus, 3u);
  EXPECT_EQ(s.memory.count, GiB);
  EXPECT_TRUE(s.no_reboot);
  ASSERT_EQ(s.disks.size(), 1u);
  EXPECT_EQ(s.disks[0].path, "b");
  EXPECT_FALSE(spec_of({"--config", path_, "--no-reboot=false"}).no_reboot);
}

TEST_F(Config, MistakesNameTheFile) {
  write(R"({"kernl": "k"})");
  EXPECT_EQ(error_of({"run", "--config", path_}).substr(0, path_.size() + 2), path_ + ": ");
  EXPECT_EQ(error_of({"run", "--config", path_ + ".no"}).substr(0, 21), "--config: cannot open");
}

TEST(Help, EveryCommandHasIt) {
  for (auto option : {"--kernel", "--disk path=FILE[,format=auto|raw|qcow2][,readonly]",
                      "--no-reboot", "--config", "(default 512M)"}) {
    EXPECT_NE(text_of({"help", "run"}).find(option), std::string::npos) << option;
  }
  EXPECT_EQ(text_of({"run", "--help"}), text_of({"help", "run"}));
  EXPECT_EQ(text_of({"run", "--cpus", "3", "-h"}), text_of({"help", "run"}));
  EXPECT_EQ(text_of({"doctor", "--help"}), text_of({"help", "doctor"}));
  EXPECT_NE(text_of({"help"}), "");
  EXPECT_EQ(text_of({"--version"}), version_text());
}

TEST(Doctor, Json) {
  EXPECT_FALSE(std::get<DoctorCommand>(*parse_command({"doctor"})).json);
  EXPECT_TRUE(std::get<DoctorCommand>(*parse_command({"doctor", "--json"})).json);
}

TEST(Launch, TheSpecTravelsInAMemfd) {
  schema::MachineSpec spec, back;
  spec.kernel = "k";
  spec.cpus = 9;
  auto fd = spec_fd(spec);
  ASSERT_TRUE(fd);
  auto text = read_file(fmt::format("/proc/self/fd/{}", fd->get()));
  ASSERT_TRUE(text);
  ASSERT_TRUE(schema::merge_json_text(*text, "spec", back));
  EXPECT_EQ(back, spec);
}

TEST(Launch, TheEnvironmentNamesTheVmm) {
  setenv("SKERRY_VMM", "/nonexistent/vmm", 1);
  EXPECT_EQ(*find_vmm(), "/nonexistent/vmm");
  unsetenv("SKERRY_VMM");
  EXPECT_NE(exec_program("/nonexistent/vmm", {}).what.find("/nonexistent/vmm"), std::string::npos);
}

}  // namespace
}  // namespace skerry::cli
