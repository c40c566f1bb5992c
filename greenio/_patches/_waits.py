"""Waits of green code for several descriptors at once: what `select`, `poll` and the selectors stand on.

The caller has just tried, natively and with a timeout of zero, and found nothing. So it queues at every side that it is
interested in, parks, and tries again when any of them has told an edge. What a side does not tell (urgent data, a mere
hang-up) goes into an epoll of its own for the time of the call, and the green queues at that one's side.

Anybody may have closed one of these numbers since the last wait, in C and behind greenio's back (pipes of `subprocess`,
libpq), and the number may be somebody else's now: hence each wait begins with `renew`.
"""

from __future__ import annotations

import errno
import select
from asyncio import AbstractEventLoop
from collections.abc import Callable, Mapping
from contextvars import Context
from typing import Any, TypeVar

from .. import _original
from .._core import READY, Green, Host, Side, forget, getcurrent, park, reader, renew, resume, writer

__all__ = ["IN", "OUT", "PRI", "outermost_host", "wait_any", "wait_readable_until", "wait_until"]

IN, PRI, OUT = 1, 2, 4
"""POLLIN, POLLPRI and POLLOUT; epoll's are the same."""

_UNASKED = 8 | 16 | 32
"""POLLERR, POLLHUP and POLLNVAL, which are reported whether asked for or not."""

T = TypeVar("T", list[Any], tuple[list[Any], list[Any], list[Any]])


def wait_until(green: Green, attempt: Callable[[], T], interests: Mapping[int, int], deadline: float | None) -> T:
    """Park until `attempt`, a native call that does not block, finds something or the deadline has come.

    Args:
        green: The caller's green.
        attempt: The native call with a timeout of zero. It has just found nothing.
        interests: What may make it find something: masks of IN, PRI and OUT by descriptor.
        deadline: On the host's clock, in seconds; None waits for ever.

    Returns:
        What the last attempt returned.

    Raises:
        OSError: EBADF, if a descriptor was closed meanwhile and `attempt` does not tell of it in its own way.
    """
    special = {fd: mask for fd, mask in interests.items() if not _is_plain(mask)}
    if not special or _original.epoll is None:
        return _wait(green, attempt, _sides(green, interests), deadline)
    extra = _original.epoll()
    try:
        for fd, mask in special.items():
            _add(extra, fd, mask | select.EPOLLET)
        sides = _sides(green, interests)
        sides.append(reader(green.host, extra.fileno()))
        return _wait(green, attempt, sides, deadline, drain=extra.poll)
    finally:
        forget(extra.fileno())
        extra.close()


def _is_plain(mask: int) -> bool:
    """Tell whether the sides of a descriptor tell all that a mask asks for."""
    mask &= ~_UNASKED
    return bool(mask) and not mask & ~(IN | OUT)


def _add(poller: Any, fd: int, mask: int) -> None:
    try:
        poller.register(fd, mask)
    except OSError as error:
        # EPERM: a regular file never becomes ready, it is so from the start or never. EBADF: it was closed just now,
        # which the native call finds out in its own way.
        if error.errno not in (errno.EPERM, errno.EBADF):
            raise


def _sides(green: Green, interests: Mapping[int, int]) -> list[Side]:
    host = green.host
    sides = []
    for fd, mask in interests.items():
        renew(fd)
        if mask & OUT:
            sides.append(writer(host, fd))
        if mask & ~OUT or not mask:
            sides.append(reader(host, fd))  # for a special mask too: this is where closing is told
    return sides


def _ignore(_: int) -> None:
    return None


def _wait(
    green: Green,
    attempt: Callable[[], T],
    sides: list[Side],
    deadline: float | None,
    drain: Callable[[int], object] = _ignore,
) -> T:
    while True:
        try:
            ready = wait_any(green, sides, deadline)
        except OSError:
            found = attempt()  # tells of a closed descriptor in the native way: EBADF, or POLLNVAL
            if not any(found):
                raise
            return found
        drain(0)
        found = attempt()
        if not ready or any(found):
            return found


def wait_any(green: Green, sides: list[Side], deadline: float | None) -> bool:
    """Park until one of many sides tells an edge; False if the deadline came first."""
    if len(sides) == 1:
        return sides[0].wait(green, deadline)
    queued: list[Side] = []
    mark = green.parks
    try:
        for side in sides:
            if side.missed:
                side.missed = False
                return True
            if not side.armed:
                side.watch.arm(side)
            side.waiters.append(green)
            queued.append(side)
        green.what = sides
        return park(green, deadline, mark) is READY
    finally:
        for side in queued:
            side.waiters.remove(green)


def wait_readable_until(green: Green, attempt: Callable[[], list[Any]], fd: int, deadline: float | None) -> list[Any]:
    """Do what `wait_until` does where all that is waited for is behind one descriptor: an epoll, a kqueue."""
    renew(fd)
    side = reader(green.host, fd)
    outermost = outermost_host(green)
    while True:
        if outermost is green.host:
            ready = side.wait(green, deadline)
        else:
            ready = _wait_through(outermost, side, fd, green, deadline)
        found = attempt()
        if found or not ready:
            return found


def outermost_host(green: Green) -> Host:
    """Look up the host whose loop has the thread: not that of `green` if that one's loop runs in green code itself."""
    host = green.host
    current: Any = getcurrent()
    while current is not None:
        if current.__class__ is Green:
            host = current.host
        current = current.parent
    return host


def _wait_through(outermost: Host, side: Side, fd: int, green: Green, deadline: float | None) -> bool:
    """Wait in a loop that runs in a loop: the outermost one watches, and tells the green's own loop.

    Every loop is an epoll, and so is every host's poller. Were each to watch the next, a loop in a loop in a loop would
    be too deep: Linux allows five epolls within one another (ELOOP).
    """
    mark = green.parks
    if side.missed:
        side.missed = False
        return True
    duplicate = _original.dup(fd)  # one for each waiter, since the loop takes one callback for each descriptor
    notice = _Notice(green, outermost.loop, duplicate)
    Context().run(outermost.loop.add_reader, duplicate, notice.pass_on)
    side.waiters.append(green)  # to be told when it is closed
    green.what = side
    try:
        return park(green, deadline, mark) is READY
    finally:
        side.waiters.remove(green)
        notice.end()
        _original.close(duplicate)


class _Notice:
    """A wake-up on its way from one loop to another, where it may come too late."""

    __slots__ = ("_fd", "_green", "_loop")

    def __init__(self, green: Green, loop: AbstractEventLoop, fd: int) -> None:
        self._green: Green | None = green
        self._loop: AbstractEventLoop | None = loop
        self._fd = fd

    def pass_on(self) -> None:
        """Tell the green's own loop, once. In the outermost loop."""
        green = self._green
        self._stop()
        if green is not None:
            green.host.loop.call_soon_threadsafe(self._wake, context=Context())

    def _wake(self) -> None:
        green = self._green
        if green is not None and green.waiting:
            green.waiting = False
            resume(green, READY)

    def _stop(self) -> None:
        loop, self._loop = self._loop, None
        if loop is not None and not loop.is_closed():
            loop.remove_reader(self._fd)

    def end(self) -> None:
        """Take back what was not told yet."""
        self._green = None
        self._stop()
