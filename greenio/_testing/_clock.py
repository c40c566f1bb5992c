"""A loop whose clock jumps to the next timer when there is nothing else to wait for.

The loop is asyncio's own, over a selector that does not wait for timers: where the loop would sleep until the next one,
the selector moves the clock there and returns. So sleeps, timeouts and `call_later` of async code end at once, and so
do those of green code, whose deadlines are kept by the clock of the loop.

**What is real is waited for.** Before the clock jumps the selector looks whether a descriptor is ready or another
thread has called. If somebody waits for a descriptor, or a job of the executor is under way, it also waits for a moment
of real time, since the answer may be on its way. What comes later than that finds the timers fired.

**Other clocks.** `queue.Queue.get(timeout=...)` and `Condition.wait_for` ask `time.monotonic` how much of their time is
left, and would go on waiting. So while such a loop runs, the functions of `time` that tell the time tell that of the
loop, in its coroutines and its green code; all other code, asyncio itself included, sees the native ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import sys
import time
from asyncio import AbstractEventLoop
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from types import ModuleType
from typing import Any, TypeVar

from .. import _original, get_loop, in_greenlet
from ._parked import waits_for_descriptor

__all__ = ["VirtualClockLoop"]

_IO_PATIENCE = 0.05
_JOB_PATIENCE = 1.0
_JOB_PAUSE = 0.001

T = TypeVar("T")

_SECONDS = 1
_NANOSECONDS = 10**9


class VirtualClockLoop(asyncio.SelectorEventLoop):
    """asyncio's loop with a clock that jumps: hours of sleeps and timeouts, sync and async, take milliseconds.

    For `asyncio.Runner(loop_factory=VirtualClockLoop)`, `greenio.run(fn, loop_factory=VirtualClockLoop)`, and the ini
    `greenio_loop_factory`. Between jumps the clock goes on as ever, so that a loop which looks at it comes to its end.
    """

    def __init__(self, *, io_patience: float = _IO_PATIENCE, job_patience: float = _JOB_PATIENCE) -> None:
        """Make a loop.

        Args:
            io_patience: Seconds of real time without an event before the clock jumps while somebody waits for a
                descriptor. 0 where all who talk to each other are on this loop.
            job_patience: The same while a job of the executor is under way.
        """
        self._ahead = 0.0
        self._jobs = 0
        self._held = 0
        self._patience = (io_patience, job_patience)
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        """Tell the time of this loop, in seconds: the native monotonic clock and all jumps. Never parks."""
        return _original.monotonic() + self._ahead

    def advance(self, seconds: float) -> None:
        """Move the clock on; timers that are due then fire in the next turn. Never parks.

        Args:
            seconds: How far, not less than 0.
        """
        if seconds < 0:
            raise ValueError(f"the clock cannot go back by {-seconds} seconds")
        self._ahead += seconds

    @contextlib.contextmanager
    def real_time(self) -> Iterator[None]:
        """Let the clock not jump in a `with` block: what is waited for comes from elsewhere, in its own time.

        The block may park; entering and leaving it do not.
        """
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1

    def run_in_executor(  # type: ignore[override]  # says nothing of how `args` fit
        self, executor: Executor | None, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """Do what asyncio's method does, and know how many jobs are under way. Never parks.

        Args:
            executor: Where the job runs; None for the loop's default executor.
            func: The job.
            *args: Its arguments.

        Returns:
            A future of this loop.
        """
        future = super().run_in_executor(executor, func, *args)
        self._jobs += 1
        future.add_done_callback(self._job_done)
        return future

    def _job_done(self, _: object) -> None:
        self._jobs -= 1

    async def shutdown_default_executor(self, *args: Any, **options: Any) -> None:
        """Wait for the executor's threads in real time, as `asyncio.run` does at its end. Parks in green code.

        Args:
            *args: As asyncio's method takes them: from CPython 3.12 on, a timeout in seconds.
            **options: The same by name.
        """
        with self.real_time():
            await super().shutdown_default_executor(*args, **options)

    def run_forever(self) -> None:
        """Run until `stop()`, with the clocks of `time` as this loop's for its own code. Never parks."""
        with _clocks_of_loops():
            super().run_forever()


class _JumpingSelector(selectors.DefaultSelector):
    """A selector that lets its loop's clock jump where another would wait for the next timer."""

    def __init__(self, loop: VirtualClockLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> Any:
        """Wait for events, but for no timer."""
        if timeout is None or timeout <= 0 or self._loop._held:
            return super().select(timeout)
        found = super().select(0)
        if found:
            return found
        before = self._loop.time()
        found = self._wait_for_others(timeout)
        left = timeout - (self._loop.time() - before)
        if not found and left > 0:
            self._loop.advance(left)
        return found

    def _wait_for_others(self, timeout: float) -> Any:
        for_io, for_jobs = self._loop._patience
        end = _original.monotonic() + min(timeout, for_jobs)
        while self._loop._jobs and (left := end - _original.monotonic()) > 0:
            found = super().select(min(left, _JOB_PAUSE))
            if found:
                return found
        if for_io > 0 and self._somebody_waits():
            return super().select(min(timeout, for_io))
        return []

    def _somebody_waits(self) -> bool:
        """Tell whether more is registered than what wakes the loop itself, and greenio's poller."""
        poller = 1 if hasattr(self._loop, "_greenio_host") else 0
        return len(self.get_map()) > 1 + poller or waits_for_descriptor(self._loop)


def _virtual_loop() -> VirtualClockLoop | None:
    """Look up the loop whose time the caller should see, if it is one of these."""
    loop: AbstractEventLoop | None = None
    if in_greenlet():
        loop = get_loop()
    else:
        with contextlib.suppress(RuntimeError):
            loop = asyncio.get_running_loop()
    return loop if isinstance(loop, VirtualClockLoop) else None


def _clock(native: Callable[[], Any], unit: int) -> Callable[[], Any]:
    def clock() -> Any:
        loop = _virtual_loop()
        if loop is None:
            return native()
        ahead = loop._ahead
        return native() + (ahead if unit == _SECONDS else int(ahead * unit))

    clock.__name__ = clock.__qualname__ = native.__name__
    clock.__module__, clock.__doc__ = "time", native.__doc__
    return clock


_CLOCKS: dict[Callable[[], Any], Callable[[], Any]] = {
    native: _clock(native, unit)
    for native, unit in (
        (time.monotonic, _SECONDS),
        (time.monotonic_ns, _NANOSECONDS),
        (time.perf_counter, _SECONDS),
        (time.perf_counter_ns, _NANOSECONDS),
        (time.time, _SECONDS),
        (time.time_ns, _NANOSECONDS),
    )
}
_NATIVE = {clock: native for native, clock in _CLOCKS.items()}
_PINNED = ("asyncio", "greenio", "uvloop")
"""Packages that go by the native clocks."""

_running = 0


@contextlib.contextmanager
def _clocks_of_loops() -> Iterator[None]:
    """Exchange the clocks of `time`, and what was imported from there by name, for as long as a loop runs."""
    global _running
    _running += 1
    if _running == 1:
        _exchange(_CLOCKS)
    try:
        yield
    finally:
        _running -= 1
        if _running == 0:
            _exchange(_NATIVE)


def _exchange(by: dict[Callable[[], Any], Callable[[], Any]]) -> None:
    for name, module in tuple(sys.modules.items()):
        if type(module) is not ModuleType or name.partition(".")[0] in _PINNED:
            continue
        for attribute, value in tuple(vars(module).items()):
            if type(value) in _KINDS and value in by:
                setattr(module, attribute, by[value])


_KINDS = (type(time.time), type(_exchange))
"""Built-in functions and ours; anything else is not looked at, since it may be strange about being compared."""
