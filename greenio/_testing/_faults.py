"""Faults of sockets, injected: methods over those of `socket.socket` and `ssl.SSLSocket` for the time of a block.

Only green code is served so; native code, the loop and other threads get what was there before. Chance decides, by a
generator of its own with a given seed: the same calls in the same order meet the same faults.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import random
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from .. import _original, await_, in_greenlet
from .._core import forget

__all__ = ["Fault", "Faults", "faults"]

_ABSENT: Any = object()
_LINGER_NOT = struct.pack("ii", 1, 0)
_RECEIVING = ("recv", "recv_into", "recvfrom", "recvfrom_into", "recvmsg", "recvmsg_into")
_SENDING = ("send", "sendall", "sendto", "sendmsg", "sendfile")
_CONNECTING = ("connect", "connect_ex", "accept")


@dataclass(frozen=True)
class Fault:
    """One fault that was injected.

    Attributes:
        kind: "short read", "short write", "delay", "reset" or "interrupt".
        call: The name of the method that met it.
    """

    kind: str
    call: str


@dataclass(eq=False)
class Faults:
    """What a block of `faults(...)` injects, and has injected.

    Attributes:
        injected: The faults so far, in order.
    """

    short_reads: float
    short_writes: float
    delays: float
    delay: float
    resets: float
    interrupts: float
    only: Callable[[socket.socket], object] | None
    chance: random.Random
    injected: list[Fault] = field(default_factory=list)

    def count(self, kind: str) -> int:
        """Count the faults of a kind so far. Never parks."""
        return sum(fault.kind == kind for fault in self.injected)

    def _happens(self, kind: str, probability: float, call: str) -> bool:
        if probability <= 0 or self.chance.random() >= probability:
            return False
        self.injected.append(Fault(kind, call))
        return True

    def _concerns(self, sock: socket.socket) -> bool:
        return in_greenlet() and sock.gettimeout() != 0 and (self.only is None or bool(self.only(sock)))

    def _before(self, sock: socket.socket, call: str) -> None:
        """Delay, interrupt or break off a call before it is made."""
        if self._happens("delay", self.delays, call):
            await_(asyncio.sleep(self.chance.uniform(0, self.delay)))
        if self._happens("interrupt", self.interrupts, call):
            raise InterruptedError(errno.EINTR, os.strerror(errno.EINTR))
        if call not in _CONNECTING and self._happens("reset", self.resets, call):
            _reset(sock)
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))

    def _some(self, size: int, kind: str, probability: float, call: str) -> int:
        """Choose how many of so many octets are moved."""
        if size < 2 or not self._happens(kind, probability, call):
            return size
        return self.chance.randint(1, size - 1)


def _reset(sock: socket.socket) -> None:
    """Let the peer see a reset, and every later call of this side an end."""
    with contextlib.suppress(OSError):
        if sock.family not in (socket.AF_INET, socket.AF_INET6) or sock.type != socket.SOCK_STREAM:
            sock.shutdown(socket.SHUT_RDWR)
            return
        fd = sock.fileno()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)  # so that its end is a reset
        with _original.Socket(sock.family, sock.type) as unconnected:
            _original.set_blocking(unconnected.fileno(), os.get_blocking(fd))
            forget(fd)  # wakes who else waits there
            _original.dup2(unconnected.fileno(), fd, inheritable=os.get_inheritable(fd))


@contextlib.contextmanager
def faults(
    *,
    short_reads: float = 0.0,
    short_writes: float = 0.0,
    delays: float = 0.0,
    delay: float = 0.01,
    resets: float = 0.0,
    interrupts: float = 0.0,
    only: Callable[[socket.socket], object] | None = None,
    seed: int = 0,
) -> Iterator[Faults]:
    """Make the sockets of green code fail in a `with` block, as networks do. Delays park; entering never does.

    The numbers from 0 to 1 are probabilities, for each call of a method. Non-blocking sockets are left alone, and
    so are calls that take a descriptor, as `os.sendfile` does.

    Args:
        short_reads: `recv` and its like get a part of what they ask for.
        short_writes: `send` and `sendmsg` take a part; what `sendall` and `sendfile` send goes out in parts.
        delays: The call waits before it begins.
        delay: Seconds to wait at most.
        resets: The connection is reset, for both ends, and the call raises ConnectionResetError.
        interrupts: The call raises InterruptedError (EINTR), as it does where a signal handler raises nothing and
            nobody tries again; `connect_ex` returns the number. Python itself tries again, so this is for code that
            has to get along with it.
        only: Tells whether a socket is concerned; None for all.
        seed: Of the chance.

    Yields:
        What was injected, as a `Faults`.

    Raises:
        ValueError: A probability is not from 0 to 1.
    """
    probabilities = (short_reads, short_writes, delays, resets, interrupts)
    if not all(0 <= each <= 1 for each in probabilities) or delay < 0:
        raise ValueError(f"probabilities are from 0 to 1, and a delay is not negative: {probabilities}, {delay}")
    made = Faults(short_reads, short_writes, delays, delay, resets, interrupts, only, random.Random(seed))
    layers: list[_Layer] = []
    try:
        for owner in {_original.Socket, _original.SSLSocket}:
            for name in (*_RECEIVING, *_SENDING, *_CONNECTING):
                if owner is _original.Socket or name in vars(owner):
                    layers.append(_Layer(made, owner, name))
        yield made
    finally:
        for layer in reversed(layers):
            layer.remove()


_layers: list[_Layer] = []
"""Those of all blocks; blocks of two greenlets overlap, and the one that began first may end first."""


class _Layer:
    """A method of a block over what was there before, which may be that of another block."""

    def __init__(self, made: Faults, owner: type, name: str) -> None:
        self._owner, self._name = owner, name
        self._own: Any = vars(owner).get(name, _ABSENT)
        self._native: Any = getattr(owner, name)
        self._method = self._over(made, name)
        setattr(owner, name, self._method)
        _layers.append(self)

    def remove(self) -> None:
        _layers.remove(self)
        for above in _layers:
            if above._own is self._method:
                above._own, above._native = self._own, self._native
        if vars(self._owner).get(self._name) is not self._method:
            return  # somebody has set the name since
        if self._own is _ABSENT:
            delattr(self._owner, self._name)
        else:
            setattr(self._owner, self._name, self._own)

    def _over(self, made: Faults, name: str) -> Any:
        act = _ACTS.get(name, _plainly)

        def method(sock: socket.socket, *args: Any, **kwargs: Any) -> Any:
            if not made._concerns(sock):
                return self._native(sock, *args, **kwargs)
            try:
                made._before(sock, name)
            except InterruptedError as error:
                if name == "connect_ex":
                    return error.errno
                raise
            return act(made, sock, name, self._native, args, kwargs)

        method.__name__, method.__qualname__, method.__doc__ = name, f"socket.{name}", self._native.__doc__
        return method


Act = Callable[[Faults, socket.socket, str, Any, tuple[Any, ...], dict[str, Any]], Any]


def _plainly(
    made: Faults, sock: socket.socket, name: str, native: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    return native(sock, *args, **kwargs)


def _receive(
    made: Faults, sock: socket.socket, name: str, native: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    flags = args[2:] if name == "recvmsg" else args[1:]
    if not args or not isinstance(args[0], int) or _is_whole(sock, flags):
        return native(sock, *args, **kwargs)
    return native(sock, made._some(args[0], "short read", made.short_reads, name), *args[1:], **kwargs)


def _receive_into(
    made: Faults, sock: socket.socket, name: str, native: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    if not args or len(args) > 2 or kwargs or _is_whole(sock, ()):
        return native(sock, *args, **kwargs)
    asked = (args[1] if len(args) > 1 else 0) or memoryview(args[0]).nbytes
    return native(sock, args[0], made._some(asked, "short read", made.short_reads, name))


def _message(
    made: Faults, sock: socket.socket, name: str, native: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Move a part of several buffers: their first octets."""
    if not args or _is_whole(sock, args[2:]):
        return native(sock, *args, **kwargs)
    buffers = [memoryview(buffer).cast("B") for buffer in args[0]]
    sends = name == "sendmsg"
    kind, probability = ("short write", made.short_writes) if sends else ("short read", made.short_reads)
    count = made._some(sum(map(len, buffers)), kind, probability, name)
    part = []
    for octets in buffers:
        part.append(octets[:count])
        count -= len(part[-1])
    return native(sock, part, *args[1:], **kwargs)


def _send(
    made: Faults, sock: socket.socket, name: str, native: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    if not args or _is_whole(sock, ()):
        return native(sock, *args, **kwargs)
    octets = memoryview(args[0]).cast("B")
    count = made._some(len(octets), "short write", made.short_writes, name)
    return native(sock, octets[:count] if count < len(octets) else args[0], *args[1:], **kwargs)


def _send_all(
    made: Faults, sock: socket.socket, name: str, native: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    if not args or _is_whole(sock, ()):
        return native(sock, *args, **kwargs)
    octets = memoryview(args[0]).cast("B")
    count = made._some(len(octets), "short write", made.short_writes, name)
    if count == len(octets):
        return native(sock, *args, **kwargs)
    native(sock, octets[:count], *args[1:], **kwargs)
    await_(asyncio.sleep(0))  # the peer may see the first part by itself
    return native(sock, octets[count:], *args[1:], **kwargs)


def _send_file(
    made: Faults, sock: socket.socket, name: str, native: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    def send(file: Any, offset: int = 0, count: int | None = None) -> int:
        size = _size(file) - offset
        size = size if count is None else min(size, count)
        part = made._some(size, "short write", made.short_writes, name)
        if part >= size:
            return native(sock, file, offset, count)  # type: ignore[no-any-return]
        sent: int = native(sock, file, offset, part)
        await_(asyncio.sleep(0))
        return sent + native(sock, file, offset + sent, size - sent)  # type: ignore[no-any-return]

    return native(sock, *args, **kwargs) if _is_whole(sock, ()) else send(*args, **kwargs)


def _size(file: Any) -> int:
    """Tell the size of a file; zero of what has no descriptor, which `sendfile` sends by `send`."""
    try:
        return os.fstat(file.fileno()).st_size
    except (AttributeError, OSError):
        return 0


def _is_whole(sock: socket.socket, flags: tuple[Any, ...]) -> bool:
    """Tell whether a part would not be what the kernel may do: of a datagram, or where all is waited for."""
    return sock.type != socket.SOCK_STREAM or any(flag & socket.MSG_WAITALL for flag in flags if isinstance(flag, int))


_ACTS: dict[str, Act] = {
    "recv": _receive,
    "recv_into": _receive_into,
    "recvfrom": _receive,
    "recvfrom_into": _receive_into,
    "recvmsg": _receive,
    "recvmsg_into": _message,
    "send": _send,
    "sendall": _send_all,
    "sendmsg": _message,
    "sendfile": _send_file,
}
