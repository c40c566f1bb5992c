"""Row 3: a TCP echo server, 64 connections at once. The server is measured."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable

from .._model import Contender, Row, Target, each_loop
from .._session import Session, on_loop
from ..servers import echo_load

CONNECTIONS = 64
_SIZE = 16384


def listen() -> socket.socket:
    """Make a listening socket on a free port."""
    return socket.create_server(("127.0.0.1", 0), backlog=1024)


def echo(connection: socket.socket) -> None:
    """Send back what comes, until the end: the blocking code that most contenders share."""
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while data := connection.recv(_SIZE):
            connection.sendall(data)


def _info(listener: socket.socket) -> dict[str, int]:
    return {"port": listener.getsockname()[1]}


def greenio(*, loop: str) -> Session:
    """A greenlet for each connection."""
    from greenio import await_, monkey, spawn, to_greenlet

    monkey.patch_all()
    listener = listen()

    def serve() -> None:
        for task in [spawn(echo, listener.accept()[0]) for _ in range(CONNECTIONS)]:
            await_(task)

    async def main(_: int) -> None:
        await to_greenlet(serve)

    return on_loop(loop, main, _info(listener))


def gevent() -> Session:
    """A gevent greenlet for each connection."""
    from gevent import joinall, monkey, spawn

    monkey.patch_all()
    listener = listen()

    def serve(_: int) -> None:
        joinall([spawn(echo, listener.accept()[0]) for _ in range(CONNECTIONS)], raise_error=True)

    return Session(serve, _info(listener))


def eventlet() -> Session:
    """An eventlet greenlet for each connection."""
    import eventlet as peer

    peer.monkey_patch()
    listener = listen()

    def serve(_: int) -> None:
        for green in [peer.spawn(echo, listener.accept()[0]) for _ in range(CONNECTIONS)]:
            green.wait()

    return Session(serve, _info(listener))


def greenletio(*, loop: str) -> Session:
    """A greenletio greenlet for each connection."""
    from greenletio import async_, await_
    from greenletio.green.socket import socket as green_socket

    listener = green_socket(fileno=listen().detach())

    def serve() -> None:
        for task in [asyncio.ensure_future(async_(echo)(listener.accept()[0])) for _ in range(CONNECTIONS)]:
            await_(task)

    async def main(_: int) -> None:
        await async_(serve)()

    return on_loop(loop, main, _info(listener))


def threads(*, connections: int = CONNECTIONS, patch: bool = False) -> Session:
    """A thread for each connection."""
    if patch:
        from greenio import monkey

        monkey.patch_all()
    listener = listen()

    def serve(_: int) -> None:
        workers = [threading.Thread(target=echo, args=(listener.accept()[0],)) for _ in range(connections)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    return Session(serve, _info(listener))


class _Ends:
    """Counts the connections that have ended, a round at a time."""

    def __init__(self) -> None:
        self._left = 0
        self._over: asyncio.Future[None] | None = None

    async def all_of(self, connections: int) -> None:
        self._left = connections
        self._over = asyncio.get_running_loop().create_future()
        await self._over

    def one(self) -> None:
        self._left -= 1
        if not self._left and self._over is not None:
            self._over.set_result(None)


def streams(*, loop: str, patch: bool = False) -> Session:
    """`asyncio.start_server`, in asyncio's own way."""
    if patch:
        from greenio import monkey

        monkey.patch_all()
    ends = _Ends()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_SIZE):
            writer.write(data)
            await writer.drain()
        writer.close()
        ends.one()

    async def start(listener: socket.socket) -> object:
        return await asyncio.start_server(serve, sock=listener)

    return _server(loop, ends, start)


def protocol(*, loop: str) -> Session:
    """Callbacks of a Protocol, the fastest that the loop has."""
    ends = _Ends()

    class Echo(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.write: Callable[[bytes], None] = transport.write  # type: ignore[attr-defined]

        def data_received(self, data: bytes) -> None:
            self.write(data)

        def connection_lost(self, exc: Exception | None) -> None:
            ends.one()

    async def start(listener: socket.socket) -> object:
        return await asyncio.get_running_loop().create_server(Echo, sock=listener)

    return _server(loop, ends, start)


def _server(loop: str, ends: _Ends, start: Callable[[socket.socket], object]) -> Session:
    listener = listen()
    servers: list[object] = []

    async def main(_: int) -> None:
        if not servers:
            servers.append(await start(listener))  # type: ignore[misc]
        await ends.all_of(CONNECTIONS)

    return on_loop(loop, main, _info(listener))


ROW = Row(
    3,
    "echo",
    f"TCP echo of {echo_load.SIZE} bytes, {CONNECTIONS} connections, the server measured",
    (
        *each_loop("greenio", greenio),
        Contender("gevent", gevent, needs=("gevent",)),
        Contender("eventlet", eventlet, needs=("eventlet",)),
        *each_loop("greenletio", greenletio, "greenletio"),
        Contender("threads", threads),
        *each_loop("streams", streams),
        *each_loop("protocol", protocol),
    ),
    (
        Target("greenio / uvloop", "gevent", 1.3),
        Target("greenio / uvloop", "streams / uvloop", 1.0),
        Target("greenio / asyncio", "gevent", 1.15),
        Target("greenio / uvloop", "eventlet"),
        Target("greenio / uvloop", "greenletio / uvloop"),
        Target("greenio / uvloop", "threads"),
    ),
    columns=("rate", "cpu", "busy", "waited", "client"),
    first=2000,
    load=echo_load.echo_load,
    load_options={"connections": CONNECTIONS},
)
