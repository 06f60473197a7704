// The LAPIC's timer while translated code runs: nobody counts blocks there, so a POSIX timer's
// signal sets Cpu::attention at the deadline. The signal goes to the vCPU's own thread: no other
// has to wake up for it.
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <mutex>

#include "engine/soft/core.hpp"

namespace skerry::soft {
namespace {

int signal_number() {
  return SIGRTMIN + 1;
}

void on_timer(int, siginfo_t* info, void*) {
  if (info->si_code == SI_TIMER)
    static_cast<Cpu*>(info->si_value.sival_ptr)->attention.fetch_or(kTimer);
}

void install_handler() {
  static std::once_flag once;
  std::call_once(once, [] {
    struct sigaction action {};
    action.sa_sigaction = on_timer;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
    sigemptyset(&action.sa_mask);
    ::sigaction(signal_number(), &action, nullptr);
  });
}

}  // namespace

void Cpu::Core::set_host_timer() {
  if (!lapic || !shared.setup.clock) return;
  const auto deadline = lapic->timer_deadline();
  const Nanos wanted = deadline ? *deadline : -1;
  const int thread = static_cast<int>(::syscall(SYS_gettid));
  if (wanted == host_timer.deadline && thread == host_timer.thread && wanted < 0) return;
  if (thread != host_timer.thread) {
    delete_host_timer();
    install_handler();
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, signal_number());
    ::pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
    struct sigevent event {};
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = signal_number();
    event.sigev_value.sival_ptr = &cpu;
    event._sigev_un._tid = thread;
    timer_t id{};
    SKERRY_CHECK(::timer_create(CLOCK_MONOTONIC, &event, &id) == 0, "the host gives no timer");
    host_timer.id = id;
    host_timer.thread = thread;
  }
  host_timer.deadline = wanted;
  struct itimerspec spec {};
  if (wanted >= 0) {
    const Nanos left = wanted - shared.setup.clock->now();
    if (left <= 0) {
      cpu.attention.fetch_or(kTimer);
      return;
    }
    spec.it_value.tv_sec = left / 1'000'000'000;
    spec.it_value.tv_nsec = left % 1'000'000'000;
  }
  ::timer_settime(host_timer.id, 0, &spec, nullptr);
}

void Cpu::Core::delete_host_timer() {
  if (host_timer.thread) ::timer_delete(host_timer.id);
  host_timer = {};
}

}  // namespace skerry::soft
