"""What the examples need around them: a choice of loop, and servers to talk to.

The servers run in a thread of this process, on a loop of their own, and answer as late as a real one far away would.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any

import greenio

Connected = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def arguments(description: str | None) -> argparse.ArgumentParser:
    """Make a parser that knows `--loop`."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--loop", choices=["asyncio", "uvloop"], default="asyncio", help="the loop that hosts it all")
    return parser


def run(main: Callable[..., Coroutine[Any, Any, Any]], *args: Any, loop: str) -> Any:
    """Do what `asyncio.run(main(*args))` does, on the loop that was chosen."""
    if loop == "asyncio":
        return asyncio.run(main(*args))
    import uvloop

    return uvloop.run(main(*args))


def answers(host: str, port: int) -> bool:
    """Tell whether a server listens there."""
    try:
        socket.create_connection((host, port), timeout=0.5).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def server(connected: Connected) -> Iterator[int]:
    """Serve TCP connections from a thread with a loop of its own; the value is the port."""
    ready = threading.Event()
    port, loop = 0, asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        nonlocal port
        listening = await asyncio.start_server(handle, "127.0.0.1", 0, backlog=512)
        port = listening.sockets[0].getsockname()[1]
        ready.set()
        await stop.wait()
        listening.close()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError, asyncio.CancelledError):
            await connected(reader, writer)
        writer.close()

    def target() -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(serve())
            left = asyncio.all_tasks(loop)
            for task in left:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        finally:
            loop.close()

    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    ready.wait()
    try:
        yield port
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()


@contextlib.contextmanager
def slow_http_server(delay: float) -> Iterator[str]:
    """Run a web server that takes `delay` seconds for every answer; the value is its address."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while request := await reader.readline():
            while (await reader.readline()).strip():
                pass
            await asyncio.sleep(delay)
            body = b"you asked for " + request.split()[1]
            head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % len(body)
            writer.write(head + body)
            await writer.drain()

    with server(connected) as port:
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def redis_server(*, embedded: bool = False) -> Iterator[tuple[str, int]]:
    """Find Redis at its usual place, or run the little of it that the examples use."""
    if not embedded and answers("127.0.0.1", 6379):
        yield "127.0.0.1", 6379
        return
    counters: dict[bytes, int] = {}
    lists: dict[bytes, int] = {}

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readline():
            words = []
            for _ in range(int(head[1:])):
                size = int((await reader.readline())[1:])
                words.append((await reader.readexactly(size + 2))[:-2])
            command, key = words[0].upper(), b"".join(words[1:2])
            if command in (b"INCR", b"INCRBY"):
                counters[key] = counters.get(key, 0) + 1
                writer.write(b":%d\r\n" % counters[key])
            elif command == b"RPUSH":
                lists[key] = lists.get(key, 0) + len(words) - 2
                writer.write(b":%d\r\n" % lists[key])
            elif command == b"DEL":
                found = [store.pop(key, None) for store in (counters, lists)]
                writer.write(b":%d\r\n" % any(value is not None for value in found))
            elif command in (b"PING", b"CLIENT", b"EXPIRE"):
                writer.write(b"+OK\r\n" if command != b"EXPIRE" else b":1\r\n")
            else:
                writer.write(b"-ERR unknown command\r\n")

    with server(connected) as port:
        yield "127.0.0.1", port


def describe_loop() -> str:
    """Name the loop that hosts the caller, async or green."""
    loop = greenio.get_loop() if greenio.in_greenlet() else asyncio.get_running_loop()
    return type(loop).__module__.partition(".")[0]
