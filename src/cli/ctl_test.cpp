#include "cli/ctl.hpp"

#include <gtest/gtest.h>

namespace skerry::cli {
namespace {

using Args = std::vector<std::string>;

std::string error_of(const Args& args) {
  auto command = parse_ctl(args);
  return command ? "accepted" : command.error().message();
}

TEST(Ctl, VerbsAndTheirArguments) {
  auto status = parse_ctl({"unix:/s", "status", "--json"});
  ASSERT_TRUE(status);
  EXPECT_EQ(status->path, "/s");
  EXPECT_EQ(status->action, "status");
  EXPECT_EQ(status->arguments, "{}");
  EXPECT_TRUE(status->json);

  for (Args args : {Args{"/s", "screen", "console1", "--bytes", "12"},
                    Args{"/s", "screen", "--line=console1", "--bytes=12"},
                    Args{"/s", "screen", "console1", "12"}}) {
    auto screen = parse_ctl(args);
    ASSERT_TRUE(screen) << screen.error().message();
    EXPECT_EQ(screen->arguments, R"({"line":"console1","bytes":12})");
  }
  EXPECT_EQ(parse_ctl({"/s", "power-button"})->action, "power_button");
  EXPECT_EQ(parse_ctl({"/s", "power_button"})->action, "power_button");
  EXPECT_EQ(parse_ctl({"/s", "events"})->arguments, "{}");  // what is left out is not sent
  EXPECT_EQ(parse_ctl({"/s", "events", "--after", "0"})->arguments, R"({"after":0})");
  EXPECT_EQ(parse_ctl({"/s", "disk-resize", "disk0", "2G"})->arguments,
            R"({"disk":"disk0","size":"2G"})");
  EXPECT_EQ(parse_ctl({"/s", "disk-limits", "disk1", "--iops", "0"})->arguments,
            R"({"disk":"disk1","iops":0})");
  EXPECT_EQ(parse_ctl({"/s", "link", "net1", "down"})->arguments,
            R"({"card":"net1","cable":"down"})");
}

TEST(Ctl, MistakesAreNamed) {
  EXPECT_NE(error_of({}).find("no control socket"), std::string::npos);
  EXPECT_NE(error_of({"/s"}).find("no verb"), std::string::npos);
  EXPECT_NE(error_of({"/s", "stauts"}).find("did you mean 'status'"), std::string::npos);
  EXPECT_NE(error_of({"/s", "screen", "--byts", "1"}).find("--byts"), std::string::npos);
  EXPECT_NE(error_of({"/s", "screen", "--bytes"}).find("needs a value"), std::string::npos);
  EXPECT_NE(error_of({"/s", "screen", "--bytes", "70000"}).find("out of range"), std::string::npos);
  EXPECT_NE(error_of({"/s", "pause", "now"}).find("'now'"), std::string::npos);
  EXPECT_NE(error_of({"/s", "disk-resize", "disk0"}).find("'size' is missing"), std::string::npos);
  EXPECT_NE(error_of({"/s", "link", "net0", "of"}).find("as_it_is, up, down"), std::string::npos);
}

TEST(Ctl, HelpNamesEveryVerbAndItsOptions) {
  for (const char* verb : {"status", "power-button", "statistics", "console", "schema"})
    EXPECT_NE(ctl_help().find(verb), std::string::npos) << verb;
  EXPECT_NE(ctl_help("screen").find("--bytes N"), std::string::npos);
  EXPECT_NE(ctl_help("screen").find("(default 4096)"), std::string::npos);
  EXPECT_EQ(ctl_help("events").find("18446744073709551615"), std::string::npos);
}

TEST(Ctl, AnswersForPeople) {
  EXPECT_EQ(ctl_text("pause", "{}"), "paused\n");
  EXPECT_EQ(ctl_text("screen", R"({"text": "login:\r\n", "written": 8})"), "login:\n");
  EXPECT_EQ(
      ctl_text("status", R"({"name": "vm", "state": "running", "reason": "", "memory": 536870912,
                                   "time": 1500000000, "lines": ["serial0", "console0"]})"),
      "name            vm\n"
      "state           running\n"
      "memory          512.0 MiB\n"
      "time            1.500 s\n"
      "lines           serial0 console0\n");
  EXPECT_EQ(
      ctl_text("statistics",
               R"({"engine": "soft", "cpus": [{"counters": [{"name": "halts", "value": 1234}]}],
                                       "devices": [{"name": "disk0", "counters": [{"name": "reads", "value": 7}]}]})"),
      "engine          soft\n"
      "cpu0\n"
      "  halts                                          1,234\n"
      "disk0\n"
      "  reads                                              7\n");
}

}  // namespace
}  // namespace skerry::cli
