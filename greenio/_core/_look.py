"""What the kernel shows of itself to those who debug: hosts, pools, and since when greens are parked.

Nothing here costs anything until it is called. When a green parks is noted by greenlet's own trace function, and only
while a recorder is on, since a look at the clock would cost a tenth of a park.
"""

from __future__ import annotations

import inspect
import sys
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any, NamedTuple

from greenlet import gettrace, settrace

from .. import _original
from ._call import _POOL_LIMIT
from ._green import Green, ThreadState, greens, thread_state
from ._host import Host, hosts

__all__ = ["Pool", "frames_of", "function_of", "host_if_any", "is_busy", "parked_since", "pools", "record_parks"]


class Pool(NamedTuple):
    """The greens of one thread.

    Attributes:
        thread_id: The thread's identifier; None if no loop of it is known.
        idle: How many are at rest.
        busy: How many are in a call.
        limit: How many are kept at rest at most.
    """

    thread_id: int | None
    idle: int
    busy: int
    limit: int


def pools() -> list[Pool]:
    """List the pools of all threads that have greens. Never parks."""
    states: dict[int, tuple[ThreadState, list[Green]]] = {}
    for green in greens():
        states.setdefault(id(green.thread), (green.thread, []))[1].append(green)
    thread_ids = {id(host.thread): host.thread_id for host in hosts()}
    found = []
    for key, (state, members) in states.items():
        busy = sum(is_busy(green) for green in members)
        found.append(Pool(thread_ids.get(key), len(state.idle), busy, _POOL_LIMIT))
    return found


def is_busy(green: Green) -> bool:
    """Tell whether a green is in a call. Never parks."""
    return getattr(green, "host", None) is not None


def host_if_any(loop: Any) -> Host | None:
    """Look up the host of a loop, and make none. Never parks."""
    return next((host for host in hosts() if host.loop is loop), None)


def frames_of(green: Green) -> list[FrameType]:
    """List the frames of a green that does not have the thread, innermost first; none if it has. Never parks."""
    found: list[FrameType] = []
    part: Any = green.leaf if green.waiting else green
    while part is not None:
        frame = part.gr_frame
        while frame is not None:
            found.append(frame)
            frame = frame.f_back
        if part is green:
            break
        part = part.parent  # a library's greenlet, inside the green
    return found


if sys.version_info >= (3, 11):

    def function_of(frame: FrameType) -> str:
        """Name the function of a frame, with its class."""
        return frame.f_code.co_qualname

else:

    def function_of(frame: FrameType) -> str:
        """Name the function of a frame, with its class if it is a method: code has no qualified name on 3.10."""
        code = frame.f_code
        if code.co_varnames[:1] == ("self",):
            for base in type(frame.f_locals.get("self")).__mro__:
                method: Any = inspect.unwrap(vars(base).get(code.co_name, code))
                if getattr(method, "__code__", None) is code:
                    return f"{base.__qualname__}.{code.co_name}"
        return code.co_name


_since: weakref.WeakKeyDictionary[Green, float] = weakref.WeakKeyDictionary()


def parked_since(green: Green) -> float | None:
    """Tell since when a green is parked, on the monotonic clock; None if nobody has noted it. Never parks."""
    return _since.get(green) if green.waiting else None


class _Recording:
    """That parks of one thread are noted, and how often this was asked for."""

    def __init__(self, state: ThreadState, before: Any) -> None:
        self.state = state
        self.before = before
        self.count = 0

    def trace(self, event: str, args: Any) -> None:
        # The other side still shows the green that has just parked as the one that has the thread.
        green = self.state.active
        if green is not None and green.waiting and self.count:
            _since[green] = _original.monotonic()
        if self.before is not None:
            self.before(event, args)

    def stop(self) -> None:
        self.count -= 1
        if self.count:
            return
        for green in greens():
            if green.thread is self.state:
                _since.pop(green, None)
        # Left where it is, without effect, if somebody has put another over it, or if this is another thread.
        if gettrace() == self.trace:
            settrace(self.before)


def record_parks() -> Callable[[], None]:
    """Note when greens of the calling thread park, from now on. Never parks.

    Returns:
        What ends it. Calls may overlap.
    """
    current: Any = gettrace()
    recording = getattr(current, "__self__", None)
    if not isinstance(recording, _Recording):
        recording = _Recording(thread_state(), current)
        settrace(recording.trace)
    recording.count += 1
    return recording.stop
