#include "board/aml.hpp"

#include "base/append.hpp"
#include "base/result.hpp"

namespace skerry::board::aml {

namespace {

void add(Code& code, const Code& more) {
  code.insert(code.end(), more.begin(), more.end());
}

// 20.2.4: the length counts its own bytes; the first one says how many follow.
Code package_length(size_t body) {
  size_t extra = body + 1 < 0x40 ? 0 : body + 2 < 0x1000 ? 1 : body + 3 < 0x100000 ? 2 : 3;
  size_t length = body + 1 + extra;
  SKERRY_CHECK(length < 0x10000000);
  Code code;
  if (extra == 0) {
    code.push_back(static_cast<u8>(length));
    return code;
  }
  code.push_back(static_cast<u8>(extra << 6 | (length & 15)));
  for (size_t i = 0; i < extra; ++i) code.push_back(static_cast<u8>(length >> (4 + 8 * i)));
  return code;
}

Code sized(std::initializer_list<u8> opcode, const Code& body) {
  Code code(opcode);
  add(code, package_length(body.size()));
  add(code, body);
  return code;
}

// 6.4.3.5: an address space descriptor with fields of type T. `general`: _MIN and _MAX fixed,
// positive decode.
template <class T>
Code address_space(u8 tag, u8 type, u8 specific, u64 first, u64 last) {
  constexpr u8 kGeneral = 0x0c;
  Code code{tag};
  append(code, static_cast<u16>(3 + 5 * sizeof(T)));
  append(code, type);
  append(code, kGeneral);
  append(code, specific);
  for (u64 v : {u64{0}, first, last, u64{0}, last - first + 1}) append(code, static_cast<T>(v));
  return code;
}

}  // namespace

Code concat(std::initializer_list<Code> parts) {
  Code code;
  for (const Code& part : parts) add(code, part);
  return code;
}

Code name_string(std::string_view path) {
  Code code;
  while (!path.empty() && (path[0] == '\\' || path[0] == '^')) {
    code.push_back(static_cast<u8>(path[0]));
    path.remove_prefix(1);
  }
  std::vector<std::string_view> segments;
  for (size_t dot; !path.empty(); path.remove_prefix(dot)) {
    dot = path.find('.');
    segments.push_back(path.substr(0, dot));
    dot = dot == path.npos ? path.size() : dot + 1;
  }
  if (segments.empty()) code.push_back(0);
  if (segments.size() == 2) code.push_back(0x2e);
  if (segments.size() > 2) {
    code.push_back(0x2f);
    code.push_back(static_cast<u8>(segments.size()));
  }
  for (std::string_view s : segments) {
    SKERRY_CHECK(!s.empty() && s.size() <= 4);
    for (size_t i = 0; i < 4; ++i) code.push_back(i < s.size() ? static_cast<u8>(s[i]) : '_');
  }
  return code;
}

Code integer(u64 value) {
  Code code;
  if (value <= 1) return {static_cast<u8>(value)};  // ZeroOp, OneOp
  if (value <= 0xff) {
    code = {0x0a, static_cast<u8>(value)};
  } else if (value <= 0xffff) {
    code = {0x0b};
    append(code, static_cast<u16>(value));
  } else if (value <= 0xffffffff) {
    code = {0x0c};
    append(code, static_cast<u32>(value));
  } else {
    code = {0x0e};
    append(code, value);
  }
  return code;
}

Code string(std::string_view text) {
  Code code{0x0d};
  code.insert(code.end(), text.begin(), text.end());
  code.push_back(0);
  return code;
}

// 19.6.36: three letters of five bits, four hexadecimal digits, big-endian.
Code eisa_id(std::string_view id) {
  SKERRY_CHECK(id.size() == 7);
  u32 value = 0;
  for (size_t i = 0; i < 3; ++i) value = value << 5 | static_cast<u32>(id[i] - 0x40);
  for (size_t i = 3; i < 7; ++i)
    value = value << 4 | static_cast<u32>(id[i] <= '9' ? id[i] - '0' : id[i] - 'A' + 10);
  Code code{0x0c};
  append(code, __builtin_bswap32(value));
  return code;
}

Code buffer(const Code& bytes) {
  return sized({0x11}, concat({integer(bytes.size()), bytes}));
}

Code package(const std::vector<Code>& elements) {
  SKERRY_CHECK(elements.size() <= 255);
  Code body{static_cast<u8>(elements.size())};
  for (const Code& e : elements) add(body, e);
  return sized({0x12}, body);
}

Code name(std::string_view path, const Code& value) {
  return concat({{0x08}, name_string(path), value});
}
Code scope(std::string_view path, const Code& body) {
  return sized({0x10}, concat({name_string(path), body}));
}
Code device(std::string_view path, const Code& body) {
  return sized({0x5b, 0x82}, concat({name_string(path), body}));
}
Code method(std::string_view path, unsigned arguments, const Code& body) {
  return sized({0x14}, concat({name_string(path), {static_cast<u8>(arguments)}, body}));
}
Code return_value(const Code& value) {
  return concat({{0xa4}, value});
}

Code notify(std::string_view path, u8 value) {
  return concat({{0x86}, name_string(path), integer(value)});
}

Code io_port(u16 port, u8 length) {
  Code code{0x47, 1};  // 6.4.2.5: decodes 16 bits
  append(code, port);
  append(code, port);
  code.push_back(1);  // alignment
  code.push_back(length);
  return code;
}

Code irq(u8 number) {
  Code code{0x22};  // 6.4.2.1, without the flags: edge, active high
  append(code, static_cast<u16>(1u << number));
  return code;
}

Code memory32_fixed(u32 start, u32 length, bool writable) {
  Code code{0x86, 9, 0, static_cast<u8>(writable)};
  append(code, start);
  append(code, length);
  return code;
}

Code word_bus_numbers(u16 last) {
  return address_space<u16>(0x88, 2, 0, 0, last);
}
Code word_io(u16 first, u16 last) {
  return address_space<u16>(0x88, 1, 3, first, last);  // the entire range
}
Code dword_memory(u32 first, u32 last) {
  return address_space<u32>(0x87, 0, 1, first, last);  // read-write, not cacheable
}
Code qword_memory(u64 first, u64 last, bool prefetchable) {
  return address_space<u64>(0x8a, 0, prefetchable ? 7 : 1, first, last);
}

Code resources(std::initializer_list<Code> descriptors) {
  Code list = concat(descriptors);
  list.push_back(0x79);  // end tag; a checksum of 0 counts as right
  list.push_back(0);
  return buffer(list);
}

}  // namespace skerry::board::aml
