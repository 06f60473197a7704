#!/usr/bin/env python3
"""The harness: wrong results and wrong clocks are noticed, a crash costs one workload, means and tables are right."""
import pathlib
import sys
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

from harness import plot, report, rivals, root  # noqa: E402


class Script:
    """What a guest prints, as rivals.Lines gives it."""

    def __init__(self, *lines):
        self.lines = list(lines)

    def next(self, limit_s):
        return self.lines.pop(0) if self.lines else (None, "ended")


def run_of(native, jit, tcg):
    run = report.empty()
    run["rivals"] = {"native": {"what": "n", "kind": "native"}, "jit": {"what": "j", "kind": "skerry"},
                     "tcg": {"what": "t", "kind": "qemu"}}
    run["workloads"] = list(native)
    for rival, times in (("native", native), ("jit", jit), ("tcg", tcg)):
        for ns in zip(*times.values()):
            report.add(run, rival, {k: rivals.Outcome(ns=t, checksum="c") for k, t in zip(times, ns)})
    return run


class Follow(unittest.TestCase):
    def test_takes_results_and_compares_clocks(self):
        results = {}
        why, running = rivals.follow(Script(
            (0.0, "BENCH-START int/a"), (1.0, "[ 1.2] noise BENCH int/a 100 200 00ff 3"),
            (1.0, "BENCH-WALL int/a 500000000"),
            (1.0, "BENCH-START fp/b"), (1.1, "BENCH-SKIP fp/b no AVX2"), (1.1, "BENCH-WALL fp/b 1"),
            (1.1, "BENCH-START fp/c"), (1.2, "BENCH-FAIL fp/c signal 11"), (1.2, "BENCH-WALL fp/c 1"),
            (1.2, "BENCH-END")), {"int/a", "fp/b", "fp/c"}, results, self.fail)
        self.assertEqual((why, running), ("", None))
        self.assertEqual((results["int/a"].ns, results["int/a"].checksum, results["int/a"].clock), (100, "00ff", 0.5))
        self.assertEqual(results["fp/b"].skipped, "no AVX2")
        self.assertEqual(results["fp/c"].error, "signal 11")
        run = report.empty()
        report.add(run, "jit", results)
        self.assertEqual(run["clock"], {"jit": {"int/a": 0.5}})

    def test_says_what_ran_when_the_machine_ended(self):
        results = {}
        why, running = rivals.follow(Script((0, "BENCH-START a"), (1, "BENCH a 1 1 0 1"), (1, "BENCH-WALL a 1"),
                                            (1, "BENCH-START b")), {"a", "b"}, results, self.fail)
        self.assertEqual((why, running, list(results)), ("ended", "b", ["a"]))


class Report(unittest.TestCase):
    def test_medians_and_means(self):
        figures = report.Figures(run_of({"int/a": [10, 10, 10], "int/b": [10, 10, 10]},
                                        {"int/a": [20, 19, 900], "int/b": [80, 80, 80]},
                                        {"int/a": [40, 40, 40], "int/b": [40, 40, 40]}))
        self.assertAlmostEqual(figures.slowdown("jit", "int/a"), 2)
        self.assertAlmostEqual(figures.mean("jit", "int")[0], 4)
        self.assertEqual(report.slower_than_tcg(figures, "jit"), [(2.0, "int/b")])

    def test_wrong_result_fails_and_has_no_figure(self):
        run = run_of({"int/a": [10]}, {"int/a": [20]}, {"int/a": [40]})
        report.judge(run)
        self.assertEqual(report.failures(run), 0)
        report.add(run, "jit", {"int/a": rivals.Outcome(ns=1, checksum="d")})
        report.judge(run)
        self.assertEqual(report.failures(run), 1)
        self.assertIsNone(report.Figures(run).slowdown("jit", "int/a"))
        self.assertIn("WRONG RESULT", report.text(run))

    def test_compare_and_drawing(self):
        old = run_of({"int/a": [10]}, {"int/a": [40]}, {"int/a": [40]})
        new = run_of({"int/a": [10]}, {"int/a": [20]}, {"int/a": [40]})
        self.assertIn("int/a 0.50", report.compare(old, new))
        self.assertIn("jit: 2.00x", plot.draw(new))


class Archive(unittest.TestCase):
    def test_layout(self):
        archive = root.archive({"ab": (0o100644, b"xyz")})
        self.assertEqual(archive[:6], b"070701")
        self.assertEqual(archive[110:119], b"ab\0\0\0\0xyz")  # name and content each end on a multiple of 4
        self.assertEqual(len(archive) % 4, 0)


if __name__ == "__main__":
    unittest.main()
