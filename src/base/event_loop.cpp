#include "base/event_loop.hpp"

#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>
#include <algorithm>
#include <cerrno>

namespace skerry {

namespace {
constexpr Nanos kLeastSpin = 8'000, kMostSpin = 50'000;
}

Result<std::unique_ptr<EventLoop>> EventLoop::create(const Clock& clock) {
  std::unique_ptr<EventLoop> loop(new EventLoop(clock));
  loop->epoll_ = Fd(::epoll_create1(EPOLL_CLOEXEC));
  if (!loop->epoll_) return fail_errno("cannot create an epoll descriptor");
  loop->wake_ = TRY(Fd::event());
  loop->timer_ = Fd(::timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC));
  if (!loop->timer_) return fail_errno("cannot create a timerfd");
  for (int fd : {loop->wake_.get(), loop->timer_.get()}) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.fd = fd;
    if (::epoll_ctl(loop->epoll_.get(), EPOLL_CTL_ADD, fd, &event) < 0)
      return fail_errno("cannot watch a descriptor");
  }
  return loop;
}

EventLoop::~EventLoop() = default;

Result<> EventLoop::watch(int fd, u32 events, std::function<void(u32)> ready) {
  std::lock_guard lock(mutex_);
  epoll_event event{};
  event.events = events;
  event.data.fd = fd;
  int op = watches_.contains(fd) ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
  if (::epoll_ctl(epoll_.get(), op, fd, &event) < 0)
    return fail_errno(fmt::format("cannot watch descriptor {}", fd));
  watches_[fd] = std::make_shared<Watch>(Watch{std::move(ready)});
  return {};
}

void EventLoop::unwatch(int fd) {
  std::lock_guard lock(mutex_);
  if (watches_.erase(fd)) ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
}

void EventLoop::post(std::function<void()> work) {
  {
    std::lock_guard lock(mutex_);
    posted_.push_back(std::move(work));
  }
  if (thread_.load(std::memory_order_relaxed) == std::this_thread::get_id()) {
    posted_here_ = true;
  } else {
    signal_event(wake_.get());
  }
}

EventLoop::TimerId EventLoop::call_at(Nanos deadline, std::function<void()> work) {
  std::lock_guard lock(mutex_);
  TimerId id = next_timer_++;
  timers_.emplace(std::pair(deadline, id), std::move(work));
  deadlines_.emplace(id, deadline);
  if (timers_.begin()->first.second == id) arm_locked();
  return id;
}

bool EventLoop::cancel(TimerId id) {
  std::lock_guard lock(mutex_);
  auto it = deadlines_.find(id);
  if (it == deadlines_.end()) return false;
  timers_.erase({it->second, id});
  deadlines_.erase(it);
  return true;  // a timerfd that fires early finds nothing due: harmless, and cheaper than
                // re-arming
}

void EventLoop::reconsider_timers() {
  std::lock_guard lock(mutex_);
  armed_.reset();
  arm_locked();
}

/// An earlier time than is needed does no harm: nothing is due then, and it is set anew.
void EventLoop::arm_locked() {
  if (timers_.empty()) return;
  Nanos first = timers_.begin()->first.first;
  if (armed_ && *armed_ <= first) return;
  Nanos wait = std::max<Nanos>(first - clock_.now(), 1);
  itimerspec spec{};
  spec.it_value = {static_cast<time_t>(wait / 1'000'000'000),
                   static_cast<long>(wait % 1'000'000'000)};
  if (::timerfd_settime(timer_.get(), 0, &spec, nullptr) == 0) armed_ = first;
}

void EventLoop::run_due() {
  for (;;) {
    std::function<void()> work;
    {
      std::lock_guard lock(mutex_);
      if (timers_.empty() || timers_.begin()->first.first > clock_.now()) {
        arm_locked();
        return;
      }
      auto first = timers_.begin();
      work = std::move(first->second);
      deadlines_.erase(first->first.second);
      timers_.erase(first);
    }
    work();
  }
}

void EventLoop::run_posted() {
  std::vector<std::function<void()>> work;
  posted_here_ = false;
  {
    std::lock_guard lock(mutex_);
    work.swap(posted_);
  }
  for (auto& w : work) w();
}

void EventLoop::dispatch(std::span<const epoll_event> events) {
  thread_.store(std::this_thread::get_id(), std::memory_order_relaxed);
  bool posted = false;
  for (const epoll_event& event : events) {
    int fd = event.data.fd;
    if (fd == timer_.get()) {
      u64 expirations;
      [[maybe_unused]] ssize_t got = ::read(fd, &expirations, sizeof expirations);
      std::lock_guard lock(mutex_);
      armed_.reset();  // run_due() below
      continue;
    }
    if (fd == wake_.get()) {
      drain_event(fd);
      posted = true;
      continue;
    }
    std::shared_ptr<Watch> watch;
    {
      std::lock_guard lock(mutex_);
      if (auto it = watches_.find(fd); it != watches_.end()) watch = it->second;
    }
    if (watch) watch->ready(event.events);
  }
  if (posted || posted_here_) run_posted();
  run_due();
  thread_.store(std::thread::id(), std::memory_order_relaxed);
}

void EventLoop::run_once(int timeout_ms) {
  epoll_event events[32];
  int n = ::epoll_wait(epoll_.get(), events, std::size(events), posted_here_ ? 0 : timeout_ms);
  dispatch({events, static_cast<size_t>(std::max(n, 0))});
}

// How long to look is doubled when something came soon after it had given up, and halved when not:
// a quiet loop does not look at all.
int EventLoop::wait(std::span<epoll_event> events) {
  auto poll = [&](int timeout) {
    return ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), timeout);
  };
  if (posted_here_) return poll(0);
  Nanos began = HostClock::monotonic();
  if (spin_ > 0) {
    do {
      if (int n = poll(0)) return n;
    } while (HostClock::monotonic() - began < spin_);
  }
  int n = poll(-1);
  bool soon = HostClock::monotonic() - began <= kMostSpin;
  spin_ = soon ? std::clamp<Nanos>(2 * spin_, kLeastSpin, kMostSpin) : spin_ / 2;
  if (spin_ < kLeastSpin) spin_ = 0;
  return n;
}

void EventLoop::run() {
  static const bool alone = std::thread::hardware_concurrency() < 2;
  epoll_event events[32];
  while (!stopping_.load(std::memory_order_acquire)) {
    if (alone) {
      run_once(-1);
      continue;
    }
    int n = wait(events);
    dispatch({events, static_cast<size_t>(std::max(n, 0))});
  }
  stopping_ = false;
}

void EventLoop::stop() {
  stopping_.store(true, std::memory_order_release);
  signal_event(wake_.get());
}

}  // namespace skerry
