"""File objects of pipes and terminals: `open`, `os.fdopen`, and so the pipes of `subprocess.Popen`.

The layers that `open` builds are written in C. They take their octets from a raw file, `io.FileIO`, by its methods; so
what green code opens that is no regular file has a subclass of it below, whose methods park. Native code that uses such
a file later gets the native calls.

`_buffered_files` and `_text_files` have the layers above, and tell why those are subclasses too.
"""

from __future__ import annotations

import builtins
import io
import os
import stat
import sys
from asyncio import CancelledError
from collections.abc import Callable
from operator import index
from typing import Any

from .._core import forget
from ._buffered_files import BUFFERED, CHUNK, give_back, is_dry, read_lines, take_back, take_back_into
from ._descriptors import read_into, read_some, write_some
from ._fifos import open as open_descriptor
from ._layers import build, model, native_open, raw_mode, subclass
from ._socket_state import green_caller
from ._table import Patch, like, patches
from ._text_files import text_file

__all__ = ["PATCHES", "RAW_METHODS", "Native", "PipeFile", "is_native_pipe", "waits"]

_Raw = io.FileIO


class Native:
    """The native calls by which raw files of pipes are read, for `on_blocking` to set its guards upon.

    Attributes:
        watched: Whether it does. Then native code too gets files whose calls come by here, where it opens a pipe.
    """

    readinto: Any = _Raw.readinto
    read: Any = _Raw.read
    readall: Any = _Raw.readall
    watched = False


def _readinto(self: Any, buffer: Any, /) -> int | None:
    found = take_back_into(self, buffer)
    if found != -1:
        return found
    green = green_caller()
    if green is None or not _Raw.readable(self):
        return Native.readinto(self, buffer)  # type: ignore[no-any-return]
    try:
        return read_into(green, _Raw.fileno(self), (buffer,))
    except BlockingIOError:
        return None


def _raw_read(self: Any, size: int | None = -1, /) -> bytes | None:
    if size is None or (isinstance(size, int) and size < 0):
        return _readall(self)
    if not hasattr(size, "__index__"):
        return _Raw.read(self, size)
    back = take_back(self, index(size))
    if back is not None or is_dry(self):
        return back
    green = green_caller()
    if green is None or not _Raw.readable(self):
        return Native.read(self, size)  # type: ignore[no-any-return]
    try:
        return read_some(green, _Raw.fileno(self), index(size))
    except BlockingIOError:
        return None


def _readall(self: Any) -> bytes | None:
    back = take_back(self, sys.maxsize)
    if is_dry(self):
        return back
    if not _Raw.readable(self) or (back is None and green_caller() is None):
        return Native.readall(self)  # type: ignore[no-any-return]
    found = bytearray(back or b"")
    try:
        while part := self.read(CHUNK):
            found += part
    except BaseException:
        give_back(self, bytes(found))
        raise
    return None if part is None and not found else bytes(found)


def _raw_readline(self: Any, size: int | None = -1, /) -> bytes:
    if green_caller() is None or not (size is None or hasattr(size, "__index__")):
        return _Raw.readline(self, size)
    most = -1 if size is None else index(size)
    found = bytearray()
    try:
        while (most < 0 or len(found) < most) and not found.endswith(b"\n"):
            octet = self.read(1)
            if octet is None:
                raise OSError("read() should have returned a bytes object, not 'NoneType'")  # as C says of it
            if not octet:
                break
            found += octet
    except BaseException:
        give_back(self, bytes(found))
        raise
    return bytes(found)


def _raw_readlines(self: Any, hint: int | None = -1, /) -> list[bytes]:
    if green_caller() is None:
        return _Raw.readlines(self, hint)  # type: ignore[arg-type]
    return read_lines(self, hint, lambda lines: give_back(self, b"".join(lines)))


def _raw_write(self: Any, data: Any, /) -> int | None:
    green = green_caller()
    if green is None or not _Raw.writable(self) or not memoryview(data).nbytes:
        return _Raw.write(self, data)
    fd = _Raw.fileno(self)
    try:
        done = write_some(green, fd, data)
    except BlockingIOError:
        return None
    size = memoryview(data).nbytes
    try:
        while done < size and os.get_blocking(fd):
            done += write_some(green, fd, memoryview(data).cast("B")[done:])
    except CancelledError as error:
        # A buffered layer above must know what is written, or it would write that again.
        green.cancellation = green.cancellation or error
    except OSError:
        pass  # it comes again with the next call; this one has written something
    return done


def _raw_close(self: Any) -> None:
    if not _Raw.closed.__get__(self) and _Raw.closefd.__get__(self):
        forget(_Raw.fileno(self))
    take_back(self, sys.maxsize)
    _Raw.close(self)


RAW_METHODS: dict[str, Any] = {
    "readinto": like(_Raw.readinto)(_readinto),
    "read": like(_Raw.read)(_raw_read),
    "readall": like(_Raw.readall)(_readall),
    "readline": like(_Raw.readline)(_raw_readline),
    "readlines": like(_Raw.readlines)(_raw_readlines),
    "write": like(_Raw.write)(_raw_write),
}
"""The methods that wait, by name."""

PipeFile = subclass(_Raw, RAW_METHODS, {"close": like(_Raw.close)(_raw_close)})


def is_native_pipe(file: Any) -> bool:
    """Tell whether a native raw file is a pipe, a socket or a terminal that is open, and was given no methods."""
    try:
        return waits(_Raw.fileno(file)) and RAW_METHODS.keys().isdisjoint(vars(file))
    except (OSError, ValueError):
        return False


def waits(fd: int) -> bool:
    """Tell whether a descriptor is a pipe, a socket or a terminal."""
    mode = os.fstat(fd).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(fd)


class _Regular(Exception):
    """The opener of a user has opened a regular file."""


def _never_waits(mode: int) -> bool:
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISBLK(mode)


def _is_left_alone(file: Any) -> bool:
    """Tell whether the native call serves a file: a regular one, one that is about to be made, or none."""
    try:
        return _never_waits(os.stat(file).st_mode)
    except (OSError, TypeError, ValueError):
        return True


def _opening(opener: Callable[[Any, int], int] | None, opened: list[int]) -> Callable[[Any, int], int]:
    """Make an opener that parks, and stops for a regular file that the user's one has opened."""

    def open_file(path: Any, flags: int) -> int:
        if opener is None:
            return open_descriptor(path, flags, 0o666)  # type: ignore[no-any-return]
        fd = opener(path, flags)
        if isinstance(fd, int) and fd >= 0 and _never_waits(os.fstat(fd).st_mode):
            opened.append(fd)
            raise _Regular
        return fd

    return open_file


@like(native_open)
def open(
    file: Any,
    mode: str = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Any = None,
) -> Any:
    is_native = green_caller() is None and not Native.watched
    if is_native or (opener is None and _is_left_alone(file)):
        return native_open(file, mode, buffering, encoding, errors, newline, closefd, opener)
    name = file if isinstance(file, int) else os.fspath(file)
    like_it = model(mode, buffering, encoding, errors, newline)
    opened: list[int] = []
    try:
        raw = PipeFile(name, raw_mode(mode), closefd, None if isinstance(file, int) else _opening(opener, opened))
    except _Regular:
        found = opened.pop()
        return native_open(file, mode, buffering, encoding, errors, newline, closefd, lambda path, flags: found)
    try:
        return build(raw, like_it, mode, buffering, newline, BUFFERED, text_file)
    except BaseException:
        raw.close()
        raise


PATCHES: tuple[Patch, ...] = patches(io, [open])
PATCHES = (*PATCHES, Patch(builtins, "open", PATCHES[0].green))
