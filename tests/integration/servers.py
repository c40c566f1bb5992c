"""Where the real servers are, and small ones that run on the loop under test.

The small ones are asyncio's own, on the very loop that hosts the greenlets: a client that held the loop would wait for
an answer that nobody could give it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

__all__ = ["ADDRESSES", "OWN", "Cutter", "Heartbeat", "http_server", "serving", "smtp_server", "until"]

OWN = f"greenio-{os.getpid()}"
"""What keys and statements are marked with, so that two runs beside one another do not meet on a server."""

ADDRESSES = {
    "redis": ("127.0.0.1", 6379),
    "mariadb": ("127.0.0.1", 3306),
    "postgres": ("127.0.0.1", 5432),
    "rabbitmq": ("127.0.0.1", 5672),
}

_BEAT = 0.005
_LONGEST_GAP = 2.0
"""Seconds; generous, since other processes share the CPUs. 50 clients that held the loop 40 ms each would be found."""


class Heartbeat:
    """A task that ticks every few milliseconds, and fails the block if it was ever kept from doing so.

    Args:
        at_least: How often it must tick in a block that is known to wait.
    """

    def __init__(self, at_least: int = 1) -> None:
        self.at_least = at_least
        self.ticks = 0
        self.largest = 0.0
        self._last = time.monotonic()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(_BEAT)
            self._tick()

    def _tick(self) -> None:
        now = time.monotonic()
        self.largest = max(self.largest, now - self._last)
        self._last = now
        self.ticks += 1

    async def __aenter__(self) -> Heartbeat:
        self._last = time.monotonic()
        self._task = asyncio.create_task(self._beat())
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._task.cancel()
        self._tick()
        if kind is None:
            assert self.largest < _LONGEST_GAP, f"the loop was held for {self.largest:.3f} s"
            assert self.ticks >= self.at_least, f"the heart beat {self.ticks} times"


async def until(state: Callable[[], Any], seconds: float = 20) -> None:
    """Wait for a state, looking at it in every turn; coroutine functions are awaited."""
    async with _limit(seconds):
        while True:
            seen = state()
            if isinstance(seen, Awaitable):
                seen = await seen
            if seen:
                return
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def _limit(seconds: float) -> AsyncIterator[None]:
    """`asyncio.timeout`, which 3.10 lacks."""
    task = asyncio.current_task()
    assert task is not None
    handle = asyncio.get_running_loop().call_later(seconds, task.cancel)
    try:
        yield
    finally:
        handle.cancel()


Connected = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def serving(connected: Connected, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Run a TCP server on the running loop; the value is its port. Its connections end with it."""
    tasks: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await connected(reader, writer)
        except (OSError, EOFError):
            pass  # the client went away
        except asyncio.CancelledError:
            writer.transport.abort()  # the test is over; TLS would wait for the client to say goodbye
        finally:
            tasks.discard(task)
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context, backlog=256)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        if tasks:
            await asyncio.wait(tuple(tasks))
        await server.wait_closed()


class Cutter:
    """A TCP proxy that lets so many bytes of answers through, and then cuts the connection.

    Args:
        address: The server behind it.
        after: Bytes of answers that pass; None for no limit until `cut()`.
        reset: End with RST; False for a FIN in mid-answer.
    """

    def __init__(self, address: tuple[str, int], *, after: int | None = None, reset: bool = True) -> None:
        self.address = address
        self.after = after
        self.reset = reset
        self.passed = 0
        self.port = 0
        self._cut = asyncio.Event()
        self._stack = contextlib.AsyncExitStack()

    def cut(self) -> None:
        """Cut every connection now."""
        self._cut.set()

    async def __aenter__(self) -> Cutter:
        self.port = await self._stack.enter_async_context(serving(self._connected))
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._stack.aclose()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back_reader, back_writer = await asyncio.open_connection(*self.address)
        asked = asyncio.ensure_future(self._pass_on(reader, back_writer))
        answered = asyncio.ensure_future(self._answer(back_reader, writer))
        cut = asyncio.ensure_future(self._cut.wait())
        tasks = {asked, answered, cut}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            back_writer.transport.abort()
            if self.reset:
                writer.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if self.after is not None and self.passed + len(data) > self.after:
                writer.write(data[: self.after - self.passed])
                self.passed = self.after
                return
            self.passed += len(data)
            writer.write(data)
            await writer.drain()


@contextlib.asynccontextmanager
async def http_server(context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Run an HTTP/1.1 server with keep-alive.

    `/slow/<seconds>` answers late, `/bytes/<n>` with so many bytes, `/cut/<n>` stops in the middle of twice as many,
    anything else with the path itself; what is posted comes back.
    """

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while request := await reader.readline():
            path = request.split()[1].decode()
            length = 0
            while (line := await reader.readline()).strip():
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            body = await reader.readexactly(length) if length else path.encode()
            _, _, argument = path[1:].partition("/")
            if path.startswith("/slow/"):
                await asyncio.sleep(float(argument))
            if path.startswith(("/bytes/", "/cut/")):
                body = b"x" * int(argument)
            claimed = len(body) * (2 if path.startswith("/cut/") else 1)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (claimed, body))
            await writer.drain()
            if path.startswith("/cut/"):
                return

    async with serving(connected, context) as port:
        yield port


@contextlib.asynccontextmanager
async def smtp_server(inbox: list[bytes], delay: float = 0.0) -> AsyncIterator[int]:
    """Run a small SMTP server that puts what it receives into `inbox`, after a pause to think about it."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 test ESMTP\r\n")
        while line := await reader.readline():
            verb = line[:4].upper().strip()
            if verb == b"EHLO":
                writer.write(b"250-test\r\n250 SIZE 10000000\r\n")
            elif verb == b"DATA":
                writer.write(b"354 go on\r\n")
                message = await reader.readuntil(b"\r\n.\r\n")
                await asyncio.sleep(delay)
                inbox.append(message)
                writer.write(b"250 taken\r\n")
            elif verb == b"QUIT":
                writer.write(b"221 bye\r\n")
                return
            else:
                writer.write(b"250 fine\r\n")

    async with serving(connected) as port:
        yield port
