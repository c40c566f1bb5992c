"""`os.read`, `os.write` and their like, on whatever is no regular file: pipes, terminals, eventfds, sockets.

`_attempts` tells how a call is kept from blocking. What the native call does in one go, such as to write all of a large
buffer, is done here in as many steps as it takes, with parks in between. A descriptor that the user has made
non-blocking gets the native call, and its EAGAIN.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from asyncio import CancelledError
from collections.abc import Callable, Sequence
from functools import partial
from operator import index
from typing import Any

from .. import _original
from .._core import Green, yield_once
from ._attempts import (
    NOWAIT,
    Direction,
    Waiter,
    is_known_file,
    is_ready,
    is_regular,
    knows_nowait,
    may_wait,
    until,
    write_once,
)
from ._socket_state import green_caller, take_turn
from ._table import like, patches

__all__ = ["PATCHES", "read_into", "read_some", "write_some"]

_native_open = os.open
_native_read = _original.read
_native_write = _original.write
_native_readv: Any = getattr(os, "readv", None)
_native_writev: Any = getattr(os, "writev", None)
_native_preadv: Any = getattr(os, "preadv", None)
_native_pwritev: Any = getattr(os, "pwritev", None)
_native_sendfile: Any = _original.sendfile
_native_splice: Any = getattr(os, "splice", None)
_native_eventfd_read: Any = getattr(os, "eventfd_read", None)
_native_eventfd_write: Any = getattr(os, "eventfd_write", None)

_LARGE = 2**16
"""Octets from which on it is worth asking whether a file is regular: RWF_NOWAIT reads into a buffer, to be copied."""

_NONBLOCK: int = getattr(os, "SPLICE_F_NONBLOCK", 0)

_PIECE = 4096
"""Octets of a file that are sent at once: a socket that is ready takes them without blocking."""


def read_some(green: Green, fd: int, size: int) -> bytes:
    """Do what `os.read` does. Parks.

    Raises:
        BlockingIOError: The descriptor is non-blocking, and there is nothing to be read.
    """
    take_turn(green)
    tried = False
    if 0 < size < _LARGE and knows_nowait(fd, "read"):
        try:
            return _read_now(fd, size)
        except BlockingIOError:
            tried = True
        except OSError:
            pass  # the reason is found out below
    native = partial(_native_read, fd, size)
    if size <= 0:
        return _move_nothing(green, fd, "read", native)  # type: ignore[no-any-return]
    if is_known_file(fd, "read") or (size >= _LARGE and is_regular(fd)):
        return native()

    attempt = partial(_read_now, fd, size)
    return until(green, fd, "read", attempt, native, native, tried, size, b"")  # type: ignore[no-any-return]


def _read_now(fd: int, size: int) -> bytes:
    buffer = bytearray(size)
    count: int = _native_preadv(fd, (buffer,), -1, NOWAIT)
    if count < size:
        del buffer[count:]
    return bytes(buffer)


def _refuse() -> Any:
    """Make no attempt: RWF_NOWAIT takes what moves no octet for done, whatever the descriptor is."""
    raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))


def _move_nothing(green: Green, fd: int, direction: Direction, native: Callable[[], Any]) -> Any:
    """Read or write no octet: at once where the kernel does so whatever is there, or else when something is there."""
    kind = _kind(fd)
    if stat.S_ISFIFO(kind) or (stat.S_ISSOCK(kind) and direction == "read") or os.isatty(fd):
        return native()
    return until(green, fd, direction, _refuse, native, native)


def read_into(green: Green, fd: int, buffers: Sequence[Any]) -> int:
    """Do what `os.readv` does. Parks.

    Raises:
        BlockingIOError: The descriptor is non-blocking, and there is nothing to be read.
    """
    take_turn(green)
    native = partial(_native_readv, fd, buffers)
    size = sum(memoryview(buffer).nbytes for buffer in buffers)
    if not size:
        return _move_nothing(green, fd, "read", native)  # type: ignore[no-any-return]
    attempt = partial(_native_preadv, fd, buffers, -1, NOWAIT)
    return until(green, fd, "read", attempt, native, native, size=size, nothing=0)  # type: ignore[no-any-return]


def write_some(green: Green, fd: int, data: Any) -> int:
    """Write some octets, as many as are taken without blocking, and one at least. Parks.

    Raises:
        BlockingIOError: The descriptor is non-blocking and takes nothing.
    """
    take_turn(green)
    views = [memoryview(data).cast("B")]
    return _forgetting(views, partial(write_once, green, fd, native=partial(_write_first, fd)))


def _write_first(fd: int, views: Sequence[memoryview]) -> int:
    return _native_write(fd, views[0])


def _write_all(green: Green, fd: int, views: list[memoryview], native: Callable[[Sequence[memoryview]], int]) -> int:
    """Write until all is written, as the native call does on a blocking descriptor.

    What was written before an error counts, as it does natively. A cancellation is raised: what is written is written.
    """
    size = sum(map(len, views))
    done = 0
    while True:
        try:
            count = write_once(green, fd, views, native)
        except CancelledError:
            raise
        except OSError:
            if done:
                return done
            raise
        done += count
        if done >= size or not count or not os.get_blocking(fd):
            return done
        views = _rest(views, count)


def _rest(views: list[memoryview], count: int) -> list[memoryview]:
    """Leave out the first octets."""
    for position, view in enumerate(views):
        if count < len(view):
            return [view[count:], *views[position + 1 :]]
        count -= len(view)
    return []


def _is_size(value: Any) -> bool:
    return (value.__class__ is int or hasattr(value, "__index__")) and 0 <= index(value) < sys.maxsize


def _is_offset(value: Any) -> bool:
    return value is None or isinstance(value, int)


def _is_counted(value: Any) -> bool:
    return isinstance(value, int) and 0 < value <= _MOST


def _are_descriptors(*values: Any) -> bool:
    """Tell whether descriptors may be such; what is not, the native call refuses."""
    if len(values) == 1 and values[0].__class__ is int:
        return 0 <= values[0] < 2**31  # by far the most
    return all(
        (value.__class__ is int or hasattr(value, "__index__")) and 0 <= index(value) < 2**31 for value in values
    )


@like(_native_read)
def read(fd: int, length: int, /) -> bytes:
    green = green_caller()
    if green is None or not _are_descriptors(fd) or not _is_size(length):
        return _native_read(fd, length)
    return read_some(green, index(fd), index(length))


@like(_native_write)
def write(fd: int, data: Any, /) -> int:
    green = green_caller()
    if green is None or not _are_descriptors(fd):
        return _native_write(fd, data)
    take_turn(green)
    number = index(fd)
    views = None if is_known_file(number, "write") else _views([data])
    if views is None:
        return _native_write(number, data)
    if not views[0]:
        return _move_nothing(green, number, "write", partial(_native_write, number, data))  # type: ignore[no-any-return]
    return _forgetting(views, partial(_write_all, green, number, native=partial(_write_first, number)))


def _forgetting(views: list[memoryview], write: Callable[[list[memoryview]], int]) -> int:
    """Write, and let nobody look at the buffers any more afterwards.

    A traceback would: it keeps the local variables of whoever raised, and a bytearray cannot change its size meanwhile.
    """
    try:
        return write(views)
    except OSError as error:
        failed = error.with_traceback(None)
    finally:
        views.clear()
    try:
        raise failed
    finally:
        del failed


def _views(buffers: Any) -> list[memoryview] | None:
    """Look at buffers as octets; None if they are none, which the native call will say."""
    try:
        return [memoryview(buffer).cast("B") for buffer in buffers]
    except (TypeError, ValueError):
        return None


@like(_native_readv)
def readv(fd: int, buffers: Sequence[Any], /) -> int:
    green = green_caller()
    if green is None or not _are_descriptors(fd) or _views(buffers) is None:
        return _native_readv(fd, buffers)  # type: ignore[no-any-return]
    return read_into(green, index(fd), buffers)


@like(_native_writev)
def writev(fd: int, buffers: Sequence[Any], /) -> int:
    green = green_caller()
    views = _views(buffers) if green is not None and _are_descriptors(fd) and hasattr(buffers, "__len__") else None
    if green is None or not views or not any(views):
        return _native_writev(fd, buffers)  # type: ignore[no-any-return]
    take_turn(green)
    return _forgetting(views, partial(_write_all, green, index(fd), native=partial(_native_writev, index(fd))))


@like(_native_preadv)
def preadv(fd: int, buffers: Sequence[Any], offset: int, flags: int = 0, /) -> int:
    if offset != -1 or flags or green_caller() is None:
        return _native_preadv(fd, buffers, offset, flags)  # type: ignore[no-any-return]
    return readv(fd, buffers)  # type: ignore[no-any-return]  # which is what -1 means, on Linux


@like(_native_pwritev)
def pwritev(fd: int, buffers: Sequence[Any], offset: int, flags: int = 0, /) -> int:
    if offset != -1 or flags or green_caller() is None:
        return _native_pwritev(fd, buffers, offset, flags)  # type: ignore[no-any-return]
    return writev(fd, buffers)  # type: ignore[no-any-return]


@like(_native_sendfile)
def sendfile(out_fd: int, in_fd: int, offset: int | None, count: int) -> int:
    green = green_caller()
    if green is None or not _are_descriptors(out_fd, in_fd) or not _is_size(count) or not _is_offset(offset):
        return _native_sendfile(out_fd, in_fd, offset, count)  # type: ignore[no-any-return]
    take_turn(green)
    kind = _kind(out_fd) if count else 0
    if not (stat.S_ISSOCK(kind) or stat.S_ISFIFO(kind)):
        return _native_sendfile(out_fd, in_fd, offset, count)  # type: ignore[no-any-return]
    done: int = 0
    while True:
        _wait_until_ready(green, index(out_fd), "write")
        piece = min(count - done, _PIECE) if stat.S_ISSOCK(kind) and os.get_blocking(out_fd) else count - done
        try:
            sent = _native_sendfile(out_fd, in_fd, None if offset is None else offset + done, piece)
        except OSError:
            if done:
                return done
            raise
        done += sent
        if not sent or done >= count or sent < piece or stat.S_ISFIFO(kind):
            return done
        take_turn(green)


def _kind(fd: int) -> int:
    """Tell what a descriptor is; 0 for a bad one, of which the native call has to tell."""
    try:
        return os.fstat(fd).st_mode
    except OSError:
        return 0


def _wait_until_ready(green: Green, fd: int, direction: Direction) -> None:
    """Park until a call does not block; return at once where it never does."""
    waiter: Waiter | None = None
    while not is_ready(fd, direction) and may_wait(fd, direction):
        waiter = waiter or Waiter(green, fd, direction)
        if not waiter.wait():
            return


@like(_native_splice)
def splice(
    src: int, dst: int, count: int, offset_src: int | None = None, offset_dst: int | None = None, flags: int = 0
) -> int:
    green = green_caller()
    if green is None or not _are_descriptors(src, dst) or not _is_size(count) or not count or flags & _NONBLOCK:
        return _native_splice(src, dst, count, offset_src, offset_dst, flags)  # type: ignore[no-any-return]
    take_turn(green)
    piece = min(count, _PIECE) if stat.S_ISSOCK(_kind(dst)) else count
    while True:
        _wait_until_ready(green, index(src), "read")
        _wait_until_ready(green, index(dst), "write")
        if not is_ready(src, "read") and may_wait(src, "read"):
            continue  # somebody else has taken what was there
        try:
            return _native_splice(src, dst, piece, offset_src, offset_dst, flags | _NONBLOCK)  # type: ignore[no-any-return]
        except BlockingIOError:
            if not (os.get_blocking(src) and os.get_blocking(dst)):
                raise
            yield_once(green)


@like(_native_eventfd_read)
def eventfd_read(fd: int) -> int:
    green = green_caller()
    if green is None or not _are_descriptors(fd):
        return _native_eventfd_read(fd)  # type: ignore[no-any-return]
    take_turn(green)

    def attempt() -> int:
        buffer = bytearray(8)
        _native_preadv(fd, (buffer,), -1, NOWAIT)
        return int.from_bytes(buffer, sys.byteorder)

    native = partial(_native_eventfd_read, fd)
    return until(green, index(fd), "read", attempt, native, native)  # type: ignore[no-any-return]


_MOST = 2**64 - 2
"""The most that the counter of an eventfd holds."""


@like(_native_eventfd_write)
def eventfd_write(fd: int, value: int) -> None:
    green = green_caller()
    if green is None or not _are_descriptors(fd) or not _is_counted(value):
        return _native_eventfd_write(fd, value)  # type: ignore[no-any-return]
    take_turn(green)
    number = index(fd)
    if value > 1:
        _wait_for_room(green, number, value)
    native = partial(_native_eventfd_write, number, value)
    return until(green, number, "write", _refuse, native, native)  # type: ignore[no-any-return]


def _wait_for_room(green: Green, fd: int, value: int) -> None:
    """Park until a counter takes a value: that it is ready means that it takes one more."""
    waiter = Waiter(green, fd, "write")
    while os.get_blocking(fd) and _counter(fd) + value > _MOST and waiter.wait():
        pass


def _counter(fd: int) -> int:
    """Tell what the counter of an eventfd holds, without taking it; 0 if that is not to be known."""
    try:
        info = _native_open(f"/proc/self/fdinfo/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        words = _native_read(info, 4096).split()
    finally:
        _original.close(info)
    return int(words[words.index(b"eventfd-count:") + 1], 16) if b"eventfd-count:" in words else 0


_ANYWHERE: list[Any] = [read, write, readv, writev]
_ON_LINUX: list[Any] = [preadv, pwritev, sendfile, splice, eventfd_read, eventfd_write]

PATCHES = patches(os, _ANYWHERE + (_ON_LINUX if sys.platform == "linux" else []))
