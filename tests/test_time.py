"""`time.sleep`: what it accepts, what it raises, and how long it takes, natively and in green code alike."""

from __future__ import annotations

import asyncio
import sched
import time
from decimal import Decimal
from fractions import Fraction

import pytest

from greenio import _original, await_, monkey, to_greenlet


class Index:
    """What has `__index__` and is no int."""

    def __init__(self, value):
        self.value = value

    def __index__(self):
        return self.value


class Broken:
    def __index__(self):
        raise KeyError("no")


class SubFloat(float):
    pass


NAN = float("nan")
INF = float("inf")
WRONG = [
    -1, -1e-12, -0.5, -INF, NAN, INF, 2**63, 9223372037, 9.3e9, 1e300, 10**400, -(10**400), "1", b"1", None, 1j, [],
    Decimal("0.001"), Fraction(1, 1000), Index(-1), Index(2**70), Broken(), SubFloat(-1), SubFloat(NAN),
]  # fmt: skip
RIGHT = [0, 0.0, -0.0, False, 1e-9, 0.003, 1e-320, SubFloat(0.001), Index(0), Fraction(0).numerator]


def outcome(value):
    try:
        return time.sleep(value)
    except Exception as error:
        return type(error), str(error)


def test_what_is_no_time_raises_as_natively(arun):
    native = [outcome(value) for value in WRONG]
    assert None not in native
    with monkey.patched():
        assert arun(lambda: to_greenlet(lambda: [outcome(value) for value in WRONG])) == native


def test_what_is_a_time_is_slept(arun, patched):
    nothing = [None] * len(RIGHT)
    assert [outcome(value) for value in RIGHT] == nothing
    assert arun(lambda: to_greenlet(lambda: [outcome(value) for value in RIGHT])) == nothing


def test_takes_one_positional_argument(arun, patched):
    async def main():
        for args, keywords in [((), {}), ((1, 2), {}), ((), {"seconds": 0}), ((), {"secs": 0})]:
            with pytest.raises(TypeError):
                await to_greenlet(time.sleep, *args, **keywords)

    arun(main)


def test_never_early(arun, patched):
    # Real time: this is what the clock shows. Only the lower bound is exact.
    def nap(seconds):
        begun = time.monotonic()
        time.sleep(seconds)
        return time.monotonic() - begun

    async def main():
        for seconds in (1e-6, 0.0004, 0.001, 0.0015, 0.0104) * 8:
            assert seconds <= await to_greenlet(nap, seconds) < seconds + 5

    arun(main)


def test_the_loop_goes_on_meanwhile(arun, patched):
    async def main():
        sleeper = asyncio.create_task(to_greenlet(time.sleep, 0.05))
        turns = 0
        while not sleeper.done():
            turns += 1
            await asyncio.sleep(0)
        assert turns > 10

    arun(main)


def test_sleep_zero_yields_once(arun, patched):
    zeros = (0, 0.0, -0.0, False)
    seen = []

    def napper(name):
        for turn, zero in enumerate(zeros):
            seen.append((name, turn))
            time.sleep(zero)

    async def main():
        await asyncio.gather(to_greenlet(napper, "a"), to_greenlet(napper, "b"))

    arun(main)
    assert seen == [(name, turn) for turn in range(4) for name in "ab"]


def test_wakes_in_the_order_of_the_deadlines(arun, patched):
    seen = []

    def nap(seconds):
        time.sleep(seconds)
        seen.append(seconds)

    async def main():
        await asyncio.gather(*(to_greenlet(nap, seconds) for seconds in (0.12, 0.04, 0.08, 0.02)))

    arun(main)
    assert seen == [0.02, 0.04, 0.08, 0.12]


def test_cancelled(arun, patched):
    lengths = [0, 0.01, 3600, 9.2e9, 9223372036]
    seen = []

    def nap(seconds):
        try:
            while True:
                time.sleep(seconds)
        except asyncio.CancelledError:
            seen.append(seconds)
            raise

    async def main():
        for seconds in lengths:
            task = asyncio.create_task(to_greenlet(nap, seconds))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    arun(main)
    assert seen == lengths


def test_native_code_sleeps_natively(arun, patched):
    async def main():
        begun = time.monotonic()
        waiting = asyncio.create_task(asyncio.sleep(0))
        await asyncio.sleep(0)
        time.sleep(0.02)  # in the loop itself: blocks it
        assert time.monotonic() - begun >= 0.02
        await waiting
        assert await asyncio.to_thread(lambda: time.sleep(0.001)) is None

    arun(main)
    time.sleep(0.001)


def test_in_a_coroutine_that_green_code_drives(arun, patched):
    async def coroutine():
        time.sleep(0.001)
        return "slept"

    assert arun(lambda: to_greenlet(lambda: await_(coroutine()))) == "slept"


def test_the_native_one_is_back_afterwards():
    assert time.sleep is _original.sleep


def test_a_scheduler_waits_by_it(arun):
    seen = []

    def run():
        scheduler = sched.scheduler()
        scheduler.enter(0.05, 0, seen.append, ("run",))
        scheduler.run()

    async def main():
        running = asyncio.ensure_future(to_greenlet(run))
        await asyncio.sleep(0.01)
        seen.append("beside")
        await running

    defaults = sched.scheduler.__init__.__defaults__
    assert _original.sleep in defaults
    with monkey.patched("time"):
        arun(main)
    assert seen == ["beside", "run"]
    assert sched.scheduler.__init__.__defaults__ == defaults
