// The KVM engine: hardware virtualization through /dev/kvm with a split irqchip (LAPICs in the
// kernel; 8259, IOAPIC and PIT are the board's), so that both engines share one interrupt model and
// one state. Every KVM structure is converted to ours at this engine's edge.
#pragma once

#include <memory>

#include "machine/engine.hpp"

namespace skerry::kvm {

/// Opens /dev/kvm. The error says what is missing and how to mend it.
Result<std::unique_ptr<machine::Engine>> create_engine();

}  // namespace skerry::kvm
