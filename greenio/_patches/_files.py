"""Regular files, which never tell that they are not ready: large operations go to a thread. Patched on request only.

`open()` in green code makes the classes that it always makes, or subclasses of them whose large reads and writes are
the native ones, called as a whole in a thread. So what the native call locks belongs to that thread, as it would if a
worker thread made the call, and two greens that use one file wait for one another.

An operation that has begun is not broken off: its bytes would be lost. A cancellation is kept for the next park, and
what a signal handler raises comes when the operation is done.
"""

from __future__ import annotations

import builtins
import io
import os
import stat
from collections.abc import Callable
from functools import partial
from typing import Any

from ._layers import build, model, native_open, raw_mode, subclass
from ._own_threads import call_in_thread
from ._socket_state import green_caller, take_turn
from ._table import Group, Patch, like, patches

__all__ = ["GROUP", "LARGE"]

LARGE = 2**18
"""Octets from which on an operation goes to a thread: copying so many takes as long as to start one."""

_below: dict[str, Any] = {}
"""What the functions of this file were put over, by name: the native ones, or those of another group."""


def _call(native: Callable[..., Any], size: int, *args: Any) -> Any:
    """Call what moves so many octets of a regular file."""
    green = green_caller()
    if green is None:
        return native(*args)
    if size >= LARGE:
        return call_in_thread(green, native, *args)
    take_turn(green)
    return native(*args)


def _length(data: Any) -> int:
    """Tell how many octets there are in what is to be written; what is no buffer is left for the native call."""
    try:
        return memoryview(data).nbytes
    except TypeError:
        return 0


def _left(file: Any) -> int:
    """Tell how many octets there are to the end of a file."""
    try:
        return os.fstat(file.fileno()).st_size - file.tell()  # type: ignore[no-any-return]
    except (OSError, ValueError):
        return 0  # closed, or no such thing: the native call says so


def _reading(base: Any) -> dict[str, Any]:
    def read(self: Any, size: int | None = -1, /) -> Any:
        wanted = size if isinstance(size, int) and size >= 0 else _left(self)
        return _call(partial(base.read, self), wanted, size)

    def readinto(self: Any, buffer: Any, /) -> Any:
        return _call(partial(base.readinto, self), _length(buffer), buffer)

    found = {"read": like(base.read)(read), "readinto": like(base.readinto)(readinto)}
    if hasattr(base, "readall"):

        def readall(self: Any) -> Any:
            return _call(partial(base.readall, self), _left(self))

        found["readall"] = like(base.readall)(readall)
    return found


def _writing(base: Any) -> dict[str, Any]:
    def write(self: Any, data: Any, /) -> Any:
        return _call(partial(base.write, self), _length(data), data)

    return {"write": like(base.write)(write)}


_CLASSES: dict[type, Any] = {
    io.FileIO: subclass(io.FileIO, _reading(io.FileIO), _writing(io.FileIO)),
    io.BufferedReader: subclass(io.BufferedReader, _reading(io.BufferedReader)),
    io.BufferedWriter: subclass(io.BufferedWriter, _writing(io.BufferedWriter)),
    io.BufferedRandom: subclass(io.BufferedRandom, _reading(io.BufferedRandom), _writing(io.BufferedRandom)),
}
"""The classes of binary files, each with the one that green code gets."""


class _NotRegular(Exception):
    """The opener of a user has opened something else than a regular file."""


def _opening(opener: Callable[[Any, int], int], opened: list[int]) -> Callable[[Any, int], int]:
    """Make an opener that stops for what the user's one has opened, if that is no regular file."""

    def open_file(path: Any, flags: int) -> int:
        fd = opener(path, flags)
        if isinstance(fd, int) and fd >= 0 and not _fd_is_regular(fd):
            opened.append(fd)
            raise _NotRegular
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
    is_for_here = _is_regular if opener is None else _is_path  # the opener decides
    if green_caller() is None or not is_for_here(file):
        return _below["open"](file, mode, buffering, encoding, errors, newline, closefd, opener)
    name = file if isinstance(file, int) else os.fspath(file)
    like_it = model(mode, buffering, encoding, errors, newline)
    opened: list[int] = []
    try:
        raw: Any = _CLASSES[io.FileIO](name, raw_mode(mode), closefd, opener and _opening(opener, opened))
    except _NotRegular:
        found = opened.pop()
        return _below["open"](file, mode, buffering, encoding, errors, newline, closefd, lambda path, flags: found)
    try:
        return build(raw, like_it, mode, buffering, newline, _CLASSES)
    except BaseException:
        raw.close()
        raise


def _is_path(file: Any) -> bool:
    return isinstance(file, (str, bytes, os.PathLike))


def _is_regular(file: Any) -> bool:
    """Tell whether a file is a regular one, or is going to be."""
    try:
        return stat.S_ISREG(os.stat(file).st_mode)
    except FileNotFoundError:
        return True
    except (OSError, TypeError, ValueError):
        return False  # the native call says what is wrong


def _fd_is_regular(fd: Any) -> bool:
    try:
        return stat.S_ISREG(os.fstat(fd if isinstance(fd, int) else fd.fileno()).st_mode)
    except (AttributeError, OSError, TypeError, ValueError, OverflowError):
        return False


def _sizes(buffers: Any) -> int:
    try:
        return sum(map(_length, buffers))
    except TypeError:
        return 0


def _is_int(value: Any) -> int:
    return value if isinstance(value, int) else 0


_MEASURES: dict[str, Callable[..., int]] = {
    "read": lambda fd, size: _is_int(size),
    "pread": lambda fd, size, offset: _is_int(size),
    "readv": lambda fd, buffers: _sizes(buffers),
    "preadv": lambda fd, buffers, offset, flags=0: _sizes(buffers),
    "write": lambda fd, data: _length(data),
    "pwrite": lambda fd, data, offset: _length(data),
    "writev": lambda fd, buffers: _sizes(buffers),
    "pwritev": lambda fd, buffers, offset, flags=0: _sizes(buffers),
    "sendfile": lambda out_fd, in_fd, offset, count, *args, **keywords: _is_int(count),
    "copy_file_range": lambda src, dst, count, *args, **keywords: _is_int(count),
    "fsync": lambda fd: LARGE,
    "fdatasync": lambda fd: LARGE,
}
"""How many octets a call of `os` moves at most, by its arguments; to sync is always a large operation."""


def _moving(name: str, measure: Callable[..., int]) -> Any:
    native = getattr(os, name)

    @like(native)
    def call(*args: Any, **keywords: Any) -> Any:
        green = green_caller()
        if green is None:
            return _below[name](*args, **keywords)
        try:
            is_large = measure(*args, **keywords) >= LARGE
        except TypeError:
            is_large = False  # wrong arguments, or by keyword: the native call knows
        if is_large and _fd_is_regular(next(iter((*args, *keywords.values())))):
            return call_in_thread(green, partial(native, *args, **keywords))
        return _below[name](*args, **keywords)

    return call


def _patches() -> tuple[Patch, ...]:
    made = (
        *patches(io, [open]),
        *patches(os, [_moving(name, measure) for name, measure in _MEASURES.items() if hasattr(os, name)]),
    )
    layered = [Patch(each.owner, each.name, each.green, partial(_below.__setitem__, each.name)) for each in made]
    return (*layered, Patch(builtins, "open", made[0].green))


GROUP = Group("files", _patches())
