"""The methods of `socket.socket` that receive.

The first attempt is the plain system call, told not to block. If it would, the greenlet parks until the descriptor is
reported ready, and tries again. After a read of a stream that came back short there is nothing left, so the next one
waits first, unless something has come meanwhile (`Side.ready`).
"""

from __future__ import annotations

import _socket
import socket
import sys
from fcntl import ioctl
from operator import index
from termios import FIONREAD
from typing import Any

from .._core import Green, current_green, getcurrent, yield_once
from ._socket_state import (
    DONTWAIT,
    NEVER_BLOCKS,
    TURN,
    State,
    attempt,
    green_caller,
    listed,
    natively,
    plain,
    state_of,
    states,
)
from ._table import like

__all__ = ["METHODS"]

_C = _socket.socket
_c_recv, _c_recv_into = _C.recv, _C.recv_into  # a look-up less a call
_PEEK = int(socket.MSG_PEEK)
_WAITALL = int(socket.MSG_WAITALL)
_NO_FLAGS = 0
"""What is this very object needs no look; None, 0.0 and the like are left for the native call to refuse."""


@like(_C.recv)
def recv(self: socket.socket, bufsize: int, flags: int = 0, /) -> bytes:
    green: Any = getcurrent()
    if green.__class__ is not Green and (green.parent is None or (green := current_green()) is None):
        try:
            return _c_recv(self, bufsize, flags)
        except BlockingIOError:
            return natively(self, "read", flags, _C.recv, bufsize, flags)  # type: ignore[no-any-return]
    state = states.get(id(self)) or state_of(self)
    if flags is not _NO_FLAGS or state.timeout == 0 or bufsize.__class__ is not int:
        return _recv_flagged(green, self, state, index(bufsize), flags)
    host = green.host
    side = state.reader
    if side.host is not host:
        side = state.read_side(host)
    if side.ready or bufsize <= 0:
        green.operations += 1
        if green.operations > TURN:
            yield_once(green)
        side.missed = False
        try:
            data = _c_recv(self, bufsize, DONTWAIT)
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
            data = _c_recv(self, bufsize, DONTWAIT)
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
        if _peeks_at_all(state, flags):
            _await_octets(green, state, bufsize)
        return plain(green, sock, state, "read", _C.recv, (bufsize,), flags)  # type: ignore[no-any-return]
    buffer = bytearray(bufsize)
    received = _fill(green, sock, state, memoryview(buffer), flags)
    return bytes(buffer[:received])


def _waits_for_all(state: State, flags: int) -> bool:
    """Tell whether the kernel would wait until the buffer is full; with a timeout it does not."""
    if not isinstance(flags, int) or not flags & _WAITALL or flags & (NEVER_BLOCKS | _PEEK):
        return False
    return state.stream and state.timeout is None


def _peeks_at_all(state: State, flags: int) -> bool:
    """Tell whether the kernel would wait for all octets, and leave them where they are: over TCP it does."""
    both = _PEEK | _WAITALL
    if not isinstance(flags, int) or flags & both != both or flags & NEVER_BLOCKS:
        return False
    return state.drains and state.timeout is None


def _await_octets(green: Green, state: State, size: int) -> None:
    """Park until there are so many octets, or no more will come."""
    side = state.side(green, "read")
    while not side.hung and (count := _count_of_octets(state.fd)) < size:
        try:
            side.wait(green, None)
        except BlockingIOError:  # the kernel's time limit
            if not count:
                raise
            return


def _count_of_octets(fd: int) -> int:
    return int.from_bytes(ioctl(fd, FIONREAD, bytes(4)), sys.byteorder)


def _fill(green: Green, sock: socket.socket, state: State, view: memoryview, flags: int) -> int:
    """Receive until a buffer is full, for MSG_WAITALL; what came before an error counts, as in the kernel."""
    flags = flags & ~_WAITALL | DONTWAIT
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
    size = nbytes or (buffer.nbytes if buffer.__class__ is memoryview else _size(buffer))
    if flags is not _NO_FLAGS or state.timeout == 0 or size.__class__ is not int:
        return _recv_into_flagged(green, self, state, buffer, nbytes, flags)
    host = green.host
    side = state.reader
    if side.host is not host:
        side = state.read_side(host)
    if side.ready or size <= 0:
        green.operations += 1
        if green.operations > TURN:
            yield_once(green)
        side.missed = False
        try:
            count = _c_recv_into(self, buffer, nbytes, DONTWAIT)
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
            count = _c_recv_into(self, buffer, nbytes, DONTWAIT)
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
    if not _waits_for_all(state, flags) or not size or not 0 <= index(nbytes) <= size:
        if _peeks_at_all(state, flags):
            _await_octets(green, state, index(nbytes) or size)
        return plain(green, sock, state, "read", _C.recv_into, (buffer, nbytes), flags)  # type: ignore[no-any-return]
    with memoryview(buffer) as view, view.cast("B") as octets, octets[: index(nbytes) or size] as wanted:
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
    if _peeks_at_all(state, flags):
        _await_octets(green, state, index(bufsize))
    data, address = plain(green, self, state, "read", _C.recvfrom, (bufsize,), _unhurried(state, flags))
    return data + _more(green, self, state, data, bufsize, flags), address


def _unhurried(state: State, flags: int) -> int:
    return flags & ~_WAITALL if _waits_for_all(state, flags) else flags


def _more(green: Green, sock: socket.socket, state: State, data: bytes, bufsize: int, flags: int) -> bytes:
    """Receive what MSG_WAITALL still wants after the first part."""
    if not data or not _waits_for_all(state, flags) or len(data) >= index(bufsize):
        return b""
    buffer = bytearray(index(bufsize) - len(data))
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
    if _peeks_at_all(state, flags):
        _await_octets(green, state, index(nbytes) or _size(buffer))
    count, address = plain(green, self, state, "read", _C.recvfrom_into, args, _unhurried(state, flags))
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
    if _peeks_at_all(state, flags):
        _await_octets(green, state, index(bufsize))
    data, ancillary, *rest = plain(green, self, state, "read", _C.recvmsg, args, _unhurried(state, flags))
    if not ancillary:  # the kernel's wait ends with a message that has some
        data += _more(green, self, state, data, bufsize, flags)
    return data, ancillary, *rest


@like(_C.recvmsg_into)
def recvmsg_into(self: socket.socket, buffers: Any, ancbufsize: int = 0, flags: int = 0, /) -> Any:
    buffers = listed(buffers)
    green = green_caller()
    if green is None:
        try:
            return _C.recvmsg_into(self, buffers, ancbufsize, flags)
        except BlockingIOError:
            return natively(self, "read", flags, _C.recvmsg_into, buffers, ancbufsize, flags)
    state = state_of(self)
    args = (buffers, ancbufsize)
    if _peeks_at_all(state, flags):
        _await_octets(green, state, sum(map(_size, buffers)))
    count, ancillary, *rest = plain(green, self, state, "read", _C.recvmsg_into, args, _unhurried(state, flags))
    if count and not ancillary and _waits_for_all(state, flags):
        count += _fill_buffers(green, self, state, buffers, count, flags)
    return count, ancillary, *rest


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


METHODS: list[Any] = [recv, recv_into, recvfrom, recvfrom_into, recvmsg, recvmsg_into]
