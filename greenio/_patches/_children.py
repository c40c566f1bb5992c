"""`os.wait`, `waitpid`, `wait3`, `wait4`, `waitid` and `system`: child processes, as `os` has them.

A status is taken by the native call with WNOHANG, in the thread of the loop and in the same step in which the green
call returns; so what is returned or raised is the native call's doing, and a wait that is cancelled takes none. In
between the green parks.

For the end of one child that is a wait for its pidfd. For any child of several, or for one that stops or goes on, no
descriptor tells: the call is tried again after delays that grow up to a bound, and at once when one of the children has
ended that there were when the wait began. `docs/design.md` says why no thread waits there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from operator import index
from typing import Any

from .. import _original
from .._core import Green, forget
from ._own_threads import call_in_thread
from ._process_ends import SHORTEST, longer, nap, opened_pidfds, wait_for_end
from ._socket_state import green_caller, take_turn
from ._table import like, patches
from ._waits import wait_readable_until

__all__ = ["PATCHES"]

_native_wait: Any = getattr(os, "wait", None)
_native_waitpid: Any = getattr(os, "waitpid", None)
_native_wait3: Any = getattr(os, "wait3", None)
_native_wait4: Any = getattr(os, "wait4", None)
_native_waitid = _original.waitid
_native_system: Any = getattr(os, "system", None)

_WNOHANG = getattr(os, "WNOHANG", 0)
_CHANGES = getattr(os, "WUNTRACED", 0) | getattr(os, "WCONTINUED", 0)
"""Options by which a child is waited for that has not ended. WSTOPPED is another name of WUNTRACED."""

_P_PIDFD = getattr(os, "P_PIDFD", None)


def _take(attempt: Callable[[], Any]) -> list[Any]:
    """Take a status, if there is one: the native call tells of none by None, or by the process 0."""
    found = attempt()
    return [] if found is None or found[0] == 0 else [found]


def _wait(green: Green, attempt: Callable[[], Any], pid: int | None, ends_only: bool) -> Any:
    """Park until an attempt, a native call that does not block, has taken a status.

    Args:
        green: The caller's green.
        attempt: The native call with WNOHANG.
        pid: The child that is waited for; None if it may be one of several.
        ends_only: Whether nothing but its end counts.
    """
    take_turn(green)
    take = partial(_take, attempt)
    found = take()
    if not found and pid is not None and ends_only:
        wait_for_end(green, pid, None)
        found = take()
    if not found:
        found = _wait_for_change(green, take, _own_children if pid is None else lambda: (pid,))
    return found[0]


def _wait_for_change(green: Green, take: Callable[[], list[Any]], pids: Callable[[], Iterable[int]]) -> list[Any]:
    delay = SHORTEST
    with opened_pidfds(pids) as ends:
        while True:
            if ends is None:
                nap(green, delay, None)
                found = take()
            else:
                green.what = "child processes"
                found = wait_readable_until(green, take, ends.fileno(), green.host.clock() + delay)
            if found:
                return found
            delay = longer(delay)


def _own_children() -> Iterator[int]:
    """List the children that this process has now; none where the system does not tell."""
    try:
        for task in os.listdir("/proc/self/task"):
            yield from map(int, _read(f"/proc/self/task/{task}/children").split())
    except OSError:
        return


def _read(path: str) -> bytes:
    fd = _original.open_descriptor(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _original.read(fd, 2**16)
    finally:
        _original.close(fd)


def _one(pid: int) -> int | None:
    """Tell which child `waitpid` waits for; None if it may be one of several."""
    return pid if pid > 0 else None


def _wait_by_pidfd(green: Green, fd: int, options: int) -> Any:
    """Wait for the child that the user's own pidfd stands for; on a duplicate, since that may be closed meanwhile."""
    take_turn(green)
    take = partial(_take, partial(_native_waitid, _P_PIDFD, fd, options | _WNOHANG))
    found = take()
    if found:
        return found[0]
    if not os.get_blocking(fd):
        return _native_waitid(_P_PIDFD, fd, options)  # raises BlockingIOError
    duplicate = _original.dup(fd)
    try:
        delay = SHORTEST
        while not found:
            deadline = green.host.clock() + delay if options & _CHANGES else None
            found = wait_readable_until(green, take, duplicate, deadline)
            delay = longer(delay)
        return found[0]
    finally:
        forget(duplicate)
        _original.close(duplicate)


def _greens() -> Iterator[Any]:
    """Make the green functions that this platform has natives of."""
    if not _WNOHANG:
        return

    @like(_native_wait)
    def wait() -> Any:
        green = green_caller()
        if green is None:
            return _native_wait()
        return _wait(green, partial(_native_waitpid, -1, _WNOHANG), None, True)

    @like(_native_waitpid)
    def waitpid(pid: int, options: int, /) -> Any:
        green = green_caller()
        if green is None or (options := index(options)) & _WNOHANG:
            return _native_waitpid(pid, options)
        attempt = partial(_native_waitpid, pid, options | _WNOHANG)
        return _wait(green, attempt, _one(index(pid)), not options & _CHANGES)

    @like(_native_wait3)
    def wait3(options: int) -> Any:
        green = green_caller()
        if green is None or (options := index(options)) & _WNOHANG:
            return _native_wait3(options)
        return _wait(green, partial(_native_wait3, options | _WNOHANG), None, not options & _CHANGES)

    @like(_native_wait4)
    def wait4(pid: int, options: int) -> Any:
        green = green_caller()
        if green is None or (options := index(options)) & _WNOHANG:
            return _native_wait4(pid, options)
        attempt = partial(_native_wait4, pid, options | _WNOHANG)
        return _wait(green, attempt, _one(index(pid)), not options & _CHANGES)

    @like(_native_waitid)
    def waitid(idtype: int, id: int, options: int, /) -> Any:
        green = green_caller()
        if green is None or (options := index(options)) & _WNOHANG:
            return _native_waitid(idtype, id, options)
        if idtype == _P_PIDFD:
            return _wait_by_pidfd(green, id, options)
        attempt = partial(_native_waitid, idtype, id, options | _WNOHANG)
        return _wait(green, attempt, id if idtype == os.P_PID else None, not options & _CHANGES)

    found = {_native_wait: wait, _native_waitpid: waitpid, _native_wait3: wait3}
    found |= {_native_wait4: wait4, _native_waitid: waitid}
    yield from (green for native, green in found.items() if native is not None)


@like(_native_system)
def system(command: Any) -> int:
    green = green_caller()
    if green is None:
        return _native_system(command)  # type: ignore[no-any-return]
    # The native call as a whole: it ignores SIGINT and SIGQUIT for the whole process while the command runs, which
    # Python code could do in the main thread only.
    return call_in_thread(green, _native_system, command, cancellable=True)  # type: ignore[no-any-return]


PATCHES = patches(os, [*_greens(), system])
"""Rows of the group "os"."""
