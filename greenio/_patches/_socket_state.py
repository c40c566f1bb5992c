"""What greenio knows of the sockets that green code has used, and how a call on one waits.

`MSG_DONTWAIT` makes an attempt on a blocking socket without touching the descriptor. It does not help where the socket
has a timeout: there the C code polls before it even tries. Such a socket is *adopted*: its C timeout is set to zero,
which changes nothing about the descriptor (it is non-blocking already, that is how CPython implements timeouts), and
the user's timeout is kept here. TLS adopts sockets without a timeout too, since `_ssl` blocks in C otherwise. Native
code that uses an adopted socket gets what the user's timeout says: see `natively`.
"""

from __future__ import annotations

import _socket
import errno
import os
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Literal
from weakref import ref

from .. import _original
from .._core import Green, Host, Side, current_green, forget, getcurrent, park, reader, renew, writer, yield_once

__all__ = [
    "DONTWAIT",
    "NEVER_BLOCKS",
    "PIECE",
    "TURN",
    "Direction",
    "State",
    "adopt",
    "adopted_state",
    "attempt",
    "can_adopt",
    "deadline_of",
    "green_caller",
    "listed",
    "natively",
    "note_mode",
    "note_new_file",
    "plain",
    "ready_natively",
    "release",
    "release_sockets",
    "state_of",
    "states",
    "take_turn",
    "unblocked",
]

_C = _socket.socket

DONTWAIT = int(socket.MSG_DONTWAIT)  # `|` with an IntFlag costs a microsecond

NEVER_BLOCKS = int(socket.MSG_DONTWAIT | socket.MSG_OOB | getattr(socket, "MSG_ERRQUEUE", 0))
"""Flags with which a call on a socket without a timeout does not wait. One with a timeout waits all the same."""

TURN = 32
"""Operations that a greenlet may do without a park before it lets the others have a turn."""

PIECE = 2**18
"""Octets of one operation at most, where more are to be sent: with a peer that keeps up it would take them all."""

_LONGEST_POLL = 2**31 - 1
"""Milliseconds: the most that `poll` takes."""

Direction = Literal["read", "write"]
_EVENTS = {"read": 1, "write": 4}  # POLLIN, POLLOUT


class State(ref["socket.socket"]):
    """What greenio knows of a socket that green code has used.

    Attributes:
        adopted: The C timeout is zero, while the user's is not.
        drains: Whether a short read means that nothing is left.
        fd: The descriptor.
        is_crowded: Whether it may be reported writable although the peer takes nothing: datagrams between Unix sockets.
        key: The socket's id.
        limits: By direction, seconds after which the kernel gives up: SO_RCVTIMEO and SO_SNDTIMEO, if there are any.
        mode: Held while the descriptor's mode is switched for the length of one system call.
        reader: Waits for reading, on the host that used the socket last.
        stream: Whether a blocking send takes everything.
        timeout: The user's timeout in seconds; None blocks, 0 never does.
        writer: Waits for writing, on the host that used the socket last.
    """

    __slots__ = (
        "adopted",
        "drains",
        "fd",
        "is_crowded",
        "key",
        "limits",
        "mode",
        "reader",
        "stream",
        "timeout",
        "writer",
    )

    def __init__(self, sock: socket.socket, callback: Callable[[State], None]) -> None:
        super().__init__(sock, callback)  # type: ignore[call-arg]
        self.key = id(sock)
        self.fd = sock.fileno()
        self.timeout: float | None = _C.gettimeout(sock)
        self.adopted = False
        family = _C.family.__get__(sock)
        self.stream = _C.type.__get__(sock) == socket.SOCK_STREAM
        # A read of a Unix socket ends where a message with descriptors does.
        self.drains = self.stream and family in (socket.AF_INET, socket.AF_INET6)
        self.is_crowded = family == _UNIX and not self.stream
        self.limits: dict[str, float] | None = None
        self.mode = _original.RLock()
        self.reader: Any = _NOWHERE
        self.writer: Any = _NOWHERE
        if self.fd >= 0:
            self.look(sock)

    def look(self, sock: socket.socket) -> None:
        """Find out what the kernel was asked for, and whose number the descriptor is now."""
        self.reader = self.writer = _NOWHERE
        if isinstance(sock, _original.SSLSocket):
            return  # `_ssl` tries again when the kernel gives up
        try:
            limits = {direction: _limit(sock, option) for direction, option in _LIMITS.items()}
        except OSError:
            limits = {}  # EBADF, or no socket any more
        self.limits = limits if any(limits.values()) else None

    def read_side(self, host: Host) -> Side:
        """Look up what to wait on for reading. Loops of several threads may share the socket, so ask at every use."""
        side = reader(host, self.fd)
        if self.limits is not None:
            return _Impatient(side, self.limits["read"])  # type: ignore[return-value]  # not kept: asked at every use
        self.reader = side
        return side

    def write_side(self, host: Host) -> Side:
        """Look up what to wait on for writing."""
        side = writer(host, self.fd)
        if self.limits is not None or self.is_crowded:
            limit = 0.0 if self.limits is None else self.limits["write"]
            return _Impatient(side, limit, self.is_crowded)  # type: ignore[return-value]
        self.writer = side
        return side

    def side(self, green: Green, direction: Direction) -> Side:
        """Look up what to wait on for one direction."""
        host = green.host
        side: Side = self.reader if direction == "read" else self.writer
        if side.host is host:
            return side
        return self.read_side(host) if direction == "read" else self.write_side(host)

    def wait(self, green: Green, direction: Direction, deadline: float | None) -> bool:
        """Park until an edge, after the socket was found not ready; False if the deadline came first."""
        return self.side(green, direction).wait(green, deadline)


_UNIX = getattr(socket, "AF_UNIX", None)
_LIMITS: dict[str, int] = {"read": socket.SO_RCVTIMEO, "write": socket.SO_SNDTIMEO}
_TIMEVAL = struct.Struct("@ll")


def _limit(sock: socket.socket, option: int) -> float:
    """Tell after how many seconds the kernel gives up; zero if it never does."""
    seconds, rest = _TIMEVAL.unpack(_C.getsockopt(sock, socket.SOL_SOCKET, option, _TIMEVAL.size))
    return float(seconds + rest / 1e6)


class _Impatient:
    """A side whose waits end without a deadline of the caller's: by the kernel's time limit, or for a look in between.

    It is for one operation: the time limit begins with its first wait.

    Attributes:
        side: The side.
    """

    __slots__ = ("_end", "_is_crowded", "_limit", "side")

    _NAP = 0.001
    """Seconds between two attempts to send to a Unix socket whose queue is full: the sender's poll does not tell."""

    def __init__(self, side: Side, limit: float, is_crowded: bool = False) -> None:
        self.side = side
        self._limit = limit
        self._end: float | None = None
        self._is_crowded = is_crowded

    host = property(lambda self: self.side.host)
    hung = property(lambda self: self.side.hung)
    ready = property(lambda self: self.side.ready, lambda self, value: setattr(self.side, "ready", value))
    missed = property(lambda self: self.side.missed, lambda self, value: setattr(self.side, "missed", value))

    def wait(self, green: Green, deadline: float | None) -> bool:
        """Do what `Side.wait` does.

        Raises:
            BlockingIOError: The kernel's time limit came first.
        """
        end = self._end_of(green, deadline)
        if self._is_crowded and _is_writable(self.side.watch.fd):
            now = green.host.clock()
            green.what = self.side
            park(green, now + self._NAP if end is None else min(end, now + self._NAP), green.parks)
            ready = end is None or green.host.clock() < end
        else:
            ready = self.side.wait(green, end)
        return ready or self._give_up(deadline, errno.EAGAIN)

    def wait_level(self, green: Green, deadline: float | None) -> bool:
        """Do what `Side.wait_level` does.

        Raises:
            BlockingIOError: The kernel's time limit came first.
        """
        ready = self.side.wait_level(green, self._end_of(green, deadline))
        return ready or self._give_up(deadline, errno.EINPROGRESS)

    def _end_of(self, green: Green, deadline: float | None) -> float | None:
        if deadline is not None or not self._limit:
            return deadline
        if self._end is None:
            self._end = green.host.clock() + self._limit
        return self._end

    def _give_up(self, deadline: float | None, reason: int) -> bool:
        if deadline is None and self._limit:
            raise BlockingIOError(reason, os.strerror(reason))
        return False


def _is_writable(fd: int) -> bool:
    assert _original.poll is not None
    poller = _original.poll()
    poller.register(fd, _EVENTS["write"])
    return bool(poller.poll(0))


class _Nowhere:
    """The side of a socket that no host has waited for."""

    host = None


_NOWHERE = _Nowhere()

states: dict[int, State] = {}
"""By the socket's id: a State is a weak reference, whose callback takes the entry out before an id can come again."""


def _gone(state: State) -> None:
    """Clear up after a socket that was dropped without being closed; its finalizer has closed the descriptor."""
    if states.pop(state.key, None) is not None:
        forget(state.fd)


def state_of(sock: socket.socket, heeds_mode: bool = True) -> State:
    """Look up what is known of a socket, and make sure that no C code will wait on it for its timeout.

    Args:
        sock: The socket.
        heeds_mode: If the descriptor itself is non-blocking, nothing waits either.
    """
    state = states.get(id(sock))
    if state is None:
        state = State(sock, _gone)
        if state.fd < 0:
            return state
        heeds_mode = heeds_mode and state.timeout is None and not isinstance(sock, _original.SSLSocket)
        if heeds_mode and not os.get_blocking(state.fd):
            state.timeout = 0.0  # the user made the descriptor itself non-blocking; asked anew at each use
            return state
        states[state.key] = state
        renew(state.fd)
        if state.timeout:
            adopt(sock, state)
    return state


def note_new_file(fd: int) -> None:
    """Take note that a number stands for another file than before, with the same socket objects."""
    for state in tuple(states.values()):
        if state.fd != fd or (sock := state()) is None:
            continue
        if not state.adopted:
            states.pop(state.key, None)
        state.look(sock)
        state.drains = False  # it may be of any kind now


def note_mode(fd: int) -> None:
    """Take note that somebody has set the mode of a descriptor: what that means is found out at the next use."""
    for state in tuple(states.values()):
        if state.fd == fd and state.timeout is None and not state.adopted:
            states.pop(state.key, None)


def adopt(sock: socket.socket, state: State) -> None:
    """Set the C timeout to zero and keep the user's aside, if all is patched that has to know of it."""
    if not state.adopted and state.timeout != 0 and can_adopt(sock):
        _C.setblocking(sock, False)
        state.adopted = True


def can_adopt(sock: socket.socket) -> bool:
    """Tell whether `gettimeout` knows of adopted sockets, and for TLS also the calls into OpenSSL."""
    if "gettimeout" not in vars(socket.socket):
        return False
    return not isinstance(sock, _original.SSLSocket) or hasattr(_original.SSLSocket.read, "__wrapped__")


def release(sock: socket.socket, state: State) -> None:
    """Put an adopted socket back in the mode that its timeout says."""
    if state.adopted:
        state.adopted = False
        with suppress(OSError):  # EBADF: closed by its number, or by another thread in this very moment
            _C.settimeout(sock, state.timeout)


def release_sockets(kind: type[socket.socket]) -> None:
    """Forget every socket of a class; what green code used blocks again as its timeout says."""
    for state in tuple(states.values()):
        sock = state()
        if isinstance(sock, kind):
            states.pop(state.key, None)
            if sock.fileno() >= 0:
                release(sock, state)


def adopted_state(sock: socket.socket) -> State | None:
    """Look up the state of an adopted socket; None for any other."""
    state = states.get(id(sock))
    return state if state is not None and state.adopted else None


def green_caller() -> Green | None:
    """Look up the caller's green: the first thing that a patched function does."""
    green = getcurrent()
    if green.__class__ is Green:
        return green
    return None if green.parent is None else current_green()


def deadline_of(green: Green, timeout: float | None) -> float | None:
    """Tell when a wait that begins now has to end, on the host's clock."""
    return None if timeout is None else green.host.clock() + timeout


def take_turn(green: Green) -> None:
    """Count an operation that is about to begin; after so many without a park, let the others have a turn first."""
    green.operations += 1
    if green.operations > TURN:
        yield_once(green)


def attempt(
    green: Green, state: State, direction: Direction, deadline: float | None, call: Callable[..., Any], *args: Any
) -> Any:
    """Call something that raises BlockingIOError when it would block, and park until it does not.

    Raises:
        TimeoutError: The deadline came, and one more attempt after it would have blocked too.
    """
    take_turn(green)
    adopted = state.adopted
    ready = True
    side: Side | None = None
    while True:
        try:
            return call(*args)
        except BlockingIOError:
            if not ready:
                raise TimeoutError("timed out") from None
        side = side or state.side(green, direction)
        ready = side.wait(green, deadline)
        if not ready and adopted and not state.adopted:
            raise TimeoutError("timed out")  # given back meanwhile: another attempt would wait in C


def listed(items: Any) -> Any:
    """Make a list of an iterator, which would be empty at the second attempt; the native call judges what is none."""
    return list(items) if hasattr(items, "__next__") else items


def plain(
    green: Green, sock: socket.socket, state: State, direction: Direction, call: Any, args: Any, flags: int, *rest: Any
) -> Any:
    """Do one call whose flags come after `args`, parking unless the mode or the flags forbid it."""
    timeout = state.timeout
    if timeout == 0 or not isinstance(flags, int) or (timeout is None and flags & NEVER_BLOCKS):
        take_turn(green)
        return call(sock, *args, flags, *rest)
    deadline = deadline_of(green, timeout)
    return attempt(green, state, direction, deadline, call, sock, *args, flags | DONTWAIT, *rest)


class unblocked:  # noqa: N801 - reads as a statement: `with unblocked(sock, state): ...`
    """A `with` block for one system call that knows no MSG_DONTWAIT: the descriptor does not block in it.

    The mode is shared by all duplicates of the descriptor, so that it is set even where it should be set already. On a
    socket that is not adopted it is set back at once, for threads that use it natively. The block must not park.
    """

    __slots__ = ("_blocks", "_fd", "_sock", "_state")

    def __init__(self, sock: socket.socket, state: State) -> None:
        self._sock = sock
        self._state = state
        self._fd = sock.fileno()

    def __enter__(self) -> None:
        self._state.mode.acquire()
        if self._fd < 0:
            return
        if self._state.adopted:
            _original.set_blocking(self._fd, False)
        else:
            self._blocks = os.get_blocking(self._fd)
            _C.setblocking(self._sock, False)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._state.adopted and self._fd >= 0 and self._sock.fileno() == self._fd:
            _C.settimeout(self._sock, self._state.timeout)
            if not self._blocks:
                _original.set_blocking(self._fd, False)  # the user's wish, which `settimeout` knows nothing of
        self._state.mode.release()


def ready_natively(sock: socket.socket, direction: Direction, deadline: float | None) -> bool:
    """Block until the socket is ready; False if the deadline, on the monotonic clock, came first."""
    assert _original.poll is not None
    poller = _original.poll()
    poller.register(sock.fileno(), _EVENTS[direction])
    while True:
        left = None if deadline is None else max(0.0, deadline - _original.monotonic()) * 1000
        if poller.poll(None if left is None else min(left, _LONGEST_POLL)):
            return True
        if left is not None and left < _LONGEST_POLL:
            return False


def natively(sock: socket.socket, direction: Direction, flags: int, call: Callable[..., Any], *args: Any) -> Any:
    """Finish a native call that raised BlockingIOError, if it did so only because greenio changed the socket's mode.

    Call it in the `except` block, with the call and its arguments.
    """
    state = states.get(id(sock))
    if state is None or state.timeout == 0 or (state.timeout is None and flags & NEVER_BLOCKS):
        raise  # noqa: PLE0704 - the BlockingIOError that the caller is handling
    if not state.adopted and not _is_switched(sock, state):
        raise  # noqa: PLE0704 - the user made the descriptor itself non-blocking
    deadline = None if state.timeout is None else _original.monotonic() + state.timeout
    while ready_natively(sock, direction, deadline):
        try:
            return call(sock, *args)
        except BlockingIOError:
            continue
    raise TimeoutError("timed out") from None


def _is_switched(sock: socket.socket, state: State) -> bool:
    """Tell whether the call met a descriptor whose mode `unblocked` had switched for a moment."""
    with state.mode:
        return state.timeout is not None or os.get_blocking(sock.fileno())
