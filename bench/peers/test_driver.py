#!/usr/bin/env python3
"""Tests of the driver alone, without any peer: python3 bench/peers/test_driver.py"""
import json
import sys
import tempfile
import unittest
from pathlib import Path

from driver import arithmetic, process, record, table, words
from driver.work import Contender, Failure, Figure, Work, run_rounds

SPEED = Figure("speed", "tokens/s", higher_is_better=True)
MEMORY = Figure("memory", "GB", higher_is_better=False)
LOSS = Figure("loss", "nats", higher_is_better=None)


def rounds_of(*values):
    """A contender's work that gives these speeds in turn; None fails."""
    rest = iter(values)

    def measure():
        value = next(rest)
        if value is None:
            raise Failure("out of luck")
        return {"speed": value, "memory": 10 / value, "loss": 3.0}

    return measure


def quiet(_):
    pass


class Arithmetic(unittest.TestCase):
    def test_median_and_spread(self):
        self.assertEqual(arithmetic.median([5.0, 1.0, 4.0]), 4.0)
        self.assertEqual(arithmetic.median([4.0, 1.0]), 2.5)
        self.assertEqual(arithmetic.spread([5.0, 1.0, 4.0]), 1.0)
        self.assertEqual(arithmetic.spread([7.0]), 0.0)

    def test_ratios_are_above_one_where_the_reference_is_ahead(self):
        self.assertEqual(arithmetic.ratios([300, 200], [100, 100], higher_is_better=True), [3, 2])
        self.assertEqual(arithmetic.ratios([2.0], [6.0], higher_is_better=False), [3])

    def test_ratios_pair_what_ran_in_the_same_round(self):
        self.assertEqual(arithmetic.ratios([None, 8, 9], [1, 4, None], higher_is_better=True), [2])


class Rounds(unittest.TestCase):
    def test_contenders_alternate_and_turn_round(self):
        order = []

        def contender(name):
            return Contender(name, lambda: order.append(name) or {"speed": 1.0})

        run_rounds(Work("w", "", [SPEED], [contender("a"), contender("b")]), 3, quiet)
        self.assertEqual(order, ["a", "b", "b", "a", "a", "b"])

    def test_a_failure_is_kept_and_the_others_go_on(self):
        work = Work("w", "", [SPEED], [Contender("a", rounds_of(1, 2)), Contender("b", rounds_of(3, None))])
        outcomes = run_rounds(work, 2, quiet)
        self.assertEqual(outcomes["a"].values("speed"), [1, 2])
        self.assertEqual(outcomes["b"].values("speed"), [3, None])
        self.assertEqual(outcomes["b"].failures, [None, "out of luck"])


class Table(unittest.TestCase):
    def printed(self, ours, theirs, figures=(SPEED, MEMORY, LOSS)):
        contenders = [Contender("ours", rounds_of(*ours)), Contender("theirs", rounds_of(*theirs), against="ours")]
        work = Work("step", "a step", list(figures), contenders)
        return table.work_table(work, run_rounds(work, len(ours), quiet)).splitlines()

    def test_lines_of_a_figure(self):
        self.assertEqual(self.printed([300, 310, 290], [100, 100, 100], [SPEED]), [
            "step: a step",
            "                 median  spread  ahead of it",
            "speed, tokens/s",
            "  ours            300.0    6.7%",
            "  theirs          100.0    0.0%  ours: 3.00x (2.90 to 3.10)",
        ])

    def test_less_memory_is_ahead_and_a_loss_is_no_contest(self):
        lines = self.printed([2.0], [1.0])
        self.assertIn("ours: 2.00x", lines[lines.index("memory, GB") + 2])
        self.assertNotIn("x", lines[lines.index("loss, nats") + 2].replace("theirs", ""))

    def test_failures_are_printed(self):
        lines = self.printed([1, 1], [None, None], [SPEED])
        self.assertEqual(lines[-1], "FAILED in 2 of 2 rounds: theirs: out of luck")
        self.assertEqual(lines[-2].split(), ["theirs", "-", "-", "-"])

    def test_numbers_have_four_digits_or_all_before_the_point(self):
        texts = [table.number(x) for x in [0, 0.1234, 1.2345, 12.345, 123.45, 1234.5, 123456.7]]
        self.assertEqual(texts, ["0", "0.123", "1.234", "12.35", "123.5", "1234", "123457"])


class Processes(unittest.TestCase):
    def python(self, source):
        return process.run([sys.executable, "-c", source], threads=3)

    def test_output_threads_and_peak(self):
        size = 100_000_000
        done = self.python(
            f"import os; b = bytearray(b'x') * {size}; print('note'); print('{{\"n\":', os.environ['OMP_NUM_THREADS'], '}}')"
        )
        self.assertEqual(process.json_lines(done.output), [{"n": 3}])
        self.assertTrue(size < done.peak_bytes < 2 * size, done.peak_bytes)

    def test_why_a_program_failed(self):
        with self.assertRaisesRegex(Failure, "^exit status 3: the disk is full$"):
            self.python("import sys; print('the disk is full', file=sys.stderr); sys.exit(3)")
        with self.assertRaisesRegex(Failure, "^killed by SIGKILL"):
            self.python("import os; os.kill(os.getpid(), 9)")
        with self.assertRaisesRegex(Failure, "^/nowhere: No such file"):
            process.run(["/nowhere"], threads=1)

    def test_a_program_that_hangs_is_ended(self):
        limit, process.TIMEOUT_SECONDS = process.TIMEOUT_SECONDS, 0.3
        try:
            with self.assertRaisesRegex(Failure, "not done after 0.3 seconds"):
                self.python("import time; time.sleep(60)")
        finally:
            process.TIMEOUT_SECONDS = limit


class Files(unittest.TestCase):
    def test_the_record_has_every_round(self):
        work = Work("w", "title", [SPEED], [Contender("a", rounds_of(1, None)), Contender("b", rounds_of(2, 3), "a")])
        outcomes = run_rounds(work, 2, quiet)
        with tempfile.TemporaryDirectory() as tmp:
            kept = record.Record(Path(tmp) / "run", {"cpu": "fast", "packages": ["torch==1"]})
            kept.add(work, outcomes, "the table")
            numbers = json.loads((Path(tmp) / "run" / record.NUMBERS).read_text())
            text = (Path(tmp) / "run" / record.TABLES).read_text()
        self.assertEqual(numbers["machine"]["packages"], ["torch==1"])
        first, second = numbers["works"][0]["contenders"]
        self.assertEqual(first["failures"], [None, "out of luck"])
        self.assertEqual((second["against"], [r["speed"] for r in second["rounds"]]), ("a", [2, 3]))
        self.assertIn("the table", text)
        self.assertNotIn("torch==1", text)

    def test_the_text_is_always_the_same(self):
        with tempfile.TemporaryDirectory() as tmp:
            for name in ["a", "b"]:
                words.make(Path(tmp) / name, 5000)
            first, second = ((Path(tmp) / name).read_bytes() for name in ["a", "b"])
        self.assertEqual(first, second)
        self.assertGreaterEqual(len(first), 5000)


if __name__ == "__main__":
    unittest.main()
