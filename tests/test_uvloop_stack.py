"""uvloop keeps pointers into its own C frames while its callbacks run: no greenlet may lie over them."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import asyncio, socket, sys, uvloop
from greenio import await_, monkey, to_greenlet
monkey.patch_socket()


def at_depth(levels, fn):
    # small frames of C code, one of which comes to lie where libuv keeps its pointers
    return max([0], key=lambda _: at_depth(levels - 1, fn) or 0) if levels else fn()


async def echo(reader, writer):
    while data := await reader.read(100):
        writer.write(data)
    writer.close()


async def main(levels):
    server = await asyncio.start_server(echo, "127.0.0.1", 0, backlog=500)
    port = server.sockets[0].getsockname()[1]

    async def connect():
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"x")
        await reader.readexactly(1)
        return writer

    async def watch_and_end(writer):
        # add_reader is what an async database driver does for every wait, and it reaches into libuv at once
        loop = asyncio.get_running_loop()
        a, b = socket.socketpair()
        with a, b:
            ready = loop.create_future()
            loop.add_reader(a, lambda: ready.done() or ready.set_result(None))
            b.send(b"x")
            await ready
            loop.remove_reader(a)
        writer.transport.abort()

    def work():
        with socket.create_connection(("127.0.0.1", port)) as sock:
            for _ in range(10):
                writer = await_(connect())
                sock.sendall(b"hello")
                assert sock.recv(100) == b"hello"  # resumed by readiness, that is from inside libuv's poll
                await_(watch_and_end(writer))

    await asyncio.gather(*(to_greenlet(at_depth, levels, work) for _ in range(20)))
    server.close()


uvloop.run(main(int(sys.argv[1])))
print("survived")
"""


def test_green_code_may_call_uvloop_at_any_depth():
    """Where the frames lie differs from process to process: without the room under a green most of these crash."""
    for levels in range(21, 69, 8):
        command = [sys.executable, "-c", SCRIPT, str(levels)]
        found = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
        assert found.stdout == "survived\n", (levels, found.returncode, found.stderr)
