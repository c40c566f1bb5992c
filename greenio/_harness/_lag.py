"""How long a loop is held, watched from a second thread, which takes down the stack that holds it."""

from __future__ import annotations

import asyncio
import sys
import traceback
from asyncio import AbstractEventLoop
from contextvars import Context
from dataclasses import dataclass
from queue import SimpleQueue as Queue
from threading import TIMEOUT_MAX
from types import FrameType

from .. import _original

__all__ = ["Held", "LoopLag"]

_LIMIT = 0.1
"""Seconds, where the mark names none."""

_PROBES = 10
"""Questions to the loop in the time of the limit; so much of the limit may a hold be longer and go unseen."""


@dataclass(frozen=True)
class Held:
    """One time that the loop was held too long.

    Attributes:
        seconds: For how long, at least.
        stack: Where the thread of the loop was when the limit was reached, innermost call last.
    """

    seconds: float
    stack: str


class LoopLag:
    """What the fixture `loop_lag` gives: the limit, and the times that the loop was held longer.

    It watches while it is entered. Entered within, as by a fixture that a test asks for while it runs, it goes on.

    Attributes:
        limit: The limit, in seconds.
        held: What was found so far.
    """

    def __init__(self, limit: float = _LIMIT) -> None:
        if not 0 < limit <= TIMEOUT_MAX:
            raise ValueError(f"the limit is {limit!r}, and must be more than 0 seconds; write loop_lag(0.05)")
        self.limit = limit
        self.held: list[Held] = []
        self._entered = 0
        self._loop: AbstractEventLoop | None = None
        self._thread = 0
        self._answers: Queue[None] = _original.SimpleQueue()
        self._stop: Queue[None] = _original.SimpleQueue()
        self._ended: Queue[None] = _original.SimpleQueue()

    def __enter__(self) -> LoopLag:
        self._entered += 1
        if self._entered > 1:
            return self
        self._loop = asyncio.get_running_loop()
        self._thread = _original.get_ident()
        _original.start_new_thread(self._watch, ())
        return self

    def __exit__(self, *_: object) -> None:
        self._entered -= 1
        if self._entered:
            return
        self._stop.put(None)
        self._answers.put(None)  # the loop does not turn while this waits, and is asked nothing more
        self._ended.get()

    def message(self) -> str:
        """Say what was found."""
        worst = max(self.held, key=lambda each: each.seconds)
        times = "once" if len(self.held) == 1 else f"{len(self.held)} times"
        return (
            f"the loop was held {times} for longer than {self.limit:g} s, at most for {worst.seconds:.3f} s, here:\n"
            f"{worst.stack}"
        )

    def _watch(self) -> None:
        try:
            while not _came(self._stop, self.limit / _PROBES):
                self._probe()
        finally:
            self._ended.put(None)

    def _probe(self) -> None:
        """Ask the loop to answer, and look where its thread is if it takes too long."""
        answers: Queue[None] = _original.SimpleQueue()
        self._answers = answers
        asked = _original.monotonic()
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(answers.put, None, context=Context())
        except RuntimeError:  # it is closed
            return
        if _came(answers, self.limit) or not self._stop.empty():
            return
        stack = _stack(sys._current_frames().get(self._thread))
        while not _came(answers, self.limit) and self._stop.empty() and self._loop.is_running():
            pass
        self.held.append(Held(_original.monotonic() - asked, stack))


def _came(queue: Queue[None], timeout: float) -> bool:
    try:
        queue.get(timeout=timeout)
    except _original.Empty:
        return False
    return True


_RUNNERS = frozenset(
    {
        "asyncio.events",
        "greenio._core._call",
        "greenio._harness._fixtures",
        "greenio._harness._pieces",
        "greenio.pytest_plugin",
    }
)
"""Modules that call the user's code: what lies above their frames is of interest."""


def _stack(frame: FrameType | None) -> str:
    """Write a stack down, without what runs the loop and the test."""
    if frame is None:
        return "  (its thread has ended)\n"
    frames = [*traceback.walk_stack(frame)]
    own = next((at for at, (each, _) in enumerate(frames) if each.f_globals.get("__name__") in _RUNNERS), 0)
    return "".join(traceback.StackSummary.extract(reversed(frames[:own] or frames)).format())
