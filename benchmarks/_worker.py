"""A process of the benchmark, seen from the parent."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ._model import Entry

__all__ = ["FailedError", "NotThereError", "Worker"]

_ROOT = Path(__file__).resolve().parent.parent


class NotThereError(Exception):
    """A contender that cannot run on this machine."""


class FailedError(Exception):
    """A contender that broke, or did not answer in time."""


class Worker:
    """One session in a fresh interpreter, pinned to one CPU.

    Args:
        entry: Makes the session.
        options: Keyword arguments for it.
        cpu: The CPU to run on; None for any.
        limit: Seconds that it may take to answer.
    """

    def __init__(self, entry: Entry, options: Mapping[str, Any], cpu: int | None, limit: float) -> None:
        self._limit = limit
        self._buffer = b""
        spec = {"entry": f"{entry.__module__}:{entry.__name__}", "options": dict(options), "cpu": cpu}
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "benchmarks._child", json.dumps(spec)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=_ROOT,
            # One seed for all: hashing must not make one process faster than its neighbour.
            env={**os.environ, "PYTHONHASHSEED": "0"},
        )

    def ready(self) -> dict[str, Any]:
        """Wait until the session is set up; return what the row's other processes are to know."""
        return dict(self.answer()["info"])

    def start_round(self, count: int) -> None:
        """Ask for a round; `answer` waits for its end."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"count": count}).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise FailedError(f"ended early: {self._last_words()}") from None

    def answer(self) -> dict[str, Any]:
        """Wait for the next answer.

        Raises:
            NotThereError: The contender cannot run here.
            FailedError: It raised, ended or did not answer in time.
        """
        message = dict(json.loads(self._line()))
        if "unavailable" in message:
            raise NotThereError(message["unavailable"])
        if "failed" in message:
            raise FailedError(message["failed"])
        return message

    def _line(self) -> bytes:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        deadline = time.monotonic() + self._limit
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise FailedError(f"did not answer in {self._limit:g} s: {self._last_words()}")
            data = os.read(descriptor, 65536)
            if not data:
                raise FailedError(f"ended early: {self._last_words()}")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _last_words(self) -> str:
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip().splitlines()
        return said[-1] if said else "it said nothing"

    def close(self) -> None:
        """End the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        try:
            self._process.wait(1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()
