"""`socket.makefile`: the layers that green code gets lose nothing when a call is cancelled, as those of pipes do not.

A timeout of the socket is another matter: after one a native file refuses to be read, and so do these.
"""

from __future__ import annotations

import gc
import io
import socket
from operator import index
from typing import Any

from ._buffered_files import BUFFERED, CHUNK, give_back, is_dry, read_lines, take_back, take_back_into
from ._layers import subclass
from ._rw_pairs import Pair
from ._socket_state import green_caller
from ._table import like
from ._text_files import text_file

__all__ = ["HIDDEN", "METHODS", "is_native_file"]

_Raw = socket.SocketIO
_native_makefile = socket.socket.makefile


@like(_Raw.readinto)
def readinto(self: Any, buffer: Any) -> int | None:
    if not self._timeout_occurred and not self.closed:
        found = take_back_into(self, buffer)
        if found != -1:
            return found
    return _Raw.readinto(self, buffer)


@like(_Raw.read)
def read(self: Any, size: int | None = -1, /) -> bytes | None:
    if not isinstance(size, int) or size < 0 or self._timeout_occurred or self.closed:
        return _Raw.read(self, size)  # type: ignore[arg-type]
    back = take_back(self, size)
    if back is not None or is_dry(self):
        return back
    try:
        return self._sock.recv(size)  # type: ignore[no-any-return]
    except TimeoutError:
        self._timeout_occurred = True
        raise
    except BlockingIOError:
        return None


@like(_Raw.readall)
def readall(self: Any) -> bytes | None:
    parts: list[bytes] = []
    try:
        while part := self.read(CHUNK):
            parts.append(part)
    except BaseException:
        give_back(self, b"".join(parts))
        raise
    return b"".join(parts) if parts else part


def _is_native_call(file: Any) -> bool:
    """Tell whether a call of an unbuffered file never parks."""
    return green_caller() is None or file.closed or file._sock.gettimeout() == 0


@like(_Raw.readline)
def readline(self: Any, size: int | None = -1, /) -> bytes:
    if _is_native_call(self) or not (size is None or hasattr(size, "__index__")):
        return _Raw.readline(self, size)
    most = -1 if size is None else index(size)
    line = bytearray()
    try:
        while len(line) != most and not line.endswith(b"\n") and (octet := self.read(1)):
            line += octet
    except BaseException:
        give_back(self, bytes(line))
        raise
    return bytes(line)


@like(_Raw.readlines)
def readlines(self: Any, hint: int | None = -1, /) -> list[bytes]:
    if _is_native_call(self):
        return _Raw.readlines(self, hint)  # type: ignore[arg-type]
    return read_lines(self, hint, lambda lines: give_back(self, b"".join(lines)))


_OwnSocketFile = subclass(_Raw, {each.__name__: each for each in (readinto, readall, readline, readlines)})
"""A file of a socket that receives in its own way: native files call `recv_into` for all."""

_SocketFile = subclass(_OwnSocketFile, {"read": read})
"""Any other: `recv` makes the object that is wanted, so that nothing is copied."""


def _file_class(sock: socket.socket) -> Any:
    """Choose the class of a file of this socket."""
    names = {"recv", "recv_into"}
    own = getattr(sock, "__dict__", {}).keys() & names
    defines = next(cls for cls in type(sock).__mro__ if vars(cls).keys() & names)
    return _OwnSocketFile if own or defines.__module__ not in ("socket", "ssl") else _SocketFile


_CLASSES: dict[type, Any] = {**BUFFERED, io.BufferedRWPair: Pair}


def _take_raw(sock: socket.socket, file: Any) -> Any:
    """Take the raw file from below the native layers, which nobody has used yet."""
    native = getattr(file, "buffer", file)
    if type(native) is not io.BufferedRWPair:
        return native.detach() if native is file else file.detach().detach()
    raw = _native_makefile(sock, "rwb", 0)  # that of a pair stays with it
    file.close()
    return raw


@like(_native_makefile)
def makefile(
    self: socket.socket,
    mode: str = "r",
    buffering: int | None = None,
    *,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
) -> Any:
    options = {"encoding": encoding, "errors": errors, "newline": newline}
    file: Any = _native_makefile(self, mode, buffering, **options)  # type: ignore[call-overload]
    native = getattr(file, "buffer", file)
    if green_caller() is None:
        return file
    if type(native) is _Raw and native.readable():
        native.__class__ = _file_class(self)
    if type(native) not in _CLASSES:
        return file
    size = io.DEFAULT_BUFFER_SIZE if buffering is None or buffering < 0 else buffering
    settings = None if native is file else (file.encoding, file.errors, newline)
    raw = _take_raw(self, file)
    raw.__class__ = _file_class(self)
    buffered = _CLASSES[type(native)](raw, size)
    if settings is None:
        return buffered
    text = text_file(buffered, *settings)
    text.mode = mode
    return text


def is_native_file(file: Any) -> bool:
    """Tell whether a native buffered file is one of a socket that is open: older than the patch, or of native code."""
    if type(file) is not io.BufferedRWPair:
        return _has_open_socket(file)
    halves = [half for half in gc.get_referents(file) if type(half) in BUFFERED]
    # CPython 3.11 and older tell of no halves. But hardly anything else than a socket makes such pairs.
    return any(map(_has_open_socket, halves)) if halves else not file.closed


def _has_open_socket(file: Any) -> bool:
    try:
        raw = file.raw
    except ValueError:
        return False  # detached
    return issubclass(type(raw), _Raw) and not io.IOBase.closed.__get__(raw)


METHODS: list[Any] = [makefile]

HIDDEN: dict[str, tuple[type, type]] = {
    f"io.{native.__name__}": (native, green) for native, green in _CLASSES.items() if green is not native
}
"""The buffered files that a socket may have, each with the one that green code gets."""
