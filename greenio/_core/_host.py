"""Host loops: what greenio keeps for each event loop that runs green calls.

A `Host` is made at the first `to_greenlet` on a loop and lives as an attribute of that loop, so that it goes when the
loop goes and no table of loops has to be kept. It owns the loop's poller and knows its parked calls.

asyncio has no public notice of a loop's end. `asyncio.run` cancels all tasks first, which ends their green calls in the
usual way; for a loop that is closed without that, the host puts itself in front of the loop object's `close`.
"""

from __future__ import annotations

import functools
import logging
from asyncio import AbstractEventLoop, CancelledError, TimerHandle
from collections.abc import Callable
from contextvars import Context
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakKeyDictionary, WeakSet

from .. import _original
from ._asyncio import (
    current_task,
    enter_task,
    get_hooks,
    get_running_loop,
    leave_task,
    set_hooks,
    set_running_loop,
)
from ._green import Abandoned, Green, resume, thread_state

if TYPE_CHECKING:
    from ._call import Call
    from ._readiness import Poller

__all__ = ["Host", "HostedThread", "host_of", "hosts", "running_host"]

_ATTRIBUTE = "_greenio_host"
_logger = logging.getLogger("greenio")
_slotted: WeakKeyDictionary[AbstractEventLoop, Host] = WeakKeyDictionary()
"""The hosts of loops whose objects take no attribute."""

_UVLOOP_TICK = 0.001
"""uvloop's timers count whole milliseconds and round to the nearest; half a tick more never fires early."""

_END_ATTEMPTS = 100
"""How often a parked green may park again while its loop is being closed."""


class HostedThread(Protocol):
    """A thread of the `threading` module that is a green of this host, in a task of its own."""

    joined: bool
    """Whether `run` waits for it before it ends."""

    def end(self) -> None:
        """Wake whoever waits for its end, if that has not happened yet."""


class Host:
    """One event loop as the host of green calls."""

    __slots__ = (
        "__weakref__",
        "call_at",
        "calls",
        "clock",
        "ended",
        "hook",
        "hooks",
        "loop",
        "poller",
        "thread",
        "thread_id",
        "threads",
    )

    def __init__(self, loop: AbstractEventLoop) -> None:
        self.loop = loop
        self.ended = False
        self.calls: set[Call] = set()
        self.threads: dict[Any, HostedThread] = {}  # by task, and executors that have none
        self.poller: Poller | None = None
        uvloop = type(loop).__module__.partition(".")[0] == "uvloop"
        # uvloop's time() is cached once per turn, in milliseconds; it counts the same clock as time.monotonic.
        self.clock: Callable[[], float] = _original.monotonic if uvloop else loop.time
        self.call_at: Callable[[float, Callable[[], None]], TimerHandle] = (
            self._call_at_uvloop if uvloop else self._call_at
        )
        self.bind()

    def bind(self) -> None:
        """Belong to the calling thread and to the present run of the loop; one thread after another may run it."""
        self.thread = thread_state()
        self.thread_id = _original.get_ident()
        self.hooks = tuple(get_hooks())  # the collector does not look into what `get_hooks` returns
        self.hook = self.hooks[0]

    def _call_at(self, when: float, callback: Callable[[], None]) -> TimerHandle:
        # A context of its own: a timer that outlives the park must not keep the caller's context variables alive.
        return self.loop.call_at(when, callback, context=Context())

    def _call_at_uvloop(self, when: float, callback: Callable[[], None]) -> TimerHandle:
        delay = max(0.0, when - self.clock()) + _UVLOOP_TICK / 2
        return self.loop.call_later(delay, callback, context=Context())

    def call_soon(self, callback: Callable[..., Any], *args: Any) -> None:
        """Run `callback` in the next turn of the loop, from whichever thread."""
        if _original.get_ident() == self.thread_id:
            self.loop.call_soon(callback, *args, context=Context())
        else:
            self.call_soon_threadsafe(callback, *args)

    def call_soon_threadsafe(self, callback: Callable[..., Any], *args: Any) -> None:
        """Run `callback` in the next turn of the loop, which may be asleep: from a thread, or from a signal handler."""
        self.loop.call_soon_threadsafe(callback, *args, context=Context())

    def end(self) -> None:
        """Give every parked green a CancelledError, so that its `finally` blocks run while the loop still exists."""
        for call in tuple(self.calls):
            self.end_call(call, "the event loop is being closed", closing=True)
        for thread in self.threads.copy().values():  # an executor may be collected at any moment
            thread.end()
        self.ended = True
        if self.poller is not None:
            self.poller.end()
            self.poller = None

    def end_call(self, call: Call, message: str, *, closing: bool = False) -> None:
        """Run a parked call to its end, here and now, by cancelling whatever it waits for."""
        green = call.green
        if _original.get_ident() != self.thread_id:
            self._end_elsewhere(call, message, closing)
            return
        if not green.waiting and (not closing or _is_running(green) or green.__class__ is Abandoned):
            # It runs, or a callback that will resume it is due: a second resume would end up in somebody else's call.
            call.cancel(message)
            return
        green.cancels += 1
        call.relaying = False  # its task will not be stepped for it any more
        restore = self._show_idle()
        try:
            for _ in range(_END_ATTEMPTS):
                if call.ended:
                    return
                green.waiting = False
                resume(green, CancelledError(message))
        finally:
            restore()
        _logger.error("%r went on waiting through %d cancellations; it is abandoned", green, _END_ATTEMPTS)
        _abandoned.append(green)

    def _end_elsewhere(self, call: Call, message: str, closing: bool) -> None:
        # A coroutine that is garbage may be closed by any thread, but only its own can switch into a greenlet.
        if not closing and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(call.cancel, message, context=Context())
            return
        _logger.error("%r was parked in another thread when its loop was closed; it is abandoned", call.green)
        _abandoned.append(call.green)

    def _show_idle(self) -> Callable[[], None]:
        """Make the thread look as in a callback of this loop; what it returns shows again what was there before."""
        loop, running, hooks = self.loop, get_running_loop(), get_hooks()
        task = current_task(loop)
        if task is not None:
            leave_task(loop, task)
        set_running_loop(loop)
        set_hooks(*self.hooks)

        def restore() -> None:
            set_running_loop(running)
            set_hooks(*hooks)
            if task is not None:
                enter_task(loop, task)

        return restore


def _is_running(green: Green) -> bool:
    """Tell whether a green has the thread, or waits for one that it started itself."""
    current: Any = green.thread.active
    while current is not None:
        if current is green:
            return True
        current = current.parent
    return False


_abandoned: list[Green] = []
"""Greens that would not end. Letting go of one would raise GreenletExit in it, at some later time, somewhere else."""


def host_of(loop: AbstractEventLoop) -> Host:
    """Look up the host of `loop`, making it at the first call."""
    host: Host | None = getattr(loop, _ATTRIBUTE, None) or _slotted.get(loop)
    if host is not None:
        return host
    host = Host(loop)
    try:
        setattr(loop, _ATTRIBUTE, host)
        loop.close = functools.partial(_close, host, loop.close)  # type: ignore[method-assign]
    except AttributeError:
        _slotted[loop] = host
    _hosts.add(host)
    return host


def running_host() -> Host:
    """Look up the host of the running loop by asking asyncio, and have it take note of this run of the loop.

    Raises:
        RuntimeError: No loop is running.
    """
    loop = get_running_loop()
    if loop is None:
        raise RuntimeError("to_greenlet() needs a running event loop; from plain sync code call greenio.run(fn)")
    host = host_of(loop)
    host.bind()
    return host


_hosts: WeakSet[Host] = WeakSet()


def hosts() -> list[Host]:
    """List the hosts of all loops that there are. Never parks."""
    while True:
        try:
            return list(_hosts)
        except RuntimeError:
            pass  # another thread has just made one


def _close(host: Host, close: Callable[[], None]) -> None:
    if not host.ended and not host.loop.is_running():
        host.end()
    close()
