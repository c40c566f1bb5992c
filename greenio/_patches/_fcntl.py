"""`fcntl.flock`, `lockf`, and `fcntl` with a command that waits for a lock, and `os.lockf`.

The call is tried with the variant that does not wait, and tried again after delays that grow up to a bound. Nobody
tells when another process gives a file lock back, except to a thread that waits in the kernel. Such a thread cannot be
called off, so that after a cancellation it would take the lock at some later time; and giving back what it took would
give back what the same descriptor (for `lockf` the whole process) has taken since. Whoever only tries holds nothing
that was not asked for.

When a lock is given back in this process by one of these functions, those who wait in it try at once.
"""

from __future__ import annotations

import fcntl as fcntl_module
import os
from collections.abc import Callable
from functools import partial
from typing import Any

from .._core import Green
from .._sync import Lock
from ._socket_state import green_caller, take_turn
from ._table import Group, like, patches

__all__ = ["ATTEMPTS", "GROUP"]

_native_flock = fcntl_module.flock
_native_lockf = fcntl_module.lockf
_native_fcntl = fcntl_module.fcntl
_native_os_lockf = os.lockf

_SHORTEST, _LONGEST = 0.001, 0.02
"""Seconds between two attempts, at first and at most."""

_CROWD = 16
"""So many waiters share the longest delay; more wait longer, so that all together try no more often."""

_TRIES = {
    getattr(fcntl_module, f"{name}W"): getattr(fcntl_module, name)
    for name in ("F_SETLK", "F_SETLK64", "F_OFD_SETLK")
    if hasattr(fcntl_module, f"{name}W")
}
"""The commands of `fcntl` that wait, each with the one that tries."""

_GIVING = frozenset(_TRIES) | frozenset(_TRIES.values())

_waiters: list[Lock] = []
"""The waits that are under way in this process, each with a lock that is released to have it try again."""


def _wait(green: Green, attempt: Callable[[], Any]) -> Any:
    """Call what raises BlockingIOError while somebody else has the lock, until it does not."""
    turn = Lock()
    turn.acquire()
    delay = _SHORTEST
    _waiters.append(turn)
    try:
        while True:
            turn.acquire(True, delay)
            try:
                return attempt()
            except BlockingIOError:
                delay = min(2 * delay, _LONGEST * (1 + len(_waiters) // _CROWD))
    finally:
        _waiters.remove(turn)


def _tell() -> None:
    """Have everybody in this process try again: what was held may be free."""
    for turn in tuple(_waiters):
        try:
            turn.release()
        except RuntimeError:
            pass  # told already


def _done(found: Any) -> Any:
    if _waiters:
        _tell()
    return found


@like(_native_flock)
def flock(fd: Any, operation: int, /) -> None:
    green = green_caller()
    if green is None or operation & (fcntl_module.LOCK_NB | fcntl_module.LOCK_UN):
        return _done(_native_flock(fd, operation))  # type: ignore[no-any-return]
    take_turn(green)
    try:
        return _done(_native_flock(fd, operation | fcntl_module.LOCK_NB))  # type: ignore[no-any-return]
    except BlockingIOError:
        pass
    return _wait(green, partial(_native_flock, fd, operation | fcntl_module.LOCK_NB))  # type: ignore[no-any-return]


@like(_native_lockf)
def lockf(fd: Any, cmd: int, len: int = 0, start: int = 0, whence: int = 0, /) -> None:
    green = green_caller()
    if green is None or cmd & (fcntl_module.LOCK_NB | fcntl_module.LOCK_UN):
        return _done(_native_lockf(fd, cmd, len, start, whence))  # type: ignore[no-any-return]
    take_turn(green)
    try:
        return _done(_native_lockf(fd, cmd | fcntl_module.LOCK_NB, len, start, whence))  # type: ignore[no-any-return]
    except BlockingIOError:
        start += _offset(fd, whence)  # as it is now, whatever moves meanwhile
    attempt = partial(_native_lockf, fd, cmd | fcntl_module.LOCK_NB, len, start, os.SEEK_SET)
    return _wait(green, attempt)  # type: ignore[no-any-return]


def _offset(fd: Any, whence: int) -> int:
    """Tell where a range begins that is counted from the position, or from the end."""
    number = fd if isinstance(fd, int) else fd.fileno()
    if whence == os.SEEK_CUR:
        return os.lseek(number, 0, os.SEEK_CUR)
    return os.fstat(number).st_size if whence == os.SEEK_END else 0


@like(_native_os_lockf)
def os_lockf(fd: int, command: int, length: int, /) -> None:
    green = green_caller()
    if green is None or command != os.F_LOCK:
        return _done(_native_os_lockf(fd, command, length))  # type: ignore[no-any-return]
    take_turn(green)
    try:
        return _done(_native_os_lockf(fd, os.F_TLOCK, length))  # type: ignore[no-any-return]
    except BlockingIOError:
        start = _offset(fd, os.SEEK_CUR)
    attempt = partial(_native_lockf, fd, fcntl_module.LOCK_EX | fcntl_module.LOCK_NB, length, start, os.SEEK_SET)
    return _wait(green, attempt)  # type: ignore[no-any-return]


@like(_native_fcntl)
def fcntl(fd: Any, cmd: int, arg: Any = 0, /) -> Any:
    if cmd not in _GIVING:
        return _native_fcntl(fd, cmd, arg)
    green = green_caller()
    tried = _TRIES.get(cmd)
    if green is None or tried is None:
        return _done(_native_fcntl(fd, cmd, arg))
    take_turn(green)
    try:
        return _done(_native_fcntl(fd, tried, arg))
    except BlockingIOError:
        pass
    return _wait(green, partial(_native_fcntl, fd, tried, arg))


_NO_WAIT = fcntl_module.LOCK_NB | fcntl_module.LOCK_UN

ATTEMPTS: dict[str, Callable[..., object]] = {
    "fcntl.flock": lambda fd, operation: operation & _NO_WAIT or _native_flock(fd, operation | fcntl_module.LOCK_NB),
    "fcntl.lockf": lambda fd, cmd, *args: cmd & _NO_WAIT or _native_lockf(fd, cmd | fcntl_module.LOCK_NB, *args),
    "fcntl.fcntl": lambda fd, cmd, arg=0: cmd not in _TRIES or _native_fcntl(fd, _TRIES[cmd], arg),
    "os.lockf": lambda fd, command, length: command != os.F_LOCK or _native_os_lockf(fd, os.F_TLOCK, length),
}
"""For each call that may wait what tries once: BlockingIOError says that somebody else has the lock."""

GROUP = Group("fcntl", (*patches(fcntl_module, [flock, lockf, fcntl]), *patches(os, [os_lockf])))
