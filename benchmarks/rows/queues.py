"""Row 10: one puts items into a `queue.Queue`, the other takes them out."""

from __future__ import annotations

import asyncio
import queue
import threading

from .._model import Contender, Row, Target, each_loop
from .._session import Session, on_loop

SIZE = 100


def produce(shared: queue.Queue[int], count: int) -> None:
    """Put that many items."""
    for number in range(count):
        shared.put(number)


def consume(shared: queue.Queue[int], count: int) -> None:
    """Take that many items."""
    for _ in range(count):
        shared.get()


def greenio(*, loop: str) -> Session:
    """Both are greenlets."""
    from greenio import monkey, to_greenlet

    monkey.patch_all()
    shared: queue.Queue[int] = queue.Queue(SIZE)

    async def round_(count: int) -> None:
        await asyncio.gather(to_greenlet(produce, shared, count), to_greenlet(consume, shared, count))

    return on_loop(loop, round_)


def greenio_thread(*, loop: str) -> Session:
    """A native thread puts, a greenlet gets."""
    from greenio import monkey, to_greenlet

    monkey.patch_all()
    shared: queue.Queue[int] = queue.Queue(SIZE)

    async def round_(count: int) -> None:
        await asyncio.gather(asyncio.to_thread(produce, shared, count), to_greenlet(consume, shared, count))

    return on_loop(loop, round_)


def threads(*, patch: bool = False) -> Session:
    """Both are native threads, patched or not."""
    if patch:
        from greenio import monkey

        monkey.patch_all()
    shared: queue.Queue[int] = queue.Queue(SIZE)

    def round_(count: int) -> None:
        producer = threading.Thread(target=produce, args=(shared, count))
        producer.start()
        consume(shared, count)
        producer.join()

    return Session(round_)


def gevent() -> Session:
    """Both are greenlets of gevent."""
    from gevent import joinall, monkey, spawn

    monkey.patch_all()
    shared: queue.Queue[int] = queue.Queue(SIZE)

    def round_(count: int) -> None:
        joinall([spawn(produce, shared, count), spawn(consume, shared, count)], raise_error=True)

    return Session(round_)


def asyncio_queue(*, loop: str) -> Session:
    """`asyncio.Queue` between two tasks."""
    shared: asyncio.Queue[int] = asyncio.Queue(SIZE)

    async def put(count: int) -> None:
        for number in range(count):
            await shared.put(number)

    async def get(count: int) -> None:
        for _ in range(count):
            await shared.get()

    async def round_(count: int) -> None:
        await asyncio.gather(put(count), get(count))

    return on_loop(loop, round_)


def asyncio_queue_thread(*, loop: str) -> Session:
    """`asyncio.Queue`, fed by a native thread in the way that asyncio has for it."""
    shared: asyncio.Queue[int] = asyncio.Queue(SIZE)

    def put(host: asyncio.AbstractEventLoop, count: int) -> None:
        for number in range(count):
            asyncio.run_coroutine_threadsafe(shared.put(number), host).result()

    async def get(count: int) -> None:
        for _ in range(count):
            await shared.get()

    async def round_(count: int) -> None:
        await asyncio.gather(asyncio.to_thread(put, asyncio.get_running_loop(), count), get(count))

    return on_loop(loop, round_)


ROW = Row(
    10,
    "queue",
    f"items through a queue.Queue({SIZE})",
    (
        *each_loop("greenio, green to green", greenio),
        *each_loop("greenio, thread to green", greenio_thread, free=True),
        Contender("thread to thread", threads, free=True),
        Contender("gevent, greenlet to greenlet", gevent, needs=("gevent",)),
        *each_loop("asyncio.Queue, task to task", asyncio_queue),
        *each_loop("asyncio.Queue, thread to task", asyncio_queue_thread, free=True),
    ),
    tuple(
        Target(ours, than)
        for loop in ("uvloop", "asyncio")
        for ours, than in (
            (f"greenio, green to green / {loop}", "thread to thread"),
            (f"greenio, green to green / {loop}", "gevent, greenlet to greenlet"),
            (f"greenio, green to green / {loop}", f"asyncio.Queue, task to task / {loop}"),
            (f"greenio, thread to green / {loop}", "thread to thread"),
            (f"greenio, thread to green / {loop}", f"asyncio.Queue, thread to task / {loop}"),
        )
    ),
    first=1000,
    note="gevent puts a queue of its own, in C, in the place of queue.Queue; here it is the standard library's.",
)
