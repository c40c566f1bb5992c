"""Row 1: a bridged call of a function that does nothing."""

from __future__ import annotations

import asyncio

from .._model import Row, Target, each_loop, to_thread_twice
from .._session import Session, on_loop


def noop() -> None:
    """Do nothing."""


def greenio(*, loop: str) -> Session:
    """`await to_greenlet(noop)`."""
    from greenio import to_greenlet

    async def calls(count: int) -> None:
        for _ in range(count):
            await to_greenlet(noop)

    return on_loop(loop, calls)


def sqlalchemy(*, loop: str) -> Session:
    """`await greenlet_spawn(noop)`."""
    from sqlalchemy.util.concurrency import greenlet_spawn

    async def calls(count: int) -> None:
        for _ in range(count):
            await greenlet_spawn(noop)

    return on_loop(loop, calls)


def to_thread(*, loop: str) -> Session:
    """`await asyncio.to_thread(noop)`."""

    async def calls(count: int) -> None:
        for _ in range(count):
            await asyncio.to_thread(noop)

    return on_loop(loop, calls)


def greenback(*, loop: str) -> Session:
    """`await greenback.with_portal_run_sync(noop)`."""
    from greenback import with_portal_run_sync

    async def calls(count: int) -> None:
        for _ in range(count):
            await with_portal_run_sync(noop)

    return on_loop(loop, calls)


def greenletio(*, loop: str) -> Session:
    """`await async_(noop)()`, decorated once."""
    from greenletio import async_

    call = async_(noop)

    async def calls(count: int) -> None:
        for _ in range(count):
            await call()

    return on_loop(loop, calls)


ROW = Row(
    1,
    "noop",
    "one call of an empty function, awaited",
    (
        *each_loop("greenio to_greenlet", greenio),
        *each_loop("SQLAlchemy greenlet_spawn", sqlalchemy, "sqlalchemy"),
        *each_loop("greenletio async_", greenletio, "greenletio"),
        *each_loop("greenback with_portal_run_sync", greenback, "greenback"),
        *to_thread_twice(to_thread),
    ),
    tuple(
        Target(f"greenio to_greenlet / {loop}", f"{peer} / {loop}", ratio)
        for loop in ("uvloop", "asyncio")
        for peer, ratio in (("SQLAlchemy greenlet_spawn", 5.0), ("asyncio.to_thread", 15.0))
    ),
)
