"""Chaos with a seed around shared locks: greens of two loops and native threads, cancelled and timed out anywhere."""

import asyncio
import os
import queue
import random
import signal
import threading
import time

import pytest

from conftest import finish, new_loop
from greenio import _original, in_greenlet, spawn, timeout, to_greenlet
from greenio._sync import OldLock, PassableRLock

pytestmark = pytest.mark.usefixtures("patched")

ROUNDS = int(os.environ.get("GREENIO_FUZZ_ROUNDS", "8"))
SIZE = 3


class Chaos:
    """One round: what everybody fights over, and what must hold in the end."""

    def __init__(self, age="new"):
        if age == "new":
            self.locks = [threading.Lock(), threading.RLock()]
            self.condition = threading.Condition()
            self.at_once = (False,)
        else:
            self.locks = [OldLock(_original.allocate_lock()), PassableRLock(_original.RLock())]
            self.condition = threading.Condition(PassableRLock(_original.RLock()))
            self.at_once = (True, 5)  # the thread that watches an old one may just look at it
        self.inside = [0, 0]
        self.semaphore = threading.Semaphore(SIZE)
        self.queue = queue.SimpleQueue()
        self.puts = []  # `append` is atomic, `+=` is not
        self.gets = []

    def step(self, chance):
        choice = chance.randrange(8)
        if choice in (0, 1):
            self.critical(choice, chance)
        elif choice == 2:
            lock = self.locks[0]
            if lock.acquire(timeout=chance.random() * 0.003):
                try:
                    self.pause(chance)
                finally:
                    lock.release()
        elif choice == 3:
            with self.condition:
                self.condition.wait(chance.random() * 0.005)
        elif choice == 4:
            with self.condition:
                self.condition.notify(chance.randrange(3))
        elif choice == 5:
            if self.semaphore.acquire(timeout=chance.random() * 0.003):
                try:
                    self.pause(chance)
                finally:
                    self.semaphore.release()
        elif choice == 6:
            self.puts.append(1)
            self.queue.put(1)
        else:
            try:
                self.queue.get(timeout=chance.random() * 0.003)
            except queue.Empty:
                return
            self.gets.append(1)

    def critical(self, number, chance):
        with self.locks[number]:
            self.inside[number] += 1
            try:
                assert self.inside[number] == 1
                self.pause(chance)
                assert self.inside[number] == 1
            finally:
                self.inside[number] -= 1

    def pause(self, chance):
        if chance.random() < 0.5:
            time.sleep(chance.choice([0, 0.0005]))

    def work(self, seed):
        chance = random.Random(seed)
        for _ in range(15):
            self.step(chance)

    def limited(self, seed):
        chance = random.Random(seed)
        for _ in range(10):
            try:
                with timeout(chance.random() * 0.004):
                    self.step(chance)
            except TimeoutError:
                pass

    async def greens(self, seed):
        chance = random.Random(seed)
        tasks = [spawn(self.limited if number % 3 == 0 else self.work, seed + number) for number in range(12)]
        while not all(task.done() for task in tasks):
            if chance.random() < 0.1:
                chance.choice(tasks).cancel()
            await asyncio.sleep(chance.choice([0, 0, 0.001]))
        for task in tasks:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error

    def check(self):
        for lock in (*self.locks, self.condition):
            assert lock.acquire(*self.at_once), lock
            lock.release()
        assert self.inside == [0, 0]
        assert not self.condition._waiters
        assert self.semaphore._value == SIZE
        for shared in (*self.locks, self.queue):
            assert not shared._waiters
        assert len(self.puts) == len(self.gets) + self.queue.qsize()


@pytest.mark.parametrize("seed", range(0, ROUNDS * 1000, 1000))
@pytest.mark.parametrize("age", ["new", "old"])
def test_chaos(loop_kind, age, seed):
    chaos, failures = Chaos(age), []

    def guarded(fn, *args):
        def run():
            try:
                fn(*args)
            except BaseException as error:
                failures.append(error)

        return threading.Thread(target=run)

    def in_loop(kind, start):
        loop = new_loop(kind)
        try:
            loop.run_until_complete(asyncio.wait_for(chaos.greens(start), 30))
        finally:
            finish(loop)

    threads = [guarded(chaos.work, seed + 900), guarded(chaos.work, seed + 901)]
    threads.append(guarded(in_loop, "uvloop" if loop_kind != "uvloop" else "asyncio", seed + 500))
    for thread in threads:
        thread.start()
    in_loop(loop_kind, seed)
    for thread in threads:
        thread.join(40)
        assert not thread.is_alive()
    assert not failures, failures
    chaos.check()


@pytest.mark.parametrize("blow", ["cancel", "time out"])
def test_at_exactly_that_park(arun, blow):
    """Run a scenario once for every park that it makes, and cancel it there, or let a timeout come there."""

    def scenario(chaos, reached):
        def note(name):
            reached.append(name)

        note("lock")
        with chaos.locks[0]:
            note("rlock")
            with chaos.locks[1]:
                note("sleep")
                time.sleep(0.001)
        note("semaphore")
        with chaos.semaphore:
            note("get")
            chaos.gets.append(chaos.queue.get(timeout=0.003 if len(reached) % 2 else 1))
        note("condition")
        with chaos.condition:
            chaos.condition.wait(0.002)
        note("end")

    async def main():
        for turn in range(60):
            chaos, reached = Chaos(), []

            def hold(chaos=chaos):
                with chaos.locks[0]:
                    time.sleep(0.001)
                with chaos.locks[1]:
                    time.sleep(0.001)
                chaos.puts.append(1)
                chaos.queue.put(1)
                with chaos.condition:
                    chaos.condition.notify()

            holding = spawn(hold)

            def run(chaos=chaos, reached=reached, turn=turn):
                if blow == "cancel":
                    return scenario(chaos, reached)
                with timeout(turn * 0.0002):
                    return scenario(chaos, reached)

            victim = spawn(run)
            if blow == "cancel":
                for _ in range(turn):
                    await asyncio.sleep(0)
                victim.cancel()
            results = await asyncio.wait_for(asyncio.gather(victim, holding, return_exceptions=True), 10)
            assert results[1] is None
            kinds = (type(None), asyncio.CancelledError, TimeoutError, queue.Empty)
            assert isinstance(results[0], kinds), results[0]
            await to_greenlet(lambda: None)
            chaos.check()

    arun(main)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there are no timers here")
@pytest.mark.parametrize("age", ["new", "old"])
def test_handlers_want_the_lock_that_they_interrupt(arun, loop_kind, age):
    """Greens of two loops take and release an RLock, and signal handlers take it too, wherever they come."""
    lock = threading.RLock() if age == "new" else PassableRLock(_original.RLock())
    inside, turns, handled, nested = [], [0, 0], [], []
    begun = _original.allocate_lock()
    begun.acquire()

    def handler(*_):
        nested.append(None)
        try:
            if len(nested) < 3:
                signal.setitimer(signal.ITIMER_REAL, 0.0003)
            if in_greenlet():
                with lock:
                    handled.append(len(inside))
        finally:
            nested.pop()
            signal.setitimer(signal.ITIMER_REAL, 0.0003)

    def work(side):
        end = time.monotonic() + 0.15 * ROUNDS
        while time.monotonic() < end:
            with lock:
                inside.append(side)
                assert inside == [side]
                turns[side] += 1
                inside.pop()

    async def both(side):
        await asyncio.wait_for(asyncio.gather(*(to_greenlet(work, side) for _ in range(2))), 30)

    def other():
        loop = new_loop(loop_kind)
        try:
            loop.call_soon(begun.release)
            loop.run_until_complete(both(1))
        finally:
            finish(loop)

    async def main():
        beside = asyncio.ensure_future(asyncio.to_thread(other))
        await asyncio.to_thread(begun.acquire)
        before = signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.0003)
        try:
            await both(0)
        finally:
            signal.signal(signal.SIGALRM, signal.SIG_IGN)
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        await beside
        assert handled
        assert all(turns)
        assert repr(lock).startswith("<unlocked")

    arun(main)
