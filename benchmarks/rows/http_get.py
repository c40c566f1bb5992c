"""Row 5: `requests` from 50 tasks, keep-alive. The client is measured."""

from __future__ import annotations

import asyncio
from typing import Any

from .._model import Contender, Row, Target, each_loop, to_thread_twice
from .._session import Session, on_loop, share
from ..servers.http import http_server

TASKS = 50


def _sessions() -> list[Any]:
    """Make a session for each task: they are not meant to be shared."""
    import requests

    sessions = [requests.Session() for _ in range(TASKS)]
    for session in sessions:
        session.trust_env = False  # or every request reads the environment and the user's .netrc
    return sessions


def _url(port: int) -> str:
    return f"http://127.0.0.1:{port}/"


def _gets(session: Any, url: str, count: int) -> None:
    for _ in range(count):
        session.get(url)


def greenio(*, loop: str, port: int) -> Session:
    """50 greenlets, each in a loop of GETs."""
    from greenio import monkey, to_greenlet

    monkey.patch_all()
    sessions, url = _sessions(), _url(port)

    async def round_(count: int) -> None:
        parts = zip(sessions, share(count, TASKS), strict=True)
        await asyncio.gather(*(to_greenlet(_gets, session, url, part) for session, part in parts))

    return on_loop(loop, round_)


def to_thread(*, loop: str, port: int) -> Session:
    """50 tasks, each in a loop of `await asyncio.to_thread(session.get, url)`."""
    sessions, url = _sessions(), _url(port)

    async def gets(session: Any, count: int) -> None:
        for _ in range(count):
            await asyncio.to_thread(session.get, url)

    async def round_(count: int) -> None:
        parts = zip(sessions, share(count, TASKS), strict=True)
        await asyncio.gather(*(gets(session, part) for session, part in parts))

    return on_loop(loop, round_)


def gevent(*, port: int) -> Session:
    """50 gevent greenlets, each in a loop of GETs."""
    from gevent import joinall, monkey, spawn

    monkey.patch_all()
    sessions, url = _sessions(), _url(port)

    def round_(count: int) -> None:
        parts = zip(sessions, share(count, TASKS), strict=True)
        joinall([spawn(_gets, session, url, part) for session, part in parts], raise_error=True)

    return Session(round_)


def alone(*, port: int) -> Session:
    """One GET after another in one native session: what `requests` itself costs."""
    session, url = _sessions()[0], _url(port)
    return Session(lambda count: _gets(session, url, count))


def httpx(*, loop: str, port: int) -> Session:
    """One `httpx.AsyncClient`, 50 tasks."""
    import httpx as peer

    limits = peer.Limits(max_connections=TASKS, max_keepalive_connections=TASKS)
    client, url = peer.AsyncClient(limits=limits, trust_env=False), _url(port)

    async def gets(count: int) -> None:
        for _ in range(count):
            await client.get(url)

    async def round_(count: int) -> None:
        await asyncio.gather(*(gets(part) for part in share(count, TASKS)))

    return on_loop(loop, round_)


ROW = Row(
    5,
    "requests",
    f"requests.Session.get from {TASKS} tasks, keep-alive, the client measured",
    (
        *each_loop("greenio", greenio, "requests"),
        *to_thread_twice(to_thread, "requests"),
        Contender("gevent", gevent, needs=("requests", "gevent")),
        *each_loop("httpx.AsyncClient", httpx, "httpx"),
        Contender("requests alone, one connection", alone, needs=("requests",)),
    ),
    tuple(
        Target(f"greenio / {loop}", than)
        for loop in ("uvloop", "asyncio")
        for than in (f"asyncio.to_thread / {loop}", "gevent", f"httpx.AsyncClient / {loop}")
    ),
    first=100,
    server=http_server,
)
