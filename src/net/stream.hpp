// Stream: one connected stream socket on an event loop, which never blocks.
//
// Threading: the calls are serialised by the owner (the board lock); `ready` comes on the loop's
// thread without it, and may still come once after the Stream has gone: it must find its owner
// anew (by a number or a weak_ptr), not through the Stream.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string>

#include "base/event_loop.hpp"

namespace skerry::net {

class Stream {
 public:
  /// `ready` gets epoll events. Nothing is waited for until wait_for().
  Stream(EventLoop& loop, Fd fd, std::function<void(u32 events)> ready);
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  /// How many bytes there were, 0 for none now; nullopt: there will be no more.
  std::optional<size_t> read(std::span<u8> to);
  /// How many bytes were taken, 0 for none now; nullopt: nobody will take any.
  std::optional<size_t> write(std::span<const u8> from);
  /// read() would say that there is no more.
  bool at_end() const;
  /// The other side has closed both directions.
  bool hung_up() const;
  void end_output();  ///< the other side reads an end of file
  void end_input();   ///< the other side's writes fail

  /// EPOLLIN, EPOLLOUT or both; 0: only that the other side hangs up. Until the next call.
  void wait_for(u32 events);
  void wait_for_nothing();
  /// The descriptor, for another owner.
  Fd take();

 private:
  EventLoop& loop_;
  Fd fd_;
  std::function<void(u32)> ready_;
  std::optional<u32> waiting_;
};

/// Connects to a listening unix socket, without waiting.
Result<Fd> connect_unix(const std::string& path);

}  // namespace skerry::net
