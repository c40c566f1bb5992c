"""pg8000 against the real PostgreSQL."""

from __future__ import annotations

import asyncio
import time
from contextlib import closing
from typing import Any

import pg8000.dbapi
import pytest

from greenio import spawn, timeout, to_greenlet

from .servers import OWN, Cutter, Heartbeat, until

pytestmark = [pytest.mark.usefixtures("patched", "postgres")]

AT_ONCE = 50


def connect(port: int = 5432, **options: Any) -> pg8000.dbapi.Connection:
    # Without TLS: pg8000 would make a context for every connection, which takes 25 ms of pure computation.
    return pg8000.dbapi.connect("postgres", host="127.0.0.1", port=port, database="test", ssl_context=False, **options)


def query(statement: str, *args: Any, port: int = 5432, **options: Any) -> Any:
    """Connect, ask one thing, close; the connection is closed whatever happens."""
    with closing(connect(port, **options)) as connection:
        cursor = connection.cursor()
        cursor.execute(statement, args)
        return [tuple(row) for row in cursor.fetchall()]


def sleepers(mark: str) -> list[int]:
    """List the server's processes that run a statement with this mark in it."""
    statement = "SELECT pid FROM pg_stat_activity WHERE query LIKE %s AND state = 'active' AND pid != pg_backend_pid()"
    return [row[0] for row in query(statement, f"%/* {OWN} {mark} */%")]


def kill(mark: str) -> None:
    """End those statements in the server: a client that goes away does not do that."""
    for number in sleepers(mark):
        query("SELECT pg_terminate_backend(%s)::text", number)


def test_fifty_wait_at_once(arun):
    async def main():
        began = time.monotonic()
        async with Heartbeat(at_least=10):
            rows = await asyncio.gather(
                *(to_greenlet(query, "SELECT %s::int, pg_sleep(0.5)::text", i) for i in range(AT_ONCE))
            )
        assert [row[0][0] for row in rows] == list(range(AT_ONCE))
        assert time.monotonic() - began < AT_ONCE * 0.5 / 2

    arun(main)


def test_transactions_and_large_rows(arun):
    def work(number: int) -> None:
        with closing(connect()) as connection:
            cursor = connection.cursor()
            cursor.execute("CREATE TEMPORARY TABLE numbers (n int, body text)")
            cursor.executemany("INSERT INTO numbers VALUES (%s, %s)", [(n, str(n) * 1000) for n in range(20)])
            connection.commit()
            cursor.execute("DELETE FROM numbers")
            connection.rollback()
            cursor.execute("SELECT COUNT(*), SUM(LENGTH(body)) FROM numbers")
            assert cursor.fetchone() == [20, 30_000]
            cursor.execute("SELECT REPEAT(%s, 300000)", (chr(97 + number),))
            assert cursor.fetchone() == [chr(97 + number) * 300_000]

    async def main():
        async with Heartbeat():
            await asyncio.gather(*(to_greenlet(work, i) for i in range(10)))

    arun(main)


def test_timeout(arun):
    async def main():
        began = time.monotonic()
        async with Heartbeat(at_least=10):
            results = await asyncio.gather(
                *(to_greenlet(query, f"SELECT pg_sleep(5)::text /* {OWN} timeouts */", timeout=0.5) for _ in range(10)),
                return_exceptions=True,
            )
        assert {type(result) for result in results} <= {TimeoutError, pg8000.dbapi.InterfaceError}, results
        assert 0.49 < time.monotonic() - began < 4
        await to_greenlet(kill, "timeouts")

    arun(main)


def test_greenio_timeout_around_a_query(arun):
    def work() -> None:
        with pytest.raises(TimeoutError), timeout(0.3):
            query(f"SELECT pg_sleep(5)::text /* {OWN} limited */")
        assert query("SELECT 1") == [(1,)]

    async def main():
        async with Heartbeat(at_least=10):
            await to_greenlet(work)
        await to_greenlet(kill, "limited")

    arun(main)


@pytest.mark.parametrize("reset", [True, False], ids=["reset", "end of file"])
def test_server_killed_in_mid_answer(arun, reset):
    async def main():
        async with Cutter(("127.0.0.1", 5432), after=100_000, reset=reset) as proxy, Heartbeat():
            with pytest.raises((pg8000.dbapi.InterfaceError, OSError)):
                await to_greenlet(query, "SELECT repeat('x', 300000)", port=proxy.port)

    arun(main)


def test_cancelled_query_in_a_with_block_closes_its_connection(arun):
    kept: list[pg8000.dbapi.Connection] = []

    def work() -> None:
        with connect() as connection:
            kept.append(connection)
            connection.cursor().execute(f"SELECT pg_sleep(10)::text /* {OWN} cancelled */")

    async def main():
        async with Heartbeat():
            others = [spawn(query, "SELECT %s::int, pg_sleep(0.5)::text", i) for i in range(5)]
            victim = spawn(work)
            await until(lambda: to_greenlet(sleepers, "cancelled"))
            victim.cancel()
            with pytest.raises(asyncio.CancelledError):
                await victim
            # pg8000 itself does not close a connection that was interrupted in mid-query: the `with` block did.
            with pytest.raises(pg8000.dbapi.InterfaceError):
                kept.pop().cursor().execute("SELECT 1")
            assert [row[0][0] for row in await asyncio.gather(*others)] == list(range(5))
            await to_greenlet(kill, "cancelled")

    arun(main)
