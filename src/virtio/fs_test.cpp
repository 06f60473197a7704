#include "virtio/fs.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/fuse.h>
#include <sys/socket.h>

#include "virtio/fake_driver.hpp"
#include "virtio/fake_fs.hpp"
#include "virtio/vhost_user_fs.hpp"

namespace skerry::virtio {
namespace {

constexpr u64 kAll = kFeatureVersion1 | kFeatureIndirect | kFeatureEventIdx;
constexpr unsigned kRequests = 1;

class FsTest : public testing::Test {
 protected:
  FsTest() {
    auto owned = std::make_unique<FakeFs>();
    backend = owned.get();
    transport = &rig.plug(
        std::make_unique<Fs>("share0", rig.environment(), "home", false, std::move(owned)));
    driver.emplace(rig, 1);
    EXPECT_TRUE(driver->start(kAll));
  }
  /// A request with `more` after its header, and where its answer goes.
  Gpa ask(u32 opcode, const std::string& more = {}, u32 room = 256) {
    fuse_in_header h{};
    h.len = static_cast<u32>(sizeof h + more.size());
    h.opcode = opcode;
    h.unique = 77;
    std::string head(reinterpret_cast<const char*>(&h), sizeof h);
    Gpa out = driver->allocate(room);
    std::vector<FakeDriver::Buffer> all{
        {driver->place(head), static_cast<u32>(head.size()), false}};
    if (!more.empty()) all.push_back({driver->place(more), static_cast<u32>(more.size()), false});
    if (room) all.push_back({out, room, true});
    driver->put(kRequests, all);
    driver->kick(kRequests);
    rig.run();
    return out;
  }
  void answer(std::string_view bytes) {
    ASSERT_TRUE(backend->answer(bytes));
    backend->ready();
  }
  void expect_error(Gpa out, int error) {
    auto used = driver->used(kRequests);
    ASSERT_TRUE(used);
    EXPECT_EQ(used->length, sizeof(fuse_out_header));
    auto h = rig.memory->read_value<fuse_out_header>(out);
    EXPECT_EQ(h->len, sizeof(fuse_out_header));
    EXPECT_EQ(h->error, -error);
    EXPECT_EQ(h->unique, 77u);
  }

  Rig rig;
  FakeFs* backend;
  TransportPci* transport;
  std::optional<FakeDriver> driver;
};

TEST_F(FsTest, RequestsGoAndComeBackInAnyOrder) {
  EXPECT_EQ(driver->read_config(0, 4), load<u32>(reinterpret_cast<const u8*>("home")));
  EXPECT_EQ(driver->read_config(36, 4), 1u);
  Gpa first = ask(FUSE_WRITE, "data"), second = ask(FUSE_READ);
  ASSERT_EQ(backend->requests.size(), 2u);
  EXPECT_TRUE(backend->requests[0].copy.empty());
  EXPECT_EQ(backend->requests[0].in.size(), 2u);
  EXPECT_FALSE(driver->used(kRequests));
  std::swap(backend->requests[0], backend->requests[1]);
  answer("second");
  EXPECT_EQ(driver->used(kRequests)->length, 6u);
  EXPECT_EQ(driver->text(second, 6), "second");
  answer("first");
  EXPECT_EQ(driver->used(kRequests)->length, 5u);
  EXPECT_EQ(driver->text(first, 5), "first");
}

// What the backend wrote is marked before the guest can see the request used.
TEST_F(FsTest, WhatWasWrittenIsMarked) {
  Gpa out = ask(FUSE_READ, "", 3 * 4096);
  auto& code = rig.memory->dirty().descriptor(out + 4096);
  code.granules = ~u64{0};
  u32 version = code.version;
  (void)rig.memory->dirty().take();
  answer("x");
  EXPECT_TRUE(rig.memory->dirty().test(out));
  EXPECT_TRUE(rig.memory->dirty().test(out + 2 * 4096));
  EXPECT_NE(code.version, version);
}

TEST_F(FsTest, MoreThanThereIsRoomFor) {
  for (unsigned i = 0; i < FakeFs::kRoom + 3; ++i) ask(FUSE_READ);
  EXPECT_EQ(backend->requests.size(), FakeFs::kRoom);
  unsigned used = 0;
  for (unsigned i = 0; i < FakeFs::kRoom + 3; ++i) {
    answer("0123456789abcdef");
    rig.run();
    used += driver->used(kRequests).has_value();
  }
  EXPECT_EQ(used, FakeFs::kRoom + 3);
}

TEST_F(FsTest, TheBackendEnds) {
  Gpa out = ask(FUSE_READ);
  backend->up = false;
  backend->ready();
  expect_error(out, EIO);
  expect_error(ask(FUSE_READ), EIO);
  // The next driver brings up another.
  ASSERT_TRUE(driver->start(kAll));
  ask(FUSE_INIT);
  answer("hello");
  EXPECT_TRUE(driver->used(kRequests));
  backend->broken = true;
  ASSERT_TRUE(driver->start(kAll));
  expect_error(ask(FUSE_INIT), EIO);
}

TEST_F(FsTest, OddRequests) {
  Gpa at = driver->allocate(4096);
  using B = FakeDriver::Buffer;
  for (const std::vector<B>& buffers :
       {std::vector<B>{{at, 39, false}, {at, 64, true}}, std::vector<B>{{at, 64, true}},
        std::vector<B>{{at, 40, false}, {at, 15, true}},
        std::vector<B>{{0, 2 * MiB, false}, {at, 64, true}}}) {
    driver->put(kRequests, buffers);
    driver->kick(kRequests);
    rig.run();
    EXPECT_TRUE(driver->used(kRequests));
  }
  EXPECT_TRUE(backend->requests.empty());
}

TEST_F(FsTest, AResetEndsWhatIsUnderWay) {
  ask(FUSE_READ);
  driver->set(FakeDriver::device_status, 1, 0);
  EXPECT_FALSE(backend->up);
  ASSERT_TRUE(driver->start(kAll));
  EXPECT_EQ(backend->starts, 2u);
}

TEST_F(FsTest, CannotBeSaved) {
  auto can = transport->can_save();
  ASSERT_FALSE(can);
  EXPECT_NE(can.error().message().find("without --share"), std::string::npos);
}

TEST_F(FsTest, OfAReadonlyOneOnlyWhatReadsGetsThrough) {
  auto owned = std::make_unique<FakeFs>();
  backend = owned.get();
  transport =
      &rig.plug(std::make_unique<Fs>("share1", rig.environment(), "home", true, std::move(owned)));
  driver.emplace(rig, 2);
  ASSERT_TRUE(driver->start(kAll));
  for (u32 opcode : {u32{FUSE_SETATTR},
                     u32{FUSE_SYMLINK},
                     u32{FUSE_MKNOD},
                     u32{FUSE_MKDIR},
                     u32{FUSE_UNLINK},
                     u32{FUSE_RMDIR},
                     u32{FUSE_RENAME},
                     u32{FUSE_LINK},
                     u32{FUSE_WRITE},
                     u32{FUSE_SETXATTR},
                     u32{FUSE_REMOVEXATTR},
                     u32{FUSE_CREATE},
                     u32{FUSE_FALLOCATE},
                     u32{FUSE_RENAME2},
                     u32{FUSE_COPY_FILE_RANGE},
                     u32{FUSE_IOCTL},
                     u32{FUSE_SETUPMAPPING},
                     51u,
                     99u,
                     4096u})
    expect_error(ask(opcode, "more"), EROFS);
  auto open = [](u32 flags) {
    fuse_open_in in{flags, 0};
    return std::string(reinterpret_cast<const char*>(&in), sizeof in);
  };
  for (u32 flags : {O_WRONLY, O_RDWR, O_ACCMODE, O_TRUNC, O_CREAT})
    expect_error(ask(FUSE_OPEN, open(flags)), EROFS);
  expect_error(ask(FUSE_OPEN), EINVAL);
  expect_error(ask(FUSE_LOOKUP, std::string(9000, 'x')), EROFS);
  EXPECT_TRUE(backend->requests.empty());
  ask(FUSE_OPEN, open(O_RDONLY));
  ask(FUSE_LOOKUP, "name");
  ASSERT_EQ(backend->requests.size(), 2u);
  // What is checked is what the backend gets.
  EXPECT_EQ(backend->requests[0].copy.size(), Fs::kInHeader + sizeof(fuse_open_in));
  EXPECT_TRUE(backend->requests[0].in.empty());
}

// A process that does not speak vhost-user as it should.
TEST(VhostUser, NonsenseIsAnError) {
  struct Process final : FsProcess {
    explicit Process(Fd fd) : fd(std::move(fd)) {}
    int socket() const override { return fd.get(); }
    Fd fd;
  };
  Rig rig;
  for (bool speaks : {false, true}) {
    int fds[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    Fd theirs(fds[1]);
    if (speaks) {
      std::string nonsense(64, 'x');
      ASSERT_EQ(::send(theirs.get(), nonsense.data(), nonsense.size(), 0), 64);
    } else {
      theirs = Fd();
    }
    auto fs = VhostUserFs::create(rig.environment(), [&]() -> Result<std::unique_ptr<FsProcess>> {
      return std::make_unique<Process>(Fd(fds[0]));
    });
    ASSERT_FALSE(fs);
    EXPECT_NE(fs.error().message().find("virtiofsd"), std::string::npos);
  }
}

}  // namespace
}  // namespace skerry::virtio
