"""Locks that are older than the patch: exchanged where they have a name, one lock with the old one, and given back."""

from __future__ import annotations

import _thread
import asyncio
import concurrent.futures
import queue
import threading
import time
from functools import partial

import pytest

from greenio import await_, monkey, spawn, to_greenlet
from waiting import until_parked

NATIVE_LOCK, NATIVE_RLOCK = [_thread.allocate_lock], [_thread.RLock]  # in containers, where a patch leaves them alone

lock_of_the_module = threading.Lock()


class Holder:
    shared = threading.Lock()

    def __init__(self):
        self.lock = threading.Lock()
        self.rlock = threading.RLock()
        self.condition = threading.Condition(threading.Lock())
        self.owned = threading.Condition()
        self.acquire = self.lock.acquire
        self.listed = [threading.Lock()]


@pytest.fixture
def holder():
    return Holder()


def places(holder):
    return (lock_of_the_module, Holder.shared, holder.lock, holder.rlock, holder.condition._lock)


def use(lock, log):
    for _ in range(3):
        with lock:
            log.append("in")
            time.sleep(0.0005)
            log.append("out")


@pytest.mark.parametrize("place", ["module", "class", "lock", "rlock", "condition", "bound"])
def test_greens_and_threads_exclude_one_another(arun, holder, place):
    class Bound:
        def __enter__(self):
            holder.acquire()

        def __exit__(self, *args):
            holder.lock.release()

    async def main():
        with monkey.patched():
            locks = dict(zip(["module", "class", "lock", "rlock", "condition"], places(holder), strict=True))
            lock = Bound() if place == "bound" else holder.condition if place == "condition" else locks[place]
            log = []
            tasks = [to_greenlet(use, lock, log) for _ in range(5)]
            tasks += [asyncio.to_thread(use, lock, log) for _ in range(2)]
            await asyncio.wait_for(asyncio.gather(*tasks), 30)
            assert log == ["in", "out"] * 21

    arun(main)


def test_there_and_back(holder):
    before = places(holder)
    with monkey.patched():
        assert not any(type(lock) in (_thread.LockType, NATIVE_RLOCK[0]) for lock in places(holder))
        assert isinstance(holder.lock, threading.Lock().__class__)
    assert all(new is old for new, old in zip(places(holder), before, strict=True))
    assert holder.acquire.__self__ is holder.lock


def test_what_somebody_set_since_is_left(holder):
    with monkey.patched():
        mine = holder.lock = object()
    assert holder.lock is mine


@pytest.mark.parametrize("kind", ["lock", "rlock"])
@pytest.mark.parametrize("seconds", [None, 20])
def test_held_by_way_of_the_old_reference(arun, holder, kind, seconds):
    """Nobody tells greens that such code let go: a thread waits in their place, not the loop."""
    old = getattr(holder, kind)
    held, let_go = threading.Event(), threading.Event()

    def hold():
        with old:
            held.set()
            let_go.wait(20)

    async def main():
        def work():
            lock = getattr(holder, kind)
            assert not lock.acquire(timeout=0.01)
            assert lock.acquire(*(() if seconds is None else (True, seconds)))
            time.sleep(0.001)
            lock.release()

        waiting = [spawn(work) for _ in range(3)]
        await until_parked(3)
        await asyncio.sleep(0.02)  # the loop turns
        cancelled = spawn(work)
        await until_parked(4)
        cancelled.cancel()
        await asyncio.wait({cancelled}, timeout=20)
        assert cancelled.cancelled()
        let_go.set()
        await asyncio.wait_for(asyncio.gather(*waiting), 20)
        assert old.acquire(timeout=20)  # not False: the thread that waits for greens may just look at it
        old.release()

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(20)
    with monkey.patched():
        arun(main)
    thread.join(20)


def test_unpatched_while_a_green_waits(arun, holder):
    old = holder.lock

    async def main():
        monkey.patch_all()
        old.acquire()
        waiting = spawn(holder.lock.acquire)
        await until_parked()
        monkey.unpatch_all()
        assert holder.lock is old
        old.release()
        assert await asyncio.wait_for(waiting, 20)
        assert old.locked()
        old.release()

    arun(main)


def test_condition_that_is_waited_for_when_it_is_unpatched(arun, holder):
    async def main():
        monkey.patch_all()

        def wait():
            with holder.condition:
                return holder.condition.wait(20)

        waiting = spawn(wait)
        await until_parked()
        monkey.unpatch_all()
        with holder.condition:
            holder.condition.notify()
        assert await asyncio.wait_for(waiting, 20)
        with holder.condition:
            pass

    arun(main)


@pytest.mark.parametrize("times", [1, 2], ids=["patched", "patched and unpatched"])
@pytest.mark.parametrize("in_a_wait", [False, True])
def test_patched_while_a_thread_is_in_a_condition(arun, holder, times, in_a_wait):
    """What a thread has taken by way of the one lock it uses and lets go by way of the other."""
    entered, go_on, failures = threading.Event(), threading.Event(), []

    def work():
        try:
            with holder.owned:
                entered.set()
                if in_a_wait:
                    assert holder.owned.wait(20)
                else:
                    assert go_on.wait(20)
                holder.owned.notify()
                assert not holder.owned.wait(0.01)
                with holder.owned:
                    assert not holder.owned.wait(0.01)
                holder.owned.notify()
        except BaseException as error:
            failures.append(error)

    async def main():
        def take():
            with holder.owned:
                time.sleep(0.001)
                holder.owned.notify()

        await asyncio.wait_for(asyncio.gather(*(to_greenlet(take) for _ in range(3))), 20)

    thread = threading.Thread(target=work)
    thread.start()
    assert entered.wait(20)
    for change in (monkey.patch_all, monkey.unpatch_all)[:times]:
        change()
    if in_a_wait:
        with holder.owned:
            holder.owned.notify()
    go_on.set()
    thread.join(20)
    assert not thread.is_alive()
    assert not failures
    with monkey.patched():
        arun(main)
    monkey.unpatch_all()


def test_unpatched_while_a_green_is_about_to_take_an_rlock(arun, holder):
    """It takes the one that has lost its place, and lets go the one that is there now: others must not wait for it."""

    async def main():
        monkey.patch_all()
        lock = holder.rlock
        monkey.unpatch_all()

        def work():
            lock.acquire()
            waiting = spawn(lock.acquire, timeout=20)
            await_(until_parked())
            holder.rlock.release()
            assert await_(asyncio.wait_for(waiting, 10))

        await asyncio.wait_for(to_greenlet(work), 30)

    arun(main)


def test_queue_that_is_older(arun):
    made = queue.Queue()

    async def main():
        with monkey.patched():
            getting = [spawn(made.get, True, 20) for _ in range(3)]
            await until_parked(3)
            await asyncio.to_thread(made.put, 1)
            await to_greenlet(made.put, 2)
            made.put(3)
            assert sorted(await asyncio.gather(*getting)) == [1, 2, 3]

    arun(main)


def test_parks_with_an_old_rlock_while_native_code_comes_by(arun, holder):
    async def main():
        with monkey.patched():
            holding = spawn(use, holder.rlock, [])
            await until_parked()
            with holder.rlock:  # as it was before the patch: the lock is the thread's
                pass
            await holding

    arun(main)


@pytest.mark.usefixtures("thawed")
def test_report_of_what_is_out_of_reach(holder):
    with monkey.patched():
        found = {(item.native.rpartition(".")[2], str(item)) for item in monkey.report().unreachable}
    assert ("Lock", f"{__name__}.Holder.listed (instance)") in found
    assert not {text for _, text in found if text.startswith(("threading.", "importlib.", "greenio.", "asyncio."))}
    assert not {text for _, text in found if text.startswith(f"{__name__}.Holder.lock")}


@pytest.mark.parametrize("made", ["before the patch", "after it"])
def test_nobody_parks_with_the_locks_of_an_executor(arun, made):
    """A thread has one for a moment. A green that waits for it has others, on which native code would hold the loop."""

    def hold(condition, held):
        with condition:
            held.set()
            time.sleep(0.1)

    async def main(pool):
        held = threading.Event()
        thread = threading.Thread(target=hold, args=[pool._idle_semaphore._cond, held])
        thread.start()
        await asyncio.to_thread(held.wait, 20)
        green = spawn(pool.submit, id, 0)
        await asyncio.sleep(0)
        with concurrent.futures.ThreadPoolExecutor(1) as other:
            assert other.submit(int).result() == 0
        await asyncio.wait_for(green, 20)
        thread.join()

    older = concurrent.futures.ThreadPoolExecutor(1)
    with monkey.patched():
        with older if made == "before the patch" else concurrent.futures.ThreadPoolExecutor(1) as pool:
            arun(partial(main, pool))


def test_modules_of_executors_are_restored():
    from concurrent.futures import _base, thread

    with monkey.patched():
        assert (_base.threading.Thread, thread.queue.Empty) == (threading.Thread, queue.Empty)
        assert _base.threading is not threading
    assert (_base.threading, thread.threading, thread.queue) == (threading, threading, queue)
