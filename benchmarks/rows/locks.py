"""Row 9: a lock that nobody else wants, and one that everybody wants."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

from .._model import Contender, Limit, Row, Target, each_loop
from .._session import Session, gather, on_loop, share

TASKS = 10
_THREADS = 2


def _pairs(lock: Any, count: int) -> None:
    for _ in range(count):
        lock.acquire()
        lock.release()


def native(*, patch: bool = False) -> Session:
    """`threading.Lock` in native code, patched or not."""
    if patch:
        from greenio import monkey

        monkey.patch_all()
    lock = threading.Lock()
    return Session(lambda count: _pairs(lock, count))


def greenio(*, loop: str) -> Session:
    """A patched `threading.Lock` in a greenlet."""
    from greenio import monkey, to_greenlet

    monkey.patch_all()
    lock = threading.Lock()
    return on_loop(loop, lambda count: to_greenlet(_pairs, lock, count))


def gevent() -> Session:
    """gevent's `threading.Lock` in a greenlet."""
    from gevent import monkey, spawn

    monkey.patch_all()
    lock = threading.Lock()
    return Session(lambda count: spawn(_pairs, lock, count).get())


def asyncio_lock(*, loop: str) -> Session:
    """`asyncio.Lock` in a coroutine."""
    lock = asyncio.Lock()

    async def pairs(count: int) -> None:
        for _ in range(count):
            await lock.acquire()
            lock.release()

    return on_loop(loop, pairs)


UNCONTENDED = Row(
    9,
    "lock",
    "acquire and release a lock that nobody else wants",
    (
        Contender("threading.Lock, native", native),
        Contender("greenio, native code", native, {"patch": True}),
        *each_loop("greenio, green", greenio),
        Contender("gevent", gevent, needs=("gevent",)),
        *each_loop("asyncio.Lock", asyncio_lock),
    ),
    (
        Target("greenio, native code", "threading.Lock, native", 1 / 4),
        *(
            Target(f"greenio, green / {loop}", than)
            for loop in ("uvloop", "asyncio")
            for than in ("gevent", f"asyncio.Lock / {loop}")
        ),
    ),
    limits=(Limit("greenio, native code", 0.4),),
    first=10_000,
)


def _hold(lock: Any) -> Callable[[int], None]:
    def hold(count: int) -> None:
        for _ in range(count):
            with lock:
                time.sleep(0)

    return hold


def _run_threads(hold: Callable[[int], None], count: int) -> None:
    threads = [threading.Thread(target=hold, args=(each,)) for each in share(count, TASKS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def contended_threads(*, patch: bool = False) -> Session:
    """Native threads, patched or not."""
    if patch:
        from greenio import monkey

        monkey.patch_all()
    hold = _hold(threading.Lock())
    return Session(lambda count: _run_threads(hold, count))


def contended_greenio(*, loop: str) -> Session:
    """Greenlets of one loop."""
    from greenio import monkey, to_greenlet

    monkey.patch_all()
    hold = _hold(threading.Lock())
    return on_loop(loop, lambda count: gather(lambda each: to_greenlet(hold, each), count, TASKS))


def contended_mixed(*, loop: str) -> Session:
    """Greenlets of one loop, and native threads."""
    from greenio import monkey, to_greenlet

    monkey.patch_all()
    hold = _hold(threading.Lock())

    async def round_(count: int) -> None:
        shares = share(count, TASKS)
        await asyncio.gather(
            *(asyncio.to_thread(hold, each) for each in shares[:_THREADS]),
            *(to_greenlet(hold, each) for each in shares[_THREADS:]),
        )

    return on_loop(loop, round_)


def contended_gevent() -> Session:
    """Greenlets of gevent."""
    from gevent import joinall, monkey, spawn

    monkey.patch_all()
    hold = _hold(threading.Lock())

    def round_(count: int) -> None:
        joinall([spawn(hold, each) for each in share(count, TASKS)], raise_error=True)

    return Session(round_)


def contended_asyncio(*, loop: str) -> Session:
    """`asyncio.Lock`, tasks of one loop."""
    lock = asyncio.Lock()

    async def hold(count: int) -> None:
        for _ in range(count):
            async with lock:
                await asyncio.sleep(0)

    return on_loop(loop, lambda count: gather(hold, count, TASKS))


CONTENDED = Row(
    9,
    "lock-contended",
    f"a lock that {TASKS} want all the time, held for one turn of the loop (a thread: for a time.sleep(0))",
    (
        *each_loop("greenio, greens", contended_greenio),
        *each_loop(f"greenio, {TASKS - _THREADS} greens and {_THREADS} threads", contended_mixed, free=True),
        Contender("greenio, native threads", contended_threads, {"patch": True}, free=True),
        Contender("threads", contended_threads, free=True),
        Contender("gevent", contended_gevent, needs=("gevent",)),
        *each_loop("asyncio.Lock", contended_asyncio),
    ),
    (
        *(
            Target(f"greenio, greens / {loop}", than)
            for loop in ("uvloop", "asyncio")
            for than in ("threads", "gevent", f"asyncio.Lock / {loop}")
        ),
        Target("greenio, native threads", "threads"),
    ),
    note="A thread that releases a lock may take it again before those that wait for it, and does so most of the time; "
    "greenlets and tasks take turns.",
)

ROWS = (UNCONTENDED, CONTENDED)
