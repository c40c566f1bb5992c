"""Row 6: 100,000 sleep at once, and wake in the order of their deadlines."""

from __future__ import annotations

import asyncio
import random
import time

from .._model import Contender, Row, Target, each_loop
from .._session import Session, UnavailableError, on_loop

COUNT = 100_000
_QUICK = 500
_APART = 10e-6
"""Seconds between one deadline and the next."""
_TICK = 0.002
"""How far the order may be off, in seconds: libuv and libev count milliseconds."""


class _Wakes:
    """Deadlines in shuffled order, and the order in which they came."""

    def __init__(self, count: int, head_start: float) -> None:
        self.began = time.monotonic()
        first = self.began + head_start
        self.deadlines = [first + _APART * number for number in range(count)]
        random.Random(0).shuffle(self.deadlines)
        self._woken: list[tuple[float, float]] = []

    def left(self, deadline: float) -> float:
        left = deadline - time.monotonic()
        if left <= 0:
            raise UnavailableError("too busy a machine: the first was due before the last had started")
        return left

    def woke(self, deadline: float) -> None:
        self._woken.append((deadline, time.monotonic()))

    def sleep_until(self, deadline: float) -> None:
        time.sleep(self.left(deadline))
        self.woke(deadline)

    def check(self) -> dict[str, float]:
        """Raise unless all woke, none early, and in order; tell how late the latest was."""
        if len(self._woken) != len(self.deadlines):
            raise RuntimeError(f"{len(self.deadlines) - len(self._woken)} never woke")
        latest = 0.0
        misplaced = 0
        for deadline, now in self._woken:
            misplaced += deadline < latest - _TICK
            if now < deadline - _TICK:
                raise RuntimeError(f"woke {deadline - now:.6f} s early")
            latest = max(latest, deadline)
        if misplaced > len(self._woken) * _TOLERATED:
            raise RuntimeError(f"{misplaced} of {len(self._woken)} woke after one with a later deadline")
        late = max(now - deadline for deadline, now in self._woken)
        return {"late_max": late * 1000, "misplaced": misplaced, "seconds": time.monotonic() - self.began}


_TOLERATED = 0.01
"""The share that may come out of order: a process that loses its CPU between two lines starts a sleep too late."""


def _head_start(count: int) -> float:
    return 0.5 + count * 80e-6


def greenio(*, loop: str) -> Session:
    """A patched `time.sleep` in each greenlet."""
    from greenio import monkey, to_greenlet

    monkey.patch_all()

    async def main(count: int) -> dict[str, float]:
        wakes = _Wakes(count, _head_start(count))
        await asyncio.gather(*(to_greenlet(wakes.sleep_until, deadline) for deadline in wakes.deadlines))
        return wakes.check()

    return on_loop(loop, main)


def gevent() -> Session:
    """A patched `time.sleep` in each gevent greenlet."""
    from gevent import joinall, monkey, spawn

    monkey.patch_all()

    def main(count: int) -> dict[str, float]:
        wakes = _Wakes(count, _head_start(count))
        joinall([spawn(wakes.sleep_until, deadline) for deadline in wakes.deadlines], raise_error=True)
        return wakes.check()

    return Session(main)


def tasks(*, loop: str) -> Session:
    """`asyncio.sleep` in each task."""

    async def main(count: int) -> dict[str, float]:
        wakes = _Wakes(count, _head_start(count))

        async def sleep_until(deadline: float) -> None:
            await asyncio.sleep(wakes.left(deadline))
            wakes.woke(deadline)

        await asyncio.gather(*map(sleep_until, wakes.deadlines))
        return wakes.check()

    return on_loop(loop, main)


ROW = Row(
    6,
    "wake-order",
    f"{COUNT:,} sleep and wake in order, their deadlines {1e6 * _APART:g} us apart, started in no order",
    (
        *each_loop("greenio", greenio),
        Contender("gevent", gevent, needs=("gevent",)),
        *each_loop("asyncio task", tasks),
    ),
    (Target("greenio / uvloop", "gevent", metric="cpu"), Target("greenio / asyncio", "gevent", metric="cpu")),
    columns=("misplaced", "late_max", "cpu", "seconds"),
    fixed=(COUNT, _QUICK),
    fresh=True,
    note="A contender that wakes one early, or more than 1 % out of order, fails. The seconds include a head start of "
    f"{_head_start(COUNT):.1f} s for the start.",
)
