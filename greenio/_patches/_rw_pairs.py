"""Files that read and write, as `makefile("rwb")` makes them: `io.BufferedRWPair` over two buffered files of greenio's.

The native pair has two native ones inside, out of reach. So this one is a pair by its class alone: each method goes to
the half whose it is, and each half has a lock of its own, so that a green that is parked in one does not bar the other.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from ._buffered_files import BUFFERED, HALVES, lock_of, reader_of, writer_of
from ._layers import subclass
from ._socket_state import green_caller
from ._table import like

__all__ = ["Pair"]

_Pair = io.BufferedRWPair


def __init__(self: Any, raw: Any, buffer_size: int) -> None:  # noqa: N807 - it becomes that method
    setattr(self, HALVES, tuple(BUFFERED[kind](raw, buffer_size) for kind in (io.BufferedReader, io.BufferedWriter)))


def _forwarding(name: str, half_of: Callable[[Any], Any]) -> Any:
    @like(getattr(_Pair, name))
    def method(self: Any, *args: Any) -> Any:
        return getattr(half_of(self), name)(*args)

    return method


def _by_line(native: Callable[..., Any]) -> Any:
    """Have a method that the native class makes of `peek` and `read` lose nothing where those park."""

    @like(native)
    def method(self: Any, size: int | None = -1, /) -> Any:
        reader = reader_of(self)
        with lock_of(reader):
            if green_caller() is None or self.closed or reader.raw._sock.gettimeout() == 0:
                return native(self, size)
            return getattr(reader, native.__name__)(size)

    return method


@like(_Pair.isatty)
def isatty(self: Any) -> bool:
    return writer_of(self).isatty() or reader_of(self).isatty()  # type: ignore[no-any-return]


@like(_Pair.close)
def close(self: Any) -> None:
    """Write what is left at once, but wait for who reads before the raw file is closed, which both halves share."""
    writer = writer_of(self)
    if self.closed:
        return
    try:
        writer.flush()
    except BaseException:
        with lock_of(reader_of(self)):
            writer.raw.close()
        raise
    with lock_of(reader_of(self)):
        writer.close()


Pair = subclass(
    _Pair,
    {name: _forwarding(name, reader_of) for name in ("read", "read1", "readinto", "readinto1", "peek", "readable")},
    {name: _forwarding(name, writer_of) for name in ("write", "flush", "writable")},
    {"readline": _by_line(_Pair.readline), "readlines": _by_line(_Pair.readlines)},
    {each.__name__: each for each in (__init__, isatty, close)},
    {"closed": property(lambda self: writer_of(self).closed)},
)
