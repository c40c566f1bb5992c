"""asyncpg, an async driver, used without `await` by `autosync`, against the real PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import asyncpg
import pytest

from greenio import autosync, await_, in_greenlet, spawn, timeout, to_greenlet

from .servers import OWN, Heartbeat, until

pytestmark = [pytest.mark.usefixtures("postgres")]

ADDRESS = "postgresql://postgres@127.0.0.1:5432/test"
OPTIONS: dict[str, Any] = {"ssl": False, "timeout": 30}
Run = Callable[[Callable[[], Awaitable[Any]]], Any]


@contextlib.contextmanager
def connected() -> Iterator[Any]:
    """A connection for green code, closed at the end, with a table `numbers` of its own."""
    connection = autosync(await_(asyncpg.connect(ADDRESS, **OPTIONS)))
    try:
        connection.execute("CREATE TEMPORARY TABLE numbers (n int PRIMARY KEY)")
        yield connection
    finally:
        connection.close()


@contextlib.contextmanager
def pooled(size: int) -> Iterator[Any]:
    with autosync(asyncpg.create_pool(ADDRESS, min_size=1, max_size=size, **OPTIONS)) as pool:
        yield pool


def numbers(connection: Any) -> list[int]:
    return [row["n"] for row in connection.fetch("SELECT n FROM numbers ORDER BY n")]


def green(arun: Run, fn: Callable[[], Any]) -> None:
    async def main() -> None:
        async with Heartbeat():
            await to_greenlet(fn)

    arun(main)


def test_fetch_and_execute(arun):
    def body() -> None:
        with connected() as connection:
            assert connection.execute("INSERT INTO numbers VALUES (1), (2)") == "INSERT 0 2"
            connection.executemany("INSERT INTO numbers VALUES ($1)", [(3,), (4,)])
            rows = connection.fetch("SELECT n, n * $1::int AS product FROM numbers ORDER BY n", 10)
            assert [type(row) for row in rows] == [asyncpg.Record] * 4  # the driver's own, not a proxy
            assert [tuple(row) for row in rows] == [(1, 10), (2, 20), (3, 30), (4, 40)]
            assert connection.fetchrow("SELECT n FROM numbers WHERE n = 3")["n"] == 3
            assert connection.fetchval("SELECT count(*) FROM numbers") == 4
            assert connection.is_in_transaction() is False
            with pytest.raises(asyncpg.UniqueViolationError):
                connection.execute("INSERT INTO numbers VALUES (1)")
            assert connection.fetchval("SELECT 5") == 5
        assert connection.is_closed()

    green(arun, body)


def test_prepared_statement(arun):
    def body() -> None:
        with connected() as connection:
            connection.execute("INSERT INTO numbers SELECT generate_series(1, 10)")
            statement = connection.prepare("SELECT n FROM numbers WHERE n > $1 ORDER BY n")
            assert statement.fetchval(3) == 4
            assert [row["n"] for row in statement.fetch(8)] == [9, 10]
            assert [each.name for each in statement.get_attributes()] == ["n"]
            with connection.transaction():
                assert [row["n"] for row in statement.cursor(7, prefetch=1)] == [8, 9, 10]

    green(arun, body)


def test_transactions(arun):
    def body() -> None:
        with connected() as connection:
            with connection.transaction():
                assert connection.is_in_transaction()
                connection.execute("INSERT INTO numbers VALUES (1)")
            assert numbers(connection) == [1]
            with pytest.raises(KeyError, match="mine"), connection.transaction():
                connection.execute("INSERT INTO numbers VALUES (2)")
                raise KeyError("mine")
            assert not connection.is_in_transaction()
            assert numbers(connection) == [1]
            with pytest.raises(asyncpg.DivisionByZeroError), connection.transaction():
                connection.execute("INSERT INTO numbers VALUES (3)")
                connection.fetchval("SELECT 1 / 0")
            assert numbers(connection) == [1]
            with connection.transaction():
                connection.execute("INSERT INTO numbers VALUES (4)")
                with pytest.raises(KeyError), connection.transaction():  # a savepoint
                    connection.execute("INSERT INTO numbers VALUES (5)")
                    raise KeyError
            assert numbers(connection) == [1, 4]

    green(arun, body)


def test_transaction_by_hand(arun):
    def body() -> None:
        with connected() as connection:
            transaction = connection.transaction(isolation="serializable")
            transaction.start()
            connection.execute("INSERT INTO numbers VALUES (1)")
            transaction.rollback()
            assert numbers(connection) == []

    green(arun, body)


def test_cursors(arun):
    def body() -> None:
        with connected() as connection:
            query = "SELECT generate_series(1, 120) AS n"
            with connection.transaction():
                # Fewer at a time than there are: it has to ask again in mid-iteration.
                assert [row["n"] for row in connection.cursor(query, prefetch=50)] == list(range(1, 121))
                for row in connection.cursor(query, prefetch=10):
                    if row["n"] == 15:
                        break
                assert connection.fetchval("SELECT 1") == 1
                # What can be iterated is awaited as well, for a cursor that is moved by hand.
                cursor = connection.cursor(query)
                assert cursor.fetchrow()["n"] == 1
                assert cursor.forward(8) == 8
                assert [row["n"] for row in cursor.fetch(2)] == [10, 11]
            with pytest.raises(asyncpg.NoActiveSQLTransactionError):
                list(connection.cursor(query))

    green(arun, body)


def test_listener_and_type_codec(arun):
    """Callbacks that are given to the driver get what it gives them, and run where it runs them."""

    async def main() -> None:
        heard: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def listen(*args: Any) -> None:
            heard.set_result((in_greenlet(), args[2:]))

        def body() -> None:
            with connected() as connection:
                connection.set_type_codec("json", encoder=str, decoder=len, schema="pg_catalog")
                assert connection.fetchval("SELECT '[1, 2]'::json") == 6
                channel = OWN.replace("-", "_")
                connection.add_listener(channel, listen)
                connection.execute(f"NOTIFY {channel}, 'hello'")
                with timeout(20):
                    assert await_(heard) == (False, (channel, "hello"))
                connection.remove_listener(channel, listen)

        await to_greenlet(body)

    arun(main)


def test_pool(arun):
    def body() -> None:
        with pooled(2) as pool:
            assert pool.fetchval("SELECT 1") == 1
            with pool.acquire() as connection:
                assert connection.fetchval("SELECT 2") == 2
                with connection.transaction():
                    assert [row[0] for row in connection.cursor("SELECT generate_series(1, 3)")] == [1, 2, 3]
                with pool.acquire() as other:
                    assert other.fetchval("SELECT pg_backend_pid()") != connection.fetchval("SELECT pg_backend_pid()")
                    assert pool.get_idle_size() == 0
            assert pool.get_idle_size() == 2
            taken = pool.acquire()
            assert taken.fetchval("SELECT 3") == 3
            pool.release(taken)
            assert pool.get_idle_size() == 2
            with pytest.raises(KeyError), pool.acquire() as connection:
                raise KeyError
            assert pool.get_idle_size() == 2

    green(arun, body)


def test_greenlets_share_a_pool(arun):
    def ask(pool: Any, number: int) -> Any:
        with pool.acquire() as connection:
            return connection.fetchval("SELECT $1::int FROM pg_sleep(0.01)", number)

    def body() -> None:
        with pooled(3) as pool:
            tasks = [spawn(ask, pool, number) for number in range(20)]
            assert [await_(task) for task in tasks] == list(range(20))
            assert pool.get_size() <= 3

    green(arun, body)


def active(pool: Any, mark: str) -> int:
    """Count the statements with a mark that the server works at."""
    return pool.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE $1 AND state = 'active' AND pid != pg_backend_pid()",
        f"%/* {OWN} {mark} */%",
    )


@pytest.mark.parametrize("how", ["cancel", "timeout"])
def test_query_that_is_cancelled(arun, how):
    """The driver tells the server to end the statement; the transaction is rolled back, and the connection goes on."""

    def work(connection: Any, log: list[str]) -> None:
        try:
            with connection.transaction():
                connection.execute("INSERT INTO numbers VALUES (1)")
                connection.fetchval(f"SELECT pg_sleep(60) /* {OWN} {how} */")
        finally:
            log.append("ended")
            log.extend(map(str, numbers(connection)))

    async def main() -> None:
        async with Heartbeat():
            async with asyncpg.create_pool(ADDRESS, min_size=1, max_size=2, **OPTIONS) as bare:
                await to_greenlet(body, autosync(bare))

    def body(pool: Any) -> None:
        log: list[str] = []
        with connected() as connection:
            if how == "cancel":
                task = spawn(work, connection, log)
                await_(until(lambda: to_greenlet(active, pool, how)))
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await_(task)
            else:
                with pytest.raises(TimeoutError), timeout(0.3):
                    work(connection, log)
            assert log == ["ended"]
            assert connection.fetchval("SELECT 7") == 7
            await_(until(lambda: _none_active(pool, how)))

    async def _none_active(pool: Any, mark: str) -> bool:
        return await to_greenlet(active, pool, mark) == 0

    arun(main)


def test_wait_for_a_connection_of_the_pool_is_cancelled(arun):
    def wait(pool: Any) -> None:
        with pool.acquire():
            raise AssertionError("there is none to be had")

    def body() -> None:
        with pooled(1) as pool:
            with pool.acquire() as connection:
                with pytest.raises(TimeoutError), timeout(0.05):
                    wait(pool)
                assert connection.fetchval("SELECT 1") == 1
            with pool.acquire() as connection:
                assert connection.fetchval("SELECT 2") == 2

    green(arun, body)
