"""`signal.set_wakeup_fd`, of which a process has one: a loop in green code must not take it from the host's.

asyncio's loops learn of signals by a byte on this descriptor. While green code wants one too, a relay stands in its
place and passes every byte on to all who asked: to the descriptor that native code has set, and to those of green code.
"""

from __future__ import annotations

import contextlib
import os
import signal
from asyncio import AbstractEventLoop
from collections.abc import Callable, Iterator
from contextvars import Context
from typing import Any

from .. import _original
from .._core import Green
from ._socket_state import green_caller
from ._table import like, patches
from ._waits import outermost_host

__all__ = ["WAKEUP", "end_relay", "hearing_signals"]

_native = signal.set_wakeup_fd
_NONE = -1


class _Relay:
    """What stands for the wake-up descriptor while green code wants one. In the main thread only.

    Attributes:
        fds: What green code has set, by host task.
        listeners: What is called after each signal that has a Python handler.
        loop: The loop that has the main thread.
        native: What native code has set.
        sink: Where the signals are written to.

    uvloop is only woken, by zeros. It notes each signal in a handler of its own, and when it is woken by whichever
    signal it goes through all that it has noted; those whose number comes later, by way of the relay, would be handled
    twice.
    """

    def __init__(self, loop: AbstractEventLoop, native: int) -> None:
        self.fds: dict[Any, int] = {}
        self.listeners: list[Callable[[], object]] = []
        self.loop = loop
        self.native = native
        self._wakes_only = type(loop).__module__.partition(".")[0] == "uvloop"
        self._source, self.sink = os.pipe()
        _original.set_blocking(self._source, False)
        _original.set_blocking(self.sink, False)
        Context().run(loop.add_reader, self._source, self._pass_on)

    def _pass_on(self) -> None:
        with contextlib.suppress(BlockingIOError):
            signals = _original.read(self._source, 4096)
            told = dict.fromkeys(self.fds.values(), signals)
            told[self.native] = bytes(len(signals)) if self._wakes_only else signals
            told.pop(_NONE, None)
            for fd, octets in told.items():
                with contextlib.suppress(OSError):  # full: its loop has plenty to read; bad: its loop is closed
                    _original.write(fd, octets)
            # This runs in the main thread, so that the handlers have run before its first line.
            for listener in tuple(self.listeners):
                listener()

    def is_wanted(self) -> bool:
        """Tell whether green code needs it still."""
        return bool(self.fds or self.listeners)

    def close(self) -> None:
        if not self.loop.is_closed():
            self.loop.remove_reader(self._source)
        self._pass_on()
        _original.close(self._source)
        _original.close(self.sink)


_relay: _Relay | None = None

_warns = False
"""Whether native code wants to hear of a full descriptor; no, if it was set before the patch, since nobody tells.

uvloop does not. And a warning too few is less than one too many: CPython 3.11 waits for itself when a second signal
interrupts the handler that is about to warn.
"""


def end_relay() -> None:
    """Give the wake-up descriptor back to what native code has set."""
    global _relay
    if _relay is not None:
        _native(_relay.native, warn_on_full_buffer=_warns)
        _relay.close()
        _relay = None


@contextlib.contextmanager
def hearing_signals(green: Green, listener: Callable[[], object]) -> Iterator[None]:
    """Have `listener` called after every signal that has a Python handler, for the time of a `with` block.

    In the main thread only, which is where such handlers run.
    """
    global _relay
    if _relay is not None and _relay.loop.is_closed():
        end_relay()
    if _relay is None:
        _relay = _Relay(outermost_host(green).loop, _NONE)
        _relay.native = _native(_relay.sink, warn_on_full_buffer=False)
    relay = _relay
    relay.listeners.append(listener)
    try:
        yield
    finally:
        relay.listeners.remove(listener)
        if relay is _relay and not relay.is_wanted():
            end_relay()


@like(_native)
def set_wakeup_fd(fd: int, /, *, warn_on_full_buffer: bool = True) -> int:
    global _relay, _warns
    green = green_caller()
    if green is not None and green.visible and outermost_host(green) is green.host:
        green = None  # it is the host loop itself, called by a coroutine that is green
    if _relay is not None and _relay.loop.is_closed():
        end_relay()
    if green is None and _relay is None:
        before = _native(fd, warn_on_full_buffer=warn_on_full_buffer)
        _warns = warn_on_full_buffer
        return before
    current = _native(fd, warn_on_full_buffer=warn_on_full_buffer)  # judges the descriptor, and the thread
    if green is None:
        assert _relay is not None
        before, _relay.native = _relay.native, fd
        _warns = warn_on_full_buffer
    else:
        if _relay is None:
            _relay = _Relay(outermost_host(green).loop, current)
        before = _relay.fds.pop(green.task, _NONE)
        if fd != _NONE:
            _relay.fds[green.task] = fd
    if _relay.is_wanted():
        _native(_relay.sink, warn_on_full_buffer=False)
    else:
        end_relay()
    return before


WAKEUP = patches(signal, [set_wakeup_fd])
