// Action: one typed command to a running machine, and Event: what a machine tells on its own.
//
// Each is defined once, here: its name, what it does, when it is allowed, its arguments and its
// answer as described structs. Parsing, validation, dispatch (schema/dispatch.hpp), the command
// line (cli/ctl) and the documentation (`skerry ctl PATH schema`) derive from that. docs/control.md
// has the wire protocol.
//
// Compatibility: fields, actions, events and error codes are only ever added; kProtocol changes if
// a name or the framing ever changes its meaning.
#pragma once

#include <array>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "schema/field.hpp"

namespace skerry::schema {

constexpr u32 kProtocol = 1;

/// What a machine is doing.
enum class Phase : u8 { running, paused, ended };
constexpr std::array<std::string_view, 3> enum_names(Phase) {
  return {"running", "paused", "ended"};
}

/// Why a request failed. For programs; the message is for people.
enum class ErrorCode : u8 {
  bad_request,
  unknown_action,
  bad_arguments,
  wrong_phase,
  not_found,
  refused,
  internal
};
constexpr std::array<std::string_view, 7> enum_names(ErrorCode) {
  return {"bad_request", "unknown_action", "bad_arguments", "wrong_phase",
          "not_found",   "refused",        "internal"};
}
constexpr std::array<std::string_view, 7> error_docs() {
  return {"the line is no request: no JSON object, too long, or without an action",
          "there is no such action",
          "an argument is unknown, missing or out of range",
          "the action is not allowed in the machine's state",
          "the machine has no such device or line",
          "the host or the guest cannot do it; the message says why",
          "a bug of Skerry's"};
}

struct ActionError {
  ErrorCode code = ErrorCode::refused;
  Error error;
};
template <class T>
using Answer = std::expected<T, ActionError>;

struct ActionInfo {
  std::string_view name;               ///< snake_case; the command line takes dashes
  std::string_view doc;                ///< what it does
  std::string_view done = {};          ///< what `skerry ctl` says when it is done and has no answer
  bool running = true, paused = true;  ///< in which phases it is allowed
  /// Answered at once, even while the machine cannot be paused (its output blocks). The others are
  /// done one after another by the machine's main thread.
  bool immediate = false;
};
struct EventInfo {
  std::string_view name, doc;
};

struct Nothing {
  static void describe(auto&, auto&) {}
};

struct CounterValue {
  std::string name;
  u64 value = 0;
  static void describe(auto& s, auto& v) {
    v.field({.name = "name", .doc = "what was counted"}, s.name);
    v.field({.name = "value", .doc = "how many, since the start of the process"}, s.value);
  }
};

// ---- actions

struct StatusAction {
  static constexpr ActionInfo info{
      .name = "status", .doc = "what the machine is and does", .immediate = true};
  using Request = Nothing;
  struct NetworkCard {
    std::string name, connection, mac;
    std::vector<std::string> forwards;
    static void describe(auto& s, auto& v) {
      v.field({.name = "name", .doc = "the card"}, s.name);
      v.field({.name = "connection", .doc = "what it is connected to, as in --net"}, s.connection);
      v.field({.name = "mac", .doc = "its address"}, s.mac);
      v.field({.name = "forwards",
               .doc = "host sockets that lead to the guest, as in hostfwd; free ports are chosen"},
              s.forwards);
    }
  };
  struct Response {
    std::string name, engine, version;
    Phase state = Phase::paused;
    std::string reason;
    u32 cpus = 0, pid = 0;
    u64 memory = 0, time = 0;
    std::vector<std::string> lines;
    std::string user;
    std::vector<std::string> ssh_keys;
    std::vector<NetworkCard> nets;
    static void describe(auto& s, auto& v) {
      v.field({.name = "name", .doc = "the machine's name"}, s.name);
      v.field({.name = "state", .doc = "what it is doing"}, s.state);
      v.field({.name = "reason", .doc = "why it is paused; empty while it runs"}, s.reason);
      v.field({.name = "engine", .doc = "what runs the guest: kvm or soft"}, s.engine);
      v.field({.name = "cpus", .doc = "virtual CPUs"}, s.cpus);
      v.field({.name = "memory", .doc = "guest memory, bytes"}, s.memory);
      v.field(
          {.name = "time", .doc = "nanoseconds of guest time since power-on; pauses do not count"},
          s.time);
      v.field({.name = "lines", .doc = "serial ports and consoles, for screen and console"},
              s.lines);
      v.field({.name = "user", .doc = "of --user: for whom the ssh keys are"}, s.user);
      v.field({.name = "ssh_keys", .doc = "the files of --ssh-key, with their whole paths"},
              s.ssh_keys);
      v.field({.name = "nets", .doc = "each network card"}, s.nets);
      v.field({.name = "pid", .doc = "process of the machine"}, s.pid);
      v.field({.name = "version", .doc = "Skerry's version"}, s.version);
    }
  };
};

struct PauseAction {
  static constexpr ActionInfo info{
      .name = "pause",
      .doc =
          "stop all CPUs between two instructions, finish requests of devices, stop the clock. "
          "Of a machine that is paused already: nothing",
      .done = "paused"};
  using Request = Nothing;
  using Response = Nothing;
};

struct ResumeAction {
  static constexpr ActionInfo info{
      .name = "resume",
      .doc = "let a paused machine go on where it was. Of one that runs: nothing",
      .done = "running"};
  using Request = Nothing;
  using Response = Nothing;
};

struct PowerButtonAction {
  static constexpr ActionInfo info{
      .name = "power_button",
      .doc = "press the power button: most guests then shut down in order",
      .done = "pressed the power button",
      .paused = false};
  using Request = Nothing;
  using Response = Nothing;
};

struct ResetAction {
  static constexpr ActionInfo info{
      .name = "reset",
      .doc = "everything back to power-on, without asking the guest. A paused machine stays paused",
      .done = "reset"};
  using Request = Nothing;
  using Response = Nothing;
};

struct StopAction {
  static constexpr ActionInfo info{
      .name = "stop",
      .doc = "end the machine and its process at once, as if unplugged",
      .done = "stopped",
      .immediate = true};
  using Request = Nothing;
  using Response = Nothing;
};

struct StatisticsAction {
  static constexpr ActionInfo info{
      .name = "statistics",
      .doc =
          "what the engine and every device have counted. A running machine stands still for "
          "some microseconds to milliseconds while the CPUs are read"};
  using Request = Nothing;
  struct Cpu {
    std::vector<CounterValue> counters;
    static void describe(auto& s, auto& v) {
      v.field({.name = "counters", .doc = "of this CPU"}, s.counters);
    }
  };
  struct DeviceCounters {
    std::string name;
    std::vector<CounterValue> counters;
    static void describe(auto& s, auto& v) {
      v.field({.name = "name", .doc = "the device"}, s.name);
      v.field({.name = "counters", .doc = "of this device"}, s.counters);
    }
  };
  struct Response {
    std::string engine;
    u64 time = 0, resident = 0, peak_resident = 0, guest_memory = 0;
    std::vector<Cpu> cpus;
    std::vector<DeviceCounters> devices;
    static void describe(auto& s, auto& v) {
      v.field({.name = "engine", .doc = "what runs the guest"}, s.engine);
      v.field({.name = "time", .doc = "nanoseconds of guest time since power-on"}, s.time);
      v.field({.name = "resident", .doc = "memory of the process now, bytes"}, s.resident);
      v.field({.name = "peak_resident", .doc = "the most it was, bytes"}, s.peak_resident);
      v.field({.name = "guest_memory", .doc = "guest memory in use by the host, bytes"},
              s.guest_memory);
      v.field({.name = "cpus", .doc = "each virtual CPU"}, s.cpus);
      v.field({.name = "devices", .doc = "each device that counts"}, s.devices);
    }
  };
};

constexpr u32 kMostScreen = 64 * KiB;
constexpr std::string_view kFirstLine = "serial0";

struct ScreenAction {
  static constexpr ActionInfo info{
      .name = "screen", .doc = "the last output of a serial port or console", .immediate = true};
  struct Request {
    std::string line{kFirstLine};
    u32 bytes = 4096;
    static void describe(auto& s, auto& v) {
      v.field({.name = "line", .doc = "serial0, console0...", .value = "LINE"}, s.line);
      v.field({.name = "bytes", .doc = "at most this much", .min = 1, .max = kMostScreen}, s.bytes);
    }
  };
  struct Response {
    std::string text;
    u64 written = 0;
    static void describe(auto& s, auto& v) {
      v.field({.name = "text", .doc = "what is no UTF-8 is replaced by U+FFFD"}, s.text);
      v.field({.name = "written", .doc = "bytes the guest has written there so far"}, s.written);
    }
  };
};

struct ConsoleAction {
  static constexpr ActionInfo info{
      .name = "console",
      .doc =
          "turn this connection into a serial port or console: after the answer's newline, what "
          "the guest writes comes as it is and what is sent is typed. A reader that is more than "
          "64 KiB behind misses the oldest output",
      .immediate = true};
  struct Request {
    std::string line{kFirstLine};
    u32 replay = 1024;
    static void describe(auto& s, auto& v) {
      v.field({.name = "line", .doc = "serial0, console0...", .value = "LINE"}, s.line);
      v.field(
          {.name = "replay", .doc = "bytes of earlier output to begin with", .max = kMostScreen},
          s.replay);
    }
  };
  using Response = Nothing;
};

struct EventsAction {
  static constexpr ActionInfo info{
      .name = "events",
      .doc =
          "from now on send events on this connection, between answers. Events are numbered; the "
          "last 256 are kept, and a reader that is further behind sees a gap",
      .immediate = true};
  struct Request {
    u64 after = ~u64{0};
    static void describe(auto& s, auto& v) {
      v.field(
          {.name = "after",
           .doc = "begin with the kept events that have a greater number; left out: new ones only"},
          s.after);
    }
  };
  struct Response {
    u64 last = 0;
    static void describe(auto& s, auto& v) {
      v.field({.name = "last", .doc = "number of the newest event so far; 0: none"}, s.last);
    }
  };
};

struct BalloonAction {
  static constexpr ActionInfo info{
      .name = "balloon",
      .doc =
          "memory that the guest lends back to the host: sets how much, if a size is given, and "
          "tells how much it is and what the guest says of its memory. The guest needs seconds "
          "to comply and gives only what it can spare"};
  struct Request {
    Bytes size{~u64{0}};
    static void describe(auto& s, auto& v) {
      v.field(
          {.name = "size",
           .doc = "how much the guest is to lend, as 256M; 0 gives it back; left out: as it is"},
          s.size);
    }
  };
  struct Response {
    u64 wanted = 0, lent = 0, guest_memory = 0;
    bool driver = false;
    std::vector<CounterValue> guest;
    static void describe(auto& s, auto& v) {
      v.field({.name = "wanted", .doc = "bytes that the guest is asked to lend"}, s.wanted);
      v.field({.name = "lent", .doc = "bytes that it lends now"}, s.lent);
      v.field({.name = "guest_memory", .doc = "guest memory in use by the host, bytes"},
              s.guest_memory);
      v.field({.name = "driver", .doc = "the guest has a driver for it"}, s.driver);
      v.field({.name = "guest", .doc = "the guest's own statistics, where it has any"}, s.guest);
    }
  };
};

struct NewGenerationAction {
  static constexpr ActionInfo info{
      .name = "new_generation",
      .doc =
          "give the machine a new VM generation ID and tell the guest, which then renews what "
          "must differ between copies: for whoever has copied the machine"};
  using Request = Nothing;
  struct Response {
    std::string id;
    static void describe(auto& s, auto& v) { v.field({.name = "id", .doc = "the new one"}, s.id); }
  };
};

/// Stands for a number that was left out.
constexpr u64 kLeftOut = ~u64{0};

struct DiskResizeAction {
  static constexpr ActionInfo info{
      .name = "disk_resize",
      .doc =
          "make a disk larger while the guest uses it, its image with it, and tell the guest. "
          "Partitions and filesystems on it are the guest's to grow"};
  struct Request {
    std::string disk;
    Bytes size;
    static void describe(auto& s, auto& v) {
      v.field({.name = "disk", .doc = "disk0, disk1...", .value = "DISK", .required = true},
              s.disk);
      v.field({.name = "size", .doc = "its new size, as 20G", .required = true}, s.size);
    }
  };
  struct Response {
    u64 size = 0, before = 0;
    static void describe(auto& s, auto& v) {
      v.field({.name = "size", .doc = "bytes that the disk has now"}, s.size);
      v.field({.name = "before", .doc = "bytes that it had"}, s.before);
    }
  };
};

struct DiskLimitsAction {
  static constexpr ActionInfo info{
      .name = "disk_limits",
      .doc =
          "how much a disk may do in a second: sets what is given, leaves the rest, and tells "
          "all of it. A limit of 0 is none, a burst of 0 a tenth of a second's worth"};
  struct Request {
    std::string disk;
    Bytes bps{kLeftOut}, bps_burst{kLeftOut};
    u64 iops = kLeftOut, iops_burst = kLeftOut;
    static void describe(auto& s, auto& v) {
      v.field({.name = "disk", .doc = "disk0, disk1...", .value = "DISK", .required = true},
              s.disk);
      v.field({.name = "bps", .doc = "most bytes per second, as 100M"}, s.bps);
      v.field({.name = "bps_burst", .doc = "bytes at once after a rest"}, s.bps_burst);
      v.field({.name = "iops", .doc = "most requests per second"}, s.iops);
      v.field({.name = "iops_burst", .doc = "requests at once after a rest"}, s.iops_burst);
    }
  };
  struct Response {
    u64 bps = 0, bps_burst = 0, iops = 0, iops_burst = 0;
    static void describe(auto& s, auto& v) {
      v.field({.name = "bps", .doc = "most bytes per second; 0: no limit"}, s.bps);
      v.field({.name = "bps_burst", .doc = "bytes at once after a rest"}, s.bps_burst);
      v.field({.name = "iops", .doc = "most requests per second; 0: no limit"}, s.iops);
      v.field({.name = "iops_burst", .doc = "requests at once after a rest"}, s.iops_burst);
    }
  };
};

enum class Cable : u8 { as_it_is, up, down };
constexpr std::array<std::string_view, 3> enum_names(Cable) {
  return {"as_it_is", "up", "down"};
}

struct LinkAction {
  static constexpr ActionInfo info{
      .name = "link",
      .doc =
          "plug or unplug the cable of a network card, and tell what the card is. The guest sees "
          "its carrier come and go"};
  struct Request {
    std::string card{"net0"};
    Cable cable = Cable::as_it_is;
    static void describe(auto& s, auto& v) {
      v.field({.name = "card", .doc = "net0, net1...", .value = "CARD"}, s.card);
      v.field({.name = "cable", .doc = "plugged (up) or not (down)"}, s.cable);
    }
  };
  struct Response {
    std::string card, mac, connected_to;
    bool up = false;
    static void describe(auto& s, auto& v) {
      v.field({.name = "card", .doc = "its name"}, s.card);
      v.field({.name = "up", .doc = "the cable is plugged and the far end there"}, s.up);
      v.field({.name = "mac", .doc = "its address, as the guest has set it"}, s.mac);
      v.field({.name = "connected_to", .doc = "where the cable leads"}, s.connected_to);
    }
  };
};

struct SchemaAction {
  static constexpr ActionInfo info{.name = "schema",
                                   .doc = "all of this as JSON: actions, events, error codes",
                                   .immediate = true};
  using Request = Nothing;
  using Response = Nothing;  ///< made by schema_json(); its form is in docs/control.md
};

/// Every action. vmm/control answers each; a missing one does not compile.
using Actions =
    std::tuple<StatusAction, PauseAction, ResumeAction, PowerButtonAction, ResetAction, StopAction,
               StatisticsAction, ScreenAction, ConsoleAction, EventsAction, BalloonAction,
               NewGenerationAction, DiskResizeAction, DiskLimitsAction, LinkAction, SchemaAction>;

// ---- events

struct StateEvent {
  static constexpr EventInfo info{"state", "the machine runs, is paused, or has ended"};
  Phase state = Phase::running;
  std::string reason;
  u32 status = 0;
  static void describe(auto& s, auto& v) {
    v.field({.name = "state", .doc = "what it does from now on"}, s.state);
    v.field({.name = "reason", .doc = "why"}, s.reason);
    v.field({.name = "status", .doc = "exit status, once it has ended"}, s.status);
  }
};

enum class GuestDoing : u8 { power_off, reset, crash, panic, debug_exit };
constexpr std::array<std::string_view, 5> enum_names(GuestDoing) {
  return {"power_off", "reset", "crash", "panic", "debug_exit"};
}
struct GuestEvent {
  static constexpr EventInfo info{"guest", "the guest itself asked for something or failed"};
  GuestDoing what = GuestDoing::power_off;
  static void describe(auto& s, auto& v) {
    v.field({.name = "what", .doc = "power_off, reset, crash (triple fault), panic, debug_exit"},
            s.what);
  }
};

struct DeviceEvent {
  static constexpr EventInfo info{"device", "something that a device tells"};
  std::string device, what;
  static void describe(auto& s, auto& v) {
    v.field({.name = "device", .doc = "its name"}, s.device);
    v.field({.name = "what", .doc = "what happened to it"}, s.what);
  }
};

using Events = std::tuple<StateEvent, GuestEvent, DeviceEvent>;

/// {"hello": ...}: the first line on a connection.
struct Hello {
  u32 protocol = kProtocol;
  std::string version, machine;
  static void describe(auto& s, auto& v) {
    v.field({.name = "protocol", .doc = "of what follows"}, s.protocol);
    v.field({.name = "version", .doc = "Skerry's version"}, s.version);
    v.field({.name = "machine", .doc = "the machine's name"}, s.machine);
  }
};

}  // namespace skerry::schema
