"""`watchdog`: who holds the loop, seen from a second thread.

One thread, the patrol, looks after all loops that are watched. A few times within each threshold it hands the loop a
callback by `call_soon_threadsafe`, which costs the loop one short turn; a loop of asyncio that waits in its selector is
left to sleep. While the callback is not run for longer than the threshold, the loop is held, and the patrol looks at
the stack of the loop's thread there and then.

A C extension that keeps the interpreter's lock holds the patrol as well. Such a hold is told of when it is over, by
the time that the answer took, without a stack.
"""

from __future__ import annotations

import asyncio
import logging
import os
from asyncio import AbstractEventLoop
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass
from threading import TIMEOUT_MAX
from types import TracebackType

from .. import _original
from .._core import current_green, get_loop, get_running_loop, host_if_any
from ._stacks import Frame, is_idle, stack_of_thread

__all__ = ["Hold", "Watchdog", "WatchdogStats", "checked_threshold", "watchdog", "watched_loops"]

_logger = logging.getLogger("greenio.watchdog")

_LOOKS = 4
"""How often within each threshold the loop is asked for an answer."""


@dataclass(frozen=True)
class Hold:
    """One time that a loop was held for longer than the threshold: by one callback, or by many in one turn.

    Attributes:
        seconds: How long, so far; if `ended`, in all.
        threshold: How long it may be.
        ended: Whether it was over before it could be looked at; then nothing is known of who it was.
        task: The name of the task that has the thread; None for a callback.
        coroutine: The name of its coroutine.
        green: The greenlet that has the thread, as in "0x7f0c12345678"; None for native code.
        stack: What the thread does, outermost first.
        unreported: How many holds were not reported since the last report, to keep to the rate.
    """

    seconds: float
    threshold: float
    ended: bool
    task: str | None
    coroutine: str | None
    green: str | None
    stack: tuple[Frame, ...]
    unreported: int

    def __str__(self) -> str:
        who = "a callback" if self.task is None else f"task {self.task!r} ({self.coroutine})"
        if self.green is not None:
            who += f" in green {self.green}"
        if self.ended:
            who = "something that is over"
        lines = [f"the event loop is held for {self.seconds:.3f} s (limit {self.threshold:g} s) by {who}"]
        for frame in self.stack:
            lines += [f"  {frame}", *([f"    {frame.source}"] if frame.source else [])]
        if self.unreported:
            lines.append(f"  {self.unreported} more since the last report")
        return "\n".join(lines)


@dataclass(frozen=True)
class WatchdogStats:
    """What a watchdog has counted.

    Attributes:
        holds: How often the loop was held for longer than the threshold.
        reported: How many of these were reported.
        longest: The longest, in seconds.
        seconds: All of them together.
    """

    holds: int = 0
    reported: int = 0
    longest: float = 0.0
    seconds: float = 0.0


def checked_threshold(seconds: float) -> float:
    """Refuse a threshold that nobody can wait for; return others."""
    if not 0 < seconds <= TIMEOUT_MAX:
        raise ValueError(f"threshold must be more than 0 seconds and at most {TIMEOUT_MAX:.0f}, not {seconds!r}")
    return seconds


class Watchdog:
    """Watches one loop from `start` to `stop`, or for the time of a `with` block. Made by `watchdog`."""

    def __init__(
        self,
        loop: AbstractEventLoop,
        threshold: float,
        report: Callable[[Hold], object] | None,
        every: float,
    ) -> None:
        if not every >= 0:
            raise ValueError(f"every must be 0 seconds or more, not {every!r}")
        self._loop = loop
        self._threshold = checked_threshold(threshold)
        self._report = report
        self._every = every
        self._stats = WatchdogStats()
        self._thread_id: int | None = None
        self._asked: float | None = None
        self._told = False
        self._over: float | None = None
        self._last_report: float | None = None
        self._unreported = 0

    @property
    def loop(self) -> AbstractEventLoop:
        """The loop that is watched."""
        return self._loop

    @property
    def threshold(self) -> float:
        """For how many seconds the loop may be held."""
        return self._threshold

    def start(self) -> None:
        """Begin to watch. Starting twice is harmless. Never parks."""
        host = host_if_any(self._loop)
        if get_running_loop() is self._loop:
            self._thread_id = _original.get_ident()
        elif host is not None:
            self._thread_id = host.thread_id
        self._asked = self._over = None
        self._told = False
        _patrol.add(self)

    def stop(self) -> None:
        """Watch no more. Stopping twice is harmless. Never parks."""
        _patrol.remove(self)

    def stats(self) -> WatchdogStats:
        """Tell what has been counted so far. Never parks."""
        return self._stats

    def __enter__(self) -> Watchdog:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = "watching" if self in _patrol.watched else "off"
        return f"<Watchdog {state} threshold={self._threshold:g} {self._stats}>"

    def _look(self) -> None:
        """See whether the loop has answered, and ask it again if it has. In the patrol's thread."""
        loop = self._loop
        if loop.is_closed():
            self.stop()
            return
        if not loop.is_running():
            self._asked = None  # nobody runs it: that is no hold
            return
        over, self._over = self._over, None
        if over is not None:
            self._tell(over, ended=True)
        asked, now = self._asked, _original.monotonic()
        if asked is None:
            if not is_idle(self._thread_id):
                self._ask(now)
        elif not self._told and now - asked >= self._threshold:
            self._told = True
            self._tell(now - asked, ended=False)

    def _ask(self, now: float) -> None:
        self._told = False
        self._asked = now
        try:
            self._loop.call_soon_threadsafe(self._answer, now, context=Context())
        except RuntimeError:  # it was closed just now
            self.stop()

    def _answer(self, asked: float) -> None:
        """Show that the loop turns. In the loop's thread."""
        if asked != self._asked:
            return  # of an earlier run
        self._thread_id = _original.get_ident()
        held = _original.monotonic() - asked
        if held >= self._threshold:
            stats = self._stats
            self._stats = WatchdogStats(stats.holds + 1, stats.reported, max(stats.longest, held), stats.seconds + held)
            if not self._told:
                self._over = held
        self._asked = None

    def _tell(self, seconds: float, ended: bool) -> None:
        now = _original.monotonic()
        if self._last_report is not None and now - self._last_report < self._every:
            self._unreported += 1
            return
        hold = self._look_at(seconds, ended)
        if not ended and self._asked is None:
            return  # it has just gone on, and what was seen may be somebody else
        self._last_report = now
        self._unreported = 0
        stats = self._stats
        self._stats = WatchdogStats(stats.holds, stats.reported + 1, stats.longest, stats.seconds)
        (self._report or _log)(hold)

    def _look_at(self, seconds: float, ended: bool) -> Hold:
        if ended:
            return Hold(seconds, self._threshold, True, None, None, None, (), self._unreported)
        host = host_if_any(self._loop)
        green = None if host is None else host.thread.active
        task = _current_task(self._loop) if green is None else green.task
        coroutine = None if task is None else task.get_coro()
        return Hold(
            seconds,
            self._threshold,
            False,
            None if task is None else task.get_name(),
            None if task is None else str(getattr(coroutine, "__qualname__", coroutine)),
            None if green is None else f"{id(green):#x}",
            stack_of_thread(self._thread_id),
            self._unreported,
        )


def _current_task(loop: AbstractEventLoop) -> asyncio.Task[object] | None:
    try:
        return asyncio.current_task(loop)
    except RuntimeError:
        return None


def _log(hold: Hold) -> None:
    _logger.warning("%s", hold, extra={"hold": hold})


class _Patrol:
    """The thread that looks after all watched loops. It runs as long as there are any."""

    def __init__(self) -> None:
        self.watched: tuple[Watchdog, ...] = ()
        self._lock = _original.allocate_lock()
        self._woken = _original.allocate_lock()
        self._woken.acquire()
        self._runs = False

    def add(self, dog: Watchdog) -> None:
        with self._lock:
            if dog not in self.watched:
                self.watched += (dog,)
            if not self._runs:
                self._runs = True
                thread = _original.Thread(target=self._run, name="greenio watchdog", daemon=True)
                _original.start_thread(thread)  # not a green one, whatever is patched
        self._wake()

    def remove(self, dog: Watchdog) -> None:
        with self._lock:
            self.watched = tuple(other for other in self.watched if other is not dog)
        self._wake()

    def _wake(self) -> None:
        try:
            self._woken.release()
        except RuntimeError:
            pass  # it is about to look already

    def _run(self) -> None:
        while True:
            with self._lock:
                watched = self.watched
                if not watched:
                    self._runs = False
                    return
            for dog in watched:
                self._look(dog)
            self._woken.acquire(True, min(dog.threshold for dog in watched) / _LOOKS)

    def _look(self, dog: Watchdog) -> None:
        try:
            dog._look()
        except Exception:
            _logger.exception("the report of %r failed", dog)


_patrol = _Patrol()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_patrol.__init__)  # type: ignore[misc]  # no thread of the parent's is here


def watched_loops() -> list[AbstractEventLoop]:
    """List the loops that are watched."""
    return [dog.loop for dog in _patrol.watched]


def watchdog(
    loop: AbstractEventLoop | None = None,
    threshold: float = 0.1,
    *,
    report: Callable[[Hold], object] | None = None,
    every: float = 1.0,
) -> Watchdog:
    """Make a watchdog that tells who holds a loop: use it in a `with` block, or `start()` it. Never parks.

    What it finds goes to the log (logger "greenio.watchdog", a warning, with the `Hold` as `record.hold`) or to
    `report`, and is counted in any case. A hold that is 1.25 times as long as the threshold is always found.

    Args:
        loop: The loop; None for the one that runs here, or in green code the host loop.
        threshold: For how many seconds the loop may be held. It is asked four times in each.
        report: Called with each `Hold`, in a thread of the watchdog's, while the loop is still held.
        every: Seconds between two reports at least; what comes in between is counted.

    Returns:
        The watchdog, which is not on yet.

    Raises:
        RuntimeError: There is no loop here.
        ValueError: The threshold is not positive, or longer than `threading.TIMEOUT_MAX`; `every` is negative or NaN.
    """
    if loop is None:
        loop = get_running_loop() or (get_loop() if current_green() is not None else None)
    if loop is None:
        raise RuntimeError("watchdog() found no running loop here; pass one, as in watchdog(loop)")
    return Watchdog(loop, threshold, report, every)
