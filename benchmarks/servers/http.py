"""A keep-alive HTTP/1.1 server that gives every request the same small answer."""

from __future__ import annotations

import asyncio
import importlib.util
from typing import Any

from .._session import Session, new_loop

_BODY = b"x" * 512
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%b" % (len(_BODY), _BODY)


def http_server() -> Session:
    """Start the server; on uvloop where there is one, so that it is never what limits the rate."""
    loop = new_loop("asyncio" if importlib.util.find_spec("uvloop") is None else "uvloop")
    server = loop.run_until_complete(loop.create_server(_Requests, "127.0.0.1", 0, backlog=1024))
    port = server.sockets[0].getsockname()[1]

    def forever() -> None:
        loop.run_until_complete(server.serve_forever())  # a server that nobody refers to is closed

    return Session(info={"port": port}, forever=forever)


class _Requests(asyncio.Protocol):
    """Requests have no body here, so that an empty line ends one."""

    def __init__(self) -> None:
        self._data = b""

    def connection_made(self, transport: Any) -> None:
        self._transport: asyncio.Transport = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        while (end := self._data.find(b"\r\n\r\n")) >= 0:
            self._data = self._data[end + 4 :]
            self._transport.write(_ANSWER)
