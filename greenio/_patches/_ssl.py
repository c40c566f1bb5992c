"""`ssl.SSLSocket`: its methods are replaced in place, so that old instances, subclasses and old contexts park too.

No class and no context is replaced. The methods here are those that call into OpenSSL; `recv`, `sendall`, `accept`,
`connect`, `sendfile` and `ssl.get_server_certificate` are Python code over them and stay native.

How a green call waits. OpenSSL must never wait by itself, so every TLS socket is adopted, those without a timeout too.
An operation is tried; where OpenSSL wants to read or to write first (a read may want to write, and a write to read:
handshake, key update, renegotiation) the greenlet parks for that and tries again. One deadline holds for the whole
operation, as in CPython.

Two things that one green does may concern another on the same socket. A record that is half sent must be finished with
the same data, so that other writers queue. And a green that waits to read in the middle of a handshake or a write must
try again when another green's read has taken what it waits for.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Callable
from errno import EBADF
from fcntl import ioctl
from functools import partial
from ssl import SSLError, SSLSocket, SSLWantReadError, SSLWantWriteError
from termios import FIONREAD
from typing import Any

from .. import _original
from .._core import READY, Green, Host, forget, park, resume
from . import _certificates
from ._socket_state import (
    Direction,
    State,
    adopt,
    adopted_state,
    deadline_of,
    green_caller,
    ready_natively,
    release,
    release_sockets,
    state_of,
    states,
    take_turn,
    unblocked,
)
from ._table import Group, like, patches

__all__ = ["GROUP"]

_EOF = ssl.SSL_ERROR_EOF
_WANTS = (SSLWantReadError, SSLWantWriteError)

_FULL_RECORD = 16384
"""Octets in a TLS record at most. After a full one, more has most likely come already."""

_NO_OCTETS = bytes(4)
"""What FIONREAD tells of a socket that has nothing to be read."""

_TIMED_OUT = {
    ("handshake", "read"): "_ssl.c: The handshake operation timed out",
    ("handshake", "write"): "_ssl.c: The handshake operation timed out",
    ("read", "read"): "The read operation timed out",
    ("read", "write"): "The read operation timed out",
    ("unwrap", "read"): "The read operation timed out",
    ("unwrap", "write"): "The write operation timed out",
    ("write", "read"): "The write operation timed out",
    ("write", "write"): "The write operation timed out",
}
"""CPython's texts, by operation and by what OpenSSL wanted last."""

_Key = tuple[int, Host]

_crossed: dict[_Key, list[Green]] = {}
"""By socket: the greens that wait to read in an operation that is not a read."""

_writing: dict[_Key, list[Green]] = {}
"""By socket with a record half sent: the greens that wait to write theirs."""


def _waiting_state(sock: SSLSocket) -> State | None:
    """Look up what is known of a socket, adopted; None where the user wants no waiting."""
    state = state_of(sock)
    if not state.adopted:
        state.timeout = sock.gettimeout()  # without the group "socket" nobody has kept it up to date
        if state.timeout == 0:
            return None
        adopt(sock, state)
    return state


def _attempt(sock: SSLSocket, state: State, call: Callable[..., Any], *args: Any) -> Any:
    """Call into OpenSSL, which must not wait there: not adopted are sockets where only "ssl" is, or was, patched."""
    if state.adopted:
        return call(*args)
    with unblocked(sock, state):
        return call(*args)


def _complete(
    green: Green,
    sock: SSLSocket,
    state: State,
    deadline: float | None,
    operation: str,
    want: Direction | None,
    call: Callable[..., Any],
    *args: Any,
) -> Any:
    """Do an operation of OpenSSL, parking as often as it wants to read or to write, and for `want` before it begins.

    Raises:
        TimeoutError: The deadline came, and one more attempt after it did not end the operation.
    """
    while True:
        ready = want is None or _wait(green, state, operation, want, deadline)
        try:
            return _attempt(sock, state, call, *args)
        except SSLWantReadError:
            want = "read"
        except SSLWantWriteError:
            want = "write"
        finally:
            if _crossed:
                _nudge(green, state)
        if not ready:
            raise TimeoutError(_TIMED_OUT[operation, want])


def _wait(green: Green, state: State, operation: str, want: Direction, deadline: float | None) -> bool:
    """Park until the socket is ready; False if the deadline came first."""
    if want == "write" or operation == "read":
        return state.wait(green, want, deadline)
    key = (state.key, green.host)
    crossed = _crossed.setdefault(key, [])
    crossed.append(green)
    try:
        return state.wait(green, want, deadline)
    finally:
        crossed.remove(green)
        if not crossed:
            _crossed.pop(key, None)


def _nudge(green: Green, state: State) -> None:
    """Have the other greens that wait to read try again, since what they wait for may have been read just now."""
    for other in _crossed.get((state.key, green.host), ()):
        if other is not green:
            _wake(other)


def _wake(green: Green) -> None:
    if green.waiting:
        green.waiting = False
        green.host.call_soon(resume, green, READY)


def _read(green: Green, sock: SSLSocket, state: State, size: int, buffer: Any) -> Any:
    """Read through OpenSSL, and find out whether it is worth trying the next time."""
    sslobj: Any = sock._sslobj  # type: ignore[attr-defined]
    side = state.side(green, "read")
    want: Direction | None = "read" if not side.ready and _takes_octets(size, buffer) else None
    args = (size,) if buffer is None else (size, buffer)
    try:
        result = _complete(green, sock, state, deadline_of(green, state.timeout), "read", want, sslobj.read, *args)
    except SSLError as error:
        if error.args[0] == _EOF and sock.suppress_ragged_eofs:  # type: ignore[attr-defined]
            return b"" if buffer is None else 0
        raise
    count = result if buffer is not None else len(result)
    # OpenSSL takes no more than one record from the kernel, so both have to be asked whether there is more.
    side.ready = side.hung or not (
        0 < count < _FULL_RECORD and not sslobj.pending() and ioctl(state.fd, FIONREAD, _NO_OCTETS) == _NO_OCTETS
    )
    return result


def _takes_octets(size: int, buffer: Any) -> bool:
    """Tell whether a read has to wait for data: one of no octets, or into no buffer, returns or raises at once."""
    if buffer is None:
        return size > 0
    try:
        with memoryview(buffer) as view:
            return view.nbytes > 0 and not view.readonly
    except TypeError:
        return False


_native_read = SSLSocket.read


@like(_native_read)
def read(self: SSLSocket, len: int = 1024, buffer: Any = None) -> Any:
    green = green_caller()
    if green is None:
        try:
            return _native_read(self, len, buffer)
        except _WANTS:
            if adopted_state(self) is None:
                raise
        return _natively(self, "read", _native_read, len, buffer)
    take_turn(green)
    if self._sslobj is None or (state := _waiting_state(self)) is None:  # type: ignore[attr-defined]
        return _native_read(self, len, buffer)
    self._checkClosed()  # type: ignore[attr-defined]
    return _read(green, self, state, len, buffer)


def _write(green: Green, sock: SSLSocket, state: State, data: Any) -> int:
    """Write through OpenSSL, when no other green has a record half sent."""
    deadline = None
    if _writing:
        deadline = deadline_of(green, state.timeout)
        _await_turn(green, state, deadline)
    sslobj: Any = sock._sslobj  # type: ignore[attr-defined]
    if sslobj is None:
        raise OSError(EBADF, os.strerror(EBADF))  # closed while it waited for its turn
    want: Direction
    try:
        return _attempt(sock, state, sslobj.write, data)  # type: ignore[no-any-return]
    except SSLWantReadError:
        want = "read"
    except SSLWantWriteError:
        want = "write"
    key = (state.key, green.host)
    queue = _writing[key] = []
    try:
        deadline = deadline or deadline_of(green, state.timeout)
        return _complete(green, sock, state, deadline, "write", want, sslobj.write, data)  # type: ignore[no-any-return]
    finally:
        del _writing[key]
        for other in queue:
            _wake(other)


def _await_turn(green: Green, state: State, deadline: float | None) -> None:
    """Park until no other green has a record half sent."""
    key = (state.key, green.host)
    while (queue := _writing.get(key)) is not None:
        mark = green.parks
        queue.append(green)
        green.what = f"<turn to write fd={state.fd}>"
        try:
            if park(green, deadline, mark) is not READY:
                raise TimeoutError(_TIMED_OUT["write", "write"])
        finally:
            queue.remove(green)


_native_write = SSLSocket.write


@like(_native_write)
def write(self: SSLSocket, data: Any) -> int:
    green = green_caller()
    if green is None:
        try:
            return _native_write(self, data)
        except _WANTS:
            if adopted_state(self) is None:
                raise
        return _natively(self, "write", _native_write, data)  # type: ignore[no-any-return]
    take_turn(green)
    if self._sslobj is None or (state := _waiting_state(self)) is None:  # type: ignore[attr-defined]
        return _native_write(self, data)
    self._checkClosed()  # type: ignore[attr-defined]
    return _write(green, self, state, data)


_native_send = SSLSocket.send


@like(_native_send)
def send(self: SSLSocket, data: Any, flags: int = 0) -> int:
    green = green_caller()
    if green is None:
        try:
            return _native_send(self, data, flags)
        except _WANTS:
            if adopted_state(self) is None:
                raise
        return _natively(self, "write", _native_send, data, flags)  # type: ignore[no-any-return]
    take_turn(green)
    if flags or self._sslobj is None or (state := _waiting_state(self)) is None:  # type: ignore[attr-defined]
        return _native_send(self, data, flags)
    self._checkClosed()  # type: ignore[attr-defined]
    return _write(green, self, state, data)


_native_do_handshake = SSLSocket.do_handshake


@like(_native_do_handshake)
def do_handshake(self: SSLSocket, block: bool = False) -> None:
    green = green_caller()
    if green is None:
        try:
            return _native_do_handshake(self, block)
        except _WANTS:
            if adopted_state(self) is None:
                raise
        return _natively(self, "handshake", _native_do_handshake, block)  # type: ignore[no-any-return]
    self._check_connected()  # type: ignore[attr-defined]
    never_blocks = self.gettimeout() == 0
    if never_blocks and not block:
        return _native_do_handshake(self, block)
    if never_blocks:
        self.settimeout(None)
    try:
        state = _waiting_state(self)
        assert state is not None
        sslobj: Any = self._sslobj  # type: ignore[attr-defined]
        _complete(green, self, state, deadline_of(green, state.timeout), "handshake", None, sslobj.do_handshake)
    finally:
        if never_blocks:
            self.settimeout(0.0)


_native_unwrap = SSLSocket.unwrap


@like(_native_unwrap)
def unwrap(self: SSLSocket) -> socket.socket:
    green = green_caller()
    if green is None:
        return _unwrap_natively(self)
    sslobj: Any = self._sslobj  # type: ignore[attr-defined]
    if sslobj is None or (state := _waiting_state(self)) is None:
        return _native_unwrap(self)
    plain = _complete(green, self, state, deadline_of(green, state.timeout), "unwrap", None, sslobj.shutdown)
    self._sslobj = None  # type: ignore[attr-defined]
    _block_again(self)
    return plain  # type: ignore[no-any-return]


def _unwrap_natively(sock: SSLSocket) -> socket.socket:
    try:
        plain = _native_unwrap(sock)
    except _WANTS:
        if adopted_state(sock) is None:
            raise
        plain = _natively(sock, "unwrap", _native_unwrap)
    _block_again(sock)
    return plain


def _block_again(sock: SSLSocket) -> None:
    """Put the descriptor back in its mode after the end of TLS: it may be handed to a child process now."""
    state = adopted_state(sock)
    if state is not None and state.timeout is None:
        release(sock, state)


_native_real_close = SSLSocket._real_close  # type: ignore[attr-defined]


@like(_native_real_close)
def _real_close(self: SSLSocket) -> None:
    states.pop(id(self), None)
    if (fd := self.fileno()) >= 0:
        forget(fd)
    _native_real_close(self)


def _natively(sock: SSLSocket, operation: str, call: Callable[..., Any], *args: Any) -> Any:
    """Do an operation on an adopted socket from native code: block as the user's timeout says."""
    timeout = sock.gettimeout()
    deadline = None if timeout is None else _original.monotonic() + timeout
    ready = True
    want: Direction
    while True:
        try:
            return call(sock, *args)
        except SSLWantReadError:
            want = "read"
        except SSLWantWriteError:
            want = "write"
        if not ready:
            raise TimeoutError(_TIMED_OUT[operation, want])
        ready = ready_natively(sock, want, deadline)
        ready = ready and (deadline is None or _original.monotonic() < deadline)


_METHODS = [read, write, send, do_handshake, unwrap, _real_close]

GROUP = Group(
    "ssl",
    (*patches(SSLSocket, _METHODS), *patches(ssl.SSLContext, _certificates.METHODS)),
    undo=partial(release_sockets, SSLSocket),
)
