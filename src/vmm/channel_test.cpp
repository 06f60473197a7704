#include "vmm/channel.hpp"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <filesystem>

namespace skerry::vmm {
namespace {

class ChannelTest : public testing::Test {
 protected:
  ChannelTest() : directory_(testing::TempDir() + "channel-XXXXXX") {
    EXPECT_TRUE(::mkdtemp(directory_.data()));
    spec_.kind = schema::SerialKind::unix_;
    spec_.path = directory_ + "/socket";
  }
  ~ChannelTest() override { std::filesystem::remove_all(directory_); }

  Fd connect() {
    Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un to{};
    to.sun_family = AF_UNIX;
    spec_.path.copy(to.sun_path, sizeof to.sun_path - 1);
    EXPECT_EQ(::connect(fd.get(), reinterpret_cast<sockaddr*>(&to), sizeof to), 0);
    return fd;
  }

  std::string directory_;
  schema::SerialSpec spec_;
  HostClock clock_;
  std::unique_ptr<EventLoop> loop_ = std::move(EventLoop::create(clock_)).value();
};

/// A guest that reads what it got before it has been told how much that was.
TEST_F(ChannelTest, RoomMadeWhileInputIsOfferedIsUsed) {
  auto channel = open_channel(spec_, *loop_, nullptr);
  ASSERT_TRUE(channel);
  std::string got;
  (*channel)->set_input([&](std::span<const u8> bytes) -> size_t {
    if (bytes.empty()) return 0;
    got.push_back(static_cast<char>(bytes[0]));
    (*channel)->room();
    return 1;
  });
  Fd user = connect();
  ASSERT_EQ(::write(user.get(), "typed", 5), 5);
  for (int i = 0; i < 100 && got.size() < 5; ++i) loop_->run_once(10);
  EXPECT_EQ(got, "typed");
}

}  // namespace
}  // namespace skerry::vmm
