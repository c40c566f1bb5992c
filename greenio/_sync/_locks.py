"""`threading.Lock` and `threading.RLock` for greens of any loop and for native threads at once."""

from __future__ import annotations

import _thread
import re
import sys
import warnings
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn, cast

from .. import _original
from .._core import Green, current_green, forked_green, getcurrent
from ._waiting import NOTHING, Shared

__all__ = ["Lock", "PlainLock", "RLock", "identity"]

_allocate = _original.allocate_lock
_get_ident = _original.get_ident

_RLOCK_WARNS = sys.version_info >= (3, 13)
"""Whether `RLock`, which ignores what it is given, says so."""


class _LockType(type):
    """Makes `isinstance` hold for locks that were made before the patch, but not for a subclass of the user's."""

    def __instancecheck__(cls, instance: object) -> bool:
        if type.__instancecheck__(cls, instance):
            return True
        native = cls.__dict__.get("_native")
        return native is not None and type.__instancecheck__(native, instance)


class _LockBase(Shared, metaclass=_LockType):
    """What the two kinds of lock have in common."""

    __slots__ = ("_is_missed",)

    _is_missed: bool
    """Whether to look for somebody who came too late, and to offer the lock."""

    def _note_miss(self) -> None:
        self._is_missed = True

    def _pass_on(self) -> None:
        """Let go of the lock that the caller has: to the first that waits, if that has missed it before."""
        waiter = self._first_heard()
        self._is_missed = waiter is not None and waiter.missed
        if waiter is None or not self._offer(waiter):
            self._let_go()

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"cannot pickle '_thread.{type(self).__name__}' object")


class Lock(_LockBase):
    """A lock that is not owned: whoever has a reference may release it. `threading.Lock` says what each call does."""

    __slots__ = ("_lock",)

    _native = _thread.LockType

    def __init__(self) -> None:
        self._waiters = []
        self._is_missed = False
        self._lock = _allocate()

    def __init_subclass__(cls) -> None:
        if cls.__module__.rpartition(".")[0] != __package__:
            raise TypeError(f"type '_thread.{cls.__mro__[1].__name__}' is not an acceptable base type")

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
        if blocking is True and timeout == -1 and not self._waiters and self._lock.acquire(False):
            return True
        return self._take(blocking, timeout)

    def _take(self, blocking: bool, timeout: float) -> bool:
        """Acquire the native lock, as the native `acquire` does, or by parking."""
        lock = self._lock
        green = current_green()
        if green is None or not blocking or timeout == 0:
            return lock.acquire(blocking, timeout)
        if blocking is not True:
            _allocate().acquire(blocking, timeout)  # raises for what is no truth value
        if timeout != -1 and not 0 < timeout <= _thread.TIMEOUT_MAX:
            return lock.acquire(blocking, timeout)  # negative, NaN or too long: raises
        if not self._waiters and lock.acquire(False):
            return True
        return self._wait(green, None if timeout == -1 else timeout) is True

    def _attempt(self) -> Any:
        return True if self._lock.acquire(False) else NOTHING

    def _available(self) -> bool:
        return not self._lock.locked()

    def _at_fork_reinit(self) -> None:
        self._waiters = []
        self._lock._at_fork_reinit()  # type: ignore[attr-defined]  # CPython's own, as `threading` calls it

    def release(self) -> None:
        """Let the lock go, from any thread, signal handler or finalizer. Never parks.

        Raises:
            RuntimeError: It is not held.
        """
        if self._is_missed and self._lock.locked():
            self._pass_on()
            return
        try:
            self._lock.release()
        finally:  # whatever a signal handler raises
            if self._waiters:
                self._invite()

    def _let_go(self) -> None:
        try:
            self._lock.release()
        finally:
            if self._waiters:
                self._invite()

    def _receive(self, offer: Any, means: Any) -> bool:
        if offer.declined:
            return False
        offer.accepted = True  # without a call in between, at which a finalizer might decline
        return True

    def locked(self) -> bool:
        """Tell whether the lock is held. Never parks."""
        return self._lock.locked()

    @property
    def _is_owned(self) -> Callable[[], bool]:
        # What a Condition asks at each wait and notify. Its own way, an attempt to acquire, costs three times as much.
        return self._lock.locked

    def __enter__(self) -> bool:
        if not self._waiters and self._lock.acquire(False):
            return True
        return self._take(True, -1)

    def __exit__(self, kind: Any = None, error: Any = None, trace: Any = None) -> None:
        if self._is_missed and self._lock.locked():
            self._pass_on()
            return
        try:
            self._lock.release()
        finally:
            if self._waiters:
                self._invite()

    acquire_lock = acquire
    release_lock = release
    locked_lock = locked

    def __repr__(self) -> str:
        return f"<{'locked' if self.locked() else 'unlocked'} _thread.lock object at {id(self):#x}>"


if sys.version_info >= (3, 13):
    PlainLock = Lock
else:

    class PlainLock(Lock):
        """The type of a lock, where it is not what makes one: there `threading.Lock` is a function."""

        __slots__ = ()

        _native = _thread.LockType

        def __new__(cls, *args: object) -> Any:
            if cls is PlainLock:
                raise TypeError("cannot create '_thread.lock' instances")
            return object.__new__(cls)

    def _new_lock(cls: Any) -> Any:
        return object.__new__(PlainLock)

    Lock.__new__ = _new_lock  # type: ignore[method-assign]
    PlainLock.__module__, PlainLock.__name__, PlainLock.__qualname__ = "_thread", "lock", "lock"


class RLock(_LockBase):
    """A lock that its owner may take again: a green, or in native code a thread. `threading.RLock` says the rest.

    The native lock inside is that of a thread. Native code takes it as ever; a green takes it once, and `_green` says
    who that is. As long as it says so, native code of the green's own thread is kept out by that, and whatever runs in
    other threads by the native lock.

    A green takes both, one after the other, and a signal handler or a finalizer may come between the two, as the same
    green. It finds that call below itself on the stack, and takes the native one once more; so it never waits for
    itself. It may also park there, and let another green pass: hence a second look at `_green`.
    """

    __slots__ = ("_green", "_lock", "_more")

    _native = _original.RLock

    _lock: Any
    _green: Any
    """The green that has the lock, or None."""
    _more: int
    """How often that has taken it besides the first time."""

    def __new__(cls, *args: Any, **kwargs: Any) -> RLock:
        """Make a free lock: here, since a subclass of the native one need not call its `__init__`."""
        if _RLOCK_WARNS and (args or kwargs) and cls is RLock:
            text = "Passing arguments to RLock is deprecated and will be removed in 3.15"
            warnings.warn(text, DeprecationWarning, stacklevel=2)
        self = object.__new__(cls)
        self._waiters = []
        self._is_missed = False
        self._lock = _original.RLock()
        self._green = None
        self._more = 0
        return self

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take the lock, once more if it is the caller's. Parks in green code.

        Takes, returns and raises what `Lock.acquire` does, and besides:

        Raises:
            RuntimeError: Native code would block its thread for ever, since a green of that very thread is the owner.
        """
        if self._green is None and blocking is True and timeout == -1:
            me: Any = getcurrent()
            if me.parent is None:
                if self._lock.acquire(False):
                    return True
            elif me.__class__ is Green and not self._waiters and not self._lock._is_owned():
                lock = self._lock
                try:
                    if lock.acquire(False):
                        if self._green is None and lock is self._lock:
                            self._green = me
                            return True
                        lock.release()
                except BaseException:  # a signal handler's
                    if self._green is None and lock._is_owned():
                        lock.release()
                    raise
                lock = None
        return self._acquire_slowly(blocking, timeout)

    __enter__ = acquire

    def _acquire_slowly(self, blocking: bool, timeout: float) -> bool:
        if timeout != -1 or blocking is not True:
            _allocate().acquire(blocking, timeout)  # raises for what is no timeout, or no truth value
        green = self._green
        me: Any = getcurrent()
        if green is not me:
            me = identity()
        if green is me:
            self._more += 1
            return True
        if me.__class__ is not Green:
            return (green is None and self._lock.acquire(False)) or self._take(blocking, timeout)
        if green is None and self._is_interrupted(me) and self._lock.acquire(False):
            self._green = me
            return True
        waits = bool(blocking) and timeout != 0
        if not (waits and self._waiters) and self._attempt_for(me):
            return True
        return waits and self._wait(me, None if timeout == -1 else timeout) is True

    def _is_interrupted(self, green: Green) -> bool:
        """Tell whether a green came in the midst of taking this lock, or of letting it go, or a greenlet within it."""
        if not self._lock._is_owned():
            return False
        current: Any = getcurrent()
        frame: FrameType | None = sys._getframe(1)
        while True:
            while frame is not None:
                if frame.f_code in _BOTH_LOCKS:
                    names = frame.f_locals
                    if names["self"] is self and names.get("lock") is not None:
                        return True
                frame = frame.f_back
            if current is green:
                return False
            parent = current.parent
            current = green if parent is None else parent
            frame = current.gr_frame

    def _take(self, blocking: bool, timeout: float) -> bool:
        """Acquire the native lock, as native code does."""
        deadline = _original.monotonic() + timeout if timeout > 0 else None
        while self._green is None or not self._lock._is_owned():
            lock = self._lock
            if not lock.acquire(blocking, timeout):
                return False
            if lock is self._lock:
                return True
            lock.release()  # the one inside has been replaced meanwhile
            if deadline is not None:
                timeout = max(deadline - _original.monotonic(), 0)
        if not blocking or timeout == 0:
            return False
        if timeout == -1:
            raise RuntimeError(
                f"{self!r} is held by a greenlet of this very thread, which cannot go on while the thread waits for "
                f"it; acquire the lock in a greenlet too, by `await to_greenlet(fn)`"
            )
        never = _allocate()
        never.acquire()
        never.acquire(True, timeout)
        return False

    def _attempt_for(self, green: Green) -> bool:
        if self._green is not None or self._lock._is_owned():
            return False  # another green has it, or native code of the thread
        lock = self._lock  # from here on, as `_is_interrupted` sees, the green may have the native one alone
        try:
            if not lock.acquire(False):
                return False
            if self._green is not None or lock is not self._lock:  # another green's; or replaced, and so held
                lock.release()
                return False
            self._green = green
            return True
        except BaseException:  # a signal handler's
            if self._green is None and lock._is_owned():
                lock.release()
            raise

    def _attempt(self) -> Any:
        return self._attempt_for(cast(Green, identity())) or NOTHING

    def release(self) -> None:
        """Let the lock go, or one of its holds. Never parks.

        Raises:
            RuntimeError: It is not the caller's.
        """
        green = self._green
        if green is None and not self._is_missed and getcurrent().parent is None:
            try:
                self._lock.release()
            finally:
                if self._waiters and not self._lock._is_owned():
                    self._invite()
        elif green is getcurrent() and not self._more and not self._is_missed:
            lock = self._lock
            self._green = None
            try:
                lock.release()
            finally:
                lock = None
                if self._waiters:
                    self._invite()
        else:
            self._release_slowly()

    def __exit__(self, kind: Any = None, error: Any = None, trace: Any = None) -> None:
        green = self._green
        if green is None and not self._is_missed and getcurrent().parent is None:
            try:
                self._lock.release()
            finally:
                if self._waiters and not self._lock._is_owned():
                    self._invite()
        elif green is getcurrent() and not self._more and not self._is_missed:
            lock = self._lock
            self._green = None
            try:
                lock.release()
            finally:
                lock = None
                if self._waiters:
                    self._invite()
        else:
            self._release_slowly()

    def _release_slowly(self) -> None:
        green = self._green
        me: Any = getcurrent()
        if green is not me:
            me = identity()
        if green is None:
            if me.__class__ is Green or not self._lock._is_owned():
                raise RuntimeError("cannot release un-acquired lock")
            if not self._is_missed or self._native_hold()[1] > 1:
                self._lock.release()
                if self._waiters and not self._lock._is_owned():
                    self._invite()
                return
        elif green is not me:
            raise RuntimeError("cannot release un-acquired lock")
        elif self._more:
            self._more -= 1
            return
        if self._is_missed:
            self._pass_on()
        else:
            self._let_go()

    def _let_go(self) -> None:
        lock = self._lock
        if self._green is None:
            release = lock._release_save
        else:
            release = lock.release
            self._green = None
        try:
            release()
        finally:  # whatever a signal handler raises
            lock = None
            if self._waiters:
                self._invite()

    def _is_held_once(self) -> bool:
        # The native one is held twice too if the caller is a handler that came between that and `_green`.
        return not self._more and self._native_hold()[1] == 1

    def _prepare(self) -> Any:
        # The native lock inside cannot be handed from thread to thread, and whoever waits for it would be quicker than
        # a green that takes it when it is let go. So another takes its place, which this thread has already.
        lock = _original.RLock()
        lock.acquire()
        return identity(), lock

    def _receive(self, offer: Any, means: Any) -> bool:
        green, replaced = self._green, self._lock
        if offer.declined or self._more:
            return False
        offer.accepted = True  # without a call in between, at which a finalizer might decline
        self._green, self._lock = means
        if _owner_and_count(replaced)[1] > 1:  # a signal handler has taken it again, in the thread that offers it
            offer.accepted = False
            self._lock, self._green = replaced, green
            means[1].release()
            return False
        replaced._release_save()  # whichever thread has it
        return True

    def _native_hold(self) -> tuple[int, int]:
        """Tell what only its repr tells of a native lock: the thread that has it, and how often."""
        return _owner_and_count(self._lock)

    def locked(self) -> bool:
        """Tell whether anybody holds the lock. Never parks."""
        return self._native_hold()[1] > 0

    def _available(self) -> bool:
        return self._green is None and not self.locked()

    def _is_owned(self) -> bool:
        green = self._green
        if green is not None:
            return green is identity()
        return self._lock._is_owned() and current_green() is None

    def _owner(self) -> Green | int | None:
        green: Green | None = self._green
        return self._native_hold()[0] or None if green is None else green

    def _recursion_count(self) -> int:
        if not self._is_owned():
            return 0
        return self._native_hold()[1] if self._green is None else self._more + 1

    def _release_save(self) -> Any:
        """Let every hold go, for the time of a wait on a condition; return what the native lock does."""
        green = self._green
        if green is None and not self._is_missed:
            saved = self._lock._release_save()
            if self._waiters:
                self._invite()
            return saved
        owner, count = self._native_hold() if green is None else (0, self._more + 1)
        if not count:
            raise RuntimeError("cannot release un-acquired lock")
        self._more = 0
        self._pass_on()
        return count, owner

    def _acquire_restore(self, saved: Any) -> None:
        self.acquire()
        if self._green is not None:
            self._more = saved[0] - 1
        else:
            for _ in range(saved[0] - 1):
                self._lock.acquire()

    def _at_fork_reinit(self) -> None:
        self._waiters = []
        self._green = None
        self._more = 0
        self._lock._at_fork_reinit()

    def __repr__(self) -> str:
        green = self._green
        if green is None:
            return repr(self._lock).replace(f"{id(self._lock):#x}", f"{id(self):#x}")
        # Not the green's own repr: it shows what the green waited for, which may be this lock.
        return f"<locked _thread.RLock object owner=<Green at {id(green):#x}> count={self._more + 1} at {id(self):#x}>"


_OWNER_AND_COUNT = re.compile(r" owner=(\d+) count=(\d+) ")


def _owner_and_count(native: Any) -> tuple[int, int]:
    shown = _OWNER_AND_COUNT.search(repr(native))
    return (int(shown[1]), int(shown[2])) if shown is not None else (0, 0)


_BOTH_LOCKS = tuple(
    method.__code__ for method in (RLock.acquire, RLock._attempt_for, RLock.release, RLock.__exit__, RLock._let_go)
)
"""Where a green may have the native lock and not be noted as the owner: as long as `lock` is a variable, and set."""


Lock.__module__ = RLock.__module__ = "_thread"
Lock.__name__ = "lock"  # as shown
Lock.__qualname__ = "lock" if PlainLock is Lock else "allocate_lock"  # where pickle finds it, patched or not


def identity() -> Green | int:
    """Tell who asks: the green, or in native code the thread.

    In a forked child, what was a green when it took a lock is still the one that may release it.
    """
    green = current_green()
    if green is None:
        green = forked_green()
    return _get_ident() if green is None else green
