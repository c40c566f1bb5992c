"""Row 13: what `greenio.task_factory` costs where nothing ever blocks."""

from __future__ import annotations

import asyncio
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


def uvicorn(*, loop: str, green: bool = False) -> Session:
    """A uvicorn server of an application that says hello."""
    import socket

    import uvicorn as peer

    served: list[int] = []
    waiting: list[tuple[int, asyncio.Future[None]]] = []
    servers: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-length", str(len(_BODY)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": _BODY})
        served[0] += 1
        if served[0] == waiting[0][0]:
            waiting.pop()[1].set_result(None)

    # With its protocol told, or asyncio does not set TCP_NODELAY.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen(1024)

    async def round_(count: int) -> None:
        running = asyncio.get_running_loop()
        if not servers:
            _make_green(green)
            config = peer.Config(app, log_level="error", access_log=False, lifespan="off", http="h11")
            server = peer.Server(config)
            config.load()
            server.lifespan = config.lifespan_class(config)
            await server.startup(sockets=[listener])
            servers.append(server)
        served[:] = [0]
        waiting.append((count, running.create_future()))
        await waiting[0][1]
        await asyncio.sleep(0)

    return on_loop(loop, round_, {"port": listener.getsockname()[1]})


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

HELLO = Row(
    13,
    "tasks-uvicorn",
    f"hello world by uvicorn and h11, {_CONNECTIONS} connections; the server is measured",
    (
        *each_loop("greenio.task_factory", uvicorn, "uvicorn", green=True),
        *each_loop("native tasks", uvicorn, "uvicorn"),
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
    HELLO,
)
