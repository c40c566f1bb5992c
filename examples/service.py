"""A Starlette service whose handlers call blocking libraries: requests, redis-py and a database driver.

    python examples/service.py            # start it, fire requests at it, compare greenlets with threads
    python examples/service.py --serve    # keep it running, and try it with curl

The same blocking function serves both routes: /green/{n} calls it by `to_greenlet`, /thread/{n} by `asyncio.to_thread`.
Redis, MariaDB and PostgreSQL are used where they answer; else an embedded server and SQLite take their place.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator
from typing import Any

import redis
import requests
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

import stage
from greenio import monkey, offload, to_greenlet

AT_ONCE = 80
ARRIVAL = 0.003
UPSTREAM_DELAY = 0.15
BEAT = 0.005

# ---- the blocking code: nothing in it knows of asyncio or of greenio -------------------------------------------------


class Reports:
    """Makes reports from three things that block: a web service, Redis and a database."""

    def __init__(self, upstream: str, counters: redis.Redis, price_of: Callable[[int], int]) -> None:
        self.upstream = upstream
        self.counters = counters
        self.price_of = price_of

    def report(self, number: int) -> dict[str, Any]:
        answer = requests.get(f"{self.upstream}/item/{number}", timeout=30)
        answer.raise_for_status()
        visits = self.counters.incr("greenio:example:visits")
        return {"item": number, "text": answer.text, "visits": visits, "price": self.price_of(number)}


# ---- the service -----------------------------------------------------------------------------------------------------


def application(reports: Reports) -> Starlette:
    async def green(request: Request) -> JSONResponse:
        return JSONResponse(await to_greenlet(reports.report, request.path_params["number"]))

    async def thread(request: Request) -> JSONResponse:
        return JSONResponse(await asyncio.to_thread(reports.report, request.path_params["number"]))

    return Starlette(routes=[Route("/green/{number:int}", green), Route("/thread/{number:int}", thread)])


# ---- the database: MariaDB, PostgreSQL, or SQLite --------------------------------------------------------------------


class Pool:
    """Keeps connections for the next caller; one whose query was cut short does not come back."""

    def __init__(self, connect: Callable[[], Any], statement: str) -> None:
        self.connect = connect
        self.statement = statement
        self.idle: list[Any] = []

    def price_of(self, number: int) -> int:
        connection = self.idle.pop() if self.idle else self.connect()
        try:
            cursor = connection.cursor()
            cursor.execute(self.statement, (number,))
            price = int(cursor.fetchone()[0])
            cursor.close()
        except BaseException:  # cancelled, for example: the rest of the answer may still be on its way
            connection.close()
            raise
        self.idle.append(connection)
        return price

    def close(self) -> None:
        for connection in self.idle:
            connection.close()


def mariadb() -> Any:
    import pymysql

    # Without TLS: PyMySQL would make a context for every connection, which takes 25 ms of pure computation.
    return pymysql.connect(host="127.0.0.1", user="root", database="test", ssl_disabled=True)


def postgres() -> Any:
    import pg8000.dbapi

    return pg8000.dbapi.connect("postgres", host="127.0.0.1", database="test", ssl_context=False)


def price_from_sqlite(number: int) -> int:
    """SQLite is C code over files, which cannot park: `offload` runs it in a pool thread when the caller is green."""

    def query() -> int:
        with contextlib.closing(sqlite3.connect(":memory:")) as database:
            return int(database.execute("SELECT ? * 7", (number,)).fetchone()[0])

    return offload(query)


@contextlib.contextmanager
def database(*, embedded: bool) -> Iterator[tuple[str, Callable[[int], int]]]:
    for name, port, connect in (("MariaDB", 3306, mariadb), ("PostgreSQL", 5432, postgres)):
        if not embedded and stage.answers("127.0.0.1", port):
            pool = Pool(connect, "SELECT CAST(%s AS DECIMAL) * 7")
            with contextlib.closing(pool):
                yield f"{name} through {connect.__name__}", pool.price_of
            return
    yield "SQLite through offload", price_from_sqlite


# ---- the demonstration -----------------------------------------------------------------------------------------------


class Heartbeat:
    """A task of the service's own loop: how late it ticks is how late every other request would be served."""

    def __init__(self) -> None:
        self.lags: list[float] = []

    async def beat(self) -> None:
        while True:
            due = time.monotonic() + BEAT
            await asyncio.sleep(BEAT)
            self.lags.append(max(0.0, time.monotonic() - due) * 1000)

    async def __aenter__(self) -> Heartbeat:
        self.task = asyncio.create_task(self.beat())
        return self

    async def __aexit__(self, *error: object) -> None:
        self.task.cancel()

    def at(self, share: float) -> float:
        return sorted(self.lags)[min(int(len(self.lags) * share), len(self.lags) - 1)] if self.lags else 0.0


async def fetch(port: int, path: str, wait: float = 0.0) -> str:
    """A small async client, which costs the demonstration next to nothing."""
    await asyncio.sleep(wait)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    answer = (await reader.read()).decode()
    writer.close()
    if " 200 " not in answer.partition("\r\n")[0]:
        raise RuntimeError(f"{path}: {answer}")
    return answer.rpartition("\r\n")[2]


async def measure(port: int, route: str) -> tuple[float, Heartbeat]:
    for _ in range(2):  # the first time fills the connection pools
        began = time.monotonic()
        async with Heartbeat() as heart:
            await asyncio.gather(*(fetch(port, f"/{route}/{number}", number * ARRIVAL) for number in range(AT_ONCE)))
    return time.monotonic() - began, heart


async def demonstrate(port: int) -> None:
    print(f"one answer: {await fetch(port, '/green/6')}")
    within, wait = AT_ONCE * ARRIVAL, UPSTREAM_DELAY * 1000
    print(f"\n{AT_ONCE} requests within {within:.2f} s, each of which waits {wait:.0f} ms for a web service:\n")
    print(f"  {'handlers call':<22} {'all answered in':>15} {'requests/s':>11} {'loop lag: median':>17} {'worst':>9}")
    times = {}
    for name, route in (("asyncio.to_thread", "thread"), ("greenio.to_greenlet", "green")):
        times[route], heart = await measure(port, route)
        print(
            f"  {name:<22} {times[route]:13.2f} s {AT_ONCE / times[route]:11.0f}"
            f" {heart.at(0.5):14.1f} ms {heart.at(1):6.1f} ms"
        )
    print(f"\nThe loop stayed alive, and greenlets took {times['thread'] / times['green']:.1f} times less time.")
    print("(threads: the executor's default number of workers; greenlets: one thread, the loop's own)")


async def serve(app: Starlette, backends: str, options: Any) -> None:
    config = uvicorn.Config(app, port=options.port, log_level="warning", lifespan="off", timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve())
    while not server.started and not running.done():
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1] if server.started else options.port
    print(f"Starlette under uvicorn on http://127.0.0.1:{port}, loop: {stage.describe_loop()}; {backends}", flush=True)
    if not options.serve:
        await demonstrate(port)
        server.should_exit = True
    await running


def main() -> None:
    parser = stage.arguments(__doc__)
    parser.add_argument("--demo", action="store_true", help="compare greenlets with threads, and exit (the default)")
    parser.add_argument("--serve", action="store_true", help="keep running")
    parser.add_argument("--embedded", action="store_true", help="look for no real servers")
    parser.add_argument("--port", type=int, default=None, help="default: 8000 with --serve, else a free one")
    options = parser.parse_args()
    if options.port is None:
        options.port = 8000 if options.serve else 0
    monkey.patch_all()
    with contextlib.ExitStack() as stack:
        upstream = stack.enter_context(stage.slow_http_server(UPSTREAM_DELAY))
        host, port = stack.enter_context(stage.redis_server(embedded=options.embedded))
        counters = stack.enter_context(redis.Redis(host, port, protocol=2))
        name, price_of = stack.enter_context(database(embedded=options.embedded))
        backends = f"{'real' if port == 6379 else 'embedded'} Redis, {name}"
        app = application(Reports(upstream, counters, price_of))
        stage.run(serve, app, backends, options, loop=options.loop)


if __name__ == "__main__":
    main()
