// MachineSpec: everything that defines one virtual machine, as plain data. From the command line, a
// JSON file or (later) the API comes a MachineSpec; board builds the machine from it and nothing
// else.
#pragma once

#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "schema/channel_spec.hpp"
#include "schema/net_spec.hpp"
#include "schema/seed_spec.hpp"

namespace skerry::schema {

/// `soft` is `soft,jit`; the interpreter is there to debug and to compare with. `soft,tables` is
/// `soft` that sees the guest's stores into its page tables.
enum class EngineChoice : u8 { auto_, kvm, soft, soft_interpreter, soft_jit, soft_tables };
constexpr std::array<std::string_view, 6> enum_names(EngineChoice) {
  return {"auto", "kvm", "soft", "soft,interpreter", "soft,jit", "soft,tables"};
}

/// `auto`: by the file's name; never by what a guest may have written (storage/image.hpp).
enum class DiskFormat : u8 { auto_, raw, qcow2 };
constexpr std::array<std::string_view, 3> enum_names(DiskFormat) {
  return {"auto", "raw", "qcow2"};
}

/// How requests get to the host's file. `auto`: io_uring where the host has it.
enum class DiskAio : u8 { auto_, io_uring, threads };
constexpr std::array<std::string_view, 3> enum_names(DiskAio) {
  return {"auto", "io_uring", "threads"};
}

/// What a request that the host cannot do leads to: an error to the guest, or a pause of the
/// machine, after which it is tried again. `auto`: a pause if the host's disk is full and somebody
/// could resume the machine, else an error.
enum class DiskError : u8 { auto_, report, pause };
constexpr std::array<std::string_view, 3> enum_names(DiskError) {
  return {"auto", "report", "pause"};
}

/// One virtio-blk disk.
struct DiskSpec {
  std::string path;
  DiskFormat format = DiskFormat::auto_;
  bool readonly = false;
  bool overlay = false;
  bool direct = false;
  std::string serial = {};
  Bytes bps = {}, bps_burst = {};
  u32 iops = 0, iops_burst = 0;
  DiskAio aio = DiskAio::auto_;
  DiskError on_enospc = DiskError::auto_, on_error = DiskError::auto_;

  static void describe(auto& s, auto& v) {
    v.field(
        {.name = "path", .doc = "image file or block device", .value = "FILE", .required = true},
        s.path);
    v.field({.name = "format", .doc = "how the image is laid out; auto: by its name"}, s.format);
    v.field({.name = "readonly", .doc = "the guest cannot write"}, s.readonly);
    v.field({.name = "overlay", .doc = "what the guest writes is thrown away at the end"},
            s.overlay);
    v.field({.name = "direct", .doc = "O_DIRECT: past the host's page cache"}, s.direct);
    v.field({.name = "serial", .doc = "serial number, at most 20 bytes", .value = "TEXT"},
            s.serial);
    v.field({.name = "bps", .doc = "most bytes per second; 0: no limit"}, s.bps);
    v.field({.name = "bps_burst", .doc = "bytes at once after a rest"}, s.bps_burst);
    v.field({.name = "iops", .doc = "most requests per second; 0: no limit"}, s.iops);
    v.field({.name = "iops_burst", .doc = "requests at once after a rest"}, s.iops_burst);
    v.field({.name = "aio", .doc = "how the host's file is read and written"}, s.aio);
    v.field({.name = "on_enospc",
             .doc = "when the host's disk is full: an error to the guest, or pause the machine and "
                    "try again when it is resumed; auto: pause if there is a control socket"},
            s.on_enospc);
    v.field({.name = "on_error", .doc = "the same for other errors of the host; auto: report"},
            s.on_error);
  }
  bool operator==(const DiskSpec&) const = default;
};

/// A Multiboot module: a file that the loader puts into guest memory, with its command line.
struct ModuleSpec {
  std::string file;
  std::string args;

  static constexpr std::string_view grammar = "FILE[,ARGS]";
  /// Everything after the first comma is the arguments.
  static Result<ModuleSpec> from_text(std::string_view text);
  static void describe(auto& s, auto& v) {
    v.field({.name = "file", .doc = "the module", .value = "FILE", .required = true}, s.file);
    v.field({.name = "args", .doc = "its command line"}, s.args);
  }
  bool operator==(const ModuleSpec&) const = default;
};

enum class SerialKind : u8 { stdio, none, file, unix_ };
constexpr std::array<std::string_view, 4> enum_names(SerialKind) {
  return {"stdio", "none", "file", "unix"};
}

/// Where one 16550 UART (COM1 and on, in order) leads.
struct SerialSpec {
  SerialKind kind = SerialKind::stdio;
  std::string
      path;  ///< for file: written, truncated at start; for unix: listens, one client at a time

  static constexpr std::string_view grammar = "stdio|none|file:PATH|unix:PATH";
  static Result<SerialSpec> from_text(std::string_view text);
  static void describe(auto& s, auto& v) {
    v.field({.name = "kind", .doc = "where the port leads"}, s.kind);
    v.field({.name = "path", .doc = "for kind file and unix", .value = "PATH"}, s.path);
  }
  bool operator==(const SerialSpec&) const = default;
};

/// What a guest's panic leads to. Reported to watchers in any case.
enum class PanicPolicy : u8 { report, exit, reset, pause };
constexpr std::array<std::string_view, 4> enum_names(PanicPolicy) {
  return {"report", "exit", "reset", "pause"};
}

struct MachineSpec {
  std::string name = "skerry";
  Bytes memory{512 * MiB};
  u32 cpus = 1;
  EngineChoice engine = EngineChoice::auto_;
  std::string cpu = "x86-64-v2";
  Bytes code_cache{64 * MiB};  ///< of each vCPU of the software engine
  std::string kernel, initrd, append;
  bool boot_from_disk = false;
  std::vector<ModuleSpec> modules;
  std::vector<DiskSpec> disks;
  std::vector<NetSpec> nets;
  std::vector<SerialSpec> serials{SerialSpec{}};
  std::vector<SerialSpec> consoles;
  std::vector<ChannelSpec> channels;
  VsockSpec vsock;
  std::vector<ShareSpec> shares;
  bool balloon = false;
  CloudInitSpec cloud_init;
  std::vector<std::string> ssh_keys;  ///< files of public keys
  std::string hostname, user;
  Bytes rng_rate;  ///< per second; 0: no limit
  PanicPolicy on_panic = PanicPolicy::report;
  bool debug_exit = false;
  std::string gdb;      ///< "" none; see parse_gdb
  std::string control;  ///< "" none; see parse_control
  bool no_reboot = false;
  bool stats = false;
  std::string trace;  ///< for set_trace()

  static void describe(auto& s, auto& v) {
    v.field({.name = "name", .doc = "what to call the machine", .value = "NAME"}, s.name);
    v.field({.name = "kernel",
             .doc = "Linux bzImage, ELF with PVH note, or Multiboot image to boot",
             .value = "FILE"},
            s.kernel);
    v.field({.name = "initrd", .doc = "Linux initial RAM disk", .value = "FILE"}, s.initrd);
    v.field({.name = "append", .doc = "kernel command line"}, s.append);
    v.field({.name = "boot_from_disk",
             .doc = "boot what the boot loader on the first disk would, or the newest kernel there "
                    "(ext4)"},
            s.boot_from_disk);
    v.field({.name = "modules", .doc = "Multiboot module; may be repeated", .option = "module"},
            s.modules);
    v.field({.name = "memory", .doc = "guest memory", .min = 2 * MiB, .max = 1024 * GiB}, s.memory);
    v.field({.name = "cpus", .doc = "virtual CPUs", .min = 1, .max = 255}, s.cpus);
    v.field({.name = "engine",
             .doc = "what runs the guest; auto takes kvm where it runs any kernel",
             .value = "auto|kvm|soft[,interpreter|,tables]"},
            s.engine);
    v.field({.name = "cpu",
             .doc = "CPU model: x86-64-v1|v2|v3|v4 or host, then features as ,+aes,-avx",
             .value = "MODEL"},
            s.cpu);
    v.field({.name = "code_cache",
             .doc = "most memory for code that the software engine has translated, for each vCPU",
             .min = 256 * KiB,
             .max = 1 * GiB},
            s.code_cache);
    v.field({.name = "disks", .doc = "virtio disk; may be repeated", .option = "disk"}, s.disks);
    v.field({.name = "nets",
             .doc = "virtio network card and what it is connected to; may be repeated",
             .option = "net"},
            s.nets);
    v.field({.name = "serials",
             .doc = "where COM1, COM2... lead; may be repeated (default: COM1 on stdio)",
             .option = "serial"},
            s.serials);
    v.field({.name = "consoles",
             .doc = "where the virtio consoles hvc0, hvc1... lead; may be repeated",
             .option = "console"},
            s.consoles);
    v.field({.name = "channels",
             .doc = "a named port (/dev/virtio-ports/NAME) that leads to a unix socket; may be "
                    "repeated",
             .option = "channel"},
            s.channels);
    v.field({.name = "vsock",
             .doc = "stream sockets between guest and host, as unix sockets",
             .value = "cid=N,socket=PATH"},
            s.vsock);
    v.field({.name = "shares",
             .doc = "folder of the host that the guest mounts (virtiofs); may be repeated",
             .option = "share"},
            s.shares);
    v.field({.name = "balloon",
             .doc = "a memory balloon: the guest's free memory goes back to the host, and "
                    "`skerry ctl PATH balloon` takes more"},
            s.balloon);
    v.field({.name = "cloud_init",
             .doc = "set up the guest by cloud-init, from these files",
             .value = "user-data=F[,meta-data=F][,network-config=F]"},
            s.cloud_init);
    v.field({.name = "ssh_keys",
             .doc = "public key that may log in over ssh (by cloud-init); may be repeated",
             .value = "FILE.pub",
             .option = "ssh-key"},
            s.ssh_keys);
    v.field({.name = "hostname", .doc = "the guest's host name (by cloud-init)", .value = "NAME"},
            s.hostname);
    v.field({.name = "user",
             .doc = "user that the ssh keys are for, made with sudo rights (by cloud-init)",
             .value = "NAME"},
            s.user);
    v.field({.name = "rng_rate",
             .doc = "most random bytes per second for the guest's entropy device; 0: no limit"},
            s.rng_rate);
    v.field({.name = "on_panic",
             .doc = "when the guest's kernel panics: only tell watchers, or end with status 82..."},
            s.on_panic);
    v.field({.name = "debug_exit",
             .doc = "a write of CODE to port 0xf4 ends the run with status (CODE << 1) | 1"},
            s.debug_exit);
    v.field({.name = "gdb",
             .doc = "wait for gdb there before the first instruction",
             .value = "unix:PATH|tcp:HOST:PORT"},
            s.gdb);
    v.field({.name = "control",
             .doc = "listen there for `skerry ctl` and other programs (docs/control.md)",
             .value = "unix:PATH"},
            s.control);
    v.field({.name = "no_reboot", .doc = "end with status 80 when the guest asks for a reset"},
            s.no_reboot);
    v.field({.name = "stats", .doc = "print what the engine has counted, on stderr at the end"},
            s.stats);
    v.field(
        {.name = "trace", .doc = "categories to trace on stderr (below)", .value = "CATEGORIES"},
        s.trace);
  }
  bool operator==(const MachineSpec&) const = default;
};

/// Where gdb connects.
struct GdbAddress {
  bool tcp = false;
  std::string path;  ///< of the socket, if not tcp
  std::string host;
  u32 port = 0;
};
Result<GdbAddress> parse_gdb(std::string_view text);

/// The path of the control socket.
Result<std::string> parse_control(std::string_view text);

/// "x86-64-v2,+aes,-avx" taken apart. Which features exist is the board's knowledge.
struct CpuModel {
  std::string base;
  std::vector<std::pair<std::string, bool>> features;  ///< name, on or off; in the order given
};
Result<CpuModel> parse_cpu(std::string_view text);

/// Every field, indented, with a newline at the end.
std::string to_json_text(const MachineSpec& spec);
/// Reads over `spec`: absent keys keep their value, a list replaces the whole list. All or nothing.
/// `name` is the document's, for messages.
Result<> merge_json_text(std::string_view text, std::string_view name, MachineSpec& spec);

/// There is a control socket, and no gdb that decides when the machine runs.
bool can_resume(const MachineSpec& spec);
/// What no single field can tell: what is missing, what does not go together. Opens no file.
Result<> validate(const MachineSpec& spec);

}  // namespace skerry::schema
