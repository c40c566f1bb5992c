"""`socket.socket`: its methods are replaced in place, so that old instances and subclasses park too.

Here are those that close, and that keep the timeout; `_receiving`, `_sending`, `_connect`, `_sendfile` and `_makefile`
have the others. `_socket_state` tells how the calls are kept from blocking.
"""

from __future__ import annotations

import _socket
import socket
import struct
import sys
from asyncio import shield
from operator import index
from typing import Any

from .. import _original
from .._core import Green, NativeWork, drive, forget, retry
from ._close import CLOSE
from ._connect import METHODS as _CONNECT_METHODS
from ._makefile import HIDDEN, is_native_file
from ._makefile import METHODS as _MAKEFILE_METHODS
from ._receiving import METHODS as _RECEIVING
from ._sendfile import METHODS as _SENDFILE_METHODS
from ._sending import METHODS as _SENDING
from ._socket_state import adopt, can_adopt, green_caller, release, release_sockets, states
from ._table import Group, like, patches

__all__ = ["GROUP"]

_C = _socket.socket

_native_real_close = socket.socket._real_close  # type: ignore[attr-defined]


@like(_native_real_close)
def _real_close(self: socket.socket, _ss: Any = _C) -> None:
    # Every way of closing comes here: close(), the last file of makefile(), `with`, SSLSocket.
    states.pop(id(self), None)
    if (fd := self.fileno()) >= 0:
        forget(fd)
        green = green_caller()
        if green is not None and _lingers(self):
            _close_in_thread(green, _C.detach(self))
            return
    _native_real_close(self, _ss)


_LINGER = struct.Struct("@ii")


def _lingers(sock: socket.socket) -> bool:
    """Tell whether to close a socket may wait until the peer has got everything: even if it is non-blocking."""
    try:
        on, seconds = _LINGER.unpack(_C.getsockopt(sock, _socket.SOL_SOCKET, _socket.SO_LINGER, _LINGER.size))
    except OSError:
        return False
    return bool(on and seconds)


def _close_in_thread(green: Green, fd: int) -> None:
    """Close a descriptor in a thread of the host loop's executor. Parks; if it is cancelled the thread goes on."""
    left = [fd]

    def close_it() -> None:
        while left:
            _native_socket_close(left.pop())

    try:
        closing = green.host.loop.run_in_executor(None, NativeWork(close_it))
    except RuntimeError:  # at its end is the loop, or the executor, which may have taken it all the same
        close_it()
    else:
        drive(green, shield(closing))  # one that waits for a thread would be taken back


_native_detach = socket.socket.detach


@like(_native_detach)
def detach(self: socket.socket) -> int:
    state = states.pop(id(self), None)
    if state is not None:
        release(self, state)
    if (fd := self.fileno()) >= 0:
        forget(fd)
    return _native_detach(self)


_LONGEST = 1e9
"""A timeout in seconds that is surely valid; longer ones are left for the native method to judge."""


_NUMBERS = (float, int)


@like(_C.settimeout)
def settimeout(self: socket.socket, value: float | None, /) -> None:
    state = states.get(id(self))
    if state is None:
        return _C.settimeout(self, value)
    if value.__class__ in _NUMBERS and 0 <= value < _LONGEST:
        # A look without waiting, as redis-py takes at each command, makes it zero for a moment. The C timeout is zero
        # already, so the way there only makes sure of the descriptor's mode, and the way back is free.
        if not value and state.adopted:
            _C.setblocking(self, False)
            state.adopted = False
            state.timeout = 0.0
            return None
        if value and (state.adopted or (state.timeout == 0 and can_adopt(self))):
            state.adopted = True
            state.timeout = float(value)
            return None
    if value is None and state.timeout is None:
        return None
    if value is None and isinstance(self, _original.SSLSocket) and state.adopted:
        state.timeout = None
        return None
    _C.settimeout(self, value)
    state.adopted = False
    state.timeout = _C.gettimeout(self)
    if state.timeout:
        adopt(self, state)
    return None


_truth: Any = bool if sys.version_info >= (3, 12) else index
"""What the native `setblocking` makes of its argument."""


@like(_C.setblocking)
def setblocking(self: socket.socket, flag: bool, /) -> None:
    if id(self) not in states:
        return _C.setblocking(self, flag)
    settimeout(self, None if _truth(flag) else 0.0)
    return None


@like(_C.gettimeout)
def gettimeout(self: socket.socket) -> float | None:
    state = states.get(id(self))
    return _C.gettimeout(self) if state is None else state.timeout


@like(_C.getblocking)
def getblocking(self: socket.socket) -> bool:
    state = states.get(id(self))
    return _C.getblocking(self) if state is None else state.timeout != 0


class _Timeout:
    """`socket.timeout`, as the C type shows it; a read-only attribute."""

    __name__ = "timeout"

    def __get__(self, instance: socket.socket | None, owner: type | None = None) -> Any:
        return _C.timeout if instance is None else gettimeout(instance)

    def __set__(self, instance: socket.socket, value: object) -> None:
        raise AttributeError("attribute 'timeout' of '_socket.socket' objects is not writable")


@like(_C.shutdown)
def shutdown(self: socket.socket, how: int, /) -> None:
    _C.shutdown(self, how)
    retry(self.fileno())  # a Unix socket whose peer reads nothing tells its own writers no edge


@like(_C.setsockopt)
def setsockopt(self: socket.socket, *args: Any) -> None:
    _C.setsockopt(self, *args)
    if len(args) > 1 and args[0] == _socket.SOL_SOCKET and args[1] in _LIMITS and (state := states.get(id(self))):
        state.look(self)


_LIMITS = (_socket.SO_RCVTIMEO, _socket.SO_SNDTIMEO)

_METHODS: list[Any] = [
    *_RECEIVING, *_SENDING, *_CONNECT_METHODS, *_MAKEFILE_METHODS, *_SENDFILE_METHODS,
    _real_close, detach, settimeout, setblocking, gettimeout, getblocking, shutdown, setsockopt, _Timeout(),
]  # fmt: skip

_native_socket_close = _socket.close


@like(_native_socket_close)
def close(fd: int, /) -> None:
    if isinstance(fd, int):
        forget(fd)
    _native_socket_close(fd)


def _undo() -> None:
    release_sockets(socket.socket)


GROUP = Group(
    "socket",
    (*patches(socket.socket, _METHODS), *patches(socket, [close]), *CLOSE),
    undo=_undo,
    hidden=HIDDEN,
    is_out_of_reach=is_native_file,
)
