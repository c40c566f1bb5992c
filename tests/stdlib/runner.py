"""CPython's own tests as the judge: runs modules in processes of their own and tells what differs.

    scripts/stdlib                            every module, every mode
    scripts/stdlib test_socket -m G-uvloop    one module in one mode
    scripts/stdlib test_socket test_ssl -v    with the tracebacks of what failed

Mode N: everything is patched, and the suite runs in native code. The result has to be that of the unpatched run, of
which there is one a module for all modes. A few modules are too slow for that, unless `--full` is given. Then what is
collected and what a decorator skips is told by an unpatched process, and any test that did something else than pass is
run unpatched too, and has to do the same there.

Mode G-asyncio, G-uvloop: the whole suite runs in one greenlet of a running loop. What passes unpatched has to pass, and
the loop must not have stood still for longer than the work of the test explains.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from .known_failures import Known, known
from .modules import Module, chosen

__all__ = ["MODES", "Report", "judge", "run_unpatched"]

WORKER = Path(__file__).with_name("worker.py")
MODES = ("N", "G-asyncio", "G-uvloop")
GOOD = ("ok", "skip", "expected failure")

STALL = 0.5
"""Seconds that a loop may stand still for no reason: less than the shortest wait in the tests that matters."""

ATTEMPTS = 3
"""How often a test is run before it counts as failed."""

JOBS = 2 * (os.cpu_count() or 1)
"""Processes at a time: most of these tests wait for most of their time."""

PATIENCE = 10.0
"""Seconds for a test that is known to hang."""


@dataclass
class Run:
    """What one process wrote down.

    Attributes:
        collected: The tests of the module.
        static_skips: Those that a decorator skips.
        results: The last record of each test that ended.
        unfinished: Tests that were started and did not end.
        ended: Whether the process came to its end.
        errors: What it printed.
        cut_short: Why not everything was run; empty if it was.
    """

    collected: list[str] = field(default_factory=list)
    static_skips: list[str] = field(default_factory=list)
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    unfinished: list[str] = field(default_factory=list)
    ended: bool = False
    errors: str = ""
    cut_short: str = ""

    def outcome(self, test: str) -> str:
        """Tell what became of a test."""
        record = self.results.get(test)
        if record is None:
            return "hang" if test in self.unfinished else "not run"
        if record["outcome"] in GOOD and record["stall"] > STALL:
            return "stall"
        return str(record["outcome"])

    def detail(self, test: str) -> str:
        """Tell why."""
        record = self.results.get(test)
        if record is None:
            return self.errors[-4000:]
        if self.outcome(test) == "stall":
            return f"the loop stood still for {record['stall']:.2f} s"
        return str(record["detail"])


@dataclass
class Report:
    """What differs in one module and mode.

    Attributes:
        module: The module's name.
        mode: The mode.
        tests: How many tests there are.
        unpatched: How many were run unpatched, too.
        skipped: How many of them were skipped.
        parks: How often they parked.
        seconds: How long all of it took.
        problems: What is wrong, by test.
        flaky: What was wrong at first and was not when run alone, by test.
        expected: What failed, and was expected to.
    """

    module: str
    mode: str
    tests: int = 0
    unpatched: int = 0
    skipped: int = 0
    parks: int = 0
    seconds: float = 0.0
    problems: dict[str, str] = field(default_factory=dict)
    flaky: dict[str, str] = field(default_factory=dict)
    expected: list[str] = field(default_factory=list)

    def count(self, run: Run) -> None:
        """Take the figures of a run."""
        records = run.results.values()
        self.tests = len(records)
        self.skipped = sum(record["outcome"] == "skip" for record in records)
        self.parks = sum(record["parks"] for record in records)

    def __str__(self) -> str:
        counts = (
            f"{self.tests} tests, {self.unpatched} unpatched too, {self.skipped} skipped, {self.parks} parks, "
            f"{self.seconds:.0f} s"
        )
        more = [f"{len(self.problems)} problems"] if self.problems else []
        more += [f"{len(self.expected)} known failures"] if self.expected else []
        more += [f"{len(self.flaky)} flaky: {' '.join(self.flaky)}"] if self.flaky else []
        return "; ".join([f"{self.module} {self.mode}: {counts}", *more])


def execute(
    module: Module,
    mode: str,
    *,
    patch: bool,
    only: list[str] | None = None,
    without: Iterable[str] = (),
) -> Run:
    """Run a module, or some of its tests, in a process of its own."""
    command = [sys.executable, str(WORKER), module.full_name]
    with tempfile.TemporaryDirectory(prefix="greenio-") as scratch:
        output = Path(scratch, "results.jsonl")
        command += [str(output), f"--test-limit={module.test_limit}"]
        command += ["--patch"] if patch else []
        command += [f"--loop={mode.partition('-')[2]}"] if patch and mode != "N" else []
        command += [f"--without={name}" for name in without]
        if only is not None:
            listed = Path(scratch, "only")
            listed.write_text("\n".join(_owner(name) for name in only or ["-"]))
            command.append(f"--only=@{listed}")
        directory = Path(scratch, "work")
        directory.mkdir()
        errors = Path(scratch, "errors")
        with errors.open("wb") as stream:
            status = _call(command, directory, stream, module.limit)
        return read(output, errors.read_text(errors="replace"), status)


def _owner(name: str) -> str:
    """Tell what has to be run for a result: that of `setUpClass (a.B)` takes all of a.B."""
    fixture, _, owner = name.partition(" (")
    return owner.rstrip(")") if fixture in ("setUpClass", "tearDownClass", "setUpModule", "tearDownModule") else name


def _call(command: list[str], directory: Path, stream: Any, limit: float) -> int:
    # A session of its own: some tests signal their group, or ask for the terminal.
    process = subprocess.Popen(
        command, cwd=directory, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True
    )
    try:
        process.wait(limit)
    except subprocess.TimeoutExpired:
        pass
    finally:
        # With it whatever it has left behind: a test that was cut short does not wait for its children.
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()
    return process.returncode


def read(output: Path, errors: str, status: int) -> Run:
    """Read what a worker wrote down."""
    run = Run(errors=f"{errors}\nexit status {status}")
    started: list[str] = []
    lines = output.read_text().splitlines() if output.exists() else []
    for record in map(json.loads, lines):
        if "collected" in record:
            run.collected, run.static_skips = record["collected"], record["skipped"]
        elif "start" in record:
            started.append(record["start"])
        elif "id" in record:
            run.results[record["id"]] = record
        else:
            run.ended = status == 0
    run.unfinished = [test for test in started if test not in run.results]
    return run


def run_unpatched(module: Module) -> Run:
    """Run a whole module unpatched, but for what hangs there too."""
    return _execute_to_the_end(module, "N", patch=False, without=_hanging(_known(module, "N")))


def judge(module: Module, mode: str, whole: Future[Run] | None = None) -> Report:
    """Run a module in a mode, and compare it with the unpatched run.

    Args:
        module: The module.
        mode: One of MODES.
        whole: What `run_unpatched` finds. Without it just what did not pass is run unpatched.
    """
    began = time.monotonic()
    report = Report(module.name, mode)
    entries = _known(module, mode)
    hanging = _hanging(entries)
    run = _execute_to_the_end(module, mode, patch=True, without=hanging)
    native = whole.result() if whole else execute(module, mode, patch=False, only=_not_passed(run))
    report.count(run)
    report.unpatched = len(native.results)
    if run.cut_short or native.cut_short:
        report.problems[module.name] = run.cut_short or f"unpatched {native.cut_short}"
    elif sorted(run.collected) != sorted(native.collected):
        odd = set(run.collected).symmetric_difference(native.collected)
        report.problems[module.name] = f"{len(odd)} tests were collected only here or there: {sorted(odd)[:5]}"
    tests = {*run.results, *run.unfinished}
    if whole:
        tests |= {*native.results, *native.unfinished} - {*hanging}
    different = sorted(test for test in tests if run.outcome(test) != _there(native, test, bool(whole)))
    expected = {test: entry for entry in entries for test in run.collected if fnmatchcase(test, entry.test)}
    report.expected = [test for test in different if test in expected]
    unexpected = [test for test in different if test not in expected]
    left = _different_again(module, mode, unexpected)
    for test in unexpected:
        parks = run.results.get(test, {}).get("parks", 0)
        problem = (
            f"{run.outcome(test)} ({_there(native, test, bool(whole))} unpatched; {parks} parks)\n{run.detail(test)}"
        )
        (report.problems if test in left else report.flaky)[test] = problem
    for test, entry in expected.items():
        if entry.hangs:
            _check_hanging(report, module, mode, test, entry)
        elif test in run.results and test not in different and not entry.sometimes:
            report.problems[test] = "a known failure passes: take it off the list"
    if run.collected:
        gone = [entry.test for entry in entries if entry not in expected.values()]
        report.problems.update(dict.fromkeys(gone, "a known failure is no test on this version: mend the list"))
    report.seconds = time.monotonic() - began
    return report


def _check_hanging(report: Report, module: Module, mode: str, test: str, entry: Known) -> None:
    """Run a test by itself, not for long, and note whether it does not end."""
    alone = replace(module, limit=PATIENCE, test_limit=PATIENCE)
    outcome = execute(alone, mode, patch=True, only=[test]).outcome(test)
    if outcome == "hang" or (entry.sometimes and outcome not in GOOD):
        report.expected.append(test)
    elif not entry.sometimes:
        report.problems[test] = "it is known to hang, and does not: take it off the list"


def _known(module: Module, mode: str) -> list[Known]:
    return [entry for entry in known(mode) if entry.test.startswith(f"{module.full_name}.")]


def _hanging(entries: list[Known]) -> list[str]:
    return [entry.test for entry in entries if entry.hangs]


def _execute_to_the_end(module: Module, mode: str, *, patch: bool, without: list[str]) -> Run:
    """Run a module; where a test takes the process with it, go on with those that it had before it."""
    run = last = execute(module, mode, patch=patch, without=without)
    for deaths in range(1, _DEATHS + 2):
        done = {*run.results, *run.unfinished, *without}
        left = [test for test in run.collected if test not in done]
        if last.ended or (last.unfinished and not left):
            break
        if not last.unfinished:
            run.cut_short = f"did not end\n{run.errors[-6000:]}"
            break
        if deaths > _DEATHS:
            run.cut_short = f"died {deaths} times, and {len(left)} tests were not run: {left[:5]}\n{run.errors[-6000:]}"
            break
        last = execute(module, mode, patch=patch, only=left, without=without)
        run.results.update(last.results)
        run.unfinished += last.unfinished
        run.errors += last.errors
    return run


_DEATHS = 5
"""After so many and one more the rest of the module is given up, which fails the run."""


def _not_passed(run: Run) -> list[str]:
    """List the tests that are run unpatched as well: those that did not simply pass, nor skip by a decorator."""
    tests = (*run.results, *run.unfinished)
    return [test for test in tests if run.outcome(test) != "ok" and test not in run.static_skips]


def _there(native: Run, test: str, is_whole: bool) -> str:
    """Tell what became of a test unpatched; of a part, what is missing is what passed here, or a decorator skips."""
    outcome = native.outcome(test)
    if is_whole or outcome != "not run":
        return outcome
    return "skip" if test in native.static_skips else "ok"


def _different_again(module: Module, mode: str, tests: list[str]) -> list[str]:
    """Run tests again, without the rest of the module, and list those that differ each time.

    Some of CPython's own fail now and then, and all that watch a clock do on a busy machine.
    """
    for _ in range(ATTEMPTS - 1):
        if not tests:
            return []
        run = execute(module, mode, patch=True, only=tests)
        native = execute(module, mode, patch=False, only=tests)
        tests = [test for test in tests if run.outcome(test) != native.outcome(test)]
    return tests


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/stdlib", description=__doc__.partition("\n")[0])
    parser.add_argument("modules", nargs="*", help="such as test_socket; none for all")
    parser.add_argument("-m", "--mode", action="append", choices=MODES, help="may be given several times")
    parser.add_argument("-j", "--jobs", type=int, default=JOBS, help=f"processes at a time ({JOBS})")
    parser.add_argument("-v", "--verbose", action="store_true", help="show tracebacks")
    parser.add_argument("--ci", action="store_true", help="what continuous integration runs on this version")
    parser.add_argument("--full", action="store_true", help="run the slow modules unpatched as a whole, too")
    return parser.parse_args()


def select(options: argparse.Namespace) -> list[tuple[Module, str]]:
    """List what is to be run, slow modules first, so that none of them is left for the end."""
    modules = [module for module in chosen(options.ci) if not options.modules or module.name in options.modules]
    unknown = set(options.modules) - {module.name for module in modules}
    if unknown:
        sys.exit(f"not in modules.py, or not for this: {' '.join(sorted(unknown))}")
    jobs = [
        (module, mode)
        for module in modules
        if module.exists()
        for mode in options.mode or MODES
        if mode == "N" or module.green
    ]
    return sorted(jobs, key=lambda job: -job[0].weight)


def main() -> int:
    options = parse()
    began = time.monotonic()
    failed: list[str] = []
    with ThreadPoolExecutor(options.jobs) as pool:
        unpatched: dict[Module, Future[Run]] = {}
        running: list[Future[Report]] = []
        for module, mode in select(options):
            if (options.full or module.whole) and module not in unpatched:
                unpatched[module] = pool.submit(run_unpatched, module)  # before those that wait for it
            running.append(pool.submit(judge, module, mode, unpatched.get(module)))
        for future in as_completed(running):
            report = future.result()
            print(report, flush=True)
            told = {**report.problems, **report.flaky} if options.verbose else report.problems
            for test, problem in told.items():
                print(f"    {test}: {problem if options.verbose else _brief(problem)}", flush=True)
            failed += [f"{report.module} {report.mode}"] * bool(report.problems)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        f"CPython {platform.python_version()}: {len(running)} runs, {time.monotonic() - began:.0f} s, "
        f"{used.ru_utime + used.ru_stime:.0f} s of a processor"
    )
    print(f"failed: {', '.join(sorted(failed))}" if failed else "all as expected")
    return 1 if failed else 0


def _brief(problem: str) -> str:
    lines = problem.strip().splitlines()
    return lines[0] if len(lines) == 1 else f"{lines[0]}: {lines[-1][:160]}"


if __name__ == "__main__":
    sys.exit(main())
