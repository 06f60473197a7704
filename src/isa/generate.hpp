// Random instances of table rows, and which rows a test has exercised. For tests and fuzzing; not
// used by the product.
#pragma once

#include <random>
#include <string>
#include <vector>

#include "isa/row.hpp"

namespace skerry::isa {

using Rng = std::mt19937_64;

struct InstanceOptions {
  enum class Form : u8 { any, registers, memory } form = Form::any;
  /// Memory operands through ModRM become [base + disp] (no index, except VSIB's) instead of random
  /// ones.
  bool fixed_address = false;
  u8 base = 3;  ///< not with 16-bit addressing
  i32 disp = 0;
  bool extra_prefixes = true;  ///< also segment, address size and redundant prefixes
};

/// Makes a random encoding that decodes to exactly this row. False if the row has no form that fits
/// the mode and the options.
bool random_instance(const Row& row, Rng& rng, DecodeMode mode, u8 out[15], size_t& length,
                     const InstanceOptions& options = {});

/// Counts the rows that a test has exercised.
class CoverageReport {
 public:
  void add(const Insn& insn) { ++count_[insn.row]; }
  void add(u16 row) { ++count_[row]; }
  size_t exercised() const;
  size_t total() const { return count_.size(); }
  /// The rows never exercised, as text, one per line; `filter` (if any) selects rows.
  std::string missing(bool (*filter)(const Row&) = nullptr) const;

 private:
  std::vector<u64> count_ = std::vector<u64>(rows().size());
};

/// "I(adc, "Eb:rw, Gb", "10 /r")": a row for messages.
std::string to_string(const Row& row);

}  // namespace skerry::isa
