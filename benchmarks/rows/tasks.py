"""Row 13: what `greenio.task_factory` costs where nothing ever blocks."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from .._model import CPU, Row, Target, each_loop
from .._session import Session, on_loop
from ..servers import http_load

_BATCH = 100
_CONNECTIONS = 32
_BODY = b"hello, world"
_ALLOWED = 1 / 1.1
"""At most 10 % more."""


async def _nothing() -> None:
    """End at once."""


async def _turns() -> None:
    """Be stepped four times."""
    for _ in range(3):
        await asyncio.sleep(0)


def _make_green(green: bool) -> None:
    if green:
        import greenio
        from greenio import monkey

        monkey.patch_all()
        asyncio.get_running_loop().set_task_factory(greenio.task_factory)


def tasks(*, loop: str, green: bool = False, turns: bool = False) -> Session:
    """Tasks that never block, a batch at a time."""
    body = _turns if turns else _nothing

    async def round_(count: int) -> None:
        _make_green(green)
        make = asyncio.get_running_loop().create_task
        for _ in range(0, count, _BATCH):
            for task in [make(body()) for _ in range(_BATCH)]:
                await task

    return on_loop(loop, round_)


class _Served:
    """Counts what a server has answered, for rounds of so many."""

    def __init__(self) -> None:
        # With its protocol told, or asyncio does not set TCP_NODELAY.
        self.listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(1024)
        self._left = 0
        self._waiting: asyncio.Future[None] | None = None

    def count(self) -> None:
        self._left -= 1
        if not self._left and self._waiting is not None:
            self._waiting.set_result(None)

    async def wait(self, count: int) -> None:
        self._left, self._waiting = count, asyncio.get_running_loop().create_future()
        await self._waiting
        await asyncio.sleep(0)

    def session(self, loop: str, green: bool, start: Callable[[], Awaitable[Any]]) -> Session:
        kept: list[Any] = []

        async def round_(count: int) -> None:
            if not kept:
                _make_green(green)
                kept.append(await start())
            await self.wait(count)

        return on_loop(loop, round_, {"port": self.listener.getsockname()[1]})


def uvicorn(*, loop: str, green: bool = False) -> Session:
    """A uvicorn server of an application that says hello."""
    import uvicorn as peer

    served = _Served()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-length", str(len(_BODY)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": _BODY})
        served.count()

    async def start() -> object:
        config = peer.Config(app, log_level="error", access_log=False, lifespan="off", http="h11")
        server = peer.Server(config)
        config.load()
        server.lifespan = config.lifespan_class(config)
        await server.startup(sockets=[served.listener])
        return server

    return served.session(loop, green, start)


def aiohttp(*, loop: str, green: bool = False) -> Session:
    """An aiohttp server of an application that says hello."""
    from aiohttp import web

    served = _Served()

    async def hello(request: web.Request) -> web.Response:
        served.count()  # whoever waits for it goes on in the loop's next turn; the answer is sent in this one
        return web.Response(body=_BODY)

    async def start() -> object:
        application = web.Application()
        application.router.add_get("/{path:.*}", hello)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        await web.SockSite(runner, served.listener).start()
        return runner

    return served.session(loop, green, start)


def _row(name: str, title: str, turns: bool) -> Row:
    return Row(
        13,
        name,
        title,
        (
            *each_loop("greenio.task_factory", tasks, green=True, turns=turns),
            *each_loop("native tasks", tasks, turns=turns),
        ),
        tuple(Target(f"greenio.task_factory / {loop}", f"native tasks / {loop}", None, CPU) for loop in _LOOPS),
        first=_BATCH * 10,
        note="allowed is 2 us more for a task that ends in its first step",
    )


_LOOPS = ("uvloop", "asyncio")


def _hello(peer: Callable[..., Session], title: str) -> Row:
    name = peer.__name__
    return Row(
        13,
        f"tasks-{name}",
        f"hello world by {title}, {_CONNECTIONS} connections; the server is measured",
        (
            *each_loop("greenio.task_factory", peer, name, green=True),
            *each_loop("native tasks", peer, name),
        ),
        tuple(Target(f"greenio.task_factory / {loop}", f"native tasks / {loop}", _ALLOWED, CPU) for loop in _LOOPS),
        columns=("rate", "cpu", "busy", "waited", "client"),
        first=500,
        load=http_load.http_load,
        load_options={"connections": _CONNECTIONS, "body": len(_BODY)},
    )


ROWS = (
    _row("tasks", "tasks that end in their first step, a hundred at a time", turns=False),
    _row("tasks-turns", "tasks of four steps, a hundred at a time", turns=True),
    _hello(uvicorn, "uvicorn and h11"),
    _hello(aiohttp, "aiohttp"),
)
