"""Row 7: what native code pays once everything is patched."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from .._model import Contender, Row, Target
from .._session import Session
from ..servers import echo_load
from . import echo, queues

_ALLOWED = 1 / 1.03
"""At most 3 % more."""
_ALLOWED_IN_THREADS = 1 / 1.1
"""At most 10 % more where threads hand things to one another."""
_THREADS = 4
_BATCH = 100


def _pair(name: str) -> Target:
    return Target(f"{name}, patched", f"{name}, native", _ALLOWED, "cpu")


LOOPS = Row(
    7,
    "native-loops",
    f"echo streams of asyncio and uvloop, {echo.CONNECTIONS} connections, after patch_all() and without it",
    (
        Contender("asyncio, patched", echo.streams, {"loop": "asyncio", "patch": True}),
        Contender("asyncio, native", echo.streams, {"loop": "asyncio"}),
        Contender("uvloop, patched", echo.streams, {"loop": "uvloop", "patch": True}, ("uvloop",)),
        Contender("uvloop, native", echo.streams, {"loop": "uvloop"}, ("uvloop",)),
    ),
    (_pair("asyncio"), _pair("uvloop")),
    columns=("rate", "cpu", "busy", "waited", "client"),
    first=2000,
    load=echo_load.echo_load,
    load_options={"connections": echo.CONNECTIONS},
)

THREAD = Row(
    7,
    "native-thread",
    f"echo by {_THREADS} native threads in blocking recv and sendall, after patch_all() and without it",
    (
        Contender("threads, patched", echo.threads, {"connections": _THREADS, "patch": True}),
        Contender("threads, native", echo.threads, {"connections": _THREADS}),
    ),
    (_pair("threads"),),
    columns=("rate", "cpu", "busy", "waited", "client"),
    first=1000,
    load=echo_load.echo_load,
    load_options={"connections": _THREADS},
)

QUEUE = Row(
    7,
    "native-queue",
    f"items through a queue.Queue({queues.SIZE}) from one native thread to another, after patch_all() and without it",
    (
        Contender("threads, patched", queues.threads, {"patch": True}),
        Contender("threads, native", queues.threads),
    ),
    (Target("threads, patched", "threads, native", _ALLOWED_IN_THREADS),),
    first=1000,
)


def executor(*, patch: bool = False) -> Session:
    """Calls through a ThreadPoolExecutor, a batch at a time.

    With 20,000 futures alive at once, a third of the time is the garbage collector's, whose full passes take longer for
    every module that has been imported, greenio's as any other.
    """
    if patch:
        from greenio import monkey

        monkey.patch_all()
    pool = ThreadPoolExecutor(_THREADS)

    def round_(count: int) -> None:
        for start in range(0, count, _BATCH):
            for job in [pool.submit(int) for _ in range(min(_BATCH, count - start))]:
                job.result()

    return Session(round_)


EXECUTOR = Row(
    7,
    "native-executor",
    f"calls through a ThreadPoolExecutor of {_THREADS} threads, after patch_all() and without it",
    (
        Contender("executor, patched", executor, {"patch": True}),
        Contender("executor, native", executor),
    ),
    (Target("executor, patched", "executor, native", _ALLOWED_IN_THREADS),),
    first=1000,
)

ROWS = (LOOPS, THREAD, QUEUE, EXECUTOR)
