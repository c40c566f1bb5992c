"""`socket.socket`: its methods are replaced in place, so that old instances and subclasses park too.

How a green call waits. The first attempt is the plain system call, told not to block. If it would, the greenlet parks
until the descriptor is reported ready, and tries again. After a read of a stream that came back short there is nothing
left, so the next one waits first, unless something has come meanwhile (`Side.ready`).

`_socket_state` tells how the calls are kept from blocking, and `_connect` holds what connects and accepts.
"""

from __future__ import annotations

import _socket
import socket
from collections.abc import Callable
from operator import index
from typing import Any

from .. import _original
from .._core import Green, current_green, forget, getcurrent, yield_once
from ._close import CLOSE
from ._connect import METHODS as _CONNECT_METHODS
from ._makefile import METHODS as _MAKEFILE_METHODS
from ._resolver import numeric_address
from ._sendfile import METHODS as _SENDFILE_METHODS
from ._socket_state import (
    NEVER_BLOCKS,
    TURN,
    Direction,
    State,
    adopt,
    adopted_state,
    attempt,
    can_adopt,
    deadline_of,
    green_caller,
    natively,
    ready_natively,
    release,
    release_sockets,
    state_of,
    states,
    take_turn,
    unblocked,
)
from ._table import Group, like, patches

__all__ = [
    "GROUP",
    "Direction",
    "State",
    "adopt",
    "adopted_state",
    "attempt",
    "green_caller",
    "release",
    "release_sockets",
    "state_of",
    "states",
    "take_turn",
    "unblocked",
]

_C = _socket.socket
_DONTWAIT = int(socket.MSG_DONTWAIT)  # `|` with an IntFlag costs a microsecond
_c_recv, _c_recv_into, _c_send, _c_sendall = _C.recv, _C.recv_into, _C.send, _C.sendall  # a look-up less a call
_PEEK = int(socket.MSG_PEEK)
_WAITALL = int(socket.MSG_WAITALL)
_SIZED = (bytearray, memoryview)


@like(_C.recv)
def recv(self: socket.socket, bufsize: int, flags: int = 0, /) -> bytes:
    green: Any = getcurrent()
    if green.__class__ is not Green and (green.parent is None or (green := current_green()) is None):
        try:
            return _c_recv(self, bufsize, flags)
        except BlockingIOError:
            return natively(self, "read", flags, _C.recv, bufsize, flags)  # type: ignore[no-any-return]
    state = states.get(id(self)) or state_of(self)
    if flags or state.timeout == 0 or bufsize.__class__ is not int:
        return _recv_flagged(green, self, state, index(bufsize), flags)
    host = green.host
    side = state.reader
    if side.host is not host:
        side = state.read_side(host)
    if side.ready or bufsize <= 0:
        green.operations += 1
        if green.operations > TURN:
            yield_once(green)
        try:
            data = _c_recv(self, bufsize, _DONTWAIT)
        except BlockingIOError:
            pass
        else:
            if len(data) < bufsize and state.drains:
                side.ready = side.hung
            return data
    timeout = state.timeout
    deadline = None if timeout is None else host.clock() + timeout
    while True:
        ready = side.wait(green, deadline)
        if not ready and timeout is not None and not state.adopted:
            raise TimeoutError("timed out")  # given back meanwhile: another attempt would wait in C
        try:
            data = _c_recv(self, bufsize, _DONTWAIT)
        except BlockingIOError:
            if not ready:
                raise TimeoutError("timed out") from None
            continue
        if len(data) < bufsize and state.drains:
            side.ready = side.hung
        return data


def _recv_flagged(green: Green, sock: socket.socket, state: State, bufsize: int, flags: int) -> bytes:
    """Receive where the flags or the mode say that nothing may wait, or that everything must be waited for."""
    if state.timeout == 0:
        green.operations += 1
        if green.operations > TURN:
            yield_once(green)
        return _c_recv(sock, bufsize, flags)
    if not _waits_for_all(state, flags) or bufsize <= 0:
        return _plain(green, sock, state, "read", _C.recv, (bufsize,), flags)  # type: ignore[no-any-return]
    buffer = bytearray(bufsize)
    received = _fill(green, sock, state, memoryview(buffer), flags)
    return bytes(buffer[:received])


def _waits_for_all(state: State, flags: int) -> bool:
    """Tell whether the kernel would wait until the buffer is full; with a timeout it does not."""
    if not isinstance(flags, int) or not flags & _WAITALL or flags & (NEVER_BLOCKS | _PEEK):
        return False
    return state.stream and state.timeout is None


def _plain(
    green: Green, sock: socket.socket, state: State, direction: Direction, call: Any, args: Any, flags: int, *rest: Any
) -> Any:
    """Do one call whose flags come after `args`, parking unless the mode or the flags forbid it."""
    timeout = state.timeout
    if timeout == 0 or not isinstance(flags, int) or (timeout is None and flags & NEVER_BLOCKS):
        take_turn(green)
        return call(sock, *args, flags, *rest)
    deadline = deadline_of(green, timeout)
    return attempt(green, state, direction, deadline, call, sock, *args, flags | _DONTWAIT, *rest)


def _fill(green: Green, sock: socket.socket, state: State, view: memoryview, flags: int) -> int:
    """Receive until a buffer is full, for MSG_WAITALL; what came before an error counts, as in the kernel."""
    flags = flags & ~_WAITALL | _DONTWAIT
    received = 0
    while received < len(view):
        try:
            count: int = attempt(green, state, "read", None, _C.recv_into, sock, view[received:], 0, flags)
        except OSError:
            if not received:
                raise
            break
        if not count:
            break
        received += count
    return received


@like(_C.recv_into)
def recv_into(self: socket.socket, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
    green: Any = getcurrent()
    if green.__class__ is not Green and (green.parent is None or (green := current_green()) is None):
        try:
            return _c_recv_into(self, buffer, nbytes, flags)
        except BlockingIOError:
            return natively(self, "read", flags, _C.recv_into, buffer, nbytes, flags)  # type: ignore[no-any-return]
    state = states.get(id(self)) or state_of(self)
    size = nbytes or (len(buffer) if buffer.__class__ in _SIZED else _size(buffer))
    if flags or state.timeout == 0 or size.__class__ is not int:
        return _recv_into_flagged(green, self, state, buffer, index(nbytes), flags)
    host = green.host
    side = state.reader
    if side.host is not host:
        side = state.read_side(host)
    if side.ready or size <= 0:
        green.operations += 1
        if green.operations > TURN:
            yield_once(green)
        try:
            count = _c_recv_into(self, buffer, nbytes, _DONTWAIT)
        except BlockingIOError:
            pass
        else:
            if count < size and state.drains:
                side.ready = side.hung
            return count
    timeout = state.timeout
    deadline = None if timeout is None else host.clock() + timeout
    while True:
        ready = side.wait(green, deadline)
        if not ready and timeout is not None and not state.adopted:
            raise TimeoutError("timed out")  # given back meanwhile: another attempt would wait in C
        try:
            count = _c_recv_into(self, buffer, nbytes, _DONTWAIT)
        except BlockingIOError:
            if not ready:
                raise TimeoutError("timed out") from None
            continue
        if count < size and state.drains:
            side.ready = side.hung
        return count


def _size(buffer: Any) -> int:
    """Tell the octets of a buffer; zero for what is none, so that the native call says so at once."""
    try:
        return memoryview(buffer).nbytes
    except TypeError:
        return 0


def _recv_into_flagged(green: Green, sock: socket.socket, state: State, buffer: Any, nbytes: int, flags: int) -> int:
    size = _size(buffer)
    if not _waits_for_all(state, flags) or not size or not 0 <= nbytes <= size:
        return _plain(green, sock, state, "read", _C.recv_into, (buffer, nbytes), flags)  # type: ignore[no-any-return]
    with memoryview(buffer) as view, view.cast("B") as octets, octets[: nbytes or size] as wanted:
        if wanted.readonly:
            return _c_recv_into(sock, buffer)  # raises TypeError
        return _fill(green, sock, state, wanted, flags)


@like(_C.recvfrom)
def recvfrom(self: socket.socket, bufsize: int, flags: int = 0, /) -> Any:
    green = green_caller()
    if green is None:
        try:
            return _C.recvfrom(self, bufsize, flags)
        except BlockingIOError:
            return natively(self, "read", flags, _C.recvfrom, bufsize, flags)
    state = state_of(self)
    data, address = _plain(green, self, state, "read", _C.recvfrom, (bufsize,), _unhurried(state, flags))
    return data + _more(green, self, state, data, bufsize, flags), address


def _unhurried(state: State, flags: int) -> int:
    return flags & ~_WAITALL if _waits_for_all(state, flags) else flags


def _more(green: Green, sock: socket.socket, state: State, data: bytes, bufsize: int, flags: int) -> bytes:
    """Receive what MSG_WAITALL still wants after the first part."""
    if not data or len(data) >= bufsize or not _waits_for_all(state, flags):
        return b""
    buffer = bytearray(bufsize - len(data))
    received = _fill_rest(green, sock, state, memoryview(buffer), flags)
    return bytes(buffer[:received])


def _fill_rest(green: Green, sock: socket.socket, state: State, view: memoryview, flags: int) -> int:
    try:
        return _fill(green, sock, state, view, flags)
    except OSError:
        return 0


@like(_C.recvfrom_into)
def recvfrom_into(self: socket.socket, buffer: Any, nbytes: int = 0, flags: int = 0) -> Any:
    green = green_caller()
    if green is None:
        try:
            return _C.recvfrom_into(self, buffer, nbytes, flags)
        except BlockingIOError:
            return natively(self, "read", flags, _C.recvfrom_into, buffer, nbytes, flags)
    state = state_of(self)
    args = (buffer, nbytes)
    count, address = _plain(green, self, state, "read", _C.recvfrom_into, args, _unhurried(state, flags))
    if count and _waits_for_all(state, flags):
        with memoryview(buffer) as view, view.cast("B") as octets, octets[count : nbytes or None] as rest:
            count += _fill_rest(green, self, state, rest, flags)
    return count, address


@like(_C.recvmsg)
def recvmsg(self: socket.socket, bufsize: int, ancbufsize: int = 0, flags: int = 0, /) -> Any:
    green = green_caller()
    if green is None:
        try:
            return _C.recvmsg(self, bufsize, ancbufsize, flags)
        except BlockingIOError:
            return natively(self, "read", flags, _C.recvmsg, bufsize, ancbufsize, flags)
    state = state_of(self)
    args = (bufsize, ancbufsize)
    data, ancillary, *rest = _plain(green, self, state, "read", _C.recvmsg, args, _unhurried(state, flags))
    if not ancillary:  # the kernel's wait ends with a message that has some
        data += _more(green, self, state, data, bufsize, flags)
    return data, ancillary, *rest


@like(_C.recvmsg_into)
def recvmsg_into(self: socket.socket, buffers: Any, ancbufsize: int = 0, flags: int = 0, /) -> Any:
    buffers = _listed(buffers)
    green = green_caller()
    if green is None:
        try:
            return _C.recvmsg_into(self, buffers, ancbufsize, flags)
        except BlockingIOError:
            return natively(self, "read", flags, _C.recvmsg_into, buffers, ancbufsize, flags)
    state = state_of(self)
    args = (buffers, ancbufsize)
    count, ancillary, *rest = _plain(green, self, state, "read", _C.recvmsg_into, args, _unhurried(state, flags))
    if count and not ancillary and _waits_for_all(state, flags):
        count += _fill_buffers(green, self, state, buffers, count, flags)
    return count, ancillary, *rest


def _listed(items: Any) -> Any:
    """Make a list of an iterator, which would be empty at the second attempt; the native call judges what is none."""
    return list(items) if hasattr(items, "__next__") else items


def _fill_buffers(green: Green, sock: socket.socket, state: State, buffers: list[Any], skip: int, flags: int) -> int:
    total = 0
    for buffer in buffers:
        with memoryview(buffer) as view, view.cast("B") as octets, octets[skip:] as rest:
            skip = max(0, skip - len(octets))
            received = _fill_rest(green, sock, state, rest, flags)
            total += received
            if received < len(rest):
                break
    return total


@like(_C.send)
def send(self: socket.socket, data: Any, flags: int = 0, /) -> int:
    green: Any = getcurrent()
    if green.__class__ is not Green and (green.parent is None or (green := current_green()) is None):
        try:
            return _c_send(self, data, flags)
        except BlockingIOError:
            return natively(self, "write", flags, _C.send, data, flags)  # type: ignore[no-any-return]
    state = states.get(id(self)) or state_of(self)
    sent: int = _plain(green, self, state, "write", _C.send, (data,), flags)
    if state.timeout is not None or not state.stream or (data.__class__ is bytes and sent == len(data)):
        return sent
    with memoryview(data) as view, view.cast("B") as octets:
        return _send_rest(green, self, state, octets, sent, flags)


def _send_rest(green: Green, sock: socket.socket, state: State, octets: memoryview, sent: int, flags: int) -> int:
    """Send what is left of a stream's data: where there is no timeout, the kernel takes all before it returns."""
    if flags & NEVER_BLOCKS & ~socket.MSG_OOB:
        return sent
    flags |= _DONTWAIT
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
    if timeout == 0 or not isinstance(flags, int) or (timeout is None and flags & _DONTWAIT):
        return _c_sendall(self, data, flags)
    flags |= _DONTWAIT
    green.operations += 1
    if green.operations > TURN:
        yield_once(green)
    try:
        sent = _c_send(self, data, flags)
    except BlockingIOError:
        sent = 0
    else:
        if data.__class__ is bytes and sent == len(data):
            return None
    clock = green.host.clock
    deadline = None if timeout is None else clock() + timeout
    with memoryview(data) as view, view.cast("B") as octets:
        while sent < len(octets):
            if deadline is not None and clock() >= deadline:
                raise TimeoutError("timed out")
            sent += attempt(green, state, "write", deadline, _C.send, self, octets[sent:], flags)
    return None


def _sendall_natively(sock: socket.socket, data: Any, flags: int) -> None:
    """Send everything from native code through an adopted socket, blocking as the user's timeout says."""
    timeout = sock.gettimeout()
    deadline = None if timeout is None else _original.monotonic() + timeout
    with memoryview(data) as view, view.cast("B") as octets:
        sent = 0
        while True:
            try:
                sent += _c_send(sock, octets[sent:], flags)
            except BlockingIOError:
                if timeout is None and flags & _DONTWAIT:
                    raise
            if sent >= len(octets):
                return
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
    sent: int = _plain(green, self, state, "write", _C.sendto, (data,), flags, address)
    if state.timeout is not None or not state.stream:
        return sent
    with memoryview(data) as view, view.cast("B") as octets:
        return _send_rest(green, self, state, octets, sent, flags)


_family: Callable[[socket.socket], int] = _C.family.__get__
"""The number; `socket.socket.family` makes an enum of it each time."""


@like(_C.sendmsg)
def sendmsg(self: socket.socket, buffers: Any, ancdata: Any = (), flags: int = 0, address: Any = None, /) -> int:
    rest = () if address is None else (address,)
    buffers, ancdata = _listed(buffers), _listed(ancdata)
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
    sent: int = _plain(green, self, state, "write", _C.sendmsg, (buffers, ancdata), flags, *rest)
    if state.timeout is not None or not state.stream:
        return sent
    return _send_rest(green, self, state, memoryview(b"".join(buffers)), sent, flags)


if hasattr(_C, "sendmsg_afalg"):

    @like(_C.sendmsg_afalg)
    def sendmsg_afalg(self: socket.socket, msg: Any = (), *, flags: int = 0, **options: Any) -> int:
        msg = _listed(msg)
        green = green_caller()
        if green is None:
            try:
                return _C.sendmsg_afalg(self, msg, flags=flags, **options)
            except BlockingIOError:
                return natively(self, "write", flags, _afalg, msg, flags, options)  # type: ignore[no-any-return]
        return _plain(green, self, state_of(self), "write", _afalg, (msg,), flags, options)  # type: ignore[no-any-return]

    def _afalg(sock: socket.socket, msg: Any, flags: int, options: dict[str, Any]) -> int:
        return _C.sendmsg_afalg(sock, msg, flags=flags, **options)


_native_real_close = socket.socket._real_close  # type: ignore[attr-defined]


@like(_native_real_close)
def _real_close(self: socket.socket, _ss: Any = _C) -> None:
    # Every way of closing comes here: close(), the last file of makefile(), `with`, SSLSocket.
    states.pop(id(self), None)
    if (fd := self.fileno()) >= 0:
        forget(fd)
    _native_real_close(self, _ss)


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


@like(_C.setblocking)
def setblocking(self: socket.socket, flag: bool, /) -> None:
    if id(self) not in states:
        return _C.setblocking(self, flag)
    settimeout(self, None if flag else 0.0)
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


_METHODS: list[Any] = [
    recv, recv_into, recvfrom, recvfrom_into, recvmsg, recvmsg_into, send, sendall, sendto, sendmsg,
    _real_close, detach, settimeout, setblocking, gettimeout, getblocking, _Timeout(),
    *_CONNECT_METHODS, *_MAKEFILE_METHODS, *_SENDFILE_METHODS,
]  # fmt: skip
if hasattr(_C, "sendmsg_afalg"):
    _METHODS.append(sendmsg_afalg)

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
)
