"""Row 2: a bridged call of a function that waits once, for one turn of the loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from .._model import Contender, Row, Target, each_loop
from .._session import Session, gather, on_loop

Call = Callable[[], Awaitable[object]]


def _session(loop: str, tasks: int, call: Call) -> Session:
    async def calls(count: int) -> None:
        for _ in range(count):
            await call()

    return on_loop(loop, lambda count: gather(calls, count, tasks))


def greenio_await(*, loop: str, tasks: int) -> Session:
    """`await_(asyncio.sleep(0))` in `to_greenlet`."""
    from greenio import await_, to_greenlet

    def wait() -> None:
        await_(asyncio.sleep(0))

    return _session(loop, tasks, lambda: to_greenlet(wait))


def greenio_sleep(*, loop: str, tasks: int) -> Session:
    """A patched `time.sleep(0)` in `to_greenlet`."""
    from greenio import monkey, to_greenlet

    monkey.patch_all()

    def wait() -> None:
        time.sleep(0)

    return _session(loop, tasks, lambda: to_greenlet(wait))


def sqlalchemy(*, loop: str, tasks: int) -> Session:
    """`await_only(asyncio.sleep(0))` in `greenlet_spawn`."""
    from sqlalchemy.util.concurrency import await_only, greenlet_spawn

    def wait() -> None:
        await_only(asyncio.sleep(0))

    return _session(loop, tasks, lambda: greenlet_spawn(wait))


def greenletio(*, loop: str, tasks: int) -> Session:
    """`await_(asyncio.sleep(0))` in `async_`."""
    from greenletio import async_, await_

    def wait() -> None:
        await_(asyncio.sleep(0))

    return _session(loop, tasks, async_(wait))


def greenback(*, loop: str, tasks: int) -> Session:
    """`greenback.await_(asyncio.sleep(0))` in a portal."""
    from greenback import await_, with_portal_run_sync

    def wait() -> None:
        await_(asyncio.sleep(0))

    return _session(loop, tasks, lambda: with_portal_run_sync(wait))


def to_thread(*, loop: str, tasks: int) -> Session:
    """A native `time.sleep(0)` in a thread."""
    return _session(loop, tasks, lambda: asyncio.to_thread(time.sleep, 0))


def native(*, loop: str, tasks: int) -> Session:
    """A coroutine, for what the turn of the loop costs by itself."""

    async def wait() -> None:
        await asyncio.sleep(0)

    return _session(loop, tasks, wait)


def _contenders(tasks: int) -> tuple[Contender, ...]:
    suffix = f", {tasks} task{'s'[: tasks > 1]}"
    return (
        *each_loop(f"greenio await_{suffix}", greenio_await, tasks=tasks),
        *each_loop(f"greenio time.sleep{suffix}", greenio_sleep, tasks=tasks),
        *each_loop(f"SQLAlchemy await_only{suffix}", sqlalchemy, "sqlalchemy", tasks=tasks),
        *each_loop(f"greenletio await_{suffix}", greenletio, "greenletio", tasks=tasks),
        *each_loop(f"greenback await_{suffix}", greenback, "greenback", tasks=tasks),
        *each_loop(f"asyncio.to_thread{suffix}", to_thread, tasks=tasks),
        *each_loop(f"coroutine{suffix}", native, tasks=tasks),
    )


ROW = Row(
    2,
    "park-once",
    "one call of a function that waits for one turn of the loop",
    (*_contenders(1), *_contenders(50)),
    tuple(
        Target(f"greenio {how}, {tasks} / {loop}", f"SQLAlchemy await_only, {tasks} / {loop}", 2.0)
        for tasks in ("1 task", "50 tasks")
        for how in ("await_", "time.sleep")
        for loop in ("uvloop", "asyncio")
    ),
    note="With one task every call pays for a whole turn of the loop, an epoll_wait included; with 50 they share it.",
)
