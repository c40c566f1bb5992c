"""SQLAlchemy's sync engine over PyMySQL and pg8000, in greenlets."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time

import pytest
from sqlalchemy import Engine, create_engine, text

from greenio import spawn, to_greenlet

from .servers import OWN, Heartbeat, until

pytestmark = [pytest.mark.usefixtures("patched", "mariadb", "postgres")]

AT_ONCE = 20
MARIADB = ("mysql+pymysql://root@127.0.0.1/test", "SELECT :n, SLEEP(:seconds) /* {} */")
POSTGRES = (
    "postgresql+pg8000://postgres@127.0.0.1/test",
    "SELECT CAST(:n AS int), CAST(pg_sleep(:seconds) AS text) /* {} */",
)
ACTIVE = {
    "mysql": "SELECT id FROM information_schema.processlist WHERE info LIKE :mark AND id != connection_id()",
    "postgresql": "SELECT pid FROM pg_stat_activity "
    "WHERE query LIKE :mark AND state = 'active' AND pid != pg_backend_pid()",
}
KILL = {"mysql": "KILL :number", "postgresql": "SELECT pg_terminate_backend(:number)"}


@pytest.fixture(params=[MARIADB, POSTGRES], ids=["pymysql", "pg8000"])
def database(request):
    return request.param


WITHOUT_TLS = {"mysql": {"ssl_disabled": True}, "postgresql": {"ssl_context": False}}
"""Both drivers would make a context for every connection, which takes 25 ms of pure computation each."""


def engine_for(url: str, size: int) -> Engine:
    return create_engine(url, pool_size=size, connect_args=WITHOUT_TLS[url.partition("+")[0]])


def sleep_in(engine: Engine, statement: str, number: int, seconds: float, mark: str = "plain") -> int:
    with engine.connect() as connection:
        return connection.execute(text(statement.format(f"{OWN} {mark}")), {"n": number, "seconds": seconds}).one()[0]


def active(engine: Engine, mark: str) -> list[int]:
    with engine.connect() as connection:
        return list(connection.scalars(text(ACTIVE[engine.dialect.name]), {"mark": f"%/* {OWN} {mark} */%"}))


def kill(engine: Engine, mark: str) -> None:
    for number in active(engine, mark):
        with engine.connect() as connection:
            connection.execute(text(KILL[engine.dialect.name]), {"number": number})


def warm(engine: Engine) -> None:
    """Connect once before the crowd comes: SQLAlchemy does its first connect under a native lock."""
    engine.connect().close()


def test_twenty_wait_at_once(arun, database):
    url, statement = database

    async def main():
        engine = engine_for(url, AT_ONCE)
        await to_greenlet(warm, engine)
        began = time.monotonic()
        async with Heartbeat(at_least=10):
            found = await asyncio.gather(*(to_greenlet(sleep_in, engine, statement, i, 0.3) for i in range(AT_ONCE)))
        assert found == list(range(AT_ONCE))
        assert time.monotonic() - began < AT_ONCE * 0.3 / 2
        await to_greenlet(engine.dispose)

    arun(main)


# pg8000 closes its socket but not the file over it, and the collector may come upon the socket first.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_cancelled_query_leaves_the_pool_in_order(arun, database):
    """SQLAlchemy invalidates a connection that an exit exception came through, whatever the driver does."""
    url, statement = database

    async def main():
        engine = engine_for(url, 10)
        await to_greenlet(warm, engine)
        async with Heartbeat():
            others = [spawn(sleep_in, engine, statement, i, 0.5) for i in range(3)]
            victim = spawn(sleep_in, engine, statement, 99, 10, "pool cancelled")
            await until(lambda: to_greenlet(active, engine, "pool cancelled"))
            victim.cancel()
            with pytest.raises(asyncio.CancelledError):
                await victim
            found = await asyncio.gather(*(to_greenlet(sleep_in, engine, statement, i, 0) for i in range(9)))
            assert found == list(range(9))
            assert await asyncio.gather(*others) == [0, 1, 2]
            await to_greenlet(kill, engine, "pool cancelled")
        await to_greenlet(engine.dispose)

    arun(main)


HELD = """
import asyncio, faulthandler, time
from sqlalchemy import create_engine, event
from greenio import monkey, to_greenlet
faulthandler.dump_traceback_later(4, exit=True)
monkey.patch_all()
{body}
asyncio.run(main())
print("went on")
"""

FIRST_CONNECT = """
async def main():
    engine = create_engine("mysql+pymysql://root@127.0.0.1/test")
    event.listen(engine, "first_connect", lambda *_: time.sleep(0.05))  # under the lock; the server may be too quick
    await asyncio.gather(*(to_greenlet(lambda: engine.connect().close()) for _ in range(2)))
"""

EXHAUSTED_POOL = """
async def main():
    engine = create_engine("mysql+pymysql://root@127.0.0.1/test", pool_size=1, max_overflow=0)
    def work():
        with engine.connect() as connection:
            connection.exec_driver_sql("SELECT SLEEP(0.1)")
    await to_greenlet(work)
    await asyncio.gather(to_greenlet(work), to_greenlet(work))
"""


@pytest.mark.parametrize("body", [FIRST_CONNECT, EXHAUSTED_POOL], ids=["first connect", "exhausted pool"])
def test_locks_that_are_held_across_a_park(body):
    command = [sys.executable, "-c", HELD.format(body=body)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=40, check=False)
    assert found.stdout == "went on\n", found.stderr
