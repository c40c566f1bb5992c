"""Rows in which the greens of a loop stand before a semaphore or a queue, so that they are served in order.

Both are Python code of the standard library, over a condition. Who is woken has to take the condition's lock again, and
to look again. It finds nothing if a green that came later was there meanwhile, and would then wait behind all others; a
green that gives and takes by turns without a park would keep everybody out. So of the greens that have to wait, only
the first is in the native call. A loop has a row of its own: one that is not running holds up nobody else's greens, and
others need not wait until another thread runs. The first of each row wait for the condition in the order in which they
came, by the tickets that they drew; not in that in which they became the first.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable
from typing import Any, TypeAlias

from .._core import Green, current_green
from ._locks import Lock, PlainLock
from ._waiting import NOTHING

__all__ = ["Row", "Rows", "is_passed", "line_up", "take_in_turn"]

_tickets = itertools.count()


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


Rows: TypeAlias = dict[tuple[int, Any], Row]
"""The rows of all who want the same, say to get something from a queue: by the id of the queue, and the loop's host.

An object does not keep its own, since a look into its `__dict__` makes every look-up of its attributes slower.
"""


def is_passed(rows: Rows, shared: Any) -> bool:
    """Tell whether the caller, if it took something now, would go past greens of its loop."""
    green = current_green()
    return green is not None and (id(shared), green.host) in rows


def take_in_turn(
    rows: Rows, shared: Any, green: Green, timeout: float | None, take: Callable[[float | None], Any]
) -> Any:
    """Wait for the turn of a green, and then call `take` with the seconds that are left. Parks.

    Args:
        rows: Those of all who want the same.
        shared: A semaphore, or a queue.
        green: The caller.
        timeout: Seconds for all of it; None for no limit.
        take: Takes what the green wants, if it comes in time.

    Returns:
        What `take` returned, or NOTHING if the turn did not come in time.

    Raises:
        CancelledError: The host task was cancelled.
    """
    host = green.host
    key = id(shared), host
    row = rows.get(key)
    if row is None:
        row = rows[key] = Row(f"{type(shared).__name__} at {id(shared):#x}")
    deadline = None if timeout is None else host.clock() + timeout
    outer = green.ticket
    row._length += 1
    try:
        green.ticket = next(_tickets)
        if not row.acquire(True, -1 if timeout is None else timeout):
            return NOTHING
        try:
            return take(None if deadline is None else max(deadline - host.clock(), 0))
        finally:
            row.release()
    finally:
        green.ticket = outer
        row._length -= 1
        if not row._length:
            del rows[key]


class _Turn(PlainLock):
    """What the first of a row sleeps on in a condition."""

    __slots__ = ("_ticket",)

    def __init__(self, ticket: int) -> None:
        super().__init__()
        self._ticket = ticket


def line_up(waiters: deque[Any], green: Green) -> Lock:
    """Put a green in the list of a condition, whose lock it has, behind those of other rows that came before it.

    Returns:
        What it is to sleep on: a lock that is held until somebody notifies.
    """
    ticket = green.ticket
    place = len(waiters)
    if ticket is None:
        turn = Lock()
    else:
        turn = _Turn(ticket)
        later = (at for at, other in enumerate(tuple(waiters)) if other.__class__ is _Turn and other._ticket > ticket)
        place = next(later, place)
    turn.acquire()
    waiters.insert(place, turn)
    return turn
