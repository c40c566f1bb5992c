"""What type checkers must make of greenio.testing and the plugin's fixtures. Checked by mypy and pyright, never run."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

import pytest
from typing_extensions import assert_type

import greenio
from greenio.pytest_plugin import Held, LoopLag, Serve
from greenio.testing import Fault, Faults, VirtualClockLoop, assert_no_leaks, assert_parks, faults, wait_until_parked


def clock() -> None:
    assert_type(greenio.run(len, "a", loop_factory=VirtualClockLoop), int)
    loop = VirtualClockLoop(io_patience=0, job_patience=2.5)
    assert_type(loop.time(), float)
    loop.advance(3)
    with loop.real_time():
        pass
    VirtualClockLoop(patience=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def states() -> None:
    waiting: Coroutine[Any, Any, None] = wait_until_parked(2, timeout=1)
    await waiting
    with assert_parks(2) as parks:
        assert_type(parks, list[str])
    with assert_no_leaks():
        pass
    async with assert_no_leaks(grace=0.5):
        pass


def failing() -> None:
    with faults(short_reads=0.5, only=lambda sock: sock.family == 2, seed=3) as injected:
        assert_type(injected, Faults)
        assert_type(injected.injected, list[Fault])
        assert_type(injected.count("reset"), int)
    faults(shortreads=0.5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


@pytest.mark.greenio
def test_fixtures(serve: Serve, loop_lag: LoopLag) -> None:
    assert_type(serve(print), str)
    assert_type(serve(print, kind="wsgi"), str)
    assert_type(loop_lag.held, list[Held])
    assert_type(loop_lag.held[0].seconds, float)
    serve(print, kind="http")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def serve_from_async_code(serve: Serve) -> None:
    assert_type(await serve.start(print), str)
