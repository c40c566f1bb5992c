"""`threading.Lock` and `threading.RLock` for greens of any loop and for native threads at once."""

from __future__ import annotations

import _thread
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any, Final, NoReturn, cast

from .. import _original
from .._core import Forked, Green, current_green, getcurrent, thread_state
from ._waiting import NOTHING, Invited, Shared

__all__ = ["HELD", "Lock", "PlainLock", "RLock"]

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
        if blocking and timeout == -1 and not self._waiters and self._lock.acquire(False):
            return True
        return self._take(blocking, timeout)

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
        self._lock.release()
        if self._waiters:
            self._invite()

    def _let_go(self) -> None:
        self._lock.release()
        if self._waiters:
            self._invite()

    def _receive(self) -> None:
        pass  # nobody owns it

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

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if self._is_missed and self._lock.locked():
            self._pass_on()
            return
        self._lock.release()
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

    The owner is a green, or for native code the number of a thread. (A thread's main greenlet would do for both, and be
    quicker to ask for; but when a thread ends, greenlet takes a reference to it that the collector does not see, such
    as a local variable's, for a leak, and drops it.) Who asks is looked up in three places in the same words, since a
    call would cost as much as the rest.

    One operation of a dict, `setdefault`, both takes the lock and says whose it is. So a signal handler that comes at
    any moment, in the very thread, finds it either free or its own thread's, and never waits for itself. With a native
    lock inside there would be a moment in between, hence native threads too wait in a list, each for a lock of its own.
    """

    __slots__ = ("_holds",)

    _native = _original.RLock

    _holds: dict[int, Any]
    """HELD: [owner, count] while it is held; _SLEEPERS: native threads that wait."""

    def __new__(cls, *args: Any, **kwargs: Any) -> RLock:
        """Make a free lock: here, since a subclass of the native one need not call its `__init__`."""
        if _RLOCK_WARNS and (args or kwargs) and cls is RLock:
            text = "Passing arguments to RLock is deprecated and will be removed in 3.15"
            warnings.warn(text, DeprecationWarning, stacklevel=2)
        self = object.__new__(cls)
        self._waiters = []
        self._is_missed = False
        self._holds = {}
        return self

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take the lock, once more if it is the caller's. Parks in green code.

        Takes, returns and raises what `Lock.acquire` does, and besides:

        Raises:
            RuntimeError: Native code would block its thread for ever, since a green of that very thread is the owner.
        """
        me: Any = getcurrent()
        if me.parent is None:
            me = _get_ident()
        elif me.__class__ is not Green:
            me = identity()
        if timeout != -1 or not blocking:
            _allocate().acquire(blocking, timeout)  # raises for what is no timeout
        mine = [me, 1]
        hold = self._holds.get(HELD) if self._waiters else self._holds.setdefault(HELD, mine)
        if hold is mine:
            return True
        if hold is not None and hold[0] == me:
            hold[1] += 1
            return True
        return self._acquire_slowly(mine, blocking, timeout)

    __enter__ = acquire

    def _acquire_slowly(self, mine: list[Any], blocking: bool, timeout: float) -> bool:
        green = current_green()
        if green is not None and blocking and timeout != 0:
            return self._wait(green, None if timeout == -1 else timeout) is True
        if self._holds.setdefault(HELD, mine) is mine:
            return True
        return blocking and timeout != 0 and self._sleep(mine, timeout)

    def _sleep(self, mine: list[Any], timeout: float) -> bool:
        """Block the calling thread until the lock is its own."""
        holds = self._holds
        if timeout == -1:
            self._refuse_to_wait_for_own_thread(holds.get(HELD))
        deadline = None if timeout == -1 else _original.monotonic() + timeout
        turn = _Turn()
        sleepers = holds.setdefault(_SLEEPERS, [])
        sleepers.append(turn)
        try:
            while not self._attempt_awake(turn, mine):
                if turn.missed:
                    self._note_miss()
                left = -1 if deadline is None else deadline - _original.monotonic()
                if left != -1 and left <= 0:
                    return False
                turn.wait(left)
            return True
        finally:
            turn.leave()
            sleepers.remove(turn)
            if HELD not in holds:
                self._wake_sleeper()

    def _attempt_awake(self, turn: _Turn, mine: list[Any]) -> bool:
        return self._accept(turn) or self._holds.setdefault(HELD, mine) is mine

    def _refuse_to_wait_for_own_thread(self, hold: list[Any] | None) -> None:
        owner = hold[0] if hold is not None else None
        if owner.__class__ is Green and owner.thread is thread_state():
            raise RuntimeError(
                f"{self!r} is held by a greenlet of this very thread, which cannot go on while the thread waits for "
                f"it; acquire the lock in a greenlet too, by `await to_greenlet(fn)`"
            )

    def _wake_sleeper(self) -> None:
        """Wake the native thread that waits longest; like a green that is invited, it has to try again."""
        turn = self._first_asleep()
        if turn is not None:
            turn.invite()

    def _first_asleep(self) -> _Turn | None:
        sleepers: list[_Turn] = self._holds.get(_SLEEPERS, [])
        for turn in tuple(sleepers):
            if turn.forks == forks[0]:
                return turn
            sleepers.remove(turn)  # it stayed behind in the process that was forked
        return None

    def release(self) -> None:
        """Let the lock go, or one of its holds. Never parks.

        Raises:
            RuntimeError: It is not the caller's.
        """
        me: Any = getcurrent()
        if me.parent is None:
            me = _get_ident()
        elif me.__class__ is not Green:
            me = identity()
        holds = self._holds
        hold = holds.get(HELD)
        if hold is None or hold[0] != me:
            raise RuntimeError("cannot release un-acquired lock")
        if hold[1] != 1:
            hold[1] -= 1
            return
        if self._is_missed:
            self._pass_on()
            return
        del holds[HELD]
        if holds:
            self._wake_sleeper()
        if self._waiters:
            self._invite()

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        me: Any = getcurrent()
        if me.parent is None:
            me = _get_ident()
        elif me.__class__ is not Green:
            me = identity()
        holds = self._holds
        hold = holds.get(HELD)
        if hold is None or hold[0] != me:
            raise RuntimeError("cannot release un-acquired lock")
        if hold[1] != 1:
            hold[1] -= 1
            return
        if self._is_missed:
            self._pass_on()
            return
        del holds[HELD]
        if holds:
            self._wake_sleeper()
        if self._waiters:
            self._invite()

    def _pass_on(self) -> None:
        turn = self._first_asleep()
        if turn is None or not self._offer(turn):
            super()._pass_on()

    def _let_go(self) -> None:
        holds = self._holds
        del holds[HELD]
        if holds:
            self._wake_sleeper()
        if self._waiters:
            self._invite()

    def _receive(self) -> None:
        self._holds[HELD] = [identity(), 1]

    def locked(self) -> bool:
        """Tell whether anybody holds the lock. Never parks."""
        return HELD in self._holds

    def _attempt(self) -> Any:
        mine = [identity(), 1]
        return True if self._holds.setdefault(HELD, mine) is mine else NOTHING

    def _available(self) -> bool:
        return HELD not in self._holds

    def _is_owned(self) -> bool:
        hold = self._holds.get(HELD)
        return hold is not None and hold[0] == identity()

    def _owner(self) -> Green | int | None:
        hold = self._holds.get(HELD)
        return None if hold is None else hold[0]

    def _recursion_count(self) -> int:
        hold = self._holds.get(HELD)
        return hold[1] if hold is not None and hold[0] == identity() else 0

    def _release_save(self) -> int:
        """Let every hold go, for the time of a wait on a condition."""
        hold = self._holds.get(HELD)
        if hold is None:
            raise RuntimeError("cannot release un-acquired lock")
        self._pass_on()
        return int(hold[1])

    def _acquire_restore(self, count: int) -> None:
        self.acquire()
        self._holds[HELD][1] = count

    def _at_fork_reinit(self) -> None:
        self._waiters = []
        self._holds = {}

    def __repr__(self) -> str:
        hold = self._holds.get(HELD)
        owner, count = hold if hold is not None else (0, 0)
        # Not the green's own repr: it shows what the green waited for, which may be this lock.
        shown = owner if isinstance(owner, int) else f"<Green at {id(owner):#x}>"
        state = "locked" if hold is not None else "unlocked"
        return f"<{state} _thread.RLock object owner={shown} count={count} at {id(self):#x}>"


HELD: Final = 0
"""Where `_holds` has the owner and the count, as a list of two, while the lock is held."""

_SLEEPERS: Final = 1


class _Turn(Invited):
    """What one native thread sleeps on."""

    __slots__ = ("_lock", "_thread", "forks")

    def __init__(self) -> None:
        super().__init__()
        self._lock = _allocate()
        self._lock.acquire()
        self._thread = _get_ident()
        self.forks = forks[0]

    def wait(self, timeout: float) -> None:
        """Block until there is an invitation, or for so many seconds; -1 is for ever."""
        self._lock.acquire(True, timeout)
        self.answer_invitation()

    def invite(self) -> bool:
        """Wake the thread, if it is not awake already."""
        self.invited = True
        try:
            self._lock.release()
        except RuntimeError:
            pass
        return True

    def is_of_this_thread(self) -> bool:
        """Tell whether the caller is a signal handler, and the thread sleeps below it."""
        return self._thread == _get_ident()


forks = [0]
"""How many forks lie between this process and the one that imported greenio."""


def _count_fork() -> None:
    forks[0] += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_count_fork)


Lock.__module__ = RLock.__module__ = "_thread"
Lock.__name__ = "lock"  # as shown
Lock.__qualname__ = "lock" if PlainLock is Lock else "allocate_lock"  # where pickle finds it, patched or not


def identity() -> Green | int:
    """Tell who asks: the green, or in native code the thread.

    In a forked child, what was a green when it took a lock is still the one that may release it.
    """
    green = current_green()
    if green is not None:
        return green
    current: Any = getcurrent()
    while current.parent is not None:
        if current.__class__ is Forked:
            return cast(Green, current)
        current = current.parent
    return _get_ident()
