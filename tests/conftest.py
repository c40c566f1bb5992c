"""Fixtures that every test has: one body over every kind of loop, scoped patching, and a search for leaks."""

from __future__ import annotations

import _thread
import asyncio
import errno
import gc
import importlib
import itertools
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import greenlet
import pytest
import uvloop

import greenio
from greenio import _core, _original, monkey
from greenio._patches import _patching, _process_ends

GROUPS = [
    "dns",
    "fcntl",
    "files",
    "green_threads",
    "local",
    "multiprocessing",
    "os",
    "select",
    "selectors",
    "signal",
    "socket",
    "ssl",
    "subprocess",
    "threading",
    "time",
]
for _module in _patching.GROUPS["multiprocessing"].late:  # patched when imported: so no test is the first to do so
    importlib.import_module(_module)
KINDS = ["asyncio", "asyncio-debug", "uvloop"]
if sys.version_info >= (3, 12):
    KINDS.insert(2, "asyncio-eager")
GREEN = "asyncio-green"
"""A kind for some: greenio's task factory is on the loop."""


pytest.register_assert_rewrite("suites")  # test files import from it, and then have pytest load it as a plugin

sys.path.append(str(Path(__file__).parent.parent))  # for `benchmarks`; last, so that an installed greenio comes first


def pytest_report_header() -> str:
    """Tell what is being tested: which copy of greenio, with which versions below it."""
    versions = f"greenlet {greenlet.__version__}, uvloop {uvloop.__version__}, {platform.platform()}"
    return f"greenio {greenio.__version__} from {os.path.dirname(greenio.__file__)}, {versions}"


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # So it is in what a shell runs in the background; tests of Ctrl-C, and the programs they start, need it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Set what the imports made aside: a collection after every test costs half of the suite's time otherwise."""
    gc.collect()
    gc.freeze()


uvloop.new_event_loop().close()  # libuv opens a pipe for the whole process with its first loop


def new_loop(kind: str) -> asyncio.AbstractEventLoop:
    """Make a loop of one of KINDS, or GREEN."""
    loop = uvloop.new_event_loop() if kind == "uvloop" else asyncio.SelectorEventLoop()
    if kind == "asyncio-debug":
        loop.set_debug(True)
        loop.slow_callback_duration = 10
    if kind == "asyncio-eager":
        native: Any = asyncio.eager_task_factory  # type: ignore[attr-defined]
        loop.set_task_factory(greenio.eager_task_factory if _tasks_are_green else native)
    elif _tasks_are_green or kind == GREEN:
        loop.set_task_factory(greenio.task_factory)
    return loop


_TASK_FACTORY = os.environ.get("GREENIO_TASK_FACTORY", "") not in ("", "0")
"""Whether the whole run is under greenio's task factories."""
_tasks_are_green = _TASK_FACTORY
"""Whether the loops that `new_loop` makes now have greenio's task factory."""


def pytest_configure(config: pytest.Config) -> None:
    """Register the marks of this suite."""
    config.addinivalue_line("markers", "green_tasks: also on a loop whose tasks are green by greenio's factory")
    config.addinivalue_line(
        "markers", "native_tasks(reason): no greenio task factory, in which what the test states is rightly different"
    )


def check_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """Fail a test that leaves tasks running; those that were cancelled a moment ago may still end."""
    for _ in range(3):
        loop.run_until_complete(asyncio.sleep(0))
    left = asyncio.all_tasks(loop)
    assert not left, f"left running: {left}"


def finish(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel what is left, as asyncio.run does, and close the loop."""
    try:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        asyncio.set_event_loop(None)
        loop.close()


Run = Callable[[Callable[[], Awaitable[Any]]], Any]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Have a test run once for every kind of loop."""
    mark = metafunc.definition.get_closest_marker
    chosen = [each for each in metafunc.definition.iter_markers("parametrize") if each.args[0] == "loop_kind"]
    if "loop_kind" in metafunc.fixturenames and not chosen:
        green = mark("green_tasks") and not mark("native_tasks") and not _TASK_FACTORY
        metafunc.parametrize("loop_kind", [*KINDS, GREEN] if green else KINDS, indirect=True)


@pytest.fixture
def loop_kind(request: pytest.FixtureRequest) -> str:
    """The kind of loop that the test's body runs on."""
    return str(request.param)


@pytest.fixture
def arun(loop_kind: str) -> Run:
    """Run a coroutine function to its end on a new loop: `arun(main)`. The test runs once for every kind of loop."""

    def run(main: Callable[[], Awaitable[Any]]) -> Any:
        loop = new_loop(loop_kind)
        asyncio.set_event_loop(loop)
        try:
            result = loop.run_until_complete(main())  # type: ignore[arg-type]
            check_tasks(loop)
            return result
        finally:
            finish(loop)

    return run


class Everything:
    """All that is patched by default, for the tests that ask for it.

    To patch and to take it back takes longer than most tests do, so it lasts through those that come one after another.
    """

    def __init__(self) -> None:
        self.block: AbstractContextManager[None] | None = None

    def put_on(self) -> None:
        if self.block is not None and not all(map(monkey.is_patched, _patching.BY_DEFAULT)):
            self.take_off()  # the last test took it back by itself
        if self.block is None:
            self.block = monkey.patched()
            self.block.__enter__()

    def take_off(self) -> None:
        block, self.block = self.block, None
        if block is not None:
            block.__exit__(None, None, None)


_everything = Everything()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Take the patches back before a test that has not asked for them; leave the task factory out where it says so."""
    global _tasks_are_green
    _tasks_are_green = _TASK_FACTORY and item.get_closest_marker("native_tasks") is None
    if "patched" not in getattr(item, "fixturenames", ()):
        _everything.take_off()


def pytest_sessionfinish() -> None:
    """Take the patches back before whatever else ends with the session."""
    _everything.take_off()


@pytest.fixture
def patched() -> None:
    """Patch everything, at least for the time of one test."""
    _everything.put_on()


@pytest.fixture(params=["pidfd", "no pidfd", "no descriptor", "nothing"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each way to learn of the end of a child."""
    if request.param == "no pidfd":
        monkeypatch.setattr(_process_ends, "_pidfd_open", None)
    if request.param == "nothing":
        monkeypatch.setattr(_process_ends, "_pidfd_open", None)
        monkeypatch.setattr(_process_ends, "_native_waitid", None)
    if request.param == "no descriptor":

        def refuse(pid: int) -> int:
            raise OSError(errno.EMFILE, "Too many open files")

        monkeypatch.setattr(_process_ends, "_pidfd_open", refuse)
    return str(request.param)


@pytest.fixture
def thawed() -> Iterator[None]:
    """Let the collector see what was set aside, for the time of one test."""
    gc.unfreeze()
    yield
    gc.freeze()


def _descriptors() -> set[str]:
    if not os.path.isdir("/proc/self/fd"):
        return set()
    # Not the standard streams, which pytest exchanges to capture what is printed.
    return {f"{fd} -> {_target(fd)}" for fd in os.listdir("/proc/self/fd") if int(fd) > 2 and _target(fd)}


def _target(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""


def _busy() -> list[_core.Green]:
    """List the greens that are in a call: parked, or claimed by somebody who never resumed them."""
    return [green for green in _core.greens() if getattr(green, "host", None) is not None]


_TASKS = [getattr(asyncio.tasks, name, ()) for name in ("_all_tasks", "_scheduled_tasks", "_eager_tasks")]
"""The tasks of all loops, as asyncio itself keeps them: asyncio.all_tasks() wants to know of which loop."""
assert any(tasks != () for tasks in _TASKS)


def _pending_tasks() -> list[asyncio.Task[Any]]:
    # A test that gives one up on purpose tells asyncio not to complain of it either.
    found = {task for tasks in _TASKS for task in tuple(tasks)}
    return [task for task in found if not task.done() and task._log_destroy_pending]  # type: ignore[attr-defined]


def _threads() -> tuple[set[threading.Thread], int]:
    """Tell the threads that `threading` knows, and how many there are in all."""
    return set(threading.enumerate()), _thread._count()


def _wait_for_threads(before: tuple[set[threading.Thread], int]) -> tuple[set[threading.Thread], int]:
    """Wait a moment for those that are just ending; return what is left."""
    limit = time.monotonic() + 1
    while True:
        threads, count = _threads()
        left = threads - before[0], count - before[1]
        if (not left[0] and left[1] <= 0) or time.monotonic() > limit:
            return left
        _original.sleep(0.001)


_ends = itertools.count(1)


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """Fail a test that leaves greenlets, tasks, registrations, patches, threads or descriptors behind.

    A loop that was not closed shows by its descriptors.
    """
    descriptors = _descriptors()
    threads = _threads()
    busy_before = _busy()  # of a test that has failed already
    registered_before = _core.registrations()
    tasks_before = _pending_tasks()
    yield
    gc.collect()
    if next(_ends) % 64 == 0:
        gc.freeze()  # what pytest keeps of each test, so that it is not looked at after each of the others
    busy = [green for green in _busy() if green not in busy_before]
    assert not busy, f"left in a call: {busy}"
    tasks = [task for task in _pending_tasks() if task not in tasks_before]
    assert not tasks, f"left pending: {tasks}"
    registered = [watch for watch in _core.registrations() if watch not in registered_before]
    assert not registered, f"left registered: {registered}"
    kept = _patching.BY_DEFAULT if _everything.block is not None else ()
    patches = [group for group in GROUPS if group not in kept and monkey.is_patched(group)]
    assert not patches, f"left patched: {patches}"
    known, more = _wait_for_threads(threads)
    assert not known, f"left running: {known}"
    assert more <= 0, f"left running: {more} threads that `threading` does not know"
    left = {entry for entry in _descriptors() - descriptors if "/proc/" not in entry and not entry.endswith(".so")}
    assert not left, f"left open: {left}"
