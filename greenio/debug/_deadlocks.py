"""`deadlocks`: cycles of greenlets and threads that wait for each other's locks.

Who waits for what is read off: a parked green says so itself (`green.what`), a thread by its frames. Who has a lock is
known of an RLock, and of a `Lock` while a `record(owners=True)` is on; and whoever joins a thread waits for that. And a
green waits for its thread, if native code of that thread waits so: nobody else could resume it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from .. import _original
from .._core import Green, greens
from .._sync import Shared, owner_of, runner_of
from ._stacks import Frame, module_of, stack_of_green, stack_of_thread
from ._waits import name_of_end, name_of_owner, name_of_shared, wait_of

__all__ = ["Deadlock", "LockWait", "deadlocks"]

Waiter: TypeAlias = "Green | int"

_JOINS = frozenset({"join", "_wait_for_tstate_lock"})
"""The functions of `threading` in which a native thread waits, in C, for the end of its `self`."""

_LOCKS = frozenset({"greenio._sync._locks", "greenio._sync._old"})
_WAITS = "_take"
"""The functions of those modules in which a native thread waits for its `self`."""


@dataclass(frozen=True)
class LockWait:
    """One link of a deadlock.

    Attributes:
        waiter: The greenlet, with its task, or the thread.
        what: What it waits for: a lock, the end of a thread, or its own thread.
        owner: Who has that: the waiter of the next link.
        seconds_left: Until it gives up; None if it never does.
        stack: Where it waits, outermost first.
    """

    waiter: str
    what: str
    owner: str
    seconds_left: float | None
    stack: tuple[Frame, ...]

    def __str__(self) -> str:
        limit = "" if self.seconds_left is None else f" (for {self.seconds_left:.3f} s more)"
        owner = "" if self.what == f"the end of {self.owner}" else f", which {self.owner} has"
        return f"{self.waiter} waits for {self.what}{owner}{limit}"


@dataclass(frozen=True)
class Deadlock:
    """A cycle of waits. It lasts for ever, unless one of them has a deadline or is cancelled.

    Attributes:
        waits: The links; the owner of each is the waiter of the next, and of the last the first.
    """

    waits: tuple[LockWait, ...]

    def __str__(self) -> str:
        lines = [f"deadlock of {len(self.waits)}:"]
        for wait in self.waits:
            lines += [f"  {wait}", *(f"    {frame}" for frame in wait.stack)]
        return "\n".join(lines)


def deadlocks() -> list[Deadlock]:
    """Find cycles of greenlets and threads that wait for each other's locks, or end. Never parks.

    Sees `threading.RLock`, and all that stands on it (a `Condition`'s own lock); `threading.Thread.join`; and
    `threading.Lock` while `record(owners=True)` is on and was when the lock was taken. Locks written in C are not seen,
    nor are waits for semaphores, events and queues, which have no owner. Call it from a thread that is not stuck
    itself: the one of `listen()`, a watchdog's report, a signal handler.

    Returns:
        Each cycle once.
    """
    graph = _graph()
    found: list[Deadlock] = []
    done: set[Waiter] = set()
    for start in graph:
        cycle = _cycle_from(start, graph, done)
        if cycle:
            found.append(Deadlock(tuple(_link(waiter, graph[waiter]) for waiter in cycle)))
    return found


_Edge: TypeAlias = "tuple[Any, Waiter]"
"""What somebody waits for, and who has it. Each waits for one thing only, so that a walk finds every cycle."""


def _graph() -> dict[Waiter, _Edge]:
    """Note who waits for what, and who has that."""
    stuck = {thread_id: what for thread_id in sys._current_frames() for what in _awaited_by(thread_id)}
    graph: dict[Waiter, _Edge] = {}
    for thread_id, what in stuck.items():
        owner = runner_of(what) if isinstance(what, _original.Thread) else owner_of(what)
        if owner is not None:
            graph[thread_id] = what, owner
    for green in greens():
        host, what = green.host, green.what
        if host is None or not green.waiting:
            continue
        owner = owner_of(what) if isinstance(what, Shared) else None
        if host.thread_id in stuck:
            graph[green] = None, host.thread_id
        elif owner is not None:
            graph[green] = what, owner
    return graph


def _awaited_by(thread_id: int) -> Iterator[Any]:
    """Find the lock, or the thread, that native code of a thread waits for, by its innermost frames."""
    frame = sys._current_frames().get(thread_id)
    while frame is not None and module_of(frame).startswith("greenio."):
        if module_of(frame) in _LOCKS and frame.f_code.co_name == _WAITS:
            yield frame.f_locals["self"]
            return
        frame = frame.f_back
    if frame is not None and module_of(frame) == "threading" and frame.f_code.co_name in _JOINS:
        names = frame.f_locals
        if isinstance(names.get("self"), _original.Thread) and names.get("block", True):  # else it only looks
            yield names["self"]


def _cycle_from(start: Waiter, graph: dict[Waiter, _Edge], done: set[Waiter]) -> list[Waiter]:
    path: list[Waiter] = []
    waiter = start
    while waiter in graph and waiter not in done:
        done.add(waiter)
        path.append(waiter)
        waiter = graph[waiter][1]
    return path[path.index(waiter) :] if waiter in path else []


def _link(waiter: Any, edge: _Edge) -> LockWait:
    what, owner = edge
    is_green = isinstance(waiter, Green)
    return LockWait(
        waiter=name_of_owner(waiter) or "",
        what=_name_of(what),
        owner=name_of_owner(owner) or "",
        seconds_left=wait_of(waiter).seconds_left if is_green else None,
        stack=stack_of_green(waiter) if is_green else stack_of_thread(waiter),
    )


def _name_of(what: Any) -> str:
    if what is None:
        return "its thread"
    return name_of_end(what) if isinstance(what, _original.Thread) else name_of_shared(what)
