"""`signal.signal`: what a handler raises reaches the green code that it interrupts, though its thread waits in a loop.

That of a handler which native code has set does so only where nothing else could be meant: the loop waits, and has no
other task. The handlers of the interpreter and of asyncio, and those that are older than the patch, stay as they are:
what they raise comes out of whatever the main thread is in.
"""

from __future__ import annotations

import signal as signal_module
import sys
from contextlib import suppress
from types import BuiltinFunctionType, FrameType
from typing import Any

from .. import _original
from .._core import (
    Green,
    as_native,
    frame_of_parked,
    get_running_loop,
    getcurrent,
    hand_to_loop,
    hand_to_parked,
    is_between_calls,
)
from ._socket_state import green_caller
from ._table import like, patches

__all__ = ["HANDLERS", "bare_handlers", "hear"]


class _Handler:
    """A handler as the interpreter knows it."""

    __slots__ = ("__wrapped__", "is_green")

    def __init__(self, handler: Any, *, is_green: bool) -> None:
        self.__wrapped__ = handler
        self.is_green = is_green

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        current: Any = getcurrent()
        if current.__class__ is Green and is_between_calls(current, frame):
            try:
                as_native(current, self, signum, frame)  # for it cannot park
            except BaseException as error:  # which no function would get, but the pool of greenlets
                if not hand_to_loop(current, error):
                    raise
            return
        parked = frame_of_parked() if self.is_green and _loop_waits(frame) else None
        try:
            self.__wrapped__(signum, parked or frame)
        except BaseException as error:
            if not (self.is_green or _loop_waits(frame)) or not hand_to_parked(error, if_alone=not self.is_green):
                raise


def _loop_waits(frame: FrameType | None) -> bool:
    """Tell whether a frame that was interrupted is that of a loop in its wait, and not of code that the loop runs."""
    while frame is not None and get_running_loop() is not None:
        module = str(frame.f_globals.get("__name__"))
        # What uvloop does has no frame: so it is that of a function which runs the loop, as asyncio's `Runner` does.
        if module == "asyncio.base_events" or not _RUNS.isdisjoint(frame.f_code.co_names):
            return True
        if not module.startswith(_SELECTORS):
            return False
        frame = frame.f_back
    return False


_SELECTORS = ("greenio.", "selectors")
_RUNS = frozenset({"run_forever", "run_until_complete"})


def _bare(handler: Any) -> Any:
    return handler.__wrapped__ if handler.__class__ is _Handler else handler


def _is_of_the_loop(handler: Any, module: str) -> bool:
    """Tell whether a handler that native code has set, or sets in a module, is the interpreter's own, or asyncio's."""
    return isinstance(handler, BuiltinFunctionType) or module.partition(".")[0] == "asyncio"


@like(_original.signal)
def signal(signalnum: Any, handler: Any) -> Any:
    handler = _bare(handler)
    if callable(handler):
        is_green = green_caller() is not None
        if is_green or not _is_of_the_loop(handler, str(sys._getframe(1).f_globals.get("__name__"))):
            handler = _Handler(handler, is_green=is_green)
    return _bare(_original.signal(signalnum, handler))


@like(_original.getsignal)
def getsignal(signalnum: Any) -> Any:
    return _bare(_original.getsignal(signalnum))


def hear(signum: int, handler: Any) -> None:
    """Set a handler as green code does: what it raises comes to that code. Never parks."""
    _original.signal(signum, _Handler(handler, is_green=True))


def bare_handlers() -> None:
    """Give the interpreter the handlers themselves, where this thread may; elsewhere they go on as they are."""
    for signum in signal_module.valid_signals():
        handler = _original.getsignal(signum)
        if handler.__class__ is _Handler:
            with suppress(ValueError):  # not the main thread
                _original.signal(signum, handler.__wrapped__)


HANDLERS = patches(signal_module, [signal, getsignal])
