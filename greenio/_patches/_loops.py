"""Loops that green code makes for itself: `asyncio.run()` below `to_greenlet()`.

Such a loop parks wherever its selector does, which takes a loop that has one: under a uvloop policy green code gets a
stock loop all the same, since uvloop waits in C, where nothing can park. And green code has a current loop of its own
(`set_event_loop`), as a worker thread has: the host's is neither shown to it nor changed by it.
"""

from __future__ import annotations

import asyncio
from asyncio import AbstractEventLoop, events, selector_events
from typing import Any
from weakref import WeakKeyDictionary

from .. import _original
from .._core import Green
from ._socket_state import green_caller
from ._table import like, patches

__all__ = ["LOOPS"]

_current: WeakKeyDictionary[Any, AbstractEventLoop | None] = WeakKeyDictionary()
"""The current loop of green code, by host task."""

_native_new = events.new_event_loop
_native_set = events.set_event_loop
_native_get = events.get_event_loop


@like(_native_new)
def new_event_loop() -> AbstractEventLoop:
    loop = _native_new()
    if green_caller() is None or isinstance(loop, selector_events.BaseSelectorEventLoop):
        return loop
    loop.close()
    return asyncio.SelectorEventLoop()


@like(_native_set)
def set_event_loop(loop: AbstractEventLoop | None) -> None:
    green = green_caller()
    if green is None or not (loop is None or isinstance(loop, AbstractEventLoop)):
        return _native_set(loop)
    _current[green.task] = loop
    return None


@like(_native_get)
def get_event_loop() -> AbstractEventLoop:
    green = green_caller()
    if green is None or events._get_running_loop() is not None:
        return _native_get()
    return _current_loop(green)


def _current_loop(green: Green) -> AbstractEventLoop:
    loop = _current.get(green.task)
    if loop is None:
        raise RuntimeError(f"There is no current event loop in thread {_original.current_thread().name!r}.")
    return loop


_native_watcher = getattr(events, "get_child_watcher", None)
_Watcher: Any = getattr(asyncio, "ThreadedChildWatcher", None)


@like(_native_watcher)
def get_child_watcher() -> Any:
    """Return a watcher to a stock loop that stands in for one of a policy that has none."""
    assert _native_watcher is not None
    try:
        return _native_watcher()
    except NotImplementedError:
        if green_caller() is None or not isinstance(events._get_running_loop(), selector_events.BaseSelectorEventLoop):
            raise
        return _Watcher()


_GREENS = [new_event_loop, set_event_loop, get_event_loop]
if _native_watcher is not None:
    _GREENS.append(get_child_watcher)
LOOPS = (*patches(events, _GREENS), *patches(asyncio, _GREENS))
