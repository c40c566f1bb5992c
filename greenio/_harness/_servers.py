"""What the fixture `serve` gives: servers on the loop of the test, each on a free port of the loopback."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Literal, TypeAlias

from .. import await_, get_loop, in_greenlet
from ._loops import ScopedLoop, is_running
from ._wsgi import AsgiApp, green_wsgi

__all__ = ["Kind", "Serve"]

Kind: TypeAlias = Literal["asgi", "wsgi", "protocol"]
Stop: TypeAlias = Callable[[], Awaitable[None]]


class Serve:
    """Starts servers that run until the test ends: `url = serve(app)`; in async code `url = await serve.start(app)`."""

    def __init__(self, scoped: ScopedLoop) -> None:
        self._scoped = scoped
        self._stops: list[Stop] = []

    def __call__(self, app: Any, *, kind: Kind | None = None) -> str:
        """Serve an application from sync code. Parks in green code; in plain sync code it runs the loop meanwhile.

        Args:
            app: An ASGI or WSGI application, or a factory of asyncio protocols, as the class of one is.
            kind: "asgi", "wsgi" or "protocol"; None to tell by its looks.

        Returns:
            The address: `http://127.0.0.1:PORT`, for protocols `tcp://127.0.0.1:PORT`.

        Raises:
            RuntimeError: A loop is running, or uvicorn is needed and not installed, or the application did not start.
        """
        if in_greenlet() and get_loop() is self._scoped.loop:
            return await_(self.start(app, kind=kind))
        if is_running():
            raise RuntimeError("serve() was called in async code; write `url = await serve.start(app)` there")
        url = ""

        async def start() -> None:
            nonlocal url
            url = await self.start(app, kind=kind)

        self._scoped.run(start())
        return url

    async def start(self, app: Any, *, kind: Kind | None = None) -> str:
        """Serve an application from async code. Parks in green code.

        Args:
            app: As for a call.
            kind: As for a call.

        Returns:
            The address.

        Raises:
            RuntimeError: uvicorn is needed and not installed, or the application did not start.
        """
        kind = kind or _kind(app)
        listening = socket.create_server(("127.0.0.1", 0), backlog=512)
        port = listening.getsockname()[1]
        try:
            if kind == "protocol":
                self._stops.append(_Protocols(app, listening).stop)
                return f"tcp://127.0.0.1:{port}"
            self._stops.append(await _serve_http(green_wsgi(app) if kind == "wsgi" else app, listening, kind))
        except BaseException:
            listening.close()
            raise
        return f"http://127.0.0.1:{port}"

    async def stop(self) -> None:
        """Stop every server, the last one first, and wait until their connections are closed. Parks in green code."""
        while self._stops:
            await self._stops.pop()()


def _kind(app: Any) -> Kind:
    if inspect.isclass(app) and issubclass(app, asyncio.BaseProtocol):
        return "protocol"
    if inspect.iscoroutinefunction(app) or inspect.iscoroutinefunction(getattr(app, "__call__", None)):  # noqa: B004
        return "asgi"
    with contextlib.suppress(ValueError):  # written in C
        if callable(app):
            kinds: dict[int, Kind] = {0: "protocol", 2: "wsgi", 3: "asgi"}
            found = kinds.get(len(inspect.signature(app).parameters))
            if found is not None:
                return found
    raise TypeError(f"serve() cannot tell what {app!r} is; say so by kind='asgi', 'wsgi' or 'protocol'")


class _Protocols:
    """Accepts connections for protocols, and is told of each.

    Not `loop.create_server`: nobody can wait for the connections that it has accepted and not yet handed over. From
    CPython 3.12 on its `wait_closed` waits for ever if one is left out, and a closed server loses some unclosed.
    """

    def __init__(self, factory: Callable[[], asyncio.BaseProtocol], listening: socket.socket) -> None:
        self._factory = factory
        self._listening = listening
        self._loop = asyncio.get_running_loop()
        self._connecting: set[asyncio.Task[None]] = set()
        self._transports: list[asyncio.Transport] = []
        listening.setblocking(False)
        self._loop.add_reader(listening, self._accept)

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError, InterruptedError, ConnectionAbortedError):
            sock, _ = self._listening.accept()
            task = self._loop.create_task(self._connect(sock))
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    async def _connect(self, sock: socket.socket) -> None:
        try:
            protocol = self._factory()
        except BaseException:
            sock.close()
            raise
        transport, _ = await self._loop.connect_accepted_socket(lambda: protocol, sock)
        self._transports.append(transport)

    async def stop(self) -> None:
        self._loop.remove_reader(self._listening)
        self._listening.close()
        await asyncio.gather(*self._connecting, return_exceptions=True)
        for transport in self._transports:
            transport.abort()
        await _closed()


async def _closed() -> None:
    """Let transports close: a callback of theirs does, and that of uvloop one more."""
    for _ in range(3):
        await asyncio.sleep(0)


async def _serve_http(app: AsgiApp, listening: socket.socket, kind: Kind) -> Stop:
    try:
        import uvicorn
    except ModuleNotFoundError as error:
        raise RuntimeError(
            f"serve() runs {kind.upper()} applications by uvicorn, which is not installed: pip install uvicorn"
        ) from error
    config = uvicorn.Config(
        app,
        interface="asgi3",  # what it is has been told; uvicorn would take a partial one for ASGI 2
        log_config=None,
        lifespan="off" if kind == "wsgi" else "auto",
        timeout_graceful_shutdown=1,  # a request that is under way at the end of its test is not waited for
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    # What `Server.serve` does around these two is to take Ctrl-C from the test run, and to wait for it.
    try:
        await server.startup(sockets=[listening])
    except SystemExit as error:
        raise RuntimeError(f"{app!r} failed in its lifespan's startup; uvicorn has logged why") from error

    async def stop() -> None:
        await server.shutdown(sockets=[listening])
        await _closed()

    return stop
