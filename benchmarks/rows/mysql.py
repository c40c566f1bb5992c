"""Row 5: PyMySQL, SELECT from 50 tasks, a connection each. The client is measured."""

from __future__ import annotations

import asyncio
from typing import Any

from .._model import Contender, Row, Target, each_loop, to_thread_twice
from .._session import Session, UnavailableError, new_loop, on_loop, share

TASKS = 50
_SERVER: dict[str, Any] = {"host": "127.0.0.1", "port": 3306, "user": "root", "password": "", "db": "test"}
_QUERY = "SELECT 1, 'some text', 3.5"


def _connect(connections: list[Any]) -> None:
    """Open the connections, before each round: a server does not have enough for all contenders at once."""
    import pymysql

    try:
        connections.extend(pymysql.connect(**_SERVER, ssl_disabled=True) for _ in range(TASKS))
    except pymysql.err.OperationalError as error:
        raise UnavailableError(f"no MariaDB at 127.0.0.1:3306: {error.args[-1]}") from None


def _close(connections: list[Any]) -> None:
    """Close them, after each round."""
    while connections:
        connections.pop().close()


def _hooked(session: Session, connections: list[Any]) -> Session:
    session.before = lambda: _connect(connections)
    session.after = lambda: _close(connections)
    return session


def _select(connection: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute(_QUERY)
        cursor.fetchall()


def _selects(connection: Any, count: int) -> None:
    for _ in range(count):
        _select(connection)


def greenio(*, loop: str) -> Session:
    """50 greenlets, each in a loop of queries."""
    from greenio import monkey, to_greenlet

    monkey.patch_all()
    connections: list[Any] = []

    async def round_(count: int) -> None:
        parts = zip(connections, share(count, TASKS), strict=True)
        await asyncio.gather(*(to_greenlet(_selects, connection, part) for connection, part in parts))

    return _hooked(on_loop(loop, round_), connections)


def to_thread(*, loop: str) -> Session:
    """50 tasks, each in a loop of `await asyncio.to_thread(select, connection)`."""
    connections: list[Any] = []

    async def selects(connection: Any, count: int) -> None:
        for _ in range(count):
            await asyncio.to_thread(_select, connection)

    async def round_(count: int) -> None:
        parts = zip(connections, share(count, TASKS), strict=True)
        await asyncio.gather(*(selects(connection, part) for connection, part in parts))

    return _hooked(on_loop(loop, round_), connections)


def gevent() -> Session:
    """50 gevent greenlets, each in a loop of queries."""
    from gevent import joinall, monkey, spawn

    monkey.patch_all()
    connections: list[Any] = []

    def round_(count: int) -> None:
        parts = zip(connections, share(count, TASKS), strict=True)
        joinall([spawn(_selects, connection, part) for connection, part in parts], raise_error=True)

    return _hooked(Session(round_), connections)


def alone() -> Session:
    """One query after another on one native connection: what PyMySQL itself costs."""
    connections: list[Any] = []
    return _hooked(Session(lambda count: _selects(connections[0], count)), connections)


def aiomysql(*, loop: str) -> Session:
    """aiomysql: 50 tasks, a connection each."""
    import aiomysql as peer
    import pymysql

    host = new_loop(loop)
    connections: list[Any] = []

    async def selects(connection: Any, count: int) -> None:
        for _ in range(count):
            async with connection.cursor() as cursor:
                await cursor.execute(_QUERY)
                await cursor.fetchall()

    async def connect() -> None:
        try:
            connections.extend([await peer.connect(**_SERVER) for _ in range(TASKS)])
        except pymysql.err.OperationalError as error:
            raise UnavailableError(f"no MariaDB at 127.0.0.1:3306: {error.args[-1]}") from None

    async def close() -> None:
        while connections:
            await connections.pop().ensure_closed()

    async def queries(count: int) -> None:
        parts = zip(connections, share(count, TASKS), strict=True)
        await asyncio.gather(*(selects(connection, part) for connection, part in parts))

    return Session(
        lambda count: host.run_until_complete(queries(count)),
        before=lambda: host.run_until_complete(connect()),
        after=lambda: host.run_until_complete(close()),
    )


ROW = Row(
    5,
    "pymysql",
    f"PyMySQL SELECT from {TASKS} tasks, the client measured",
    (
        *each_loop("greenio", greenio, "pymysql"),
        *to_thread_twice(to_thread, "pymysql"),
        Contender("gevent", gevent, needs=("pymysql", "gevent")),
        *each_loop("aiomysql", aiomysql, "pymysql", "aiomysql"),
        Contender("PyMySQL alone, one connection", alone, needs=("pymysql",)),
    ),
    tuple(
        Target(f"greenio / {loop}", than)
        for loop in ("uvloop", "asyncio")
        for than in (f"asyncio.to_thread / {loop}", "gevent", f"aiomysql / {loop}")
    ),
    first=100,
    note="The server is the MariaDB at 127.0.0.1:3306, which may run on either CPU: compare CPU time too. 'Alone' is "
    "one native connection, for what PyMySQL itself costs.",
)
