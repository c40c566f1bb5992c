"""What the TLS tests share: certificates, pairs of connected sockets, and a server that knows nothing of greenio."""

from __future__ import annotations

import contextlib
import functools
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any

import trustme


@functools.cache
def authority() -> trustme.CA:
    """The one that both sides trust."""
    return trustme.CA()


@functools.cache
def certificate() -> trustme.LeafCert:
    """The server's, and that of clients that are asked for one."""
    return authority().issue_cert("localhost", "127.0.0.1")


@functools.cache
def huge_certificate() -> trustme.LeafCert:
    """One that the buffers of a socket do not hold at once."""
    return authority().issue_cert(*(f"host{number}.{'x' * 50}.example" for number in range(900)), "localhost")


def server_context(leaf: trustme.LeafCert | None = None) -> ssl.SSLContext:
    """Make a context for the server's side."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    (leaf or certificate()).configure_cert(context)
    authority().configure_trust(context)
    return context


def client_context(leaf: trustme.LeafCert | None = None) -> ssl.SSLContext:
    """Make a context for the client's side."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority().configure_trust(context)
    if leaf is not None:
        leaf.configure_cert(context)
    return context


def serve(sock: socket.socket, **options: Any) -> ssl.SSLSocket:
    """Wrap the server's end of a pair."""
    return server_context().wrap_socket(sock, server_side=True, **options)


def join(sock: socket.socket, **options: Any) -> ssl.SSLSocket:
    """Wrap the client's end of a pair."""
    return client_context().wrap_socket(sock, server_hostname="localhost", **options)


class Records:
    """The server's side of a connection that gets its records out of the test's hands, octet by octet if need be."""

    def __init__(self, sock: socket.socket) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = server_context().wrap_bio(self._incoming, self._outgoing, server_side=True)
        while not self._has_shaken_hands():
            sock.sendall(self._outgoing.read())
            self._incoming.write(sock.recv(65536))
        sock.sendall(self._outgoing.read())

    def _has_shaken_hands(self) -> bool:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def seal(self, data: bytes) -> bytes:
        """Return the record that tells `data`."""
        self._tls.write(data)
        return self._outgoing.read()


def small_pair() -> tuple[socket.socket, socket.socket]:
    """Make a pair of sockets whose buffers are as small as they get."""
    pair = socket.socketpair()
    for end in pair:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    return pair


def echo(connection: ssl.SSLSocket) -> None:
    """Send everything back, until the other side has said that it is done."""
    while data := connection.recv(65536):
        connection.sendall(data)


def http(connection: ssl.SSLSocket, first: bytes = b"") -> None:
    """Answer every request of an HTTP/1.1 connection with ten thousand octets; `first` has been read already."""
    with connection.makefile("rb") as file:
        while (first + file.readline()).startswith(b"GET"):
            first = b""
            while file.readline() not in (b"\r\n", b""):
                pass
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n" + b"x" * 10000)


@contextlib.contextmanager
def native_server(handle: Callable[[ssl.SSLSocket], None] = echo) -> Iterator[int]:
    """Serve TLS from threads, one a connection, and tell the port."""
    context = server_context()
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    threads: list[threading.Thread] = []

    def connection(plain: socket.socket) -> None:
        with plain, contextlib.suppress(OSError), context.wrap_socket(plain, server_side=True) as tls:
            handle(tls)

    def accept() -> None:
        while True:
            try:
                plain, _ = listener.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=connection, args=(plain,), daemon=True))
            threads[-1].start()

    threads.append(threading.Thread(target=accept, daemon=True))
    threads[0].start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(10)
        listener.close()
