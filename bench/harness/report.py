"""From samples to medians, ratios, geometric means and text; reads and writes the JSON of a run.

A run is {"meta": {...}, "rivals": {NAME: {"what": ..., "kind": ...}}, "workloads": [KEY...],
"samples": {RIVAL: {KEY: [ns...]}}, "checksums": {RIVAL: {KEY: [...]}}, "errors": {RIVAL: {KEY: why}},
"skipped": {RIVAL: {KEY: why}}, "clock": {RIVAL: {KEY: ratio}}, "boot": {RIVAL: [{...}]}}.
"""
import json
import math
import pathlib
import statistics

from . import workloads

CLOCK_TOLERANCE = 0.05
# Around the tables in a document.
BEGIN, END = "<!-- figures of bench/suite -->", "<!-- end of figures -->"


def empty():
    names = ("samples", "checksums", "errors", "skipped", "clock", "boot")
    return {"meta": {}, "rivals": {}, "workloads": [], **{name: {} for name in names}}


def add(run, rival, outcomes):
    """The outcomes of one repetition. A checksum that is not native's makes the workload fail."""
    for key, o in outcomes.items():
        if o.skipped:
            run["skipped"].setdefault(rival, {})[key] = o.skipped
        elif o.error:
            run["errors"].setdefault(rival, {})[key] = o.error
        else:
            run["checksums"].setdefault(rival, {}).setdefault(key, set()).add(o.checksum)
            run["samples"].setdefault(rival, {}).setdefault(key, []).append(o.ns)
            if abs(o.clock - 1) > CLOCK_TOLERANCE:
                run["clock"].setdefault(rival, {})[key] = round(o.clock, 3)


def judge(run):
    """Compares checksums; wrong results are errors."""
    for rival, sums in run["checksums"].items():
        for key, seen in sums.items():
            right = run["checksums"].get("native", {}).get(key, seen)
            if set(seen) != set(right) or len(seen) != 1:
                got, want = "/".join(sorted(seen)), "/".join(sorted(right))
                run["errors"].setdefault(rival, {})[key] = f"WRONG RESULT: checksum {got}, native {want}"


def save(run, path):
    document = dict(run, checksums={r: {k: sorted(v) for k, v in s.items()} for r, s in run["checksums"].items()})
    pathlib.Path(path).write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")


def load(path):
    return empty() | json.loads(pathlib.Path(path).read_text())


def geometric_mean(values):
    return math.exp(statistics.fmean(map(math.log, values))) if values else None


class Figures:
    """Medians and ratios of a run."""

    def __init__(self, run):
        self.run = run
        self.rivals = list(run["rivals"])
        self.emulators = [r for r in self.rivals if run["rivals"][r]["kind"] != "native"]
        self.skerries = [r for r in self.rivals if run["rivals"][r]["kind"] == "skerry"]
        self.tcgs = [r for r in self.rivals if run["rivals"][r]["kind"] == "qemu"]
        self.groups = [g for g in workloads.GROUPS if any(k.startswith(g + "/") for k in run["workloads"])]

    def keys(self, group):
        return [k for k in self.run["workloads"] if k.startswith(group + "/")]

    def ns(self, rival, key):
        if key in self.run["errors"].get(rival, {}):
            return None
        samples = self.run["samples"].get(rival, {}).get(key)
        return statistics.median(samples) if samples else None

    def slowdown(self, rival, key):
        own, native = self.ns(rival, key), self.ns("native", key)
        return own / native if own and native else None

    def best_tcg(self, key):
        times = [t for t in (self.ns(r, key) for r in self.tcgs) if t]
        return min(times) if times else None

    def against_tcg(self, rival, key):
        own, best = self.ns(rival, key), self.best_tcg(key)
        return own / best if own and best else None

    def mean(self, rival, group, ratio=None):
        """(geometric mean, how many workloads have one)."""
        values = [v for v in ((ratio or self.slowdown)(rival, k) for k in self.keys(group)) if v]
        return geometric_mean(values), len(values)

    def boot(self, rival, what):
        values = [b[what] for b in self.run["boot"].get(rival, []) if what in b]
        return statistics.median(values) if values else None


def cell(value, width, unit="x", digits=None):
    if value is None:
        return "-".rjust(width)
    digits = (2 if value < 10 else 1 if value < 100 else 0) if digits is None else digits
    return f"{value:.{digits}f}{unit}".rjust(width)


def lay_out(header, rows, markdown=False):
    """Columns; the first to the left."""
    if markdown:
        lines = [header, ["---", *["--:"] * (len(header) - 1)], *rows]
        return "\n".join("| " + " | ".join(c.strip() for c in line) + " |" for line in lines)
    table = [header, *rows]
    widths = [max(len(row[i].strip()) for row in table) for i in range(len(header))]
    return "\n".join("  ".join([row[0].ljust(widths[0]), *(c.strip().rjust(w) for c, w in zip(row[1:], widths[1:]))])
                     for row in table)


def each_workload(f):
    rows = []
    for group in f.groups:
        for key in f.keys(group):
            native = f.ns("native", key)
            row = [key, cell(native / 1e6 if native else None, 0, "", 1)]
            for rival in f.emulators:
                row.append("FAILED" if key in f.run["errors"].get(rival, {}) else
                           "skipped" if key in f.run["skipped"].get(rival, {}) else cell(f.slowdown(rival, key), 0))
            rows.append(row + [cell(f.against_tcg(s, key), 0, "") for s in f.skerries if f.tcgs])
    return ["workload", "native ms", *f.emulators, *(f"{s}/TCG" for s in f.skerries if f.tcgs)], rows


def each_group(f):
    rows = []
    for group in f.groups:
        row = [f"{group} ({len(f.keys(group))})"]
        for rival in f.emulators:
            value, count = f.mean(rival, group)
            row.append(cell(value, 0) + (f" of {count}" if 0 < count < len(f.keys(group)) else ""))
        row += [cell(f.mean(s, group, f.against_tcg)[0], 0, "") for s in f.skerries if f.tcgs]
        rows.append(row + [cell(workloads.GOALS.get(group), 0, digits=1)])
    return ["group", *f.emulators, *(f"{s}/TCG" for s in f.skerries if f.tcgs), "goal"], rows


def each_boot(f):
    rows = [[r, cell(f.boot(r, "init"), 0, "", 2), cell(f.boot(r, "checks"), 0, "", 2),
             cell(f.boot(r, "memory"), 0, "", 1), cell(f.boot(r, "memory_checks"), 0, "", 1)]
            for r in f.emulators if r in f.run["boot"]]
    return ["rival", "init s", "checks s", "MiB at init", "MiB after checks"], rows


def text(run):
    f = Figures(run)
    parts = []
    if f.groups:
        parts.append("Slowdown against native (medians); rival/TCG: time by that of the best TCG\n"
                     + lay_out(*each_workload(f)))
        parts.append("Geometric means\n" + lay_out(*each_group(f)))
    if run["boot"]:
        parts.append("Boot (medians): seconds to init and to the end of the checks; MiB beyond the guest's RAM then\n"
                     + lay_out(*each_boot(f)))
    return "\n\n".join(parts + findings(f))


def markdown(run):
    """The tables for docs/performance.md."""
    f = Figures(run)
    tables = [each_group, *([each_boot] if run["boot"] else []), each_workload]
    return "\n\n".join([caption(f), *(lay_out(*table(f), markdown=True) for table in tables)]) + "\n"


def caption(f):
    meta = f.run["meta"]
    rivals = "; ".join(f"{r}: {f.run['rivals'][r]['what']}" for r in f.emulators)
    boots = {r: max((len(s) for s in f.run["samples"].get(r, {}).values()), default=0) for r in f.emulators}
    return (f"Measured on {meta.get('date', '?')[:10]} at {meta.get('commit', '?')}, {meta.get('qemu', '?')}, "
            f"{meta.get('cpus', '?')} CPUs of {meta.get('processor', '?')}, load before {meta.get('load', 0):.1f}"
            f"{', short workloads (--quick)' if meta.get('quick') else ''}. "
            f"Repetitions: {', '.join(f'{r} {n}' for r, n in boots.items())}. {rivals}.")


def write_markdown(run, path):
    """A document with the marks keeps what is around them."""
    tables = markdown(run)
    old = path.read_text() if path.exists() else ""
    before, begin, rest = old.partition(BEGIN)
    _, end, after = rest.partition(END)
    path.write_text(f"{before}{begin}\n\n{tables}\n{end}{after}" if end else tables)


def slower_than_tcg(f, rival):
    """[(ratio, what)], worst first."""
    slower = [(f.against_tcg(rival, k), k) for g in f.groups for k in f.keys(g)]
    if f.run["boot"]:
        best = [t for t in (f.boot(r, "init") for r in f.tcgs) if t]
        own = f.boot(rival, "init")
        if best and own:
            slower.append((own / min(best), "boot/init"))
    return sorted(((r, k) for r, k in slower if r and r > 1), reverse=True)


def findings(f):
    parts = []
    for rival in f.skerries:
        if f.tcgs:
            slower = slower_than_tcg(f, rival)
            what = ", ".join(f"{key} {ratio:.2f}" for ratio, key in slower) or "none"
            parts.append(f"{rival} slower than the best TCG on {len(slower)}: {what}")
    for rival, odd in f.run["clock"].items():
        parts.append(f"CLOCK of {rival} disagrees with the host's (guest's time by host's): "
                     + ", ".join(f"{k} {v}" for k, v in odd.items()))
    failed = [f"  {rival}: {key}: {why}" for rival, errors in f.run["errors"].items() for key, why in errors.items()]
    failed += [f"  {rival}: boot: {b['error']}"
               for rival, boots in f.run["boot"].items() for b in boots if "error" in b]
    if failed:
        parts.append(f"FAILED ({len(failed)}):\n" + "\n".join(failed))
    return parts


def failures(run):
    return sum(map(len, run["errors"].values())) + sum("error" in b for boots in run["boot"].values() for b in boots)


def compare(old_run, new_run, threshold=0.10):
    """What changed between two runs, by each one's own native: below 1 is faster."""
    old, new = Figures(old_run), Figures(new_run)
    parts = []
    for rival in new.skerries:
        if rival not in old.rivals:
            continue
        changes = {}
        for group in new.groups:
            for key in new.keys(group):
                before, after = old.slowdown(rival, key), new.slowdown(rival, key)
                if before and after:
                    changes[key] = after / before
        rows = []
        for group in new.groups:
            values = [v for k, v in changes.items() if k.startswith(group + "/")]
            if values:
                rows.append([group, cell(geometric_mean(values), 0, "")])
        parts.append(f"{rival}: slowdown now by then (geometric means)\n" + lay_out(["group", "now/then"], rows))
        moved = sorted((v, k) for k, v in changes.items() if abs(v - 1) > threshold)
        parts.append(f"{rival}: changed by more than {threshold:.0%}: "
                     + (", ".join(f"{k} {v:.2f}" for v, k in moved) or "none"))
        before, after = old.boot(rival, "init"), new.boot(rival, "init")
        if before and after:
            parts.append(f"{rival}: boot to init {before:.2f} s then, {after:.2f} s now")
    return "\n\n".join(parts) or "nothing to compare"
