"""Row 11: an event that many wait for."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

from .._model import Contender, Row, Target, each_loop
from .._session import Session, on_loop

COUNT = 10_000
_QUICK = 200
_TURNS = 3


class _Watch:
    """Measures from the setting of the event until the last one has ended."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self, count: int) -> dict[str, float]:
        wall, cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu
        return {"rate": count / wall, "cpu": cpu / count * 1e6, "seconds": wall}


def greenio(*, loop: str, by_thread: bool) -> Session:
    """A patched `threading.Event`, set by a greenlet or by a native thread."""
    from greenio import monkey, spawn, to_greenlet

    monkey.patch_all()
    call: Callable[..., object] = asyncio.to_thread if by_thread else to_greenlet

    async def round_(count: int) -> dict[str, float]:
        event = threading.Event()
        waiting = [spawn(event.wait) for _ in range(count)]
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        watch = _Watch()
        await asyncio.gather(call(event.set), *waiting)  # type: ignore[arg-type]
        return watch.read(count)

    return on_loop(loop, round_)


def gevent() -> Session:
    """gevent's `threading.Event`, set by a greenlet."""
    from gevent import joinall, monkey, sleep, spawn

    monkey.patch_all()

    def round_(count: int) -> dict[str, float]:
        event = threading.Event()
        waiting = [spawn(event.wait) for _ in range(count)]
        for _ in range(_TURNS):
            sleep(0)
        watch = _Watch()
        event.set()
        joinall(waiting, raise_error=True)
        return watch.read(count)

    return Session(round_)


def asyncio_event(*, loop: str) -> Session:
    """`asyncio.Event`."""

    async def round_(count: int) -> dict[str, float]:
        event = asyncio.Event()
        waiting = [asyncio.ensure_future(event.wait()) for _ in range(count)]
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        watch = _Watch()
        event.set()
        await asyncio.gather(*waiting)
        return watch.read(count)

    return on_loop(loop, round_)


def threads() -> Session:
    """Native threads; a tenth of the number, since machines limit it."""

    def round_(count: int) -> dict[str, float]:
        event, begun = threading.Event(), threading.Semaphore(0)

        def wait() -> None:
            begun.release()
            event.wait()

        waiting = [threading.Thread(target=wait) for _ in range(count // 10)]
        for thread in waiting:
            thread.start()
        for _ in waiting:
            begun.acquire()
        watch = _Watch()
        event.set()
        for thread in waiting:
            thread.join()
        return watch.read(count // 10)

    return Session(round_)


_OURS = [f"greenio, set by a {who} / {loop}" for who in ("green", "thread") for loop in ("uvloop", "asyncio")]

ROW = Row(
    11,
    "event",
    f"a threading.Event that {COUNT:,} wait for: from set() until the last has ended",
    (
        *each_loop("greenio, set by a green", greenio, by_thread=False),
        *each_loop("greenio, set by a thread", greenio, by_thread=True),
        Contender("gevent", gevent, needs=("gevent",)),
        Contender("threads (a tenth)", threads, free=True),
        *each_loop("asyncio.Event", asyncio_event),
    ),
    tuple(
        Target(ours, than)
        for ours in _OURS
        for than in ("gevent", "threads (a tenth)", f"asyncio.Event / {ours.rpartition(' ')[2]}")
    ),
    columns=("rate", "cpu", "seconds"),
    fixed=(COUNT, _QUICK),
    note="An operation is one that is woken. The rate and the CPU time are those of the waking only.",
)
