"""Cancel everywhere: each scenario runs once for every park that it makes, and is cancelled, or timed out, at that one.

Whatever it waits for there (a lock, a condition, a semaphore, a barrier, a queue, an event, a future, a thread), it
ends, nobody else hangs, nothing is left behind, and what was shared is free and whole. The others in a scenario are
greens of the same loop, or native threads.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, as_completed, wait
from typing import Any

import pytest

from conftest import Run
from each_park import acting_at
from greenio import _core, _original, get_loop, spawn, timeout, to_greenlet
from greenio._sync import _waiting
from waiting import parked, until

pytestmark = pytest.mark.usefixtures("patched")

SHORT = 0.001
"""Seconds that something is held, so that others have to wait for it. Nothing depends on who is quicker."""

MOST_PARKS = 30


class Scenario:
    """What is shared, the one that is disturbed, and the other, which is not.

    With `has_peer` there is one more that does what the victim does, and is not disturbed; so it has to come through.
    """

    has_peer = True

    def __init__(self) -> None:
        self.is_over = False
        self.has_begun = False
        self.has_victim = False

    def pause(self) -> None:
        """Hold on to something for a moment, in a green as in a thread."""
        self.has_begun = True
        time.sleep(SHORT)

    def await_victim(self) -> None:
        """Return when there is a victim that may have to wait."""
        self.has_begun = True
        while not self.has_victim:
            self.pause()
        self.pause()

    def victim(self) -> None:
        raise NotImplementedError

    def other(self) -> None:
        """Go on until `is_over`, or to the end of what the victim needs if it is left alone."""
        self.has_begun = True

    def stop(self) -> None:
        """Let the other end."""
        self.is_over = True

    def check(self) -> None:
        """Assert that everything is free and whole, in a green and natively."""


class Locks(Scenario):
    def __init__(self) -> None:
        super().__init__()
        self.locks: list[Any] = [threading.Lock(), threading.RLock()]
        self.inside = 0

    def victim(self) -> None:
        for _ in range(2):
            with self.locks[0]:
                assert not self.inside
                with self.locks[1], self.locks[1]:
                    self.pause()
            assert self.locks[1].acquire(timeout=10)
            try:
                self.pause()
            finally:
                self.locks[1].release()

    def other(self) -> None:
        while not self.is_over:
            with self.locks[0]:
                self.inside += 1
                with self.locks[1]:
                    self.pause()
                self.inside -= 1
            with self.locks[1]:
                self.pause()
            self.pause()

    def check(self) -> None:
        for lock in self.locks:
            assert lock.acquire(False)
            lock.release()
            assert not lock._waiters


class Conditions(Scenario):
    make_lock: Callable[[], Any] = staticmethod(lambda: threading.Lock())

    def __init__(self) -> None:
        super().__init__()
        self.condition = threading.Condition(self.make_lock())
        self.count = 0

    def victim(self) -> None:
        with self.condition:
            self.condition.wait()
            seen = self.count
            assert self.condition.wait_for(lambda: self.count > seen + 1, timeout=10)
            self.pause()
        with self.condition:
            assert self.condition.wait(10)

    def other(self) -> None:
        while not self.is_over:
            with self.condition:
                self.count += 1
                self.condition.notify()
                self.pause()
            self.pause()

    def check(self) -> None:
        assert self.condition.acquire(False)
        self.condition.release()
        assert not self.condition._waiters  # type: ignore[attr-defined]


class RConditions(Conditions):
    make_lock = staticmethod(lambda: threading.RLock())


class Semaphores(Scenario):
    def __init__(self) -> None:
        super().__init__()
        self.semaphore = threading.BoundedSemaphore(1)

    def victim(self) -> None:
        for _ in range(2):
            with self.semaphore:
                self.pause()
            if self.semaphore.acquire(timeout=10):
                try:
                    self.pause()
                finally:
                    self.semaphore.release()

    def other(self) -> None:
        while not self.is_over:
            with self.semaphore:
                self.pause()
            self.pause()

    def check(self) -> None:
        assert self.semaphore.acquire(False)
        self.semaphore.release()
        assert not self.semaphore._cond._waiters  # type: ignore[attr-defined]


class Barriers(Scenario):
    """A cancelled party is missing, as one that was interrupted is in native code: the rest has to be told."""

    ROUNDS = 3
    has_peer = False

    def __init__(self) -> None:
        super().__init__()
        self.barrier = threading.Barrier(2)

    def victim(self) -> None:
        for _ in range(self.ROUNDS):
            self.barrier.wait()
            self.pause()

    def other(self) -> None:
        self.has_begun = True
        try:
            for number in range(self.ROUNDS):
                self.barrier.wait()
                if number:  # once the victim comes last, then the other
                    time.sleep(3 * SHORT)
        except threading.BrokenBarrierError:
            assert self.is_over

    def stop(self) -> None:
        super().stop()
        self.barrier.abort()

    def check(self) -> None:
        assert not self.barrier.n_waiting
        self.barrier.reset()
        assert not self.barrier.broken
        condition = self.barrier._cond  # type: ignore[attr-defined]
        assert condition.acquire(False)
        condition.release()
        assert not condition._waiters


class Queues(Scenario):
    """Bounded both ways: what one puts in, the other takes out, and nothing is lost or given twice."""

    make_queue: Callable[[int], Any] = staticmethod(lambda size: queue.Queue(size))
    COUNT = 3

    def __init__(self) -> None:
        super().__init__()
        self.there = self.make_queue(1)
        self.back = self.make_queue(4)  # a victim may leave what is meant for it
        self.sent = self.arrived = self.returned = self.got = 0

    def victim(self) -> None:
        for _ in range(self.COUNT):
            self.there.put(1)
            self.sent += 1
            self.there.put(1, timeout=10)
            self.sent += 1
            assert self.back.get() == 1
            self.got += 1
            assert self.back.get(timeout=10) == 1
            self.got += 1

    def other(self) -> None:
        self.has_begun = True
        while not self.is_over:
            for _ in range(2):
                if self.there.get() is None:
                    return
                self.arrived += 1
            self.pause()
            for _ in range(2):
                self.back.put(1)
                self.returned += 1

    def stop(self) -> None:
        super().stop()
        for shared in (self.there, self.back):
            shared.maxsize = 1000  # room for everything from now on
        with self.back.not_full:
            self.back.not_full.notify_all()
        self.there.put(None)

    def check(self) -> None:
        left = [self.there.get_nowait() for _ in range(self.there.qsize())]
        assert left.count(1) + self.arrived == self.sent
        for item in left:
            self.there.put(item)  # it is checked twice
        assert self.got + self.back.qsize() == self.returned
        for shared in (self.there, self.back):
            assert shared.mutex.acquire(False)
            shared.mutex.release()
            assert not shared.not_empty._waiters
            assert not shared.not_full._waiters


class SimpleQueues(Queues):
    make_queue = staticmethod(lambda _: queue.SimpleQueue())

    def stop(self) -> None:
        self.is_over = True
        self.there.put(None)

    def check(self) -> None:
        left = [self.there.get_nowait() for _ in range(self.there.qsize())]
        assert left.count(1) + self.arrived == self.sent
        for item in left:
            self.there.put(item)  # it is checked twice
        assert self.got + self.back.qsize() == self.returned
        assert not self.there._waiters
        assert not self.back._waiters


class Joins(Scenario):
    """`Queue.join`, and `task_done` where the queue's own lock has to be waited for: it is never lost."""

    has_peer = False

    def __init__(self) -> None:
        super().__init__()
        self.shared: queue.Queue[int] = queue.Queue()
        self.done = 0

    def victim(self) -> None:
        self.shared.put(1)
        self.shared.join()
        self.shared.put(2)
        self.shared.get()
        try:
            self.shared.task_done()
        finally:
            self.done += 1

    def other(self) -> None:
        while not self.is_over:
            with self.shared.mutex:
                self.pause()
            self.pause()
            try:
                self.shared.get_nowait()
            except queue.Empty:
                continue
            self.shared.task_done()

    def check(self) -> None:
        while self.shared.qsize():
            self.shared.get()
            self.shared.task_done()
        assert self.shared.unfinished_tasks in (
            0,
            1,
        )  # cancelled between `get` and `task_done`, which is its own affair
        assert self.shared.mutex.acquire(False)
        self.shared.mutex.release()
        assert not self.shared.all_tasks_done._waiters  # type: ignore[attr-defined]


class Events(Scenario):
    def __init__(self) -> None:
        super().__init__()
        self.events = [threading.Event() for _ in range(3)]

    def victim(self) -> None:
        self.events[0].wait()
        assert self.events[1].wait(10)
        self.events[2].set()
        self.events[2].clear()

    def other(self) -> None:
        self.await_victim()
        for event in self.events[:2]:
            with event._cond:  # type: ignore[attr-defined]
                self.pause()
            event.set()
        while not self.is_over:
            with self.events[2]._cond:  # type: ignore[attr-defined]
                self.pause()
            self.pause()

    def check(self) -> None:
        for event in self.events:
            condition = event._cond  # type: ignore[attr-defined]
            assert condition.acquire(False)
            condition.release()
            assert not condition._waiters


class Futures(Scenario):
    """A `concurrent.futures.Future` that another resolves."""

    def __init__(self) -> None:
        super().__init__()
        self.futures: list[Future[int]] = [Future() for _ in range(6)]

    def victim(self) -> None:
        first, second, *rest = self.futures
        assert first.result() == 0
        assert second.exception(10) is None
        assert len(wait(rest[:2], return_when=FIRST_COMPLETED, timeout=10).done) >= 1
        assert sorted(future.result() for future in as_completed(rest, timeout=10)) == [2, 3, 4, 5]

    def other(self) -> None:
        self.await_victim()
        for number, future in enumerate(self.futures):
            self.pause()
            future.set_result(number)

    def check(self) -> None:
        for number, future in enumerate(self.futures):
            assert future.result(0) == number
            condition = future._condition  # type: ignore[attr-defined]
            assert condition.acquire(False)
            condition.release()
            assert not condition._waiters


class Executors(Scenario):
    has_peer = False

    def __init__(self) -> None:
        super().__init__()
        self.pool = ThreadPoolExecutor(2)

    def victim(self) -> None:
        with self.pool:
            jobs = [self.pool.submit(_original.sleep, SHORT) for _ in range(3)]
            assert jobs[0].result(10) is None
            assert list(self.pool.map(abs, [-1, -2, -3])) == [1, 2, 3]
            wait(jobs)

    def stop(self) -> None:
        super().stop()
        self.pool.shutdown()

    def check(self) -> None:
        assert not any(thread.is_alive() for thread in self.pool._threads)


class Threads(Scenario):
    has_peer = False

    def __init__(self) -> None:
        super().__init__()
        self.threads = [threading.Thread(target=_original.sleep, args=(3 * SHORT,)) for _ in range(3)]
        self.threads.append(threading.Timer(SHORT, int))

    def victim(self) -> None:
        for thread in self.threads:
            thread.start()
        self.threads[0].join()
        self.threads[1].join(10)
        self.threads[2].join(SHORT / 10)
        self.threads[3].join()

    def stop(self) -> None:
        super().stop()
        for thread in self.threads:
            if thread.ident is not None:
                thread.join(20)

    def check(self) -> None:
        assert not any(thread.is_alive() for thread in self.threads)


SCENARIOS = [
    Locks,
    Conditions,
    RConditions,
    Semaphores,
    Barriers,
    Queues,
    SimpleQueues,
    Joins,
    Events,
    Futures,
    Executors,
    Threads,
]


def acting_when_invited(
    patches: pytest.MonkeyPatch, number: int, act: Callable[[], object], counts: Callable[[_core.Green], bool]
) -> list[int]:
    """Call `act` when a green is about to be invited to what it waits for, for the n-th time; count the invitations."""
    count = [0]
    native = _waiting._Waiter.invite

    def invite(self: Any) -> bool:
        if self.green is not None and counts(self.green):
            count[0] += 1
            if count[0] == number:
                act()
        return native(self)

    patches.setattr(_waiting._Waiter, "invite", invite)
    return count


def run_scenario(
    arun: Run, monkeypatch: pytest.MonkeyPatch, kind: type[Scenario], with_thread: bool, how: str, number: int
) -> tuple[int, str]:
    """Run a scenario and disturb it at its n-th park; tell how many parks it made, and how it ended."""
    scenario, limits, tasks, loops, victims = kind(), [], [], [], []

    def limited() -> str:
        scenario.has_victim = True
        victims.append(_core.current_green())
        try:
            with timeout(None) as limit:
                limits.append(limit)
                scenario.victim()
        except TimeoutError:
            return "timed out"
        return "done"

    def act(_: object) -> None:
        # In the next turn, when it has parked: the wake-up may come in that turn too, before or after this.
        if how == "timeout":
            get_loop().call_soon(lambda: limits[0].reschedule(get_time() - 1))
        else:
            get_loop().call_soon(cancel)
        if how == "cancel twice":
            get_loop().call_soon(get_loop().call_soon, cancel)

    def cancel() -> None:
        tasks[0].cancel()  # by then there is a task: one that starts eagerly has parked before it is known

    def get_time() -> float:
        return asyncio.get_running_loop().time()

    def is_victim(green: _core.Green) -> bool:
        return green in victims

    async def main() -> str:
        other: Any = asyncio.to_thread(scenario.other) if with_thread else to_greenlet(scenario.other)
        other = asyncio.ensure_future(other)
        await until(lambda: scenario.has_begun)
        loops.append(asyncio.get_running_loop())
        peer = spawn(scenario.victim) if kind.has_peer else None
        tasks.append(spawn(limited))
        await asyncio.wait(tasks, timeout=20)
        assert tasks[0].done(), f"it hangs after park {number}"
        if peer is not None:
            await asyncio.wait_for(peer, 20)
        await asyncio.to_thread(scenario.stop)
        await asyncio.wait_for(other, 20)
        await until(lambda: parked() == 0)
        assert not asyncio.get_running_loop()._greenio_host.calls  # type: ignore[attr-defined]
        scenario.check()
        await to_greenlet(scenario.check)
        return "cancelled" if tasks[0].cancelled() else tasks[0].result()

    with monkeypatch.context() as patches:
        if how == "cancel when invited":
            count = acting_when_invited(patches, number, lambda: loops[0].call_soon_threadsafe(cancel), is_victim)
        else:
            count = acting_at(patches, number, act, is_victim)
        ended = arun(main)
    return count[0], ended


@pytest.mark.parametrize("how", ["cancel", "cancel twice", "cancel when invited", "timeout"])
@pytest.mark.parametrize("with_thread", [False, True], ids=["greens", "a thread"])
@pytest.mark.parametrize("kind", SCENARIOS, ids=lambda kind: kind.__name__)
def test_at_each_park(
    arun: Run, monkeypatch: pytest.MonkeyPatch, kind: type[Scenario], with_thread: bool, how: str
) -> None:
    wanted = "timed out" if how == "timeout" else "cancelled"
    for _ in range(20):  # a thread may have done its part before the victim had to wait for it, on a busy machine
        _, ended = run_scenario(arun, monkeypatch, kind, with_thread, how, -1)
        assert ended == "done"
        ends = []
        for number in range(1, MOST_PARKS):
            count, ended = run_scenario(arun, monkeypatch, kind, with_thread, how, number)
            if count < number:
                break
            ends.append(ended)
        assert set(ends) <= {wanted, "done"}
        if wanted in ends:
            return
    raise AssertionError(f"never {wanted}: {ends}")
