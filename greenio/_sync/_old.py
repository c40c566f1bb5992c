"""Locks and queues that are older than the patch, and so written in C: what takes their place where they have a name.

The old lock stays inside and is the one that counts. So whoever holds a reference of its own to it, or held it before,
excludes greens and is excluded by them as ever. Only nobody tells greens that such code let go: as long as one waits, a
thread waits natively in its place, and invites it then. That thread has the lock itself for a moment, in which an
attempt that does not wait (`acquire(False)`) finds it held.

A queue likewise, but for how the thread waits: had it taken an item, it could not put that back in its order. So it
looks from time to time whether there is one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from .. import _original
from .._core import Green, current_green, thread_state
from ._locks import PlainLock, RLock, identity
from ._queue import SimpleQueue
from ._waiting import NOTHING, Shared

__all__ = ["OldLock", "OldSimpleQueue", "PassableRLock", "holder_in_this_thread"]

_forks = [0]
"""How many forks lie between this process and the one that imported greenio."""

_ROUND = 0.5
"""Seconds for which a thread waits before it looks whether any green still does."""

_GLANCES = (0.001, 0.05)
"""Seconds from one look at a queue to the next: at first, and at most."""


class _Watched(Shared):
    """Something native that may be let go without notice: one thread waits for it as long as greens do."""

    __slots__ = ()  # what it needs, `_watched`, its subclasses have: only one base may have slots

    def _wait(self, green: Green, timeout: float | None) -> Any:
        try:
            return super()._wait(green, timeout)
        finally:
            if self._waiters:
                self._watch()

    def _attempt_in_turn(self, waiter: Any) -> Any:
        found = super()._attempt_in_turn(waiter)
        if found is NOTHING:
            self._watch()
        return found

    def _watch(self: Any) -> None:
        if self._watched != _forks[0]:
            self._watched = _forks[0]
            try:
                _original.start_new_thread(self._watch_natively, ())
            except BaseException:
                self._watched = _UNWATCHED
                raise

    def _watch_natively(self: Any) -> None:
        for found in self._looks():
            if found or not self._waiters:
                break
        self._watched = _UNWATCHED
        self._invite()

    def _looks(self) -> Iterator[bool]:
        """Look again and again whether there is something to take, and tell so; each look waits for a while."""
        raise NotImplementedError


_UNWATCHED = -1
"""In the place of the number of forks in whose process a thread waits: it is not there in a child."""


class _WatchedLock(_Watched):
    """A lock that native code may release without notice."""

    __slots__ = ()  # `_lock` has its subclasses' other base

    def _looks(self: Any) -> Iterator[bool]:
        lock = self._lock
        while not lock.acquire(True, _ROUND):
            yield False
        lock.release()
        yield True


class OldSimpleQueue(_Watched, SimpleQueue):
    """A queue around an old one."""

    __slots__ = ("_watched",)

    def __new__(cls, native: Any) -> OldSimpleQueue:
        """Make the queue that has the items of the native one, and gives it its own."""
        self: Any = super().__new__(cls)
        self._queue = native
        self._watched = _UNWATCHED
        return self  # type: ignore[no-any-return]

    def _looks(self) -> Iterator[bool]:
        pause, longest = _GLANCES
        while not self._available():
            yield False
            _original.sleep(pause)
            pause = min(2 * pause, longest)
        yield True


class OldLock(_WatchedLock, PlainLock):
    """A lock around an old one."""

    __slots__ = ("_watched",)

    def __init__(self, native: Any) -> None:
        super().__init__()
        self._lock = native
        self._watched = _UNWATCHED


class PassableRLock(_WatchedLock, RLock):
    """An RLock around a native one, which counts, and which native code takes and releases as ever.

    So it does not matter to native code which of the two it has at any moment of a patch, and a parked green does not
    bar that of its own thread, which could not wait for it. But the native lock is the thread's, and cannot tell its
    greens apart: `_green` says which one has it; the native one is taken once for all of that one's holds. What it says
    counts only while the native lock is the owner's: where a patch has been taken back meanwhile, the green may have
    released that one alone. Between the native lock and `_green` a finalizer may run, and park; `_claims` tells the
    other greens of the thread who is there.
    """

    __slots__ = ("_claims", "_left", "_watched")

    def __init__(self, native: Any = None) -> None:
        super().__init__()
        self._claims: list[Any] = []
        if native is not None:
            self._lock = native
        self._watched = _UNWATCHED
        self._left = False

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take the lock, once more if it is the caller's. Parks in green code; see `RLock.acquire`."""
        lock = self._lock
        green = current_green()
        if green is None:
            if blocking is True and timeout == -1 and lock.acquire(False):
                return True
            return self._take(blocking, timeout)
        if self._green is green and lock._is_owned():
            self._more += 1
            return True
        waits = bool(blocking) and timeout != 0
        if timeout != -1 or blocking is not True:
            _original.allocate_lock().acquire(blocking, timeout)  # raises for what is no timeout
        # Who comes in the midst of an attempt of its own may have the lock by that, and must not line up.
        if (not (waits and self._waiters) or green in self._claims) and self._attempt() is True:
            return True
        return waits and self._wait(green, None if timeout == -1 else timeout) is True

    __enter__ = acquire

    def _take(self, blocking: bool, timeout: float) -> bool:
        return self._lock.acquire(blocking, timeout)  # type: ignore[no-any-return]

    def _attempt(self) -> Any:
        lock, me = self._lock, identity()
        if lock._is_owned():
            if self._green is not None or self._is_claimed(me):
                return NOTHING
            lock.acquire()  # the thread has it by way of the native lock, around this green: once more
            return True
        try:
            self._claims.append(me)
            if not lock.acquire(False):
                return NOTHING
            if self._green is not None and self._native_hold()[1] > 1:
                lock.release()
                return NOTHING
            self._more = 0
            self._green = me
            return True
        finally:
            if me in self._claims:
                self._claims.remove(me)

    def _is_claimed(self, me: Any) -> bool:
        """Tell whether another green of this thread has the native lock, and is about to note that."""
        thread = thread_state()
        return any(
            other is not me and other.__class__ is Green and other.thread is thread for other in tuple(self._claims)
        )

    def _available(self) -> bool:
        return False  # it cannot be asked; the thread that watches finds out

    def _watch(self) -> None:
        if self._left or self._green is None:  # else it is a green's, which invites the next
            super()._watch()

    def release(self) -> None:
        """Let the lock go, or one of its holds. Never parks.

        Raises:
            RuntimeError: It is not the caller's.
        """
        if self._green is not None and self._is_held_by_green():
            if self._more:
                self._more -= 1
                return
            self._green = None
        self._lock.release()
        if self._waiters:
            self._invite()

    def __exit__(self, kind: Any = None, error: Any = None, trace: Any = None) -> None:
        self.release()

    def _is_held_by_green(self) -> bool:
        """Tell whether the caller is the green that has the lock; in a forked child, was that.

        Raises:
            RuntimeError: The thread has the native lock for the sake of another green only.
        """
        owner = self._green
        if owner is not None and owner is identity():
            return True
        if self._is_anothers(owner):
            raise RuntimeError("cannot release un-acquired lock")
        return False

    def _is_anothers(self, owner: Any) -> bool:
        """Tell whether another green has the lock, which is the only reason why the thread has the native one."""
        green = current_green()
        if owner is green or owner.__class__ is not Green or owner.thread is not thread_state():
            return False
        return green is not None or self._native_hold()[1] == 1

    def _is_owned(self) -> bool:
        return self._lock._is_owned() and not self._is_anothers(self._green)

    def _recursion_count(self) -> int:
        if not self._is_owned():
            return 0
        return self._more + 1 if self._is_held_by_green() else self._native_hold()[1]

    def _release_save(self) -> Any:
        """Let every hold go; return what the native lock does: the count, and the owner."""
        more = 0
        if self._is_held_by_green():
            more = self._more
            self._green = None
        count, owner = self._lock._release_save()
        if self._waiters:
            self._invite()
        return count + more, owner

    def _acquire_restore(self, saved: Any) -> None:
        if current_green() is None:
            self._lock._acquire_restore(saved)
            return
        for _ in range(saved[0]):
            self.acquire()

    def is_in_use(self) -> bool:
        """Tell whether a green holds it, or waits for it, by way of this object. Never parks."""
        return self._green is not None or bool(self._waiters)

    def leave(self) -> None:
        """Note that the native lock may have its place again, and a green release that one only. Never parks."""
        self._left = True
        if self._waiters:
            self._watch()


def _count_fork() -> None:
    _forks[0] += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_count_fork)


def holder_in_this_thread(lock: PassableRLock) -> Green | None:
    """Look up the green that holds an RLock and is parked, if native code of its thread asks. Never parks."""
    owner = lock._green
    if owner.__class__ is not Green or current_green() is not None or owner.thread is not thread_state():
        return None
    return owner if lock._lock._is_owned() else None
