"""The methods of `socket.socket` that send. What is sent is sent: an error or a cancellation takes nothing back."""

from __future__ import annotations

import _socket
import socket
from collections.abc import Callable
from operator import index
from typing import Any

from .. import _original
from .._core import Green, current_green, getcurrent, yield_once
from ._resolver import numeric_address
from ._socket_state import (
    DONTWAIT,
    NEVER_BLOCKS,
    PIECE,
    TURN,
    State,
    adopted_state,
    attempt,
    green_caller,
    listed,
    natively,
    plain,
    ready_natively,
    state_of,
    states,
)
from ._table import like

__all__ = ["METHODS"]

_C = _socket.socket
_c_send, _c_sendall = _C.send, _C.sendall  # a look-up less a call


@like(_C.send)
def send(self: socket.socket, data: Any, flags: int = 0, /) -> int:
    green: Any = getcurrent()
    if green.__class__ is not Green and (green.parent is None or (green := current_green()) is None):
        try:
            return _c_send(self, data, flags)
        except BlockingIOError:
            return natively(self, "write", flags, _C.send, data, flags)  # type: ignore[no-any-return]
    state = states.get(id(self)) or state_of(self)
    sent: int = plain(green, self, state, "write", _C.send, (data,), flags)
    if state.timeout is not None or not state.stream or (data.__class__ is bytes and sent == len(data)):
        return sent
    with memoryview(data) as view, view.cast("B") as octets:
        return _send_rest(green, self, state, octets, sent, flags)


def _send_rest(green: Green, sock: socket.socket, state: State, octets: memoryview, sent: int, flags: int) -> int:
    """Send what is left of a stream's data: where there is no timeout, the kernel takes all before it returns."""
    flags = index(flags)
    if flags & NEVER_BLOCKS & ~socket.MSG_OOB:
        return sent
    flags |= DONTWAIT
    while sent < len(octets):
        try:
            sent += attempt(green, state, "write", None, _C.send, sock, octets[sent:], flags)
        except OSError:
            break  # what was sent counts, and the next call will see the error
    return sent


@like(_C.sendall)
def sendall(self: socket.socket, data: Any, flags: int = 0, /) -> None:
    green: Any = getcurrent()
    if green.__class__ is not Green and (green.parent is None or (green := current_green()) is None):
        if states and adopted_state(self) is not None:
            return _sendall_natively(self, data, flags)
        return _c_sendall(self, data, flags)
    state = states.get(id(self)) or state_of(self)
    timeout = state.timeout
    if timeout == 0 or not isinstance(flags, int) or (timeout is None and flags & DONTWAIT):
        return _c_sendall(self, data, flags)
    flags |= DONTWAIT
    sent = 0
    if (data.__class__ is bytes and len(data) <= PIECE) or not (state.stream and _is_large(data)):
        green.operations += 1
        if green.operations > TURN:
            yield_once(green)
        try:
            sent = _c_send(self, data, flags)
        except BlockingIOError:
            pass
        else:
            if sent == (len(data) if data.__class__ is bytes else memoryview(data).nbytes):
                return None
    clock = green.host.clock
    deadline = None if timeout is None else clock() + timeout
    with memoryview(data) as view, view.cast("B") as octets:
        piece = PIECE if state.stream else len(octets)
        while True:
            if deadline is not None and clock() >= deadline:
                raise TimeoutError("timed out")
            sent += attempt(green, state, "write", deadline, _C.send, self, octets[sent : sent + piece], flags)
            if sent >= len(octets):
                return None


def _is_large(data: Any) -> bool:
    """Tell whether data has to be sent in pieces."""
    kind = data.__class__
    if kind is memoryview:
        return data.nbytes > PIECE and data.c_contiguous  # type: ignore[no-any-return]
    return (kind is bytes or kind is bytearray) and len(data) > PIECE


def _sendall_natively(sock: socket.socket, data: Any, flags: int) -> None:
    """Send everything from native code through an adopted socket, blocking as the user's timeout says."""
    timeout = sock.gettimeout()
    deadline = None if timeout is None else _original.monotonic() + timeout
    with memoryview(data) as view, view.cast("B") as octets:
        sent = 0
        while True:
            try:
                sent += _c_send(sock, octets[sent:], flags)
                if sent >= len(octets):
                    return
            except BlockingIOError:
                if timeout is None and flags & DONTWAIT:
                    raise
            if not ready_natively(sock, "write", deadline):
                raise TimeoutError("timed out")


@like(_C.sendto)
def sendto(self: socket.socket, data: Any, *rest: Any) -> int:
    green = green_caller()
    if green is None:
        try:
            return _C.sendto(self, data, *rest)
        except BlockingIOError:
            flags = rest[0] if len(rest) == 2 else 0
            return natively(self, "write", flags, _C.sendto, data, *rest)  # type: ignore[no-any-return]
    if not 1 <= len(rest) <= 2:
        return _C.sendto(self, data, *rest)  # raises TypeError
    flags = rest[0] if len(rest) == 2 else 0
    if not isinstance(flags, int):
        return _C.sendto(self, data, *rest)  # raises TypeError
    address = numeric_address(green, _family(self), rest[-1])
    state = state_of(self)
    sent: int = plain(green, self, state, "write", _C.sendto, (data,), flags, address)
    if state.timeout is not None or not state.stream:
        return sent
    with memoryview(data) as view, view.cast("B") as octets:
        return _send_rest(green, self, state, octets, sent, flags)


_family: Callable[[socket.socket], int] = _C.family.__get__
"""The number; `socket.socket.family` makes an enum of it each time."""


@like(_C.sendmsg)
def sendmsg(self: socket.socket, buffers: Any, ancdata: Any = (), flags: int = 0, address: Any = None, /) -> int:
    rest = () if address is None else (address,)
    buffers, ancdata = listed(buffers), listed(ancdata)
    green = green_caller()
    if green is None:
        try:
            return _C.sendmsg(self, buffers, ancdata, flags, *rest)
        except BlockingIOError:
            return natively(  # type: ignore[no-any-return]
                self, "write", flags, _C.sendmsg, buffers, ancdata, flags, *rest
            )
    if rest:
        rest = (numeric_address(green, _family(self), address),)
    state = state_of(self)
    sent: int = plain(green, self, state, "write", _C.sendmsg, (buffers, ancdata), flags, *rest)
    if state.timeout is not None or not state.stream:
        return sent
    return _send_rest(green, self, state, memoryview(b"".join(buffers)), sent, flags)


if hasattr(_C, "sendmsg_afalg"):

    @like(_C.sendmsg_afalg)
    def sendmsg_afalg(self: socket.socket, msg: Any = (), *, flags: int = 0, **options: Any) -> int:
        msg = listed(msg)
        green = green_caller()
        if green is None:
            try:
                return _C.sendmsg_afalg(self, msg, flags=flags, **options)
            except BlockingIOError:
                return natively(self, "write", flags, _afalg, msg, flags, options)  # type: ignore[no-any-return]
        return plain(green, self, state_of(self), "write", _afalg, (msg,), flags, options)  # type: ignore[no-any-return]

    def _afalg(sock: socket.socket, msg: Any, flags: int, options: dict[str, Any]) -> int:
        return _C.sendmsg_afalg(sock, msg, flags=flags, **options)


METHODS: list[Any] = [send, sendall, sendto, sendmsg]
if hasattr(_C, "sendmsg_afalg"):
    METHODS.append(sendmsg_afalg)
