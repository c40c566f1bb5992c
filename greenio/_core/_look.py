"""What the kernel shows of itself to those who debug: hosts, pools, frames. It costs nothing until it is called."""

from __future__ import annotations

import inspect
import sys
from types import FrameType
from typing import Any, NamedTuple

from ._await import drive
from ._call import POOL_LIMIT
from ._green import Green, ThreadState, greens
from ._host import Host, hosts

__all__ = ["Pool", "frames_of", "function_of", "host_if_any", "is_busy", "is_driving", "pools"]


class Pool(NamedTuple):
    """The greens of one thread.

    Attributes:
        thread_id: The thread's identifier; None if no loop of it is known.
        idle: How many are at rest.
        busy: How many are in a call.
        limit: How many are kept at rest at most, of those for calls and of those for steps of tasks.
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
        found.append(Pool(thread_ids.get(key), len(state.idle) + len(state.steppers), busy, POOL_LIMIT))
    return found


def is_busy(green: Green) -> bool:
    """Tell whether a green is in a call. Never parks."""
    return green.host is not None


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


def is_driving(frame: FrameType) -> bool:
    """Tell whether a frame of a green steps an awaitable, its local variable `steps`. Never parks."""
    return frame.f_code is drive.__code__


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
