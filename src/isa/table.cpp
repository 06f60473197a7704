// The instruction table: collects the table_*.inc files. Their columns are explained in table.hpp.
#include "isa/table.hpp"

namespace skerry::isa {
namespace {

#define I(sem, operands, encoding, flags, feature, ...)                                    \
  {Sem::sem,           #sem, operands, encoding, flags, Feature::feature, "" #__VA_ARGS__, \
   Class::SKERRY_CLASS},

constexpr RowText kRows[] = {
#define SKERRY_CLASS integer
#include "isa/table_integer.inc"
#undef SKERRY_CLASS
#define SKERRY_CLASS control
#include "isa/table_control.inc"
#undef SKERRY_CLASS
#define SKERRY_CLASS string
#include "isa/table_string.inc"
#undef SKERRY_CLASS
#define SKERRY_CLASS system
#include "isa/table_system.inc"
#undef SKERRY_CLASS
#define SKERRY_CLASS x87
#include "isa/table_x87.inc"
#undef SKERRY_CLASS
#define SKERRY_CLASS sse
#include "isa/table_sse.inc"
#undef SKERRY_CLASS
#define SKERRY_CLASS avx
#include "isa/table_avx.inc"
#undef SKERRY_CLASS
#define SKERRY_CLASS mask
#include "isa/table_mask.inc"
#undef SKERRY_CLASS
#define SKERRY_CLASS avx512
#include "isa/table_avx512.inc"
#undef SKERRY_CLASS
};

#undef I

}  // namespace

std::span<const RowText> row_texts() {
  return kRows;
}

}  // namespace skerry::isa
