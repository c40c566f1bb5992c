"""The watchdog: who holds a loop, as a second thread sees it."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
import weakref
import zlib

import pytest

from greenio import _original, debug, monkey, to_greenlet
from greenio.debug import _watchdog
from waiting import until

THRESHOLD = 0.05


@pytest.fixture(autouse=True)
def patrol_ends():
    yield
    limit = time.monotonic() + 5
    while _watchdog._patrol._runs:
        assert time.monotonic() < limit, "the patrol goes on"
        _original.sleep(0.001)


@pytest.fixture
def holds():
    """What has been reported; a hold lasts until there is something new in it, so that none is too short."""
    return []


def hold_until(condition):
    """Hold the thread natively; the name stands in the stack."""
    limit = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < limit, "nobody saw it"
        _original.sleep(0.001)


def names(hold):
    return [frame.function.rpartition(".")[2] for frame in hold.stack]


def test_coroutine_that_holds_the_loop(arun, holds):
    async def main():
        asyncio.current_task().set_name("holder")
        with debug.watchdog(threshold=THRESHOLD, report=holds.append):
            await below()

    async def below():
        hold_until(lambda: holds)

    arun(main)
    (hold,) = holds
    assert hold.task == "holder"
    assert hold.coroutine.endswith("main")
    assert hold.green is None
    assert not hold.ended
    assert hold.seconds >= hold.threshold == THRESHOLD
    assert names(hold)[:3] == ["main", "below", "hold_until"]
    assert f"task 'holder' ({hold.coroutine})" in str(hold)
    assert "hold_until(lambda: holds)" in str(hold)


def test_green_that_holds_the_loop(arun, holds, patched):
    def outer():
        time.sleep(0.001)  # parks, and is not in the way
        hold_until(lambda: holds)

    async def main():
        task = asyncio.create_task(to_greenlet(outer), name="in a greenlet")
        with debug.watchdog(threshold=THRESHOLD, report=holds.append):
            await task

    arun(main)
    (hold,) = holds
    assert hold.task == "in a greenlet"
    assert hold.green is not None
    assert names(hold)[:2] == ["outer", "hold_until"]
    assert f"in green {hold.green}" in str(hold)


def test_callback_that_holds_the_loop(arun, holds):
    async def main():
        with debug.watchdog(threshold=THRESHOLD, report=holds.append):
            asyncio.get_running_loop().call_soon(hold_until, lambda: holds)
            await until(lambda: holds)

    arun(main)
    assert holds[0].task is None
    assert "hold_until" in names(holds[0])
    assert "by a callback" in str(holds[0])


def test_extension_without_the_interpreters_lock(arun, holds):
    data = bytes(20_000_000)

    async def main():
        with debug.watchdog(threshold=0.01, report=holds.append):
            while not holds:
                compress()

    def compress():
        zlib.compress(data, 1)

    arun(main)
    assert "compress" in names(holds[0])


def test_what_keeps_the_interpreters_lock_is_told_of_afterwards(arun, holds):
    async def main():
        dog = debug.watchdog(threshold=THRESHOLD, report=holds.append)  # nobody else looks
        dog._look()
        dog._answer(dog._asked - 1)  # of another run
        assert dog.stats().holds == 0
        dog._asked -= 3
        dog._answer(dog._asked)
        dog._look()
        await asyncio.sleep(0)
        return dog.stats()

    stats = arun(main)
    (hold,) = holds
    assert hold.ended
    assert hold.seconds >= 3
    assert hold.stack == ()
    assert "something that is over" in str(hold)
    assert (stats.holds, stats.reported) == (1, 1)
    assert stats.longest >= 3


def test_log(arun, caplog):
    async def main():
        with debug.watchdog(threshold=THRESHOLD):
            hold_until(lambda: caplog.records)

    arun(main)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("greenio.watchdog", logging.WARNING)
    assert "the event loop is held for" in record.getMessage()
    assert record.hold.threshold == THRESHOLD


def test_rate_and_counter(arun, holds):
    async def main():
        with debug.watchdog(threshold=THRESHOLD, report=holds.append, every=1000) as dog:
            for count in range(1, 4):
                hold_until(lambda: holds and dog._unreported == count - 1)
                await until(lambda: dog.stats().holds == count)
            assert dog._unreported == 2
            dog._last_report = None
            hold_until(lambda: len(holds) == 2)
            await until(lambda: dog.stats().holds == 4)
            return dog.stats()

    stats = arun(main)
    assert stats.reported == len(holds) == 2
    assert holds[1].unreported == 2
    assert "2 more since the last report" in str(holds[1])
    assert stats.seconds >= stats.longest >= THRESHOLD


def test_report_that_fails_is_logged(arun, caplog):
    async def main():
        with debug.watchdog(threshold=THRESHOLD, report=lambda hold: 1 / 0):
            hold_until(lambda: caplog.records)

    arun(main)
    assert "ZeroDivisionError" in caplog.text


def test_loop_that_turns_is_not_held(arun, holds):
    async def main():
        with debug.watchdog(threshold=10, report=holds.append) as dog:
            end = time.monotonic() + 0.1
            while time.monotonic() < end:
                await asyncio.sleep(0)
            await asyncio.sleep(0.05)
            assert dog.stats() == debug.WatchdogStats()

    arun(main)
    assert not holds


def test_loop_that_nobody_runs_is_not_held(holds):
    loop = asyncio.new_event_loop()
    with debug.watchdog(loop, THRESHOLD, report=holds.append) as dog:
        loop.run_until_complete(asyncio.sleep(0))
        _original.sleep(3 * THRESHOLD)
        loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    assert dog.stats().holds == 0
    assert not holds


def test_closed_loop_is_let_go(holds):
    loop = asyncio.new_event_loop()
    dog = debug.watchdog(loop, THRESHOLD)
    dog.start()
    loop.close()
    limit = time.monotonic() + 5
    while _watchdog._patrol.watched:
        assert time.monotonic() < limit
        _original.sleep(0.001)
    dog.stop()


def test_two_loops_one_thread(holds):
    loops = [asyncio.new_event_loop() for _ in range(2)]
    ends = threading.Event()

    async def wait():
        while not ends.is_set():
            await asyncio.sleep(0.001)

    threads = [threading.Thread(target=loop.run_until_complete, args=(wait(),)) for loop in loops]
    for thread in threads:
        thread.start()
    dogs = [debug.watchdog(loop, THRESHOLD, report=holds.append) for loop in loops]
    try:
        for dog in dogs:
            dog.start()
            dog.start()
        assert [thread.name for thread in threading.enumerate()].count("greenio watchdog") == 1
        limit = time.monotonic() + 5
        while None in (dogs[0]._thread_id, dogs[1]._thread_id):  # told by the first answer
            assert time.monotonic() < limit
            _original.sleep(0.001)
        loops[1].call_soon_threadsafe(hold_until, lambda: holds)
        hold_until(lambda: holds)
        assert "hold_until" in names(holds[0])
    finally:
        for dog in dogs:
            dog.stop()
        ends.set()
        for thread in threads:
            thread.join()
        for loop in loops:
            loop.close()


def test_a_watchdog_in_green_code_watches_the_host(arun, patched):
    def in_green():
        return debug.watchdog().loop

    async def main():
        assert await to_greenlet(in_green) is asyncio.get_running_loop()

    arun(main)


def test_misuse():
    with pytest.raises(RuntimeError, match=r"watchdog\(loop\)"):
        debug.watchdog()
    loop = asyncio.new_event_loop()
    for threshold in (0, -1.0, float("nan"), float("inf"), threading.TIMEOUT_MAX * 1.001):
        with pytest.raises(ValueError, match=f"more than 0 seconds and at most {threading.TIMEOUT_MAX:.0f}"):
            debug.watchdog(loop, threshold)
    for every in (-1, float("nan")):
        with pytest.raises(ValueError, match=f"every must be 0 seconds or more, not {every}"):
            debug.watchdog(loop, every=every)
    loop.close()


def test_stopped_watchdog_is_collected():
    loop = asyncio.new_event_loop()
    dog = debug.watchdog(loop)
    dog.start()
    dog.stop()
    loop.close()
    limit = time.monotonic() + 5
    while _watchdog._patrol._runs and time.monotonic() < limit:
        _original.sleep(0.001)
    gone = weakref.ref(dog)
    del dog
    gc.collect()
    assert gone() is None
    assert not monkey.is_patched("time")
