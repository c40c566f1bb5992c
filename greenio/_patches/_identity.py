"""`threading.current_thread` and `get_ident`: who sync green code is, as a worker thread would be somebody.

asyncio, the executors and the import system are asked nothing: what they see is the thread itself, whoever calls them.
So loops in debug mode find the thread that they run in, and a module that green code imports is no other's.
"""

from __future__ import annotations

import _thread
import signal
import sys
import threading
import time
from types import CodeType, FrameType, ModuleType
from typing import Any

from .. import _original
from .._core import current_green, getcurrent, greens
from .._sync import GreenIdentity, current_identity
from ._table import Patch, like, patches
from ._thread_state import begin_thread

__all__ = ["IDENTITY", "is_of_the_thread"]

_native_ident = _original.get_ident
_native_thread = _original.current_thread

_OF_THE_THREAD = ("_frozen_importlib", "asyncio", "concurrent.futures", "importlib", "multiprocessing", "uvloop")
"""Packages that see the thread, whoever calls them."""


def _codes(*functions: Any) -> frozenset[CodeType]:
    return frozenset(function.__code__ for function in functions if hasattr(function, "__code__"))


_IN_THREADING = _codes(
    threading.Thread.__init__,  # whether a new thread is a daemon
    getattr(threading, "currentThread", None),
)
"""What sees the green, of `threading` itself; the rest is bookkeeping about real threads."""


def is_of_the_thread(frame: FrameType) -> bool:
    """Tell whether code sees the thread, even if green code calls it."""
    module = frame.f_globals.get("__name__")
    if module == "threading":
        return frame.f_code not in _IN_THREADING
    known = _known.get(module)
    if known is None:
        known = _known[module] = str(module).startswith(_PREFIXES)
    return known


_known: dict[Any, bool] = dict.fromkeys(_OF_THE_THREAD, True)
_PREFIXES = tuple(f"{name}." for name in _OF_THE_THREAD)


@like(_thread.get_ident)
def get_ident() -> int:
    if getcurrent().parent is None:
        return _native_ident()
    identity = current_identity()
    return _native_ident() if identity is None or is_of_the_thread(sys._getframe(1)) else id(identity)


@like(threading.current_thread)
def current_thread() -> threading.Thread:
    if getcurrent().parent is None:
        return _native_thread()
    identity = current_identity()
    if identity is None or is_of_the_thread(sys._getframe(1)):
        return _native_thread()
    return identity.thread or _GreenThread(identity)


class _GreenThread(threading.Thread):
    """What sync green code is told to be its thread: it lives as long as the call, and can be joined from elsewhere."""

    def __init__(self, identity: GreenIdentity) -> None:
        green = current_green()
        name = getattr(green.task, "get_name", lambda: "task")() if green is not None else ""
        super().__init__(name=f"Greenlet ({name})", daemon=_native_thread().daemon)
        begin_thread(self, identity)

    def run(self) -> None:
        """Do nothing: the call runs already."""


def _thread_of(ident: Any) -> Any:
    """Translate the identifier of a green into that of its thread, for C code, which would follow any number."""
    for green in greens():
        if green.identity is not None and id(green.identity) == ident:
            return green.host.thread_id
    return ident


def _translating(native: Any) -> Any:
    @like(native)
    def call(thread_id: int, *args: Any) -> Any:
        return native(_thread_of(thread_id), *args)

    return call


def _translated(module: ModuleType, name: str) -> tuple[Patch, ...]:
    native = getattr(module, name, None)
    return () if native is None else patches(module, [_translating(native)])


_IDENTS = patches(_thread, [get_ident])

IDENTITY = (
    *_IDENTS,
    *(Patch(threading, row.name, row.green) for row in _IDENTS),
    *patches(threading, [current_thread]),
    *_translated(signal, "pthread_kill"),
    *_translated(time, "pthread_getcpuclockid"),
)
"""Rows of the group "threading"."""
