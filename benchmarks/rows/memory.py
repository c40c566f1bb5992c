"""Row 6: what a parked greenlet weighs."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable

from .._model import Contender, Row, Target, each_loop
from .._session import Session, on_loop, raise_descriptor_limit

COUNT = 10_000
_QUICK = 200
_LONG = 3600.0


def _resident() -> int:
    """Tell the process's own memory in bytes, without what it shares with files."""
    with open("/proc/self/smaps_rollup") as lines:
        kilobytes = {line.split()[0]: int(line.split()[1]) for line in lines if line.endswith("kB\n")}
    return 1024 * (kilobytes["Private_Dirty:"] + kilobytes["Private_Clean:"])


def _each(count: int, before: int) -> dict[str, float]:
    return {"memory": (_resident() - before) / count}


def _sleeper() -> Callable[[], object]:
    return lambda: time.sleep(_LONG)


def _receiver() -> Callable[[], object]:
    """Make a function that waits for a datagram; datagram sockets, as they take one descriptor each."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    return lambda: sock.recv(100)


_KINDS: dict[str, Callable[[], Callable[[], object]]] = {"sleep": _sleeper, "recv": _receiver}


def greenio(*, loop: str, kind: str) -> Session:
    """Greenlets of greenio, each with the task that awaits it."""
    from greenio import monkey, spawn

    monkey.patch_all()
    raise_descriptor_limit()
    make = _KINDS[kind]
    kept: list[object] = []

    async def park(count: int) -> dict[str, float]:
        before = _resident()
        kept.extend(spawn(make()) for _ in range(count))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return _each(count, before)

    return on_loop(loop, park)


def gevent(*, kind: str) -> Session:
    """Greenlets of gevent."""
    import gevent as peer
    from gevent import monkey

    monkey.patch_all()
    raise_descriptor_limit()
    make = _KINDS[kind]
    kept: list[object] = []

    def park(count: int) -> dict[str, float]:
        before = _resident()
        kept.extend(peer.spawn(make()) for _ in range(count))
        peer.sleep(0)
        peer.sleep(0)
        return _each(count, before)

    return Session(park)


def eventlet(*, kind: str) -> Session:
    """Greenlets of eventlet."""
    import eventlet as peer

    peer.monkey_patch()
    raise_descriptor_limit()
    make = _KINDS[kind]
    kept: list[object] = []

    def park(count: int) -> dict[str, float]:
        before = _resident()
        kept.extend(peer.spawn(make()) for _ in range(count))
        peer.sleep(0)
        peer.sleep(0)
        return _each(count, before)

    return Session(park)


def tasks(*, loop: str) -> Session:
    """asyncio tasks in `asyncio.sleep`."""
    kept: list[object] = []

    async def park(count: int) -> dict[str, float]:
        before = _resident()
        kept.extend(asyncio.ensure_future(asyncio.sleep(_LONG)) for _ in range(count))
        await asyncio.sleep(0)
        return _each(count, before)

    return on_loop(loop, park)


def threads() -> Session:
    """Threads in `time.sleep`; a tenth of the number, since machines limit it."""

    def park(count: int) -> dict[str, float]:
        before = _resident()
        for _ in range(count // 10):
            threading.Thread(target=_sleeper(), daemon=True).start()
        return _each(count // 10, before)

    return Session(park)


ROW = Row(
    6,
    "memory",
    f"{COUNT:,} parked at once: memory for each",
    (
        *each_loop("greenio, sleep", greenio, kind="sleep"),
        *each_loop("greenio, recv", greenio, kind="recv"),
        Contender("gevent, sleep", gevent, {"kind": "sleep"}, ("gevent",)),
        Contender("gevent, recv", gevent, {"kind": "recv"}, ("gevent",)),
        Contender("eventlet, sleep", eventlet, {"kind": "sleep"}, ("eventlet",)),
        Contender("eventlet, recv", eventlet, {"kind": "recv"}, ("eventlet",)),
        *each_loop("asyncio task, sleep", tasks),
        Contender("threads, sleep (a tenth)", threads),
    ),
    tuple(
        Target(f"greenio, {kind} / {loop}", f"gevent, {kind}", 1.0, "memory")
        for kind in ("sleep", "recv")
        for loop in ("uvloop", "asyncio")
    ),
    columns=("memory", "cpu"),
    fixed=(COUNT, _QUICK),
    fresh=True,
    note="The CPU time is that of making one and parking it.",
)
