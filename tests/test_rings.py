"""A failed call leaves no ring of references: what its frames hold is freed at once, not when the collector comes.

A frame that keeps the error which is on its way refers to itself, by that error's traceback. Natively `await` makes no
such ring, and it is in frames that a driver's sockets and buffers live.
"""

from __future__ import annotations

import asyncio
import gc
import queue
import socket
import subprocess
import sys
import threading
import time
import weakref
from contextlib import asynccontextmanager, suppress

import greenlet
import pytest

from greenio import async_to_sync, await_, enter, iterate, offload, spawn, sync_to_async, timeout, to_greenlet

pytestmark = [pytest.mark.green_tasks, pytest.mark.usefixtures("patched")]


class Boom(Exception):
    pass


async def boom():
    await asyncio.sleep(0.001)
    raise Boom


def boom_soon():
    time.sleep(0)
    raise Boom


def offloaded():
    raise Boom


def at_once():
    raise Boom


def awaiting():
    await_(boom())


def awaiting_a_task():
    await_(spawn(boom_soon))


def awaiting_a_green():
    await_(to_greenlet(boom_soon))


def sub_greenlet():
    greenlet.greenlet(lambda: await_(boom())).switch()


def in_time():
    with timeout(0.001):
        time.sleep(10)


def in_thread():
    offload(offloaded)


def over_socket():
    left, right = socket.socketpair()
    with left, right:
        left.settimeout(0.001)
        left.recv(1)


def over_file():
    left, right = socket.socketpair()
    with left, right, left.makefile("r") as file:
        left.settimeout(0.001)
        file.readline()


def resolving():
    socket.getaddrinfo("no.such.host.invalid", 80)


def connecting():
    socket.create_connection(("127.0.0.1", 1))


def from_queue():
    queue.Queue().get(timeout=0.001)


def from_simple_queue():
    queue.SimpleQueue().get(timeout=0.001)


def at_lock():
    lock = threading.Lock()
    with timeout(0.001), lock, lock:
        pass


def at_condition():
    condition = threading.Condition()
    with timeout(0.001), condition:
        condition.wait()


def child():
    subprocess.run([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, timeout=0.001)


def made_sync():
    async_to_sync(boom)()


def iterating():
    async def numbers():
        yield 1
        await boom()

    for _ in iterate(numbers()):
        pass


def entered():
    @asynccontextmanager
    async def manager():
        await asyncio.sleep(0)
        yield

    with enter(manager()):
        boom_soon()


async def coroutine():
    time.sleep(0.001)
    await asyncio.sleep(0)
    raise Boom


async def made_async():
    await sync_to_async(boom_soon)()


CASES = [
    at_once, boom_soon, awaiting, awaiting_a_task, awaiting_a_green, sub_greenlet, in_time, in_thread, over_socket,
    over_file, resolving, connecting, from_queue, from_simple_queue, at_lock, at_condition, child, made_sync, iterating,
    entered, coroutine, made_async,
]  # fmt: skip


class Held:
    pass


def calling(case, gone):
    """Make a function that holds something of which `gone` gets a weak reference, while it runs a case."""

    def call():
        held = Held()
        gone.append(weakref.ref(held))
        return case()

    async def call_async():
        held = Held()
        gone.append(weakref.ref(held))
        return await case()

    return call_async if asyncio.iscoroutinefunction(case) else call


async def until_gone(gone):
    """Threads of a pool and callbacks of a loop let go of a future a little later."""
    limit = time.monotonic() + 1
    while gone and gone[-1]() is not None and time.monotonic() < limit:
        await asyncio.sleep(0.001)
    return not gone or gone[-1]() is None


@pytest.fixture
def no_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("in_task", [False, True], ids=["call", "task"])
def test_failed(arun, case, in_task):
    async def main():
        gone = []
        try:
            call = to_greenlet(calling(case, gone))
            await (asyncio.ensure_future(call) if in_task else call)
        except (Boom, TimeoutError, OSError, queue.Empty, subprocess.TimeoutExpired):
            pass
        else:
            pytest.fail("it was to fail")
        assert await until_gone(gone)

    arun(main)


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("after", [0, 2])
def test_cancelled(arun, case, after):
    async def main():
        gone = []
        task = asyncio.ensure_future(to_greenlet(calling(case, gone)))
        for _ in range(1 + after):
            await asyncio.sleep(0)
        task.cancel()
        with suppress(BaseException):
            await task
        del task
        assert await until_gone(gone)

    arun(main)
