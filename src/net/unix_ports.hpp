// UnixPorts: ports of a vsock as unix sockets, as Firecracker and Cloud Hypervisor have them.
//
// The guest connects to port P of the host (CID 2): Skerry connects to PATH_P, where a program of
// the host listens. The host connects to the guest: a program connects to PATH, writes "CONNECT
// P\n" and reads "OK N\n" (N: the port that it seems to come from) once the guest has accepted; it
// reads the end of file if the guest does not.
//
// Threading: connect() any thread; all else on the loop's.
#pragma once

#include <map>
#include <memory>

#include "net/stream.hpp"
#include "net/stream_host.hpp"

namespace skerry::net {

class UnixPorts final : public StreamHost {
 public:
  /// Clients that have not said yet what they want; the oldest goes when there are more.
  static constexpr size_t kMaxWaiting = 32;

  /// Listens on `path`, with mode 0600; removes it in the end.
  static Result<std::unique_ptr<UnixPorts>> create(EventLoop& loop, const std::string& path);
  ~UnixPorts() override;

  Result<Fd> connect(u32 port) override;

  /// The P of "CONNECT P" (decimal, below 2^32 - 1); nullopt for anything else.
  static std::optional<u32> parse_connect(std::string_view line);

 private:
  UnixPorts(EventLoop& loop, std::string path) : loop_(loop), path_(std::move(path)) {}
  void accept_one();
  void hear(u64 id);

  struct Client {
    std::unique_ptr<Stream> stream;
    std::string line;
  };
  EventLoop& loop_;
  std::string path_;
  Fd listener_;
  std::map<u64, Client> clients_;
  u64 next_id_ = 0;
};

}  // namespace skerry::net
