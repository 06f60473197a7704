#include "net/switch_report.hpp"

#include <nlohmann/json.hpp>

#include "net/switch_socket.hpp"

namespace skerry::net {

namespace {

using Json = nlohmann::ordered_json;
/// With 256 ports and a full table of addresses.
constexpr size_t kLongest = 2 * MiB;

std::string text_of(const Json& value) {
  return value.is_string() ? value.get<std::string>() : value.is_null() ? "-" : value.dump();
}

/// Columns as wide as what is in them; the first is text, numbers stand to the right.
std::string table(std::vector<std::vector<std::string>> rows, size_t text_columns) {
  std::vector<size_t> width;
  for (const auto& row : rows) {
    width.resize(std::max(width.size(), row.size()));
    for (size_t i = 0; i < row.size(); ++i) width[i] = std::max(width[i], row[i].size());
  }
  std::string out;
  for (const auto& row : rows) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i)
      line += i < text_columns ? fmt::format("{:<{}}  ", row[i], width[i])
                               : fmt::format("{:>{}}  ", row[i], width[i]);
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + "\n";
  }
  return out;
}

std::string rate_text(u64 rate) {
  if (rate == 0) return "-";
  if (rate % 1'000'000'000 == 0) return fmt::format("{}G", rate / 1'000'000'000);
  if (rate % 1'000'000 == 0) return fmt::format("{}M", rate / 1'000'000);
  if (rate % 1000 == 0) return fmt::format("{}K", rate / 1000);
  return fmt::format("{}", rate);
}

}  // namespace

Result<std::string> fetch_report(const std::string& name) {
  if (!valid_switch_name(name)) return fail("'{}' is no name of a switch", name);
  auto socket = TRY(connect_switch(name));
  if (!socket)
    return fail_hint("a switch runs while a machine is on it; see: skerry switch list",
                     "there is no switch {}", name);
  SwitchRequest request;
  request.kind = SwitchRequest::show;
  TRY_VOID(send_packet(socket->get(), {reinterpret_cast<const u8*>(&request), sizeof request}));
  std::string text(kLongest, '\0');
  std::vector<Fd> none;
  size_t got = TRY(
      receive_packet(socket->get(), {reinterpret_cast<u8*>(text.data()), text.size()}, none, 5000));
  text.resize(got);
  if (Json::parse(text, nullptr, false).is_discarded())
    return fail("the switch {} gives no sensible answer", name);
  return text;
}

std::string list_json(const std::vector<std::string>& reports) {
  Json list = Json::array();
  for (const std::string& report : reports) {
    Json r = Json::parse(report);
    list.push_back({{"name", r["name"]}, {"pid", r["pid"]}, {"ports", r["ports"].size()}});
  }
  return list.dump(2) + "\n";
}

std::string list_text(const std::vector<std::string>& reports) {
  if (reports.empty()) return "no switch runs; --net switch,name=NAME of `skerry run` starts one\n";
  std::vector<std::vector<std::string>> rows{{"SWITCH", "PORTS", "PID"}};
  for (const std::string& report : reports) {
    Json r = Json::parse(report);
    rows.push_back({text_of(r["name"]), text_of(r["ports"].size()), text_of(r["pid"])});
  }
  return table(std::move(rows), 1);
}

std::string show_text(const std::string& report) {
  Json r = Json::parse(report);
  std::vector<std::vector<std::string>> ports{{"PORT", "OWNER", "MAC", "VLAN", "RATE", "",
                                               "IN FRAMES", "IN BYTES", "OUT FRAMES", "OUT BYTES",
                                               "NO ROOM", "SPOOFED", "OTHER DROPS"}};
  for (Json& p : r["ports"]) {
    Json& d = p["dropped"];
    ports.push_back({text_of(p["port"]), text_of(p["owner"]), text_of(p["mac"]), text_of(p["vlan"]),
                     rate_text(p["rate"].get<u64>()), p["isolated"].get<bool>() ? "isolated" : "",
                     text_of(p["in"]["frames"]), text_of(p["in"]["bytes"]),
                     text_of(p["out"]["frames"]), text_of(p["out"]["bytes"]), text_of(d["no_room"]),
                     text_of(d["spoofed"]),
                     text_of(d["tagged"].get<u64>() + d["malformed"].get<u64>() +
                             d["unreachable"].get<u64>())});
  }
  std::vector<std::vector<std::string>> addresses{{"MAC", "VLAN", "PORT", "AGE"}};
  for (Json& a : r["mac_table"])
    addresses.push_back({text_of(a["mac"]), text_of(a["vlan"]), text_of(a["port"]),
                         a["learned"].get<bool>() ? text_of(a["age_seconds"]) + " s" : "attached"});
  return fmt::format("switch {}, process {}\n\n{}\n{}", text_of(r["name"]), text_of(r["pid"]),
                     table(std::move(ports), 6), table(std::move(addresses), 2));
}

}  // namespace skerry::net
