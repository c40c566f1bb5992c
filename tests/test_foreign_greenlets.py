"""Greenlets that a library makes in green code, and runs later from somewhere else."""

from __future__ import annotations

import asyncio
import gc
import socket
import time
from collections.abc import Callable
from concurrent import futures
from typing import Any

import greenlet
import pytest

import greenio
from conftest import new_loop
from greenio import _core, await_, to_greenlet
from waiting import parked, turns, until, until_parked


def _yield_on() -> None:
    for _ in range(100_000):
        await_(asyncio.sleep(0))


def _waits(kind: str, gate: asyncio.Future[Any]) -> Callable[[], Any]:
    def wait_first() -> Any:
        time.sleep(0.001)  # from here on the task awaits the Call
        return await_(gate)

    def receive() -> Any:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            return ours.recv(1)

    def wait_and_yield() -> Any:
        time.sleep(0.001)
        return _yield_on()

    return {
        "relayed": lambda: await_(gate),
        "called back": wait_first,
        "asleep": lambda: time.sleep(0.02),
        "fast asleep": lambda: time.sleep(20),
        "receiving": receive,
        "yielding, relayed": _yield_on,
        "yielding, called back": wait_and_yield,
    }[kind]


@pytest.mark.parametrize("kind", ["relayed", "called back", "asleep"])
def test_run_by_the_loop_while_its_maker_is_parked(arun, patched, kind):
    """What it hands to its parent, its end and its errors are for whoever runs it, not for the parked green."""

    async def main():
        gate = asyncio.get_running_loop().create_future()
        made = []

        def hand_over():
            got = made[0].parent.switch("first")
            assert made[0].parent.switch(("second", got)) is None
            return "end"

        def fail():
            raise KeyError("mine")

        def fn():
            made.extend([greenlet.greenlet(hand_over), greenlet.greenlet(fail)])
            return _waits(kind, gate)()

        task = asyncio.ensure_future(to_greenlet(fn))
        await until_parked(1)
        handing, failing = made
        assert handing.switch() == "first"
        assert handing.switch(7) == ("second", 7)
        assert handing.switch(None) == "end"
        with pytest.raises(KeyError, match="mine"):
            failing.switch()
        assert not task.done()
        gate.set_result("opened")
        assert await task == (None if kind == "asleep" else "opened")

    arun(main)


def test_run_by_the_loop_while_its_maker_is_at_rest(arun, patched):
    async def main():
        def fail():
            raise KeyError("mine")

        def fn():
            return greenlet.greenlet(lambda: "end"), greenlet.greenlet(fail)

        ending, failing = await to_greenlet(fn)
        assert ending.switch() == "end"
        with pytest.raises(KeyError, match="mine"):
            failing.switch()
        assert await to_greenlet(time.sleep, 0) is None
        assert await to_greenlet(lambda: 3) == 3

    arun(main)


AWAITING = ["relayed", "called back"]
NOT_AWAITING = ["fast asleep", "receiving", "yielding, relayed", "yielding, called back"]
KINDS = AWAITING + NOT_AWAITING


def _worker(kind: str, gate: asyncio.Future[Any], log: list[Any]) -> greenlet.greenlet:
    """Make a greenlet of a library's, in the caller's green; it waits, and notes what ends that."""

    def work() -> None:
        try:
            _waits(kind, gate)()
        except BaseException as error:
            log.append(type(error))
            time.sleep(0.001)
            raise

    return greenlet.greenlet(work)


def _wait(whose: str, kind: str, gate: asyncio.Future[Any], made: list[greenlet.greenlet], log: list[Any]) -> Any:
    """Wait in the caller's green itself or in a greenlet of a library's; `made` gets the one that does."""
    if whose == "greenio":
        made.append(greenlet.getcurrent())
        return _waits(kind, gate)()
    made.append(_worker(kind, gate, log))
    return made[0].switch()


def _waits_a_moment(green: _core.Green) -> bool:
    return green.waiting and green.deadline is not None and green.deadline < green.host.clock() + 1


async def _started(fn: Callable[[], Any]) -> asyncio.Task[Any]:
    task = asyncio.ensure_future(to_greenlet(fn))
    await until_parked(1)
    await until(lambda: not any(map(_waits_a_moment, _core.greens())))
    assert parked() == 1
    return task


@pytest.mark.parametrize("by", ["loop", "green"])
@pytest.mark.parametrize("kind", NOT_AWAITING)
def test_a_parked_greenlet_of_a_librarys_is_killed(arun, patched, kind, by):
    """It ends in its own turn, where it waits; whoever killed it goes on meanwhile."""

    async def main():
        gate = asyncio.get_running_loop().create_future()
        made, log = [], []

        def fn():
            made.append(_worker(kind, gate, log))
            made[0].switch()
            log.append("went on")
            time.sleep(0.001)
            return await_(asyncio.sleep(0.001, "done"))

        def kill():
            assert made[0].throw() is None
            log.append("killed")
            time.sleep(0.001)
            return await_(asyncio.sleep(0.001, "killer"))

        task = await _started(fn)
        if by == "loop":
            assert made[0].throw() is None
            log.append("killed")
        else:
            assert await to_greenlet(kill) == "killer"
        assert await asyncio.wait_for(task, 20) == "done"
        assert log == ["killed", greenlet.GreenletExit, "went on"]
        assert made[0].dead

    arun(main)


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("by", ["loop", "green"])
@pytest.mark.parametrize("kind", NOT_AWAITING)
def test_a_parked_green_is_killed(arun, patched, kind, by, before, times):
    """Its task gets the GreenletExit, as it does if the function raises that."""

    async def main():
        gate = asyncio.get_running_loop().create_future()
        made = []

        def fn():
            made.append(greenlet.getcurrent())
            return _waits(kind, gate)()

        task = await _started(fn)
        if before:
            assert made[0].switch("stray") == "stray"
        if by == "loop":
            assert [made[0].throw() for _ in range(times)] == [None] * times
        else:
            assert await asyncio.gather(*(to_greenlet(made[0].throw) for _ in range(times))) == [None] * times
        with pytest.raises(greenlet.GreenletExit):
            await asyncio.wait_for(task, 20)
        assert await to_greenlet(lambda: 3) == 3

    arun(main)


@pytest.mark.parametrize("whose", ["library", "greenio"])
@pytest.mark.parametrize("by", ["loop", "green"])
@pytest.mark.parametrize("kind", AWAITING)
def test_a_greenlet_that_awaits_is_not_killed(arun, patched, kind, by, whose):
    async def main():
        gate = asyncio.get_running_loop().create_future()
        made, log = [], []

        def kill():
            with pytest.raises(RuntimeError, match="awaits cannot be killed; cancel its task"):
                made[0].throw()
            time.sleep(0.001)
            return await_(asyncio.sleep(0.001, "killer"))

        task = await _started(lambda: _wait(whose, kind, gate, made, log))
        if by == "loop":
            with pytest.raises(RuntimeError, match="awaits cannot be killed; cancel its task"):
                made[0].throw()
        else:
            assert await to_greenlet(kill) == "killer"
        await turns()
        assert not task.done()
        gate.set_result("opened")
        assert await asyncio.wait_for(task, 20) == ("opened" if whose == "greenio" else None)
        assert log == []

    arun(main)


@pytest.mark.parametrize("order", ["cancel, kill", "kill, cancel"])
@pytest.mark.parametrize("kind", KINDS)
def test_killed_and_cancelled_in_one_turn(arun, patched, kind, order):
    """The cancellation is not lost."""

    async def main():
        gate = asyncio.get_running_loop().create_future()
        made, log = [], []

        def fn():
            made.append(_worker(kind, gate, log))
            try:
                made[0].switch()
            except asyncio.CancelledError as error:
                log.append(type(error))
                raise

        task = await _started(fn)
        for what in order.split(", "):
            if what == "cancel":
                task.cancel()
            elif kind in AWAITING:
                with pytest.raises(RuntimeError, match="cancel its task"):
                    made[0].throw()
            else:
                made[0].throw()
        await asyncio.wait([task], timeout=20)
        assert task.cancelled()
        assert log == [asyncio.CancelledError] * 2

    arun(main)


@pytest.mark.parametrize("whose", ["library", "greenio"])
@pytest.mark.parametrize("by", ["loop", "green"])
@pytest.mark.parametrize("kind", KINDS)
def test_one_that_is_about_to_be_resumed_is_not_woken_by_others(arun, patched, kind, by, whose):
    """A stray value or error, between a waker's claim and its resume, goes back to who sent it."""

    async def main():
        gate = asyncio.get_running_loop().create_future()
        made = []

        def disturb():
            task.cancel()
            for stray in (3, None):
                assert made[0].switch(stray) is stray
                with pytest.raises(ValueError, match="stray"):
                    made[0].throw(ValueError("stray"))

        task = await _started(lambda: _wait(whose, kind, gate, made, []))
        if by == "loop":
            disturb()
        else:
            await to_greenlet(disturb)
        await asyncio.wait([task], timeout=20)
        assert task.cancelled()
        assert await to_greenlet(lambda: 3) == 3

    arun(main)


@pytest.mark.parametrize("by", ["loop", "green"])
@pytest.mark.parametrize("in_task", [False, True])
def test_one_at_rest_answers_like_a_dead_one(arun, patched, in_task, by):
    """Nothing wakes it, nothing ends it: the next call wants it."""

    async def main():
        loop = asyncio.get_running_loop()

        async def current():
            return greenlet.getcurrent()

        async def one_at_rest():
            return await (greenio.task_factory(loop, current()) if in_task else to_greenlet(greenlet.getcurrent))

        def disturb(made):
            assert isinstance(made.throw(), greenlet.GreenletExit)
            assert made.switch(3) == 3
            with pytest.raises(ValueError, match="stray"):
                made.throw(ValueError("stray"))
            assert isinstance(made.throw(), greenlet.GreenletExit)
            assert not made.dead

        if by == "loop":
            disturb(await one_at_rest())
        else:
            await to_greenlet(lambda: disturb(await_(one_at_rest())))
        assert await to_greenlet(lambda: 3) == 3

    arun(main)


@pytest.mark.parametrize("how", ["switched to", "killed"])
@pytest.mark.parametrize("in_task", [False, True])
def test_one_at_rest_that_was_disturbed_goes_with_its_thread(loop_kind, in_task, how):
    count = len(_core.greens())

    def body():
        async def current():
            return greenlet.getcurrent()

        async def main():
            made = await (greenio.task_factory(loop, current()) if in_task else to_greenlet(greenlet.getcurrent))
            if how == "killed":
                assert isinstance(made.throw(), greenlet.GreenletExit)
            else:
                assert made.switch(3) == 3

        loop = new_loop(loop_kind)
        loop.run_until_complete(main())
        loop.close()

    with futures.ThreadPoolExecutor(1) as pool:
        pool.submit(body).result()
    gc.collect()
    assert len(_core.greens()) == count


@pytest.mark.parametrize("kind", ["relayed", "fast asleep"])
def test_one_that_is_killed_when_its_loop_is_closed_comes_not_to_rest(patched, loop_kind, kind):
    loop = new_loop(loop_kind)
    made = []

    async def begin():
        def fn():
            made.append(greenlet.getcurrent())
            return _waits(kind, loop.create_future())()

        task = asyncio.ensure_future(to_greenlet(fn))
        task._log_destroy_pending = False
        await until_parked(1)
        return task

    task = loop.run_until_complete(begin())
    (host,) = (host for host in _core.hosts() if host.loop is loop)
    host.calls.clear()  # as if it had been abandoned
    loop.close()
    made[0].throw()
    other = new_loop(loop_kind)
    assert other.run_until_complete(to_greenlet(lambda: 3)) == 3
    other.close()
    del task
