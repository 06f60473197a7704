// GDB's remote serial protocol over a socket: registers, memory by guest-virtual address,
// breakpoints, watchpoints, single step; one thread per vCPU, all-stop.
//
// Threading: the session runs on a thread of its own. While a debugger is connected it decides when
// the machine runs; the main thread only tells of the end (guest_ended) or of a crash
// (guest_crashed).
#pragma once

#include <condition_variable>
#include <mutex>
#include <set>
#include <thread>

#include "machine/machine.hpp"
#include "schema/machine_spec.hpp"
#include "vmm/gdb_packet.hpp"

namespace skerry::vmm {

class GdbServer {
 public:
  static Result<std::unique_ptr<GdbServer>> listen(const schema::GdbAddress& address,
                                                   machine::Machine& machine);
  ~GdbServer();

  /// Waits for a debugger; the machine is powered on and paused. From then on it controls the
  /// machine.
  void start();
  /// The vCPUs are parked after a triple fault of `cpu`. True if a debugger took it: it stays for
  /// inspection.
  bool guest_crashed(unsigned cpu);
  /// Tells the debugger that the guest ended. The machine stays paused from then on.
  void guest_ended(int status);
  /// The debugger asked for the machine's end.
  bool killed() const { return killed_; }
  /// The address in the form that GDB's `target remote` takes.
  const std::string& where() const { return where_; }

 private:
  explicit GdbServer(machine::Machine& machine) : machine_(machine) {}
  void main();
  void session(int fd);
  void handle(const std::string& packet);
  void reply(std::string_view body);
  void handle_query(std::string_view packet);
  void handle_breakpoint(std::string_view packet);
  void handle_memory(std::string_view packet);
  void handle_registers(std::string_view packet);
  void handle_resume(std::string_view packet);
  void handle_monitor(std::string_view command);
  void resume(int step_cpu, int only_cpu);
  void stop_all();
  void report_stop();
  std::optional<machine::CpuState> state_of(unsigned cpu);
  bool copy_memory(u64 address, std::span<u8> data, bool write);
  bool apply_debug(int step_cpu);
  void rearm_unreported();

  machine::Machine& machine_;
  std::string where_;
  Fd listener_, client_, wake_;
  std::thread thread_;
  std::atomic<bool> ending_{false}, connected_{false}, killed_{false}, ended_{false};
  bool no_ack_ = false;
  GdbStream stream_;

  // The session's view; the hook on vCPU threads and guest_crashed() write hits_.
  std::mutex mutex_, send_mutex_;
  struct Hit {
    unsigned cpu;
    machine::Debug debug;
    int signal;
  };
  std::vector<Hit> hits_;  ///< of this stop; only the first is reported
  bool running_ = false;
  unsigned cpu_ = 0;  ///< the selected thread
  int last_signal_ = 5;
  u64 last_watch_ = 0;
  /// Kind ('0' software, '1' hardware: the same to the engine) and address.
  std::set<std::pair<char, u64>> breakpoints_;
  std::vector<machine::DebugRequest::Watch> watches_;
};

}  // namespace skerry::vmm
