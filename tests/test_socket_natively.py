"""What sockets do in corners where blocking is up to the kernel or to the descriptor: the same natively and green."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import select
import selectors
import socket
import struct
import subprocess
import sys
import threading
import time

import pytest

import tls
from greenio import _core, _original, monkey, to_greenlet
from greenio._core import _readiness
from waiting import until, until_parked

SOON = 0.1
LONG = 5.0


class Pair:
    """Two connected sockets, and timers, all of which end with the test."""

    def __init__(self, family="tcp"):
        self.ends = contextlib.ExitStack()
        if family == "tcp":
            server = socket.create_server(("127.0.0.1", 0))
            self.here = socket.create_connection(server.getsockname())
            self.there, _ = server.accept()
            server.close()
        else:
            self.here, self.there = socket.socketpair()
        self.ends.callback(self.here.close)
        self.ends.callback(self.there.close)

    def later(self, fn, *args):
        timer = threading.Timer(SOON, fn, args)
        timer.start()
        self.ends.callback(timer.join)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.ends.close()


def outcome(fn):
    begin = time.monotonic()
    try:
        result = fn()
    except Exception as error:
        result = type(error), error.args
    took = time.monotonic() - begin
    return result, 0 if took < SOON / 2 else 1 if took < LONG else 2


def shut_under_a_sender():
    with Pair("unix") as pair:
        pair.later(pair.here.shutdown, socket.SHUT_WR)
        return outcome(lambda: pair.here.sendall(bytes(8_000_000)))


def limit(sock, option, seconds=SOON):
    sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("@ll", int(seconds), int(seconds % 1 * 1e6)))


def kernel_limits_a_receiver():
    with Pair() as pair:
        limit(pair.here, socket.SO_RCVTIMEO)
        limits = outcome(lambda: pair.here.recv(1)), outcome(lambda: pair.here.recvmsg(1))
        pair.there.send(b"x")
        with_data = outcome(lambda: pair.here.recv_into(bytearray(5)))
        limit(pair.here, socket.SO_RCVTIMEO, 0)
        pair.later(pair.there.send, b"y")
        return limits, with_data, outcome(lambda: pair.here.recv(1))


def kernel_limits_a_receiver_that_has_waited():
    with Pair() as pair:
        pair.later(pair.there.send, b"x")
        pair.here.recv(1)
        limit(pair.here, socket.SO_RCVTIMEO)
        return outcome(lambda: pair.here.recv(1)), pair.here.gettimeout()


def kernel_limits_a_sender():
    with Pair("unix") as pair:
        limit(pair.here, socket.SO_SNDTIMEO)
        with contextlib.suppress(BlockingIOError):
            pair.here.sendall(bytes(8_000_000))
        return outcome(lambda: pair.here.send(b"x"))


def kernel_limits_a_sender_of_datagrams():
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(f"\0greenio-{os.getpid()}-{id(receiver)}")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            limit(sender, socket.SO_SNDTIMEO)
            with contextlib.suppress(BlockingIOError):
                while True:
                    sender.sendto(b"x", receiver.getsockname())
            return outcome(lambda: sender.sendto(b"y", receiver.getsockname()))


def kernel_limits_one_who_peeks_at_all():
    with Pair() as pair:
        limit(pair.here, socket.SO_RCVTIMEO)
        flags = socket.MSG_PEEK | socket.MSG_WAITALL
        nothing = outcome(lambda: pair.here.recv(10, flags))
        pair.there.sendall(b"12345")
        return nothing, outcome(lambda: pair.here.recv(10, flags))


def _say_hello_late(client):
    with tls.client_context().wrap_socket(client, server_hostname="localhost") as theirs:
        time.sleep(SOON)
        theirs.sendall(b"hello")


def kernel_limits_nothing_of_tls():
    server, client = socket.socketpair()
    with tls.server_context().wrap_socket(server, server_side=True, do_handshake_on_connect=False) as ours:
        ended = threading.Thread(target=_say_hello_late, args=(client,))
        ended.start()
        ours.do_handshake()
        limit(ours, socket.SO_RCVTIMEO, SOON / 5)
        found = outcome(lambda: ours.recv(5))
        ended.join()
        return found


def kernel_limits_an_acceptor():
    with socket.create_server(("127.0.0.1", 0)) as server:
        limit(server, socket.SO_RCVTIMEO)
        return outcome(server.accept)


def user_makes_the_descriptor_not_block():
    with Pair() as pair:
        fd = pair.here.fileno()
        os.set_blocking(fd, False)
        found = [outcome(lambda: pair.here.recv(1)), outcome(lambda: pair.here.recv_into(bytearray(1)))]
        os.set_blocking(fd, True)
        pair.later(pair.there.send, b"x")
        found.append(outcome(lambda: pair.here.recv(1)))
        os.set_blocking(fd, False)
        return [*found, outcome(lambda: pair.here.recv(1)), os.get_blocking(fd)]


def user_makes_a_duplicate_not_block():
    with Pair("unix") as pair, pair.here.dup() as other:
        other.settimeout(LONG)
        return outcome(lambda: pair.here.recv(1)), pair.here.gettimeout()


def connect_and_accept_leave_the_mode_alone():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as sock:
        os.set_blocking(server.fileno(), False)
        os.set_blocking(sock.fileno(), False)
        begun = outcome(lambda: sock.connect(server.getsockname()))
        select.select([server], [], [], LONG)
        accepted, _ = server.accept()
        accepted.close()
        return begun, outcome(server.accept), os.get_blocking(sock.fileno()), os.get_blocking(server.fileno())


def user_sets_the_mode_under_an_acceptor():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as sock, contextlib.ExitStack() as ends:

        def connect():
            os.set_blocking(server.fileno(), False)
            sock.connect(server.getsockname())

        timer = threading.Timer(SOON, connect)
        timer.start()
        ends.callback(timer.join)
        accepted, _ = server.accept()
        accepted.close()
        return os.get_blocking(server.fileno()), outcome(server.accept)


def number_gets_a_file_that_does_not_block():
    with Pair() as pair, Pair() as other:
        pair.later(pair.there.send, b"x")
        pair.here.recv(5)
        other.here.setblocking(False)
        os.dup2(other.here.fileno(), pair.here.fileno())
        return outcome(lambda: pair.here.recv(20))


def number_gets_another_file():
    with Pair() as pair, Pair() as other:
        pair.later(pair.there.send, b"x")
        pair.here.recv(5)  # has waited, and comes back short
        os.dup2(other.here.fileno(), pair.here.fileno())
        other.there.send(b"from the other")
        now = outcome(lambda: pair.here.recv(20))
        other.later(other.there.send, b"later")
        return now, outcome(lambda: pair.here.recv(20)), outcome(lambda: os.dup2(9999, pair.here.fileno()))


def peeks_at_all(call, family="tcp", ends=False):
    def peek():
        with Pair(family) as pair:
            pair.there.sendall(b"12345")
            if ends:
                pair.later(pair.there.shutdown, socket.SHUT_WR)
            else:
                pair.later(pair.there.sendall, b"67890")
            time.sleep(SOON / 5)
            flags = socket.MSG_PEEK | socket.MSG_WAITALL
            return outcome(lambda: call(pair.here, flags)), pair.here.recv(3)

    return peek


def recv(sock, flags):
    return sock.recv(10, flags)


def recv_into(sock, flags):
    buffer = bytearray(10)
    return sock.recv_into(buffer, 0, flags), bytes(buffer)


def recvmsg(sock, flags):
    return sock.recvmsg(10, 0, flags)[0]


def sends_to_a_full_queue():
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver, Pair("unix") as pair:
        receiver.bind(f"\0greenio-{os.getpid()}-{id(receiver)}")
        sender = pair.ends.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        sender.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                sender.sendto(b"x", receiver.getsockname())
        sender.settimeout(None)
        begin = time.thread_time()
        pair.later(receiver.recv, 10)
        found = outcome(lambda: sender.sendto(b"y", receiver.getsockname()))
        return found, time.thread_time() - begin < SOON / 2


def closed_selector(kind):
    def wait():
        with Pair() as pair:
            selector = kind()
            selector.register(pair.here, selectors.EVENT_READ)
            selector.close()
            return outcome(lambda: selector.select(SOON))

    return wait


def name_that_is_required():
    return outcome(lambda: socket.getnameinfo(("127.0.0.1", 80), socket.NI_NAMEREQD))


def child_reads_after_tls():
    server, client = socket.socketpair()
    with tls.server_context().wrap_socket(server, server_side=True, do_handshake_on_connect=False) as ours:
        ended = threading.Thread(target=_end_tls, args=(client,))
        ended.start()
        ours.do_handshake()
        plain = ours.unwrap()
        blocks = os.get_blocking(plain.fileno())
        code = "import os; print(os.read(0, 5).decode())"
        got = subprocess.run([sys.executable, "-c", code], stdin=plain, capture_output=True, check=True).stdout
        ended.join()
        return blocks, got


def _end_tls(client):
    with tls.client_context().wrap_socket(client, server_hostname="localhost") as theirs:
        plain = theirs.unwrap()
        time.sleep(SOON)
        plain.sendall(b"hello")


PROGRAMS = {
    "shut under a sender": shut_under_a_sender,
    "SO_RCVTIMEO": kernel_limits_a_receiver,
    "SO_RCVTIMEO later": kernel_limits_a_receiver_that_has_waited,
    "SO_SNDTIMEO": kernel_limits_a_sender,
    "SO_SNDTIMEO, datagrams": kernel_limits_a_sender_of_datagrams,
    "SO_RCVTIMEO, peek": kernel_limits_one_who_peeks_at_all,
    "SO_RCVTIMEO, TLS": kernel_limits_nothing_of_tls,
    "SO_RCVTIMEO of a server": kernel_limits_an_acceptor,
    "set_blocking": user_makes_the_descriptor_not_block,
    "duplicate": user_makes_a_duplicate_not_block,
    "connect and accept": connect_and_accept_leave_the_mode_alone,
    "set_blocking under accept": user_sets_the_mode_under_an_acceptor,
    "dup2": number_gets_another_file,
    "dup2, non-blocking": number_gets_a_file_that_does_not_block,
    "peek, recv": peeks_at_all(recv),
    "peek, recv_into": peeks_at_all(recv_into),
    "peek, recvmsg": peeks_at_all(recvmsg),
    "peek, end of file": peeks_at_all(recv, ends=True),
    "peek, unix": peeks_at_all(recv, "unix"),
    "full queue": sends_to_a_full_queue,
    "closed PollSelector": closed_selector(selectors.PollSelector),
    "closed SelectSelector": closed_selector(selectors.SelectSelector),
    "NI_NAMEREQD": name_that_is_required,
    "child after TLS": child_reads_after_tls,
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_same_as_natively(arun, name):
    expected = PROGRAMS[name]()

    async def main():
        return await asyncio.wait_for(to_greenlet(PROGRAMS[name]), LONG)

    with monkey.patched():
        assert arun(main) == expected


@pytest.fixture
def lingering():
    """Make a pair of which one end has sent more than the other reads, and waits a second for it when it is closed."""
    with Pair() as pair:
        pair.here.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 1))
        pair.here.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                pair.here.send(bytes(100_000))
        yield pair.here


def is_open(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_closing_a_socket_that_lingers_does_not_hold_the_loop(arun, patched, lingering):
    """`close` waits for the peer to get everything, and Linux does so even for a non-blocking descriptor."""
    fd = lingering.fileno()

    async def main():
        closing = asyncio.ensure_future(to_greenlet(lingering.close))
        turns = 0
        begin = time.monotonic()
        while not closing.done():
            await asyncio.sleep(SOON / 10)
            turns += 1
        await closing
        assert time.monotonic() - begin > 0.9
        assert turns > 20
        assert not is_open(fd)

    arun(main)


def test_closing_a_socket_that_lingers_is_done_even_if_it_is_cancelled(arun, patched, lingering):
    fd = lingering.fileno()

    async def main():
        loop, may_end = asyncio.get_running_loop(), threading.Event()
        executor = concurrent.futures.ThreadPoolExecutor(1)
        loop.set_default_executor(executor)
        busy = loop.run_in_executor(None, may_end.wait)
        closing = asyncio.ensure_future(to_greenlet(lingering.close))
        await until_parked()
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert is_open(fd)
        may_end.set()
        await busy
        await until(lambda: not is_open(fd))
        await loop.shutdown_default_executor()

    arun(main)


@pytest.mark.parametrize("is_closed", [False, True])
def test_a_thread_comes_between_the_look_and_the_wait(arun, patched, monkeypatch, is_closed):
    """Another thread shuts the socket down, or closes it, when nobody waits yet, but somebody is about to."""
    native = _readiness.Watch.arm

    def arm(self, side):
        found = native(self, side)
        monkeypatch.undo()
        change = (lambda: os.close(os.dup(fd)) or _core.forget(fd)) if is_closed else lambda: _core.retry(fd)
        thread = threading.Thread(target=change)
        thread.start()
        thread.join()
        return found

    with Pair("unix") as pair:
        fd = pair.here.fileno()

        async def main():
            monkeypatch.setattr(_readiness.Watch, "arm", arm)
            waiting = asyncio.ensure_future(to_greenlet(pair.here.recv, 1))
            if is_closed:
                with pytest.raises(OSError, match="Bad file"):
                    await asyncio.wait_for(waiting, LONG)
                return
            await until_parked()
            pair.there.send(b"x")
            assert await asyncio.wait_for(waiting, LONG) == b"x"

        arun(main)


def test_another_process_switches_the_mode_for_a_moment(arun, patched):
    """Whoever shares a server's descriptor does so during an `accept`; that is not taken for the user's wish."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as sock:

        async def main():
            _original.set_blocking(server.fileno(), False)
            waiting = asyncio.ensure_future(to_greenlet(server.accept))
            await until_parked()
            _original.set_blocking(server.fileno(), True)
            asyncio.get_running_loop().call_later(SOON / 5, sock.connect, server.getsockname())
            accepted, _ = await waiting
            accepted.close()

        arun(main)
