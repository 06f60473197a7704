// Control: what the actions of schema/action.hpp do to this machine, over a ControlServer.
//
// Immediate actions are answered on the server's thread, the others on the session's main thread,
// in turn. No answer is given twice or forgotten while the machine lives.
#pragma once

#include "board/board.hpp"
#include "schema/action.hpp"
#include "vmm/control_server.hpp"

namespace skerry::vmm {

class Control {
 public:
  struct Host {
    const schema::MachineSpec& spec;
    EventLoop& channel_loop;  ///< where lines are fed
    /// One per serial port, then one per console.
    std::vector<std::unique_ptr<Screen>>& screens;
    /// Runs the work on the main thread, soon. Any thread.
    std::function<void(std::function<void()>)> on_main;
    /// Ends the machine. Any thread.
    std::function<void()> stop;
    bool debugged = false;  ///< gdb decides when the machine runs
  };

  static Result<std::unique_ptr<Control>> listen(const std::string& path, Host host);
  /// The machine is there; answers begin.
  void start(board::Board& board);

  // ---- the session tells. Main thread unless it says otherwise.
  /// Before Machine::pause(): why. Any thread.
  void set_reason(std::string reason);
  void guest_does(schema::GuestDoing what);
  void ended(int status);
  /// Pauses the machine for this reason, if it is not paused, until somebody resumes it.
  void pause_for(std::string reason);
  /// A line has room for input again. Any thread.
  void room() { server_->room(); }
  /// Any thread. More than a few in a second are dropped.
  void device_event(const std::string& device, std::string_view what);

  /// A machine that runs stands still while `work` reads it; nobody is told. Main thread.
  void while_paused(const std::function<void()>& work);

 private:
  explicit Control(Host host) : host_(std::move(host)) {}
  void request(ControlServer::ClientId client, const std::string& line);
  template <class A>
  void run(A action, ControlServer::ClientId client, const std::string& id,
           const typename A::Request& arguments);
  void machine_changed(bool paused);
  void type(ControlServer::ClientId client, size_t line, std::string bytes);
  void tell_state(schema::Phase state, u32 status);
  schema::Answer<size_t> line_index(const std::string& name) const;
  schema::Answer<virtio::Blk*> disk(const std::string& name) const;
  schema::Answer<void> not_debugged() const;

  schema::Answer<schema::StatusAction::Response> perform(schema::StatusAction,
                                                         const schema::Nothing&);
  schema::Answer<schema::Nothing> perform(schema::PauseAction, const schema::Nothing&);
  schema::Answer<schema::Nothing> perform(schema::ResumeAction, const schema::Nothing&);
  schema::Answer<schema::Nothing> perform(schema::PowerButtonAction, const schema::Nothing&);
  schema::Answer<schema::Nothing> perform(schema::ResetAction, const schema::Nothing&);
  schema::Answer<schema::Nothing> perform(schema::StopAction, const schema::Nothing&);
  schema::Answer<schema::StatisticsAction::Response> perform(schema::StatisticsAction,
                                                             const schema::Nothing&);
  schema::Answer<schema::ScreenAction::Response> perform(schema::ScreenAction,
                                                         const schema::ScreenAction::Request&);

  schema::Answer<schema::BalloonAction::Response> perform(schema::BalloonAction,
                                                          const schema::BalloonAction::Request&);

  schema::Answer<schema::NewGenerationAction::Response> perform(schema::NewGenerationAction,
                                                                const schema::Nothing&);
  schema::Answer<schema::DiskResizeAction::Response> perform(
      schema::DiskResizeAction, const schema::DiskResizeAction::Request&);
  schema::Answer<schema::DiskLimitsAction::Response> perform(
      schema::DiskLimitsAction, const schema::DiskLimitsAction::Request&);
  schema::Answer<schema::LinkAction::Response> perform(schema::LinkAction,
                                                       const schema::LinkAction::Request&);

  Host host_;
  board::Board* board_ = nullptr;
  Nanos began_ = 0;  ///< the machine's clock when it was powered on
  std::atomic<schema::Phase> phase_{schema::Phase::paused};
  std::atomic<bool> brief_{false};  ///< within while_paused()
  mutable std::mutex mutex_;
  std::string reason_ = "not started yet";
  Nanos device_events_since_ = 0;
  unsigned device_events_ = 0;
  std::unique_ptr<ControlServer> server_;  ///< ends first
};

}  // namespace skerry::vmm
