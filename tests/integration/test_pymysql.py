"""PyMySQL against the real MariaDB."""

from __future__ import annotations

import asyncio
import time
from contextlib import closing
from typing import Any

import pymysql
import pytest

from greenio import spawn, to_greenlet

from .servers import OWN, Cutter, Heartbeat, until

pytestmark = [pytest.mark.usefixtures("patched", "mariadb")]

AT_ONCE = 50


def connect(port: int = 3306, **options: Any) -> pymysql.Connection:
    # Without TLS: PyMySQL makes a context for every connection, which takes 25 ms of pure computation.
    return pymysql.connect(
        host="127.0.0.1", port=port, user="root", database="test", connect_timeout=30, ssl_disabled=True, **options
    )


def query(statement: str, *args: Any, port: int = 3306, **options: Any) -> Any:
    """Connect, ask one thing, close; the connection is closed whatever happens."""
    with closing(connect(port, **options)) as connection, connection.cursor() as cursor:
        cursor.execute(statement, args or None)
        return cursor.fetchall()


def sleepers(mark: str) -> list[int]:
    """List the server's threads that run a statement with this mark in it."""
    statement = "SELECT id FROM information_schema.processlist WHERE info LIKE %s AND id != connection_id()"
    return [row[0] for row in query(statement, f"%/* {OWN} {mark} */%")]


def kill(mark: str) -> None:
    """End those statements in the server: a client that goes away does not do that."""
    for number in sleepers(mark):
        query(f"KILL {number}")


def test_fifty_wait_at_once(arun):
    async def main():
        began = time.monotonic()
        async with Heartbeat(at_least=10):
            rows = await asyncio.gather(*(to_greenlet(query, "SELECT %s, SLEEP(0.3)", i) for i in range(AT_ONCE)))
        assert rows == [((i, 0),) for i in range(AT_ONCE)]
        assert time.monotonic() - began < AT_ONCE * 0.3 / 2

    arun(main)


def test_transactions_and_large_rows(arun):
    def work(number: int) -> None:
        with closing(connect()) as connection, connection.cursor() as cursor:
            cursor.execute("CREATE TEMPORARY TABLE numbers (n INT, body LONGTEXT) ENGINE=InnoDB")
            cursor.executemany("INSERT INTO numbers VALUES (%s, %s)", [(n, str(n) * 1000) for n in range(20)])
            connection.commit()
            cursor.execute("DELETE FROM numbers")
            connection.rollback()
            cursor.execute("SELECT COUNT(*), SUM(LENGTH(body)) FROM numbers")
            assert cursor.fetchone() == (20, 30_000)
            cursor.execute("SELECT REPEAT(%s, 300000)", (chr(97 + number),))
            assert cursor.fetchone()[0] == chr(97 + number) * 300_000

    async def main():
        async with Heartbeat():
            await asyncio.gather(*(to_greenlet(work, i) for i in range(10)))

    arun(main)


def test_read_timeout(arun):
    def work() -> None:
        with closing(connect(read_timeout=1)) as connection, connection.cursor() as cursor:
            with pytest.raises(pymysql.err.OperationalError, match="timed out"):
                cursor.execute(f"SELECT SLEEP(5) /* {OWN} timeouts */")
            assert not connection.open

    async def main():
        began = time.monotonic()
        async with Heartbeat(at_least=10):
            await asyncio.gather(*(to_greenlet(work) for _ in range(10)))
        assert 0.99 < time.monotonic() - began < 4
        await to_greenlet(kill, "timeouts")

    arun(main)


def test_server_killed_in_mid_answer(arun):
    async def main():
        async with Cutter(("127.0.0.1", 3306), after=100_000) as proxy, Heartbeat():
            with pytest.raises(pymysql.err.OperationalError, match="Lost connection"):
                await to_greenlet(query, "SELECT REPEAT('x', 300000)", port=proxy.port)

    arun(main)


def test_server_killed_while_it_thinks(arun):
    async def main():
        async with Cutter(("127.0.0.1", 3306), reset=False) as proxy, Heartbeat():
            waiting = [spawn(query, f"SELECT SLEEP(10) /* {OWN} thinking */", port=proxy.port) for _ in range(5)]
            await until(lambda: to_greenlet(lambda: len(sleepers("thinking")) == 5))
            proxy.cut()
            results = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(result) for result in results] == [pymysql.err.OperationalError] * 5
        await to_greenlet(kill, "thinking")

    arun(main)


def test_cancelled_query_closes_its_connection(arun):
    kept: list[pymysql.Connection] = []

    def work() -> None:
        connection = connect()
        kept.append(connection)  # nobody closes it but PyMySQL itself
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT SLEEP(10) /* {OWN} cancelled */")

    async def main():
        async with Heartbeat():
            others = [spawn(query, "SELECT %s, SLEEP(0.5)", i) for i in range(5)]
            victim = spawn(work)
            await until(lambda: kept and to_greenlet(sleepers, "cancelled"))
            victim.cancel()
            with pytest.raises(asyncio.CancelledError):
                await victim
            assert not kept.pop().open  # or the next query on it would read the answer of this one
            assert await asyncio.gather(*others) == [((i, 0),) for i in range(5)]
            await to_greenlet(kill, "cancelled")

    arun(main)


def test_beside_native_threads(arun):
    async def main():
        async with Heartbeat():
            rows = await asyncio.gather(
                *(to_greenlet(query, "SELECT %s, SLEEP(0.05)", i) for i in range(20)),
                *(asyncio.to_thread(query, "SELECT %s, SLEEP(0.05)", i) for i in range(20, 24)),
            )
        assert rows == [((i, 0),) for i in range(24)]

    arun(main)
