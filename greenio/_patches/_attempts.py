"""How green code reads and writes a bare descriptor, of which nothing is known but its number.

The descriptor's mode is not touched: it is shared with other processes, those that use the same terminal above all. So
an attempt is made in one of two ways that leave it as it is.

* `preadv` and `pwritev` with RWF_NOWAIT and an offset of -1 do what `readv` and `writev` do, and fail with EAGAIN where
  those would block. Linux has it for pipes, sockets, eventfds, and to read most file systems: it costs hardly more than
  the plain call, needs no look at what the descriptor is, and no competitor can come in between.
* What knows no RWF_NOWAIT says so, by EOPNOTSUPP: terminals, named pipes, many files, every descriptor of other
  systems. There `poll` comes first, which tells of a regular file that it is always ready, and then the plain call. In
  between the greens of all loops of the process are kept apart. Should native code, or another process, be quicker at
  that very moment, then the call blocks, as it would have without greenio. A terminal that hands out octets, not lines,
  is ready when it has VMIN of them, which is not what a read waits for: see `_pause`.

That RWF_NOWAIT is of no use is remembered by number. It is a hint only: a number may have been closed and used again
behind greenio's back. With a wrong hint the second way is taken, which serves every kind; it is forgotten with a park.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import select
import stat
import sys
import termios
from collections.abc import Callable, MutableSet, Sequence
from typing import Any, Literal

from .. import _original
from .._core import Green, Host, Side, forget, reader, renew, writer

__all__ = [
    "NOWAIT",
    "Direction",
    "Waiter",
    "is_known_file",
    "is_ready",
    "is_regular",
    "may_wait",
    "until",
    "write_once",
]

Direction = Literal["read", "write"]
_EVENTS = {"read": select.POLLIN, "write": select.POLLOUT}
_OTHER = {"read": os.O_WRONLY, "write": os.O_RDONLY}
_SIDES: dict[str, Callable[[Host, int], Side]] = {"read": reader, "write": writer}

NOWAIT: int = getattr(os, "RWF_NOWAIT", 0)
_native_pwritev: Any = getattr(os, "pwritev", None)
_native_isatty = os.isatty
_native_fcntl = fcntl.fcntl
_native_ioctl = fcntl.ioctl

_POLLED: dict[str, MutableSet[int]] = {"read": set(), "write": set()}
"""The descriptors that have said they know no RWF_NOWAIT."""

_PIECE = 4096
"""Octets that a pipe or a stream socket takes without blocking, if it is ready: PIPE_BUF."""

_TERMINAL_PIECE = 128
"""Octets that a terminal takes if it is ready: there is room for 256 then."""

_NAP = 0.02
"""Seconds between two looks at how many octets a terminal has."""

_PTMX = os.makedev(5, 2)
"""The other end of a terminal, which shows the modes of the terminal, and has none itself. On Linux."""

_special = re.compile(rb"[\x00-\x1f]").search
"""Finds what a terminal writes by itself, as something else, and for which it wants room again."""

_turns = tuple(_original.RLock() for _ in range(64))
"""Held from `poll` to the call that it was for, each for some descriptors. A signal handler may come in between."""


def is_regular(fd: int) -> bool:
    """Tell whether a descriptor is of the kind that never waits for anybody else."""
    return stat.S_ISREG(os.fstat(fd).st_mode)


def knows_nowait(fd: int, direction: Direction) -> bool:
    """Tell whether RWF_NOWAIT is worth trying."""
    return bool(NOWAIT) and fd not in _POLLED[direction]


def is_known_file(fd: int, direction: Direction) -> bool:
    """Tell quickly that a descriptor is a regular file of a kind that knows no RWF_NOWAIT; False for any other."""
    return fd in _POLLED[direction] and is_regular(fd)


def is_ready(fd: int, direction: Direction) -> bool:
    """Ask the kernel whether a call would not block; True for a bad descriptor as well."""
    assert _original.poll is not None
    level = _original.poll()
    level.register(fd, _EVENTS[direction])
    return bool(level.poll(0))


def may_wait(fd: int, direction: Direction) -> bool:
    """Tell whether the native call would wait: not on a non-blocking descriptor, nor one for the other direction."""
    flags: int = _native_fcntl(fd, fcntl.F_GETFL)
    return not flags & os.O_NONBLOCK and flags & os.O_ACCMODE != _OTHER[direction]


def _pause(fd: int, size: int) -> tuple[float | None, bool]:
    """Look up how long a read may wait for a terminal that is not ready; None is for ever, as with all else.

    A terminal that hands out octets, not lines, is ready when it has VMIN of them. A read takes fewer if it asks for
    fewer; and if VMIN is 0, it waits for VTIME tenths of a second and returns with nothing.

    Returns:
        The seconds, and whether the read ends after these; if not, it is time to look again.
    """
    if not _native_isatty(fd) or os.fstat(fd).st_rdev == _PTMX:
        return None, False
    try:
        _, _, _, local, _, _, special = termios.tcgetattr(fd)
    except termios.error:
        return None, False  # it is gone, which the next call tells
    if local & termios.ICANON:
        return None, False
    least, tenths = special[termios.VMIN], special[termios.VTIME]
    if not least:
        return tenths / 10, True
    if size >= least:
        return None, False
    octets = int.from_bytes(_native_ioctl(fd, termios.FIONREAD, bytes(4)), sys.byteorder)
    return (0.0 if octets >= size else _NAP), False


class Waiter:
    """The waits of one call for one direction of one descriptor."""

    __slots__ = ("_direction", "_fd", "_green", "_known")

    def __init__(self, green: Green, fd: int, direction: Direction) -> None:
        self._green = green
        self._fd = fd
        self._direction: Direction = direction
        self._known = False

    def wait(self, deadline: float | None = None) -> bool:
        """Park until something may have happened; False for what is always ready, such as a regular file.

        The number may have been closed and used again in C, where nobody tells greenio: hence `renew`, which has the
        kernel tell the present state. Not a second time, since what is told then may be no reason to go on.
        """
        try:
            if not self._known:
                renew(self._fd)
                self._known = True
            side = _SIDES[self._direction](self._green.host, self._fd)
            if not side.armed and not side.watch.arm(side):
                return False
        except PermissionError:
            forget(self._fd)  # what was watched under this number is gone
            return False
        side.wait(self._green, deadline)
        return True


def until(
    green: Green,
    fd: int,
    direction: Direction,
    attempt: Callable[[], Any],
    polled: Callable[[], Any],
    native: Callable[[], Any],
    tried: bool = False,
    size: int = 0,
    nothing: Any = None,
) -> Any:
    """Read or write as soon as that does not block.

    Args:
        green: The caller's green.
        fd: The descriptor.
        direction: What is done.
        attempt: Does it with RWF_NOWAIT.
        polled: Does it, or a part of it, where the descriptor is ready.
        native: Does it where waiting is not for greenio: a descriptor that is non-blocking, or a regular file.
        tried: An attempt has just failed with EAGAIN.
        size: How many octets are read; of no account, and so 0, for all but those.
        nothing: What is returned if a terminal waits no longer.
    """
    hints = _POLLED[direction]
    waiter: Waiter | None = None
    deadline: float | None = None
    while True:
        pause, is_last = None, False
        if tried:
            tried = False
        elif NOWAIT and fd not in hints:
            try:
                return attempt()
            except BlockingIOError:
                pass
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP:
                    raise
                hints.add(fd)
                continue
        else:
            with _turns[fd % 64]:
                if is_ready(fd, direction):
                    return polled()
                if size:
                    pause, is_last = _pause(fd, size)
                if pause == 0:
                    return polled()
        if not may_wait(fd, direction):
            return native()
        if is_last and deadline is not None and green.host.clock() >= deadline:
            return nothing
        if pause is None:
            deadline = None
        elif deadline is None or not is_last:
            deadline = green.host.clock() + pause
        waiter = waiter or Waiter(green, fd, direction)
        hints.discard(fd)
        if not waiter.wait(deadline):
            return native()


def write_once(
    green: Green, fd: int, views: Sequence[memoryview], native: Callable[[Sequence[memoryview]], int]
) -> int:
    """Write some of what is in `views`, as much as is taken without blocking, and one octet at least. Parks.

    Args:
        green: The caller's green.
        fd: The descriptor.
        views: The octets.
        native: Writes such views.

    Returns:
        How many octets were written.
    """

    def attempt() -> Any:
        return _native_pwritev(fd, views, -1, NOWAIT)

    def polled() -> Any:
        return native(_first(views, _piece(fd, views)))

    return until(green, fd, "write", attempt, polled, lambda: native(views))  # type: ignore[no-any-return]


def _piece(fd: int, views: Sequence[memoryview]) -> int:
    """Tell how many octets may be written at once, without blocking, to a descriptor that is ready."""
    size = sum(view.nbytes for view in views)
    if _native_isatty(fd):
        piece = next(filter(None, views), memoryview(b""))[:_TERMINAL_PIECE]
        special = _special(piece)
        return max(1, special.start()) if special else len(piece)
    if size > _PIECE and _is_stream(os.fstat(fd).st_mode) and may_wait(fd, "write"):
        return _PIECE
    return size


def _is_stream(mode: int) -> bool:
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)  # a datagram is no longer, or goes out by RWF_NOWAIT


def _first(views: Sequence[memoryview], size: int) -> Sequence[memoryview]:
    found = []
    for view in views:
        found.append(view[:size])
        size -= len(found[-1])
        if size <= 0:
            break
    return found
