"""`signal.signal`: what a handler raises that green code has set reaches that code, though its thread waits in a loop.

A handler that native code has set stays as it is: what it raises comes out of whatever the main thread is in.
"""

from __future__ import annotations

import signal as signal_module
from types import FrameType
from typing import Any

from .. import _original
from .._core import hand_to_parked
from ._socket_state import green_caller
from ._table import like, patches

__all__ = ["HANDLERS", "bare_handlers", "hear"]


class _Handler:
    """A handler that green code has set, as the interpreter knows it."""

    __slots__ = ("handler",)

    def __init__(self, handler: Any) -> None:
        self.handler = handler

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        try:
            self.handler(signum, frame)
        except BaseException as error:
            if not hand_to_parked(error):
                raise


def _bare(handler: Any) -> Any:
    return handler.handler if handler.__class__ is _Handler else handler


@like(_original.signal)
def signal(signalnum: Any, handler: Any) -> Any:
    if green_caller() is not None and callable(handler):
        handler = _Handler(handler)
    return _bare(_original.signal(signalnum, handler))


@like(_original.getsignal)
def getsignal(signalnum: Any) -> Any:
    return _bare(_original.getsignal(signalnum))


def hear(signum: int, handler: Any) -> None:
    """Set a handler as green code does: what it raises comes to that code. Never parks."""
    _original.signal(signum, _Handler(handler))


def bare_handlers() -> None:
    """Give the interpreter the handlers themselves, where this thread may; elsewhere they go on as they are."""
    for signum in signal_module.valid_signals():
        handler = _original.getsignal(signum)
        if handler.__class__ is _Handler:
            try:
                _original.signal(signum, handler.handler)
            except ValueError:  # not the main thread
                return


HANDLERS = patches(signal_module, [signal, getsignal])
