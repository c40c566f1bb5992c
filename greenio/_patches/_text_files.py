"""The text layer of files that park: `io.TextIOWrapper` with methods of greenio's own.

What the C code has collected for a `readline` or a `read` is gone when the layer below raises, as it does for a
cancellation; so here characters are kept by the object until a call takes them. And the C code lets a second green in
while the first is parked below, where lines get mixed, and lost before CPython 3.12.4; so each call takes the lock of
the buffered layer for all of its time: of the half that it uses, where that layer has two.

There the C code of CPython before 3.13 forgets at each `write` what it has read ahead. Here that is kept.

The standard streams are native objects, which are given methods of their own, and Python code cannot reach what the C
code has decoded. There `readline` has the layer below hand out a line at a time, so that nothing is collected.
"""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Callable
from operator import index
from typing import Any

from .._sync import RLock, owner_of
from ._buffered_files import CHUNK, is_adopted, lock_of, locking, read_lines, reader_of, take_line, writer_of
from ._layers import subclass
from ._socket_state import green_caller
from ._table import like

__all__ = ["STREAM_METHODS", "relayer", "text_file"]

_Text = io.TextIOWrapper

_DECODED = "_greenio_decoded"
"""The attribute of a text file with what it has decoded."""

_PIECE = 8192
"""Octets that are decoded at a time."""

_ENDS = {newline: re.compile(newline or "\n") for newline in (None, "\n", "\r", "\r\n")}
_ENDS[""] = re.compile("\r\n|\r|\n")
"""What ends a line, by the `newline` that was asked for."""


class _Decoded:
    """The characters that a text file has decoded, and nobody has taken yet."""

    __slots__ = ("_decoder", "_end", "_final", "_text", "_used", "newline")

    def __init__(self, newline: str | None) -> None:
        self.newline = newline
        self._end = _ENDS[newline]
        self._decoder: Any = None
        self._final = False
        self._text = ""
        self._used = 0

    @property
    def is_underway(self) -> bool:
        """Whether anything was decoded, unless it was all there is, and has been taken."""
        return self._decoder is not None and not (self._final and not self.count())

    @property
    def newlines(self) -> Any:
        return getattr(self._decoder, "newlines", None)

    def count(self) -> int:
        return len(self._text) - self._used

    def add(self, file: Any, octets: bytes, final: bool) -> None:
        """Decode more."""
        self._final = final
        if self._decoder is None:
            self._decoder = codecs.lookup(file.encoding).incrementaldecoder(file.errors)
            if not self.newline:
                self._decoder = io.IncrementalNewlineDecoder(self._decoder, self.newline is None)
        self.give_back(self._decoder.decode(octets, final), at_end=True)

    def give_back(self, text: str, at_end: bool = False) -> None:
        """Have characters read before all others, or after."""
        left = self._text[self._used :]
        self._text = left + text if at_end else text + left
        self._used = 0

    def take(self, size: int) -> str:
        """Take up to so many characters; all if that is negative."""
        end = len(self._text) if size < 0 else min(self._used + size, len(self._text))
        found = self._text[self._used : end]
        self._used = end
        return found

    def line_length(self, seen: int) -> int:
        """Tell how long the next line is, with its end; 0 if it has none yet. So many characters have none."""
        found = self._end.search(self._text, self._used + max(0, seen - 1))
        return found.end() - self._used if found else 0


def _buffer_of(file: Any) -> Any:
    """Look up the buffered layer; raises what native methods do where it was detached."""
    if file.buffer is None:
        raise ValueError("underlying buffer has been detached")
    return file.buffer


def _reader_lock(file: Any) -> RLock:
    return lock_of(reader_of(_buffer_of(file)))


def _writer_lock(file: Any) -> RLock:
    return lock_of(writer_of(_buffer_of(file)))


def _more(file: Any, decoded: _Decoded) -> bool:
    """Decode more; False at the end. Parks."""
    try:
        octets = file.buffer.read1(CHUNK if decoded.count() else _PIECE)
    except TimeoutError:
        decoded.take(-1)  # lost, as natively: nobody is to take the half of an answer for all of it
        raise
    decoded.add(file, octets, not octets)
    return bool(octets)


def _reading(read: Callable[..., Any]) -> Any:
    """Have a method do its work with the lock, on a file that is open."""
    native = getattr(_Text, read.__name__)

    @like(native)
    def method(self: Any, *args: Any) -> Any:
        with _reader_lock(self):
            if self.closed:
                return native(self, *args)  # an error
            return read(self, vars(self)[_DECODED], *args)

    return method


@_reading
def read(self: Any, decoded: _Decoded, size: int | None = -1, /) -> str:
    if not (size is None or hasattr(size, "__index__")):
        return _Text.read(self, size)  # an error
    size = -1 if size is None else index(size)
    if size < 0:
        decoded.add(self, self.buffer.read(), True)
        return decoded.take(-1)
    while decoded.count() < size and _more(self, decoded):
        pass
    return decoded.take(size)


@_reading
def readline(self: Any, decoded: _Decoded, size: int = -1, /) -> str:
    size = index(size)
    seen = 0
    while not (length := decoded.line_length(seen)):
        seen = decoded.count()
        if 0 <= size <= seen or not _more(self, decoded):
            length = decoded.line_length(seen) or decoded.count()
            break
    return decoded.take(length if size < 0 else min(length, size))


@_reading
def readlines(self: Any, decoded: _Decoded, hint: int | None = -1, /) -> list[str]:
    return read_lines(self, hint, lambda lines: decoded.give_back("".join(lines)))


@like(_Text.__next__)
def __next__(self: Any) -> str:  # noqa: N807 - it becomes that method
    line: str = self.readline()
    if not line:
        raise StopIteration
    return line


@like(_Text.reconfigure)
def reconfigure(self: Any, **settings: Any) -> None:
    with _reader_lock(self):
        decoded: _Decoded = vars(self)[_DECODED]
        changes = "newline" in settings or any(settings.get(name) is not None for name in ("encoding", "errors"))
        if changes and decoded.is_underway:
            raise io.UnsupportedOperation(
                "It is not possible to set the encoding or newline of stream after the first read"
            )
        _Text.reconfigure(self, **settings)
        if changes:
            setattr(self, _DECODED, _Decoded(settings.get("newline", decoded.newline)))


def __init__(self: Any, buffer: Any, encoding: str, errors: str, newline: str | None, *rest: bool) -> None:  # noqa: N807
    setattr(self, _DECODED, _Decoded(newline))
    _Text.__init__(self, buffer, encoding, errors, newline, *rest)


_READING = {each.__name__: each for each in (read, readline, readlines, __next__, reconfigure, __init__)}
_WRITING = {name: locking(getattr(_Text, name), _writer_lock) for name in ("write", "flush", "reconfigure", "detach")}


def _handing_down(read: Callable[..., Any]) -> Any:
    """Have a method hand down first what was written, as the native one does, unless somebody is about to."""

    @like(read)
    def method(self: Any, *args: Any) -> Any:
        if not self.closed and owner_of(lock := _writer_lock(self)) is None:
            with lock:
                _Text.read(self, 0)
        return read(self, *args)

    return method


_Reader = subclass(_Text, _READING, {"newlines": property(lambda self: vars(self)[_DECODED].newlines)})
_Writer = subclass(_Text, _WRITING)
_Both = subclass(
    _Reader,
    {"read": _handing_down(read), "readline": _handing_down(readline)},
    {**_WRITING, "reconfigure": locking(reconfigure, _writer_lock)},
)


def text_file(buffer: Any, encoding: str, errors: str, newline: str | None, *rest: bool) -> Any:
    """Make the text layer of a buffered file; the arguments are those of `io.TextIOWrapper`."""
    if not is_adopted(buffer):
        return _Text(buffer, encoding, errors, newline, *rest)
    kind = _Both if buffer.readable() and buffer.writable() else _Reader if buffer.readable() else _Writer
    return kind(buffer, encoding, errors, newline, *rest)


def relayer(text: Any, newline: str | None = None) -> Any:
    """Put the text layer of greenio's in the place of a native one that nobody has used yet."""
    if type(text) is not _Text or not is_adopted(text.buffer):
        return text
    settings = (text.encoding, text.errors, newline, text.line_buffering, text.write_through)
    return text_file(text.detach(), *settings)  # type: ignore[arg-type]


@like(_Text.readline)
def _readline_natively(self: Any, size: int = -1, /) -> str:
    buffer = self.buffer
    with lock_of(buffer):
        if green_caller() is None:
            return _Text.readline(self, size)
        read1 = buffer.read1
        buffer.read1 = lambda size: take_line(buffer)
        try:
            return _Text.readline(self, size)
        finally:
            buffer.read1 = read1


STREAM_METHODS: dict[str, Any] = {
    "readline": _readline_natively,
    **{name: locking(getattr(_Text, name), _writer_lock) for name in ("read", "write", "flush")},
}
"""Methods for native text files, by name."""
