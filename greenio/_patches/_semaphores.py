"""`multiprocessing.synchronize`: semaphores that processes share, and what is made of them.

The native semaphore is written in C and has no descriptor. It stays, and a `SemLock` stands before it. Greens try it,
queue and park, as for a lock of `threading`; what this process gives back invites the first of them. What other
processes give back, a thread waits for, natively, as long as a green waits. It hands over the permit that it gets, or
gives it back if everybody has left meanwhile, so that a wait that is cancelled or times out loses none. A green that
only tries, while nobody waits, waits for the end of the thread, which may have in its hands what nobody wants any more.

Of the semaphore on which a condition's sleepers wait, that thread takes nothing. Who has given up says so, and whoever
notifies takes back what is left; a permit that were in the thread's hands just then would come back too late, and the
next to notify would find it. So there the thread looks from time to time, and the green takes.

A recursive lock belongs to a green. Natively it belongs to a thread, which all greens of a loop share; so a permit that
the watching thread has taken cannot be handed over. It is given back at once, and the first green tries.
"""

from __future__ import annotations

import _thread
import gc
import math
import os
import sys
from asyncio import CancelledError
from functools import cache
from typing import Any
from weakref import WeakSet

from .. import _original
from .._core import Green
from .._sync import Lock
from .._sync._locks import identity
from .._sync._waiting import NOTHING, Shared
from ._socket_state import green_caller
from ._table import Patch, like, patches

__all__ = ["insist", "reach_semaphores", "release_semaphores", "semaphore_patches"]

_RECURSIVE = 0
"""The kind of a semaphore that is a recursive lock."""

_SLICE = 0.1
"""Seconds after which the watching thread looks whether anybody still waits."""

_PATIENCE = 10 * _SLICE
"""Seconds for that thread to end, once nobody waits."""

_GLANCES = (0.0005, 0.005)
"""Seconds from one look to the next, where the thread takes nothing: at first, and at most."""


class SemLock(Shared):
    """Stands before a `_multiprocessing.SemLock`; greens that wait for it park."""

    __slots__ = ("_holds", "_kept", "_native", "_owner", "_recursive", "_tried", "_watched", "is_of_sleepers")

    is_of_sleepers: bool
    """Whether it is the one on which a condition's sleepers wait."""

    def __init__(self, native: Any) -> None:
        super().__init__()
        self._native = native
        self._recursive = native.kind == _RECURSIVE
        self.is_of_sleepers = False
        self._reset()

    def _reset(self) -> None:
        self._owner: Green | int | None = None
        self._holds = 0
        self._forget_threads()

    def _forget_threads(self) -> None:
        self._waiters = []
        self._kept: list[bool] = []  # a permit each, on its way from the watching thread to a green
        self._watched = Lock()  # held by the watching thread
        self._tried = _original.allocate_lock()  # released by a green that has tried
        self._tried.acquire()

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Take a permit. Parks in green code; `timeout` is in seconds, and None waits for ever."""
        green = green_caller()
        if green is None:
            if self._owner is None or not self._native._is_mine():
                return self._native.acquire(block, timeout)  # type: ignore[no-any-return]
            if self._owner is not identity():
                return self._acquire_beside_green(block, timeout)
            self._holds += 1  # in a child that its owner has forked
            return True
        if self._owner is green:
            self._holds += 1
            return True
        if timeout is not None:
            timeout = math.ldexp(timeout, 0)  # refuses what the native call refuses, in its words
        if self._acquire_green(green, block, timeout):
            if self._recursive:
                self._owner, self._holds = green, 1
            return True
        return False

    def __enter__(self) -> bool:
        return self.acquire()

    def _acquire_green(self, green: Green, block: bool, timeout: float | None) -> bool:
        if not block or (timeout is not None and not timeout > 0):
            return self._attempt() is not NOTHING or self._attempt_unwatched()
        if not self._waiters and self._attempt() is not NOTHING:
            return True
        if timeout is not None and timeout >= _thread.TIMEOUT_MAX:
            timeout = None
        return self._wait(green, timeout) is True

    def _attempt_unwatched(self) -> bool:
        """Try once more, if nobody waits, when the watching thread has ended. Parks."""
        if self._waiters:
            return False
        try:
            if not self._watched.acquire(True, _PATIENCE):
                return False
            try:
                return self._attempt() is not NOTHING
            finally:
                self._watched.release()
        finally:
            if self._waiters:  # since just now
                self._watch()

    def _acquire_beside_green(self, block: bool, timeout: float | None) -> bool:
        """Acquire for native code what a green of the same thread owns, which is not going to run meanwhile."""
        if not block:
            return False
        if timeout is None:
            raise RuntimeError(
                f"{self!r} is held by a greenlet of this very thread, which cannot go on while the thread waits for "
                f"it; acquire the lock in a greenlet too, by `await to_greenlet(fn)`"
            )
        _original.sleep(max(0.0, timeout))
        return False

    def release(self) -> None:
        """Give a permit back. Never parks."""
        if self._recursive and (self._owner is not None or green_caller() is not None):
            if self._owner is not identity():
                raise AssertionError("attempt to release recursive lock not owned by thread")
            self._holds -= 1
            if self._holds:
                return
            self._owner = None
        self._native.release()
        if self._waiters:
            self._invite()

    def __exit__(self, *_: object) -> None:
        self.release()

    def _wait(self, green: Green, timeout: float | None) -> Any:
        try:
            return super()._wait(green, timeout)
        finally:
            if not self._waiters:
                self._give_back()

    def _attempt(self) -> Any:
        found = self._try_to_take()
        if self._tried.locked():
            try:
                self._tried.release()
            except RuntimeError:
                pass  # somebody in another thread has tried too
        if found is NOTHING and self._waiters:
            self._watch()
        return found

    def _try_to_take(self) -> Any:
        if self._take_kept():
            return True
        if self._recursive and (self._owner is not None or self._native._is_mine()):
            return NOTHING
        return True if self._native.acquire(False) else NOTHING

    def _take_kept(self) -> bool:
        try:
            return self._kept.pop()
        except IndexError:
            return False

    def _available(self) -> bool:
        return bool(self._kept) or (self._owner is None and not self._native._is_zero())

    def _give_back(self) -> None:
        while self._take_kept():
            self._native.release()

    def _watch(self) -> None:
        """See to it that a thread waits for what other processes give back."""
        if not self._watched.acquire(False):
            return
        _once_watched.add(self)
        try:
            _original.start_new_thread(self._run, ())
        except BaseException:
            self._watched.release()
            raise

    def _run(self) -> None:
        while self._waiters:
            if not self._kept and not (self._see() if self.is_of_sleepers else self._take_natively()):
                continue
            if not self._waiters:
                self._give_back()
            self._invite()
            self._tried.acquire(True, _SLICE)  # or the next round would only take it away again
        self._watched.release()
        if self._waiters:  # since just now
            self._watch()

    def _take_natively(self) -> bool:
        if not self._native.acquire(True, _SLICE):
            return False
        if self._recursive:
            self._native.release()
        else:
            self._kept.append(True)
        return True

    def _see(self) -> bool:
        end = _original.monotonic() + _SLICE
        pause, longest = _GLANCES
        while self._native._is_zero():
            if _original.monotonic() > end:
                return False
            _original.sleep(pause)
            pause = min(2 * pause, longest)
        return True

    def _is_mine(self) -> bool:
        """Tell whether the caller has it."""
        green = green_caller()
        if self._recursive and (green is not None or self._owner is not None):
            return self._owner is identity()
        return bool(self._native._is_mine() if green is None else self._native._count())

    def _count(self) -> int:
        """Tell how many permits this process has, or how often the owner has taken the lock."""
        return self._holds if self._owner is not None else self._native._count()

    @property
    def native(self) -> Any:
        """The native semaphore."""
        return self._native

    def is_idle(self) -> bool:
        """Tell whether no green owns it or waits for it."""
        return self._owner is None and not self._waiters

    def _after_fork(self) -> None:
        self._reset()
        self._native._after_fork()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._native, name)

    def __repr__(self) -> str:
        return f"<{'recursive ' if self._recursive else ''}semaphore {self._native!r} waiters={len(self._waiters)}>"


_once_watched: WeakSet[SemLock] = WeakSet()
"""The semaphores for which a thread waits, or has waited: a forked child lacks it, and what it had in its hands."""


def _after_fork_in_child() -> None:
    for semlock in _once_watched:
        semlock._forget_threads()
    _once_watched.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


class _Patient:
    """An object as seen by a method that is not to stop half-way: what that waits by keeps a cancellation for later."""

    __slots__ = ("_late", "_of")

    def __init__(self, of: Any, late: list[CancelledError]) -> None:
        self._of = of
        self._late = late

    def acquire(self, block: bool = True) -> bool:
        """Acquire the semaphore, or the lock of the condition, that this is."""
        while True:
            try:
                return self._of.acquire(block)  # type: ignore[no-any-return]
            except CancelledError as error:
                self._late.append(error)

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self._of.release()

    def notify_all(self) -> None:
        """Notify all who wait for the condition that this is."""
        try:
            self._of.notify_all()
        except CancelledError as error:  # it is done all the same
            self._late.append(error)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._of, name)
        return _Patient(found, self._late) if hasattr(found, "acquire") else found


def insist(native: Any) -> Any:
    """Make a method complete in green code, even if it is cancelled where it waits for a semaphore.

    Native code never fails there, so nobody is prepared for it: `finally: queue.task_done()` would do nothing.
    """

    @like(native)
    def give(self: Any, *args: Any, **kwargs: Any) -> Any:
        if green_caller() is None:
            return native(self, *args, **kwargs)
        late: list[CancelledError] = []
        found = native(_Patient(self, late), *args, **kwargs)
        if not late:
            return found
        try:
            raise late[0]
        finally:
            del late

    return give


def _take_again(lock: Any, count: int) -> None:
    """Take a condition's lock as often as it was held, whoever cancels meanwhile."""
    late = None
    while count:
        try:
            lock.acquire()
        except CancelledError as error:
            late = late or error
        else:
            count -= 1
    if late is not None:
        try:
            raise late
        finally:
            del late


@cache
def semaphore_patches(module: Any) -> tuple[Patch, ...]:
    """Make the patches of `multiprocessing.synchronize`."""
    native_make = module.SemLock._make_methods
    native_wait = module.Condition.wait

    @like(native_make)
    def _make_methods(self: Any) -> None:
        if not isinstance(self._semlock, SemLock):
            self._semlock = SemLock(self._semlock)
        native_make(self)

    @like(native_wait)
    def wait(self: Any, timeout: float | None = None) -> bool:
        if green_caller() is None:
            return native_wait(self, timeout)  # type: ignore[no-any-return]
        semlock = self._lock._semlock
        assert semlock._is_mine(), "must acquire() condition before using wait()"
        self._sleeping_count.release()
        count = semlock._count()
        for _ in range(count):
            self._lock.release()
        try:
            self._wait_semaphore._semlock.is_of_sleepers = True
            return self._wait_semaphore.acquire(True, timeout)  # type: ignore[no-any-return]
        finally:
            self._woken_count.release()
            _take_again(self._lock, count)

    return (
        *patches(module.SemLock, [_make_methods]),
        *patches(module.Condition, [wait, insist(module.Condition.notify)]),
        *patches(module.Event, [insist(module.Event.set), insist(module.Event.clear)]),
    )


def _live(module: str, name: str) -> list[Any]:
    """List the live objects of a class, if its module is loaded."""
    owner = getattr(sys.modules.get(module), name, None)
    return [] if owner is None else [found for found in gc.get_objects() if issubclass(type(found), owner)]


def reach_semaphores(_: object) -> None:
    """Have semaphores that are older than the patch park too."""
    for found in (*_live("multiprocessing.synchronize", "SemLock"), *_live("multiprocessing.synchronize", "Condition")):
        if hasattr(found, "acquire"):
            found._make_methods()


def release_semaphores() -> None:
    """Give semaphores their native object back, those excepted that greens own or wait for."""
    for found in _live("multiprocessing.synchronize", "SemLock"):
        semlock = getattr(found, "_semlock", None)
        if isinstance(semlock, SemLock) and semlock.is_idle():
            found._semlock = semlock.native
            found._make_methods()
    for found in _live("multiprocessing.synchronize", "Condition"):
        if hasattr(found, "acquire"):
            found._make_methods()
