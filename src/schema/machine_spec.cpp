#include "schema/machine_spec.hpp"

#include <algorithm>

#include "schema/json.hpp"

namespace skerry::schema {

namespace {

constexpr size_t max_serials = 4;  // COM1-COM4
constexpr size_t max_consoles = 8;
constexpr size_t max_nets = 8;
constexpr size_t max_disks = 24;        // slots of bus 0 that the board leaves free
constexpr size_t max_disk_serial = 20;  // virtio 1.2 5.2.6
constexpr size_t max_modules = 64;      // bounds the loader's tables
constexpr size_t max_append = 4095;  // Linux reads COMMAND_LINE_SIZE - 1 (arch/x86: 2048) or less
constexpr size_t max_socket_path = 107;  // sockaddr_un::sun_path, with its zero

/// "file:P": what stands before the first colon, and what after it.
std::pair<std::string_view, std::string_view> cut(std::string_view text) {
  size_t colon = text.find(':');
  if (colon == text.npos) return {text, {}};
  return {text.substr(0, colon), text.substr(colon + 1)};
}

Result<> check_socket_path(std::string_view what, std::string_view path) {
  if (path.size() <= max_socket_path) return {};
  return fail_hint("use a shorter path, as /tmp/NAME", "{}: a socket's path has at most {} bytes",
                   what, max_socket_path);
}

}  // namespace

Result<ModuleSpec> ModuleSpec::from_text(std::string_view text) {
  size_t comma = text.find(',');
  ModuleSpec module;
  module.file = text.substr(0, comma);
  if (comma != text.npos) module.args = text.substr(comma + 1);
  if (module.file.empty()) return fail_hint("write FILE[,ARGS]", "module without a file");
  return module;
}

Result<SerialSpec> SerialSpec::from_text(std::string_view text) {
  auto [word, path] = cut(text);
  SerialSpec serial;
  constexpr auto names = enum_names(SerialKind{});
  auto at = std::find(names.begin(), names.end(), word);
  if (at == names.end()) {
    Error error = unknown_word("serial port", word, names);
    error.hint = fmt::format("write one of {}", grammar);
    return std::unexpected(std::move(error));
  }
  serial.kind = static_cast<SerialKind>(at - names.begin());
  serial.path = path;
  bool takes_path = serial.kind == SerialKind::file || serial.kind == SerialKind::unix_;
  if (takes_path && path.empty()) {
    return fail_hint(fmt::format("write {}:PATH", word), "serial port '{}' needs a path", word);
  }
  if (!takes_path && text.size() != word.size()) {
    return fail_hint(fmt::format("write {}", word), "serial port '{}' takes no path", word);
  }
  return serial;
}

Result<GdbAddress> parse_gdb(std::string_view text) {
  auto bad = [&](std::string_view why) {
    return fail_hint("write unix:PATH or tcp:HOST:PORT, as tcp:127.0.0.1:1234", "gdb: '{}' {}",
                     text, why);
  };
  auto [word, rest] = cut(text);
  GdbAddress address;
  if (word == "unix") {
    if (rest.empty()) return bad("has no path");
    TRY_VOID(check_socket_path("gdb", rest));
    address.path = rest;
    return address;
  }
  if (word != "tcp") return bad("is no address");
  size_t colon = rest.rfind(':');
  if (colon == rest.npos) return bad("has no port");
  auto host = rest.substr(0, colon);
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  if (host.empty()) return bad("has no host");  // listening everywhere must be asked for by address
  auto port = parse_number(rest.substr(colon + 1));
  if (!port || *port == 0 || *port > 65535) return bad("has no port from 1 to 65535");
  address.tcp = true;
  address.host = host;
  address.port = static_cast<u32>(*port);
  return address;
}

Result<std::string> parse_control(std::string_view text) {
  auto [word, path] = cut(text);
  if (word != "unix" || path.empty())
    return fail_hint("write unix:PATH", "control: '{}' is no socket", text);
  TRY_VOID(check_socket_path("control", path));
  return std::string(path);
}

Result<CpuModel> parse_cpu(std::string_view text) {
  constexpr std::string_view bases[] = {"x86-64-v1", "x86-64-v2", "x86-64-v3", "x86-64-v4", "host"};
  CpuModel model;
  size_t comma = text.find(',');
  model.base = text.substr(0, comma);
  if (std::find(std::begin(bases), std::end(bases), model.base) == std::end(bases)) {
    return std::unexpected(unknown_word("cpu model", model.base, bases));
  }
  while (comma != text.npos) {
    text.remove_prefix(comma + 1);
    comma = text.find(',');
    auto feature = text.substr(0, comma);
    if (feature.size() < 2 || (feature[0] != '+' && feature[0] != '-')) {
      return fail_hint("write +FEATURE or -FEATURE, as x86-64-v2,+aes,-avx",
                       "cpu: '{}' is no feature", feature);
    }
    model.features.emplace_back(feature.substr(1), feature[0] == '+');
  }
  return model;
}

std::string to_json_text(const MachineSpec& spec) {
  // Paths are bytes and need not be UTF-8; what is not comes out as U+FFFD instead of as an
  // exception.
  return to_json(spec).dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

Result<> merge_json_text(std::string_view text, std::string_view name, MachineSpec& spec) {
  Json document = TRY(parse_json(text, name));
  MachineSpec merged = spec;
  if (auto done = JsonReader::read_object(document, "", merged); !done) {
    return std::unexpected(std::move(done.error()).in(name));
  }
  spec = std::move(merged);
  return {};
}

bool can_resume(const MachineSpec& spec) {
  return !spec.control.empty() && spec.gdb.empty();
}

Result<> validate(const MachineSpec& spec) {
  if (spec.boot_from_disk) {
    if (!spec.kernel.empty() || !spec.initrd.empty() || !spec.modules.empty()) {
      return fail_hint("leave out --boot-from-disk, or --kernel, --initrd and --module",
                       "boot-from-disk takes the kernel from the disk, and another one is given");
    }
    if (spec.disks.empty()) {
      return fail_hint("add --disk path=FILE", "boot-from-disk: the machine has no disk");
    }
  } else if (spec.kernel.empty()) {
    return fail_hint(
        "give one with --kernel FILE, or \"kernel\" in the configuration; --boot-from-disk takes "
        "it from the disk",
        "no kernel to boot");
  }
  if (spec.name.empty() || spec.name.size() > 64) {
    return fail("the machine's name must have 1 to 64 characters");
  }
  if (spec.memory.count % MiB != 0) {
    return fail_hint(fmt::format("give {}M", spec.memory.count / MiB + 1),
                     "memory: {} is not a whole number of MiB", to_text(spec.memory));
  }
  if (spec.append.size() > max_append) {
    return fail("append: the command line has {} bytes; at most {} reach a guest",
                spec.append.size(), max_append);
  }
  TRY_VOID(parse_cpu(spec.cpu));
  TRY_VOID(validate_seed(spec));
  if (!spec.gdb.empty()) TRY_VOID(parse_gdb(spec.gdb));
  if (!spec.control.empty()) TRY_VOID(parse_control(spec.control));
  if (spec.on_panic == PanicPolicy::pause && spec.control.empty())
    return fail_hint("add --control unix:PATH", "on_panic: nobody could resume a paused machine");

  if (spec.modules.size() > max_modules) return fail("more than {} modules", max_modules);
  if (spec.disks.size() > max_disks) return fail("more than {} disks", max_disks);
  for (size_t i = 0; i < spec.disks.size(); ++i) {
    const DiskSpec& disk = spec.disks[i];
    if (disk.path.empty()) return fail("disk {} has an empty path", i + 1);
    if (disk.serial.size() > max_disk_serial)
      return fail("disk {}: the serial number '{}' has more than {} bytes", i + 1, disk.serial,
                  max_disk_serial);
    if ((disk.on_enospc == DiskError::pause || disk.on_error == DiskError::pause) &&
        !can_resume(spec))
      return fail_hint(spec.gdb.empty() ? "add --control unix:PATH, or let the guest have the error"
                                        : "leave out --gdb, or let the guest have the error",
                       "disk {}: nobody could resume the machine after a pause", i + 1);
    if (disk.readonly && disk.overlay)
      return fail_hint("leave one of them out", "disk {} cannot be readonly and overlay", i + 1);
    auto kept = [](const DiskSpec& d) { return d.readonly || d.overlay; };
    for (size_t j = 0; j < i; ++j) {
      if (spec.disks[j].path == disk.path && !(kept(disk) && kept(spec.disks[j]))) {
        return fail_hint("give each writable disk a file of its own", "{} is used by two disks",
                         disk.path);
      }
    }
  }

  if (spec.nets.size() > max_nets) return fail("more than {} network cards", max_nets);
  for (size_t i = 0; i < spec.nets.size(); ++i) {
    std::string what = fmt::format("net {}", i + 1);
    TRY_VOID(validate(spec.nets[i], what));
    for (size_t j = 0; j < i; ++j)
      if (!spec.nets[i].mac.empty() && spec.nets[j].mac == spec.nets[i].mac)
        return fail_hint("give each card an address of its own, or none to have one made",
                         "{}: the address {} is that of net {}, too", what, spec.nets[i].mac,
                         j + 1);
  }

  if (spec.serials.size() > max_serials) return fail("more than {} serial ports", max_serials);
  if (spec.consoles.size() > max_consoles) return fail("more than {} consoles", max_consoles);
  TRY_VOID(validate_channels(spec));
  size_t on_stdio = 0;
  auto check = [&](const SerialSpec& line, std::string_view what) -> Result<> {
    bool takes_path = line.kind == SerialKind::file || line.kind == SerialKind::unix_;
    on_stdio += line.kind == SerialKind::stdio;
    if (takes_path && line.path.empty())
      return fail("{} of kind '{}' needs a path", what, name_of(line.kind));
    if (!takes_path && !line.path.empty())
      return fail("{} of kind '{}' takes no path", what, name_of(line.kind));
    if (line.kind == SerialKind::unix_) return check_socket_path(what, line.path);
    return {};
  };
  for (const SerialSpec& line : spec.serials) TRY_VOID(check(line, "serial port"));
  for (const SerialSpec& line : spec.consoles) TRY_VOID(check(line, "console"));
  if (on_stdio > 1) {
    return fail_hint("lead all but one to file:PATH, unix:PATH or none",
                     "{} serial ports and consoles on stdio: the terminal can only serve one",
                     on_stdio);
  }
  return {};
}

}  // namespace skerry::schema
