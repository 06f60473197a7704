#include "vmm/engine_choice.hpp"

#include "engine/kvm/engine.hpp"
#include "engine/soft/engine.hpp"
#include "vmm/host_probe.hpp"

namespace skerry::vmm {

Result<ChosenEngine> choose_engine(schema::EngineChoice choice) {
  ChosenEngine chosen;
  if (choice == schema::EngineChoice::auto_) {
    Verdict verdict = judge(probe_host());
    choice = verdict.engine;
    chosen.why = verdict.why;
  }
  chosen.engine =
      choice == schema::EngineChoice::kvm ? TRY(kvm::create_engine()) : TRY(soft::create_engine());
  return chosen;
}

}  // namespace skerry::vmm
