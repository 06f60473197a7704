#include "virtio/vhost_user_fs.hpp"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>
#include <algorithm>
#include <cerrno>

namespace skerry::virtio {

namespace {

enum Request : u32 {
  get_features = 1,
  set_features = 2,
  set_owner = 3,
  set_mem_table = 5,
  set_vring_num = 8,
  set_vring_addr = 9,
  set_vring_base = 10,
  set_vring_kick = 12,
  set_vring_call = 13,
  get_protocol_features = 15,
  set_protocol_features = 16,
  set_vring_enable = 18
};
constexpr u32 kVersion = 1, kReply = 4, kNeedReply = 8;
constexpr u64 kProtocolFeatures = u64{1} << 30, kReplyAck = u64{1} << 3;
constexpr u16 kSlots = 64;  // requests under way, per queue
constexpr u16 kWrite = 2, kNext = 1, kIndirect = 4;
/// Of our region among the guest's addresses, where no RAM is.
constexpr u64 kShadow = u64{1} << 45;
constexpr int kPatience = 10;  // seconds for an answer

struct Descriptor {
  u64 address;
  u32 length;
  u16 flags, next;
};
struct VringState {
  u32 index, number;
};
struct VringAddress {
  u32 index, flags;
  u64 descriptors, used, available, log;
};
struct Region {
  u64 guest, size, user, offset;
};

template <class T>
std::span<const u8> bytes_of(const T& value) {
  return {reinterpret_cast<const u8*>(&value), sizeof value};
}

}  // namespace

struct VhostUserFs::Message {
  u32 request, flags, size;
};
struct VhostUserFs::Slot {
  Descriptor table[kMaxParts + 1];
  u8 copy[kMaxCopy];
};
struct VhostUserFs::Ring {
  alignas(4096) Descriptor descriptors[kSlots];
  struct {
    u16 flags, index, ring[kSlots], event;
  } available;
  struct {
    alignas(4) u16 flags;
    u16 index;
    struct {
      u32 id, length;
    } ring[kSlots];
    u16 event;
  } used;
  alignas(4096) Slot slots[kSlots];
};

Result<std::unique_ptr<VhostUserFs>> VhostUserFs::create(Environment environment, Launch launch) {
  std::unique_ptr<VhostUserFs> fs(new VhostUserFs(environment, std::move(launch)));
  fs->memory_ = Fd(::memfd_create("skerry-fs-rings", MFD_CLOEXEC));
  constexpr size_t kSize = kQueues * sizeof(Ring);
  if (!fs->memory_ || ::ftruncate(fs->memory_.get(), kSize) < 0)
    return fail_errno("cannot make memory for the rings of a share");
  void* base = ::mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_SHARED, fs->memory_.get(), 0);
  if (base == MAP_FAILED) return fail_errno("cannot map memory for the rings of a share");
  fs->base_ = static_cast<u8*>(base);
  for (Place& place : fs->rings_) {
    place.kick = TRY(Fd::event());
    place.call = TRY(Fd::event());
  }
  TRY_VOID(fs->open());
  return fs;
}

VhostUserFs::~VhostUserFs() {
  stop();
  if (base_) ::munmap(base_, kQueues * sizeof(Ring));
}

VhostUserFs::Ring* VhostUserFs::ring(unsigned queue) const {
  return reinterpret_cast<Ring*>(base_) + queue;
}

std::unexpected<Error> VhostUserFs::lost(std::string_view doing) {
  std::string words = process_ ? process_->last_words() : "";
  Error error{
      fmt::format("virtiofsd ended {}{}{}", doing, words.empty() ? "" : ":\n", words), {}, 0};
  error.hint =
      "in a container it may need sandbox=chroot in --share; without root it needs user namespaces";
  process_.reset();
  return std::unexpected(std::move(error));
}

Result<> VhostUserFs::send(u32 request, std::span<const u8> payload, std::span<const int> fds,
                           bool acknowledge) {
  acknowledge = acknowledge && acknowledges_;
  Message m{request, kVersion | (acknowledge ? kNeedReply : 0), static_cast<u32>(payload.size())};
  iovec parts[2] = {{&m, sizeof m}, {const_cast<u8*>(payload.data()), payload.size()}};
  msghdr header{};
  header.msg_iov = parts;
  header.msg_iovlen = 2;
  alignas(cmsghdr) char control[CMSG_SPACE(8 * sizeof(int))] = {};
  if (!fds.empty()) {
    header.msg_control = control;
    header.msg_controllen = CMSG_SPACE(fds.size_bytes());
    cmsghdr* c = CMSG_FIRSTHDR(&header);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(fds.size_bytes());
    std::memcpy(CMSG_DATA(c), fds.data(), fds.size_bytes());
  }
  auto whole = static_cast<ssize_t>(sizeof m + payload.size());
  if (::sendmsg(process_->socket(), &header, MSG_NOSIGNAL) != whole)
    return lost("before it was set up");
  if (!acknowledge) return {};
  u64 status = TRY(receive(request));
  if (status != 0) return fail("virtiofsd refuses vhost-user request {}", request);
  return {};
}

Result<u64> VhostUserFs::receive(u32 request) {
  struct {
    Message m;
    u8 payload[8];
  } reply{};
  size_t got = 0;
  while (got < sizeof reply) {
    pollfd p{process_->socket(), POLLIN, 0};
    int ready = ::poll(&p, 1, kPatience * 1000);
    if (ready < 0 && errno == EINTR) continue;
    if (ready == 0) return fail("virtiofsd does not answer within {} s", kPatience);
    ssize_t n = ::recv(process_->socket(), reinterpret_cast<u8*>(&reply) + got, sizeof reply - got,
                       MSG_DONTWAIT);
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (n <= 0) return lost("at its start");
    got += static_cast<size_t>(n);
  }
  if (reply.m.request != request || !(reply.m.flags & kReply) || reply.m.size != 8)
    return fail("virtiofsd answers vhost-user request {} with nonsense", request);
  return load<u64>(reply.payload);
}

Result<u64> VhostUserFs::ask(u32 request) {
  TRY_VOID(send(request, {}));
  return receive(request);
}

/// A process that has said what it can.
Result<> VhostUserFs::open() {
  process_ = TRY(launch_());
  acknowledges_ = false;
  u64 features = TRY(ask(get_features));
  constexpr u64 kWanted = kFeatureVersion1 | kFeatureIndirect | kProtocolFeatures;
  if ((features & kWanted) != kWanted)
    return fail("virtiofsd offers the features {:#x}, of which {:#x} are missing", features,
                kWanted & ~features);
  TRY_VOID(send(set_owner, {}));
  u64 protocol = TRY(ask(get_protocol_features)) & kReplyAck;
  TRY_VOID(send(set_protocol_features, bytes_of(protocol)));
  acknowledges_ = protocol & kReplyAck;
  return send(set_features, bytes_of(kWanted), {}, true);
}

Result<> VhostUserFs::share_memory() {
  struct {
    u32 count, padding;
    Region regions[8];
  } table{};
  std::vector<int> fds;
  auto add = [&](u64 guest, u64 size, const void* host, u64 offset, int fd) {
    table.regions[table.count++] = {guest, size, reinterpret_cast<u64>(host), offset};
    fds.push_back(fd);
  };
  memory::GuestMemory& memory = environment_.memory;
  for (const memory::Slot& s : memory.slots())
    if (s.writable && table.count < 7) add(s.start, s.size, s.host, s.offset, memory.fd());
  add(kShadow, kQueues * sizeof(Ring), base_, 0, memory_.get());
  return send(set_mem_table, bytes_of(table).first(8 + table.count * sizeof(Region)), fds, true);
}

Result<> VhostUserFs::start_ring(unsigned queue) {
  Ring* r = ring(queue);
  Place& place = rings_[queue];
  std::memset(static_cast<void*>(r), 0, offsetof(Ring, slots));
  drain_event(place.kick.get());
  drain_event(place.call.get());
  place.next_used = place.next_available = 0;
  place.free.clear();
  for (u16 i = kSlots; i > 0; --i) place.free.push_back(static_cast<u16>(i - 1));
  auto pointer = [](const void* p) { return reinterpret_cast<u64>(p); };
  TRY_VOID(send(set_vring_num, bytes_of(VringState{queue, kSlots})));
  TRY_VOID(send(set_vring_base, bytes_of(VringState{queue, 0})));
  TRY_VOID(
      send(set_vring_addr, bytes_of(VringAddress{queue, 0, pointer(r->descriptors),
                                                 pointer(&r->used), pointer(&r->available), 0})));
  TRY_VOID(send(set_vring_call, bytes_of(u64{queue}), std::array{place.call.get()}));
  TRY_VOID(send(set_vring_kick, bytes_of(u64{queue}), std::array{place.kick.get()}));
  return send(set_vring_enable, bytes_of(VringState{queue, 1}), {}, true);
}

Result<> VhostUserFs::start() {
  if (running_) return {};
  if (!process_) TRY_VOID(open());
  auto set_up = [&]() -> Result<> {
    TRY_VOID(share_memory());
    for (unsigned q = 0; q < kQueues; ++q) TRY_VOID(start_ring(q));
    auto tell = [this](u32) {
      for (Place& place : rings_) drain_event(place.call.get());
      if (ready) ready();
    };
    watched_ = true;
    for (Place& place : rings_) TRY_VOID(environment_.loop.watch(place.call.get(), EPOLLIN, tell));
    // Once: collect() looks for itself.
    return environment_.loop.watch(process_->socket(), EPOLLONESHOT, tell);
  };
  if (auto done = set_up(); !done) {
    stop();
    return done;
  }
  running_ = true;
  return {};
}

void VhostUserFs::unwatch() {
  if (!std::exchange(watched_, false)) return;
  for (Place& place : rings_) environment_.loop.unwatch(place.call.get());
  if (process_) environment_.loop.unwatch(process_->socket());
}

void VhostUserFs::stop() {
  unwatch();
  running_ = false;
  process_.reset();
}

u64 VhostUserFs::address_of(const void* host) const {
  auto* at = static_cast<const u8*>(host);
  for (const memory::Slot& s : environment_.memory.slots())
    if (at >= s.host && at < s.host + s.size) return s.start + static_cast<u64>(at - s.host);
  return kShadow + static_cast<u64>(at - base_);
}

u32 VhostUserFs::submit(unsigned queue, std::span<const u8> copy, std::span<const iovec> in,
                        std::span<const iovec> out) {
  Place& place = rings_[queue];
  SKERRY_CHECK(!place.free.empty() && copy.size() <= kMaxCopy &&
               in.size() + out.size() <= kMaxParts);
  u16 index = place.free.back();
  place.free.pop_back();
  Ring* r = ring(queue);
  Slot& slot = r->slots[index];
  u16 count = 0;
  auto add = [&](const void* host, size_t length, u16 flags) {
    slot.table[count] = {address_of(host), static_cast<u32>(length),
                         static_cast<u16>(flags | kNext), static_cast<u16>(count + 1)};
    ++count;
  };
  if (!copy.empty()) {
    std::memcpy(slot.copy, copy.data(), copy.size());
    add(slot.copy, copy.size(), 0);
  }
  for (const iovec& part : in) add(part.iov_base, part.iov_len, 0);
  for (const iovec& part : out) add(part.iov_base, part.iov_len, kWrite);
  slot.table[count - 1].flags &= static_cast<u16>(~kNext);
  r->descriptors[index] = {address_of(slot.table), static_cast<u32>(count * sizeof(Descriptor)),
                           kIndirect, 0};
  r->available.ring[place.next_available % kSlots] = index;
  ++place.next_available;
  std::atomic_ref(r->available.index).store(place.next_available, std::memory_order_seq_cst);
  signal_event(place.kick.get());
  return queue << 16 | index;
}

std::vector<std::pair<u32, u32>> VhostUserFs::collect() {
  std::vector<std::pair<u32, u32>> all;
  if (!running_) return all;
  for (unsigned q = 0; q < kQueues; ++q) {
    Place& place = rings_[q];
    Ring* r = ring(q);
    u16 end = std::atomic_ref(r->used.index).load(std::memory_order_acquire);
    while (place.next_used != end) {
      u32 id = r->used.ring[place.next_used % kSlots].id;
      u32 length = r->used.ring[place.next_used % kSlots].length;
      bool under_way =
          id < kSlots && std::find(place.free.begin(), place.free.end(), id) == place.free.end();
      if (!under_way) {
        running_ = false;
        return all;
      }
      ++place.next_used;
      place.free.push_back(static_cast<u16>(id));
      all.emplace_back(q << 16 | id, length);
    }
  }
  pollfd p{process_->socket(), 0, 0};
  if (::poll(&p, 1, 0) == 1) running_ = false;
  return all;
}

void VhostUserFs::wait(int milliseconds) {
  pollfd all[kQueues + 1];
  for (unsigned q = 0; q < kQueues; ++q) all[q] = {rings_[q].call.get(), POLLIN, 0};
  all[kQueues] = {process_ ? process_->socket() : -1, 0, 0};
  ::poll(all, std::size(all), milliseconds);
}

}  // namespace skerry::virtio
