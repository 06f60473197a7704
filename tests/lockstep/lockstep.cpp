#include "lockstep/lockstep.hpp"

#include <random>

#include "lockstep/report.hpp"

namespace skerry::lockstep {
namespace {

using Status = Side::Status;

class Pair {
 public:
  /// `schedule`: the positions of events, as an earlier Pair found them.
  static Result<std::unique_ptr<Pair>> create(const Options& options,
                                              std::vector<u64> schedule = {}) {
    std::unique_ptr<Pair> pair(new Pair(options, std::move(schedule)));
    pair->a_ = TRY(Side::create(options.setup, options.a));
    pair->b_ = TRY(Side::create(options.setup, options.b));
    if (options.plant) pair->a_->set_plant(*options.plant);
    return pair;
  }

  Side& a() { return *a_; }
  Side& b() { return *b_; }
  u64 events() const { return schedule_.size(); }
  const std::vector<u64>& schedule() const { return schedule_; }
  /// Where the next event is to be.
  u64 next_event() const { return events() < planned_.size() ? planned_[events()] : next_event_; }

  /// Both to the next event, and no further.
  void run_interval() {
    a_->advance(next_event());
    if (random_)
      while (b_->status() == Status::running && b_->position() < next_event())
        b_->advance(std::min(next_event(), b_->position() + 1 + (*random_)() % 64));
    b_->advance(next_event());
  }
  void pass_event() {
    Nanos skip = 0;
    if (a_->status() == Status::halted) {
      skip = std::min<Nanos>(kIdleStep, a_->until_deadline().value_or(kIdleStep));
      idle_ += skip;
    } else {
      idle_ = 0;
    }
    schedule_.push_back(a_->position());
    a_->event(skip);
    b_->event(skip);
    next_event_ = a_->position() + options_.event_every;
  }
  bool over() const {
    return a_->status() == Status::ended || b_->status() == Status::ended ||
           a_->position() >= options_.limit ||
           static_cast<double>(a_->now()) >= 1e9 * options_.seconds || idle_ > options_.idle;
  }

  /// What differs; registers alone unless `ram`.
  Findings compare(bool ram) {
    if (!options_.strict) settled += settle_images(*a_, *b_);
    Findings f;
    f.a = a_->state();
    f.b = b_->state();
    f.registers = differences(f.a, f.b, options_.ignore);
    auto check = [&](const char* name, u64 x, u64 y) {
      if (x != y) f.registers.push_back({name, x, y});
    };
    check("position", a_->position(), b_->position());
    check("ended", a_->status() == Status::ended, b_->status() == Status::ended);
    check("clock", static_cast<u64>(a_->now()), static_cast<u64>(b_->now()));
    check("clock readings", a_->clock_reads(), b_->clock_reads());
    auto lapics = differences(a_->lapic(), b_->lapic());
    f.registers.insert(f.registers.end(), lapics.begin(), lapics.end());
    check("bytes printed", a_->output().size(), b_->output().size());
    if (a_->ending() != b_->ending())
      f.notes.push_back(fmt::format("A ended by {}, B by {}", a_->ending(), b_->ending()));
    if (ram) {
      f.ram = ram_.compare(*a_, *b_);
      if (!options_.ignore.devices)
        for (const std::string& name : differing_devices(*a_, *b_))
          f.notes.push_back(fmt::format("the states of device {} differ", name));
      if (a_->output() != b_->output()) f.notes.push_back("the serial ports' outputs differ");
    }
    return f;
  }

  /// The same; if only arithmetic flags differ, after running on until they do not.
  Findings compare_level(bool ram) {
    Findings f = compare(ram);
    for (unsigned i = 0; i < kLevel && flags_alone(f) && a_->status() == Status::running; ++i) {
      const u64 to = a_->position() + 16;
      a_->advance(to);
      b_->advance(to);
      f = compare(ram);
      ++settled;
    }
    return f;
  }
  bool flags_alone(const Findings& f) const {
    return !options_.strict && f.registers.size() == 1 && !f.ram && f.notes.empty() &&
           ((f.a.rflags ^ f.b.rflags) & kArithmetic) && f.registers[0].name == "rflags" &&
           ((f.a.rflags ^ f.b.rflags) & ~kArithmetic) == 0;
  }

  void tell(Outcome& outcome) const {
    outcome.position = a_->position();
    outcome.time = a_->now();
    outcome.output = a_->output();
    outcome.ending = a_->status() == Status::ended ? a_->ending()
                     : idle_ > options_.idle       ? "idle"
                                                   : "limit";
    outcome.code = a_->code();
    outcome.settled += settled + ram_.settled();
  }
  u64 settled = 0;

 private:
  static constexpr Nanos kIdleStep = 100'000;
  static constexpr unsigned kLevel = 32;
  Pair(const Options& options, std::vector<u64> schedule)
      : options_(options),
        planned_(std::move(schedule)),
        ram_(!options.strict),
        next_event_(options.event_every) {
    if (options.jitter) random_.emplace(options.jitter);
  }

  const Options& options_;
  const std::vector<u64> planned_;
  std::vector<u64> schedule_;  ///< of the events so far
  std::unique_ptr<Side> a_, b_;
  RamComparison ram_;
  std::optional<std::mt19937_64> random_;
  u64 next_event_;
  Nanos idle_ = 0;
};

/// From where a Pair is, A runs block by block.
class Blocks {
 public:
  /// `thorough`: everything is compared after each block, and B goes by single instructions so that
  /// they can be reported; otherwise the integer registers.
  Blocks(const Options& options, Pair& pair, bool thorough, u64 ram_every)
      : options_(options), pair_(pair), thorough_(thorough), ram_every_(ram_every) {}

  /// To a difference (its report) or the end (empty). `last_equal` is the last event at which all
  /// was equal.
  std::string run() {
    Findings now = pair_.compare_level(true);
    if (now.any()) return "before the first block:\n" + text_of(now);
    last_equal = pair_.events();
    while (!pair_.over()) {
      Side& a = pair_.a();
      unsigned stuck = 0;
      while (a.status() == Status::running && a.position() < pair_.next_event()) {
        const u64 before = a.position();
        if (auto report = thorough_ ? block(now) : quick_block()) return *report;
        stuck = a.position() == before ? stuck + 1 : 0;
        if (stuck > 1000) return "A does not get on\n";
      }
      pair_.b().advance(pair_.next_event());  // to the same halt
      const bool all = thorough_ || pair_.over() || pair_.events() % ram_every_ == 0;
      now = pair_.compare(all);
      ++compared, ram_compared += all;
      if (now.any()) return "after an interval:\n" + history_.text() + text_of(now);
      if (all) last_equal = pair_.events();
      pair_.pass_event();
      if (thorough_) {
        now = pair_.compare(true);
        if (now.any()) return "at an event:\n" + history_.text() + text_of(now);
      }
    }
    return {};
  }
  u64 compared = 0, ram_compared = 0, last_equal = 0;

 private:
  /// B's undefined flags become A's, and their images in what was pushed or popped.
  void settle_flags(const machine::CpuState& before, u64 count) {
    soft::Cpu &a = pair_.a().cpu(), &b = pair_.b().cpu();
    const u64 differ = a.eflags() ^ b.eflags();
    if (!differ || options_.strict) return;
    u64 mine = undefined_flags(pair_.b(), before, count);
    for (u64 sp : {a.seg_base[machine::ss] + a.gpr[machine::rsp],
                   before.seg[machine::ss].base + before.gpr[machine::rsp]})
      mine |= settle_stack(pair_.a(), pair_.b(), sp - 16, 80);
    if (differ & ~mine) return;
    b.set_eflags(a.eflags());
    ++pair_.settled;
  }

  std::optional<std::string> block(Findings& now) {
    Side &a = pair_.a(), &b = pair_.b();
    BlockReport block(a, now.a);
    const u64 instructions = a.instructions();
    a.advance(pair_.next_event(), true);
    block.ended_at(a.position());
    while (b.status() == Status::running && b.position() < a.position()) {
      b.advance(b.position() + 1);
      block.add_step(b.state());
    }
    if (a.status() != Status::running) b.advance(pair_.next_event());
    settle_flags(now.a, a.instructions() - instructions);
    Findings after = pair_.compare(true);
    ++compared, ++ram_compared;
    if (options_.print) fmt::print("{}", block.code());
    if (after.any()) return history_.text() + block.text(b) + text_of(after);
    history_.add(block);
    now = std::move(after);
    return std::nullopt;
  }

  std::optional<std::string> quick_block() {
    Side &a = pair_.a(), &b = pair_.b();
    const u64 rip = a.cpu().rip, from = a.position(), instructions = a.instructions();
    const u64 rsp = a.cpu().gpr[machine::rsp];
    a.advance(pair_.next_event(), true);
    b.advance(a.position());
    if (a.status() != Status::running) b.advance(pair_.next_event());
    ++compared;
    if (same(a.cpu(), b.cpu()) && a.position() == b.position()) return std::nullopt;
    if (!options_.strict) {
      // The state before is gone, but what decoding needs of it has hardly changed.
      machine::CpuState before = b.state();
      before.rip = rip;
      before.gpr[machine::rsp] = rsp;
      settle_flags(before, a.instructions() - instructions);
      pair_.settled += settle_images(a, b);
    }
    if (same(a.cpu(), b.cpu()) && a.position() == b.position()) return std::nullopt;
    return fmt::format("after the block at RIP {:#x}, position {} to {}:\n{}", rip, from,
                       a.position(), text_of(pair_.compare(false)));
  }
  static bool same(const soft::Cpu& a, const soft::Cpu& b) {
    return a.rip == b.rip && std::equal(a.gpr.begin(), a.gpr.begin() + 16, b.gpr.begin()) &&
           a.eflags() == b.eflags();
  }

  const Options& options_;
  Pair& pair_;
  const bool thorough_;
  const u64 ram_every_;
  History history_;
};

/// From an event on, block by block. `last_equal` is that event, then the last at which all was
/// equal.
Result<std::string> run_blocks(const Options& options, const std::vector<u64>& schedule,
                               u64& last_equal, bool thorough, Outcome& outcome) {
  auto pair = TRY(Pair::create(options, schedule));
  while (pair->events() < last_equal && !pair->over()) {
    pair->run_interval();
    pair->pass_event();
  }
  Blocks blocks(options, *pair, thorough, 1);
  std::string report = blocks.run();
  last_equal = blocks.last_equal;
  outcome.compared += blocks.compared;
  outcome.ram_compared += blocks.ram_compared;
  pair->tell(outcome);
  return report;
}

/// Compares at events. What it found, and the last event before.
std::string compare_at_events(const Options& options, Pair& pair, u64& last_equal,
                              Outcome& outcome) {
  for (;;) {
    pair.run_interval();
    const bool over = pair.over();
    const bool ram = over || pair.events() % options.ram_every == 0;
    Findings found = pair.compare_level(ram);
    ++outcome.compared;
    outcome.ram_compared += ram;
    if (found.any())
      return fmt::format("at position {}, event {}:\n{}", pair.a().position(), pair.events(),
                         text_of(found));
    if (ram) last_equal = pair.events();
    if (over || pair.next_event() + options.event_every > options.from) return {};
    pair.pass_event();
  }
}

}  // namespace

Result<Outcome> run(const Options& options) {
  Outcome outcome;
  u64 last_equal = 0;
  std::string coarse;
  std::vector<u64> schedule;
  {
    auto pair = TRY(Pair::create(options));
    if (options.every_block) {
      Blocks blocks(options, *pair, false, options.ram_every);
      coarse = blocks.run();
      last_equal = blocks.last_equal;
      outcome.compared += blocks.compared;
      outcome.ram_compared += blocks.ram_compared;
    } else {
      coarse = compare_at_events(options, *pair, last_equal, outcome);
    }
    pair->tell(outcome);
    schedule = pair->schedule();
    if (coarse.empty()) {
      if (pair->over()) return outcome;
      last_equal = pair->events();
    }
  }
  if (!coarse.empty()) {
    fmt::print("the machines differ {}looking for the block, from event {}...\n", coarse,
               last_equal);
    std::fflush(stdout);
    // First the event, then the block.
    std::string closer = TRY(run_blocks(options, schedule, last_equal, false, outcome));
    if (!closer.empty()) coarse = std::move(closer);
    fmt::print("from event {}...\n", last_equal);
    std::fflush(stdout);
  }
  outcome.report = TRY(run_blocks(options, schedule, last_equal, true, outcome));
  if (!coarse.empty() && outcome.report.empty())
    outcome.report = coarse + "but not when everything is compared after each block\n";
  outcome.equal = outcome.report.empty();
  return outcome;
}

}  // namespace skerry::lockstep
