"""Who has a lock. An RLock knows. A Lock does not, and notes it only as long as somebody who debugs asks for that."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from threading import Thread
from typing import Any
from weakref import WeakKeyDictionary, ref

from .. import _original
from .._core import Green, current_green, greens
from ._locks import Lock, RLock

__all__ = ["End", "owner_of", "record_owners", "runner_of"]

_TAKES = ("acquire", "acquire_lock", "__enter__")
_GIVES = ("release", "release_lock", "__exit__")

_owners: WeakKeyDictionary[Lock, Green | int] = WeakKeyDictionary()
_before: dict[str, Any] = {}
_recorders = 0
_guard = _original.allocate_lock()


class End(Lock):
    """A lock that is held for as long as a thread lives: who waits for it waits for that thread.

    Attributes:
        thread: A weak reference to the thread.
    """

    __slots__ = ("thread",)

    def __new__(cls, thread: Thread) -> Any:
        return object.__new__(cls)

    def __init__(self, thread: Thread) -> None:
        super().__init__()
        self.thread = ref(thread)
        self.acquire()


def runner_of(thread: Thread) -> Green | int | None:
    """Tell what a thread that lives runs in: a green, or the number of an OS thread. Never parks."""
    found = (green for green in greens() if getattr(green.identity, "thread", None) is thread)
    return next(found, thread.ident)


def owner_of(shared: Any) -> Green | int | None:
    """Tell who has a lock: a green, the number of a thread, or None if nobody has it or nobody knows. Never parks."""
    if isinstance(shared, RLock):
        return shared._owner()
    if isinstance(shared, End):
        thread = shared.thread() if shared.locked() else None
        return None if thread is None else runner_of(thread)
    if isinstance(shared, Lock):
        return _owners.get(shared) if shared.locked() else None
    owner: Green | int | None = getattr(shared, "_owner", None)  # a semaphore of multiprocessing, taken by a green
    return owner


def record_owners() -> Callable[[], None]:
    """Note who takes each Lock from now on, in every thread. Never parks.

    Returns:
        What ends it. Calls may overlap.
    """
    global _recorders
    with _guard:
        _recorders += 1
        if _recorders == 1:
            _put_on()
    return functools.partial(_stop, [True])


def _stop(once: list[bool]) -> None:
    global _recorders
    with _guard:
        if not once:
            return
        once.clear()
        _recorders -= 1
        if not _recorders:
            _take_off()


def _put_on() -> None:
    for names, make in ((_TAKES, _taking), (_GIVES, _giving)):
        for name in names:
            _before[name] = vars(Lock)[name]
            setattr(Lock, name, make(_before[name]))


def _take_off() -> None:
    for name, native in _before.items():
        setattr(Lock, name, native)
    _before.clear()
    _owners.clear()


def _taking(native: Any) -> Any:
    @functools.wraps(native)
    def take(self: Lock, *args: Any, **kwargs: Any) -> bool:
        taken: bool = native(self, *args, **kwargs)
        if taken and not _is_own(sys._getframe(1).f_globals):
            _owners[self] = current_green() or _original.get_ident()
        return taken

    return take


def _giving(native: Any) -> Any:
    @functools.wraps(native)
    def give(self: Lock, *args: Any) -> None:
        _owners.pop(self, None)
        native(self, *args)

    return give


def _is_own(names: dict[str, Any]) -> bool:
    """Tell whether greenio itself is the caller: on such a lock somebody sleeps whom another is to wake."""
    return str(names.get("__name__", "")).startswith("greenio.")
