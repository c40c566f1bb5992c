"""A client for echo servers: one process, one epoll, every connection with one message under way."""

from __future__ import annotations

import select
import socket
import time

from .._session import Extra, Session, share

SIZE = 128
_CHUNK = bytes(262144)


def echo_load(*, port: int, connections: int, download_port: int | None = None) -> Session:
    """Make a client.

    Args:
        port: The echo server's port.
        connections: How many connections a round opens.
        download_port: Where to send as much as will go, for as long as the round lasts; None for nowhere.
    """
    message = b"x" * SIZE

    def round_(count: int) -> Extra:
        greedy = None if download_port is None else socket.create_connection(("127.0.0.1", download_port))
        socks = [socket.create_connection(("127.0.0.1", port)) for _ in range(connections)]
        for sock in socks:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        wall, cpu = time.perf_counter(), time.process_time()
        sent = _converse(socks, message, count, greedy)
        extra = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "downloaded": float(sent)}
        for sock in socks:
            sock.close()
        if greedy is not None:
            greedy.close()
        return extra

    return Session(round_)


def _converse(socks: list[socket.socket], message: bytes, count: int, greedy: socket.socket | None) -> int:
    """Have every connection do its share of `count` round trips; tell how much the greedy one took."""
    poller = select.epoll()
    size = len(message)
    methods = {sock.fileno(): (sock.recv, sock.send) for sock in socks}
    left = {sock.fileno(): part for sock, part in zip(socks, share(count, len(socks)), strict=True)}
    missing = dict.fromkeys(left, size)
    for sock in socks:
        poller.register(sock.fileno(), select.EPOLLIN)
    under_way = 0
    for sock in socks:
        if left[sock.fileno()]:
            sock.send(message)
            under_way += 1
    sent = 0
    if greedy is not None:
        greedy.setblocking(False)
        poller.register(greedy.fileno(), select.EPOLLOUT)
    while under_way:
        for fd, event in poller.poll():
            if event == select.EPOLLOUT and greedy is not None and fd == greedy.fileno():
                sent += greedy.send(_CHUNK)
                continue
            receive, send = methods[fd]
            got = len(receive(size))
            if not got:
                raise ConnectionError("the echo server closed a connection")
            missing[fd] -= got
            if missing[fd]:
                continue
            missing[fd] = size
            left[fd] -= 1
            if left[fd]:
                send(message)
            else:
                under_way -= 1
    poller.close()
    return sent
