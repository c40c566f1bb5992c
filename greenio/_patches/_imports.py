"""Imports: a green waits for a module that another green, or another thread, is in the midst of importing.

The import system locks a module while its body runs, for a thread: it takes all greens of one thread for the same
importer, and would hand the second of them a module whose body is parked half-way. So which green has such a lock is
noted here. What native code of the same thread imports meanwhile is let through as ever, since it cannot wait. The rest
of the import system is native, and still knows of threads only.

Nobody tells when a module is done; a green tries again after a delay, as it rarely has to. At each try it looks whether
all wait for each other, as importers of modules that import one another may, also those of several threads.
"""

from __future__ import annotations

import os
import sys
from typing import Any
from weakref import WeakKeyDictionary

from .. import _original
from .._core import Green, getcurrent
from ._process_ends import SHORTEST, longer, nap
from ._socket_state import green_caller
from ._table import like, patches

__all__ = ["IMPORTS"]

_import_system: Any = sys.modules["_frozen_importlib"]
_ModuleLock: Any = _import_system._ModuleLock
_native_init = _ModuleLock.__init__
_native_acquire = _ModuleLock.acquire
_native_release = _ModuleLock.release

_holders: WeakKeyDictionary[Any, Green] = WeakKeyDictionary()
"""For each lock that a green has, which green: noted when it takes it, not when it does again."""

_waits: dict[Green, Any] = {}
"""For each green that waits, for which lock."""

_passes: list[tuple[Any, Green | None]] = []
"""Locks that a green has passed without taking them, each with the green: it gives none back."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_holders.clear)
    os.register_at_fork(after_in_child=_waits.clear)
    os.register_at_fork(after_in_child=_passes.clear)


@like(_native_init)
def __init__(self: Any, name: str) -> None:  # noqa: N807 - it becomes that method
    _native_init(self, name)
    # It must not park in the midst of its bookkeeping, which is that of the thread.
    self.lock = _original.RLock() if isinstance(self.count, list) else _original.allocate_lock()
    self.wakeup = _original.allocate_lock()


@like(_native_acquire)
def acquire(self: Any) -> bool:
    green = green_caller()
    if green is None:
        return _native_acquire(self)  # type: ignore[no-any-return]
    if not _lets_in(self, green) and not _wait(self, green):
        _passes.append((self, green))
        return True
    taken: bool = _native_acquire(self)
    if _is_taken_once(self):
        _holders[self] = green
    return taken


@like(_native_release)
def release(self: Any) -> None:
    if _passes and (found := (self, green_caller())) in _passes:
        _passes.remove(found)
        return
    if _is_taken_once(self):
        _holders.pop(self, None)
    _native_release(self)


def _is_taken_once(lock: Any) -> bool:
    return lock.count in (1, [True])  # a list since CPython 3.12


def _lets_in(lock: Any, green: Green) -> bool:
    """Tell whether the native lock would take this green's thread at once, and rightly so."""
    if lock.owner != _original.get_ident():
        return lock.owner is None
    holder = _holders.get(lock)
    if holder is None or holder is green or holder.host is None or not holder.host.loop.is_running():
        return True
    below = getcurrent().parent
    while below is not None:
        if below is holder:
            return True  # it runs a loop of its own, and that this green
        below = below.parent
    return False


def _wait(lock: Any, green: Green) -> bool:
    """Park until a lock can be taken. False if it never will be, and the module is to be used as it is, half done."""
    delay = SHORTEST
    outer = _waits.get(green)  # of what a finalizer or a signal handler interrupts
    _waits[green] = lock
    try:
        while not _lets_in(lock, green):
            if _closes_a_circle(lock, green):
                if lock.name in sys.modules:
                    return False  # as the import system itself makes of it
                raise _import_system._DeadlockError(f"deadlock detected by {lock!r}")
            nap(green, delay, None, "an import")
            delay = longer(delay)
        return True
    finally:
        if outer is None:
            del _waits[green]
        else:
            _waits[green] = outer


def _closes_a_circle(lock: Any, green: Green) -> bool:
    """Tell whether who has the lock waits, through whatever others, for a lock that this green has."""
    seen = set()
    while lock is not None and lock not in seen:
        seen.add(lock)
        holder = _holders.get(lock)
        if holder is green:
            return True
        lock = _waits.get(holder) if holder is not None else _blocks(lock.owner)
    return False


def _blocks(thread: int | None) -> Any:
    """Tell for which lock a thread waits; None if for none."""
    found = _import_system._blocking_on.get(thread)
    if isinstance(found, list):  # since CPython 3.12: those of signal handlers that import, too
        return found[-1] if found else None
    return found


IMPORTS = patches(_ModuleLock, [__init__, acquire, release])
"""Rows of the group "threading"."""
