"""Row 12: child processes, many at a time."""

from __future__ import annotations

import asyncio
import subprocess
from concurrent.futures import ThreadPoolExecutor

from .._model import Contender, Row, Target, each_loop
from .._session import Session, gather, on_loop, share

TASKS = 100
_COMMAND = ["true"]


def _run(count: int) -> None:
    for _ in range(count):
        subprocess.run(_COMMAND, check=True)


def greenio(*, loop: str) -> Session:
    """A greenlet for each that is under way."""
    from greenio import monkey, to_greenlet

    monkey.patch_all()
    return on_loop(loop, lambda count: gather(lambda each: to_greenlet(_run, each), count, TASKS))


def gevent() -> Session:
    """gevent's `subprocess.run`."""
    from gevent import joinall, monkey, spawn

    monkey.patch_all()

    def round_(count: int) -> None:
        joinall([spawn(_run, each) for each in share(count, TASKS)], raise_error=True)

    return Session(round_)


def threads() -> Session:
    """A thread for each."""
    pool = ThreadPoolExecutor(TASKS)

    def round_(count: int) -> None:
        for job in [pool.submit(_run, each) for each in share(count, TASKS)]:
            job.result()

    return Session(round_)


def asyncio_subprocess(*, loop: str) -> Session:
    """`asyncio.create_subprocess_exec`, in a task each."""

    async def run(count: int) -> None:
        for _ in range(count):
            process = await asyncio.create_subprocess_exec(*_COMMAND)
            if await process.wait():
                raise RuntimeError(f"{_COMMAND} ended with {process.returncode}")

    return on_loop(loop, lambda count: gather(run, count, TASKS))


ROW = Row(
    12,
    "subprocess",
    f"subprocess.run({_COMMAND}), {TASKS} at a time",
    (
        *each_loop("greenio", greenio, free=True),
        Contender("gevent", gevent, needs=("gevent",), free=True),
        Contender("threads", threads, free=True),
        *each_loop("asyncio.create_subprocess_exec", asyncio_subprocess, free=True),
    ),
    tuple(
        Target(f"greenio / {loop}", than)
        for loop in ("uvloop", "asyncio")
        for than in ("gevent", "threads", f"asyncio.create_subprocess_exec / {loop}")
    ),
    first=TASKS,
    note="The CPU time is that of the parent. All may use every CPU, for their children's sake.",
)
