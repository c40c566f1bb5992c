"""`selectors`: `select` and `close` of every class, so that old instances and subclasses park too.

An instance holds a native poll, epoll or kqueue object, or none; it stays what it is. A loop that runs in green code
(`asyncio.run` below `to_greenlet`) waits here, and so parks on the host loop like everything else.
"""

from __future__ import annotations

import math
import selectors
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeAlias

from .._core import Green, forget, getcurrent
from ._loops import LOOPS
from ._select import epoll_seconds, poll_seconds, select_seconds
from ._socket_state import green_caller, take_turn
from ._table import Group, Patch, like, patches
from ._waits import IN, OUT, wait_readable_until, wait_until
from ._wakeup import WAKEUP, end_relay

__all__ = ["GROUP"]

Attempt: TypeAlias = "partial[list[Any]]"
Wait: TypeAlias = Callable[[Green, Any, Attempt, float | None], list[Any]]


def _wait_for_each(green: Green, selector: Any, attempt: Attempt, deadline: float | None) -> list[Any]:
    """Wait for a selector that has nothing but a list of descriptors: select, poll."""
    keys = (selector.get_map() or {}).values()  # a closed selector has no map, and waits for its timeout
    interests = {key.fd: _MASKS[key.events] for key in keys}
    return wait_until(green, attempt, interests, deadline)


_MASKS = {
    selectors.EVENT_READ: IN,
    selectors.EVENT_WRITE: OUT,
    selectors.EVENT_READ | selectors.EVENT_WRITE: IN | OUT,
}


def _wait_for_queue(green: Green, selector: Any, attempt: Attempt, deadline: float | None) -> list[Any]:
    """Wait for a selector whose descriptors are all behind one: epoll, kqueue, devpoll."""
    return wait_readable_until(green, attempt, selector.fileno(), deadline)


# What each class makes of a timeout in seconds: its own arithmetic, so that it raises its own errors.


def _seconds(timeout: float) -> float | None:
    return select_seconds(max(timeout, 0))


def _by_poll(timeout: float) -> float | None:
    return 0 if timeout <= 0 else poll_seconds(math.ceil(timeout * 1e3))


def _by_epoll(timeout: float) -> float | None:
    return 0 if timeout <= 0 else epoll_seconds(math.ceil(timeout * 1e3) * 1e-3)


def _select(native: Any, seconds_of: Callable[[float], float | None], wait: Wait) -> Any:
    @like(native)
    def select(self: Any, timeout: float | None = None) -> list[Any]:
        if getcurrent().parent is None or (green := green_caller()) is None:
            return native(self, timeout)  # type: ignore[no-any-return]
        seconds = None if timeout is None else seconds_of(timeout)
        attempt: Attempt = partial(native, self, 0)
        found = attempt()
        if seconds == 0 or found:
            take_turn(green)
            return found
        deadline = None if seconds is None else green.host.clock() + seconds
        return wait(green, self, attempt, deadline)

    return select


def _close(native: Any) -> Any:
    @like(native)
    def close(self: Any) -> None:
        try:
            fd = self.fileno()
        except ValueError:
            pass  # closed before
        else:
            forget(fd)
        native(self)

    return close


_CLASSES: tuple[tuple[str, Callable[[float], float | None], Wait], ...] = (
    ("SelectSelector", _seconds, _wait_for_each),
    ("PollSelector", _by_poll, _wait_for_each),
    ("EpollSelector", _by_epoll, _wait_for_queue),
    ("DevpollSelector", _by_poll, _wait_for_queue),
    ("KqueueSelector", _seconds, _wait_for_queue),
)


def _patches() -> Iterator[Patch]:
    for name, seconds_of, wait in _CLASSES:
        owner = getattr(selectors, name, None)
        if owner is None:
            continue
        yield from patches(owner, [_select(owner.select, seconds_of, wait)])
        if wait is _wait_for_queue:
            yield from patches(owner, [_close(owner.close)])


GROUP = Group("selectors", (*_patches(), *LOOPS, *WAKEUP), undo=end_relay)
