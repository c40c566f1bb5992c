"""File objects of pipes and terminals: `open`, `os.fdopen`, and so the pipes of `subprocess.Popen`.

The layers that `open` builds are written in C. They take their octets from a raw file, `io.FileIO`, by its methods; so
what green code opens that is no regular file has a subclass of it below, whose methods park. Native code that uses such
a file later gets the native calls. The text layer is the native class.

The buffered layer is a subclass too, for two reasons. Its C lock belongs to the thread, so that a second green, while
one is parked inside, would get "reentrant call" where a second thread waits; and a green would block in C for a thread
that reads. Here a lock that both can wait for is taken first. And it reads in steps that lose nothing: what the C code
has collected for a `read` or a `readline` is gone when the raw file raises, and here it is given back, to be read next.
"""

from __future__ import annotations

import builtins
import io
import os
import stat
from asyncio import CancelledError
from collections.abc import Callable
from operator import index
from typing import Any
from weakref import WeakSet

from .._core import forget
from .._sync import RLock
from ._descriptors import read_into, read_some, write_some
from ._fifos import open as open_descriptor
from ._layers import build, model, native_open, raw_mode, subclass
from ._socket_state import green_caller
from ._table import Patch, like, patches

__all__ = ["PATCHES", "RAW_METHODS", "READER_METHODS", "WRITER_METHODS", "adopt_buffered"]

_Raw = io.FileIO
_Reader = io.BufferedReader
_Writer = io.BufferedWriter

_BACK = "_greenio_back"
"""The attribute of a raw file that keeps octets which were read, and then given back."""

_LOCK = "_greenio_lock"
"""The attribute of a buffered file with the lock that is taken before the native one."""

_CHUNK = 2**16
"""Octets that are read at once where all are wanted."""


def _readinto(self: Any, buffer: Any, /) -> int | None:
    back = vars(self).get(_BACK)
    if back:
        return _take_back(self, back, buffer)
    green = green_caller()
    if green is None or not _Raw.readable(self):
        return _Raw.readinto(self, buffer)
    try:
        return read_into(green, _Raw.fileno(self), (buffer,))
    except BlockingIOError:
        return None


def _take_back(raw: Any, back: bytes, buffer: Any) -> int:
    """Read what was given back."""
    view = memoryview(buffer).cast("B")
    found = back[: len(view)]
    view[: len(found)] = found
    setattr(raw, _BACK, back[len(found) :])
    return len(found)


def _give_back(raw: Any, octets: bytes) -> None:
    """Have octets read again, before all others."""
    if octets:
        setattr(raw, _BACK, octets + vars(raw).get(_BACK, b""))


def _raw_read(self: Any, size: int | None = -1, /) -> bytes | None:
    green = green_caller()
    if size is None or (isinstance(size, int) and size < 0):
        return _readall(self)
    if (green is None and not vars(self).get(_BACK)) or not hasattr(size, "__index__") or not _Raw.readable(self):
        return _Raw.read(self, size)
    back = vars(self).get(_BACK, b"")
    if back or green is None:
        setattr(self, _BACK, back[index(size) :])
        return back[: index(size)]  # type: ignore[no-any-return]
    try:
        return read_some(green, _Raw.fileno(self), index(size))
    except BlockingIOError:
        return None


def _readall(self: Any) -> bytes | None:
    if not _Raw.readable(self) or (green_caller() is None and not vars(self).get(_BACK)):
        return _Raw.readall(self)
    found = bytearray()
    try:
        while True:
            part = self.read(_CHUNK)
            if part is None and not found:
                return None
            if not part:
                return bytes(found)
            found += part
    except BaseException:
        _give_back(self, bytes(found))
        raise


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
    _Raw.close(self)


_locked: WeakSet[Any] = WeakSet()
"""The buffered files that have a lock, for the child of a fork, which has none of the greens that held one."""


def _free_locks() -> None:
    for file in tuple(_locked):
        setattr(file, _LOCK, RLock())


os.register_at_fork(after_in_child=_free_locks)


def adopt_buffered(file: Any) -> None:
    """Give a buffered file the lock that its methods take."""
    setattr(file, _LOCK, RLock())
    _locked.add(file)


def _locking(native: Callable[..., Any]) -> Any:
    """Have a method take the lock first."""

    @like(native)
    def method(self: Any, *args: Any, **keywords: Any) -> Any:
        with vars(self)[_LOCK]:
            return native(self, *args, **keywords)

    return method


def _steadily(native: Callable[..., Any], collect: Callable[..., Any]) -> Any:
    """Have green code read in steps, and give back what was read if it does not come to the end."""

    @like(native)
    def method(self: Any, *args: Any) -> Any:
        with vars(self)[_LOCK]:
            if green_caller() is None or not _can_collect(args):
                return native(self, *args)
            parts: list[bytes] = []
            try:
                return collect(self, parts, *args)
            except BaseException:
                _give_back(self.raw, b"".join(parts))
                raise

    return method


def _can_collect(args: tuple[Any, ...]) -> bool:
    """Tell whether arguments are right; what is wrong with others, the native call says."""
    return not args or (len(args) == 1 and (args[0] is None or isinstance(args[0], int)))


def _collect_read(self: Any, parts: list[bytes], size: int | None = -1) -> Any:
    if size is not None and size < -1:
        return _Reader.read(self, size)  # an error
    left = None if size is None or size < 0 else size
    while left is None or left > 0:
        part = _Reader.read1(self, _CHUNK if left is None else min(left, _CHUNK))
        if not part:
            if not parts and left != 0 and not os.get_blocking(self.raw.fileno()) and not _has_ended(self):
                return None
            break
        parts.append(part)
        if left is not None:
            left -= len(part)
    return b"".join(parts)


def _has_ended(file: Any) -> bool:
    """Tell whether a non-blocking file that gave nothing is at its end."""
    part: bytes | None = file.raw.read(1)
    _give_back(file.raw, part or b"")
    return part == b""


def _collect_line(self: Any, parts: list[bytes], size: int | None = -1) -> bytes:
    left = None if size is None or size < 0 else size
    while left is None or left > 0:
        seen = _Reader.peek(self)
        if not seen:
            break
        end = seen.find(b"\n") + 1
        part = _Reader.read1(self, min(end or len(seen), len(seen) if left is None else left))
        parts.append(part)
        if left is not None:
            left -= len(part)
        if part.endswith(b"\n"):
            break
    return b"".join(parts)


def _buffered_readinto(self: Any, buffer: Any, /) -> Any:
    with vars(self)[_LOCK]:
        if green_caller() is None:
            return _Reader.readinto(self, buffer)
        view = memoryview(buffer).cast("B")
        parts: list[bytes] = []
        try:
            found = _collect_read(self, parts, len(view))
        except BaseException:
            _give_back(self.raw, b"".join(parts))
            raise
        if found is None:
            return None
        view[: len(found)] = found
        return len(found)


RAW_METHODS: dict[str, Any] = {
    "readinto": like(_Raw.readinto)(_readinto),
    "read": like(_Raw.read)(_raw_read),
    "readall": like(_Raw.readall)(_readall),
    "write": like(_Raw.write)(_raw_write),
}
READER_METHODS: dict[str, Any] = {
    "read": _steadily(_Reader.read, _collect_read),
    "readline": _steadily(_Reader.readline, _collect_line),
    "readinto": like(_Reader.readinto)(_buffered_readinto),
    **{name: _locking(getattr(_Reader, name)) for name in ("read1", "readinto1", "peek")},
}
WRITER_METHODS: dict[str, Any] = {name: _locking(getattr(_Writer, name)) for name in ("write", "flush")}
"""The methods that wait, by name, of each layer."""

_COMMON = ("seek", "tell", "truncate", "close", "detach")


def _buffered(base: Any, methods: dict[str, Any]) -> Any:
    def __init__(self: Any, raw: Any, buffer_size: int) -> None:  # noqa: N807 - it becomes that method
        adopt_buffered(self)
        base.__init__(self, raw, buffer_size)

    common = {name: _locking(getattr(base, name)) for name in _COMMON}
    return subclass(base, common, methods, {"__init__": __init__})


_PipeFile = subclass(_Raw, RAW_METHODS, {"close": like(_Raw.close)(_raw_close)})
_CLASSES: dict[type, Any] = {
    _Reader: _buffered(_Reader, READER_METHODS),
    _Writer: _buffered(_Writer, WRITER_METHODS),
    io.BufferedRandom: io.BufferedRandom,  # takes no pipes and no terminals
}


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
    if green_caller() is None or (opener is None and _is_left_alone(file)):
        return native_open(file, mode, buffering, encoding, errors, newline, closefd, opener)
    like_it = model(mode, buffering, encoding, errors, newline)
    name = file if isinstance(file, int) else os.fspath(file)
    opened: list[int] = []
    try:
        raw = _PipeFile(name, raw_mode(mode), closefd, None if isinstance(file, int) else _opening(opener, opened))
    except _Regular:
        found = opened.pop()
        return native_open(file, mode, buffering, encoding, errors, newline, closefd, lambda path, flags: found)
    try:
        return build(raw, like_it, mode, buffering, newline, _CLASSES)
    except BaseException:
        raw.close()
        raise


PATCHES: tuple[Patch, ...] = patches(io, [open])
PATCHES = (*PATCHES, Patch(builtins, "open", PATCHES[0].green))
