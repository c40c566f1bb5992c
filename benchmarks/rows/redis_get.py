"""Row 4: redis-py, GET from 50 tasks. The client is measured."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from .._model import Contender, Row, Target, each_loop, to_thread_twice
from .._session import Session, on_loop, share
from ..servers.redis import redis_server

TASKS = 50
_KEY = "greenio-benchmark"


class _Clients:
    """The clients of the tasks: one that all share, with its pool, or one with its own connection for each."""

    def __init__(self, port: int, shared: bool) -> None:
        import redis

        if shared:
            client = redis.Redis(port=port, max_connections=TASKS + 1)
            self.each: list[Any] = [client] * TASKS
        else:
            self.each = [redis.Redis(port=port, single_connection_client=True) for _ in range(TASKS)]
        self.each[0].set(_KEY, b"x" * 64)

    def parts(self, count: int) -> Iterator[tuple[Any, int]]:
        """Share `count` operations out to the clients."""
        return zip(self.each, share(count, TASKS), strict=True)


def _gets(client: Any, count: int) -> None:
    for _ in range(count):
        client.get(_KEY)


def greenio_long(*, loop: str, port: int, shared: bool) -> Session:
    """50 greenlets, each in a loop of GETs."""
    from greenio import monkey, to_greenlet

    monkey.patch_all()
    clients = _Clients(port, shared)

    async def round_(count: int) -> None:
        await asyncio.gather(*(to_greenlet(_gets, client, part) for client, part in clients.parts(count)))

    return on_loop(loop, round_)


def _one_by_one(loop: str, clients: _Clients, call: Callable[..., Awaitable[object]]) -> Session:
    async def gets(client: Any, count: int) -> None:
        for _ in range(count):
            await call(client.get, _KEY)

    async def round_(count: int) -> None:
        await asyncio.gather(*(gets(client, part) for client, part in clients.parts(count)))

    return on_loop(loop, round_)


def greenio_calls(*, loop: str, port: int, shared: bool) -> Session:
    """50 tasks, each in a loop of `await to_greenlet(client.get, key)`."""
    from greenio import monkey, to_greenlet

    monkey.patch_all()
    return _one_by_one(loop, _Clients(port, shared), to_greenlet)


def to_thread(*, loop: str, port: int, shared: bool) -> Session:
    """50 tasks, each in a loop of `await asyncio.to_thread(client.get, key)`."""
    return _one_by_one(loop, _Clients(port, shared), asyncio.to_thread)


def gevent(*, port: int, shared: bool) -> Session:
    """50 gevent greenlets, each in a loop of GETs."""
    from gevent import joinall, monkey, spawn

    monkey.patch_all()
    clients = _Clients(port, shared)

    def round_(count: int) -> None:
        joinall([spawn(_gets, client, part) for client, part in clients.parts(count)], raise_error=True)

    return Session(round_)


def alone(*, port: int, shared: bool) -> Session:
    """One GET after another on one native connection: what redis-py itself costs."""
    client = _Clients(port, shared).each[0]
    return Session(lambda count: _gets(client, count))


def redis_asyncio(*, loop: str, port: int, shared: bool) -> Session:
    """`redis.asyncio`: 50 tasks, each in a loop of GETs."""
    from redis.asyncio import Redis

    _Clients(port, shared)
    if shared:
        clients = [Redis(port=port, max_connections=TASKS + 1)] * TASKS
    else:
        clients = [Redis(port=port, single_connection_client=True) for _ in range(TASKS)]

    async def gets(client: Any, count: int) -> None:
        for _ in range(count):
            await client.get(_KEY)

    async def round_(count: int) -> None:
        parts = zip(clients, share(count, TASKS), strict=True)
        await asyncio.gather(*(gets(client, part) for client, part in parts))

    return on_loop(loop, round_)


def _row(name: str, title: str, shared: bool) -> Row:
    options = {"shared": shared}
    return Row(
        4,
        name,
        f"redis-py GET from {TASKS} tasks, {title}, the client measured",
        (
            *each_loop("greenio, 50 greenlets", greenio_long, "redis", **options),
            *each_loop("greenio, one to_greenlet a call", greenio_calls, "redis", **options),
            *to_thread_twice(to_thread, "redis", **options),
            Contender("gevent", gevent, options, ("redis", "gevent")),
            *each_loop("redis.asyncio", redis_asyncio, "redis", **options),
            Contender("redis-py alone, one connection", alone, options, ("redis",)),
        ),
        _TARGETS,
        first=200,
        server=redis_server,
        note="The server is a redis-server started for this row on the other CPU; without that program the one at "
        "127.0.0.1:6379, and without either a small one in Python. 'Alone' is one native connection, for what redis-py "
        "itself costs. Threads may use every CPU, as in users' programs, and pay for it in handing over the GIL.",
    )


_LONG, _CALLS = "greenio, 50 greenlets", "greenio, one to_greenlet a call"
_TARGETS = (
    Target(f"{_LONG} / uvloop", "asyncio.to_thread / uvloop", 4.0),
    Target(f"{_LONG} / uvloop", "gevent", 1.3),
    Target(f"{_LONG} / uvloop", "redis.asyncio / uvloop", 1.0),
    *(
        Target(f"{ours} / {loop}", than)
        for ours, loop in ((_LONG, "asyncio"), (_CALLS, "uvloop"))
        for than in (f"asyncio.to_thread / {loop}", "gevent", f"redis.asyncio / {loop}")
    ),
    Target(f"{_LONG} / uvloop", "asyncio.to_thread, one CPU / uvloop"),
)

ROWS = (
    _row("redis", "one client and its pool for all", shared=True),
    _row("redis-own", "a connection each", shared=False),
)
