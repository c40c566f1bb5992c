"""Locks, conditions, semaphores and queues against plain models: any order of calls, turns, cancellations, deadlines.

Greens of two loops, native threads and a loop's callbacks share one object (see `actors`). Hypothesis chooses who does
what and when each loop turns, and makes a failing course of events short. GREENIO_FUZZ_ROUNDS asks for more of them.
"""

from __future__ import annotations

import builtins
import functools
import os
import queue
import sys
import threading
import time
from asyncio import CancelledError
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, note, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from actors import Actor, CallbackActor, GreenActor, NativeActor, Stage
from greenio import _original
from greenio._patches import _rows, _threading
from greenio._sync import _locks, _waiting

pytestmark = pytest.mark.usefixtures("patched")

ROUNDS = int(os.environ.get("GREENIO_FUZZ_ROUNDS", "8"))
PAIRS = [("asyncio", "uvloop"), ("uvloop", "asyncio-debug")]

LONG = 10_000.0
"""A timeout that only an order lets run out."""
BRIEF = 0.001
"""A timeout in native code, which does run out."""

PATIENCE = 0.5
"""Seconds that the system has to let a thread go on that has been given what it waited for."""

CANCELLED = type("Cancelled", (), {})
FOREVER, TIMED, NEVER = "forever", "timed", "never"
"""How long a call waits."""

TIMED_OUT = (False, queue.Empty, queue.Full)
SHUT_DOWN: type[Exception] = getattr(queue, "ShutDown", queue.Empty)
"""New in 3.13."""

ACTORS = st.integers(0, 6)
GREENS = st.integers(0, 3)
HOWS = st.sampled_from([FOREVER, FOREVER, TIMED, NEVER])


class Machine(RuleBasedStateMachine):
    """The rules that all machines share. A subclass has `do_x` methods, which actors call, and a model."""

    kinds = PAIRS[0]
    callback = False
    native_timeouts = False

    def __init__(self) -> None:
        super().__init__()
        self.mutex = _original.allocate_lock()
        self.events = 0
        self.clock_moved = 0
        self.pending: dict[Actor, tuple[int, str, int]] = {}
        self.has_failed = False
        self.patches = pytest.MonkeyPatch()
        for module, name in ((queue, "time"), (threading, "_time")):
            self.patches.setattr(module, name, lambda: time.monotonic() + self.clock_moved * 2 * LONG)
        self.make()
        self.stage = Stage(self.kinds, callback=self.callback)

    def make(self) -> None:
        """Make what is shared, and its model."""
        raise NotImplementedError

    # What an actor does

    def attempt(self, actor: Actor, how: str, fn: Callable[..., Any], *args: Any, then: Callable[[Any], object]) -> Any:
        """Call what may wait, and tell the model what came of it, in the order in which things happen."""
        with self.mutex:
            self.events += 1
            number = self.events
            self.pending[actor] = number, how, self.clock_moved
        try:
            result = fn(*args)
        except (queue.Empty, queue.Full, SHUT_DOWN) as error:
            result = type(error)
        except CancelledError:
            result = CANCELLED
        with self.mutex:
            self.events += 1
            _, _, moved = self.pending.pop(actor)
            if result is CANCELLED:
                assert actor.cancelled, "CancelledError out of nowhere"
            elif result in TIMED_OUT:
                assert how == NEVER or (how == TIMED and (self.clock_moved > moved or isinstance(actor, NativeActor)))
            then(result)
        return result

    def timeout(self, actor: Actor, how: str) -> float:
        return LONG if isinstance(actor, GreenActor) else BRIEF

    def allowed(self, actor: Actor, how: str) -> str:
        """Tell how long this actor may wait, if asked to wait so."""
        if isinstance(actor, CallbackActor):
            return NEVER
        if how == TIMED and isinstance(actor, NativeActor) and not self.native_timeouts:
            return FOREVER
        return how

    def check_turn(self, actor: Actor, number: int, is_rival: Callable[[Any], object] = lambda _: True) -> None:
        """Nobody who came later may have been served before a green that waits."""
        if isinstance(actor, GreenActor):
            for other, (theirs, how, _) in self.pending.items():
                if isinstance(other, GreenActor) and how != NEVER and is_rival(other):
                    assert theirs > number, f"{actor} before {other}"

    def check_rest(self) -> None:
        """Hold the object against the model; nobody can do anything now."""
        raise NotImplementedError

    def let_go(self) -> bool:
        """Order something that brings the object nearer to being free; False if it is."""
        raise NotImplementedError

    # Rules

    def order(self, actor: Actor, name: str, *args: Any) -> None:
        note(f"{actor}: {name}{args}")
        actor.order(functools.partial(getattr(self, f"do_{name}"), actor, *args))
        if isinstance(actor, NativeActor):
            self.stage.rest()
            self.check_failures()

    def order_one(self, number: int, name: str, *args: Any) -> None:
        """Order something of one of those that have nothing to do."""
        idle = [actor for actor in self.stage.actors if not actor.busy]
        if idle:
            self.order(idle[number % len(idle)], name, *args)

    @rule(loop=st.integers(0, 1))
    def turn(self, loop: int) -> None:
        self.stage.turn(loop)
        self.check_failures()

    @rule()
    def turn_both(self) -> None:
        self.turn(0)
        self.turn(1)

    def busy_green(self, number: int) -> Actor | None:
        busy = [actor for actor in self.stage.actors if actor.busy and isinstance(actor, GreenActor)]
        return busy[number % len(busy)] if busy else None

    @rule(number=GREENS)
    def cancel(self, number: int) -> None:
        actor = self.busy_green(number)
        if actor is not None:
            note(f"{actor}: cancel")
            actor.cancel()

    @rule(number=GREENS)
    def expire(self, number: int) -> None:
        actor = self.busy_green(number)
        if actor is not None:
            note(f"{actor}: expire")
            actor.expire(self.move_clock)

    def move_clock(self) -> None:
        self.clock_moved += 1

    @rule()
    def settle(self) -> None:
        limit = time.monotonic() + PATIENCE
        while True:
            self.stage.settle()
            self.check_failures()
            try:
                self.check_rest()
                busy = {actor for actor in self.stage.actors if actor.busy}
                assert busy == set(self.pending), f"{busy} busy, but pending is {self.pending}"
                return
            except AssertionError:
                # A thread that was woken may still look asleep for a moment.
                is_thread_busy = any(isinstance(actor, NativeActor) and actor.busy for actor in self.stage.actors)
                if time.monotonic() > limit or not is_thread_busy:
                    self.has_failed = True
                    raise
            _original.sleep(0.001)

    def check_failures(self) -> None:
        for actor in self.stage.actors:
            if actor.failure is not None:
                failure, actor.failure = actor.failure, None
                self.has_failed = True
                raise failure

    def teardown(self) -> None:
        try:
            if not self.has_failed:
                self.end_in_order()
        except BaseException:
            self.has_failed = True
            raise
        finally:
            if self.has_failed:
                self.stage.free(self.force)
            self.patches.undo()
            self.stage.close()

    def end_in_order(self) -> None:
        """Let everybody give back what they have, until the object is free and nobody waits."""
        self.settle()
        for _ in range(200):
            if not self.let_go():
                break
            self.settle()
        self.check_rest()
        assert not self.pending, f"{self.pending} for ever"

    def force(self) -> None:
        """Free the object behind its back."""
        raise NotImplementedError


class LockMachine(Machine):
    """`threading.Lock`."""

    callback = True
    native_timeouts = True

    def make(self) -> None:
        self.lock: Any = threading.Lock()
        self.holder: Actor | None = None
        self.count = 0

    def do_acquire(self, actor: Actor, how: str) -> None:
        how = self.allowed(actor, how)
        if self.holder is actor and how == FOREVER and isinstance(actor, NativeActor):
            how = NEVER  # two threads are few: they are not to wait for themselves
        self.take(actor, how)

    def take(self, actor: Actor, how: str) -> None:
        number = self.events + 1
        arguments = {FOREVER: (), TIMED: (True, self.timeout(actor, how)), NEVER: (False,)}[how]

        def then(got: object) -> None:
            if got is True:
                assert self.holder is None, f"{actor} has it while {self.holder} has it"
                self.holder, self.count = actor, 1
                if how != NEVER:
                    self.check_turn(actor, number)

        self.attempt(actor, how, self.lock.acquire, *arguments, then=then)

    def do_release(self, actor: Actor) -> None:
        with self.mutex:
            self.events += 1
            if self.holder is None:
                return
            self.holder = None
        self.lock.release()

    @rule(number=ACTORS, how=HOWS)
    def acquire(self, number: int, how: str) -> None:
        self.order_one(number, "acquire", how)

    @rule(number=ACTORS)
    def release(self, number: int) -> None:
        self.order_one(number, "release")

    @rule(number=ACTORS, victim=GREENS)
    def release_and_cancel(self, number: int, victim: int) -> None:
        """Chance seldom has the two meet in one turn."""
        self.release(number)
        self.cancel(victim)

    def check_rest(self) -> None:
        assert self.lock.locked() == (self.holder is not None)
        assert self.holder is not None or not self.pending, f"free, and still waiting: {self.pending}"
        assert not any(actor.cancelled for actor in self.pending)
        assert len(self.lock._waiters) == sum(isinstance(actor, GreenActor) for actor in self.pending)

    def let_go(self) -> bool:
        if self.holder is None:
            return False
        self.order(next(actor for actor in self.stage.actors if not actor.busy), "release")
        return True

    def force(self) -> None:
        if self.lock.locked():
            self.lock.release()


class RLockMachine(LockMachine):
    """`threading.RLock`."""

    def make(self) -> None:
        super().make()
        self.lock = threading.RLock()

    def do_acquire(self, actor: Actor, how: str) -> None:
        if self.holder is actor:
            assert self.lock.acquire(*({FOREVER: (), TIMED: (True, BRIEF), NEVER: (False,)}[how])) is True
            self.count += 1
        else:
            self.take(actor, self.allowed(actor, how))

    def do_release(self, actor: Actor) -> None:
        with self.mutex:
            self.events += 1
            is_mine = self.holder is actor
            if is_mine:
                self.count -= 1
                if not self.count:
                    self.holder = None
        if is_mine:
            self.lock.release()
            return
        with pytest.raises(RuntimeError, match="cannot release un-acquired lock"):
            self.lock.release()

    def check_rest(self) -> None:
        locked = not repr(self.lock).startswith("<unlocked")
        assert locked == (self.holder is not None)
        assert self.holder is not None or not self.pending, f"free, and still waiting: {self.pending}"
        assert not any(actor.cancelled for actor in self.pending)
        assert f"count={self.count if locked else 0} " in repr(self.lock)

    def let_go(self) -> bool:
        if self.holder is None:
            return False
        assert not self.holder.busy
        self.order(self.holder, "release")
        return True

    def force(self) -> None:
        if self.lock.locked():
            self.lock._green = None
            self.lock._lock._release_save()  # whichever thread has it


class ConditionMachine(Machine):
    """`threading.Condition`, over either kind of lock. Every step of the model is made by whoever holds the lock."""

    over: Any = staticmethod(lambda: threading.Lock())

    def make(self) -> None:
        self.condition = threading.Condition(self.over())
        self.holder: Actor | None = None
        self.waiting: list[Actor] = []
        self.notified: list[Actor] = []

    def enter(self, actor: Actor) -> bool:
        """Take the lock, unless it is the actor's; tell whether the actor has it now."""
        if self.holder is actor:
            return True

        def then(got: object) -> None:
            if got is True:
                assert self.holder is None, f"{actor} has it while {self.holder} has it"
                self.holder = actor

        return self.attempt(actor, FOREVER, self.condition.acquire, then=then) is True

    def leave(self, actor: Actor) -> None:
        with self.mutex:
            self.events += 1
            assert self.holder is actor
            self.holder = None
        self.condition.release()

    def do_hold(self, actor: Actor) -> None:
        self.enter(actor)

    def do_release(self, actor: Actor) -> None:
        if self.holder is actor:
            self.leave(actor)

    def do_wait(self, actor: Actor, how: str) -> None:
        held = self.holder is actor
        if not self.enter(actor):
            return
        how = FOREVER if how == NEVER else self.allowed(actor, how)

        def then(result: object) -> None:
            assert self.holder is None, f"{actor} has it while {self.holder} has it"
            self.holder = actor
            if actor in self.notified:
                self.notified.remove(actor)
                assert result is not False, "notified, and told that it was not"
                if result is CANCELLED and self.waiting:
                    self.notified.append(self.waiting.pop(0))  # it passes the notice on
            else:
                self.waiting.remove(actor)
                assert result is not True, "not notified, and told that it was"

        with self.mutex:
            self.holder = None
            self.waiting.append(actor)
        self.attempt(actor, how, self.condition.wait, None if how == FOREVER else LONG, then=then)
        if not held:
            self.leave(actor)

    def do_notify(self, actor: Actor, count: int) -> None:
        held = self.holder is actor
        if not self.enter(actor):
            return
        with self.mutex:
            self.notified += self.waiting[:count]
            del self.waiting[:count]
        self.condition.notify(count)
        if not held:
            self.leave(actor)

    @rule(number=ACTORS, how=HOWS)
    def wait(self, number: int, how: str) -> None:
        self.order_one(number, "wait", how)

    @rule(number=ACTORS, count=st.integers(0, 3))
    def notify(self, number: int, count: int) -> None:
        self.order_one(number, "notify", count)

    @rule(number=ACTORS)
    def hold(self, number: int) -> None:
        self.order_one(number, "hold")

    @rule(number=ACTORS)
    def release(self, number: int) -> None:
        self.order_one(number, "release")

    def check_rest(self) -> None:
        if self.holder is not None:
            assert set(self.waiting + self.notified) <= set(self.pending)
            return
        assert not self.notified, f"notified, and still waiting: {self.notified}"
        assert set(self.pending) == set(self.waiting)
        assert len(self.condition._waiters) == len(self.waiting)  # type: ignore[attr-defined]
        assert not any(actor.cancelled for actor in self.pending)

    def let_go(self) -> bool:
        if self.holder is not None:
            self.order(self.holder, "release")
            return True
        if self.waiting:
            self.order(next(actor for actor in self.stage.actors if not actor.busy), "notify", len(self.waiting))
            return True
        return False

    @rule()
    def settle(self) -> None:
        # With everybody waiting there would be nobody left to notify.
        if all(actor.busy for actor in self.stage.actors):
            self.stage.actors[0].cancel()
        super().settle()

    def force(self) -> None:
        for turn in list(self.condition._waiters):  # type: ignore[attr-defined]
            if turn.locked():
                turn.release()
        lock: Any = self.condition._lock  # type: ignore[attr-defined]
        if lock._lock.locked():
            lock._lock.release()


class RConditionMachine(ConditionMachine):
    over = staticmethod(lambda: threading.RLock())


class HeldMachine(Machine):
    """What keeps a lock inside: an actor may hold that lock for a while, so that every call can have to wait for it."""

    holder: Actor | None = None
    inner: Any

    def is_holding(self, actor: Actor) -> bool:
        """Let the lock inside go, if it is the actor's; then that was all it did."""
        if self.holder is not actor:
            return False
        with self.mutex:
            self.events += 1
            self.holder = None
        self.inner.release()
        return True

    def do_hold(self, actor: Actor) -> None:
        if self.is_holding(actor):
            return

        def then(got: object) -> None:
            if got is True:
                assert self.holder is None
                self.holder = actor

        self.attempt(actor, FOREVER, self.inner.acquire, then=then)

    @rule(number=ACTORS)
    def hold(self, number: int) -> None:
        self.order_one(number, "hold")

    def anybody(self) -> Actor | None:
        return next((actor for actor in self.stage.actors if not actor.busy), None)

    def let_go(self) -> bool:
        if self.holder is not None:
            self.order(self.holder, "hold")
            return True
        if not self.pending:
            return False
        actor = self.anybody()
        if actor is None:
            self.stage.actors[0].cancel()
        else:
            self.relieve(actor)
        return True

    def relieve(self, actor: Actor) -> None:
        """Have an actor do something that lets one of those that wait go on."""
        raise NotImplementedError

    def force(self) -> None:
        if self.inner.locked():
            self.inner.release()


def in_rows(shared: Any) -> int:
    """Count the greens that have not come to wait in the native call yet."""
    rows = _rows._acquirers, _rows._getters, _rows._putters
    return sum(len(row._waiters) for each in rows for (key, _), row in each.items() if key == id(shared))


class SemaphoreMachine(HeldMachine):
    """`threading.Semaphore`."""

    def make(self) -> None:
        self.semaphore = threading.Semaphore(1)
        self.value = 1
        self.inner = self.semaphore._cond._lock  # type: ignore[attr-defined]

    def do_acquire(self, actor: Actor, how: str) -> None:
        if self.is_holding(actor):
            return
        how = self.allowed(actor, how)
        arguments = {FOREVER: (), TIMED: (True, LONG), NEVER: (False,)}[how]
        number = self.events + 1

        def then(got: object) -> None:
            if got is True:
                self.value -= 1
                assert self.value >= 0, f"{actor} took what was not there"
                if how != NEVER:
                    self.check_turn(actor, number, lambda other: other.home is actor.home)  # type: ignore[attr-defined]

        self.attempt(actor, how, self.semaphore.acquire, *arguments, then=then)

    def do_release(self, actor: Actor, count: int) -> None:
        if self.is_holding(actor):
            return
        with self.mutex:
            self.value += count
        self.attempt(actor, FOREVER, self.semaphore.release, count, then=lambda _: None)

    @rule(number=ACTORS, how=HOWS)
    def acquire(self, number: int, how: str) -> None:
        self.order_one(number, "acquire", how)

    @rule(number=ACTORS, count=st.integers(1, 3))
    def release(self, number: int, count: int) -> None:
        self.order_one(number, "release", count)

    def check_rest(self) -> None:
        if self.holder is not None:
            return
        assert self.value == self.semaphore._value  # type: ignore[attr-defined]
        assert not self.value or not self.pending, f"{self.value} free, and still waiting: {self.pending}"
        waiting = len(self.semaphore._cond._waiters) + in_rows(self.semaphore)  # type: ignore[attr-defined]
        assert waiting == len(self.pending)
        assert not any(actor.cancelled for actor in self.pending)

    def relieve(self, actor: Actor) -> None:
        self.order(actor, "release", len(self.pending))

    def force(self) -> None:
        super().force()
        for turn in list(self.semaphore._cond._waiters):  # type: ignore[attr-defined]
            self.semaphore._value += 1  # type: ignore[attr-defined]
            if turn.locked():
                turn.release()


class QueueMachine(HeldMachine):
    """`queue.Queue`: what is put in and taken out is seen from inside, where the queue holds its own lock."""

    SIZE = 2
    kind: type[queue.Queue[Any]] = queue.Queue

    def make(self) -> None:
        machine, kind = self, self.kind
        self.items: list[int] = []
        self.wanted: dict[Actor, str] = {}
        self.taken: dict[int, Actor | None] = {}
        self.numbers = 0
        self.undone = 0

        class Watched(kind):  # type: ignore[valid-type, misc]
            def _put(self, item: Any) -> None:
                assert len(machine.items) < machine.SIZE
                machine.items.append(item)
                super()._put(item)

            def _get(self) -> Any:
                item = super()._get()
                assert item == machine.next_item()
                machine.items.remove(item)
                machine.taken[item] = machine.current()
                return item

        self.queue = Watched(self.SIZE)
        self.inner = self.queue.mutex

    def current(self) -> Actor | None:
        """Tell which actor runs."""
        from greenio._core import current_green

        key = current_green() or threading.get_ident()
        return next((actor for actor in self.stage.actors if actor.key == key), None)

    def next_item(self) -> int:
        return self.items[0]

    def do_put(self, actor: Actor, how: str) -> None:
        if self.is_holding(actor):
            return
        how = self.allowed(actor, how)
        self.numbers += 1
        item = self.numbers * 7 % 101  # in no order, for the queue that keeps one
        arguments = {FOREVER: (), TIMED: (True, LONG), NEVER: (False,)}[how]

        def then(result: object) -> None:
            if result is None:
                self.undone += 1

        self.contend(actor, how, self.queue.put, item, *arguments, then=then)

    def contend(self, actor: Actor, how: str, fn: Any, *args: Any, then: Callable[[Any], object]) -> None:
        """Call what greens of one loop do in order."""
        self.wanted[actor] = fn.__name__
        number = self.events + 1

        def is_rival(other: Any) -> bool:
            return other.home is actor.home and self.wanted.get(other) == self.wanted[actor]  # type: ignore[attr-defined]

        def then_check(result: object) -> None:
            then(result)
            if how != NEVER and (result is None or isinstance(result, int)):
                self.check_turn(actor, number, is_rival)

        self.attempt(actor, how, fn, *args, then=then_check)

    def do_get(self, actor: Actor, how: str) -> None:
        if self.is_holding(actor):
            return
        how = self.allowed(actor, how)
        arguments = {FOREVER: (), TIMED: (True, LONG), NEVER: (False,)}[how]

        def then(result: object) -> None:
            if isinstance(result, int):
                assert self.taken.pop(result) is actor

        self.contend(actor, how, self.queue.get, *arguments, then=then)

    def do_task_done(self, actor: Actor) -> None:
        if self.is_holding(actor):
            return
        with self.mutex:
            if not self.undone:
                return
            self.undone -= 1
        self.wanted[actor] = "task_done"
        self.attempt(actor, FOREVER, self.queue.task_done, then=lambda _: None)

    def do_join(self, actor: Actor) -> None:
        if not self.is_holding(actor):
            self.wanted[actor] = "join"
            self.attempt(actor, FOREVER, self.queue.join, then=lambda _: None)

    @rule(number=ACTORS, how=HOWS)
    def put(self, number: int, how: str) -> None:
        self.order_one(number, "put", how)

    @rule(number=ACTORS, how=HOWS)
    def get(self, number: int, how: str) -> None:
        self.order_one(number, "get", how)

    @rule(number=ACTORS)
    def task_done(self, number: int) -> None:
        self.order_one(number, "task_done")

    @rule(number=ACTORS)
    def join(self, number: int) -> None:
        self.order_one(number, "join")

    def waiting_in(self, condition: threading.Condition) -> int:
        return len(condition._waiters)  # type: ignore[attr-defined]

    def check_rest(self) -> None:
        if self.holder is not None:
            return
        assert not self.taken, f"taken, and given to nobody: {self.taken}"
        assert self.queue.qsize() == len(self.items)
        assert self.queue.unfinished_tasks == self.undone
        getters = self.waiting_in(self.queue.not_empty)
        putters = self.waiting_in(self.queue.not_full)
        joiners = self.waiting_in(self.queue.all_tasks_done)
        assert getters + putters + joiners + in_rows(self.queue) == len(self.pending)
        assert not getters or not self.items, "there are items, and there are some that wait for them"
        assert not putters or len(self.items) == self.SIZE, "there is room, and there are some that wait for it"
        assert not joiners or self.undone, "all is done, and there are some that wait for it"
        assert not any(actor.cancelled for actor in self.pending)

    def relieve(self, actor: Actor) -> None:
        if self.waiting_in(self.queue.not_empty):
            self.order(actor, "put", NEVER)
        elif self.waiting_in(self.queue.not_full):
            self.order(actor, "get", NEVER)
        else:
            self.order(actor, "task_done")

    def force(self) -> None:
        super().force()
        for condition in (self.queue.not_empty, self.queue.not_full, self.queue.all_tasks_done):
            self.queue.unfinished_tasks = 0
            for turn in list(condition._waiters):  # type: ignore[attr-defined]
                if turn.locked():
                    turn.release()
        self.items[:] = [0]
        self.queue.queue.clear()  # type: ignore[attr-defined]
        self.queue.queue.append(0)  # type: ignore[attr-defined]


class LifoQueueMachine(QueueMachine):
    kind = queue.LifoQueue

    def next_item(self) -> int:
        return self.items[-1]


class PriorityQueueMachine(QueueMachine):
    kind = queue.PriorityQueue

    def next_item(self) -> int:
        return min(self.items)


class ShutDownMachine(QueueMachine):
    """`queue.Queue` that is shut down one day."""

    is_shut = False

    def do_shutdown(self, actor: Actor, immediate: bool) -> None:
        if self.is_holding(actor):
            return

        def then(result: object) -> None:
            if result is None:
                self.is_shut = True
                for item in [item for item, taker in self.taken.items() if taker is actor]:
                    del self.taken[item]
                    self.undone -= 1

        shutdown: Any = self.queue.shutdown  # type: ignore[attr-defined]
        self.attempt(actor, FOREVER, shutdown, immediate, then=then)

    @rule(number=ACTORS, immediate=st.booleans())
    def shutdown(self, number: int, immediate: bool) -> None:
        self.order_one(number, "shutdown", immediate)

    def check_rest(self) -> None:
        super().check_rest()
        if self.is_shut and self.holder is None:
            assert not self.waiting_in(self.queue.not_empty) + self.waiting_in(self.queue.not_full)


class SimpleQueueMachine(Machine):
    """`queue.SimpleQueue`."""

    callback = True
    native_timeouts = True

    def make(self) -> None:
        self.queue: Any = queue.SimpleQueue()
        self.put_items: list[int] = []
        self.got: set[int] = set()

    def do_put(self, actor: Actor) -> None:
        with self.mutex:
            self.events += 1
            item = len(self.put_items) + 1
            self.put_items.append(item)
        self.queue.put(item)

    def do_get(self, actor: Actor, how: str) -> None:
        how = self.allowed(actor, how)
        number = self.events + 1
        arguments = {FOREVER: (), TIMED: (True, self.timeout(actor, how)), NEVER: (False,)}[how]

        def then(result: object) -> None:
            if isinstance(result, int):
                assert result in self.put_items
                assert result not in self.got, "given twice"
                self.got.add(result)
                if how != NEVER:
                    self.check_turn(actor, number)

        self.attempt(actor, how, self.queue.get, *arguments, then=then)

    @rule(number=ACTORS)
    def put(self, number: int) -> None:
        self.order_one(number, "put")

    @rule(number=ACTORS, how=HOWS)
    def get(self, number: int, how: str) -> None:
        self.order_one(number, "get", how)

    def check_rest(self) -> None:
        left = len(self.put_items) - len(self.got)
        assert self.queue.qsize() == left
        assert self.queue.empty() == (not left)
        assert not left or not self.pending, f"{left} there, and still waiting: {self.pending}"
        assert self.got == set(self.put_items[: len(self.got)]), "not in order"
        assert len(self.queue._waiters) == sum(isinstance(actor, GreenActor) for actor in self.pending)
        assert not any(actor.cancelled for actor in self.pending)

    def let_go(self) -> bool:
        if not self.pending:
            return False
        actor = next((actor for actor in self.stage.actors if not actor.busy), None)
        assert actor is not None
        self.order(actor, "put")
        return True

    def force(self) -> None:
        self.queue._queue.put(len(self.put_items))


MACHINES = [
    LockMachine,
    RLockMachine,
    ConditionMachine,
    RConditionMachine,
    SemaphoreMachine,
    QueueMachine,
    LifoQueueMachine,
    PriorityQueueMachine,
    SimpleQueueMachine,
]
if hasattr(queue, "ShutDown"):
    MACHINES.append(ShutDownMachine)


def run_machine(machine: type[Machine], kinds: tuple[str, str], **options: Any) -> None:
    made = type(machine.__name__, (machine,), {"kinds": kinds})
    given = {
        "database": None,
        "deadline": None,
        "derandomize": "GREENIO_FUZZ_ROUNDS" not in os.environ,
        "max_examples": 3 * ROUNDS,
        "stateful_step_count": 40,
        "suppress_health_check": list(HealthCheck),
        **options,
    }
    run_state_machine_as_test(made, settings=settings(**given))


@pytest.mark.timeout(60 + 2 * ROUNDS)
@pytest.mark.parametrize("kinds", PAIRS, ids=" and ".join)
@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.__name__.removesuffix("Machine"))
def test_against_a_model(machine: type[Machine], kinds: tuple[str, str]) -> None:
    run_machine(machine, kinds)


GROUPED = (Flaky, getattr(builtins, "ExceptionGroup", Flaky))
"""What Hypothesis raises where an example fails in two ways, or not at each attempt: the fault was found."""


def never_available(patches: pytest.MonkeyPatch) -> None:
    """Whoever leaves the list of waiters passes nothing on."""
    patches.setattr(_locks.Lock, "_available", lambda self: False)


def lose_invitations(patches: pytest.MonkeyPatch) -> None:
    """Nobody is woken."""
    patches.setattr(_waiting._Waiter, "_wake", lambda self: None)


def out_of_turn(patches: pytest.MonkeyPatch) -> None:
    """A green takes what is there although others came before it."""
    patches.setattr(_waiting.Shared, "_attempt_in_turn", lambda self, waiter: self._attempt())


def lock_not_taken_again(patches: pytest.MonkeyPatch) -> None:
    """A wait on a condition that is cancelled twice ends without the lock."""
    patches.setattr(_threading, "_restore", lambda condition, saved: condition._acquire_restore(saved))


def release_cancelled(patches: pytest.MonkeyPatch) -> None:
    """A release that has to wait for the lock inside is lost when it is cancelled there."""
    patches.setattr(threading.Semaphore, "release", threading.Semaphore.release.__wrapped__)  # type: ignore[attr-defined]


def notice_lost(patches: pytest.MonkeyPatch) -> None:
    """A notice that chose a waiter which is then cancelled is lost with it."""
    native = threading.Condition.notify

    def notify(self: threading.Condition, n: int = 1) -> None:
        if sys._getframe(1).f_code is not threading.Condition.wait.__code__:
            native(self, n)

    patches.setattr(threading.Condition, "notify", notify)


def no_rows(patches: pytest.MonkeyPatch) -> None:
    """A green that finds nothing where it was woken for something waits behind all others."""
    patches.setattr(_rows, "is_passed", lambda rows, shared: False)
    patches.setattr(_rows, "take_in_turn", lambda rows, shared, green, timeout, take: take(timeout))


@pytest.mark.parametrize(
    ("plant", "machine"),
    [
        (never_available, LockMachine),
        (lose_invitations, RLockMachine),
        (lose_invitations, SimpleQueueMachine),
        (out_of_turn, LockMachine),
        (lock_not_taken_again, ConditionMachine),
        (release_cancelled, SemaphoreMachine),
        (notice_lost, ConditionMachine),
        (no_rows, QueueMachine),
    ],
)
def test_a_planted_fault_is_found(
    plant: Callable[[pytest.MonkeyPatch], None], machine: type[Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patches, pytest.raises((AssertionError, RuntimeError, *GROUPED)):
        plant(patches)
        run_machine(machine, PAIRS[0], max_examples=1000, phases=[Phase.generate], report_multiple_bugs=False)
