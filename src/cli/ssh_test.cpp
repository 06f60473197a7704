#include "cli/ssh.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace skerry::cli {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::string error_of(const std::vector<std::string>& args) {
  auto parsed = parse_ssh(args);
  return parsed ? "accepted" : parsed.error().message();
}

constexpr std::string_view kStatus =
    R"({"name": "vm", "state": "running", "user": "ann", "ssh_keys": ["/k/a.pub", "/k/b.pub"],
        "nets": [{"name": "net0", "forwards": []},
                 {"name": "net1", "forwards": ["udp::22-:22", "tcp::80-:80", "tcp::2222-:22"]}]})";

TEST(Ssh, Arguments) {
  auto c = parse_ssh({"unix:/s", "--user", "bob", "-i", "k", "-o", "A=1", "--option=B=2",
                      "--timeout", "5", "--print", "--", "ls", "--user", "x"});
  ASSERT_TRUE(c) << c.error().message();
  EXPECT_EQ(c->path, "/s");
  EXPECT_EQ(c->user, "bob");
  EXPECT_THAT(c->keys, ElementsAre("k"));
  EXPECT_THAT(c->options, ElementsAre("A=1", "B=2"));
  EXPECT_EQ(c->timeout, 5u);
  EXPECT_TRUE(c->print);
  EXPECT_THAT(c->command, ElementsAre("ls", "--user", "x"));
  EXPECT_TRUE(parse_ssh({"/s"})->command.empty());
}

TEST(Ssh, Mistakes) {
  EXPECT_THAT(error_of({}), HasSubstr("no control socket given"));
  EXPECT_THAT(error_of({"--", "ls"}), HasSubstr("no control socket given"));
  EXPECT_THAT(error_of({"/s", "ls"}), HasSubstr("write -- before the command"));
  EXPECT_THAT(error_of({"/s", "--usr", "x"}), HasSubstr("did you mean --user?"));
  EXPECT_THAT(error_of({"/s", "--timeout", "soon"}), HasSubstr("'soon' is no time"));
  EXPECT_THAT(error_of({"/s", "--user"}), HasSubstr("needs a value"));
}

TEST(Ssh, TheWordsOfTheClient) {
  auto target = ssh_target(kStatus);
  ASSERT_TRUE(target) << target.error().message();
  auto only_b = [](const std::string& path) { return path == "/k/b"; };
  EXPECT_THAT(
      ssh_words(*parse_ssh({"/s"}), *target, only_b),
      ElementsAre("ssh", "-p", "2222", "-l", "ann", "-i", "/k/b", "-o", "StrictHostKeyChecking=no",
                  "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "127.0.0.1"));
  EXPECT_THAT(ssh_words(*parse_ssh({"/s", "--user", "root", "-i", "mine", "-o", "LogLevel=INFO",
                                    "--", "-x", "a b"}),
                        *target, only_b),
              ElementsAre("ssh", "-p", "2222", "-l", "root", "-i", "mine", "-o", "LogLevel=INFO",
                          "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
                          "-o", "LogLevel=ERROR", "127.0.0.1", "--", "-x", "a b"));
  target->user.clear();
  target->forward.host = "::";
  auto words = ssh_words(*parse_ssh({"/s"}), *target, only_b);
  EXPECT_EQ(words[4], "debian");
  EXPECT_EQ(words.back(), "::1");
}

TEST(Ssh, AMachineWithoutAForwardSaysHowToMakeOne) {
  auto none = ssh_target(R"({"name": "vm", "nets": [{"forwards": ["tcp::80-:80"]}]})");
  ASSERT_FALSE(none);
  EXPECT_THAT(none.error().what, HasSubstr("machine 'vm': it has no forward of port 22"));
  EXPECT_THAT(none.error().hint, HasSubstr("hostfwd=tcp:127.0.0.1:0-:22"));
  EXPECT_FALSE(ssh_target("{}"));
  EXPECT_FALSE(ssh_target("[]"));
  EXPECT_FALSE(ssh_target("nonsense"));
  EXPECT_FALSE(ssh_target(R"({"nets": [1]})"));
  EXPECT_FALSE(ssh_target(R"({"nets": [{"forwards": [7]}]})"));
}

}  // namespace
}  // namespace skerry::cli
