"""What `threading` knows of a thread that is a green: that it has started, that it lives, that it has ended.

The stock methods of `threading.Thread` work on such a thread as on any other, in native code too. For that they need
the private attribute by which they wait for the end; here is the one place where it is set. A green waits for a lock of
its own, since a stock `join` that is interrupted in its wait may take the thread for ended (CPython's bpo-45274).
"""

from __future__ import annotations

import os
import threading
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from .. import _original
from .._sync import End, GreenIdentity, Lock

__all__ = ["begin_thread", "end_of", "runs_in_this_thread"]

_active: dict[int, threading.Thread] = threading._active  # type: ignore[attr-defined]
_set = threading.Event.set

_ends: WeakKeyDictionary[threading.Thread, End] = WeakKeyDictionary()
"""For each thread that a green waits for, and each that is a green: a lock that is held for as long as it lives."""

_hosts: WeakKeyDictionary[threading.Thread, int] = WeakKeyDictionary()
"""For each thread that is a green: the native identifier of the one in which it runs."""


def begin_thread(thread: Any, identity: GreenIdentity) -> None:
    """Have `thread` stand for what runs under `identity`, from now to the end of that."""
    ident = id(identity)
    end, stock = End(thread), End(thread)
    _ends[thread] = end
    _hosts[thread] = _original.get_ident()
    thread._ident = ident
    thread._native_id = _original.get_native_id()
    if _HAS_HANDLE:
        thread._handle = _Handle(ident, stock)
    else:
        thread._tstate_lock = stock
    identity.thread = thread
    identity.at_end = partial(_end_thread, thread, ident, (stock, end))
    _active[ident] = thread
    _set(thread._started)


def _end_thread(thread: threading.Thread, ident: int, locks: tuple[Lock, Lock]) -> None:
    if _active.get(ident) is thread:
        del _active[ident]
    for lock in locks:
        if lock.locked():  # else a stock `join` was interrupted, or this is a fork's child
            lock.release()


def runs_in_this_thread(thread: threading.Thread) -> bool:
    """Tell whether a green thread can go on only when the calling OS thread does."""
    return _hosts.get(thread) == _original.get_ident() and thread.is_alive()


def end_of(thread: threading.Thread) -> Lock:
    """Look up the lock that is free once a thread has ended."""
    end = _ends.get(thread)
    if end is None:
        end = End(thread)
        _ends[thread] = end
        try:
            _original.start_new_thread(_tell_end, (thread, end))
        except BaseException:
            del _ends[thread]  # nobody would release it
            raise
    return end


def _tell_end(thread: Any, end: Lock) -> None:
    """Wait for the end of a thread, in one that `threading` is not to hear of."""
    if _HAS_HANDLE:
        thread._handle.join()
    else:
        thread._wait_for_tstate_lock()
    end.release()


class _Handle:
    """What CPython 3.13 asks about the end of a thread, and waits by."""

    __slots__ = ("_lock", "_process", "ident")

    def __init__(self, ident: int, lock: Lock) -> None:
        self._lock = lock
        self._process = os.getpid()
        self.ident = ident

    def is_done(self) -> bool:
        return not self._lock.locked() or os.getpid() != self._process

    def join(self, timeout: float | None = None) -> None:
        if not self.is_done() and self._lock.acquire(True, -1 if timeout is None else timeout):
            self._lock.release()


_HAS_HANDLE = not hasattr(threading.Thread, "_wait_for_tstate_lock")
"""CPython 3.13 and later."""
