"""`threading`, `_thread` and `queue`: locks that greens and threads share, `Condition.wait`, `Thread.join`.

`Event`, `Semaphore`, `Barrier`, `queue.Queue` and `concurrent.futures` are Python code over locks and conditions, so
they follow, those that were made before the patch included. A `Thread` stays a real thread.
"""

from __future__ import annotations

import _queue
import _thread
import queue
import sys
import threading
from asyncio import CancelledError
from collections.abc import Iterator
from types import MethodType
from typing import Any
from weakref import ref

from .. import _original
from .._core import current_green, frames_of, getcurrent, greens
from .._sync import Lock, OldLock, OldSimpleQueue, PassableRLock, PlainLock, RLock, SimpleQueue, line_up, take_in_turn
from ._executors import WAIT, pin_executors, unpin_executors
from ._green_threads import start_greenlet, starts_greenlet
from ._identity import IDENTITY
from ._imports import IMPORTS
from ._logging import LOGGING, exchange_logging_locks, restore_logging_locks
from ._manager_types import exchange_manager_types, restore_manager_types
from ._old_objects import Adoption, Look
from ._references import instance_vars
from ._rows import ROWS
from ._table import Group, Patch, like, patches
from ._thread_state import end_of, runs_in_this_thread

__all__ = ["GROUP"]

_wait = threading.Condition.wait
_join = threading.Thread.join
_is_alive = threading.Thread.is_alive
_start = threading.Thread.start
_set = threading.Event.set


@like(_wait)
def wait(self: Any, timeout: float | None = None) -> bool:
    green = None if getcurrent().parent is None else current_green()
    if green is None:
        return _wait(self, timeout)
    if not self._is_owned():
        raise RuntimeError("cannot wait on un-acquired lock")
    turn = line_up(self._waiters, green)
    saved = self._release_save()
    notified = False
    error: BaseException | None = None
    try:
        notified = turn.acquire(*_limits(timeout))
    except BaseException as caught:
        error = caught
    late = _restore(self, saved)
    if not notified:
        try:
            self._waiters.remove(turn)
        except ValueError:
            notified = True  # at the last moment
    if error is None and late is None:
        return notified
    if notified:
        self.notify()  # it is somebody else's turn, or the notice would be lost with this waiter
    try:
        raise error or late  # type: ignore[misc]
    finally:
        del error, late


def _limits(timeout: float | None) -> tuple[bool, float]:
    """Turn what `Condition.wait` takes into what `Lock.acquire` takes."""
    if timeout is None:
        return True, -1
    return (True, timeout) if timeout > 0 else (False, -1)


def _restore(condition: Any, saved: Any) -> CancelledError | None:
    """Take a condition's lock again, whoever cancels meanwhile; return the first cancellation."""
    late = None
    while True:
        try:
            condition._acquire_restore(saved)
            return late
        except CancelledError as error:
            late = late or error


_outlasting: list[ref[Any]] = []
"""Conditions that kept a `wait` that parks when the patch was taken back."""

_HOMES = {id(names) for names in (vars(threading), vars(queue), take_in_turn.__globals__, globals())}
"""The ids of the global names of code that waits for a condition, or that has greens stand in a row for one."""


def _keep_waits() -> None:
    """Leave greens a `wait` that parks, by the attributes of the conditions on which they wait.

    One call, of `Queue.get` or `Condition.wait_for` say, may wait several times, and the native method would hold the
    loop, which would never come to give what the green waits for.
    """
    for condition in _conditions_in_use():
        names = instance_vars(condition)
        if type(condition).wait is _wait and names is not None and "wait" not in names:
            names["wait"] = MethodType(wait, condition)
            _outlasting.append(ref(condition))


def _conditions_in_use() -> Iterator[Any]:
    """Find the conditions of all calls in which a green is parked now."""
    for frame in (frame for green in greens() for frame in frames_of(green) if id(frame.f_globals) in _HOMES):
        names = frame.f_locals
        owner = names.get("shared", names.get("self"))  # of a row, or of a method
        for found in (owner, *(instance_vars(owner) or {}).values()):
            if issubclass(type(found), _original.Condition):
                yield found


def _drop_waits() -> None:
    while _outlasting:
        condition = _outlasting.pop()()
        names = {} if condition is None else instance_vars(condition) or {}
        if getattr(names.get("wait"), "__func__", None) is wait:
            del names["wait"]


@like(_start)
def start(self: Any) -> None:
    green = current_green()
    if green is None or not self._initialized:
        return _start(self)
    if starts_greenlet(green, self, sys._getframe(1)):
        return start_greenlet(green, self)
    # The native call waits until the thread runs, which is soon. That wait must not park: many a library starts threads
    # while it holds a lock, which may be older than the patch and would then hold the loop at the next green.
    started = self._started
    runs = _original.allocate_lock()
    runs.acquire()

    def tell() -> None:
        _set(started)
        runs.release()

    started.set, started.wait = tell, runs.acquire
    try:
        return _start(self)
    finally:
        del started.set, started.wait


def _insist(native: Any) -> Any:
    """Make a call that gives something back complete in green code, even if it is cancelled where it takes its lock.

    That is the one place where such a call may park, and nothing has been given back by then. Native code never fails
    there, so nobody is prepared for it: `finally: semaphore.release()` would lose the permit.
    """

    @like(native)
    def give(self: Any) -> Any:
        return native(self) if getcurrent().parent is None else _completely(native, self)

    @like(native)
    def give_many(self: Any, n: int = 1) -> Any:
        return native(self, n) if getcurrent().parent is None else _completely(native, self, n)

    return give_many if native.__code__.co_argcount == 2 else give


def _completely(native: Any, *args: Any) -> Any:
    late = None
    while True:
        try:
            found = native(*args)
        except CancelledError as error:
            if current_green() is None:
                raise
            late = late or error
        else:
            break
    if late is None:
        return found
    try:
        raise late
    finally:
        del late


@like(_join)
def join(self: threading.Thread, timeout: float | None = None) -> None:
    green = current_green()
    if green is None:
        if timeout is None and runs_in_this_thread(self):
            raise RuntimeError(
                f"{self!r} is a greenlet of this very thread, which cannot go on while the thread waits for its end; "
                f"join it in a greenlet too, by `await to_greenlet(thread.join)`"
            )
        return _join(self, timeout)
    if self is getattr(green.identity, "thread", None):
        raise RuntimeError("cannot join current thread")
    _join(self, 0)  # raises where there is nothing to wait for: it was never started, or is the one that greens are in
    if _is_alive(self) and (timeout is None or not timeout <= 0):  # NaN is for the lock to refuse
        end = end_of(self)
        if end.acquire(True, -1 if timeout is None else timeout):
            end.release()
            _join(self, 0)
    return None


_adoption = Adoption(
    {_thread.LockType: OldLock, _original.RLock: PassableRLock, _original.SimpleQueue: OldSimpleQueue},
    is_in_use=lambda lock: isinstance(lock, PassableRLock) and lock.is_in_use(),
    leave=lambda lock: lock.leave() if isinstance(lock, PassableRLock) else None,
)


def _exchange_old_locks(look: Look) -> None:
    _drop_waits()
    pin_executors()
    exchange_logging_locks()
    exchange_manager_types()
    _adoption.do(look)


def _restore_old_locks() -> None:
    _keep_waits()
    _adoption.undo()
    restore_manager_types()
    restore_logging_locks()
    unpin_executors()


GROUP = Group(
    "threading",
    (
        *patches(threading.Condition, [wait], cooperates=True),
        *patches(threading.Thread, [join, start]),
        *patches(threading.Semaphore, [_insist(threading.Semaphore.release)], cooperates=True),
        *patches(threading.BoundedSemaphore, [_insist(threading.BoundedSemaphore.release)], cooperates=True),
        *patches(threading.Event, [_insist(threading.Event.set), _insist(threading.Event.clear)], cooperates=True),
        *patches(queue.Queue, [_insist(queue.Queue.task_done)], cooperates=True),
        *ROWS,
        *(Patch(_thread, name, PlainLock) for name in ("LockType", "lock") if hasattr(_thread, name)),
        Patch(_thread, "allocate_lock", Lock),
        Patch(_thread, "allocate", Lock),
        Patch(_thread, "RLock", RLock),
        Patch(threading, "Lock", Lock),
        Patch(threading, "RLock", RLock),
        Patch(_queue, "SimpleQueue", SimpleQueue),
        Patch(queue, "SimpleQueue", SimpleQueue),
        *IDENTITY,
        *IMPORTS,
        *LOGGING,
        *WAIT,
    ),
    do=_exchange_old_locks,
    undo=_restore_old_locks,
    # Before CPython 3.13 a plain lock is made by a function.
    hidden={} if isinstance(_original.allocate_lock, type) else {"threading.Lock": (_thread.LockType, Lock)},
)
