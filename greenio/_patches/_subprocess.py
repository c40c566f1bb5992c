"""`subprocess.Popen`: its waits. The class, and how it starts a process, stay the native ones.

`wait`, `run`, `call`, `check_output`, `with` blocks: all end in `_wait`, which is private, but the only place below
what a Ctrl-C does to each of them. `communicate` waits in a selector, which parks, unless there is but one pipe: then
the native call reads or writes all of it in C, so here the octets are moved before.
"""

from __future__ import annotations

import _thread
import io
import os
import select
import signal
import subprocess
from asyncio import CancelledError
from contextlib import suppress
from functools import partial
from typing import Any

from .. import _original
from .._core import Green, reader, writer
from ._process_ends import SHORTEST, longer, nap, wait_for_end
from ._socket_state import deadline_of, green_caller, take_turn
from ._table import Group, like, patches
from ._text_files import relayer

__all__ = ["GROUP"]

_Popen: Any = subprocess.Popen
_native_init = _Popen.__init__
_native_communicate = _Popen.communicate
_native_wait = getattr(_Popen, "_wait", _Popen.wait)

_PIECE = 2**16
"""Octets that are read at a time: what a pipe holds."""

_STARTED = "_communication_started"
_RECEIVED = "_fileobj2output"
"""Attributes in which `communicate` keeps what it has received, and that it has, for the next call."""


@like(_native_wait)
def _wait(self: Any, timeout: float | None) -> Any:
    green = green_caller()
    if green is None or self.returncode is not None or _take_status(self):
        return _native_wait(self, timeout)
    if timeout is not None and not timeout > 0:
        return _native_wait(self, timeout)  # raises
    deadline = None if timeout is None or timeout > _thread.TIMEOUT_MAX else deadline_of(green, timeout)
    ended = wait_for_end(green, self.pid, deadline)
    delay = SHORTEST
    while not _take_status(self):
        if not ended or (deadline is not None and green.host.clock() >= deadline):
            raise subprocess.TimeoutExpired(self.args, timeout)  # type: ignore[arg-type]
        nap(green, delay, deadline)  # a native thread is about to take it, with the lock of `self` held
        delay = longer(delay)
    return self.returncode


def _take_status(popen: Any) -> bool:
    """Take the status if the child has ended, or find that somebody has.

    Never with a wait, since the lock of a Popen that is older than the patch would hold up the loop.
    """
    try:
        _native_wait(popen, 0)
    except subprocess.TimeoutExpired:
        return False
    return True


@like(_native_init)
def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807 - it is set on the class
    green = green_caller()
    try:
        _native_init(self, *args, **kwargs)
    except CancelledError:
        # While it waited for the child to execute the program. Nobody else will ever hold the child.
        if green is not None and getattr(self, "pid", None) is not None:
            _end_child(green, self)
        raise
    if green is not None:
        for name in ("stdin", "stdout", "stderr"):
            setattr(self, name, relayer(getattr(self, name)))  # the native text layer is made by its class


def _end_child(green: Green, popen: Any) -> None:
    """Kill a child and take its status, whoever cancels meanwhile."""
    with suppress(PermissionError, ProcessLookupError):
        while not _take_status(popen):
            os.kill(popen.pid, signal.SIGKILL)
            try:
                wait_for_end(green, popen.pid, None)
            except CancelledError:
                pass  # one is on its way already


@like(_native_communicate)
def communicate(self: Any, input: Any = None, timeout: float | None = None) -> Any:
    green = green_caller()
    pipes = [pipe for pipe in (self.stdin, self.stdout, self.stderr) if pipe is not None]
    if green is None or timeout is not None or len(pipes) != 1 or not _is_open(pipes[0]) or getattr(self, _STARTED):
        return _native_communicate(self, input, timeout)
    if pipes[0] is self.stdin:
        if input and _send(green, self.stdin, input):
            input = None
        return _native_communicate(self, input)
    rest = _receive(green, self, pipes[0])
    _buffer(pipes[0]).read = partial(_hand_out, _buffer(pipes[0]), rest)
    return _native_communicate(self)


def _is_open(pipe: Any) -> bool:
    """Tell whether a pipe is what `Popen` has put there, and open."""
    return isinstance(pipe, io.IOBase) and not pipe.closed


def _buffer(pipe: Any) -> Any:
    """Look up what is below the text layer, if there is one."""
    return getattr(pipe, "buffer", pipe)


def _receive(green: Green, popen: Any, pipe: Any) -> bytes:
    """Receive all there is behind the text layer."""
    buffer = _buffer(pipe)
    read = getattr(buffer, "read1", buffer.read)
    side = reader(green.host, pipe.fileno())
    pieces: list[bytes] = []
    try:
        while True:
            take_turn(green)
            side.wait_level(green, None)
            piece = read(_PIECE)
            if not piece:
                break
            pieces.append(piece)
    except BaseException:
        # The next call goes on from here, in the way of one that has timed out.
        setattr(popen, _RECEIVED, {pipe: pieces})
        setattr(popen, _STARTED, True)
        raise
    return b"".join(pieces)


def _hand_out(buffer: Any, octets: bytes, size: int = -1) -> bytes:
    """Stand in for the `read` of a buffer, once, on behalf of the text layer or of `communicate` itself."""
    del buffer.read
    return octets


def _send(green: Green, pipe: Any, data: Any) -> bool:
    """Send all of the input, after what is in the buffer; False if it is for the native call to refuse."""
    try:
        rest = memoryview(_octets(pipe, data)).cast("B")
    except TypeError:
        return False
    side = writer(green.host, pipe.fileno())
    with suppress(BrokenPipeError):
        pipe.flush()
        while rest:
            take_turn(green)
            side.wait_level(green, None)
            rest = rest[_original.write(pipe.fileno(), rest[: select.PIPE_BUF]) :]
    return True


def _octets(pipe: Any, data: Any) -> Any:
    """Tell what goes to the buffer of a pipe when something is written: the text layer encodes it."""
    buffer = _buffer(pipe)
    if buffer is pipe:
        return data
    pieces: list[bytes] = []
    pipe.flush()
    buffer.write = pieces.append
    try:
        pipe.write(data)
        pipe.flush()
    finally:
        del buffer.write
    return b"".join(pieces)


GROUP = Group("subprocess", patches(_Popen, [__init__, _wait, communicate]), needs=("selectors",))
