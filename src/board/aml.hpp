// A small builder of AML, the byte code of ACPI's definition blocks (ACPI 6.4 chapter 20), with
// only the terms that our DSDT uses. Every function returns finished bytes.
#pragma once

#include <initializer_list>
#include <string_view>
#include <vector>

#include "base/types.hpp"

namespace skerry::board::aml {

using Code = std::vector<u8>;

Code concat(std::initializer_list<Code> parts);

/// "\\_SB_.PCI0", "^X", "COM1": segments of at most four characters, padded with '_'.
Code name_string(std::string_view path);
Code integer(u64 value);
Code string(std::string_view text);
/// A compressed seven-character id such as "PNP0A03".
Code eisa_id(std::string_view id);
Code buffer(const Code& bytes);
/// At most 255 elements.
Code package(const std::vector<Code>& elements);

Code name(std::string_view path, const Code& value);
Code scope(std::string_view path, const Code& body);
Code device(std::string_view path, const Code& body);
Code method(std::string_view path, unsigned arguments, const Code& body);
Code return_value(const Code& value);
/// Notify (path, value)
Code notify(std::string_view path, u8 value);

// ---- resource descriptors (6.4); resources() ends a list of them and makes it a buffer
Code io_port(u16 port, u8 length);
Code irq(u8 number);  ///< edge, active high, exclusive
Code memory32_fixed(u32 start, u32 length, bool writable);
/// Bus numbers [0, last].
Code word_bus_numbers(u16 last);
/// Ports [first, last] that the bridge passes on.
Code word_io(u16 first, u16 last);
Code dword_memory(u32 first, u32 last);
Code qword_memory(u64 first, u64 last, bool prefetchable);
Code resources(std::initializer_list<Code> descriptors);

}  // namespace skerry::board::aml
