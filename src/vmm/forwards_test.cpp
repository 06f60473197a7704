#include "vmm/forwards.hpp"

#include <gtest/gtest.h>

namespace skerry::vmm {
namespace {

schema::MachineSpec with(const std::string& net) {
  schema::MachineSpec spec;
  spec.nets.push_back(*schema::NetSpec::from_text(net));
  return spec;
}

TEST(Forwards, PortZeroBecomesAFreeOne) {
  auto spec = with("user,hostfwd=tcp:127.0.0.1:0-:22,hostfwd=udp::0-:53,hostfwd=tcp::7-:8");
  ASSERT_TRUE(*choose_ports(spec));
  const auto& texts = spec.nets[0].hostfwd;
  auto ssh = schema::parse_hostfwd(texts[0]);
  EXPECT_NE(ssh->host_port, 0);
  EXPECT_EQ(ssh->host, "127.0.0.1");
  EXPECT_EQ(ssh->guest_port, 22);
  EXPECT_NE(schema::parse_hostfwd(texts[1])->host_port, 0);
  EXPECT_EQ(texts[2], "tcp::7-:8");
  EXPECT_FALSE(*choose_ports(spec));
}

TEST(Forwards, AnAddressThatTheHostHasNotIsAnError) {
  auto spec = with("user,hostfwd=tcp:192.0.2.1:0-:22");
  auto done = choose_ports(spec);
  ASSERT_FALSE(done);
  EXPECT_NE(done.error().what.find("tcp:192.0.2.1:0-:22"), std::string::npos);
}

TEST(Forwards, TheWayInIsTold) {
  auto spec = with("user,hostfwd=tcp::80-:80,hostfwd=tcp:127.0.0.1:2222-:22");
  EXPECT_EQ(ssh_advice(spec), "log in with: ssh -p 2222 127.0.0.1");
  spec.user = "ann";
  EXPECT_EQ(ssh_advice(spec), "log in with: ssh -p 2222 ann@127.0.0.1");
  spec.control = "unix:/tmp/c";
  EXPECT_EQ(ssh_advice(spec), "log in with: skerry ssh unix:/tmp/c");
  EXPECT_EQ(ssh_advice(with("user")), "");
  spec = with("user");
  spec.ssh_keys = {"k.pub"};
  EXPECT_NE(ssh_advice(spec).find("hostfwd=tcp:127.0.0.1:0-:22"), std::string::npos);
  EXPECT_EQ(ssh_advice(with("switch,name=a")), "");
}

}  // namespace
}  // namespace skerry::vmm
