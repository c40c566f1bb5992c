"""Locks and queues that are older than the patch: exchanged where they have a name, and given back."""

from __future__ import annotations

import _thread
import asyncio
import concurrent.futures
import copy
import itertools
import os
import pickle
import queue
import sys
import threading
import time
from functools import cached_property, partial

import pytest

from greenio import _original, await_, monkey, spawn, to_greenlet
from greenio._patches import _threading
from greenio._sync import PassableRLock
from waiting import until, until_parked

NATIVE_LOCK, NATIVE_RLOCK = [_thread.LockType], [_thread.RLock]  # in containers, where a patch leaves them alone

lock_of_the_module = threading.Lock()
queue_of_the_module = queue.SimpleQueue()


class Holder:
    shared = threading.Lock()
    shared_queue = queue.SimpleQueue()

    def __init__(self):
        self.lock = threading.Lock()
        self.rlock = threading.RLock()
        self.condition = threading.Condition(threading.Lock())
        self.owned = threading.Condition()
        self.acquire = self.lock.acquire
        self.listed = [threading.Lock()]
        self.queue = queue.SimpleQueue()
        self.get = self.queue.get
        self.slotted, self.bare = Slotted(), Bare()


class Slotted:
    __slots__ = ("__private", "__weakref__", "empty")

    def __init__(self):
        self.__private = threading.Lock()

    @property
    def lock(self):
        return self.__private


class Bare:
    __slots__ = ("get", "lock")

    def __init__(self):
        self.lock = threading.Lock()
        self.get = queue.SimpleQueue().get


@pytest.fixture
def holder():
    return Holder()


def places(holder):
    kept = (holder.condition._lock, holder.slotted.lock, holder.bare.lock)
    return (lock_of_the_module, Holder.shared, holder.lock, holder.rlock, *kept)


def queues(holder):
    return (queue_of_the_module, Holder.shared_queue, holder.queue)


def use(lock, log):
    for _ in range(3):
        with lock:
            log.append("in")
            time.sleep(0.0005)
            log.append("out")


@pytest.mark.parametrize("place", ["module", "class", "lock", "rlock", "condition", "bound", "slot", "bare"])
def test_greens_and_threads_exclude_one_another(arun, holder, place):
    class Bound:
        def __enter__(self):
            holder.acquire()

        def __exit__(self, *args):
            holder.lock.release()

    async def main():
        with monkey.patched():
            names = ["module", "class", "lock", "rlock", "condition", "slot", "bare"]
            locks = dict(zip(names, places(holder), strict=True))
            lock = Bound() if place == "bound" else holder.condition if place == "condition" else locks[place]
            log = []
            tasks = [to_greenlet(use, lock, log) for _ in range(5)]
            tasks += [asyncio.to_thread(use, lock, log) for _ in range(2)]
            await asyncio.wait_for(asyncio.gather(*tasks), 30)
            assert log == ["in", "out"] * 21

    arun(main)


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="a cached property has no lock any more")
def test_cached_property(arun):
    calls = []

    class Owner:
        @cached_property
        def value(self):
            calls.append("begun")
            time.sleep(0.01)
            return "made"

    lock = vars(Owner)["value"].lock
    owner = Owner()

    async def main():
        with monkey.patched():
            tasks = [to_greenlet(lambda: owner.value) for _ in range(3)]
            tasks.append(asyncio.to_thread(lambda: owner.value))
            assert await asyncio.wait_for(asyncio.gather(*tasks), 30) == ["made"] * 4

    arun(main)
    assert calls == ["begun"]
    assert vars(Owner)["value"].lock is lock


def test_there_and_back(holder):
    before = places(holder), queues(holder)
    with monkey.patched():
        assert not any(type(lock) in (NATIVE_LOCK[0], NATIVE_RLOCK[0]) for lock in places(holder))
        assert isinstance(holder.lock, threading.Lock().__class__)
        assert all(isinstance(each, queue.SimpleQueue) for each in queues(holder))
        assert holder.get.__self__ is holder.queue
        assert isinstance(holder.bare.get.__self__, queue.SimpleQueue)
        assert not hasattr(holder.slotted, "empty")
    assert type(holder.bare.get.__self__) is queue.SimpleQueue
    assert all(new is old for new, old in zip(places(holder), before[0], strict=True))
    assert all(new is old for new, old in zip(queues(holder), before[1], strict=True))
    assert holder.acquire.__self__ is holder.lock
    assert holder.get.__self__ is holder.queue


def test_all_of_a_condition_goes_back_or_nothing(monkeypatch):
    """Whatever comes between its parts: the lock itself is in several places, as are its methods."""
    condition = threading.Condition()
    answers = itertools.cycle([True, False])
    with monkey.patched():
        assert isinstance(condition._lock, PassableRLock)
        with monkeypatch.context() as changed:
            changed.setattr(_threading._adoption, "_is_in_use", lambda _: next(answers))
            monkey.unpatch_all()
    parts = condition._lock, condition.acquire.__self__, condition.release.__self__, condition._is_owned.__self__
    assert len({type(part) for part in parts}) == 1
    with monkey.patched():
        pass
    assert type(condition._lock) is NATIVE_RLOCK[0]


@pytest.mark.parametrize("name", ["LockType", "lock"])
def test_type_of_locks(holder, name):
    """It is that of old and new locks, and of those that have an old one inside; and of nothing else."""
    if not hasattr(_thread, name):
        pytest.skip(f"there is no _thread.{name} here")
    native, raw = getattr(_thread, name), holder.listed[0]
    with monkey.patched():
        kind = getattr(_thread, name)
        locks = (raw, holder.lock, threading.Lock(), _thread.allocate_lock())
        assert [isinstance(lock, kind) for lock in locks] == [True] * 4
        assert not any(isinstance(each, kind) for each in (holder.rlock, threading.RLock(), holder.queue, None))
        assert repr(kind) == repr(native)
        assert kind.__name__ == native.__name__
    assert getattr(_thread, name) is native


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


def test_when_no_thread_can_be_started(arun, monkeypatch):
    """A green that cannot have a thread look after an old lock says so, and the next one tries again."""
    holder = Holder()
    old = holder.lock
    refuse = iter([True])

    def start(*args):
        if next(refuse, False):
            raise RuntimeError("can't start new thread")
        return native(*args)

    async def main():
        monkeypatch.setattr(_original, "start_new_thread", start)
        old.acquire()
        with pytest.raises(RuntimeError, match="start new thread"):
            await to_greenlet(holder.lock.acquire, timeout=0.05)
        waiting = asyncio.ensure_future(to_greenlet(holder.lock.acquire, timeout=10))
        await until_parked()
        begin = time.monotonic()
        old.release()
        assert await waiting
        assert time.monotonic() - begin < 5

    native = _original.start_new_thread
    with monkey.patched():
        arun(main)


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


@pytest.mark.parametrize("cycles", [0, 1, 3])
def test_what_is_in_use_when_it_is_unpatched_goes_back_the_next_time(arun, holder, cycles):
    before = holder.rlock, holder.condition._lock, holder.condition.acquire
    gate = asyncio.Event()

    def now():
        return holder.rlock, holder.condition._lock, holder.condition.acquire

    def wait():
        with holder.rlock:
            await_(gate.wait())
        with holder.condition:
            return holder.condition.wait(20)

    def notify():
        with holder.condition:
            holder.condition.notify()

    async def main():
        with monkey.patched():
            waiting = spawn(wait)
            await until_parked()
        assert now()[0] is not before[0]
        for _ in range(cycles):
            with monkey.patched():
                assert now()[0] is not before[0]
        with monkey.patched():
            gate.set()
            await until(lambda: holder.condition._waiters)
        assert now()[0] is before[0]
        assert now()[1] is not before[1]
        for _ in range(cycles):
            with monkey.patched():
                pass
        with monkey.patched():
            await to_greenlet(notify)
            assert await asyncio.wait_for(waiting, 20)
        assert now() == before

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
    assert not {text for _, text in found if text.startswith(f"{__name__}.Holder.queue")}
    assert not {text for _, text in found if text.startswith(("threading.", "importlib.", "greenio.", "asyncio."))}
    assert not {text for _, text in found if text.startswith(f"{__name__}.Holder.lock")}


class TestSimpleQueues:
    @pytest.mark.parametrize("place", ["module", "class", "instance", "bound"])
    @pytest.mark.parametrize("seconds", [None, 20])
    def test_put_by_way_of_either(self, arun, holder, place, seconds):
        """Items of threads that hold the old queue, and of those that find the new one; each arrives once, in order."""
        raw = dict(zip(["module", "class", "instance", "bound"], (*queues(holder), holder.queue), strict=True))[place]

        async def main():
            found = dict(zip(["module", "class", "instance"], queues(holder), strict=True)).get(place, holder.queue)
            get = holder.get if place == "bound" else found.get
            for put in (raw.put, found.put):
                waiting = [spawn(get, True, seconds) for _ in range(3)]
                await until_parked(3)
                await asyncio.sleep(0.02)  # the loop turns
                await asyncio.to_thread(lambda put=put: [put(number) for number in range(3)])
                assert await asyncio.wait_for(asyncio.gather(*waiting), 20) == [0, 1, 2]
            assert raw.empty()

        with monkey.patched():
            arun(main)

    def test_every_item_arrives_once(self, arun, holder):
        raw, got = holder.queue, []

        def produce(items, start):
            for number in range(start, start + 50):
                items.put(number)
                if number % 10 == 0:
                    time.sleep(0.002)

        def consume(items):
            while (item := items.get(timeout=20)) >= 0:
                got.append(item)

        async def main():
            consumers = [spawn(consume, holder.queue) for _ in range(5)]
            consumers += [asyncio.ensure_future(asyncio.to_thread(consume, raw)) for _ in range(2)]
            await asyncio.gather(
                *(asyncio.to_thread(produce, raw, start) for start in range(0, 200, 50)),
                *(to_greenlet(produce, holder.queue, start) for start in range(200, 400, 50)),
            )
            while not raw.empty():
                await asyncio.sleep(0.001)
            for _ in consumers:
                raw.put(-1)
            await asyncio.wait_for(asyncio.gather(*consumers), 30)
            assert sorted(got) == list(range(400))

        with monkey.patched():
            arun(main)

    def test_cancelled_and_timed_out_waiters_lose_nothing(self, arun, holder):
        raw = holder.queue

        async def main():
            for _ in range(3):
                first, second = spawn(holder.queue.get), spawn(holder.queue.get)
                await until_parked(2)
                with pytest.raises(queue.Empty):
                    await to_greenlet(holder.queue.get, True, 0.01)
                await asyncio.to_thread(raw.put, "item")
                first.cancel()
                done, _ = await asyncio.wait({first, second}, timeout=20, return_when=asyncio.ALL_COMPLETED)
                if first.cancelled():
                    assert await second == "item"
                else:
                    second.cancel()
                    assert await first == "item"
                await asyncio.wait({first, second}, timeout=20)
            assert raw.empty()

        with monkey.patched():
            arun(main)

    def test_unpatched_while_greens_wait(self, arun, holder):
        raw = holder.queue

        async def main():
            monkey.patch_all()
            waiting = [spawn(holder.queue.get) for _ in range(2)]
            await until_parked(2)
            monkey.unpatch_all()
            assert holder.queue is raw
            holder.queue.put(1)
            holder.queue.put(2)
            assert await asyncio.wait_for(asyncio.gather(*waiting), 20) == [1, 2]

        arun(main)

    @pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
    def test_forked_while_greens_wait(self, arun, holder):
        raw = holder.queue

        def child():
            raw.put("child's")
            assert holder.queue.get(timeout=20) == "child's"  # natively: nobody waits before it

            async def main():
                waiting = spawn(holder.queue.get)
                await until_parked()
                await asyncio.to_thread(raw.put, "another")  # a thread of the child's own looks for it
                return await asyncio.wait_for(waiting, 20)

            return asyncio.run(main()) == "another"

        def fork():
            number = os.fork()
            if number:
                return number
            code = 1
            try:
                code = 0 if child() else 2
            finally:
                os._exit(code)

        async def main():
            waiting = spawn(holder.queue.get)
            await until_parked()
            number = await asyncio.to_thread(fork)
            _, status = await asyncio.to_thread(os.waitpid, number, 0)
            assert os.waitstatus_to_exitcode(status) == 0
            raw.put("parent's")
            assert await asyncio.wait_for(waiting, 20) == "parent's"

        with monkey.patched():
            arun(main)

    def test_nobody_looks_when_nobody_waits(self, arun, holder):
        async def main():
            waiting = spawn(holder.queue.get)
            await until_parked()
            waiting.cancel()
            await asyncio.wait({waiting}, timeout=20)
            await until(lambda: holder.queue._watched < 0)

        with monkey.patched():
            arun(main)

    def test_the_queue_of_an_executor_is_left_alone(self, holder):
        class Pool(concurrent.futures.ThreadPoolExecutor):
            pass

        with concurrent.futures.ThreadPoolExecutor(1) as plain, Pool(1) as pool:
            before = [(each._work_queue, each._shutdown_lock) for each in (plain, pool)]
            pool.lock = threading.Lock()
            with monkey.patched():
                assert [(each._work_queue, each._shutdown_lock) for each in (plain, pool)] == before
                assert type(pool.lock) is not NATIVE_LOCK[0]
                assert pool.submit(int).result(20) == 0

    @pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps], ids=["copy", "deepcopy", "pickle"])
    def test_no_copies(self, holder, copied):
        for _ in range(2):
            with pytest.raises(TypeError, match="cannot pickle '_queue.SimpleQueue' object"):
                copied(holder.queue)
            with pytest.raises(TypeError, match="cannot pickle '_queue.SimpleQueue' object"):
                copied(queue.SimpleQueue())
            monkey.patch_all()
        monkey.unpatch_all()


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
