"""`connect`, `connect_ex`, `bind` and `accept` of `socket.socket`: the system calls that know no MSG_DONTWAIT."""

from __future__ import annotations

import _socket
import errno
import os
import socket
import sys
from collections.abc import Callable
from typing import Any

from .. import _original
from .._core import Green, park
from ._resolver import numeric_address
from ._socket_state import (
    State,
    adopted_state,
    attempt,
    deadline_of,
    green_caller,
    natively,
    ready_natively,
    state_of,
    take_turn,
    unblocked,
)
from ._table import like

__all__ = ["METHODS"]

_C = _socket.socket
_UNIX = getattr(socket, "AF_UNIX", None)
_ENDS_TWICE = sys.platform == "linux"
_FULL_BACKLOG_DELAY = 0.005
"""Seconds between attempts to connect to a Unix socket whose backlog is full; the kernel reports no readiness."""

_PATIENCE = 10
"""Attempts after which one with a timeout gives up, as it does at once natively: a server on this loop needs turns."""


@like(_C.bind)
def bind(self: socket.socket, address: Any, /) -> None:
    green = green_caller()
    if green is not None:
        address = numeric_address(green, self.family, address)
    return _C.bind(self, address)


_native_accept = socket.socket.accept


@like(_native_accept)
def accept(self: socket.socket) -> tuple[socket.socket, Any]:
    green = green_caller()
    if green is None:
        return _accept_natively(self)
    state = state_of(self, heeds_mode=False)
    if state.timeout == 0 or (state.timeout is None and _never_blocks(green, state)):
        take_turn(green)
        return _native_accept(self)
    deadline = deadline_of(green, state.timeout)
    return attempt(green, state, "read", deadline, _accept_unblocked, self, state)  # type: ignore[no-any-return]


def _never_blocks(green: Green, state: State) -> bool:
    """Tell whether the user has made a server's descriptor non-blocking. May park.

    Processes and loops that share it switch its mode for the length of an `accept` themselves: so one look is too few.
    """
    for _ in range(_LOOKS):
        if state.adopted or state.fd < 0 or os.get_blocking(state.fd):
            return False
        green.what = f"<mode of fd={state.fd}>"
        park(green, green.host.clock() + _BETWEEN_LOOKS, green.parks)
    return True


_LOOKS = 3
_BETWEEN_LOOKS = 0.001
"""Seconds: longer than an `accept` takes."""


def _accept_natively(sock: socket.socket) -> tuple[socket.socket, Any]:
    state = adopted_state(sock)
    try:
        if state is None:
            return _native_accept(sock)
        return _accept_unblocked(sock, state)
    except BlockingIOError:
        return natively(sock, "read", 0, _native_accept)  # type: ignore[no-any-return]


def _accept_unblocked(sock: socket.socket, state: State) -> tuple[socket.socket, Any]:
    with unblocked(sock, state):
        return _native_accept(sock)


@like(_C.connect)
def connect(self: socket.socket, address: Any, /) -> None:
    green = green_caller()
    if green is None:
        state = adopted_state(self)
        if state is None:
            return _C.connect(self, address)
        error = _connect_natively(self, state, address, _C.connect)
    else:
        state = state_of(self)
        address = numeric_address(green, self.family, address)
        if state.timeout == 0:
            return _C.connect(self, address)
        error = _connect(green, self, state, address, _C.connect)
    if error:
        raise OSError(error, os.strerror(error))
    return None


@like(_C.connect_ex)
def connect_ex(self: socket.socket, address: Any, /) -> int:
    green = green_caller()
    try:
        if green is None:
            state = adopted_state(self)
            if state is None:
                return _C.connect_ex(self, address)
            return _connect_natively(self, state, address, _C.connect_ex)
        state = state_of(self)
        address = numeric_address(green, self.family, address)
        if state.timeout == 0:
            return _C.connect_ex(self, address)
        return _connect(green, self, state, address, _C.connect_ex)
    except TimeoutError:
        return errno.EWOULDBLOCK
    except BlockingIOError as error:
        return error.errno or errno.EINPROGRESS  # the kernel's own time limit


_Call = Callable[[socket.socket, Any], int | None]
"""`connect` or `connect_ex`: their errors name them."""


def _connect(green: Green, sock: socket.socket, state: State, address: Any, call: _Call) -> int:
    """Connect and return an errno.

    Raises:
        TimeoutError: The deadline came first.
    """
    take_turn(green)
    deadline = deadline_of(green, state.timeout)
    error = _begin(sock, state, address, call)
    attempts = 1
    while error == errno.EAGAIN and sock.family == _UNIX:
        if deadline is not None and (attempts > _PATIENCE or green.host.clock() >= deadline):
            return error
        attempts += 1
        green.what = f"<full backlog of {address!r}>"
        park(green, green.host.clock() + _FULL_BACKLOG_DELAY, green.parks)
        error = _begin(sock, state, address, call)
    if error not in (errno.EINPROGRESS, errno.EINTR):
        return error
    try:
        if not state.side(green, "write").wait_level(green, deadline):
            raise TimeoutError("timed out")
    except OSError as failure:
        if failure.errno != errno.EBADF:
            raise
        return errno.EBADF  # closed while it waited
    return _end(sock, state, deadline, address)


def _begin(sock: socket.socket, state: State, address: Any, call: _Call) -> int:
    """Begin to connect; return an errno where that takes time."""
    try:
        with unblocked(sock, state):
            return call(sock, address) or 0
    except BlockingIOError as error:
        return error.errno or errno.EINPROGRESS


def _end(sock: socket.socket, state: State, deadline: float | None, address: Any) -> int:
    """Return the errno of an attempt that has come to its end.

    Linux tells the end of a non-blocking `connect` once more, by the next call. Where the native call would have
    blocked, nobody must meet that: one that had a timeout leaves it to the user, as CPython does.
    """
    error = _C.getsockopt(sock, socket.SOL_SOCKET, socket.SO_ERROR)
    if deadline is not None or not _ENDS_TWICE:
        return error
    again = _begin(sock, state, address, _C.connect_ex)
    return error or again


def _connect_natively(sock: socket.socket, state: State, address: Any, call: _Call) -> int:
    """Connect an adopted socket from native code, blocking as the user's timeout says; return an errno."""
    deadline = None if state.timeout is None else _original.monotonic() + state.timeout
    error = _begin(sock, state, address, call)
    if error not in (errno.EINPROGRESS, errno.EINTR):
        return error
    if not ready_natively(sock, "write", deadline):
        raise TimeoutError("timed out")
    return _end(sock, state, deadline, address)


METHODS = [bind, accept, connect, connect_ex]
