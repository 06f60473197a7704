// ControlServer: the connections of a machine's control socket: lines in, lines and events out.
//
// Knows framing and flow, not what is asked: docs/control.md. Nothing that a client does or leaves
// undone blocks or grows the process: lines, unanswered requests, unsent answers and clients are
// bounded; events and console output are kept once for all clients, each of which has a place in
// them and misses what was overwritten.
//
// Threading: a thread of its own, so that it answers while the machine cannot. Host's callbacks run
// there; the other calls come from any thread.
#pragma once

#include <deque>
#include <map>
#include <thread>

#include "base/event_loop.hpp"
#include "vmm/screen.hpp"

namespace skerry::vmm {

class ControlServer {
 public:
  using ClientId = u64;
  static constexpr size_t kClients = 32, kLongestLine = 64 * KiB, kUnanswered = 8,
                          kUnsent = 64 * KiB, kEvents = 256, kTyped = 4 * KiB;

  struct Host {
    /// A request; answer() follows exactly once, from any thread.
    std::function<void(ClientId, std::string line)> request;
    /// A line that is too long; the connection ends after the text that this returns.
    std::function<std::string()> too_long;
    /// Bytes typed by a client that is a console: typed() follows exactly once with how many were
    /// taken.
    std::function<void(ClientId, size_t line, std::string bytes)> type;
  };

  /// Takes the place of a socket that nobody listens on. `hello` is sent to every client.
  static Result<std::unique_ptr<ControlServer>> listen(const std::string& path, std::string hello,
                                                       Host host);
  /// Sends what can be sent without waiting for longer than a moment, and removes the socket.
  ~ControlServer();
  void start();

  void answer(ClientId client, std::string line);
  /// Answers, and sends events numbered above `after` from now on. On the server's thread.
  void subscribe(ClientId client, std::string line, u64 after);
  /// Answers, and makes the connection the console `index`, which shows `screen`. On the server's
  /// thread.
  void become_console(ClientId client, std::string line, size_t index, Screen& screen, u64 replay);
  void typed(ClientId client, size_t taken);
  /// A console has room again.
  void room();

  /// Tells subscribers; `make` gives the line for the event's number.
  void tell(const std::function<std::string(u64 number)>& make);
  u64 last_event() const;

 private:
  struct Client {
    Fd fd;
    std::string in, out;
    size_t unanswered = 0;
    bool gone = false, ending = false, subscribed = false;
    u64 next_event = 0;
    Screen* screen = nullptr;  ///< it is a console
    size_t line = 0;
    u64 shown = 0;
    bool typing = false, full = false;  ///< bytes are offered; were refused
    u64 rooms = 0;                      ///< rooms_ when they were offered
    u32 watched = 0;
  };
  struct Kept {
    u64 number;
    std::string line;
  };

  ControlServer(std::string path, std::string hello, Host host);
  void accept();
  void ready(ClientId id, u32 events);
  void read_some(ClientId id, Client& client);
  void take_lines(ClientId id, Client& client);
  void offer_typed(ClientId id, Client& client);
  void fill(Client& client);
  void settle(ClientId id);
  void settle_all();
  Client* find(ClientId id);

  std::string path_, hello_;
  Host host_;
  HostClock clock_;
  std::unique_ptr<EventLoop> loop_;
  Fd listener_;
  u64 inode_ = 0;
  std::thread thread_;
  std::map<ClientId, Client> clients_;
  ClientId next_client_ = 1;
  bool closing_ = false;
  u64 rooms_ = 0;                    ///< how often there was room again
  std::atomic<bool> hungry_{false};  ///< somebody wants to know of room

  mutable std::mutex mutex_;  ///< guards the events
  std::deque<Kept> events_;
  u64 last_event_ = 0;
};

}  // namespace skerry::vmm
