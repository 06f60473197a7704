// Turns the text of a table row into a Row. Runs once per row at first use; the texts are ours, so
// a mistake aborts with the row (and is caught by any test).
#include <fmt/format.h>

#include <array>

#include "base/result.hpp"
#include "isa/table.hpp"

namespace skerry::isa {
namespace {

using std::string_view;

class Parser {
 public:
  explicit Parser(const RowText& text) : text_(text) {}
  Row parse();

 private:
  [[noreturn]] void fail(string_view what, string_view token) const;
  void operands(string_view list);
  OperandSpec operand(string_view token) const;
  bool fixed_register(string_view name, OperandSpec& o) const;
  Size size(string_view name) const;
  void encoding(string_view s);
  void vex(string_view token);
  void flags(string_view s);
  void notes(string_view s);
  void condition(u32 mask, u32 value) {
    if ((row_.mask & mask) != 0 && (row_.value & mask & row_.mask) != (value & row_.mask))
      fail("contradictory conditions", text_.encoding);
    row_.mask |= mask;
    row_.value |= value;
  }
  void finish();

  const RowText& text_;
  Row row_;
};

void Parser::fail(string_view what, string_view token) const {
  check_failed(
      __FILE__, __LINE__, "row",
      fmt::format("instruction table: {} '{}' in I({}, \"{}\", \"{}\", \"{}\", {})", what, token,
                  text_.name, text_.operands, text_.encoding, text_.flags, text_.notes));
}

/// Takes the next word (up to a separator) off the front of `s`.
string_view take(string_view& s, char separator = ' ') {
  while (!s.empty() && s.front() == ' ') s.remove_prefix(1);
  size_t n = s.find(separator);
  string_view word = s.substr(0, n);
  s.remove_prefix(n == string_view::npos ? s.size() : n + 1);
  while (!word.empty() && word.back() == ' ') word.remove_suffix(1);
  return word;
}

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

int hex_byte(string_view s) {
  if (s.size() < 2 || hex_digit(s[0]) < 0 || hex_digit(s[1]) < 0) return -1;
  return hex_digit(s[0]) * 16 + hex_digit(s[1]);
}

Size Parser::size(string_view name) const {
  if (name.size() == 1) {
    switch (name[0]) {
      case 'b': return Size::b;
      case 'w': return Size::w;
      case 'd': return Size::d;
      case 'q': return Size::q;
      case 't': return Size::t;
      case 'v': return Size::v;
      case 'z': return Size::z;
      case 'y': return Size::y;
      case 'n': return Size::n;
      case 'a': return Size::a;
      case 'p': return Size::p;
      case 's': return Size::s;
      case 'x': return Size::x;
      case 'h': return Size::h;
      case 'f': return Size::f;
      case 'e': return Size::e;
    }
  }
  if (name.empty()) return Size::none;
  if (name == "dq") return Size::dq;
  if (name == "qq") return Size::qq;
  if (name == "oq") return Size::oq;
  if (name == "vv") return Size::vv;
  if (name == "dup") return Size::dup;
  fail("size", name);
}

bool Parser::fixed_register(string_view name, OperandSpec& o) const {
  constexpr string_view kGpr[] = {"AX", "CX", "DX", "BX", "SP", "BP", "SI", "DI"};
  constexpr string_view kSeg[] = {"ES", "CS", "SS", "DS", "FS", "GS"};
  if (name == "1") return o.method = Method::one, o.size = Size::b, true;
  if (name == "ST0") return o.method = Method::st, o.size = Size::t, true;
  if (name == "STi") return o.method = Method::STi, o.size = Size::t, true;
  if (name == "XMM0") return o.method = Method::xmm, o.size = Size::dq, true;
  if (name == "AH") return o.method = Method::high, o.size = Size::b, true;
  for (u8 i = 0; i < 6; ++i)
    if (name == kSeg[i]) return o.method = Method::seg, o.reg = i, o.size = Size::w, true;
  if (name == "R11") return o.method = Method::reg, o.reg = 11, o.size = Size::q, true;
  if (name == "AL" || name == "CL") {
    o.method = Method::reg, o.reg = name[0] == 'C', o.size = Size::b;
    return true;
  }
  if (name.size() < 2 || name.size() > 3) return false;
  for (u8 i = 0; i < 8; ++i) {
    if (!name.ends_with(kGpr[i])) continue;
    o.method = Method::reg, o.reg = i;
    if (name.size() == 2) return o.size = Size::w, true;
    switch (name[0]) {
      case 'E': o.size = Size::d; break;
      case 'R': o.size = Size::q; break;
      case 'r': o.size = i == 4 || i == 5 ? Size::none : Size::v; break;
      case 'z': o.size = Size::z; break;
      case 'y': o.size = Size::y; break;
      case 'a': o.size = Size::a; break;
      default: return false;
    }
    return true;
  }
  return false;
}

OperandSpec Parser::operand(string_view token) const {
  OperandSpec o;
  string_view whole = token;
  if (token.front() == '<') {
    o.implicit = true;
    token = token.substr(1, token.size() - 2);
  }
  string_view access = "r";
  if (size_t colon = token.find(':'); colon != string_view::npos) {
    access = token.substr(colon + 1);
    token = token.substr(0, colon);
  }
  if (access == "r" || access == "rw") o.read = true;
  if (access == "w" || access == "rw") o.write = true;
  if (!o.read && !o.write && access != "n") fail("access", whole);
  if (size_t brace = token.find('{'); brace != string_view::npos) {
    if (token.substr(brace, 2) != "{b" || token.size() != brace + 4) fail("broadcast", whole);
    o.broadcast = static_cast<u8>(token[brace + 2] - '0');
    token = token.substr(0, brace);
  }
  if (fixed_register(token, o)) return o;
  if (token.front() == '[') {
    OperandSpec base;
    size_t end = token.find(']');
    if (!fixed_register(token.substr(1, end - 1), base)) fail("operand", whole);
    o.method = Method::at, o.reg = base.reg;
    o.mem_size = size(token.substr(end + 1));
    return o;
  }
  if (size_t slash = token.find('/'); slash != string_view::npos) {
    o.method = token[0] == 'R' ? Method::E : token[0] == 'U' ? Method::W : Method::KE;
    o.size = size(token.substr(1, slash - 1));
    o.mem_size = size(token.substr(slash + 2));
    return o;
  }
  unsigned letters = 1;
  switch (token.front()) {
    case 'E': o.method = Method::E; break;
    case 'G': o.method = Method::G; break;
    case 'M': o.method = Method::M; break;
    case 'R': o.method = Method::R; break;
    case 'B': o.method = Method::B; break;
    case 'Z': o.method = Method::Z; break;
    case 'S': o.method = Method::S; break;
    case 'C': o.method = Method::C; break;
    case 'D': o.method = Method::D; break;
    case 'P': o.method = Method::P; break;
    case 'Q': o.method = Method::Q; break;
    case 'N': o.method = Method::N; break;
    case 'V': o.method = Method::V; break;
    case 'H': o.method = Method::H; break;
    case 'W': o.method = Method::W; break;
    case 'U': o.method = Method::U; break;
    case 'L': o.method = Method::L; break;
    case 'T': o.method = Method::T; break;
    case 'J': o.method = Method::J; break;
    case 'A': o.method = Method::A; break;
    case 'O': o.method = Method::O; break;
    case 'X': o.method = Method::X; break;
    case 'Y': o.method = Method::Y; break;
    case 'I':
      o.method = token == "Ibs" ? Method::Is : Method::I;
      if (o.method == Method::Is) token = "Ib";
      break;
    case 'K':
      letters = 2;
      if (token.starts_with("Kg"))
        o.method = Method::KG;
      else if (token.starts_with("Kh"))
        o.method = Method::KH;
      else if (token.starts_with("Ke"))
        o.method = Method::KE;
      else if (token.starts_with("Kr"))
        o.method = Method::KR;
      else
        fail("operand", whole);
      break;
    default: fail("operand", whole);
  }
  o.size = o.mem_size = o.method == Method::A ? Size::p : size(token.substr(letters));
  return o;
}

void Parser::operands(string_view list) {
  while (!list.empty()) {
    string_view token = take(list, ',');
    if (row_.operands == 6) fail("too many operands", token);
    OperandSpec o = operand(token);
    if (!o.implicit) ++row_.explicit_operands;
    row_.op[row_.operands++] = o;
  }
}

void Parser::vex(string_view token) {
  string_view kind = take(token, '.');
  row_.encoding = kind == "VEX" ? Insn::Encoding::vex : Insn::Encoding::evex;
  while (!token.empty()) {
    string_view t = take(token, '.');
    if (t == "128" || t == "L0")
      condition(kKeyL | kKeyNot128, 0);
    else if (t == "256" || t == "L1")
      condition(kKeyL | kKeyNot128, 1u << 12 | kKeyNot128);
    else if (t == "512")
      condition(kKeyL | kKeyNot128, 2u << 12 | kKeyNot128);
    else if (t == "256+")
      condition(kKeyNot128, kKeyNot128);
    else if (t == "NP")
      condition(kKeyPp, 0);
    else if (t == "66")
      condition(kKeyPp, 1u << 2);
    else if (t == "F3")
      condition(kKeyPp, 2u << 2);
    else if (t == "F2")
      condition(kKeyPp, 3u << 2);
    else if (t == "0F")
      row_.map = 1;
    else if (t == "0F38")
      row_.map = 2;
    else if (t == "0F3A")
      row_.map = 3;
    else if (t == "W0")
      condition(kKeyW, 0);
    else if (t == "W1")
      condition(kKeyW, kKeyW);
    else
      fail("VEX field", t);
  }
  if (row_.map == 0) fail("no map", text_.encoding);
}

void Parser::encoding(string_view s) {
  bool prefix = true, opcode = false;
  while (!s.empty()) {
    string_view t = take(s);
    if (t.starts_with("VEX") || t.starts_with("EVEX")) {
      vex(t);
      prefix = false;
    } else if (prefix && t == "NP") {
      condition(kKeyPp, 0);
    } else if (prefix && t == "NFx") {
      condition(kKeyPpRep, 0);
    } else if (prefix && s.size() > 1 && (t == "66" || t == "F3" || t == "F2")) {
      condition(kKeyPp, t == "66" ? 1u << 2 : t == "F3" ? 2u << 2 : 3u << 2);
      row_.mandatory66 = t == "66";
    } else if (t == "mem" || t == "reg") {
      condition(kKeyMod3, t == "reg" ? u32{kKeyMod3} : 0);
    } else if (t == "W0" || t == "W1") {
      condition(kKeyW, t == "W1" ? u32{kKeyW} : 0);
    } else if (t == "/r") {
      row_.modrm = true;
    } else if (t.size() == 2 && t[0] == '/' && t[1] >= '0' && t[1] <= '7') {
      row_.modrm = true;
      condition(kKeyReg, static_cast<u32>(t[1] - '0') << 5);
    } else if (int byte = hex_byte(t); byte >= 0) {
      bool legacy = row_.encoding == Insn::Encoding::legacy;
      if (legacy && !opcode && row_.map == 0 && byte == 0x0F) {
        row_.map = 1;
      } else if (legacy && !opcode && row_.map == 1 && (byte == 0x38 || byte == 0x3A)) {
        row_.map = byte == 0x38 ? 2 : 3;
      } else if (!opcode) {
        opcode = true;
        row_.opcode = static_cast<u8>(byte);
        string_view rest = t.substr(2);
        if (rest == "+r")
          row_.opcode_bits = 3;
        else if (rest == "+cc")
          row_.opcode_bits = 4;
        else if (!rest.empty())
          fail("opcode", t);
      } else {  // a fixed ModRM byte; +i leaves rm free
        row_.modrm = true;
        condition(kKeyMod3, kKeyMod3);
        condition(kKeyReg, static_cast<u32>(byte >> 3 & 7) << 5);
        if (!t.ends_with("+i")) condition(kKeyRm, static_cast<u32>(byte & 7) << 8);
      }
      prefix = false;
    } else {
      fail("encoding", t);
    }
  }
  if (!opcode) fail("no opcode", text_.encoding);
}

void Parser::flags(string_view s) {
  while (!s.empty()) {
    string_view t = take(s);
    u32* to = nullptr;
    switch (t.front()) {
      case 'R': to = &row_.flags.read; break;
      case 'W': to = &row_.flags.written; break;
      case 'U': to = &row_.flags.undefined; break;
      case 'C': to = &row_.flags.cleared; break;
      case 'S': to = &row_.flags.set; break;
      default: fail("flags", t);
    }
    t.remove_prefix(1);
    if (t.starts_with("?")) {
      row_.flags.conditional = true;
      t.remove_prefix(1);
    }
    if (!t.starts_with(":")) fail("flags", t);
    t.remove_prefix(1);
    if (t == "cc") {  // which flags depends on the condition: all that any condition reads
      *to |= 0x8c5;
      continue;
    }
    for (char c : t) {
      constexpr string_view kLetters =  // by bit number
          "c p a zstidol n rvmfqy";
      size_t at = kLetters.find(c);
      if (c == ' ' || at == string_view::npos) fail("flag", t);
      *to |= c == 'l' ? 3u << 12 : 1u << at;
    }
  }
}

void Parser::notes(string_view s) {
  while (!s.empty()) {
    while (s.front() == ' ') s.remove_prefix(1);
    // A note with an argument may contain spaces.
    size_t paren = s.find('('), space = s.find(' ');
    string_view t, argument;
    if (paren < space) {
      t = s.substr(0, paren);
      size_t close = s.find(')');
      argument = s.substr(paren + 1, close - paren - 1);
      s.remove_prefix(close + 1);
    } else {
      t = take(s);
    }
    if (t == "LOCK")
      row_.lock = true;
    else if (t == "NOT64")
      condition(kKey64, 0);
    else if (t == "ONLY64")
      condition(kKey64, kKey64);
    else if (t == "PROTECTED")
      condition(kKeyProtected, kKeyProtected);
    else if (t == "D64")
      row_.default64 = true;
    else if (t == "F64")
      row_.force64 = true;
    else if (t == "REXB0")
      condition(kKeyRexB, 0);
    else if (t == "CPL0")
      row_.privilege = Privilege::cpl0;
    else if (t == "IOPL")
      row_.privilege = Privilege::iopl;
    else if (t == "SENSITIVE")
      row_.privilege = Privilege::sem;
    else if (t == "VL")
      row_.vl = true;
    else if (t == "K")
      row_.masked = true;
    else if (t == "KZ")
      row_.masked = row_.zeroing = true;
    else if (t == "KREQ")
      row_.masked = row_.mask_required = true;
    else if (t == "ER")
      row_.rounding = true;
    else if (t == "SAE")
      row_.sae = true;
    else if (t == "DISTINCT")
      row_.distinct = true;
    else if (t.size() == 2 && t[0] == 'N' && t[1] >= '1' && t[1] <= '8')
      row_.disp8 = static_cast<u8>(t[1] - '0');
    else if (t == "AS")
      row_.names = argument;
    else if (t == "ELSE") {
      row_.fallback = argument == "bsf"      ? Sem::bsf
                      : argument == "bsr"    ? Sem::bsr
                      : argument == "wbinvd" ? Sem::wbinvd
                                             : Sem::invalid;
      if (row_.fallback == Sem::invalid) fail("ELSE", argument);
    } else if (t == "AND") {
      for (unsigned f = 0; f < kFeatures; ++f)
        if (feature_info(static_cast<Feature>(f)).name == argument)
          row_.feature2 = static_cast<Feature>(f);
      if (row_.feature2 == Feature::base) fail("AND", argument);
    } else
      fail("note", t);
    while (!s.empty() && s.front() == ' ') s.remove_prefix(1);
  }
}

/// What follows from the other columns.
void Parser::finish() {
  bool has_byte = false, has_wide = false;
  for (const OperandSpec& o : row_.op) {
    row_.vsib |= o.method == Method::T;
    row_.has_source |= o.method == Method::X;
  }
  for (const OperandSpec& o : row_.op)
    if (o.method == Method::C || o.method == Method::D) row_.ignore_mod = true;
  for (unsigned i = 0; i < row_.operands; ++i) {
    const OperandSpec& o = row_.op[i];
    switch (o.method) {
      case Method::M:
      case Method::T: condition(kKeyMod3, 0); break;
      case Method::R:
      case Method::N:
      case Method::U:
      case Method::KR:
        if (!row_.ignore_mod) condition(kKeyMod3, kKeyMod3);
        break;
      case Method::B:
      case Method::H:
      case Method::KH: row_.uses_vvvv = true; break;
      case Method::I:
      case Method::Is:
      case Method::one: continue;
      default: break;
    }
    if (o.size == Size::v || o.size == Size::z || o.size == Size::y) has_wide = true;
    if (o.method == Method::P || o.method == Method::Q || o.method == Method::N)
      row_.cls = Class::mmx;
    bool shift_count = o.method == Method::reg && o.reg == 1;
    if ((o.size == Size::b || o.mem_size == Size::b) && !shift_count && (o.read || o.write))
      has_byte = true;
  }
  row_.byte_form = has_byte && !has_wide && row_.encoding == Insn::Encoding::legacy &&
                   (row_.cls == Class::integer || row_.cls == Class::string);
  if (row_.sem == Sem::emms) row_.cls = Class::mmx;
  row_.merging = row_.masked && string_view(text_.name).find("blendm") == string_view::npos;
  if (row_.names.empty()) {
    row_.names = text_.name;
    if (row_.names.ends_with('_')) row_.names.remove_suffix(1);
  }
}

Row Parser::parse() {
  row_.sem = text_.sem;
  row_.cls = text_.cls;
  row_.feature = text_.feature;
  row_.text_operands = text_.operands;
  row_.text_encoding = text_.encoding;
  row_.text_flags = text_.flags;
  row_.text_notes = text_.notes;
  operands(text_.operands);
  encoding(text_.encoding);
  flags(text_.flags);
  notes(text_.notes);
  finish();
  return row_;
}

}  // namespace

Row parse_row(const RowText& text) {
  return Parser(text).parse();
}

}  // namespace skerry::isa
