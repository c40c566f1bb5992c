"""Locks, conditions and threads: greens of several loops and native threads wait for the same objects."""

import _thread
import asyncio
import concurrent.futures
import contextlib
import copy
import gc
import itertools
import os
import pickle
import queue
import random
import signal
import sys
import threading
import time
import warnings
import weakref

import pytest
from greenlet import greenlet

from conftest import KINDS, finish, new_loop
from greenio import _original, await_, monkey, spawn, timeout, to_greenlet
from greenio._sync import PassableRLock, RLock
from waiting import parked, turns, until_parked

pytestmark = pytest.mark.usefixtures("patched")

native_sleep = time.sleep
NATIVE = (_thread.allocate_lock,)  # in a container, where a patch leaves it alone
MAKERS = {"Lock": lambda: threading.Lock(), "RLock": lambda: threading.RLock()}


@pytest.fixture(params=MAKERS)
def make(request):
    return MAKERS[request.param]


async def ended(*tasks: asyncio.Task) -> list:
    return await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 20)


class TestMutualExclusion:
    def test_greens(self, arun, make):
        async def main():
            lock, inside, order = make(), [], []

            def work(number):
                with lock:
                    inside.append(number)
                    time.sleep(0.001)
                    assert inside == [number]
                    inside.remove(number)
                    order.append(number)

            await asyncio.gather(*(to_greenlet(work, i) for i in range(20)))
            assert order == list(range(20))

        arun(main)

    def test_greens_and_threads(self, arun, make):
        async def main():
            lock, total = make(), [0]

            def work(pause):
                for turn in range(50):
                    with lock:
                        seen = total[0]
                        if not turn % 10:
                            pause(0)
                        total[0] = seen + 1

            await asyncio.gather(
                *(to_greenlet(work, time.sleep) for _ in range(10)),
                *(asyncio.to_thread(work, native_sleep) for _ in range(4)),
            )
            assert total == [14 * 50]
            assert lock.acquire(False)
            lock.release()

        arun(main)

    def test_loops_in_several_threads(self, make):
        lock, total = make(), [0]

        def work():
            for _ in range(30):
                with lock:
                    seen = total[0]
                    time.sleep(0)
                    total[0] = seen + 1

        async def main():
            await asyncio.gather(*(to_greenlet(work) for _ in range(5)))

        def in_loop(kind):
            loop = new_loop(kind)
            try:
                loop.run_until_complete(main())
            finally:
                finish(loop)

        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            jobs = [pool.submit(in_loop, kind) for kind in (KINDS * 2)[:4]] + [pool.submit(work) for _ in range(2)]
            for job in jobs:
                job.result(30)
        assert total == [(4 * 5 + 2) * 30]

    def test_one_that_takes_it_again_at_once_does_not_starve_the_rest(self, arun, make):
        async def main():
            lock, got, stop = make(), [], []

            def greedy():
                while not stop:
                    with lock:
                        time.sleep(0)

            def modest():
                with lock:
                    got.append(True)

            first = spawn(greedy)
            await turns()
            await asyncio.wait_for(to_greenlet(modest), 5)
            stop.append(True)
            await first
            assert got

        arun(main)


class TestNobodyStarves:
    """Who holds a lock nearly always, and takes it again at once, lets threads and greens in that wait for it."""

    WANTED = 20
    TOO_MANY = 1000

    @pytest.mark.parametrize(("threads", "greens"), [(4, 0), (1, 1), (2, 2)])
    def test_each_has_its_turns(self, arun, make, threads, greens):
        async def main():
            lock = make()
            turns = dict.fromkeys(range(threads + greens), 0)

            def work(me):
                while min(turns.values()) < self.WANTED and max(turns.values()) < self.TOO_MANY:
                    with lock:
                        time.sleep(0.0005)
                    turns[me] += 1

            await ended(
                *(asyncio.create_task(asyncio.to_thread(work, i)) for i in range(threads)),
                *(asyncio.create_task(to_greenlet(work, threads + i)) for i in range(greens)),
            )
            assert min(turns.values()) >= self.WANTED, turns

        arun(main)

    def test_loop_that_blocks_for_the_lock_is_not_kept_waiting_by_its_own_green(self, arun, make):
        """What is offered to the green then goes to the native code of its thread, which bars it from running."""

        async def main():
            lock, ended, turns = make(), threading.Event(), [0]

            def hog():
                while not ended.is_set():
                    with lock:
                        time.sleep(0.0005)

            def want():
                while not ended.is_set():
                    with lock:
                        turns[0] += 1
                    time.sleep(0)

            tasks = [asyncio.create_task(asyncio.to_thread(hog)), asyncio.create_task(to_greenlet(want))]
            for _ in range(30):
                with lock:  # in the loop's thread, not green
                    pass
                await asyncio.sleep(0.001)
            while turns[0] < self.WANTED:
                await asyncio.sleep(0.001)
            ended.set()
            await asyncio.gather(*tasks)

        arun(main)

    def test_offers_meet_cancellations_and_deadlines(self, arun, make):
        async def main():
            lock, ended, inside = make(), threading.Event(), []

            def hold(me):
                inside.append(me)
                assert inside == [me]
                try:
                    time.sleep(0.0003)
                finally:
                    inside.remove(me)

            def hog(me):
                while not ended.is_set():
                    with lock:
                        hold(me)

            def hurry(me):
                chance = random.Random(me)
                while not ended.is_set():
                    if lock.acquire(timeout=chance.uniform(0.0001, 0.003)):
                        try:
                            hold(me)
                        finally:
                            lock.release()

            hogs = [asyncio.create_task(asyncio.to_thread(hog, i)) for i in range(2)]
            hogs += [asyncio.create_task(asyncio.to_thread(hurry, i)) for i in range(2, 4)]
            hogs += [asyncio.create_task(to_greenlet(hurry, i)) for i in range(4, 6)]
            for number in range(100):
                task = asyncio.create_task(to_greenlet(hog, 6 + number % 2))
                await asyncio.sleep(0.0007 * (number % 5))
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
            ended.set()
            await asyncio.gather(*hogs)
            assert lock.acquire(False)
            lock.release()

        arun(main)


class TestSemantics:
    """What the stdlib's documentation says of both locks, in green and in native code."""

    @pytest.fixture(params=["green", "native"])
    def where(self, request, arun):
        if request.param == "native":
            return lambda fn: fn()

        def run(fn):
            async def main():
                await to_greenlet(fn)

            arun(main)

        return run

    def test_results(self, where, make):
        def body():
            lock, other = make(), []
            assert lock.acquire() is True
            thread = threading.Thread(target=lambda: other.append(lock.acquire(False)))
            thread.start()
            thread.join()
            assert other == [False]
            lock.release()
            assert lock.acquire(blocking=True, timeout=1) is True
            lock.release()
            with lock as entered:
                assert entered is True

        where(body)

    def test_bad_arguments(self, where, make):
        def body():
            lock = make()
            for arguments, kind in (
                ((False, 1), ValueError),
                ((True, -2), ValueError),
                ((True, threading.TIMEOUT_MAX * 2), OverflowError),
                ((True, "1"), TypeError),
            ):
                with pytest.raises(kind):
                    lock.acquire(*arguments)
                assert lock.acquire(False)
                lock.release()
            with pytest.raises(RuntimeError):
                lock.release()

        where(body)

    @pytest.mark.parametrize("blocking", [1, 0, 1.5, "x", None, []])
    def test_what_is_no_bool(self, where, make, blocking):
        """It is taken for true or false, or refused, as natively: that differs by version."""

        def outcome(acquire):
            try:
                return acquire(blocking)
            except TypeError as error:
                return str(error)

        native = monkey.original("_thread", "allocate_lock")

        def body():
            lock = make()
            assert outcome(lock.acquire) == outcome(native().acquire)
            with contextlib.suppress(RuntimeError):
                lock.release()

        where(body)

    def test_timeout(self, where):
        def body():
            lock = threading.Lock()
            lock.acquire()
            for seconds in (0, 0.05):
                began = time.monotonic()
                assert lock.acquire(True, seconds) is False
                assert seconds <= time.monotonic() - began < seconds + 10
            assert lock.locked()
            lock.release()
            assert not lock.locked()

        where(body)

    def test_released_by_another(self, where):
        def body():
            lock = threading.Lock()
            lock.acquire()
            timer = threading.Timer(0.05, lock.release)
            timer.start()
            assert lock.acquire(True, 10)
            timer.join()

        where(body)

    def test_rlock_counts(self, where):
        def body():
            lock = threading.RLock()
            for _ in range(3):
                assert lock.acquire()
            assert "count=3" in repr(lock)
            assert repr(lock).startswith("<locked _thread.RLock object owner=")
            for _ in range(3):
                lock.release()
            assert repr(lock).startswith("<unlocked _thread.RLock object owner=0 count=0 at 0x")
            with pytest.raises(RuntimeError, match="un-acquired"):
                lock.release()

        where(body)

    def test_condition_wants_its_lock(self, where, make):
        def body():
            condition = threading.Condition(make())
            for call in (condition.wait, condition.notify, condition.notify_all):
                with pytest.raises(RuntimeError, match="un-acquired"):
                    call()

        where(body)

    def test_objects(self, make):
        lock = make()
        kind = type(lock)
        assert isinstance(lock, kind)
        assert isinstance(monkey.original("_thread", "RLock" if kind.__name__ == "RLock" else "allocate_lock")(), kind)
        assert not isinstance(threading.Condition(), kind)
        assert weakref.ref(lock)() is lock
        for use in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="cannot pickle"):
                use(lock)
        if kind.__name__ == "lock":
            with pytest.raises(TypeError, match="not an acceptable base type"):
                type("Mine", (kind,), {})

    def test_types_are_named_and_refuse_as_the_native_ones(self):
        natives = monkey.original("_thread", "allocate_lock"), monkey.original("threading", "RLock")
        for make, native in zip((threading.Lock, threading.RLock), natives, strict=True):
            kind, native_kind = type(make()), type(native())
            assert make.__module__ in ("threading", "_thread")
            assert (kind.__module__, kind.__name__) == (native_kind.__module__, native_kind.__name__)
        assert pickle.loads(pickle.dumps(threading.Lock)) is threading.Lock
        assert isinstance(threading.Lock(), type(threading.Lock()))
        kind, native_kind = type(threading.Lock()), type(natives[0]())
        if sys.version_info < (3, 13):
            for refusing in (kind, native_kind):
                with pytest.raises(TypeError, match=r"cannot create '_thread\.lock' instances"):
                    refusing()
        else:
            assert type(kind()) is kind
            assert type(native_kind()) is native_kind

    def test_rlock_ignores_arguments_as_the_native_one(self):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            lock = threading.RLock(1, a=2)
        with lock:
            pass
        assert [warning.category for warning in caught] == [DeprecationWarning] * (sys.version_info >= (3, 13))
        assert [os.path.basename(warning.filename) for warning in caught] == ["test_locks.py"] * len(caught)

    def test_rlock_has_subclasses_as_the_native_one(self, where):
        class Mine(type(threading.RLock())):
            def __init__(self, number, *, name):
                self.name = name * number

        class Natives(monkey.original("_thread", "RLock")):
            pass

        def body():
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                lock = Mine(2, name="a")
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                with lock, lock:
                    assert not pool.submit(lock.acquire, False).result(30)
                assert pool.submit(lock.acquire, False).result(30)
                assert not lock.acquire(False)
            assert lock.name == "aa"

        where(body)
        assert not isinstance(monkey.original("_thread", "RLock")(), Mine)
        assert isinstance(Natives(), type(threading.RLock()))

    def test_repr(self):
        lock = threading.Lock()
        assert repr(lock).startswith("<unlocked _thread.lock object at 0x")
        with lock:
            assert repr(lock).startswith("<locked _thread.lock object at 0x")


class TestOwner:
    def test_rlock_is_a_greens_own(self, arun):
        async def main():
            lock, inside = threading.RLock(), []

            def work():
                with lock, lock:
                    inside.append(1)
                    time.sleep(0.01)
                    assert inside == [1]
                    inside.pop()

            await asyncio.gather(*(to_greenlet(work) for _ in range(5)))

        arun(main)

    def test_another_may_not_release_it(self, arun):
        async def main():
            lock = threading.RLock()
            holding = spawn(lambda: (lock.acquire(), time.sleep(0.05), lock.release()))
            await turns()
            for release in (to_greenlet(lock.release), asyncio.to_thread(lock.release)):
                with pytest.raises(RuntimeError, match="un-acquired"):
                    await release
            await holding

        arun(main)

    def test_repr_when_its_owner_had_to_wait_for_it(self, arun):
        """A green's repr shows what it waits for: that must not show its owner in full again."""

        async def main():
            lock, seen = threading.RLock(), []

            def work():
                with lock:
                    seen.append(repr(lock))
                    time.sleep(0.001)

            await asyncio.gather(*(to_greenlet(work) for _ in range(2)))
            assert all(shown.startswith("<locked _thread.RLock object owner=<Green at 0x") for shown in seen)

        arun(main)

    @pytest.mark.native_tasks("a lock that is held elsewhere in the thread parks async code there")
    def test_native_code_is_told_that_it_would_wait_for_its_own_thread(self, arun):
        async def main():
            lock = threading.RLock()
            holding = spawn(lambda: (lock.acquire(), time.sleep(0.5), lock.release()))
            await turns()
            with pytest.raises(RuntimeError, match="held by a greenlet of this very thread"):
                lock.acquire()
            assert not lock.acquire(False)
            assert not lock.acquire(timeout=0.01)
            await holding
            with lock:
                pass

        arun(main)


class TestGivingUp:
    def test_cancelled_waiter_leaves_the_queue(self, arun, make):
        async def main():
            lock, got = make(), []

            def work(number):
                with lock:
                    got.append(number)
                    time.sleep(0.01)

            tasks = [spawn(work, i) for i in range(5)]
            await turns()
            tasks[2].cancel()
            results = await ended(*tasks)
            assert [type(result) for result in results].count(asyncio.CancelledError) == 1
            assert got == [0, 1, 3, 4]
            assert lock.acquire(False)
            lock.release()

        arun(main)

    @pytest.mark.parametrize("early", [True, False], ids=["cancelled first", "released first"])
    def test_cancelled_in_the_turn_of_its_release(self, arun, early):
        async def main():
            lock = threading.Lock()
            lock.acquire()
            first, second = spawn(lock.acquire), spawn(lock.acquire)
            await turns()
            if early:
                first.cancel()
            lock.release()
            first.cancel()
            results = await asyncio.gather(asyncio.wait({first}), asyncio.wait({second}, timeout=0.1))
            assert results
            if first.cancelled() and not second.done():
                assert lock.locked()  # it got the lock and a cancellation: as in native code, it is for it to release
                lock.release()
            await asyncio.wait_for(second, 5)
            lock.release()

        arun(main)

    def test_timeouts_in_the_turn_of_a_release(self, arun):
        """Deadlines and releases that fall together lose no turn."""

        async def main():
            lock = threading.Lock()
            counts = {True: 0, False: 0}

            def work(seconds):
                got = lock.acquire(True, seconds)
                counts[got] += 1
                if got:
                    time.sleep(0.001)
                    lock.release()

            random.seed(1)
            await asyncio.gather(*(to_greenlet(work, 0.001 + random.random() * 0.03) for _ in range(50)))
            assert counts[True] >= 1
            assert sum(counts.values()) == 50
            assert lock.acquire(False)

        arun(main)

    def test_greenio_timeout(self, arun, make):
        async def main():
            lock = make()

            def hold():
                with lock:
                    time.sleep(0.1)

            def work():
                with pytest.raises(TimeoutError), timeout(0.02):
                    lock.acquire()
                assert lock.acquire()
                lock.release()

            await asyncio.gather(to_greenlet(hold), to_greenlet(work))

        arun(main)

    def test_loop_that_closes(self, loop_kind):
        lock = threading.Lock()
        lock.acquire()
        loop = new_loop(loop_kind)
        kept = []

        def work():
            try:
                lock.acquire()
            except asyncio.CancelledError:
                kept.append("cancelled")
                raise

        async def main():
            kept.append(spawn(work))
            await turns()

        loop.run_until_complete(main())
        loop.close()
        assert kept[1:] == ["cancelled"]
        lock.release()
        assert lock.acquire(False)
        kept.clear()
        gc.collect()


class TestFromAnywhere:
    def test_release_in_a_thread_wakes_a_loop_that_sleeps(self, arun):
        async def main():
            lock = threading.Lock()
            lock.acquire()
            waiting = spawn(lock.acquire)
            await turns()
            threading.Timer(0.05, lock.release).start()
            await asyncio.wait_for(waiting, 5)

        arun(main)

    def test_release_in_a_coroutine(self, arun):
        async def main():
            lock = threading.Lock()
            lock.acquire()
            waiting = spawn(lock.acquire)
            await turns()
            lock.release()
            await asyncio.wait_for(waiting, 5)

        arun(main)

    @pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
    def test_a_loop_that_does_not_run_holds_nobody_up(self, loop_kind, make):
        """Its green is the first in the queue, but cannot take its turn before the loop runs again."""
        lock = make()
        stalled, running = new_loop(loop_kind), new_loop(loop_kind)
        got = []

        def take(name):
            with lock:
                got.append(name)

        async def start():
            waiting = spawn(take, "stalled")
            await turns()
            return waiting

        async def pass_by():
            second = spawn(take, "second")
            await turns()
            running.call_soon(lock.release)  # natively, as it was acquired
            await asyncio.wait_for(asyncio.gather(second, to_greenlet(take, "third")), 10)

        try:
            lock.acquire()
            first = stalled.run_until_complete(start())
            running.run_until_complete(pass_by())
            assert got == ["second", "third"]
            stalled.run_until_complete(asyncio.wait_for(first, 10))
            assert got == ["second", "third", "stalled"]
        finally:
            finish(stalled)
            finish(running)

    @pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there are no timers here")
    def test_release_in_a_signal_handler(self, arun):
        async def main():
            lock = threading.Lock()
            lock.acquire()
            waiting = spawn(lock.acquire)
            await turns()
            before = signal.signal(signal.SIGALRM, lambda *_: lock.release())
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.05)
                await asyncio.wait_for(waiting, 5)
            finally:
                signal.signal(signal.SIGALRM, before)

        arun(main)

    def test_release_in_a_finalizer(self, arun):
        class Releases:
            def __init__(self, lock):
                self.lock = lock
                self.ring = self

            def __del__(self):
                self.lock.release()

        async def main():
            lock = threading.Lock()
            lock.acquire()
            Releases(lock)
            waiting = spawn(lock.acquire)
            await turns()
            await asyncio.to_thread(gc.collect)
            await asyncio.wait_for(waiting, 5)

        arun(main)

    def test_asyncio_waits_for_what_a_green_holds(self, arun):
        """Native waiters and greens take turns on one lock."""

        async def main():
            lock, got = threading.Lock(), []

            def native():
                with lock:
                    got.append("native")

            def green():
                with lock:
                    time.sleep(0.05)
                    got.append("green")

            holding = spawn(green)
            await turns()
            await asyncio.gather(asyncio.to_thread(native), holding)
            assert got == ["green", "native"]

        arun(main)

    def test_after_a_fork(self, arun):
        """In a child the parent's greens are no waiters any more."""

        async def main():
            lock = threading.Lock()
            lock.acquire()
            waiting = [spawn(lock.acquire) for _ in range(2)]
            await turns()
            child = os.fork()
            if not child:
                code = 1
                try:
                    lock.release()
                    assert lock.acquire(timeout=5)
                    assert not lock.acquire(timeout=0.01)
                    lock.release()
                    lock._at_fork_reinit()

                    def in_green():
                        for _ in range(3):
                            with lock:
                                time.sleep(0.001)

                    async def again():
                        await asyncio.gather(*(to_greenlet(in_green) for _ in range(3)))

                    thread = threading.Thread(target=lambda: asyncio.run(again()))
                    thread.start()
                    thread.join(10)
                    code = thread.is_alive()
                finally:
                    os._exit(code)
            _, status = await asyncio.to_thread(os.waitpid, child, 0)
            assert status == 0
            for task in waiting:
                lock.release()
                await asyncio.wait_for(task, 5)

        arun(main)


class TestConditions:
    def test_notify_from_everywhere(self, arun, make):
        async def main():
            condition, seen = threading.Condition(make()), []

            def wait(number):
                with condition:
                    assert condition.wait(10)
                    seen.append(number)

            def notify(count):
                with condition:
                    condition.notify(count)

            greens = [spawn(wait, i) for i in range(4)]
            await turns()
            threads = [asyncio.ensure_future(asyncio.to_thread(wait, i)) for i in range(4, 6)]
            await asyncio.sleep(0.05)
            await to_greenlet(notify, 2)
            await asyncio.wait_for(asyncio.gather(*greens[:2]), 5)
            assert sorted(seen) == [0, 1]
            await asyncio.to_thread(notify, 2)
            await asyncio.wait_for(asyncio.gather(*greens[2:]), 5)
            notify(9)
            await asyncio.wait_for(asyncio.gather(*threads), 5)

        arun(main)

    def test_asking_for_the_owner_costs_no_attempt(self):
        """`notify` asks each time: a queue asks twice for an item, and native threads are not to pay for it."""
        lock = threading.Lock()
        ask = threading.Condition(lock)._is_owned
        assert type(ask) is type(len)
        assert not ask()
        with lock:
            assert ask()
        lock._at_fork_reinit()
        assert not ask()

    def test_timeout(self, arun):
        async def main():
            condition = threading.Condition()

            def wait(seconds):
                with condition:
                    began = time.monotonic()
                    assert condition.wait(seconds) is False
                    assert max(0, seconds) <= time.monotonic() - began < 10
                    assert not condition._waiters

            for seconds in (0.05, 0, -1):
                await to_greenlet(wait, seconds)

        arun(main)

    def test_cancelled_after_its_notification_passes_it_on(self, arun):
        async def main():
            condition, woken = threading.Condition(), []

            def wait(number):
                with condition:
                    condition.wait(5)
                    woken.append(number)

            first, second = spawn(wait, 0), spawn(wait, 1)
            await turns()
            first.cancel()
            with condition:
                condition.notify()  # chooses the first, which is about to be cancelled
            await asyncio.wait({first, second}, timeout=2, return_when=asyncio.ALL_COMPLETED)
            assert first.cancelled()
            assert second.done()
            assert woken == [1]

        arun(main)

    def test_cancelled_waiter_holds_the_lock_again(self, arun, make):
        async def main():
            condition, inside = threading.Condition(make()), []

            def wait():
                with condition:
                    try:
                        condition.wait()
                    finally:
                        inside.append("waiter")
                        time.sleep(0.01)
                        assert inside.pop() == "waiter"

            def hold():
                with condition:
                    inside.append("holder")
                    time.sleep(0.05)
                    assert inside.pop() == "holder"

            waiting = spawn(wait)
            await turns()
            holding = spawn(hold)
            await turns()
            for _ in range(3):
                waiting.cancel()
                await asyncio.sleep(0.005)
            results = await ended(waiting, holding)
            assert isinstance(results[0], asyncio.CancelledError)
            assert results[1] is None

        arun(main)

    def test_older_than_the_patch(self, arun):
        async def main():
            monkey.unpatch_all()
            made = threading.Condition(), threading.Event(), threading.Semaphore(0), threading.Barrier(2)
            with monkey.patched():
                condition, event, semaphore, barrier = made

                def wait():
                    with condition:
                        return condition.wait(5)

                def notify():
                    with condition:
                        condition.notify()

                tasks = [spawn(wait), spawn(event.wait, 5), spawn(semaphore.acquire), spawn(barrier.wait, 5)]
                await turns()
                await to_greenlet(notify)
                event.set()
                semaphore.release()
                results = await asyncio.wait_for(asyncio.gather(*tasks, to_greenlet(barrier.wait, 5)), 10)
                assert results[:3] == [True] * 3
                assert sorted(results[3:]) == [0, 1]

        arun(main)

    def test_event_wakes_everybody(self, arun):
        async def main():
            event = threading.Event()
            waiting = [spawn(event.wait, 10) for _ in range(200)]
            threads = [asyncio.ensure_future(asyncio.to_thread(event.wait, 10)) for _ in range(3)]
            await asyncio.sleep(0.05)
            await asyncio.to_thread(event.set)
            assert await asyncio.wait_for(asyncio.gather(*waiting, *threads), 10) == [True] * 203

        arun(main)

    @pytest.mark.parametrize("where", ["a thread", "a green", "a callback"])
    def test_event_wakes_ten_thousand(self, arun, where):
        async def main():
            event = threading.Event()
            waiting = [spawn(event.wait) for _ in range(10_000)]
            await until_parked(10_000)
            if where == "a thread":
                await asyncio.to_thread(event.set)
            elif where == "a green":
                await to_greenlet(event.set)
            else:
                asyncio.get_running_loop().call_soon(event.set)
            assert all(await asyncio.wait_for(asyncio.gather(*waiting), 50))
            assert not event._cond._waiters

        arun(main)

    @pytest.mark.parametrize("kind", [threading.Semaphore, threading.BoundedSemaphore])
    def test_semaphore(self, arun, kind):
        async def main():
            semaphore, inside, most = kind(3), [], []

            def work(number):
                with semaphore:
                    inside.append(number)
                    most.append(len(inside))
                    time.sleep(0.002)
                    inside.remove(number)

            await asyncio.gather(*(to_greenlet(work, i) for i in range(20)))
            assert max(most) == 3
            tasks = [spawn(work, i) for i in range(10)]
            await turns()
            tasks[5].cancel()
            await ended(*tasks)
            assert all(semaphore.acquire(False) for _ in range(3))
            assert not semaphore.acquire(False)

        arun(main)

    def test_giving_back_is_not_lost_to_a_cancellation(self, arun):
        """`finally: semaphore.release()` never fails in native code, so nobody is prepared for it."""

        async def main():
            semaphore, event, shared = threading.BoundedSemaphore(1), threading.Event(), queue.Queue()
            semaphore.acquire()
            shared.put("item")
            shared.get()
            calls = (
                (semaphore._cond, semaphore.release, lambda: semaphore.acquire(False)),
                (event._cond, event.set, event.is_set),
                (shared.mutex, shared.task_done, lambda: not shared.unfinished_tasks),
            )
            for mutex, give, given in calls:

                def hold(mutex=mutex):
                    with mutex:
                        time.sleep(0.02)

                holding = spawn(hold)
                await turns()
                giving = spawn(give)
                await turns()
                giving.cancel()
                results = await ended(giving, holding)
                assert isinstance(results[0], asyncio.CancelledError)
                assert given()

        arun(main)


class TestThreads:
    def test_join(self, arun):
        async def main():
            thread = threading.Thread(target=native_sleep, args=(0.4,))
            thread.start()
            began = time.monotonic()
            await to_greenlet(thread.join, 0.01)
            assert thread.is_alive()
            await to_greenlet(thread.join, -1)
            ticks = []

            async def beat():
                while thread.is_alive():
                    ticks.append(await asyncio.sleep(0.01))

            await asyncio.gather(*(to_greenlet(thread.join) for _ in range(5)), beat())
            assert not thread.is_alive()
            assert 0.39 < time.monotonic() - began < 10
            assert len(ticks) > 2
            await to_greenlet(thread.join)

        arun(main)

    def test_join_of_what_cannot_be_joined(self, arun):
        async def main():
            with pytest.raises(RuntimeError, match="before it is started"):
                await to_greenlet(threading.Thread().join)
            with pytest.raises(RuntimeError, match="join current thread"):
                await to_greenlet(threading.current_thread().join)

        arun(main)

    def test_a_thread_is_a_thread(self, arun):
        async def main():
            seen = []

            def work():
                thread = threading.Thread(target=lambda: seen.append((threading.get_ident(), asyncio.run(inner()))))
                thread.start()
                thread.join()

            async def inner():
                await asyncio.sleep(0.001)
                return threading.current_thread() is not threading.main_thread()

            await to_greenlet(work)
            assert seen[0][0] != threading.get_ident()
            assert seen[0][1] is True

        arun(main)

    def test_start_does_not_park(self, arun):
        """A lock that is older than the patch may be held around it, as concurrent.futures does."""

        async def main():
            old = monkey.original("_thread", "allocate_lock")()

            def work():
                with old:
                    thread = threading.Thread(target=native_sleep, args=(0.001,))
                    thread.start()
                thread.join()
                assert not vars(thread._started).keys() & {"set", "wait"}

            await asyncio.gather(*(to_greenlet(work) for _ in range(10)))

        arun(main)

    def test_start_that_fails(self, arun):
        async def main():
            def work():
                with pytest.raises(RuntimeError, match="not called"):
                    type("Unmade", (threading.Thread,), {"__init__": lambda self: None})().start()
                thread = threading.Thread(target=int)
                thread.start()
                with pytest.raises(RuntimeError, match="once"):
                    thread.start()
                thread.join()

            await to_greenlet(work)

        arun(main)

    def test_executor_and_futures(self, arun):
        async def main():
            def work():
                with concurrent.futures.ThreadPoolExecutor(2) as pool:
                    jobs = [pool.submit(native_sleep, 0.01) for _ in range(4)]
                    assert len(list(concurrent.futures.as_completed(jobs, timeout=10))) == 4
                    done, not_done = concurrent.futures.wait(jobs, timeout=10)
                    assert (len(done), len(not_done)) == (4, 0)
                    with pytest.raises(concurrent.futures.TimeoutError):
                        pool.submit(native_sleep, 0.1).result(0.01)
                    assert list(pool.map(abs, [-1, -2])) == [1, 2]

            await asyncio.wait_for(asyncio.gather(*(to_greenlet(work) for _ in range(5))), 30)

        arun(main)

    def test_future_of_the_own_loop(self, arun):
        """`run_coroutine_threadsafe` in green code: a plain deadlock anywhere else."""

        async def main():
            loop = asyncio.get_running_loop()

            def work():
                return asyncio.run_coroutine_threadsafe(asyncio.sleep(0.01, "done"), loop).result(5)

            assert await to_greenlet(work) == "done"

        arun(main)

    def test_await_under_a_lock(self, arun, make):
        async def main():
            lock = make()

            def work():
                with lock:
                    await_(asyncio.sleep(0.001))

            await asyncio.gather(*(to_greenlet(work) for _ in range(10)))

        arun(main)

    def test_lock_in_driven_coroutine(self, arun, make):
        async def main():
            lock = make()

            async def work():
                with lock:
                    await asyncio.sleep(0.001)
                    time.sleep(0.001)

            await asyncio.gather(*(to_greenlet(work) for _ in range(10)))

        arun(main)


def test_made_before_and_after():
    assert threading.Lock is not NATIVE[0]
    lock, condition = threading.Lock(), threading.Condition()
    monkey.unpatch_all()
    assert type(threading.Lock()) is type(NATIVE[0]())
    with lock, condition:
        assert lock.locked()
    with monkey.patched("threading"):
        assert isinstance(threading.Lock(), type(lock))


def by_get(seconds):
    shared = queue.Queue()
    return lambda: shared.get(timeout=seconds), lambda: shared.put(1)


def by_put(seconds):
    shared = queue.Queue(1)
    shared.put(0)
    return lambda: shared.put(1, timeout=seconds), shared.get_nowait


def by_acquire(seconds):
    semaphore = threading.Semaphore(0)
    return lambda: semaphore.acquire(timeout=seconds), semaphore.release


def by_wait_for(seconds):
    condition, permits = threading.Condition(), []

    def take():
        with condition:
            assert condition.wait_for(lambda: permits and permits.pop(), seconds)

    def give():
        with condition:
            permits.append("one")
            condition.notify_all()

    return take, give


def by_futures(seconds):
    awaited = [concurrent.futures.Future() for _ in range(2)]

    def take():
        assert not concurrent.futures.wait(awaited, seconds).not_done

    return take, lambda: next(future for future in awaited if not future.done()).set_result(None)


@pytest.mark.parametrize("seconds", [None, 30])
@pytest.mark.parametrize("make_both", [by_get, by_put, by_acquire, by_wait_for, by_futures])
def test_unpatched_while_greens_wait(arun, make_both, seconds):
    """One call may wait several times: none of its waits may hold the loop."""

    async def main():
        take, give = make_both(seconds)
        waiting = [spawn(take) for _ in range(2)]
        await until_parked(2)
        monkey.unpatch_all()
        assert not hasattr(threading.Condition.wait, "__wrapped__")
        helped = []

        def help_out():
            helped.append("the loop was held")
            give()
            give()

        helper = threading.Timer(5, help_out)
        helper.start()
        try:
            for _ in range(2):
                give()
                await turns(20)
            await asyncio.wait_for(asyncio.gather(*waiting), 20)
        finally:
            helper.cancel()
            helper.join()
        assert not helped

    arun(main)


def test_conditions_keep_their_wait_until_the_next_patch(arun):
    async def main():
        used, unused = queue.Queue(), queue.Queue()
        waiting = spawn(used.get)
        await until_parked()
        monkey.unpatch_all()
        used.put("one")
        assert await asyncio.wait_for(waiting, 5) == "one"
        assert "wait" in vars(used.not_empty)
        assert "wait" not in vars(unused.not_empty)
        for _ in range(2):
            with monkey.patched():
                assert "wait" not in vars(used.not_empty)
            assert "wait" not in vars(used.not_empty)

    arun(main)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the method is newer")
def test_recursion_count():
    lock = threading.RLock()
    with lock, lock:
        assert lock._recursion_count() == 2
    assert lock._recursion_count() == 0


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there are no timers here")
class TestRLockInSignalHandlers:
    """A handler runs in the midst of what its thread does, so of an acquire or a release of the very lock it takes."""

    @staticmethod
    @contextlib.contextmanager
    def alarms(handler):
        """Have it called every 0.1 ms, in its own midst too, but three deep at most: slow machines find no end."""
        depth, over = 0, False

        def ring(*args):
            nonlocal depth
            depth += 1
            if depth < 3 and not over:
                signal.setitimer(signal.ITIMER_REAL, 0.0001)
            try:
                handler(*args)
            finally:
                depth -= 1
                if not over:
                    signal.setitimer(signal.ITIMER_REAL, 0.0001)

        before = signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, 0.0005)
        try:
            yield
        finally:
            over = True
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    def check(self, lock):
        """Take and release a lock many times, while a handler does the same; an attempt that fails says so."""
        failed, handled = [], []

        def handler(*_):
            if not lock.acquire(timeout=5):
                failed.append("the handler did not get its own thread's lock")
                return
            handled.append(1)
            lock.release()

        with self.alarms(handler):
            end = time.monotonic() + 10
            while len(handled) < 1000 and not failed and time.monotonic() < end:
                for _ in range(50):
                    with lock:
                        pass
                    lock.acquire()
                    lock.release()
        assert not failed
        assert len(handled) > 100
        assert not lock._recursion_count() if hasattr(lock, "_recursion_count") else not lock._is_owned()
        with lock:
            assert "count=1" in repr(lock)
        assert "count=0" in repr(lock)

    def test_native(self, patched):
        self.check(threading.RLock())

    def test_green(self, arun, patched):
        async def main():
            await to_greenlet(self.check, threading.RLock())

        arun(main)

    def test_an_exception_leaves_no_place_in_the_queue(self, patched):
        """A native thread that a handler throws out of its wait does not keep the wake-up that was meant for it."""

        class Stop(Exception):
            pass

        def handler(*_):
            raise Stop

        lock = threading.RLock()
        held, go, got = threading.Event(), threading.Event(), []

        def hold():
            with lock:
                held.set()
                go.wait(10)

        def next_in_line():
            got.append(lock.acquire(timeout=10))
            lock.release()

        holder = threading.Thread(target=hold)
        holder.start()
        assert held.wait(10)
        before = signal.signal(signal.SIGALRM, handler)
        try:
            with pytest.raises(Stop):
                signal.setitimer(signal.ITIMER_REAL, 0.1)  # more than enough to get to sleep; before that will do, too
                lock.acquire()
        finally:
            signal.signal(signal.SIGALRM, before)
        other = threading.Thread(target=next_in_line)
        other.start()
        go.set()
        holder.join(10)
        other.join(10)
        assert got == [True]


def test_native_threads_exclude_one_another(patched):
    """Where many threads want an RLock, each has it for itself, and one that gives up takes nobody's turn away."""
    lock, inside, entered, gave_up = threading.RLock(), [], [], []

    def work(timeout):
        for _ in range(200):
            if not lock.acquire(timeout=timeout):
                gave_up.append(1)
                continue
            with lock:
                inside.append(1)
                assert len(inside) == 1
                time.sleep(0)
                inside.pop()
                entered.append(1)
            lock.release()

    threads = [threading.Thread(target=work, args=(timeout,)) for timeout in [30, 30, 30, 0.00001, 0.0005, 0.002]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(entered) + len(gave_up) == 1200
    assert len(entered) >= 600
    assert "unlocked" in repr(lock)


def until_blocked(threads):
    """Wait until each thread is in the native call that waits for a lock."""
    while not all(sys._current_frames()[thread.ident].f_code.co_name == "_take" for thread in threads):
        time.sleep(0.001)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_the_child_wakes_its_own_threads(patched):
    """Threads that waited for an RLock when the process forked are not in the child, and take nobody's turn there."""
    lock = threading.RLock()
    lock.acquire()
    waiting = [threading.Thread(target=lambda: lock.acquire() and lock.release()) for _ in range(3)]
    for thread in waiting:
        thread.start()
    until_blocked(waiting)
    number = os.fork()
    if not number:
        got = []
        thread = threading.Thread(target=lambda: got.append(lock.acquire(timeout=20)))
        thread.start()
        until_blocked([thread])
        lock.release()
        thread.join(20)
        os._exit(7 if got == [True] else 99)
    try:
        assert os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]) == 7
    finally:
        lock.release()
        for thread in waiting:
            thread.join(10)


@pytest.mark.parametrize("kind", [threading.RLock, "old"])
@pytest.mark.parametrize("where", ["green", "native"])
def test_a_signal_handler_at_every_instruction(arun, patched, kind, where):
    """Who takes and releases the lock is interrupted by itself, in the midst of either, and each time again."""
    lock = PassableRLock() if kind == "old" else threading.RLock()
    calls = {f"greenio._sync.{name}" for name in ("_locks", "_old", "_waiting")}
    interrupted = set()

    def work(at):
        seen = 0

        def handle(frame, event, _):
            nonlocal seen
            if frame.f_globals.get("__name__") not in calls:
                return None
            frame.f_trace_opcodes = True
            if event == "opcode":
                seen += 1
                if seen == at:
                    interrupted.add(frame.f_code.co_name)
                    sys.settrace(None)
                    for _ in range(2):
                        assert lock.acquire(timeout=5)
                    lock.release()
                    lock.release()
            return handle

        sys.settrace(handle)
        try:
            assert lock.acquire()
            with lock:
                pass
            lock.release()
        finally:
            sys.settrace(None)
        assert not lock._is_owned() and not lock.locked()
        return seen < at

    async def main():
        work(0)  # CPython 3.12 tells of instructions only from the second time on that somebody asks it to
        for at in itertools.count(1):
            if await to_greenlet(work, at) if where == "green" else work(at):
                break
        assert {"acquire", "release"} <= interrupted
        assert await asyncio.to_thread(lock.acquire, False)

    arun(main)


class Interrupted:
    """The native lock inside another, with what a handler or a finalizer does before or after a call of it."""

    def __init__(self, lock, name, *, before=None, after=None):
        self._native, self._name = lock._lock, name
        self._before, self._after = before, after
        lock._lock = self

    def __repr__(self):
        return repr(self._native)

    def __getattr__(self, name):
        call = getattr(self._native, name)
        if name != self._name:
            return call
        self._name = None  # once

        def interrupted(*args):
            if self._before is not None:
                self._before()
            found = call(*args)
            if self._after is not None:
                self._after()
            return found

        return interrupted


class Stop(Exception):
    pass


def stop():
    raise Stop


class TestInterrupted:
    """A handler or a finalizer comes in the midst of a call, and raises, or waits for something itself."""

    @pytest.fixture(params=["Lock", "RLock"])
    def make(self, request, patched):
        return getattr(threading, request.param)

    @pytest.mark.parametrize("where", ["green", "native"])
    def test_raises_after_the_release(self, arun, make, where):
        async def main():
            lock = make()

            def release():
                lock.acquire()
                time.sleep(0.01)
                interrupted_release()

            def interrupted_release():
                Interrupted(lock, "release", after=stop)
                with pytest.raises(Stop):
                    lock.release()

            def take():
                with lock:
                    time.sleep(0.001)
                return "had it"

            if where == "green":
                releasing = spawn(release)
                await turns()
                waiting = spawn(take)
                assert await releasing is None
            else:
                lock.acquire()
                waiting = spawn(take)
                await until_parked()
                interrupted_release()
            assert await asyncio.wait_for(waiting, 10) == "had it"

        arun(main)

    @pytest.mark.parametrize("side", ["before", "after"])
    @pytest.mark.parametrize("kind", ["Lock", "RLock", "old"])
    def test_parks_beside_the_native_acquire(self, arun, kind, side):
        async def main():
            lock, inside, seen = PassableRLock() if kind == "old" else getattr(threading, kind)(), [], []

            def work(name):
                with lock:
                    inside.append(name)
                    seen.append(len(inside))
                    time.sleep(0.005)
                    inside.remove(name)

            Interrupted(lock, "acquire", **{side: lambda: time.sleep(0.002)})
            await asyncio.wait_for(asyncio.gather(*(to_greenlet(work, n) for n in range(3))), 10)
            assert seen == [1, 1, 1]
            assert not lock.locked()

        arun(main)

    @pytest.mark.parametrize("kind", ["Lock", "RLock"])
    def test_takes_it_beside_the_native_release(self, arun, patched, kind):
        """Whoever waits has not been invited by then."""
        lock, order = getattr(threading, kind)(), []

        def take(name):
            with lock:
                order.append(name)

        def release():
            lock.acquire()
            time.sleep(0.01)
            Interrupted(lock, "release", after=lambda: take("inner"))
            lock.release()

        async def main():
            releasing = spawn(release)
            await turns()
            await asyncio.wait_for(asyncio.gather(releasing, to_greenlet(take, "first")), 10)
            assert sorted(order) == ["first", "inner"]

        arun(main)

    @pytest.mark.parametrize("kind", ["Lock", "RLock", "SimpleQueue"])
    def test_waits_in_the_midst_of_a_wait(self, arun, patched, monkeypatch, kind):
        shared = queue.SimpleQueue() if kind == "SimpleQueue" else getattr(threading, kind)()
        order = []

        def take(name):
            if kind == "SimpleQueue":
                shared.get()
            else:
                shared.acquire()
                shared.release()
            order.append(name)

        attempt = type(shared)._attempt_in_turn
        names = ["inner", "innermost"]

        def interrupted(self, waiter):
            found = attempt(self, waiter)
            if self is shared and names:
                take(names.pop(0))
            return found

        def give():
            if kind == "SimpleQueue":
                for item in range(4):
                    shared.put(item)
            else:
                shared.release()

        def hold():
            if kind != "SimpleQueue":
                shared.acquire()
            holding.set()
            time.sleep(0.02)
            give()

        async def main():
            held = asyncio.ensure_future(asyncio.to_thread(hold))
            await asyncio.to_thread(holding.wait)
            monkeypatch.setattr(type(shared), "_attempt_in_turn", interrupted)
            await asyncio.wait_for(asyncio.gather(to_greenlet(take, "outer"), to_greenlet(take, "next"), held), 10)
            assert order.index("innermost") < order.index("inner") < order.index("outer")
            assert sorted(order) == ["inner", "innermost", "next", "outer"]

        holding = threading.Event()
        arun(main)

    def test_a_library_greenlet_takes_it_beside_the_native_acquire(self, arun, patched):
        lock = threading.RLock()

        def take():
            assert lock.acquire(timeout=5)
            lock.release()
            return "had it"

        seen = []

        def work():
            Interrupted(lock, "acquire", after=lambda: seen.append(greenlet(take).switch()))
            with lock:
                return lock._is_owned()

        async def main():
            assert await to_greenlet(work)
            assert seen == ["had it"]
            assert not lock.locked()

        arun(main)


class Offered(RLock):
    """A lock that calls back in the thread that is about to accept it, and when that has."""

    __slots__ = ("accepted", "accepting")

    def _receive(self, offer, means):
        accepting, self.accepting = self.accepting, None
        if accepting is None:
            return super()._receive(offer, means)
        accepting()
        try:
            return super()._receive(offer, means)
        finally:
            self.accepted.release()


class TestOffers:
    """A lock is offered to a green of another thread, and somebody takes it once more meanwhile."""

    @pytest.fixture
    def lock(self, patched):
        lock = Offered()
        lock.accepting, lock.accepted = None, _original.allocate_lock()
        lock.accepted.acquire()
        return lock

    def offer(self, lock, accepting):
        """Let go of a lock that a green of another loop has missed once."""

        def take():
            with lock:
                return "had it"

        def other():
            loop = new_loop("asyncio")
            try:
                return loop.run_until_complete(asyncio.wait_for(to_greenlet(take), 10))
            finally:
                finish(loop)

        with concurrent.futures.ThreadPoolExecutor() as pool:
            with lock:
                found = pool.submit(other)
                while not lock._waiters or parked() == 0:
                    time.sleep(0.001)
                lock._waiters[0].missed = lock._is_missed = True
                lock.accepting = accepting
            return found.result(20)

    @pytest.mark.parametrize("where", ["green", "native"])
    def test_a_finalizer_of_who_accepts(self, arun, lock, where):
        taken = []

        def finalize():
            with lock:
                taken.append("had it")

        async def main():
            if where == "green":
                assert await to_greenlet(self.offer, lock, finalize) == "had it"
            else:
                assert await asyncio.to_thread(self.offer, lock, finalize) == "had it"
            assert taken == ["had it"]
            assert repr(lock).startswith("<unlocked")

        arun(main)

    @pytest.mark.parametrize("where", ["green", "native"])
    def test_a_handler_of_who_offers(self, arun, lock, where):
        inside = []
        entered = _original.allocate_lock()
        entered.acquire()

        def handler(*_):
            with lock:
                entered.release()
                inside.append(lock.accepted.acquire(timeout=10) and lock._is_owned())

        def interrupt():
            signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
            assert entered.acquire(timeout=10)

        async def main():
            before = signal.signal(signal.SIGUSR1, handler)
            try:
                if where == "green":
                    assert await to_greenlet(self.offer, lock, interrupt) == "had it"
                else:
                    assert self.offer(lock, interrupt) == "had it"
            finally:
                signal.signal(signal.SIGUSR1, before)
            assert inside == [True]
            assert repr(lock).startswith("<unlocked")
            assert lock.acquire(False)
            lock.release()

        arun(main)
