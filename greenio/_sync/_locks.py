"""`threading.Lock` and `threading.RLock` for greens of any loop and for native threads at once."""

from __future__ import annotations

import _thread
from typing import Any, NoReturn

from .. import _original
from .._core import Green, current_green, getcurrent, thread_state
from ._waiting import NOTHING, Shared

__all__ = ["Lock", "RLock"]

_allocate = _original.allocate_lock
_get_ident = _original.get_ident


class _LockType(type):
    """Makes `isinstance` hold for locks that were made before the patch."""

    _native: type

    def __instancecheck__(cls, instance: object) -> bool:
        return type.__instancecheck__(cls, instance) or type.__instancecheck__(cls._native, instance)


class _LockBase(Shared, metaclass=_LockType):
    """What the two kinds of lock have in common: one native lock that is held or free."""

    __slots__ = ("_lock",)

    _native: type = _thread.LockType

    def __init__(self) -> None:
        super().__init__()
        self._lock = _allocate()

    def __init_subclass__(cls) -> None:
        if cls.__module__.rpartition(".")[0] != __package__:
            raise TypeError(f"type '_thread.{cls.__mro__[1].__name__}' is not an acceptable base type")

    def _attempt(self) -> Any:
        return True if self._lock.acquire(False) else NOTHING

    def _available(self) -> bool:
        return not self._lock.locked()

    def _take(self, blocking: bool, timeout: float) -> bool:
        """Acquire the native lock, as the native `acquire` does, or by parking."""
        lock = self._lock
        green = current_green()
        if green is None or not blocking or timeout == 0:
            return lock.acquire(blocking, timeout)
        if timeout != -1 and not 0 < timeout <= _thread.TIMEOUT_MAX:
            return lock.acquire(blocking, timeout)  # negative, NaN or too long: raises
        if not self._waiters and lock.acquire(False):
            return True
        return self._wait(green, None if timeout == -1 else timeout) is True

    def _at_fork_reinit(self) -> None:
        self._waiters = []
        self._lock._at_fork_reinit()  # type: ignore[attr-defined]  # CPython's own, as `threading` calls it

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"cannot pickle '_thread.{type(self).__name__}' object")


class Lock(_LockBase):
    """A lock that is not owned: whoever has a reference may release it. `threading.Lock` says what each call does."""

    __slots__ = ()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take the lock. Parks in green code.

        Args:
            blocking: Wait for it if it is held.
            timeout: Seconds; -1 waits for ever.

        Returns:
            Whether it was taken.

        Raises:
            ValueError: A negative timeout other than -1, or one although `blocking` is false.
            OverflowError: The timeout is longer than `threading.TIMEOUT_MAX`.
            CancelledError: The host task was cancelled.
        """
        if blocking and timeout == -1 and not self._waiters and self._lock.acquire(False):
            return True
        return self._take(blocking, timeout)

    def release(self) -> None:
        """Let the lock go, from any thread, signal handler or finalizer. Never parks.

        Raises:
            RuntimeError: It is not held.
        """
        self._lock.release()
        if self._waiters:
            self._invite()

    def locked(self) -> bool:
        """Tell whether the lock is held. Never parks."""
        return self._lock.locked()

    def __enter__(self) -> bool:
        if not self._waiters and self._lock.acquire(False):
            return True
        return self._take(True, -1)

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._lock.release()
        if self._waiters:
            self._invite()

    acquire_lock = acquire
    release_lock = release
    locked_lock = locked

    def __repr__(self) -> str:
        return f"<{'locked' if self.locked() else 'unlocked'} _thread.lock object at {id(self):#x}>"


class RLock(_LockBase):
    """A lock that its owner may take again: a green, or in native code a thread. `threading.RLock` says the rest."""

    __slots__ = ("_count", "_owner")

    _native = _original.RLock

    def __init__(self) -> None:
        super().__init__()
        self._owner: Green | int | None = None
        self._count = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take the lock, once more if it is the caller's. Parks in green code.

        Takes, returns and raises what `Lock.acquire` does, and besides:

        Raises:
            RuntimeError: Native code would block its thread for ever, since a green of that very thread is the owner.
        """
        current: Any = getcurrent()
        me = current if current.__class__ is Green else _get_ident() if current.parent is None else _identity()
        if self._owner == me:
            self._count += 1
            return True
        if (blocking and timeout == -1 and not self._waiters and self._lock.acquire(False)) or self._take_owned(
            me, blocking, timeout
        ):
            self._owner = me
            self._count = 1
            return True
        return False

    __enter__ = acquire

    def _take_owned(self, me: Green | int, blocking: bool, timeout: float) -> bool:
        owner = self._owner
        forever = blocking and timeout == -1
        if forever and isinstance(me, int) and isinstance(owner, Green) and owner.thread is thread_state():
            raise RuntimeError(
                f"{self!r} is held by a greenlet of this very thread, which cannot go on while the thread waits for "
                f"it; acquire the lock in a greenlet too, by `await to_greenlet(fn)`"
            )
        return self._take(blocking, timeout)

    def release(self) -> None:
        """Let the lock go, or one of its holds. Never parks.

        Raises:
            RuntimeError: It is not the caller's.
        """
        current: Any = getcurrent()
        me = current if current.__class__ is Green else _get_ident() if current.parent is None else _identity()
        if self._owner != me:
            raise RuntimeError("cannot release un-acquired lock")
        self._count = count = self._count - 1
        if not count:
            self._owner = None
            self._lock.release()
            if self._waiters:
                self._invite()

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.release()

    def locked(self) -> bool:
        """Tell whether anybody holds the lock. Never parks."""
        return self._lock.locked()

    def _is_owned(self) -> bool:
        return self._owner == _identity()

    def _recursion_count(self) -> int:
        return self._count if self._owner == _identity() else 0

    def _release_save(self) -> tuple[int, Green | int]:
        """Let every hold go, for the time of a wait on a condition."""
        owner = self._owner
        if owner is None:
            raise RuntimeError("cannot release un-acquired lock")
        saved = (self._count, owner)
        self._count, self._owner = 0, None
        self._lock.release()
        if self._waiters:
            self._invite()
        return saved

    def _acquire_restore(self, saved: tuple[int, Green | int]) -> None:
        self._take(True, -1)
        self._count, self._owner = saved

    def _at_fork_reinit(self) -> None:
        super()._at_fork_reinit()
        self._count, self._owner = 0, None

    def __repr__(self) -> str:
        owner = self._owner
        shown = owner if isinstance(owner, int) else 0 if owner is None else repr(owner)
        state = "locked" if self._lock.locked() else "unlocked"
        return f"<{state} _thread.RLock object owner={shown} count={self._count} at {id(self):#x}>"


def _identity() -> Green | int:
    """Tell who asks: the green, or in native code the thread."""
    return current_green() or _get_ident()
