"""The buffered layer of files that park: `io.BufferedReader` and `io.BufferedWriter` with methods of greenio's own.

Why they need any. Their C lock belongs to the thread, so that a second green, while one is parked inside, would get
"reentrant call" where a second thread waits; so would a forked child. And what the C code has collected for a `read` or
a `readline` is gone when the raw file raises, as it does for a cancellation.

So a lock that greens and threads share is taken first. A green that reads never parks inside the C code: this takes
what there is without asking the descriptor, because the raw file is *dry* meanwhile (see `_drily`); the green waits for
more outside of it, and leaves what came with the raw file, where the C code finds it. What was read in vain is given
back in the same way, to be read next.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable
from contextlib import suppress
from operator import index
from typing import Any, TypeAlias
from weakref import WeakSet

from .._core import Green
from .._sync import RLock, owner_of
from ._layers import subclass
from ._socket_state import green_caller
from ._table import like

__all__ = [
    "BUFFERED",
    "CHUNK",
    "HALVES",
    "READER_METHODS",
    "WRITER_METHODS",
    "adopt_buffered",
    "give_back",
    "is_adopted",
    "is_dry",
    "lock_of",
    "locking",
    "read_lines",
    "reader_of",
    "settle",
    "take_back",
    "take_back_into",
    "take_line",
    "writer_of",
]

End: TypeAlias = Callable[[bytes], object] | None
"""What finds the end of what is wanted, if it has one."""

_Reader = io.BufferedReader
_Writer = io.BufferedWriter

_BACK = "_greenio_back"
"""The attribute of a raw file that keeps octets to be read before all others; none at all are the end of the file."""

_DRY = "_greenio_dry"
"""The attribute of a raw file that says whether it has nothing but what it keeps."""

_CLOSING = "_greenio_closing"
"""The attribute of a raw file that another thread is about to close: whoever has queued must not wait for it now."""

_LOCK = "_greenio_lock"
_SIZE = "_greenio_size"
"""Attributes of a buffered file: the lock that is taken before the native one; the size of the buffer, where known."""

HALVES = "_greenio_halves"
"""The attribute of a file that reads and writes: the two buffered files that it has for that."""

CHUNK = 2**16
"""Octets that are read at once where all are wanted."""


def take_back(raw: Any, size: int) -> bytes | None:
    """Read what a raw file keeps, up to so many octets; None if it keeps nothing."""
    kept = vars(raw)
    back: bytes | None = kept.pop(_BACK, None)
    if back is None or len(back) <= size:
        return back
    kept[_BACK] = back[size:]
    return back[:size]


def take_back_into(raw: Any, buffer: Any) -> int | None:
    """Read what a raw file keeps into a buffer.

    Returns:
        The number of octets; None if it keeps nothing, and must not ask its descriptor; -1 if that is to be asked.
    """
    kept = raw.__dict__
    if _BACK not in kept:
        return None if kept.get(_DRY) else -1
    view = memoryview(buffer).cast("B")
    back = take_back(raw, len(view)) or b""
    view[: len(back)] = back
    return len(back)


def give_back(raw: Any, octets: bytes) -> None:
    """Have octets read again, before all others."""
    if octets:
        vars(raw)[_BACK] = octets + vars(raw).get(_BACK, b"")


def is_dry(raw: Any) -> bool:
    """Tell whether a raw file must not ask its descriptor."""
    return bool(vars(raw).get(_DRY))


def _drily(file: Any, native: Callable[..., Any], *args: Any) -> Any:
    """Call a native method that takes what is in the buffer, or kept by the raw file, and nothing else."""
    raw = file.raw
    if raw is None:
        return native(file, *args)  # an error: it was detached
    kept = vars(raw)
    kept[_DRY] = True
    try:
        return native(file, *args)
    finally:
        kept[_DRY] = False


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


def reader_of(file: Any) -> Any:
    """Look up what a buffered file reads by: itself, unless it has two halves."""
    return vars(file).get(HALVES, (file,))[0]


def writer_of(file: Any) -> Any:
    """Look up what a buffered file writes by: itself, unless it has two halves."""
    return vars(file).get(HALVES, (file,))[-1]


def is_adopted(file: Any) -> bool:
    """Tell whether a buffered file has a lock that greens share."""
    return not {_LOCK, HALVES}.isdisjoint(getattr(file, "__dict__", ()))


def lock_of(file: Any) -> RLock:
    """Look up the lock of a buffered file."""
    return vars(file)[_LOCK]  # type: ignore[no-any-return]


def locking(native: Callable[..., Any], lock_of: Callable[[Any], RLock] = lock_of) -> Any:
    """Have a method take the lock first."""

    @like(native)
    def method(self: Any, *args: Any, **keywords: Any) -> Any:
        with lock_of(self):
            return native(self, *args, **keywords)

    return method


def settle(file: Any) -> None:
    """Have what the raw file of a reader keeps move to the native buffer, from where native methods take it."""
    with suppress(ValueError):  # closed
        _drily(file, _Reader.peek)


def _fetch(file: Any, wanted: int) -> bytes | None:
    """Wait for more, and take it from the raw file: up to so many octets. Parks.

    Returns:
        Nothing at the end of the file; None if the descriptor is non-blocking, and there is nothing.
    """
    raw = file.raw
    if _CLOSING in vars(raw):
        raise ValueError("I/O operation on closed file.")
    return raw.read(min(wanted, CHUNK))  # type: ignore[no-any-return]


def _fill(file: Any, wanted: int) -> bool | None:
    """Wait for more, and leave it with the raw file: as much as the buffer holds, at least. Parks.

    Returns:
        False at the end of the file; None if the descriptor is non-blocking, and there is nothing.
    """
    part = _fetch(file, max(wanted, _size_of(file)))
    if part is None:
        return None
    vars(file.raw)[_BACK] = part
    return bool(part)


def _size_of(file: Any) -> int:
    """Tell the size of the buffer."""
    return vars(file).get(_SIZE, io.DEFAULT_BUFFER_SIZE)  # type: ignore[no-any-return]


def _is_whole(part: bytes | None, left: int, end: End) -> bool:
    """Tell whether a call that wanted so many octets (-1: all), or an end, has what it wanted."""
    return len(part or b"") == left or (end is not None and part is not None and end(part) is not None)


def _collect(file: Any, parts: list[bytes], native: Callable[..., Any], left: int, end: End) -> bool | None:
    """Have a native method read until there is what is wanted, or nothing more; return what `_fill` returned last."""
    while not _is_whole(part := _drily(file, native, left), left, end):
        if part:
            parts.append(part)
            left -= len(part) if left > 0 else 0
        while end is None and not 0 <= left <= _size_of(file):  # more than the buffer holds: past it
            octets = _fetch(file, left if left > 0 else CHUNK)
            if not octets:
                return None if octets is None else False
            parts.append(octets)
            left -= len(octets) if left > 0 else 0
        if left == 0:
            return True
        found = _fill(file, 0)
        if not found:
            if found is False:
                take_back(file.raw, 0)
            return found
    parts.append(part or b"")
    return True


def _read(file: Any, native: Callable[..., Any], size: int, end: End = None) -> bytes | None:
    """Read in steps, and give back what was read if that does not come to the end; None if nothing can be read now."""
    parts: list[bytes] = []
    try:
        if _collect(file, parts, native, size, end) is None and not parts:
            return None
        return b"".join(parts)
    except BaseException:
        give_back(file.raw, b"".join(parts))
        raise


def take_line(file: Any) -> bytes:
    """Read what is a line, or may be one, at least, whatever ends it; the lock is held. Parks."""
    return _read(file, _Reader.readline, -1, re.compile(b"[\r\n]").search) or b""


def _steadily(native: Callable[..., Any], end: End = None) -> Any:
    """Have a method read in steps. The lock is held for the first too: another thread would find the raw file dry."""

    @like(native)
    def method(self: Any, size: Any = -1, /) -> Any:
        with lock_of(self):
            if green_caller() is None or not (size is None or hasattr(size, "__index__")):
                return native(self, size)
            wanted = -1 if size is None else index(size)
            part: bytes | None = _drily(self, native, wanted)
            if _is_whole(part, wanted, end):
                return part  # by far the most
            give_back(self.raw, part or b"")
            found = _read(self, native, wanted, end)
            return native(self, size) if found is None else found

    return method


def _once(native: Callable[..., Any]) -> Any:
    """Have a method that reads once, at most, park outside of the C code."""

    @like(native)
    def method(self: Any, *args: Any) -> Any:
        with lock_of(self):
            if green_caller() is None:
                return native(self, *args)
            found = _drily(self, native, *args)
            if found or (args and not args[0]):
                return found
            if _fill(self, index(args[0]) if args and hasattr(args[0], "__index__") else 0) is None:
                return native(self, *args)  # which says so in its own way
            return _drily(self, native, *args)

    return method


def _readinto(self: Any, buffer: Any, /) -> Any:
    with lock_of(self):
        if green_caller() is None or self.closed or (view := memoryview(buffer)).readonly:
            return _Reader.readinto(self, buffer)
        view = view.cast("B")
        found = _read(self, _Reader.read, len(view))
        if found is None:
            return None
        view[: len(found)] = found
        return len(found)


def read_lines(file: Any, hint: int | None, give_back: Callable[[list[Any]], None]) -> list[Any]:
    """Read lines up to the end, or until they come to more than `hint`; `give_back` is handed them if that fails."""
    if not (hint is None or hasattr(hint, "__index__")):
        raise TypeError(f"argument should be integer or None, not {type(hint).__name__!r}")
    most = index(hint or 0)
    lines: list[Any] = []
    total = 0
    try:
        for line in file:
            lines.append(line)
            total += len(line)
            if 0 < most < total:
                break
    except BaseException:
        give_back(lines)
        raise
    return lines


def _readlines(self: Any, hint: int | None = -1, /) -> list[bytes]:
    with lock_of(self):
        if green_caller() is None:
            return _Reader.readlines(self, hint)  # type: ignore[arg-type]
        return read_lines(self, hint, lambda lines: give_back(self.raw, b"".join(lines)))


def _close_reader(self: Any) -> None:
    """Close at once; a green that is parked in a read wakes with EBADF, as for a socket.

    It need not be waited for, since it is not in the C code. Were the descriptor somebody else's, it would not wake.
    """
    lock = lock_of(self)
    raw = self.raw
    if isinstance(owner_of(lock), Green) and not lock._is_owned() and getattr(raw, "closefd", False):
        vars(raw)[_CLOSING] = True
        raw.close()
        return
    with lock:
        _Reader.close(self)


READER_METHODS: dict[str, Any] = {
    "read": _steadily(_Reader.read),
    "readline": _steadily(_Reader.readline, re.compile(b"\n").search),
    "readlines": like(_Reader.readlines)(_readlines),
    "readinto": like(_Reader.readinto)(_readinto),
    **{name: _once(getattr(_Reader, name)) for name in ("read1", "readinto1", "peek")},
}
WRITER_METHODS: dict[str, Any] = {name: locking(getattr(_Writer, name)) for name in ("write", "flush")}
"""The methods that wait, by name, of each layer."""

_COMMON = ("seek", "tell", "truncate", "close", "detach")


def _buffered(base: Any, methods: dict[str, Any]) -> Any:
    def __init__(self: Any, raw: Any, buffer_size: int) -> None:  # noqa: N807 - it becomes that method
        adopt_buffered(self)
        setattr(self, _SIZE, buffer_size)
        base.__init__(self, raw, buffer_size)

    common = {name: locking(getattr(base, name)) for name in _COMMON}
    return subclass(base, common, methods, {"__init__": __init__})


BUFFERED: dict[type, Any] = {
    _Reader: _buffered(_Reader, {**READER_METHODS, "close": like(_Reader.close)(_close_reader)}),
    _Writer: _buffered(_Writer, WRITER_METHODS),
    io.BufferedRandom: io.BufferedRandom,  # takes no pipes and no terminals
}
"""The classes of buffered files, each with the one that green code gets."""
