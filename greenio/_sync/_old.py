"""Locks that are older than the patch, and so written in C: what takes their place wherever they have a name.

The old lock stays inside and is the one that counts. So whoever holds a reference of its own to it, or held it before,
excludes greens and is excluded by them as ever. Only nobody tells greens that such code let go: as long as one waits, a
thread waits natively in its place, and invites it then. That thread has the lock itself for a moment, in which an
attempt that does not wait (`acquire(False)`) finds it held.
"""

from __future__ import annotations

from typing import Any

from .. import _original
from .._core import Green, current_green, thread_state
from ._locks import HELD, PlainLock, RLock
from ._waiting import NOTHING, Shared

__all__ = ["OldLock", "PassableRLock", "holder_in_this_thread"]

_ROUND = 0.5
"""Seconds for which a thread waits before it looks whether any green still does."""


class _Watched(Shared):
    """Something native that may be let go without notice: one thread waits for it as long as greens do."""

    __slots__ = ()  # what it needs, `_lock` and `_watched`, its subclasses have: only one base may have slots

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
        if not self._watched:
            self._watched = True
            _original.start_new_thread(self._watch_natively, ())

    def _watch_natively(self: Any) -> None:
        lock = self._lock
        while self._waiters:
            if lock.acquire(True, _ROUND):
                lock.release()
                break
        self._watched = False
        self._invite()


class OldLock(_Watched, PlainLock):
    """A lock around an old one."""

    __slots__ = ("_watched",)

    def __init__(self, native: Any) -> None:
        super().__init__()
        self._lock = native
        self._watched = False


class _OldRLock(_Watched):
    """An old RLock as one more lock that a green may have to wait for. Its owner is the thread, as it always was."""

    __slots__ = ("_lock", "_watched")

    def __init__(self, native: Any) -> None:
        self._waiters = []
        self._lock = native
        self._watched = False

    def _attempt(self) -> Any:
        return True if self._lock.acquire(False) else NOTHING

    def _available(self) -> bool:
        return False  # it cannot be asked; the thread finds out

    def acquire(self, blocking: bool, timeout: float) -> bool:
        green = current_green()
        if green is None or not blocking or timeout == 0:
            return self._lock.acquire(blocking, timeout)  # type: ignore[no-any-return]
        if not self._waiters and self._lock.acquire(False):
            return True
        return self._wait(green, None if timeout == -1 else timeout) is True


class PassableRLock(RLock):
    """An RLock, around an old one or not, that a parked green does not bar against native code of its own thread.

    Such code cannot wait for the green, which cannot go on as long as it waits. The native lock, which is the thread's,
    never was in its way either.
    """

    __slots__ = ("_old", "_whole")

    def __init__(self, native: Any = None) -> None:
        super().__init__()
        self._old = None if native is None else _OldRLock(native)
        self._whole = native is None
        """Whether the owner has the old lock as well, or there is none."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take the lock, once more if it is the caller's. Parks in green code; see `RLock.acquire`."""
        barred = self._bars_caller()
        if barred and self._whole:
            self._holds[HELD][1] += 1
            return True
        old = self._old
        if old is None:
            return super().acquire(blocking, timeout)
        if barred:
            return old._lock.acquire(blocking, timeout)  # type: ignore[no-any-return]  # the green waits for it too
        if old._lock._is_owned() and not self._is_held_here():
            return old._lock.acquire()  # type: ignore[no-any-return]  # again, by who took it by way of the old lock
        clock = _original.monotonic
        deadline = None if timeout <= 0 else clock() + timeout
        if not super().acquire(blocking, timeout):
            return False
        if self._holds[HELD][1] > 1:
            return True
        try:
            self._whole = old.acquire(blocking, timeout if deadline is None else max(0.0, deadline - clock()))
        finally:
            if not self._whole:
                super().release()
        return self._whole

    __enter__ = acquire

    def release(self) -> None:
        """Let the lock go, or one of its holds. Never parks.

        Raises:
            RuntimeError: It is not the caller's.
        """
        hold = self._holds.get(HELD)
        if hold is not None and hold[1] > 1 and self._whole and self._bars_caller():
            hold[1] -= 1
            return
        old = self._old
        if old is None:
            super().release()
        elif not self._is_owned():
            old._lock.release()  # taken by way of the old lock; raises if it was not
        else:
            if hold is not None and hold[1] == 1:
                self._whole = False
                old._lock.release()
                if old._waiters:
                    old._invite()
            super().release()

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.release()

    def _release_save(self) -> Any:
        owner = self._owner()
        count = super()._release_save()
        if self._old is not None:
            self._whole = False
            self._old._lock.release()
            if self._old._waiters:
                self._old._invite()
        return count, owner

    def _acquire_restore(self, saved: Any) -> None:
        count, owner = saved
        self.acquire()
        hold = self._holds[HELD]
        hold[1] += count - 1
        if hold[1] == count:  # else it is a parked green's, which did not bar the caller
            hold[0] = owner

    def _at_fork_reinit(self) -> None:
        super()._at_fork_reinit()
        if self._old is not None:
            self._whole = False
            self._old._waiters = []
            self._old._lock._at_fork_reinit()

    def _is_held_here(self) -> bool:
        """Tell whether this object is held by the calling thread or by one of its greens."""
        owner = self._owner()
        return owner == _original.get_ident() or (isinstance(owner, Green) and owner.thread is thread_state())

    def _owner(self) -> Any:
        hold = self._holds.get(HELD)
        return None if hold is None else hold[0]

    def _bars_caller(self) -> bool:
        """Tell whether a green holds it in the very thread of the caller, who is native."""
        owner = self._owner()
        return owner.__class__ is Green and current_green() is None and owner.thread is thread_state()

    def is_in_use(self) -> bool:
        """Tell whether anybody holds it, or waits for it, by way of this object. Never parks."""
        return any(self._holds.values()) or bool(self._waiters)


def holder_in_this_thread(lock: PassableRLock) -> Green | None:
    """Look up the green that holds an RLock and is parked, if native code of its thread asks. Never parks."""
    found: Green | None = lock._owner() if lock._whole and lock._bars_caller() else None
    return found
