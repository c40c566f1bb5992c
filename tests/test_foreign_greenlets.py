"""Greenlets that a library makes in green code, and runs later from somewhere else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import greenlet
import pytest

from greenio import await_, to_greenlet
from waiting import until_parked


def _waits(kind: str, gate: asyncio.Future[Any]) -> Callable[[], Any]:
    def wait_first() -> Any:
        time.sleep(0.001)  # from here on the task awaits the Call
        return await_(gate)

    return {"relayed": lambda: await_(gate), "called back": wait_first, "asleep": lambda: time.sleep(0.02)}[kind]


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
