"""What type checkers must make of greenio's public face. Checked by mypy and pyright, never run."""

from __future__ import annotations

import asyncio
from asyncio import AbstractEventLoop, Future, Task
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractContextManager, asynccontextmanager
from typing import Any

from typing_extensions import assert_type

import greenio
from greenio import Timeout, async_to_sync, await_, offload, spawn, sync_to_async, to_greenlet


def length(text: str, *, strict: bool = False) -> int:
    return len(text) if strict or text else 0


def nothing() -> None: ...


async def afetch(url: str) -> bytes:
    return url.encode()


async def bridge() -> None:
    assert_type(await to_greenlet(length, "a", strict=True), int)
    assert_type(await to_greenlet(nothing), None)
    assert_type(spawn(length, "a"), Task[int])
    assert_type(await spawn(length, "a"), int)
    first, second = await asyncio.gather(to_greenlet(length, "a"), to_greenlet(str, 1))
    assert_type(first, int)
    assert_type(second, str)


async def bridge_is_checked() -> None:
    await to_greenlet(length, 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await to_greenlet(length)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await to_greenlet(length, "a", loose=True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    spawn(nothing, 1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def green(task: Task[str], future: Future[float]) -> None:
    assert_type(await_(afetch("x")), bytes)
    assert_type(await_(task), str)
    assert_type(await_(future), float)
    assert_type(offload(length, "a", strict=True), int)
    assert_type(greenio.in_greenlet(), bool)
    assert_type(greenio.get_loop(), AbstractEventLoop)
    await_(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def programs() -> None:
    assert_type(greenio.run(length, "a"), int)
    assert_type(greenio.run(length, "a", loop_factory=asyncio.new_event_loop, debug=True), int)


def decorators() -> None:
    wrapped: Callable[[str], Coroutine[Any, Any, int]] = sync_to_async(length)
    assert_type(async_to_sync(afetch)("x"), bytes)
    async_to_sync(afetch)(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    del wrapped


@sync_to_async
def decorated(number: int) -> str:
    return str(number)


async def decorated_is_awaited() -> None:
    assert_type(await decorated(1), str)


async def numbers() -> AsyncIterator[int]:
    yield 1


@asynccontextmanager
async def opened() -> AsyncIterator[bytes]:
    yield b""


def faces() -> None:
    for number in greenio.iterate(numbers()):
        assert_type(number, int)
    with greenio.enter(opened()) as data:
        assert_type(data, bytes)
    greenio.iterate([1])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert_type(greenio.autosync(object()), Any)


def executors(loop: AbstractEventLoop) -> None:
    with greenio.GreenletPoolExecutor(3, loop=loop) as executor:
        assert_type(executor.submit(length, "a", strict=True).result(), int)
        assert_type(list(executor.map(length, ["a"])), list[int])
        executor.submit(length, 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    loop.set_default_executor(executor)


def factories(loop: AbstractEventLoop) -> None:
    loop.set_task_factory(greenio.task_factory)
    greenio.install(loop, tasks=True, executor=False)
    assert_type(greenio.task_factory(loop, afetch("x")), Task[bytes])
    greenio.uninstall(loop)


class Descriptor:
    def fileno(self) -> int:
        return 0


def waits() -> None:
    greenio.wait_readable(0)
    greenio.wait_readable(Descriptor(), timeout=1)
    greenio.wait_writable(Descriptor(), 0.5)
    greenio.wait_readable("0")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def timeouts() -> None:
    manager: AbstractContextManager[Timeout] = greenio.timeout(None)
    with greenio.timeout(1.5) as limit:
        assert_type(limit, Timeout)
        assert_type(limit.when(), float | None)
        assert_type(limit.expired(), bool)
        limit.reschedule(None)
    with greenio.timeout_at(greenio.get_loop().time() + 1), manager:
        pass
