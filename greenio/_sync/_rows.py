"""Rows in which the greens of a loop stand before a semaphore or a queue, so that they are served in order.

Both are Python code of the standard library, over a condition. Who is woken has to take the condition's lock again, and
to look again. It finds nothing if a green that came later was there meanwhile, and would then wait behind all others; a
green that gives and takes by turns without a park would keep everybody out. So of the greens that have to wait, only
the first is in the native call. A loop has a row of its own: one that is not running holds up nobody else's greens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .._core import Green
from ._locks import PlainLock
from ._waiting import NOTHING

__all__ = ["Row", "is_passed", "take_in_turn"]


class Row(PlainLock):
    """The turn of one loop's greens. Who has it is the first, and in the native call.

    Attributes:
        of: What they stand in a row for, as shown to people.
    """

    __slots__ = ("_length", "of")

    def __init__(self, of: str) -> None:
        super().__init__()
        self.of = of
        self._length = 0


def is_passed(shared: Any, side: str, green: Green) -> bool:
    """Tell whether a green that took something now would go past others of its loop."""
    rows = shared.__dict__.get(side)
    return bool(rows) and green.host in rows


def take_in_turn(
    shared: Any, side: str, green: Green, timeout: float | None, take: Callable[[float | None], Any]
) -> Any:
    """Wait for the turn of a green, and then call `take` with the seconds that are left. Parks.

    Args:
        shared: A semaphore, or a queue.
        side: The attribute in which it keeps the rows of those who want the same of it.
        green: The caller.
        timeout: Seconds for all of it; None for no limit.
        take: Takes what the green wants, if it comes in time.

    Returns:
        What `take` returned, or NOTHING if the turn did not come in time.

    Raises:
        CancelledError: The host task was cancelled.
    """
    rows = shared.__dict__.setdefault(side, {})
    host = green.host
    row = rows.get(host)
    if row is None:
        row = rows[host] = Row(f"{type(shared).__name__} at {id(shared):#x}")
    deadline = None if timeout is None else host.clock() + timeout
    row._length += 1
    try:
        if not row.acquire(True, -1 if timeout is None else timeout):
            return NOTHING
        try:
            return take(None if deadline is None else max(deadline - host.clock(), 0))
        finally:
            row.release()
    finally:
        row._length -= 1
        if not row._length:
            del rows[host]
