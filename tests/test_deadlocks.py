"""`deadlocks`: cycles of greens and threads are named, and nothing else is."""

from __future__ import annotations

import asyncio
import threading

import pytest

from greenio import debug, monkey, spawn, to_greenlet
from waiting import until, until_parked

pytestmark = pytest.mark.usefixtures("patched")


@pytest.fixture(params=["RLock", "Lock"])
def locks(request):
    """Make locks of which somebody knows the owner."""
    make = getattr(threading, request.param)
    with debug.record(parks=False):
        yield make(), make()


async def ended(*tasks):
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def take_both(first, second, ready, go):
    with first:
        ready.set()
        go.wait()
        if second.acquire(timeout=20):
            second.release()


def test_two_greens(arun, locks):
    one, two = locks

    async def main():
        go = threading.Event()
        ready = [threading.Event(), threading.Event()]
        tasks = [spawn(take_both, one, two, ready[0], go), spawn(take_both, two, one, ready[1], go)]
        for number, task in enumerate(tasks):
            task.set_name(f"philosopher {number}")
        await until_parked(2)
        assert debug.deadlocks() == []
        go.set()
        await until(debug.deadlocks)
        (found,) = debug.deadlocks()
        assert len(found.waits) == 2
        assert found.waits[0].owner == found.waits[1].waiter
        assert found.waits[1].owner == found.waits[0].waiter
        assert "philosopher 0" in str(found)
        assert "philosopher 1" in str(found)
        for wait in found.waits:
            assert 0 < wait.seconds_left <= 20
            assert wait.stack[-1].function == "take_both"
        await ended(*tasks)
        assert debug.deadlocks() == []

    arun(main)


def test_green_and_thread(arun, locks):
    one, two = locks

    async def main():
        go = threading.Event()
        ready = [threading.Event(), threading.Event()]
        thread = threading.Thread(target=take_both, args=(one, two, ready[0], go), name="philosopher")
        thread.start()
        task = spawn(take_both, two, one, ready[1], go)
        await until(lambda: all(event.is_set() for event in ready))
        go.set()
        await until(debug.deadlocks)
        (found,) = debug.deadlocks()
        waiters = {wait.waiter for wait in found.waits}
        assert "thread 'philosopher'" in waiters
        assert len(waiters) == 2
        assert {wait.owner for wait in found.waits} == waiters
        await ended(task)
        await to_greenlet(thread.join)

    arun(main)


def test_native_code_that_waits_for_its_own_green(arun):
    """The green could only go on if its thread did."""
    found = []

    async def main():
        lock = threading.Lock()
        task = spawn(hold, lock)
        await until_parked()
        seen = threading.Thread(target=look)
        seen.start()
        assert not lock.acquire(timeout=0.5)
        await ended(task)
        await to_greenlet(seen.join)

    def hold(lock):
        with lock:
            threading.Event().wait()

    def look():
        pause = monkey.original("time", "sleep")
        for _ in range(1000):
            found.extend(debug.deadlocks())
            if found:
                return
            pause(0.001)

    with debug.record(parks=False):
        arun(main)
    assert {wait.what for wait in found[0].waits} >= {"its thread"}
    assert len(found[0].waits) == 2


def test_a_green_that_takes_a_lock_twice(arun):
    async def main():
        lock = threading.Lock()
        task = spawn(twice, lock)
        await until_parked()
        (found,) = debug.deadlocks()
        (wait,) = found.waits
        assert wait.waiter == wait.owner
        await ended(task)

    def twice(lock):
        with lock, lock:
            pass

    with debug.record(parks=False):
        arun(main)


class TestJoin:
    """Who waits for the end of a thread waits for all that it waits for."""

    @pytest.fixture(params=["thread", "green_thread"])
    def threads(self, request):
        if request.param == "thread":
            yield "thread 'last'"
        else:
            with monkey.patched(green_threads=True):
                yield "of task 'last'"

    def test_by_a_green(self, arun, threads):
        async def main():
            lock = threading.RLock()
            task = spawn(hold_and_join, lock)
            await until(debug.deadlocks)
            (found,) = debug.deadlocks()
            joins, takes = sorted(found.waits, key=lambda wait: "the end of" not in wait.what)
            assert joins.what.endswith(threads)
            assert joins.owner == takes.waiter
            assert joins.waiter == takes.owner
            assert f" waits for the end of {takes.waiter}\n" in str(found)
            assert f": {joins.what}\n" in str(debug.run_info())
            await ended(task)
            await until(lambda: not debug.deadlocks())

        arun(main)

    def test_by_a_thread(self, arun):
        async def main():
            thread = threading.Thread(target=hold_and_join, args=(threading.RLock(), 0.5), name="first")
            thread.start()
            await until(debug.deadlocks)
            (found,) = debug.deadlocks()
            assert {wait.waiter for wait in found.waits} == {"thread 'first'", "thread 'last'"}
            await to_greenlet(thread.join)

        arun(main)

    def test_a_look_is_no_wait(self, arun):
        """CPython up to 3.12 looks by the same function as it waits."""

        async def main():
            lock, go = threading.RLock(), threading.Event()
            looker = threading.Thread(target=look, args=(lock, go))
            looker.start()
            for _ in range(200):
                assert debug.deadlocks() == []
                await asyncio.sleep(0)
            go.set()
            await to_greenlet(looker.join)

        def look(lock, go):
            with lock:
                thread = threading.Thread(target=take, args=(lock, 20))
                thread.start()
                while not go.is_set():
                    thread.is_alive()
            thread.join()

        arun(main)


def hold_and_join(lock, limit=20):
    with lock:
        thread = threading.Thread(target=take, args=(lock, limit), name="last")
        thread.start()
        thread.join()


def take(lock, limit):
    if lock.acquire(timeout=limit):
        lock.release()


def test_waits_that_are_no_deadlock(arun, locks):
    one, _ = locks

    async def main():
        condition = threading.Condition()
        tasks = [spawn(hold, one), spawn(one.acquire), spawn(one.acquire), spawn(wait, condition)]
        tasks += [spawn(threading.Event().wait), spawn(threading.Semaphore(0).acquire)]
        await until_parked(6)
        assert debug.deadlocks() == []
        await ended(*tasks)

    def hold(lock):
        with lock:
            threading.Event().wait()

    def wait(condition):
        with condition:
            condition.wait()

    arun(main)
