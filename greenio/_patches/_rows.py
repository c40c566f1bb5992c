"""`Semaphore.acquire`, `Queue.get`, `Queue.put`: in turn in green code; for everybody at once where that needs no wait.

What a Queue has, or has room for, is taken and put here, if its lock is free: by the hooks that subclasses of Queue may
replace, and with a notice only if somebody waits for it. The native methods are for what takes longer. That costs
native code less than theirs alone, so that it does not pay for the order of greens.
"""

from __future__ import annotations

import functools
import queue
import threading
from typing import Any

from .._core import current_green, getcurrent
from .._sync import NOTHING, PlainLock, Rows, is_passed, take_in_turn
from ._table import Patch, like, patches

__all__ = ["ROWS"]

_acquire = threading.Semaphore.acquire
_get = queue.Queue.get
_put = queue.Queue.put

_acquirers: Rows = {}
_getters: Rows = {}
_putters: Rows = {}

_SHUTS_DOWN = hasattr(queue, "ShutDown")
"""Whether a Queue can be shut down, as it can from CPython 3.13 on."""


@like(_acquire)
def acquire(self: Any, blocking: bool = True, timeout: float | None = None) -> bool:
    green = None if getcurrent().parent is None or not _waits(blocking, timeout) else current_green()
    if green is None:
        return _acquire(self, blocking, timeout)
    if not (is_passed(_acquirers, self) or self._cond._lock.locked()) and _acquire(self, False):
        return True
    return take_in_turn(_acquirers, self, green, timeout, functools.partial(_acquire, self, True)) is True


@like(_get)
def get(self: Any, block: bool = True, timeout: float | None = None) -> Any:
    mutex = self.mutex
    is_native = getcurrent().parent is None
    if (
        (timeout is None or timeout > 0)
        and (is_native or not (_getters and is_passed(_getters, self)))
        and mutex.__class__ is PlainLock
        and not mutex._waiters
        and mutex._lock.acquire(False)
    ):
        try:
            if self._qsize():
                item = self._get()
                if self.not_full._waiters:
                    self.not_full.notify()
                return item
        finally:
            mutex.release()
    green = current_green() if not is_native and _waits(block, timeout) else None
    if green is None:
        return _get(self, block, timeout)
    found = take_in_turn(_getters, self, green, timeout, functools.partial(_get, self, True))
    if found is NOTHING:
        raise queue.Empty
    return found


@like(_put)
def put(self: Any, item: Any, block: bool = True, timeout: float | None = None) -> None:
    mutex = self.mutex
    is_native = getcurrent().parent is None
    if (
        (timeout is None or timeout > 0)
        and (is_native or not (_putters and is_passed(_putters, self)))
        and mutex.__class__ is PlainLock
        and not mutex._waiters
        and mutex._lock.acquire(False)
    ):
        try:
            if not (0 < self.maxsize <= self._qsize() or (_SHUTS_DOWN and self.is_shutdown)):
                self._put(item)
                self.unfinished_tasks += 1
                if self.not_empty._waiters:
                    self.not_empty.notify()
                return
        finally:
            mutex.release()
    green = current_green() if not is_native and _waits(block, timeout) and self.maxsize > 0 else None
    if green is None:
        _put(self, item, block, timeout)
    elif take_in_turn(_putters, self, green, timeout, functools.partial(_put, self, item, True)) is NOTHING:
        raise queue.Full


def _waits(blocking: bool, timeout: float | None) -> bool:
    """Tell whether a call may wait, as opposed to one that looks, or that is refused for its arguments."""
    return bool(blocking) and (timeout is None or timeout > 0)


ROWS = (
    *patches(threading.Semaphore, [acquire], cooperates=True),
    # Natively too the two are one function.
    Patch(threading.Semaphore, "__enter__", acquire, cooperates=True),
    *patches(queue.Queue, [get, put], cooperates=True),
)
