"""`socket.socket.sendfile`: keeps `os.sendfile`, and parks where that would block."""

from __future__ import annotations

import io
import os
import socket
from typing import Any

from .. import _original
from .._core import Green
from ._socket_state import PIECE, State, deadline_of, green_caller, state_of, take_turn, unblocked
from ._table import like

__all__ = ["METHODS"]

_native_sendfile = socket.socket.sendfile


@like(_native_sendfile)
def sendfile(self: socket.socket, file: Any, offset: int = 0, count: int | None = None) -> int:
    green = green_caller()
    if green is None:
        return _native_sendfile(self, file, offset, count)
    self._check_sendfile_params(file, offset, count)  # type: ignore[attr-defined]
    size = _size(file)
    if size is None or _original.sendfile is None:
        return self._sendfile_use_send(file, offset, count)  # type: ignore[attr-defined,no-any-return]
    if not size:
        return 0
    state = state_of(self)
    if state.timeout == 0:
        raise ValueError("non-blocking sockets are not supported")
    return _send(green, self, state, file, offset, count)


def _size(file: Any) -> int | None:
    """Tell the size of a file; None for what `os.sendfile` cannot read."""
    try:
        return os.fstat(file.fileno()).st_size
    except (AttributeError, io.UnsupportedOperation, OSError):
        return None


def _send(green: Green, sock: socket.socket, state: State, file: Any, offset: int, count: int | None) -> int:
    total = 0
    try:
        while count is None or total < count:
            block = PIECE if count is None else min(count - total, PIECE)
            sent = _send_soon(green, sock, state, file.fileno(), offset + total, block)
            if not sent:
                break
            total += sent
    except TimeoutError:
        raise
    except OSError:
        if total:
            raise
        return sock._sendfile_use_send(file, offset, count)  # type: ignore[attr-defined,no-any-return]
    finally:
        if total and hasattr(file, "seek"):
            file.seek(offset + total)
    return total


def _send_soon(green: Green, sock: socket.socket, state: State, source: int, offset: int, block: int) -> int:
    """Send a block when there is room; at the deadline a little is no longer worth an attempt, which would count."""
    take_turn(green)
    deadline = deadline_of(green, state.timeout)
    while True:
        try:
            return _send_block(sock, state, source, offset, block)
        except BlockingIOError:
            pass
        if not state.side(green, "write").wait(green, deadline):
            raise TimeoutError("timed out")


def _send_block(sock: socket.socket, state: State, source: int, offset: int, block: int) -> int:
    assert _original.sendfile is not None
    with unblocked(sock, state):
        return _original.sendfile(sock.fileno(), source, offset, block)  # type: ignore[no-any-return]


METHODS = [sendfile]
