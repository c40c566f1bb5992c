"""A client for HTTP servers: one process, one epoll, every connection with one request under way."""

from __future__ import annotations

import select
import socket
import time

from .._session import Extra, Session, share

_REQUEST = b"GET / HTTP/1.1\r\nhost: benchmark\r\n\r\n"


def http_load(*, port: int, connections: int, body: int) -> Session:
    """Make a client.

    Args:
        port: The server's port.
        connections: How many connections a round opens.
        body: How many octets the body of each answer has.
    """

    def round_(count: int) -> Extra:
        socks = [socket.create_connection(("127.0.0.1", port)) for _ in range(connections)]
        wall, cpu = time.perf_counter(), time.process_time()
        _converse(socks, count, body)
        extra = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        for sock in socks:
            sock.close()
        return extra

    return Session(round_)


def _converse(socks: list[socket.socket], count: int, body: int) -> None:
    poller = select.epoll()
    by_fd = {sock.fileno(): sock for sock in socks}
    left = {sock.fileno(): part for sock, part in zip(socks, share(count, len(socks)), strict=True)}
    got = dict.fromkeys(left, b"")
    for fd, sock in by_fd.items():
        poller.register(fd, select.EPOLLIN)
        if left[fd]:
            sock.sendall(_REQUEST)
    under_way = sum(part > 0 for part in left.values())
    while under_way:
        for fd, _ in poller.poll():
            part = by_fd[fd].recv(65536)
            if not part:
                raise ConnectionError("the server closed a connection")
            got[fd] += part
            _, end, rest = got[fd].partition(b"\r\n\r\n")
            if not end or len(rest) < body:
                continue
            got[fd] = b""
            left[fd] -= 1
            if left[fd]:
                by_fd[fd].sendall(_REQUEST)
            else:
                under_way -= 1
    poller.close()
