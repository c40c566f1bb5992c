"""`concurrent.futures`: its own locks stay native, so that nothing in it parks but `Future.result` and the like.

`submit` has three locks at once, one of which was made at import and therefore is native. Were another one green, a
park for it would leave the native one held by a greenlet, and the next `submit` would hold the loop for good. Native
locks are held for moments only; what waits for long, a `Condition.wait` without any of them, parks all the same.

A pool of processes has a lock that each `submit` takes, be it a coroutine's (`loop.run_in_executor`), which would hold
the loop for good if a green were parked with it. So nothing parks under that one: what starts a process, or tells the
thread of the pool, is native.

In a green `concurrent.futures.wait` waits by way of `as_completed`. The stock function leaves a part of itself in each
future if its wait is interrupted: natively that takes Ctrl-C, in green code it is an everyday cancellation.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from concurrent import futures
from concurrent.futures import _base, thread
from contextlib import closing
from functools import cache
from types import ModuleType
from typing import Any

from .. import _original
from .._core import as_native, current_green
from ._references import instance_vars
from ._socket_state import green_caller, take_turn
from ._table import Patch, like, patches

__all__ = [
    "PARTS_OF_EXECUTORS",
    "WAIT",
    "natives_of_executors",
    "pin_executors",
    "pool_patches",
    "unpin_executors",
    "without_parks",
]

PARTS_OF_EXECUTORS = (_base.Future, _base._Waiter, thread.ThreadPoolExecutor)
"""Classes whose instances keep the native locks and queues that they have."""


_Condition, _RLock = _original.Condition, _original.RLock  # look-ups less: each future has one of either


def _condition(lock: Any = None) -> threading.Condition:
    return _Condition(_RLock() if lock is None else lock)


def _event() -> threading.Event:
    event = _original.Event()
    event._cond = _plain_condition()  # type: ignore[attr-defined]
    return event


class _Semaphore(_original.Semaphore):
    """What stays native although the methods of its class are exchanged, and costs native code nothing more."""

    acquire = _original.Semaphore.acquire
    release = _original.Semaphore.release


def _semaphore(value: int = 1) -> threading.Semaphore:
    semaphore = _Semaphore(value)
    semaphore._cond = _plain_condition()  # type: ignore[attr-defined]
    return semaphore


def _plain_condition() -> threading.Condition:
    return _original.Condition(_original.allocate_lock())


def _view(module: ModuleType, **names: Any) -> ModuleType:
    """Make what looks like a module, but has some names of its own."""
    view = ModuleType(module.__name__, module.__doc__)
    vars(view).update(names, __wrapped__=module, __getattr__=lambda name: getattr(module, name))
    return view


_threading = _view(
    threading,
    Lock=_original.allocate_lock,
    RLock=_original.RLock,
    Condition=_condition,
    Event=_event,
    Semaphore=_semaphore,
)
_queue = _view(queue, SimpleQueue=_original.SimpleQueue, Empty=queue.Empty)

_MODULES = (_base, thread)
_VIEWS = {"threading": _threading, "queue": _queue}


def pin_executors() -> None:
    """Have futures and pools of threads that are made from now on take native locks."""
    for module in _MODULES:
        for name, view in _VIEWS.items():
            if vars(module).get(name) is view.__wrapped__:
                setattr(module, name, view)


def unpin_executors() -> None:
    """Take that back."""
    for module in _MODULES:
        for name, view in _VIEWS.items():
            if vars(module).get(name) is view:
                setattr(module, name, view.__wrapped__)


def natives_of_executors(instance: Any) -> Iterator[Any]:
    """List the locks, conditions and queues of a future, of a pool of threads or of who waits for futures."""
    held = instance_vars(instance) or {}
    for name in "_condition", "_shutdown_lock", "_work_queue":
        yield held.get(name)
    for name in "_idle_semaphore", "event":
        yield (instance_vars(held.get(name)) or {}).get("_cond")


_native_wait = futures.wait


@like(_native_wait)
def wait(fs: Iterable[Any], timeout: float | None = None, return_when: str = futures.ALL_COMPLETED) -> Any:
    if current_green() is None:
        return _native_wait(fs, timeout, return_when)
    fs = set(fs)
    found = _native_wait(fs, 0, return_when)
    if not found.not_done or (timeout is not None and timeout <= 0):
        return found
    end = None if timeout is None else _original.monotonic() + timeout
    try:
        with closing(futures.as_completed(fs, timeout)) as completed:  # type: ignore[type-var]
            for future in completed:
                if _suffices(future, return_when):
                    break
    except futures.TimeoutError:
        if end is None or _original.monotonic() < end:
            raise  # a signal handler's, say
    return _native_wait(fs, 0, return_when)


def _suffices(future: futures.Future[Any], return_when: str) -> bool:
    """Tell whether a future that is done ends the wait for it and others."""
    if return_when == futures.FIRST_EXCEPTION:
        return not future.cancelled() and future.exception() is not None
    return return_when == futures.FIRST_COMPLETED


WAIT = patches(futures, [wait])


@cache
def pool_patches(module: Any) -> tuple[Patch, ...]:
    """Make the patches of `concurrent.futures.process`."""
    native_submit, native_wakeup = module.ProcessPoolExecutor.submit, module._ThreadWakeup.wakeup

    @like(native_submit)
    def submit(self: Any, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        green = green_caller()
        if green is None:
            return native_submit(self, fn, *args, **kwargs)
        take_turn(green)
        return as_native(green, native_submit, self, fn, *args, **kwargs)

    return (
        *patches(module.ProcessPoolExecutor, [submit]),
        *patches(module._ThreadWakeup, [without_parks(native_wakeup)]),
    )


def without_parks(native: Any) -> Any:
    """Make the twin of a method without arguments that runs natively in green code, too: see `as_native`."""

    @like(native)
    def call(self: Any) -> None:
        green = green_caller()
        if green is None:
            native(self)
        else:
            as_native(green, native, self)

    return call
