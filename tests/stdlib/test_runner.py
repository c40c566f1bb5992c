"""The runner itself: what it must see, and what it must let pass."""

from __future__ import annotations

import textwrap
from concurrent.futures import Future

import pytest

from . import runner
from .known_failures import KNOWN, Known
from .modules import MODULES, Module
from .runner import judge, run_unpatched

SAMPLE = """
    import os
    import time
    import unittest

    from greenio import in_greenlet, monkey

    PATCHED = monkey.is_patched("time")


    class Sample(unittest.TestCase):
        def test_passes(self):
            pass

        def test_parks(self):
            time.sleep(0.7)

        def test_works(self):
            end = time.thread_time() + 0.7
            while time.thread_time() < end:
                pass

        @unittest.skip("always")
        def test_is_skipped(self):
            raise AssertionError

        def test_skips_itself(self):
            self.skipTest("here too")

        @unittest.expectedFailure
        def test_fails_as_expected(self):
            self.fail()

        def test_fails_everywhere(self):
            self.fail()

        def test_skips_if_patched(self):
            if PATCHED:
                self.skipTest("patched")

        def test_fails_if_patched(self):
            self.assertFalse(PATCHED)

        def test_fails_unless_patched(self):
            self.assertTrue(PATCHED)

        def test_fails_in_part_if_patched(self):
            for number in range(2):
                with self.subTest(number=number):
                    self.assertFalse(PATCHED and number)

        def test_fails_once(self):
            if PATCHED and not os.path.exists(os.environ["FAILED_ONCE"]):
                open(os.environ["FAILED_ONCE"], "w").close()
                self.fail("at first")

        def test_blocks(self):
            if in_greenlet():
                monkey.original("time", "sleep")(0.7)

        def test_hangs_if_green(self):
            if in_greenlet():
                time.sleep(1000)


    class SkippedAsAWhole(unittest.TestCase):
        @classmethod
        def setUpClass(cls):
            raise unittest.SkipTest("for a reason")

        def test(self):
            raise AssertionError


    if PATCHED:

        class OnlyIfPatched(unittest.TestCase):
            def test(self):
                pass
"""

DYING = """
    import os
    import unittest

    from greenio import monkey


    class Dying(unittest.TestCase):
        def test(self):
            if monkey.is_patched("time"):
                os._exit(1)

        def test_that_comes_later(self):
            pass

        def test_that_spins(self):
            while monkey.is_patched("time"):
                pass
"""

DYING_OFTEN = """
    import os
    import unittest

    from greenio import monkey


    class DyingOften(unittest.TestCase):
        def die(self):
            if monkey.is_patched("time"):
                os._exit(1)

        test_1 = test_2 = test_3 = test_4 = test_5 = test_6 = test_7 = die

        def test_8(self):
            pass
"""

DYING_AT_THE_END = """
    import os
    import unittest

    from greenio import monkey


    class Dying(unittest.TestCase):
        def test(self):
            pass


    def tearDownModule():
        if monkey.is_patched("time"):
            os._exit(1)
"""


@pytest.fixture
def sample(tmp_path, monkeypatch):
    """Write a test module for workers to run, and judge it."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("FAILED_ONCE", str(tmp_path / "failed-once"))
    (tmp_path / "sampled").mkdir()
    (tmp_path / "sampled" / "__init__.py").touch()

    def run(source, mode, known=(), full=False):
        (tmp_path / "sampled" / "test_sample.py").write_text(textwrap.dedent(source))
        monkeypatch.setattr(runner, "known", lambda mode: [entry for entry in known if entry.applies(mode)])
        module = Module("test_sample", package="sampled", limit=60, test_limit=3)
        whole = Future() if full else None
        if whole is not None:
            whole.set_result(run_unpatched(module))
        return judge(module, mode, whole)

    return run


def short(names):
    return {name.removeprefix("sampled.test_sample.").removeprefix("Sample.test_") for name in names}


PATCHED = {"test_sample", "fails_if_patched", "fails_in_part_if_patched", "skips_if_patched"}


@pytest.mark.timeout(240)
@pytest.mark.parametrize("full", [False, True])
def test_what_differs_natively(sample, full):
    report = sample(SAMPLE, "N", full=full)
    assert short(report.problems) == PATCHED | ({"fails_unless_patched", "OnlyIfPatched.test"} if full else set())
    assert "OnlyIfPatched" in report.problems["test_sample"]
    assert short(report.flaky) == {"fails_once"}
    assert report.parks == 0
    assert (report.tests, report.skipped) == (16, 4)
    assert report.unpatched == (15 if full else 8)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("mode", ["G-asyncio", "G-uvloop"])
def test_what_differs_in_a_greenlet(sample, mode):
    report = sample(SAMPLE, mode)
    assert short(report.problems) == PATCHED | {"blocks", "hangs_if_green"}
    assert "stood still" in report.problems["sampled.test_sample.Sample.test_blocks"]
    assert "CancelledError" in report.problems["sampled.test_sample.Sample.test_hangs_if_green"]
    assert report.parks >= 2
    assert "problems" in str(report)


@pytest.mark.timeout(240)
def test_known_failures(sample):
    name = "sampled.test_sample.Sample.test_{}".format
    known = [
        Known(name("fails_i*"), "N", "it says so", "", sometimes=True),
        Known(name("skips_if_patched"), "G", "only when green, it is thought", ""),
        Known(name("fails_if_patched"), "NG", "not yet", "", since=(3, 99)),
        Known(name("passes"), "N", "it does not fail", ""),
        Known(name("parks"), "N", "it may", "", sometimes=True),
        Known(name("is_no_more"), "N", "it has failed", ""),
        Known(name("hung"), "N", "it did not end", "", hangs=True, sometimes=True),
    ]
    report = sample(SAMPLE, "N", known)
    assert short(report.expected) == {"fails_if_patched", "fails_in_part_if_patched"}
    assert short(report.problems) == {"test_sample", "skips_if_patched", "passes", "is_no_more", "hung"}
    assert "take it off" in report.problems[name("passes")]
    assert "no test on this version" in report.problems[name("is_no_more")]


@pytest.mark.timeout(240)
def test_a_process_that_dies_and_one_that_spins(sample):
    name = "sampled.test_sample.Dying.test{}".format
    report = sample(DYING, "N")
    assert report.tests == 1  # the one in between
    assert set(report.problems) == {name(""), name("_that_spins")}
    assert report.problems[name("")].startswith("hang (ok unpatched")
    assert "exit status 1" in report.problems[name("")]


@pytest.mark.timeout(240)
def test_tests_that_are_not_run_fail_the_run(sample):
    report = sample(DYING_OFTEN, "N")
    assert report.problems["test_sample"].startswith("died 6 times, and 2 tests were not run")
    assert "DyingOften.test_7" in report.problems["test_sample"]


@pytest.mark.timeout(240)
@pytest.mark.parametrize("full", [False, True])
def test_a_process_that_dies_at_its_end(sample, full):
    report = sample(DYING_AT_THE_END, "N", full=full)
    assert report.problems["test_sample"].startswith("did not end")


@pytest.mark.timeout(240)
@pytest.mark.parametrize("sometimes", [False, True])
def test_known_to_hang(sample, monkeypatch, sometimes):
    monkeypatch.setattr(runner, "PATIENCE", 3.0)
    name = "sampled.test_sample.Dying.test{}".format
    ends = ("", "_that_comes_later", "_that_spins")
    known = [Known(name(end), "G", "it is known to", "", hangs=True, sometimes=sometimes) for end in ends]
    report = sample(DYING, "G-asyncio", known, full=sometimes)
    assert report.expected == [name(""), name("_that_spins")]
    assert list(report.problems) == ([] if sometimes else [name("_that_comes_later")])
    assert sometimes or "take it off" in report.problems[name("_that_comes_later")]


def test_loops_and_versions_of_known_failures():
    assert Known("t", "G", "r", "", loops=("uvloop",)).applies("G-uvloop")
    assert not Known("t", "G", "r", "", loops=("uvloop",)).applies("G-asyncio")
    assert not Known("t", "G", "r", "").applies("N")
    assert not Known("t", "N", "r", "", until=(3, 9)).applies("N")


def selected(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["stdlib", *arguments])
    return [(module.name, mode) for module, mode in runner.select(runner.parse())]


def test_what_is_selected(monkeypatch):
    assert selected(monkeypatch, "test_poll", "test_socket", "-m", "G-uvloop", "-m", "N") == [
        ("test_socket", "G-uvloop"),
        ("test_socket", "N"),
        ("test_poll", "G-uvloop"),
        ("test_poll", "N"),
    ]
    assert selected(monkeypatch, "test_asyncio") == [("test_asyncio", "N")]
    everything, in_ci = selected(monkeypatch), selected(monkeypatch, "--ci")
    assert {("test_socket", mode) for mode in runner.MODES} <= {*in_ci} <= {*everything}
    with pytest.raises(SystemExit, match="test_sockets"):
        selected(monkeypatch, "test_sockets")


def test_each_known_failure_is_of_a_module_that_is_run():
    modules = tuple(f"{module.full_name}." for module in MODULES)
    for entry in KNOWN:
        assert entry.test.startswith(modules)
        assert entry.modes == "G" or (entry.hangs and entry.sometimes), "nothing may differ in native code"
        assert entry.reason
        assert entry.mend
        assert "*" not in entry.test or not entry.hangs
    assert len(KNOWN) <= 30
