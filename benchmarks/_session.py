"""What contenders, clients and servers are made of; imported in their own processes, before anything is patched."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Extra", "Session", "UnavailableError", "gather", "new_loop", "on_loop", "raise_descriptor_limit", "share"]

Extra = Mapping[str, float] | None
"""Metrics that a round measured itself, beside its time."""


class UnavailableError(Exception):
    """The contender cannot run on this machine; the message says why."""


@dataclass
class Session:
    """A contender that is set up.

    Attributes:
        round: Does that many operations and returns when they are done.
        before: Called before each round, and not measured.
        after: Called after each round, and not measured.
        info: What the other processes of the row are to know, such as a port; keyword arguments for their entries.
        forever: For a server without rounds: serves until the process is ended.
    """

    round: Callable[[int], Extra] | None = None
    info: dict[str, Any] = field(default_factory=dict)
    forever: Callable[[], object] | None = None
    before: Callable[[], object] | None = None
    after: Callable[[], object] | None = None


def new_loop(kind: str) -> asyncio.AbstractEventLoop:
    """Make the loop "asyncio" or "uvloop", and set it."""
    loop: asyncio.AbstractEventLoop
    if kind == "uvloop":
        import uvloop

        loop = uvloop.new_event_loop()
    else:
        loop = asyncio.SelectorEventLoop()
    asyncio.set_event_loop(loop)
    return loop


def on_loop(
    kind: str, body: Callable[[int], Coroutine[Any, Any, Extra]], info: dict[str, Any] | None = None
) -> Session:
    """Make a session whose rounds are runs of a coroutine function on one loop."""
    loop = new_loop(kind)

    def round_(count: int) -> Extra:
        return loop.run_until_complete(body(count))

    return Session(round_, info or {})


async def gather(body: Callable[[int], Awaitable[object]], count: int, tasks: int) -> None:
    """Share `count` operations out to that many tasks; `body` does its share in a loop."""
    await asyncio.gather(*(body(each) for each in share(count, tasks)))


def share(count: int, parts: int) -> list[int]:
    """Split a number into parts that differ by one at most."""
    return [count // parts + (part < count % parts) for part in range(parts)]


def raise_descriptor_limit() -> int:
    """Allow this process as many descriptors as it may have; return how many that are."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard if hard != resource.RLIM_INFINITY else 1 << 20
