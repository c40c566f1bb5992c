"""Actors on command: greens of two loops, native threads and loop callbacks, of which one runs at a time.

A `Stage` has two loops, each in a thread of its own, that turn only when they are told to; so a test decides in which
turn a wake-up, a cancellation and a deadline meet. What an actor is ordered to do begins in the next turn of its loop,
in the order of the orders. A native thread begins at once, and `Stage` waits until it has ended or sleeps in the
kernel. Nothing here sleeps to let something happen, so that one list of orders gives one course of events, and a
failing list can be made shorter. (One thing is for the system to decide: which of several natives and greens gets what
was released. A model has to allow for either.)
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from conftest import new_loop
from greenio import _core, _original, to_greenlet

__all__ = ["Actor", "CallbackActor", "GreenActor", "NativeActor", "Stage"]

LIMIT = 30.0
"""Seconds that anything may take before it counts as hung; nothing takes as many milliseconds."""

_ROUND = 2
"""Turns of each loop at a time; a loop that is not asked for anything meanwhile has nothing left to do."""

_HAS_PROC = os.path.isdir(f"/proc/self/task/{threading.get_native_id()}")
_Thread = threading.Thread


class _Worker:
    """A native thread that calls what it is given, one thing at a time."""

    def __init__(self, name: str) -> None:
        self._orders: Any = _original.SimpleQueue()
        self._answers: Any = _original.SimpleQueue()
        self._thread = _Thread(target=self._work, name=name, daemon=True)
        self._thread.start()
        self.tid = self._thread.native_id
        self.ident = self._thread.ident

    def _work(self) -> None:
        while (fn := self._orders.get()) is not None:
            error = None
            try:
                fn()
            except BaseException as caught:
                error = caught
            self._answers.put(error)

    def begin(self, fn: Callable[[], object]) -> None:
        self._orders.put(fn)

    def end(self) -> None:
        error = self._answers.get(timeout=LIMIT)
        if error is not None:
            raise error

    def call(self, fn: Callable[[], object]) -> None:
        self.begin(fn)
        self.end()

    def has_ended(self) -> bool:
        return bool(self._answers.qsize())

    def close(self) -> None:
        self._orders.put(None)
        self._thread.join(LIMIT)
        assert not self._thread.is_alive(), f"{self._thread.name} hangs"


class GatedLoop:
    """A loop in a thread of its own, which turns only when it is told to."""

    def __init__(self, kind: str) -> None:
        self._worker = _Worker(f"gated {kind}")
        self.kind = kind
        self._worker.call(self._open)

    def _open(self) -> None:
        self.requests = 0
        self.loop: Any = new_loop(self.kind)
        self.loop.call_soon = self._counting(self.loop.call_soon)
        self.loop.call_soon_threadsafe = self._counting(self.loop.call_soon_threadsafe)
        asyncio.set_event_loop(self.loop)
        self._seem_to_run()

    def _counting(self, native: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.requests += 1
            return native(*args, **kwargs)

        return call

    def turn(self, count: int = 1) -> None:
        """Run what is ready, `count` times; what becomes ready in a turn runs in the next."""

        def run() -> None:
            del self.loop.is_running
            for _ in range(count):
                self.loop.stop()
                self.loop.run_forever()
            self._seem_to_run()

        self._worker.call(run)

    def _seem_to_run(self) -> None:
        """Look like a loop that runs, between turns too: greens of one that does not are passed over."""
        self.loop.is_running = lambda: True

    def post(self, fn: Callable[..., object], *args: Any) -> None:
        """Have something called in the next turn, after all that is ready already."""
        self.loop.call_soon_threadsafe(fn, *args)

    def start(self, fn: Callable[[], object]) -> asyncio.Task[Any]:
        tasks: list[asyncio.Task[Any]] = []
        self.post(lambda: tasks.append(self.loop.create_task(to_greenlet(fn))))
        self.turn(3)
        return tasks[0]

    def close(self) -> None:
        self._worker.call(self._close)
        self._worker.close()

    def _close(self) -> None:
        del self.loop.is_running
        left = asyncio.all_tasks(self.loop)
        for task in left:
            task.cancel()
        if left:  # a test has failed, perhaps because a green cannot be woken any more
            self.loop.run_until_complete(asyncio.wait(left, timeout=1))
        asyncio.set_event_loop(None)
        self.loop.close()


class Actor:
    """Does one thing at a time.

    Attributes:
        busy: Whether it has been ordered to do something that has not ended.
        has_begun: Whether it is doing that now.
        cancelled: Whether what it does has been cancelled.
        failure: What the last thing raised, if anything.
        is_leaving: Whether the test is over, so that nothing is to be waited for.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.busy = False
        self.has_begun = False
        self.cancelled = False
        self.failure: BaseException | None = None
        self.is_leaving = False

    def __repr__(self) -> str:
        return self.name

    def _do(self, fn: Callable[[], object]) -> None:
        self.cancelled, self.has_begun = False, True
        try:
            fn()
        except BaseException as error:
            self.failure = error
        self.busy = self.has_begun = False

    def order(self, fn: Callable[[], object]) -> None:
        raise NotImplementedError

    def cancel(self) -> None:
        """Cancel what it does, in the next turn of its loop."""

    def expire(self, before: Callable[[], object]) -> None:
        """Let the timeout of what it waits for run out, in the next turn of its loop."""

    def rest(self) -> None:
        """Return when it has ended, or cannot go on by itself."""

    def nudge(self) -> None:
        """Have it look again whether it may go on, after a failure."""

    def close(self) -> None:
        pass


class GreenActor(Actor):
    """One green for all that it does, so that it can own things."""

    def __init__(self, name: str, home: GatedLoop) -> None:
        super().__init__(name)
        self.home = home
        self._next: Callable[[], object] | None = None
        self._task = home.start(self._work)
        self.key: object = self._green

    def _work(self) -> None:
        green = self._green = _core.current_green()
        assert green is not None
        while True:
            _core.park(green, None, green.parks)
            if self._next is None:
                return
            self._do(self._next)
            if self.is_leaving:
                return
            if self.cancelled and hasattr(self._task, "uncancel"):
                while self._task.cancelling():
                    self._task.uncancel()

    def _begin(self) -> None:
        self._green.waiting = False
        _core.resume(self._green, _core.READY)

    def order(self, fn: Callable[[], object]) -> None:
        self.busy = True
        self._next = fn
        self.home.post(self._begin)

    def cancel(self) -> None:
        self.home.post(self._cancel)

    def _cancel(self) -> None:
        if self.has_begun and self._green.waiting:
            self.cancelled = True
            self._task.cancel()

    def expire(self, before: Callable[[], object]) -> None:
        self.home.post(self._expire, before)

    def _expire(self, before: Callable[[], object]) -> None:
        green = self._green
        if not self.has_begun or not green.waiting or green.deadline is None:
            return
        before()
        green.timer.cancel()
        green.deadline = green.host.clock()
        green.on_timer()

    def nudge(self) -> None:
        self.home.post(self._nudge)

    def _nudge(self) -> None:
        if self.has_begun and self._green.waiting:
            self._begin()

    def close(self) -> None:
        assert not self.busy, f"{self} hangs in {self._green!r}"
        self._next = None
        self.home.post(self._begin)
        self.home.turn(_ROUND)
        assert self._task.done()
        self._task.result()


class CallbackActor(Actor):
    """Native code in the thread of a loop. It must not do what blocks."""

    def __init__(self, name: str, home: GatedLoop) -> None:
        super().__init__(name)
        self._home = home
        self.key: object = home._worker.ident

    def order(self, fn: Callable[[], object]) -> None:
        self.busy = True
        self._home.post(self._do, fn)


class NativeActor(Actor):
    """A native thread."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._worker = _Worker(name)
        self._began = False
        self.key: object = self._worker.ident

    def order(self, fn: Callable[[], object]) -> None:
        self.busy = self._began = True
        self._worker.begin(lambda: self._do(fn))

    def rest(self) -> None:
        limit = time.monotonic() + LIMIT
        while self._began and not self._worker.has_ended():
            if self.has_begun and self._is_asleep():
                return
            _original.sleep(0)
            assert time.monotonic() < limit, f"{self} neither ends nor sleeps"
        if self._began:
            self._began = False
            self._worker.end()

    def _is_asleep(self) -> bool:
        """Tell whether the thread waits in the kernel, and for something else than the interpreter's own lock."""
        if not _HAS_PROC:
            _original.sleep(0.01)
            return True
        before = self._state()
        _original.sleep(0.0002)  # gives the interpreter to whoever waits for it
        return before[0].startswith("S") and before == self._state()

    def _state(self) -> list[str]:
        with open(f"/proc/self/task/{self._worker.tid}/status") as lines:
            return [line.split(":")[1].strip() for line in lines if line.startswith(("State", "vol", "nonvol"))]

    def close(self) -> None:
        self.rest()
        assert not self.busy, f"{self} hangs"
        self._worker.close()


class Stage:
    """Two loops, two greens of each, two native threads, and a callback of the first loop if there is to be one."""

    def __init__(self, kinds: tuple[str, str], *, callback: bool) -> None:
        self.loops = [GatedLoop(kind) for kind in kinds]
        self.actors: list[Actor] = [
            GreenActor(f"green {number} of {home.kind}", home) for home in self.loops for number in (1, 2)
        ]
        self.actors += [NativeActor(f"thread {number}") for number in (1, 2)]
        if callback:
            self.actors.append(CallbackActor(f"callback of {kinds[0]}", self.loops[0]))

    def turn(self, number: int) -> None:
        """Turn one loop once, and let the native threads do what they can."""
        self.loops[number].turn()
        self.rest()

    def rest(self) -> None:
        """Wait until no native thread can go on."""
        for actor in self.actors:
            actor.rest()

    def settle(self) -> None:
        """Let everybody do what they can, until nothing happens any more."""
        for _ in range(1000):
            before = self._requests()
            for home in self.loops:
                home.turn(_ROUND)
            self.rest()
            if before == self._requests():
                return
        raise AssertionError("it never comes to rest")

    def free(self, force: Callable[[], object]) -> None:
        """After a failure: end what everybody does; `force` gives them what they wait for, whatever that takes."""
        for _ in range(200):
            if not any(actor.busy for actor in self.actors):
                return
            force()
            for actor in self.actors:
                actor.nudge()
            for home in self.loops:
                home.turn()
            self.rest()

    def _requests(self) -> list[int]:
        return [home.requests for home in self.loops]

    def close(self) -> None:
        """End everybody; raise where somebody hangs."""
        try:
            for actor in self.actors:
                actor.close()
        finally:
            for actor in self.actors:
                actor.is_leaving = True
            for home in self.loops:
                home.close()
