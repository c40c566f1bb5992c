"""One test module of CPython's own, run in this process: patched or not, green or not. A line of JSON for each result.

    python tests/stdlib/worker.py test.test_socket OUTPUT --patch --loop uvloop

The runner starts it, in an empty directory. A test that takes too long is cancelled if it is parked in green code; one
that does not end at all takes the process with it, and its stack goes to stderr.
"""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import gc
import importlib
import json
import os
import signal
import sys
import time
import traceback
import unittest
import warnings
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

if __name__ == "__main__":
    # The tests are to find their own `test`, and nothing of what lies beside this file.
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != os.path.dirname(os.path.abspath(__file__))]

ErrorInfo = tuple[type[BaseException], BaseException, TracebackType]

TICK = 0.02
"""Seconds between two ticks of the loop that green tests run on."""

GRACE = 20.0
"""Seconds that a test which was cancelled may take to end."""

PATIENCE = 4
"""How many times as long a test may take that is not green or does not let the loop run, so that none cancels it."""

RESOURCES = ("audio", "gui", "largefile", "tzdata", "urlfetch", "walltime", "extralargefile")
"""What the machine may not have, or a test-suite cannot wait for: tests that ask for it are skipped."""


class Clock:
    """Wall time since a mark, and what explains it: this process's own work, and waiting for a processor."""

    def __init__(self) -> None:
        self.mark()

    def mark(self) -> None:
        self._wall, self._work, self._queued = time.monotonic(), time.process_time(), _queued()

    def stood(self) -> float:
        """Tell the seconds since the mark that neither work nor a busy machine explains."""
        wall = time.monotonic() - self._wall
        return max(0.0, wall - (time.process_time() - self._work) - (_queued() - self._queued))


def _queued() -> float:
    """Tell how long the main thread has been ready to run without a processor, in seconds."""
    try:
        with open(f"/proc/{os.getpid()}/schedstat") as file:
            return int(file.read().split()[1]) / 1e9
    except OSError:
        return 0.0


class Records:
    """The file of results. It is opened for each line: tests count descriptors, and fork."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._pid = os.getpid()

    def write(self, **record: Any) -> None:
        if os.getpid() == self._pid:
            with open(self._path, "a") as file:
                file.write(json.dumps(record) + "\n")


class Progress:
    """What runs at the moment, and how long the loop has stood still meanwhile.

    Attributes:
        watched: Whether there is a loop.
    """

    def __init__(self, watched: bool) -> None:
        self.watched = watched
        self.test = ""
        self.started = time.monotonic()
        self.clock = Clock()
        self.stall = 0.0
        self.parks = 0

    def start(self, test: str) -> None:
        self.test = test
        self.stall = 0.0
        self.parks = 0
        self.started = time.monotonic()
        self.clock.mark()

    def tick(self) -> None:
        """Note that the loop, or another test, has its turn."""
        self.stall = max(self.stall, self.clock.stood())
        self.clock.mark()

    def running(self) -> float:
        """Tell for how many seconds the test has been running."""
        return time.monotonic() - self.started


class Result(unittest.TestResult):
    """Writes down each test's outcome."""

    def __init__(self, records: Records, progress: Progress, test_limit: float) -> None:
        super().__init__()
        self._test_limit = test_limit
        self._records = records
        self._progress = progress
        self._begin(None)

    def _begin(self, test: unittest.TestCase | None) -> None:
        self._current = test
        self._outcome: tuple[str, str] = ("ok", "")

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self._begin(test)
        self._records.write(start=test.id())
        faulthandler.dump_traceback_later(self._test_limit, exit=True)
        self._progress.start(test.id())

    def stopTest(self, test: unittest.TestCase) -> None:
        super().stopTest(test)
        self._write(test.id(), *self._outcome)
        faulthandler.dump_traceback_later(self._test_limit, exit=True)  # for what comes between two tests
        self._progress.start("")

    def _write(self, test: str, outcome: str, detail: str) -> None:
        progress = self._progress
        progress.tick()
        self._records.write(
            id=test,
            outcome=outcome,
            detail=detail[-6000:],
            seconds=round(progress.running(), 3),
            stall=round(progress.stall, 3) if progress.watched else 0,
            parks=progress.parks,
        )

    def _note(self, test: Any, outcome: str, detail: str) -> None:
        if isinstance(test, unittest.TestCase):
            if test is not self._current:
                self._begin(test)  # CPython 3.12.1 starts no test that a decorator skips
            if self._outcome[0] not in ("error", "failure"):
                self._outcome = (outcome, detail)
        else:
            self._write(test.id(), outcome, detail)  # of a class or a module: nothing was started

    def addError(self, test: Any, err: Any) -> None:
        self._note(test, "error", _tell(err))

    def addFailure(self, test: Any, err: Any) -> None:
        self._note(test, "failure", _tell(err))

    def addSkip(self, test: Any, reason: str) -> None:
        self._note(getattr(test, "test_case", test), "skip", reason)

    def addExpectedFailure(self, test: Any, err: Any) -> None:
        self._note(test, "expected failure", "")

    def addUnexpectedSuccess(self, test: Any) -> None:
        self._note(test, "unexpected success", "")

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:
        if err is not None:
            self._note(test, "failure" if issubclass(err[0], test.failureException) else "error", _tell(err))


def _tell(err: ErrorInfo) -> str:
    return "".join(traceback.format_exception(*err))


def each_test(suite: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from each_test(item)
        else:
            yield item


def select(suite: unittest.TestSuite, wanted: Callable[[str], bool]) -> unittest.TestSuite:
    """Leave tests out, and keep the suites they stand in: module and class set-up depend on the order."""
    kept = unittest.TestSuite()
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            kept.addTest(select(item, wanted))
        elif wanted(item.id()):
            kept.addTest(item)
    return kept


def is_skipped(test: unittest.TestCase) -> bool:
    """Tell whether a test says by a decorator that it is to be skipped."""
    method = getattr(test, test._testMethodName, None)
    return bool(getattr(test, "__unittest_skip__", False) or getattr(method, "__unittest_skip__", False))


def matches(name: str, entries: list[str]) -> bool:
    """Tell whether a test, its class or its module is listed."""
    return any(name == entry or name.startswith(f"{entry}.") for entry in entries)


def prepare_support() -> None:
    from test import support

    support.verbose = 0
    everything = importlib.import_module("test.libregrtest.cmdline").ALL_RESOURCES
    support.use_resources = [name for name in everything if name not in RESOURCES]


def load(module: str) -> unittest.TestSuite:
    prepare_support()
    # As test.libregrtest does: by the module object, so that load_tests() is asked.
    loader = unittest.TestLoader()
    suite = loader.loadTestsFromModule(importlib.import_module(module))
    if loader.errors:
        raise ImportError("\n".join(map(str, loader.errors)))
    return suite


def run_suite(suite: unittest.TestSuite, result: Result) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        suite.run(result)


def run_native(suite: unittest.TestSuite, result: Result) -> None:
    run_suite(suite, result)


def open_poller() -> None:
    """Have greenio open what it keeps for the loop: by a wait that is over at once."""
    import greenio

    reader, writer = os.pipe()
    greenio.wait_writable(writer)
    os.close(reader)
    os.close(writer)


def run_green(suite: unittest.TestSuite, result: Result, progress: Progress, options: argparse.Namespace) -> None:
    """Run the suite in one greenlet, beside a task that watches it."""
    import greenlet

    import greenio

    def count(event: str, switched: tuple[Any, Any]) -> None:
        if type(switched[0]).__name__ == "Green":
            progress.parks += 1

    async def watch(main: asyncio.Task[None]) -> None:
        cancelled = ""
        while not main.done():
            await asyncio.sleep(TICK)
            progress.tick()
            if progress.test and progress.running() > options.test_limit:
                if cancelled != progress.test:
                    cancelled = progress.test
                    print(f"cancelled after {options.test_limit} s: {cancelled}", file=sys.stderr)
                    print_greens()
                    main.cancel()
                elif progress.running() > options.test_limit + GRACE:
                    print_greens()
                    faulthandler.dump_traceback(all_threads=True)
                    os._exit(1)

    async def main() -> None:
        # Tests count threads; those of the loop's executor are not to appear in the midst of one.
        await asyncio.get_running_loop().run_in_executor(None, int)
        await greenio.to_greenlet(open_poller)  # they count descriptors, too
        running = asyncio.ensure_future(greenio.to_greenlet(run_suite, suite, result))
        watcher = asyncio.ensure_future(watch(running))
        greenlet.settrace(count)
        try:
            await running
        finally:
            greenlet.settrace(None)
            watcher.cancel()

    factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.SelectorEventLoop
    if options.loop == "uvloop":
        factory = importlib.import_module("uvloop").new_event_loop
    loop = factory()
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(main())
    finally:
        asyncio.set_event_loop(None)
        loop.close()


def print_greens() -> None:
    from greenio import _core

    for green in _core.greens():
        leaf = getattr(green, "leaf", None)
        if leaf is not None and getattr(green, "waiting", False):
            print(repr(green), file=sys.stderr)
            traceback.print_stack(leaf.gr_frame, file=sys.stderr)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("module")
    parser.add_argument("output")
    parser.add_argument("--patch", action="store_true", help="patch_all() first, then import the tests")
    parser.add_argument("--loop", choices=["asyncio", "uvloop"], help="run in a greenlet on such a loop")
    parser.add_argument("--only", action="append", default=[], help="a test, class or module; '@file' lists them")
    parser.add_argument("--without", action="append", default=[], help="a test, class or module to leave out")
    parser.add_argument("--test-limit", type=float, default=60.0, help="seconds before a green test is cancelled")
    return parser.parse_args()


def main() -> None:
    options = parse()
    faulthandler.enable()
    faulthandler.dump_traceback_later(PATIENCE * options.test_limit, exit=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background leaves it ignored
    records = Records(options.output)
    if options.patch:
        from greenio import monkey

        monkey.patch_all()
    try:
        suite = load(options.module)
    except unittest.SkipTest as error:
        records.write(id=options.module, outcome="skip", detail=str(error), seconds=0, stall=0, parks=0)
        records.write(end=True)
        return
    tests = list(each_test(suite))
    records.write(collected=[test.id() for test in tests], skipped=[test.id() for test in tests if is_skipped(test)])
    gc.collect()
    gc.freeze()  # tests collect garbage often, and most of what lives is modules
    only = [name for entry in options.only for name in _expand(entry)]
    suite = select(suite, lambda name: (not only or matches(name, only)) and not matches(name, options.without))
    progress = Progress(watched=bool(options.loop))
    result = Result(records, progress, PATIENCE * options.test_limit)
    if options.loop:
        run_green(suite, result, progress, options)
    else:
        run_native(suite, result)
    records.write(end=True)


def _expand(entry: str) -> list[str]:
    if not entry.startswith("@"):
        return [entry]
    with open(entry[1:]) as file:
        return file.read().split()


if __name__ == "__main__":
    main()
