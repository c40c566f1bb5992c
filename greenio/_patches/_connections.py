"""`multiprocessing.connection.Connection`: messages over a pipe or a socket that several processes may share.

A message is a header and a body, and whoever has read the one must read the other, since the next reader takes what
comes for a header. So a cancellation that comes in the midst of a message is kept until it is complete; if the writer
has stopped in the midst, a second one ends the wait, and the part is kept for the next reader in this process. What was
begun to be sent is sent to its end by a thread if the green is cancelled, since the reader may take its time.
"""

from __future__ import annotations

import io
import os
import struct
from asyncio import CancelledError
from collections.abc import Callable
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

from .. import _original
from .._core import Green, forget, reader, writer
from .._sync import Lock
from ._socket_state import green_caller, take_turn
from ._table import Patch, like, patches

__all__ = ["connection_patches", "queue_patches"]

_PART = "_greenio_part"
"""The attribute of a connection that keeps the part of a message which was read before somebody gave up."""

_rests: WeakKeyDictionary[Any, Lock] = WeakKeyDictionary()
"""The connections on which a thread sends the rest of a message, each with a lock that is held meanwhile."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_rests.clear)  # the thread is the parent's

_LONGEST_SHORT = 0x7FFFFFFF
"""Octets: longer messages have a longer header."""

_TOGETHER = 16384
"""Octets of a message that goes out in one piece with its header, as natively."""

_PIECE = 4096
"""Octets that a pipe which is ready takes without blocking: PIPE_BUF."""


def _header(size: int) -> bytes:
    return struct.pack("!i", size) if size <= _LONGEST_SHORT else struct.pack("!iQ", -1, size)


class _Reading:
    """One message on its way in."""

    __slots__ = ("_connection", "_green", "_part", "late")

    def __init__(self, connection: Any, green: Green | None) -> None:
        self._connection = connection
        self._green = green
        self._part: bytearray = vars(connection).setdefault(_PART, bytearray())
        self.late: CancelledError | None = None

    def read(self, start: int, size: int) -> bytes:
        """Read octets `start` to `start + size` of the message, those excepted that were read before."""
        part = self._part
        while (left := start + size - len(part)) > 0:
            self._wait()
            found = _original.read(self._connection._handle, left)
            if not found:
                self.end()
                if len(part) == start:
                    raise EOFError
                raise OSError("got end of file during message")
            part += found
        return bytes(part[start : start + size])

    def _wait(self) -> None:
        green = self._green
        if green is None:
            return
        while True:
            try:
                reader(green.host, self._connection.fileno()).wait_level(green, None)
            except CancelledError as error:
                if not self._part or self.late is not None:
                    raise
                self.late = error
            else:
                return

    def end(self) -> None:
        """Forget the part: the message is complete, or will never be."""
        vars(self._connection).pop(_PART, None)


def _receive(connection: Any, green: Green | None, limit: int | None) -> io.BytesIO | None:
    """Do what `Connection._recv_bytes` does; park where nothing is there to be read."""
    message = _Reading(connection, green)
    try:
        start = 4
        size: int = struct.unpack("!i", message.read(0, start))[0]
        if size == -1:
            start = 12
            size = struct.unpack("!Q", message.read(4, 8))[0]
        if limit is not None and size > limit:
            message.end()
            return None
        found = io.BytesIO()
        found.write(message.read(start, size))
        message.end()
        return found
    finally:
        if not vars(connection).get(_PART):
            message.end()
        if message.late is not None and green is not None and green.cancellation is None:
            green.cancellation = message.late  # nothing of the message is lost, nor is this


def _send(green: Green, connection: Any, data: Any, then: Callable[[], object]) -> None:
    """Send a message, and call `then` when all of it is on its way, even if the green is cancelled meanwhile."""
    size = len(data)
    pieces = [_header(size), data] if size > _TOGETHER else [b"".join((_header(size), data))]
    begun = False
    try:
        while pieces:
            writer(green.host, connection.fileno()).wait_level(green, None)
            sent = _original.write(connection._handle, memoryview(pieces[0])[:_PIECE])
            begun = True
            pieces[0] = memoryview(pieces[0])[sent:]
            if not pieces[0]:
                del pieces[0]
    except CancelledError:
        if begun and connection._handle is not None:
            _send_rest(connection, b"".join(pieces), then)
        else:
            then()
        raise
    except BaseException:
        then()
        raise
    then()


def _send_rest(connection: Any, rest: bytes, then: Callable[[], object]) -> None:
    """Have a thread send the rest of a message; until it has, nobody in this process sends another."""
    done = Lock()
    done.acquire()
    _rests[connection] = done
    fd = _original.dup(connection._handle)  # the connection may be closed meanwhile

    def send() -> None:
        left = memoryview(rest)
        try:
            while left:
                left = left[_original.write(fd, left) :]
        except OSError:
            pass  # the reader has gone
        finally:
            _original.close(fd)
            _rests.pop(connection, None)
            done.release()
            then()

    _original.start_new_thread(send, ())


def _wait_for_rest(connection: Any) -> None:
    done = _rests.get(connection) if _rests else None
    if done is not None:
        with done:
            pass


def _nothing() -> None:
    return None


@cache
def connection_patches(module: Any) -> tuple[Patch, ...]:
    """Make the patches of `multiprocessing.connection`."""
    owner = module.Connection
    native_recv, native_send = owner._recv_bytes, owner._send_bytes
    native_poll, native_close = owner._poll, owner._close

    @like(native_recv)
    def _recv_bytes(self: Any, maxsize: int | None = None) -> io.BytesIO | None:
        green = green_caller()
        if green is None and _PART not in vars(self):
            return native_recv(self, maxsize)  # type: ignore[no-any-return]
        if green is not None:
            take_turn(green)
        return _receive(self, green, maxsize)

    @like(native_send)
    def _send_bytes(self: Any, buf: Any) -> None:
        _wait_for_rest(self)
        green = green_caller()
        if green is None:
            return native_send(self, buf)  # type: ignore[no-any-return]
        take_turn(green)
        return _send(green, self, buf, _nothing)

    @like(native_poll)
    def _poll(self: Any, timeout: float | None) -> bool:
        return bool(vars(self).get(_PART)) or native_poll(self, timeout)

    @like(native_close)
    def _close(self: Any) -> None:
        forget(self._handle)
        native_close(self)

    return patches(owner, [_recv_bytes, _send_bytes, _poll, _close])


@cache
def queue_patches(module: Any) -> tuple[Patch, ...]:
    """Make the patches of `multiprocessing.queues`."""
    pickler = module._ForkingPickler
    native_put = module.SimpleQueue.put

    @like(native_put)
    def put(self: Any, obj: Any) -> None:
        green = green_caller()
        if green is None or self._wlock is None:
            return native_put(self, obj)  # type: ignore[no-any-return]
        data = pickler.dumps(obj)
        take_turn(green)
        self._wlock.acquire()
        return _send(green, self._writer, data, self._wlock.release)

    greens = [_keep_permit(owner.put) for owner in (module.Queue, module.JoinableQueue)]
    return (
        *patches(module.SimpleQueue, [put]),
        *patches(module.Queue, greens[:1]),
        *patches(module.JoinableQueue, greens[1:]),
    )


def _keep_permit(native: Any) -> Any:
    """Have a `put` that is cancelled, after it has taken a place in the queue, give that place back."""

    @like(native)
    def put(self: Any, obj: Any, block: bool = True, timeout: float | None = None) -> None:
        if green_caller() is None:
            return native(self, obj, block, timeout)  # type: ignore[no-any-return]
        places = _Places(self)
        try:
            return native(places, obj, block, timeout)  # type: ignore[no-any-return]
        except CancelledError:
            if places.taken:
                self._sem.release()
            raise

    return put


class _Places:
    """A queue as seen by its `put`: it notes whether a place has been taken."""

    __slots__ = ("_queue", "taken")

    def __init__(self, queue: Any) -> None:
        self._queue = queue
        self.taken = False

    @property
    def _sem(self) -> _Places:
        return self

    def acquire(self, block: bool, timeout: float | None) -> bool:
        """Take a place."""
        self.taken = self._queue._sem.acquire(block, timeout)
        return self.taken

    def __getattr__(self, name: str) -> Any:
        return getattr(self._queue, name)

    def __repr__(self) -> str:
        return repr(self._queue)
