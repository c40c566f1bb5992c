"""Wait for a state of the kernel, in place of sleeps."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from greenio import _core

__all__ = ["end_by_hand", "parked", "turns", "until", "until_parked"]

_native_sleep = asyncio.sleep


def parked() -> int:
    """Count the greens that are parked, in every thread."""
    return sum(green.waiting for green in _core.greens())


def end_by_hand(green: _core.Green) -> None:
    """End a parked green that was given up, so that nothing is left behind, and nothing of its call in the pool."""
    thread = green.thread
    green.waiting, thread.active = False, green  # claimed and resumed, or it would pass the error on
    try:
        green.throw(asyncio.CancelledError())
    finally:
        thread.active = None
    green.call = green.gr_context = green.leaf = None  # type: ignore[assignment]


async def turns(count: int = 5) -> None:
    """Let the loop turn so many times."""
    for _ in range(count):
        await _native_sleep(0)


async def until(condition: Callable[[], object], limit: float = 20.0) -> None:
    """Let the loop turn until a condition holds."""
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, "the state never came"
        await _native_sleep(0.0005)


async def until_parked(count: int = 1) -> None:
    """Let the loop turn until so many greens are parked."""
    await until(lambda: parked() >= count)
