"""A Redis for row 4: a server of its own on this CPU, or the one that is there, or a small one in Python."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import socket
import subprocess
import time
from typing import Any

from .._session import Session, new_loop

_PORT = 6379


def redis_server() -> Session:
    """Find or start a server that answers GET and SET."""
    program = shutil.which("redis-server")
    if program is not None and (port := _start(program)) is not None:
        return Session(info={"port": port}, forever=signal.pause)
    if _answers(_PORT):
        return Session(info={"port": _PORT}, forever=signal.pause)
    return _embedded()


def _start(program: str) -> int | None:
    """Start `program` on a free port; it inherits this process's CPU, and goes when this process goes."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    # It reads its configuration from a pipe that this process holds open; `timeout 0` keeps idle connections.
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--daemonize", "no"]
    process = subprocess.Popen(
        [
            "sh",
            "-c",
            '"$@" >/dev/null 2>&1 & server=$!; read -r _; kill "$server"; wait "$server"',
            "sh",
            program,
            *options,
        ],
        stdin=subprocess.PIPE,
    )
    for _ in range(100):
        if _answers(port):
            _kept.append(process)
            return port
        time.sleep(0.05)
    process.stdin.close()  # type: ignore[union-attr]
    return None


_kept: list[subprocess.Popen[bytes]] = []
"""The shell that ends the server when its standard input ends, which it does with this process."""


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as sock:
        sock.sendall(b"PING\r\n")
        return sock.recv(64).startswith(b"+PONG")
    return False


def _embedded() -> Session:
    loop = new_loop("asyncio")
    values: dict[bytes, bytes] = {}
    server = loop.run_until_complete(loop.create_server(lambda: _Resp(values), "127.0.0.1", 0))
    port = server.sockets[0].getsockname()[1]

    def forever() -> None:
        loop.run_until_complete(server.serve_forever())  # a server that nobody refers to is closed

    return Session(info={"port": port}, forever=forever)


class _Resp(asyncio.Protocol):
    """As much of the protocol as redis-py's GET and SET need; whatever else is asked is answered by OK."""

    def __init__(self, values: dict[bytes, bytes]) -> None:
        self._values = values
        self._data = b""

    def connection_made(self, transport: Any) -> None:
        self._transport: asyncio.Transport = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        while (command := self._command()) is not None:
            self._transport.write(self._reply(command))

    def _command(self) -> list[bytes] | None:
        """Take one whole command off the data: `*2`, then a length and a word for each argument."""
        lines = self._data.split(b"\r\n")
        arguments = int(lines[0][1:]) if lines[0].startswith(b"*") and len(lines) > 1 else 0
        if not arguments or len(lines) <= 2 * arguments + 1:
            return None
        self._data = b"\r\n".join(lines[2 * arguments + 1 :])
        return lines[2 : 2 * arguments + 1 : 2]

    def _reply(self, command: list[bytes]) -> bytes:
        name = command[0].upper()
        if name == b"SET":
            self._values[command[1]] = command[2]
        if name == b"HELLO":
            return b"-ERR unknown command 'HELLO'\r\n"
        if name != b"GET":
            return b"+OK\r\n"
        value = self._values.get(command[1])
        return b"$-1\r\n" if value is None else b"$%d\r\n%b\r\n" % (len(value), value)
