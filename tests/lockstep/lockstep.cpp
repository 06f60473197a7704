#include "lockstep/lockstep.hpp"

#include <random>

#include "lockstep/report.hpp"

namespace skerry::lockstep {
namespace {

using Status = Side::Status;

class Pair {
 public:
  static Result<std::unique_ptr<Pair>> create(const Options& options) {
    std::unique_ptr<Pair> pair(new Pair(options));
    pair->a_ = TRY(Side::create(options.setup, options.a));
    pair->b_ = TRY(Side::create(options.setup, options.b));
    return pair;
  }

  Side& a() { return *a_; }
  Side& b() { return *b_; }
  u64 events() const { return events_; }
  u64 next_event() const { return next_event_; }

  /// Both to the next event, and no further.
  void run_interval() {
    a_->advance(next_event_);
    if (random_)
      while (b_->status() == Status::running && b_->position() < next_event_)
        b_->advance(std::min(next_event_, b_->position() + 1 + (*random_)() % 64));
    b_->advance(next_event_);
  }
  void pass_event() {
    Nanos skip = 0;
    if (a_->status() == Status::halted) {
      skip = std::min<Nanos>(kIdleStep, a_->until_deadline().value_or(kIdleStep));
      idle_ += skip;
    } else {
      idle_ = 0;
    }
    a_->event(skip);
    b_->event(skip);
    ++events_;
    if (a_->status() == Status::running) next_event_ = a_->position() + options_.event_every;
  }
  bool over() const {
    return a_->status() == Status::ended || b_->status() == Status::ended ||
           a_->position() >= options_.limit || idle_ > options_.idle;
  }
  std::string ending() const {
    if (a_->status() == Status::ended) return a_->ending();
    return idle_ > options_.idle ? "idle" : "limit";
  }

  /// What differs; registers alone unless `ram`.
  Findings compare(bool ram) {
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

 private:
  static constexpr Nanos kIdleStep = 100'000;
  explicit Pair(const Options& options) : options_(options), next_event_(options.event_every) {
    if (options.jitter) random_.emplace(options.jitter);
  }

  const Options& options_;
  std::unique_ptr<Side> a_, b_;
  RamComparison ram_;
  std::optional<std::mt19937_64> random_;
  u64 next_event_, events_ = 0;
  Nanos idle_ = 0;
};

/// Runs without comparison to event number `events`, then compares after every block of A until a
/// difference or the end. Empty report: none.
class Fine {
 public:
  Fine(const Options& options, Pair& pair) : options_(options), pair_(pair) {}

  std::string run() {
    Findings now = pair_.compare(true);
    if (now.any()) return "before the first block:\n" + text_of(now);
    while (!pair_.over()) {
      Side& a = pair_.a();
      for (unsigned stuck = 0;
           a.status() == Status::running && a.position() < pair_.next_event();) {
        const u64 before = a.position();
        if (auto report = block(now)) return *report;
        stuck = a.position() == before ? stuck + 1 : 0;
        if (stuck > 1000) return "A does not get on\n";
      }
      pair_.b().advance(pair_.next_event());  // to the same halt
      pair_.pass_event();
      now = pair_.compare(true);
      ++compared;
      if (now.any()) return "at an event:\n" + history_.text() + text_of(now);
    }
    return {};
  }
  u64 compared = 0;

 private:
  std::optional<std::string> block(Findings& now) {
    Side &a = pair_.a(), &b = pair_.b();
    BlockReport block(a, now.a);
    a.advance(pair_.next_event(), true);
    block.ended_at(a.position());
    while (b.status() == Status::running && b.position() < a.position()) {
      b.advance(b.position() + 1);
      block.add_step(b.state());
    }
    if (a.status() != Status::running) b.advance(pair_.next_event());
    Findings after = pair_.compare(true);
    ++compared;
    if (options_.print) fmt::print("{}", block.code());
    if (after.any()) return history_.text() + block.text(b) + text_of(after);
    history_.add(block);
    now = std::move(after);
    return std::nullopt;
  }

  const Options& options_;
  Pair& pair_;
  History history_;
};

Result<std::string> find_block(const Options& options, u64 event, Outcome& outcome) {
  auto pair = TRY(Pair::create(options));
  while (pair->events() < event && !pair->over()) {
    pair->run_interval();
    pair->pass_event();
  }
  Fine fine(options, *pair);
  std::string report = fine.run();
  outcome.compared += fine.compared;
  outcome.ram_compared += fine.compared;
  outcome.position = pair->a().position();
  outcome.time = pair->a().now();
  outcome.output = pair->a().output();
  outcome.ending = pair->ending();
  outcome.code = pair->a().code();
  return report;
}

}  // namespace

Result<Outcome> run(const Options& options) {
  Outcome outcome;
  if (options.every_block) {
    outcome.report = TRY(find_block(options, 0, outcome));
    outcome.equal = outcome.report.empty();
    return outcome;
  }
  u64 last_equal = 0;
  std::string coarse;
  {
    auto pair = TRY(Pair::create(options));
    for (;;) {
      pair->run_interval();
      const bool over = pair->over();
      const bool ram = over || pair->events() % options.ram_every == 0;
      Findings found = pair->compare(ram);
      ++outcome.compared;
      outcome.ram_compared += ram;
      if (found.any()) {
        coarse = fmt::format("the machines differ at position {}, after event {}:\n{}",
                             pair->a().position(), pair->events(), text_of(found));
        break;
      }
      if (ram) last_equal = pair->events();
      if (over || pair->next_event() + options.event_every > options.from) break;
      pair->pass_event();
    }
    outcome.position = pair->a().position();
    outcome.time = pair->a().now();
    outcome.output = pair->a().output();
    outcome.ending = pair->ending();
    outcome.code = pair->a().code();
    if (coarse.empty() && pair->over()) return outcome;
    if (coarse.empty()) last_equal = pair->events();
  }
  if (!coarse.empty())
    fmt::print("{}looking for the block, from event {}...\n", coarse, last_equal);
  outcome.report = TRY(find_block(options, last_equal, outcome));
  if (!coarse.empty() && outcome.report.empty())
    outcome.report = coarse + "but not when blocks run one at a time\n";
  outcome.equal = outcome.report.empty();
  return outcome;
}

}  // namespace skerry::lockstep
