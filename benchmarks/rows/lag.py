"""Row 8: how late a heartbeat is beside 200 busy connections and one greedy download."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import statistics
import threading
import time

from .._model import Contender, Row, Target, each_loop
from .._session import Session, new_loop, on_loop
from ..servers import echo_load
from .echo import echo, listen

CONNECTIONS = 200
_BEAT = 0.005
_CHUNK = 65536


def _download(connection: socket.socket) -> None:
    """Take whatever comes: the source never has to be waited for."""
    with connection:
        while connection.recv(_CHUNK):
            pass


def _info(echoes: socket.socket, downloads: socket.socket) -> dict[str, int]:
    return {"port": echoes.getsockname()[1], "download_port": downloads.getsockname()[1]}


def _lags(lags: list[float]) -> dict[str, float]:
    """Sum up a list of lags in seconds, as milliseconds."""
    ordered = sorted(1000 * lag for lag in lags)
    if len(ordered) < 2:
        raise RuntimeError("the round was too short for two heartbeats")
    return {
        "lag_p50": statistics.median(ordered),
        "lag_p99": ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))],
        "lag_max": ordered[-1],
    }


async def _heartbeat(lags: list[float]) -> None:
    while True:
        began = time.perf_counter()
        await asyncio.sleep(_BEAT)
        lags.append(time.perf_counter() - began - _BEAT)


async def _beside(work: asyncio.Future[None] | asyncio.Task[None]) -> dict[str, float]:
    lags: list[float] = []
    heart = asyncio.ensure_future(_heartbeat(lags))
    await work
    while len(lags) < 2:
        await asyncio.sleep(_BEAT)
    heart.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await heart
    return _lags(lags)


def greenio(*, loop: str) -> Session:
    """A greenlet for each connection, the heartbeat a task of the same loop."""
    from greenio import await_, monkey, spawn

    monkey.patch_all()
    echoes, downloads = listen(), listen()

    def serve() -> None:
        tasks = [spawn(_download, downloads.accept()[0])]
        tasks += [spawn(echo, echoes.accept()[0]) for _ in range(CONNECTIONS)]
        for task in tasks:
            await_(task)

    async def main(_: int) -> dict[str, float]:
        return await _beside(spawn(serve))

    return on_loop(loop, main, _info(echoes, downloads))


def threads(*, loop: str) -> Session:
    """A thread for each connection, the heartbeat a task of the main thread's loop."""
    echoes, downloads = listen(), listen()

    def serve() -> None:
        workers = [threading.Thread(target=_download, args=(downloads.accept()[0],))]
        workers[0].start()
        for _ in range(CONNECTIONS):
            workers.append(threading.Thread(target=echo, args=(echoes.accept()[0],)))
            workers[-1].start()
        for worker in workers:
            worker.join()

    async def main(_: int) -> dict[str, float]:
        return await _beside(asyncio.ensure_future(asyncio.to_thread(serve)))

    return on_loop(loop, main, _info(echoes, downloads))


def gevent() -> Session:
    """A gevent greenlet for each connection, the heartbeat another."""
    import gevent as peer
    from gevent import monkey

    monkey.patch_all()
    echoes, downloads = listen(), listen()

    def heartbeat(lags: list[float]) -> None:
        while True:
            began = time.perf_counter()
            peer.sleep(_BEAT)
            lags.append(time.perf_counter() - began - _BEAT)

    def main(_: int) -> dict[str, float]:
        lags: list[float] = []
        heart = peer.spawn(heartbeat, lags)
        greens = [peer.spawn(_download, downloads.accept()[0])]
        greens += [peer.spawn(echo, echoes.accept()[0]) for _ in range(CONNECTIONS)]
        peer.joinall(greens, raise_error=True)
        while len(lags) < 2:
            peer.sleep(_BEAT)
        heart.kill()
        return _lags(lags)

    return Session(main, _info(echoes, downloads))


def streams(*, loop: str) -> Session:
    """asyncio streams, for what native async code gives."""
    echoes, downloads = listen(), listen()
    host = new_loop(loop)

    async def serve_echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
        writer.close()
        ended()

    async def serve_download(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(_CHUNK):
            pass
        writer.close()
        ended()

    left = 0
    over: asyncio.Future[None] = host.create_future()

    def ended() -> None:
        nonlocal left
        left -= 1
        if not left:
            over.set_result(None)

    async def start() -> list[asyncio.Server]:
        return [
            await asyncio.start_server(serve_echo, sock=echoes),
            await asyncio.start_server(serve_download, sock=downloads, limit=_CHUNK),
        ]

    servers = host.run_until_complete(start())

    def round_(_: int) -> dict[str, float]:
        nonlocal left, over
        assert servers
        left, over = CONNECTIONS + 1, host.create_future()
        return host.run_until_complete(_beside(over))

    return Session(round_, _info(echoes, downloads))


ROW = Row(
    8,
    "lag",
    f"heartbeat of {1000 * _BEAT:g} ms beside {CONNECTIONS} busy echo connections and one greedy download",
    (
        *each_loop("greenio", greenio),
        *each_loop("threads", threads),
        Contender("gevent", gevent, needs=("gevent",)),
        *each_loop("streams", streams),
    ),
    tuple(
        Target(f"greenio / {loop}", than, at_least, "lag_p99")
        for loop in ("uvloop", "asyncio")
        for than, at_least in ((f"threads / {loop}", 1.0), ("gevent", None))
    ),
    columns=("lag_p50", "lag_p99", "lag_max", "rate"),
    first=2000,
    load=echo_load.echo_load,
    load_options={"connections": CONNECTIONS},
    stretch=4.0,
    note="The rate is that of the echo round trips.",
)
