"""A WSGI application as an ASGI one whose calls are green, so that what it waits in parks and no thread is started."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Iterable
from io import BytesIO
from typing import Any, TypeAlias

from .. import await_, to_greenlet

__all__ = ["AsgiApp", "WsgiApp", "green_wsgi"]

WsgiApp: TypeAlias = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
AsgiApp: TypeAlias = Callable[[Any, Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]]


def green_wsgi(app: WsgiApp) -> AsgiApp:
    """Make an ASGI application of a WSGI one; each request is answered in a greenlet. Never parks; the calls may."""

    async def asgi(scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"a WSGI application takes no {scope['type']} connections")
        body = bytearray()
        message: Any = {"more_body": True}
        while message.get("more_body"):
            message = await receive()
            body += message.get("body", b"")
        await to_greenlet(_answer, app, _environment(scope, bytes(body)), send)

    return asgi


def _environment(scope: Any, body: bytes) -> dict[str, Any]:
    server, client = scope.get("server") or ("localhost", 80), scope.get("client") or ("", 0)
    environment = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": scope.get("root_path", ""),
        "PATH_INFO": scope["path"].encode().decode("latin-1"),
        "QUERY_STRING": scope["query_string"].decode("latin-1"),
        "SERVER_NAME": server[0],
        "SERVER_PORT": str(server[1]),
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "REMOTE_ADDR": client[0],
        "REMOTE_PORT": str(client[1]),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope.get("scheme", "http"),
        "wsgi.input": BytesIO(body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,  # greenlets answer several requests at once
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    for name, value in scope["headers"]:
        key = name.decode("latin-1").upper().replace("-", "_")
        key = key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"
        text = value.decode("latin-1")
        environment[key] = f"{environment[key]},{text}" if key in environment else text
    return environment


def _answer(app: WsgiApp, environment: dict[str, Any], send: Callable[[Any], Awaitable[None]]) -> None:
    """Call the application and send what it says. Green; parks."""
    answer = _Answer(send)
    chunks = app(environment, answer.start)
    try:
        for chunk in chunks:
            answer.write(chunk)
        answer.end()
    finally:
        if hasattr(chunks, "close"):
            chunks.close()


class _Answer:
    """The state that `start_response` and `write` share."""

    def __init__(self, send: Callable[[Any], Awaitable[None]]) -> None:
        self._send = send
        self._head: dict[str, Any] | None = None
        self._sent = False

    def start(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], None]:
        """Be the application's `start_response`."""
        if exc_info is not None and self._sent:
            raise exc_info[1].with_traceback(exc_info[2])
        if exc_info is None and self._head is not None:
            raise AssertionError("start_response() was called twice, and the second time without exc_info")
        encoded = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        self._head = {"type": "http.response.start", "status": int(status.split(maxsplit=1)[0]), "headers": encoded}
        return self.write

    def write(self, chunk: bytes) -> None:
        """Send a part of the body, after the head."""
        if chunk:
            self._send_head()
            await_(self._send({"type": "http.response.body", "body": chunk, "more_body": True}))

    def end(self) -> None:
        """Send what tells that there is no more."""
        self._send_head()
        await_(self._send({"type": "http.response.body", "body": b"", "more_body": False}))

    def _send_head(self) -> None:
        if self._head is None:
            raise AssertionError("the WSGI application did not call start_response() before its first part")
        if not self._sent:
            self._sent = True
            await_(self._send(self._head))
