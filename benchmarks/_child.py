"""The main program of every process of the benchmark: `python -m benchmarks._child SPEC`.

It makes the session and then obeys its parent: a line of JSON on the standard input asks for a round, a line on what
was the standard output answers. The end of the input ends the process, at once and without any clearing up, since some
contenders keep ten thousand greenlets parked.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from threading import Thread
from typing import Any

from ._session import Session, UnavailableError

# Taken before any contender patches them.
_open, _close, _read, _write = os.open, os.close, os.read, os.write
_wall, _cpu = time.perf_counter, time.process_time


class _Lines:
    """Lines of JSON from one descriptor and to another."""

    def __init__(self, source: int, sink: int) -> None:
        self._source = source
        self._sink = sink
        self._buffer = b""

    def read(self) -> dict[str, Any] | None:
        while b"\n" not in self._buffer:
            data = _read(self._source, 65536)
            if not data:
                return None
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return dict(json.loads(line))

    def write(self, **message: Any) -> None:
        _write(self._sink, json.dumps(message).encode() + b"\n")


def main() -> None:
    """Serve one session."""
    spec = json.loads(sys.argv[1])
    if spec["cpu"] is not None:
        os.sched_setaffinity(0, {spec["cpu"]})
    # Libraries may print; the answers have a descriptor of their own.
    lines = _Lines(0, os.dup(1))
    os.dup2(2, 1)
    try:
        session = _make(spec)
        lines.write(info=session.info)
        if session.forever is not None:
            Thread(target=_end_with_parent, args=(lines,), daemon=True).start()
            session.forever()
        _serve(session, lines)
    except UnavailableError as error:
        lines.write(unavailable=str(error))
    except BaseException as error:
        traceback.print_exc()
        lines.write(failed="".join(traceback.format_exception_only(error)).strip())
    os._exit(0)


def _make(spec: dict[str, Any]) -> Session:
    module, _, name = spec["entry"].partition(":")
    entry: Callable[..., Session] = getattr(importlib.import_module(module), name)
    return entry(**spec["options"])


def _end_with_parent(lines: _Lines) -> None:
    while lines.read() is not None:
        pass
    os._exit(0)


def _waited() -> float:
    """Tell the seconds that this thread has waited for its CPU while others had it; 0 where nobody counts them."""
    try:
        source = _open(f"/proc/self/task/{os.getpid()}/schedstat", os.O_RDONLY)
    except OSError:
        return 0.0
    told = _read(source, 100).split()
    _close(source)
    return int(told[1]) / 1e9


def _serve(session: Session, lines: _Lines) -> None:
    assert session.round is not None
    while (order := lines.read()) is not None:
        if session.before is not None:
            session.before()
        cpu, waited, wall = _cpu(), _waited(), _wall()
        extra = session.round(order["count"])
        wall, waited, cpu = _wall() - wall, _waited() - waited, _cpu() - cpu
        if session.after is not None:
            session.after()
        lines.write(wall=wall, cpu=cpu, waited=waited, extra=dict(extra or {}))


if __name__ == "__main__":
    main()
