"""Which greens are parked, how often a block parks, and what it leaves behind.

This is where the kernel is looked into; nothing is changed there.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from asyncio import AbstractEventLoop
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from .. import _original, await_, get_loop, in_greenlet
from .._core import Green, Side, current_green, greens, on_parks, registrations

__all__ = ["assert_no_leaks", "assert_parks", "wait_until_parked", "waits_for_descriptor"]

_PAUSE = 0.0005
"""Seconds between two looks at a state."""


def _parked(loop: AbstractEventLoop) -> list[Green]:
    return [green for green in _in_call() if green.waiting and green.host.loop is loop]


def _in_call() -> list[Green]:
    return [green for green in greens() if green.host is not None]


def waits_for_descriptor(loop: AbstractEventLoop) -> bool:
    """Tell whether green code of a loop is parked until a descriptor is ready."""
    whats = [green.what for green in _parked(loop)]
    return any(isinstance(what, Side) or (isinstance(what, list) and what) for what in whats)


async def wait_until_parked(count: int = 1, *, timeout: float = 10.0) -> None:
    """Wait until so many greenlets of the running loop are parked: the state that a test means by "is waiting now".

    In async code; in green code `await_(wait_until_parked())`, and the caller's own greenlet does not count.

    Args:
        count: How many, at least.
        timeout: Seconds of real time after which to give up.

    Raises:
        AssertionError: It did not come to that in time; the message tells what is parked.
    """
    loop, own = asyncio.get_running_loop(), current_green()
    end = _original.monotonic() + timeout
    turns = 0
    while len(parked := [green for green in _parked(loop) if green is not own]) < count:
        if _original.monotonic() > end:
            raise AssertionError(f"{len(parked)} of {count} greenlets are parked after {timeout:g} s: {parked}")
        turns += 1
        await asyncio.sleep(0 if turns % 100 else _PAUSE)


@contextmanager
def assert_parks(count: int) -> Iterator[list[str]]:
    """Assert that a `with` block of green code parks exactly so many times. The block parks; this does not.

    Counted are the parks of the calling greenlet alone.

    Args:
        count: How many.

    Yields:
        What each park so far has waited for.

    Raises:
        AssertionError: It were more or less; the message tells what was waited for.
        RuntimeError: The caller is not in a greenlet.
    """
    green = current_green()
    if green is None:
        raise RuntimeError("assert_parks() was called outside a greenlet; call it inside `await to_greenlet(fn)`")
    parks: list[str] = []
    with on_parks(green, lambda: parks.append(repr(green.what))):
        yield parks
    if len(parks) != count:
        listed = "".join(f"\n  {what}" for what in parks)
        raise AssertionError(f"the block parked {len(parks)} times, not {count}{':' if listed else ''}{listed}")


class assert_no_leaks:  # noqa: N801  # it is called as a function is
    """Assert that a block leaves nothing behind: greenlets in a call, registrations, tasks, threads, descriptors.

    `with assert_no_leaks():` in sync code, green or not; `async with` in async code, where the wait for what is just
    ending lets the loop turn. Entering never parks; leaving does in green code, and where there is something to wait
    for.
    """

    def __init__(self, *, grace: float = 1.0) -> None:
        """Take the options.

        Args:
            grace: Seconds of real time that things may take to end after the block.
        """
        self._grace = grace
        self._before: dict[str, set[Any]] = {}

    def __enter__(self) -> None:
        self._before = _inventory()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            return
        for left in self._looks():
            if not left:
                return
            if in_greenlet():
                await_(asyncio.sleep(_PAUSE))
            else:
                _original.sleep(_PAUSE)
        raise AssertionError(self._message())

    async def __aenter__(self) -> None:
        self._before = _inventory()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            return
        for left in self._looks():
            if not left:
                return
            await asyncio.sleep(_PAUSE)
        raise AssertionError(self._message())

    def _looks(self) -> Iterator[dict[str, set[Any]]]:
        end = _original.monotonic() + self._grace
        while True:
            yield self._left()
            if _original.monotonic() > end:
                return

    def _left(self) -> dict[str, set[Any]]:
        found = {kind: now - self._before[kind] for kind, now in _inventory().items()}
        return {kind: left for kind, left in found.items() if left}

    def _message(self) -> str:
        lines = [f"  {kind}: {', '.join(sorted(map(str, left)))}" for kind, left in self._left().items()]
        return "\n".join(["the block left behind", *lines])


def _inventory() -> dict[str, set[Any]]:
    gc.collect()
    loop = _loop_of_caller()
    descriptors, idle = _descriptors(), _executor_threads(loop)
    poller = getattr(getattr(loop, "_greenio_host", None), "poller", None)
    if poller is not None:
        descriptors.pop(poller.fileno(), None)
    return {
        "greenlets": set(_in_call()),
        # One that outlives its park is no leak for as long as its descriptor is open, which is told by itself.
        "registrations": {watch for watch in registrations() if watch.waiters or watch.fd not in descriptors},
        "tasks": _tasks(),
        "threads": _threads() - idle,
        "descriptors": {f"{fd} -> {target}" for fd, target in descriptors.items()},
    }


def _loop_of_caller() -> AbstractEventLoop | None:
    """Look up the loop that the caller's code lives on; what that loop keeps for itself is no leak."""
    if in_greenlet():
        return get_loop()
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _executor_threads(loop: AbstractEventLoop | None) -> set[Any]:
    """List the threads of a loop's default executor, which asyncio and uvloop name so."""
    if loop is None:
        return set()
    return {thread for thread in _original.enumerate_threads() if thread.name.startswith(("asyncio_", "uvloop_"))}


def _tasks() -> set[Any]:
    # Of all loops; `asyncio.all_tasks` wants to know which. By class, since `isinstance` would wake lazy proxies.
    return {each for each in gc.get_objects() if issubclass(type(each), asyncio.Task) and not each.done()}


def _threads() -> set[Any]:
    """List the real threads: their objects, and the numbers of those that `threading` does not know."""
    known = {thread.ident: thread for thread in _original.enumerate_threads()}  # greenlets' own among them
    return {known.get(ident, f"thread {ident}, which `threading` does not know") for ident in sys._current_frames()}


def _descriptors() -> dict[int, str]:
    """List what is open, by number, but for the standard streams, which pytest exchanges."""
    folder = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"
    found = {}
    for name in os.listdir(folder):
        try:
            target = os.readlink(f"{folder}/{name}") if folder.startswith("/proc") else name
        except OSError:  # the one that this listing itself has had open
            continue
        if int(name) > 2:
            found[int(name)] = target
    return found
