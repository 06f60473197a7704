// One thread that waits for descriptors, timers and posted work, and runs their callbacks in turn.
//
// post(), call_at(), cancel() and stop() may be called from any thread; callbacks run on the thread
// in run(). A callback may add or remove watches and timers, its own included.
//
// Before it sleeps, run() looks for some microseconds whether something comes, as long as that has
// just been worth while: waking a thread takes longer than most of what it is woken for.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <thread>
#include <vector>

#include "base/clock.hpp"
#include "base/fd.hpp"

struct epoll_event;

namespace skerry {

class EventLoop {
 public:
  /// `clock` is the time base of call_at and outlives the loop.
  static Result<std::unique_ptr<EventLoop>> create(const Clock& clock);
  ~EventLoop();

  /// Calls `ready(epoll events)` when `fd` has any of `events` (EPOLLIN, EPOLLOUT...).
  /// Level-triggered. `fd` stays the caller's and is unwatched before it is closed. Any thread.
  Result<> watch(int fd, u32 events, std::function<void(u32)> ready);
  /// After it returns on the loop's own thread the callback does not run again.
  void unwatch(int fd);

  /// Runs `work` soon.
  void post(std::function<void()> work);

  using TimerId = u64;
  /// Runs `work` once when clock.now() reaches `deadline`. Never returns 0.
  TimerId call_at(Nanos deadline, std::function<void()> work);
  /// True if it had not begun to run.
  bool cancel(TimerId id);
  /// The clock jumped or was restarted: look at the deadlines again.
  void reconsider_timers();

  /// Dispatches until stop().
  void run();
  void stop();
  /// Dispatches what is ready, waiting at most `timeout_ms` (-1: for ever). For tests.
  void run_once(int timeout_ms);

 private:
  explicit EventLoop(const Clock& clock) : clock_(clock) {}
  int wait(std::span<epoll_event> events);
  void dispatch(std::span<const epoll_event> events);
  void run_posted();
  void run_due();

  struct Watch {
    std::function<void(u32)> ready;
  };

  const Clock& clock_;
  Fd epoll_, wake_, timer_;
  std::atomic<bool> stopping_{false};
  std::mutex mutex_;  ///< guards what follows; never held while a callback runs
  std::map<int, std::shared_ptr<Watch>> watches_;
  std::vector<std::function<void()>> posted_;
  std::atomic<bool> posted_here_{false};   ///< by a callback: nobody needs waking
  std::atomic<std::thread::id> thread_{};  ///< that dispatches now
  std::map<std::pair<Nanos, TimerId>, std::function<void()>> timers_;
  std::map<TimerId, Nanos> deadlines_;
  TimerId next_timer_ = 1;
  std::optional<Nanos> armed_;  ///< the deadline that timer_ stands at
  Nanos spin_ = 0;              ///< how long run() looks before it sleeps
  void arm_locked();
};

}  // namespace skerry
