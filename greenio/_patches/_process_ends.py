"""Waits for the end of a child process, without taking its status.

A pidfd becomes readable when its process has ended, for as many waiters as there are, in any thread and any loop, and
nobody's status is taken by waiting. Where there is none (other systems, Linux before 5.3, no descriptor left) a thread
for each process waits with `waitid(..., WNOWAIT)`, which takes no status either; it ends with the process. Where not
even that is to be had, callers are left to try again after short delays.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from .. import _original
from .._core import Green, forget, park, reader
from .._sync import Lock

__all__ = ["SHORTEST", "longer", "nap", "opened_pidfds", "wait_for_end"]

_pidfd_open: Any = getattr(os, "pidfd_open", None)
_native_waitid = _original.waitid

SHORTEST, _LONGEST = 0.001, 0.02
"""Seconds between two attempts where nobody tells, at first and at most."""

_MOST = 64
"""Processes that one wait for several opens a pidfd of."""


def longer(delay: float) -> float:
    """Tell after how many seconds to try again, having tried after `delay`."""
    return min(2 * delay, _LONGEST)


def nap(green: Green, delay: float, deadline: float | None, what: str = "child processes") -> None:
    """Park for a short delay at most, but not beyond a deadline."""
    until = green.host.clock() + delay
    green.what = what
    park(green, until if deadline is None else min(until, deadline), green.parks)


def wait_for_end(green: Green, pid: int, deadline: float | None) -> bool:
    """Park until a child has ended, or somebody has taken its status; False if the deadline came first.

    True is a hint only, and may come early: try to take the status without blocking, and again if it was for nothing.
    """
    try:
        fd = _pidfd_open(pid) if _pidfd_open is not None else None
    except ProcessLookupError:
        return True  # somebody else has waited for it
    except OSError:
        fd = None  # too many are open, or a filter of system calls refuses it: a native wait needs no descriptor
    if fd is None:
        return _wait_by_thread(green, pid, deadline)
    try:
        return reader(green.host, fd).wait_level(green, deadline)
    finally:
        forget(fd)
        _original.close(fd)


_ends: dict[int, Lock] = {}
"""For each process that a thread waits for: a lock that is held until it has ended."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_ends.clear)


def _wait_by_thread(green: Green, pid: int, deadline: float | None) -> bool:
    if _native_waitid is None:
        return True
    end = _end_of(pid)
    timeout = -1 if deadline is None else deadline - green.host.clock()
    if timeout != -1 and timeout <= 0:
        return False
    if not end.acquire(True, timeout):
        return False
    end.release()
    return True


def _end_of(pid: int) -> Lock:
    made = Lock()
    made.acquire()
    end = _ends.setdefault(pid, made)
    if end is made:
        try:
            _original.start_new_thread(_tell_end, (pid, made))
        except BaseException:
            _release(pid, made)
            raise
    return end


def _tell_end(pid: int, end: Lock) -> None:
    try:
        _native_waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    except OSError:
        pass  # its status was taken by others, or is kept by nobody since SIGCHLD is ignored
    finally:
        _release(pid, end)


def _release(pid: int, end: Lock) -> None:
    if _ends.get(pid) is end:
        del _ends[pid]
    end.release()


@contextlib.contextmanager
def opened_pidfds(pids: Callable[[], Iterable[int]]) -> Iterator[Any]:
    """Make an epoll that is readable when one of several processes has ended, for the time of a `with` block.

    Gives None where there is no such thing, and knows of as many processes as it could: it makes a wait prompt that
    tries again after short delays anyhow.
    """
    if _pidfd_open is None or _original.epoll is None:
        yield None
        return
    with contextlib.ExitStack() as opened:
        try:
            ends = opened.enter_context(_original.epoll())
        except OSError:
            ends = None  # too many are open
        else:
            opened.callback(forget, ends.fileno())
            for pid in islice(pids(), _MOST):
                with contextlib.suppress(OSError):  # ended and gone, or too many are open
                    fd = _pidfd_open(pid)
                    opened.callback(_original.close, fd)
                    ends.register(fd, _IN)
        yield ends


_IN = 1
"""EPOLLIN."""
