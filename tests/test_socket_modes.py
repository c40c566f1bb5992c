"""Conformance of `socket.socket`: each body runs natively, patched, on adopted sockets and green, with one expectation.

native: nothing is patched. patched: everything is, and the body runs outside greenlets. adopted: so too, on sockets
that green code has adopted, TLS's way, which leaves the descriptor non-blocking. The rest: green, on a loop.
"""

from __future__ import annotations

import array
import asyncio
import ctypes
import errno
import io
import os
import select
import socket
import threading
import time
from contextlib import suppress

import pytest

from greenio import monkey, to_greenlet
from greenio._patches import _socket_state as patch
from tests.conftest import finish, new_loop

MODES = ["native", "patched", "adopted", "asyncio", "uvloop"]
TEXT = "^timed out$"
SHORT = 0.03
"""Seconds: a timeout that is waited for. Real time, since the clock is what is tested; bounded above generously."""


class Bench:
    """What a body gets: sockets that fit the mode, and threads that act meanwhile."""

    def __init__(self, mode):
        self.mode = mode
        self._made = []
        self._threads = []
        self._errors = []

    def take(self, sock, timeout=None):
        """Keep a socket for the time of the body, in the mode's state."""
        self._made.append(sock)
        sock.settimeout(timeout)
        if self.mode == "adopted":
            patch.adopt(sock, patch.state_of(sock))
        return sock

    def pair(self, kind="unix", timeout=None):
        """Make two connected sockets."""
        one, two = PAIRS[kind]()
        return self.take(one, timeout), self.take(two, timeout)

    def meanwhile(self, fn, *args):
        """Run something in a thread, a moment later."""

        def work():
            try:
                time.sleep(0.005)
                fn(*args)
            except BaseException as error:
                self._errors.append(error)

        thread = threading.Thread(target=work)
        self._threads.append(thread)
        thread.start()

    def close(self):
        for thread in self._threads:
            thread.join()
        for sock in self._made:
            sock.close()
        assert not self._errors, self._errors


def tcp_pair():
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = socket.create_connection(server.getsockname())
        two, _ = server.accept()
        return one, two


def udp_pair():
    one, two = socket.socket(type=socket.SOCK_DGRAM), socket.socket(type=socket.SOCK_DGRAM)
    for sock in (one, two):
        sock.bind(("127.0.0.1", 0))
    one.connect(two.getsockname())
    two.connect(one.getsockname())
    return one, two


PAIRS = {
    "tcp": tcp_pair,
    "udp": udp_pair,
    "unix": socket.socketpair,
    "datagrams": lambda: socket.socketpair(type=socket.SOCK_DGRAM),
}


@pytest.fixture(params=MODES)
def bench(request, tmp_path, monkeypatch):
    """Run a body: `bench(body)`, once for every mode."""
    monkeypatch.chdir(tmp_path)  # for short names of Unix sockets
    mode = request.param

    def go(body):
        bench = Bench(mode)
        try:
            body(bench)
        finally:
            bench.close()

    def run(body):
        if mode == "native":
            return go(body)
        with monkey.patched():
            if mode in ("patched", "adopted"):
                return go(body)
            loop = new_loop(mode)
            try:
                return loop.run_until_complete(to_greenlet(go, body))
            finally:
                finish(loop)

    return run


def _recv_into(sock, size, flags):
    buffer = bytearray(size)
    return bytes(buffer[: sock.recv_into(buffer, size, flags)])


def _recv_into_items(sock, size, flags):
    buffer = array.array("i", bytes(size * 4))
    count = sock.recv_into(buffer, size, flags)
    return buffer.tobytes()[:count]


def _recvfrom_into(sock, size, flags):
    buffer = bytearray(size)
    return bytes(buffer[: sock.recvfrom_into(buffer, size, flags)[0]])


def _recvmsg_into(sock, size, flags):
    first, second = bytearray(size // 2), bytearray(size - size // 2)
    count = sock.recvmsg_into(iter([first, second]), 0, flags)[0]
    return bytes((first + second)[:count])


READS = {
    "recv": lambda sock, size, flags: sock.recv(size, flags),
    "recv_into": _recv_into,
    "recv_into items": _recv_into_items,
    "recvfrom": lambda sock, size, flags: sock.recvfrom(size, flags)[0],
    "recvfrom_into": _recvfrom_into,
    "recvmsg": lambda sock, size, flags: sock.recvmsg(size, 0, flags)[0],
    "recvmsg_into": _recvmsg_into,
}
SENDS = {
    "send": lambda sock, data, flags: sock.send(data, flags),
    "sendall": lambda sock, data, flags: sock.sendall(data, flags) or len(data),
    "sendmsg": lambda sock, data, flags: sock.sendmsg(iter([data[:1], data[1:]]), [], flags),
}


def waits(call, *args, seconds=SHORT):
    """Check that a call times out, not early, and with the stdlib's text."""
    begun = time.monotonic()
    with pytest.raises(TimeoutError, match=TEXT):
        call(*args)
    assert seconds <= time.monotonic() - begun < seconds + 10


@pytest.mark.parametrize("kind", PAIRS)
def test_reads_and_sends(bench, kind):
    def body(b):
        for timeout in (None, 10):
            one, two = b.pair(kind, timeout)
            for read in READS.values():
                for send in SENDS.values():
                    assert send(one, b"early", 0) == 5
                    assert read(two, 100, 0) == b"early"
                    b.meanwhile(send, one, b"late", 0)
                    assert read(two, 100, 0) == b"late"

    bench(body)


def test_reads_time_out(bench):
    def body(b):
        for kind in ("tcp", "udp"):
            one, two = b.pair(kind, SHORT)
            for read in READS.values():
                waits(read, two, 10, 0)
            one.send(b"short")
            assert two.recv(100) == b"short"
            for read in READS.values():
                waits(read, two, 10, 0)

    bench(body)


def test_data_that_is_there_beats_the_smallest_timeout(bench):
    def body(b):
        one, two = b.pair("tcp")
        for read in READS.values():
            one.sendall(b"first")
            assert read(two, 100, 0) == b"first"
            one.sendall(b"second")
            two.settimeout(1e-6)
            assert read(two, 100, 0) == b"second"
            two.settimeout(None)

    bench(body)


def test_never_waits_when_non_blocking(bench):
    def body(b):
        one, two = b.pair("tcp", 0)
        assert two.gettimeout() == 0.0 and two.getblocking() is False and two.timeout == 0.0
        for read in READS.values():
            with pytest.raises(BlockingIOError):
                read(two, 10, 0)
        for send in SENDS.values():
            with pytest.raises(BlockingIOError):
                while True:
                    send(one, bytes(1 << 20), 0)
        with b.take(socket.create_server(("127.0.0.1", 0)), 0) as server:
            with pytest.raises(BlockingIOError):
                server.accept()
            with b.take(socket.socket(), 0) as client:
                with pytest.raises(BlockingIOError):
                    client.connect(server.getsockname())
            with b.take(socket.socket(), 0) as client:
                assert client.connect_ex(server.getsockname()) == errno.EINPROGRESS

    bench(body)


def test_dontwait_counts_only_without_a_timeout(bench):
    def body(b):
        one, two = b.pair("tcp")
        for read in READS.values():
            with pytest.raises(BlockingIOError):
                read(two, 10, socket.MSG_DONTWAIT)
        with pytest.raises(BlockingIOError):
            while True:
                one.send(bytes(1 << 20), socket.MSG_DONTWAIT)
        two.settimeout(SHORT)
        one, two = b.pair("tcp", SHORT)
        for read in READS.values():
            waits(read, two, 10, socket.MSG_DONTWAIT)

    bench(body)


def test_peek(bench):
    def body(b):
        one, two = b.pair("tcp", 10)
        for read in READS.values():
            b.meanwhile(one.sendall, b"peeked")
            assert read(two, 3, socket.MSG_PEEK) == b"peeked"[:3]
            assert read(two, 100, socket.MSG_PEEK)[:3] == b"pee"
            assert two.recv(6, socket.MSG_WAITALL) == b"peeked"

    bench(body)


def send_in_parts(sock):
    for part in (b"first ", b"second ", b"third"):
        sock.sendall(part)
        time.sleep(0.003)


def test_waitall_fills_the_buffer_without_a_timeout(bench):
    if not hasattr(socket, "MSG_WAITALL"):
        pytest.skip("no MSG_WAITALL here")

    def body(b):
        if b.mode == "adopted":
            return  # the descriptor does not block, so the kernel waits for nothing
        one, two = b.pair("tcp")
        for read in READS.values():
            b.meanwhile(send_in_parts, one)
            assert read(two, 18, socket.MSG_WAITALL) == b"first second third"
        for read in READS.values():
            one, two = b.pair("tcp")
            b.meanwhile(lambda one=one: one.sendall(b"end") or one.close())
            assert read(two, 18, socket.MSG_WAITALL) == b"end"
            assert read(two, 18, socket.MSG_WAITALL) == b""
        one, two = b.pair("tcp", 10)
        one.sendall(b"part")
        assert two.recv(18, socket.MSG_WAITALL) == b"part"

    bench(body)


def test_urgent_data(bench):
    def body(b):
        one, two = b.pair("tcp")
        with pytest.raises(OSError) as caught:
            two.recv(1, socket.MSG_OOB)
        assert caught.value.errno == errno.EINVAL
        for _ in range(3):
            one.sendall(b"abc")
            one.send(b"!", socket.MSG_OOB)
            one.sendall(b"def")
            # A read ends at the mark, and is short though more is there.
            assert two.recv(100) == b"abc"
            assert two.recv(1, socket.MSG_OOB) == b"!"
            assert two.recv(100) == b"def"
        b.meanwhile(one.sendall, b"normal")
        assert two.recv(100) == b"normal"

    bench(body)


def test_reads_of_nothing(bench):
    def body(b):
        one, two = b.pair("tcp")
        for _ in range(2):
            assert two.recv(0) == b""
            assert two.recv_into(bytearray()) == 0
            assert two.recv_into(bytearray(), 0) == 0
            one.sendall(b"short")
            assert two.recv(100) == b"short"
        assert one.send(b"") == 0
        assert one.sendall(b"") is None
        one, two = b.pair("udp")
        b.meanwhile(one.send, b"")
        assert two.recv(100) == b""

    bench(body)


def test_end_of_file_stays(bench):
    def body(b):
        one, two = b.pair("tcp")
        b.meanwhile(lambda: (one.sendall(b"last"), one.shutdown(socket.SHUT_WR)))
        assert two.recv(100) == b"last"
        for _ in range(2):
            for read in READS.values():
                assert read(two, 10, 0) == b""

    bench(body)


def test_reset_by_the_peer(bench):
    def body(b):
        for read in READS.values():
            one, two = b.pair("tcp")
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            b.meanwhile(one.close)
            with pytest.raises(ConnectionResetError) as caught:
                read(two, 10, 0)
            assert caught.value.errno == errno.ECONNRESET and caught.value.strerror == os.strerror(errno.ECONNRESET)
            assert read(two, 10, 0) == b""
            with pytest.raises(BrokenPipeError):
                for _ in range(2):
                    two.sendall(b"x")

    bench(body)


BIG = bytes(range(256)) * 20000


def drain(sock, expected, chunk=100_000):
    received = bytearray()
    while len(received) < len(expected):
        received += sock.recv(chunk)
    assert received == expected


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_more_than_the_buffers_hold(bench, kind):
    def body(b):
        for send in SENDS.values():
            one, two = b.pair(kind)
            b.meanwhile(drain, two, BIG)
            if b.mode == "adopted" and send is not SENDS["sendall"]:
                one.sendall(BIG)  # a non-blocking descriptor takes a part
            else:
                # Without a timeout the kernel takes everything before it returns, unless a signal comes natively.
                sent = send(one, BIG, 0)
                assert sent == len(BIG) or b.mode == "native"
                one.sendall(BIG[sent:])
        one, two = b.pair(kind, 10)
        b.meanwhile(drain, two, BIG)
        one.sendall(memoryview(array.array("H", BIG)))

    bench(body)


def test_send_with_a_timeout_takes_a_part(bench):
    def body(b):
        one, _ = b.pair("tcp", SHORT)
        assert 0 < one.send(bytes(1 << 26)) < 1 << 26
        for send in SENDS.values():
            begun = time.monotonic()
            with pytest.raises(TimeoutError, match=TEXT):
                while True:
                    send(one, bytes(1 << 20), 0)
            assert time.monotonic() - begun >= SHORT

    bench(body)


def test_sendall_has_one_deadline_for_all(bench):
    def body(b):
        one, two = b.pair("tcp", 0.1)
        stop = threading.Event()

        def sip():
            two.settimeout(10)
            while not stop.is_set():
                two.recv(20_000)
                time.sleep(0.001)

        b.meanwhile(sip)
        waits(one.sendall, bytes(1 << 27), seconds=0.1)
        stop.set()
        one.close()

    bench(body)


def test_datagrams_by_address(bench):
    def body(b):
        one, two = (b.take(socket.socket(type=socket.SOCK_DGRAM), 10) for _ in range(2))
        for sock in (one, two):
            sock.bind(("localhost", 0))
        address = two.getsockname()
        assert one.sendto(b"a", address) == 1
        assert one.sendto(b"b", 0, ("localhost", address[1])) == 1
        assert one.sendmsg([b"c", b"d"], [], 0, address) == 2
        assert [two.recvfrom(10) for _ in range(2)] == [(b"a", one.getsockname()), (b"b", one.getsockname())]
        data, ancillary, flags, sender = two.recvmsg(1)
        assert (data, ancillary, sender) == (b"c", [], one.getsockname()) and flags & socket.MSG_TRUNC
        b.meanwhile(one.sendto, b"late", address)
        buffer = bytearray(10)
        assert two.recvfrom_into(buffer) == (4, one.getsockname())
        assert two.getblocking() is True

    bench(body)


def test_datagrams_wait_for_room(bench):
    def body(b):
        one, two = b.pair("datagrams", SHORT)
        with pytest.raises(TimeoutError, match=TEXT):
            while True:
                one.send(b"x" * 1000)
        waits(one.sendall, b"x" * 1000)
        two.settimeout(10)
        b.meanwhile(lambda: [None for data in iter(lambda: two.recv(1000), b"y" * 1000)])
        one.settimeout(10)
        assert one.send(b"y" * 1000) == 1000

    bench(body)


def test_errors_of_datagrams(bench):
    def body(b):
        with b.take(socket.socket(type=socket.SOCK_DGRAM), 10) as gone:
            gone.bind(("127.0.0.1", 0))
            address = gone.getsockname()
        one = b.take(socket.socket(type=socket.SOCK_DGRAM), 10)
        one.connect(address)
        one.send(b"x")
        with pytest.raises(ConnectionRefusedError):
            one.recv(10)
        with pytest.raises(OSError) as caught:
            one.send(bytes(1 << 17))
        assert caught.value.errno == errno.EMSGSIZE

    bench(body)


def closed_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()


def test_connect(bench):
    def body(b):
        server = b.take(socket.create_server(("127.0.0.1", 0)), 10)
        address = server.getsockname()
        for timeout in (None, 10):
            client = b.take(socket.socket(), timeout)
            assert client.connect(address) is None
            peer, who = server.accept()
            assert who == client.getsockname() and peer.gettimeout() is None and peer.getblocking()
            again = client.connect_ex(address)
            assert again == errno.EISCONN or (timeout is not None and not again)  # zero after one that did not block
            assert client.connect_ex(address) == errno.EISCONN
            with pytest.raises(OSError) as caught:
                client.connect(address)
            assert caught.value.errno == errno.EISCONN
            peer.close()
            client = b.take(socket.socket(), timeout)
            assert client.connect_ex(("localhost", address[1])) == 0
            b.take(server.accept()[0])
            client = b.take(socket.socket(), timeout)
            with pytest.raises(ConnectionRefusedError) as caught:
                client.connect(closed_port())
            assert caught.value.args == (errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
            assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
            assert b.take(socket.socket(), timeout).connect_ex(closed_port()) == errno.ECONNREFUSED
            assert client.gettimeout() == timeout

    bench(body)


@pytest.mark.parametrize("method", ["connect", "connect_ex"])
def test_connect_again_after_a_refusal(bench, method):
    def body(b):
        server = b.take(socket.socket())
        server.bind(("127.0.0.1", 0))
        address = server.getsockname()
        client = b.take(socket.socket())
        assert [refusal(getattr(client, method), address) for _ in range(3)] == [errno.ECONNREFUSED] * 3
        assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        server.listen()
        assert not getattr(client, method)(address)
        assert client.connect_ex(address) == errno.EISCONN

    bench(body)


def refusal(connect, address):
    """Tell the errno of a connect, which `connect_ex` returns and `connect` raises."""
    try:
        return connect(address)
    except OSError as error:
        return error.errno


def full_listener(b):
    """A TCP listener that answers no more: its backlog is full."""
    server = b.take(socket.socket())
    server.bind(("127.0.0.1", 0))
    server.listen(0)
    while True:
        client = b.take(socket.socket(), 0)
        client.connect_ex(server.getsockname())
        time.sleep(0.01)
        try:
            client.getpeername()
        except OSError:
            return server


def test_connect_times_out(bench):
    def body(b):
        server = full_listener(b)
        waits(b.take(socket.socket(), SHORT).connect, server.getsockname())
        assert b.take(socket.socket(), SHORT).connect_ex(server.getsockname()) == errno.EWOULDBLOCK
        begun = time.monotonic()
        with pytest.raises(TimeoutError, match=TEXT):
            socket.create_connection(server.getsockname(), SHORT)
        assert time.monotonic() - begun >= SHORT

    bench(body)


def test_full_backlog_of_a_unix_socket(bench):
    def body(b):
        server = b.take(socket.socket(socket.AF_UNIX))
        server.bind("listener")
        server.listen(0)
        with pytest.raises(BlockingIOError):
            while True:
                b.take(socket.socket(socket.AF_UNIX), 0).connect("listener")
        with pytest.raises(BlockingIOError):
            b.take(socket.socket(socket.AF_UNIX), 10).connect("listener")
        assert b.take(socket.socket(socket.AF_UNIX), 10).connect_ex("listener") == errno.EAGAIN
        if b.mode != "adopted":
            b.meanwhile(lambda: b.take(server.accept()[0]))
            b.take(socket.socket(socket.AF_UNIX)).connect("listener")

    bench(body)


def test_a_crowd_of_unix_clients(arun, patched, tmp_path):
    """They come all at once, and the server is on the same loop: with a time limit too, it has a turn to accept."""
    path = str(tmp_path / "listener")

    async def main():
        def serve():
            for _ in range(10):
                server.accept()[0].close()

        def connect():
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(5)
                client.connect(path)

        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path)
            server.listen(2)
            await asyncio.gather(to_greenlet(serve), *(to_greenlet(connect) for _ in range(10)))

    arun(main)


def test_unix_errors(bench):
    def body(b):
        sock = b.take(socket.socket(socket.AF_UNIX), 10)
        with pytest.raises(FileNotFoundError):
            sock.connect("nobody")
        assert sock.connect_ex("nobody") == errno.ENOENT
        with b.take(socket.socket(socket.AF_UNIX)) as server:
            server.bind("refused")
        assert sock.connect_ex("refused") == errno.ECONNREFUSED

    bench(body)


def test_accept(bench):
    def body(b):
        for timeout in (None, 10):
            server = b.take(socket.create_server(("127.0.0.1", 0)), timeout)
            b.meanwhile(lambda server=server: b.take(socket.create_connection(server.getsockname())))
            sock, address = server.accept()
            b.take(sock)
            assert sock.getpeername() == address and type(sock) is socket.socket and not sock.get_inheritable()
            assert server.gettimeout() == timeout
        server.settimeout(SHORT)
        waits(server.accept)
        with pytest.raises(OSError) as caught:
            b.take(socket.socket(), 10).accept()
        assert caught.value.errno == errno.EINVAL

    bench(body)


def test_default_timeout(bench):
    def body(b):
        socket.setdefaulttimeout(SHORT)
        try:
            with socket.create_server(("127.0.0.1", 0)) as server:
                assert server.gettimeout() == SHORT
                waits(server.accept)
                with socket.create_connection(server.getsockname()) as client:
                    peer, _ = server.accept()
                    assert client.gettimeout() == peer.gettimeout() == SHORT
                    with peer:
                        waits(peer.recv, 10)
        finally:
            socket.setdefaulttimeout(None)

    bench(body)


def test_timeouts_are_told_as_they_were_set(bench):
    def body(b):
        one, _ = b.pair("tcp")
        for value in (5, 0.25, None, 0, 1e-9, True, 3600.5, None, 0.0, 7):
            one.settimeout(value)
            expected = None if value is None else float(value)
            assert one.gettimeout() == one.timeout == expected
            assert type(one.gettimeout()) is type(expected)
            assert one.getblocking() is (expected != 0)
            if expected is not None or b.mode != "adopted":
                assert os.get_blocking(one.fileno()) is (expected is None)
        for flag in (True, False, 1, 0):
            one.setblocking(flag)
            assert one.getblocking() is bool(flag) and one.gettimeout() == (None if flag else 0.0)
        for value, error in ((-1, ValueError), ("1", TypeError), (1e300, OverflowError), (float("nan"), ValueError)):
            with pytest.raises(error):
                one.settimeout(value)
            assert one.gettimeout() == 0.0
        with pytest.raises(AttributeError):
            one.timeout = 5
        assert socket.socket.timeout is not None

    bench(body)


def test_makefile(bench):
    def body(b):
        one, two = b.pair("tcp")
        with one.makefile("rwb") as near, two.makefile("rw", encoding="utf-8", newline="\n") as far:
            b.meanwhile(lambda: (far.write("l\u00efne\nrest"), far.flush(), two.shutdown(socket.SHUT_WR)))
            assert near.readline() == "l\u00efne\n".encode()
            assert near.read() == b"rest"
            near.write(b"answer\n" * 3)
            near.flush()
            assert [far.readline() for _ in range(3)] == ["answer\n"] * 3
        one, two = b.pair("tcp", SHORT)
        with one.makefile("rb") as near:
            waits(near.readline)
            with pytest.raises(OSError, match="cannot read from timed out object"):
                near.readline()
        one, two = b.pair("tcp", 0)
        with one.makefile("rb", buffering=0) as near:
            assert near.read(10) is None
        one, two = b.pair("tcp")
        near = one.makefile("rb")
        one.close()
        b.meanwhile(two.sendall, b"after close\n")
        assert near.readline() == b"after close\n"
        near.close()
        with pytest.raises(OSError) as caught:
            one.recv(10)
        assert caught.value.errno == errno.EBADF

    bench(body)


def test_duplicates(bench):
    def body(b):
        one, two = b.pair("tcp", 10)
        with one.dup() as copy:
            assert copy.gettimeout() == 10 and type(copy) is socket.socket
            b.meanwhile(two.sendall, b"to the copy")
            assert copy.recv(100) == b"to the copy"
        b.meanwhile(two.sendall, b"to the first")
        assert one.recv(100) == b"to the first"
        with socket.fromfd(one.fileno(), one.family, one.type) as copy:
            assert copy.gettimeout() is None
            b.meanwhile(two.sendall, b"more")
            copy.settimeout(10)
            assert copy.recv(100) == b"more"
        fd = one.detach()
        assert one.fileno() == -1 and one.gettimeout() == 10
        with pytest.raises(OSError) as caught:
            one.recv(10)
        assert caught.value.errno == errno.EBADF
        with socket.socket(fileno=fd) as again:
            again.settimeout(10)
            b.meanwhile(two.sendall, b"again")
            assert again.recv(100) == b"again"

    bench(body)


def test_detached_after_its_number_was_closed(bench):
    def body(b):
        for timeout in (None, 10, 0):
            one, two = b.pair("tcp", timeout)
            two.sendall(b"x")
            assert wait_for_data(one).recv(10) == b"x"
            fd = one.fileno()
            os.close(fd)
            assert one.detach() == fd
            assert one.fileno() == -1 and one.gettimeout() == timeout

    bench(body)


def wait_for_data(sock):
    """Return a socket when there is something to read."""
    assert select.select([sock], [], [], 10)[0]
    return sock


def test_a_duplicate_may_change_the_shared_mode(bench):
    def body(b):
        server = b.take(socket.create_server(("127.0.0.1", 0)), SHORT)
        waits(server.accept)
        with server.dup() as copy:
            copy.settimeout(None)  # both share the descriptor's mode
            waits(server.accept)

    bench(body)


def test_sendfile(bench, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(BIG)

    def body(b):
        for timeout in (None, 10):
            for offset, count in ((0, None), (1000, None), (5, 300_000), (0, len(BIG) + 5), (len(BIG) - 1, 10)):
                one, two = b.pair("tcp", timeout)
                expected = BIG[offset:][:count]
                b.meanwhile(drain, two, expected)
                with path.open("rb") as file:
                    assert one.sendfile(file, offset, count) == len(expected)
                    assert file.tell() == offset + len(expected)
        one, two = b.pair("tcp", 10)
        b.meanwhile(drain, two, BIG[:50_000])
        assert one.sendfile(io.BytesIO(BIG[:50_000])) == 50_000
        with path.open("rb") as file:
            file.seek(len(BIG))
            assert one.sendfile(file, len(BIG)) == 0
        empty = tmp_path / "empty"
        empty.touch()
        with empty.open("rb") as file:
            assert one.sendfile(file) == 0

    bench(body)


def test_sendfile_errors(bench, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(BIG)

    def body(b):
        one, two = b.pair("tcp", SHORT)
        with path.open("rb") as file, path.open() as text:
            for count, error in ((0, ValueError), (-1, ValueError), (1.5, TypeError)):
                with pytest.raises(error):
                    one.sendfile(file, 0, count)
            with pytest.raises(ValueError, match="binary mode"):
                one.sendfile(text)
            with pytest.raises(ValueError, match="SOCK_STREAM"):
                b.pair("udp")[0].sendfile(file)
            waits(one.sendfile, file)
            assert 0 < file.tell() < len(BIG)
            one.settimeout(0)
            with pytest.raises(ValueError, match="non-blocking"):
                one.sendfile(file)
            two.close()
            one, two = b.pair("tcp", 10)
            one.shutdown(socket.SHUT_WR)
            with pytest.raises(BrokenPipeError):
                one.sendfile(file)

    bench(body)


def test_sendfile_to_nobody_takes_its_timeout_once(bench, tmp_path):
    """After the deadline a little finds room, below what tells that there is some: that is no new beginning."""
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(30_000_000)

    def body(b):
        one, _ = b.pair("tcp", 0.5)
        with path.open("rb") as file:
            began = time.monotonic()
            with pytest.raises(TimeoutError):
                one.sendfile(file)
            assert 0.49 < time.monotonic() - began < 0.99
            assert 0 < file.tell() < 30_000_000

    bench(body)


@pytest.mark.parametrize("kind", [socket.SOCK_SEQPACKET, socket.SOCK_DGRAM])
@pytest.mark.parametrize("empty", [b"", bytearray()])
def test_an_empty_message_waits_for_room(bench, kind, empty):
    def body(b):
        one, two = (b.take(sock, 10) for sock in socket.socketpair(socket.AF_UNIX, kind))
        one.sendall(empty)
        assert two.recv(10) == b""
        for timeout in (None, 10):
            one.setblocking(False)
            count = 0
            with suppress(BlockingIOError):
                while True:
                    one.send(b"x")
                    count += 1
            one.settimeout(SHORT)
            waits(one.sendall, empty)
            one.settimeout(timeout)
            received = []
            b.meanwhile(lambda count=count, received=received: received.extend(two.recv(9) for _ in range(count + 1)))
            one.sendall(empty)
            while len(received) <= count:
                time.sleep(0.001)
            assert received == [b"x"] * count + [b""]

    bench(body)


def test_recv_into_any_shape(bench):
    def body(b):
        one, two = b.pair("unix", 10)
        for view in (
            memoryview(ctypes.c_int()),
            memoryview(array.array("i", [0])),
            memoryview(bytearray(4)).cast("B", (2, 2)),
        ):
            for flags in (0, socket.MSG_WAITALL):
                one.sendall(b"abcd")
                assert two.recv_into(view, 0, flags) == 4
                assert view.tobytes() == b"abcd"

    bench(body)


def test_descriptors_travel(bench):
    def body(b):
        for timeout in (None, 10):
            one, two = b.pair("unix", timeout)
            reader, writer = os.pipe()
            try:
                b.meanwhile(socket.send_fds, one, [b"fds"], [writer])
                data, fds, _, _ = socket.recv_fds(two, 100, 4)
                assert data == b"fds" and len(fds) == 1
                os.write(fds[0], b"through")
                os.close(fds[0])
                assert os.read(reader, 100) == b"through"
                # A read ends where a message with descriptors does, and is short though more is there.
                for _ in range(2):
                    one.sendall(b"before")
                    assert two.recv(100) == b"before"
                    socket.send_fds(one, [b"x"], [reader])
                    one.sendall(b"after")
                    assert two.recv(100) == b"x"
                    assert two.recv(100) == b"after"
                buffer = bytearray(5)
                socket.send_fds(one, [b"x"], [reader])
                one.sendall(b"after")
                count, ancillary, _, _ = two.recvmsg_into([buffer], socket.CMSG_SPACE(4), socket.MSG_WAITALL)
                assert buffer[:count] == b"x" and len(ancillary) == 1
                os.close(int.from_bytes(ancillary[0][2][:4], "little"))
                assert two.recv(100) == b"after"
            finally:
                os.close(reader)
                os.close(writer)

    bench(body)


def test_module_functions(bench):
    def body(b):
        with socket.create_server(("127.0.0.1", 0), backlog=5, reuse_port=True) as server:
            b.meanwhile(lambda: b.take(server.accept()[0]).sendall(b"welcome"))
            with socket.create_connection(("localhost", server.getsockname()[1]), timeout=10) as client:
                assert client.gettimeout() == 10
                assert client.recv(100) == b"welcome"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(closed_port(), timeout=10)
        with pytest.raises(socket.gaierror):
            socket.create_connection(("nosuch.invalid", 80), timeout=10)
        one, two = socket.socketpair()
        with one, two:
            socket.close(one.detach())
            assert two.recv(10) == b""
        with pytest.raises(OSError) as caught:
            socket.close(1 << 20)
        assert caught.value.errno == errno.EBADF

    bench(body)


def test_a_subclass(bench):
    class Counting(socket.socket):
        calls = 0

        def recv(self, *args):
            self.calls += 1
            return super().recv(*args)

    def body(b):
        one, two = b.pair("tcp")
        with Counting(fileno=two.detach()) as sock:
            b.meanwhile(one.sendall, b"counted")
            assert sock.recv(100) == b"counted" and sock.calls == 1

    bench(body)


def wrong_calls():
    """Calls that must fail in the same way, whatever the mode; `sock` is an open stream socket."""
    return {
        "recv": lambda sock: sock.recv(),
        "recv text": lambda sock: sock.recv("1"),
        "recv negative": lambda sock: sock.recv(-1),
        "recv huge": lambda sock: sock.recv(1 << 70),
        "recv flags": lambda sock: sock.recv(1, "x"),
        "recv no number": lambda sock: sock.recv(1, None),
        "recv float": lambda sock: sock.recv(1, 0.0),
        "recv list": lambda sock: sock.recv(1, []),
        "recv float size": lambda sock: sock.recv(0.0),
        "recv text and flags": lambda sock: sock.recv("1", "x"),
        "recv_into no number": lambda sock: sock.recv_into(bytearray(1), 0, None),
        "recv_into float": lambda sock: sock.recv_into(bytearray(1), 0, 0.0),
        "recv_into none size": lambda sock: sock.recv_into(bytearray(1), None),
        "recv_into text size": lambda sock: sock.recv_into(bytearray(1), "x"),
        "recv_into all but the size": lambda sock: sock.recv_into(bytearray(1), "x", socket.MSG_WAITALL),
        "recv_into size and flags": lambda sock: sock.recv_into(bytearray(1), "x", 1.5),
        "recv_into none": lambda sock: sock.recv_into(None, "x"),
        "recv_into bytes and text": lambda sock: sock.recv_into(b"fixed", "x", "y"),
        "recv_into bytes": lambda sock: sock.recv_into(b"fixed"),
        "recv_into text": lambda sock: sock.recv_into("text"),
        "recv_into more": lambda sock: sock.recv_into(bytearray(1), 2),
        "recv_into negative": lambda sock: sock.recv_into(bytearray(1), -2),
        "recv_into all": lambda sock: sock.recv_into(bytearray(1), 2, socket.MSG_WAITALL),
        "recv_into all of bytes": lambda sock: sock.recv_into(b"fixed", 2, socket.MSG_WAITALL),
        "recvfrom negative": lambda sock: sock.recvfrom(-1),
        "recvfrom no number": lambda sock: sock.recvfrom(None),
        "recvfrom flags": lambda sock: sock.recvfrom(1, None),
        "recvfrom_into": lambda sock: sock.recvfrom_into(b"fixed"),
        "recvfrom_into flags": lambda sock: sock.recvfrom_into(bytearray(1), 0, None),
        "recvfrom_into none": lambda sock: sock.recvfrom_into(None, "x"),
        "recvmsg negative": lambda sock: sock.recvmsg(-1),
        "recvmsg ancillary": lambda sock: sock.recvmsg(1, -1),
        "recvmsg no number": lambda sock: sock.recvmsg(None),
        "recvmsg flags": lambda sock: sock.recvmsg(1, 0, 0.0),
        "recvmsg_into flags": lambda sock: sock.recvmsg_into([bytearray(1)], 0, None),
        "recvmsg_into none": lambda sock: sock.recvmsg_into(None),
        "recvmsg_into": lambda sock: sock.recvmsg_into([b"fixed"]),
        "recvmsg_into number": lambda sock: sock.recvmsg_into([1]),
        "send text": lambda sock: sock.send("text"),
        "send flags": lambda sock: sock.send(b"x", "x"),
        "send no number": lambda sock: sock.send(b"x", None),
        "send float": lambda sock: sock.send(b"x", 0.0),
        "send text and flags": lambda sock: sock.send("text", None),
        "sendall no number": lambda sock: sock.sendall(b"x", None),
        "sendall float": lambda sock: sock.sendall(b"x", 0.0),
        "sendall text": lambda sock: sock.sendall("text"),
        "sendall strided": lambda sock: sock.sendall(memoryview(b"abcd")[::2]),
        "sendto": lambda sock: sock.sendto(b"x", "address"),
        "sendto flags": lambda sock: sock.sendto(b"x", "x", ("127.0.0.1", 1)),
        "sendto no number": lambda sock: sock.sendto(b"x", None, ("127.0.0.1", 1)),
        "sendto port": lambda sock: sock.sendto(b"x", ("nosuch.invalid", None)),
        "sendmsg": lambda sock: sock.sendmsg([1]),
        "sendmsg flags": lambda sock: sock.sendmsg([b"x"], [], None),
        "sendmsg ancillary": lambda sock: sock.sendmsg([b"x"], [(1, 2)]),
        "sendmsg number": lambda sock: sock.sendmsg(1),
        "connect text": lambda sock: sock.connect("address"),
        "connect short": lambda sock: sock.connect(("127.0.0.1",)),
        "connect short name": lambda sock: sock.connect(("nosuch.invalid",)),
        "connect long name": lambda sock: sock.connect(("nosuch.invalid", 1, 2)),
        "connect name and port": lambda sock: sock.connect(("nosuch.invalid", "80")),
        "connect_ex name and port": lambda sock: sock.connect_ex(("nosuch.invalid", 80.0)),
        "bind name and port": lambda sock: sock.bind(("nosuch.invalid", None)),
        "connect port": lambda sock: sock.connect(("127.0.0.1", "80")),
        "connect big port": lambda sock: sock.connect(("127.0.0.1", 1 << 17)),
        "connect host": lambda sock: sock.connect((1, 2)),
        "connect_ex text": lambda sock: sock.connect_ex("address"),
        "connect name": lambda sock: sock.connect(("nosuch.invalid", 1)),
        "connect_ex name": lambda sock: sock.connect_ex(("nosuch.invalid", 1)),
        "bind": lambda sock: sock.bind("address"),
        "bind name": lambda sock: sock.bind(("nosuch.invalid", 1)),
        "settimeout": lambda sock: sock.settimeout("1"),
        "settimeout list": lambda sock: sock.settimeout([]),
        "settimeout nan": lambda sock: sock.settimeout(float("nan")),
        "shutdown": lambda sock: sock.shutdown(99),
    }


def outcomes():
    found = {}
    one, two = tcp_pair()
    with one, two:
        two.sendall(bytes(1000))  # for a call that goes through
        for name, call in wrong_calls().items():
            for timeout in (None, 5, 0):
                one.settimeout(timeout)
                try:
                    found[name, timeout] = repr(call(one))
                except Exception as error:
                    found[name, timeout] = (type(error), error.args)
                assert one.gettimeout() == timeout, name
    return found


MISSING = "recv"
"""The one whose text is that of a Python function."""


def test_wrong_arguments_raise_as_natively(arun):
    native = outcomes()
    assert all(isinstance(outcome, tuple) for outcome in native.values()), native
    with monkey.patched():
        patched, green = outcomes(), arun(lambda: to_greenlet(outcomes))
    for key, outcome in native.items():
        for other in (patched[key], green[key]):
            assert other[0] is outcome[0], key
            if key[0] != MISSING:
                assert other == outcome, key


class Number:
    """A number that is no int."""

    def __init__(self, value):
        self.value = value

    def __index__(self):
        return self.value


def test_numbers_that_are_no_ints(bench):
    def body(b):
        for timeout in (None, 10):
            one, two = b.pair("tcp", timeout)
            b.meanwhile(two.sendall, b"12345678")
            buffer = bytearray(4)
            assert one.recv(Number(1)) == b"1"
            assert one.recv_into(buffer, Number(1), Number(0)) == 1 and buffer[0:1] == b"2"
            assert one.recvfrom(Number(1))[0] == b"3"
            assert one.recvfrom_into(buffer, Number(1))[0] == 1 and buffer[0:1] == b"4"
            assert one.recvmsg(Number(1))[0] == b"5"
            assert one.recvfrom(Number(2), socket.MSG_WAITALL)[0] == b"67"
            assert one.recv_into(buffer, Number(1), socket.MSG_WAITALL) == 1 and buffer[0:1] == b"8"
            assert one.sendmsg([b"x"], [], Number(0)) == one.send(memoryview(b"x"), Number(0)) == 1

    bench(body)


def flag_outcomes():
    """CPython 3.12 takes any object as a flag, earlier ones take whole numbers alone."""
    found = []
    one, two = tcp_pair()
    with one, two:
        two.sendall(b"x")
        assert wait_for_data(one).recv(10) == b"x"
        for flag in ("x", "", None, [], 0.0, 1.5, b"1", Number(0), Number(1), True, 0):
            one.settimeout(5)
            try:
                outcome = one.setblocking(flag)
            except Exception as error:
                outcome = type(error), error.args
            found.append((outcome, one.gettimeout(), one.getblocking(), os.get_blocking(one.fileno())))
    return found


def test_setblocking_takes_what_it_takes_natively(arun):
    native = flag_outcomes()
    with monkey.patched():
        assert flag_outcomes() == native
        assert arun(lambda: to_greenlet(flag_outcomes)) == native


def closed_outcomes():
    found = {}
    calls = {
        **{name: lambda sock, read=read: read(sock, 10, 0) for name, read in READS.items()},
        **{name: lambda sock, send=send: send(sock, b"data", 0) for name, send in SENDS.items()},
        "sendto": lambda sock: sock.sendto(b"x", ("127.0.0.1", 1)),
        "connect": lambda sock: sock.connect(("127.0.0.1", 1)),
        "connect_ex": lambda sock: sock.connect_ex(("127.0.0.1", 1)),
        "accept": lambda sock: sock.accept(),
        "shutdown": lambda sock: sock.shutdown(socket.SHUT_RD),
        "settimeout": lambda sock: sock.settimeout(5),
        "gettimeout": lambda sock: sock.gettimeout(),
        "detach": lambda sock: sock.detach(),
        "dup": lambda sock: sock.dup(),
        "close": lambda sock: sock.close(),
    }
    for name, call in calls.items():
        for timeout in (None, 5):
            sock = socket.socket()
            sock.settimeout(timeout)
            sock.close()
            try:
                found[name, timeout] = repr(call(sock))
            except Exception as error:
                found[name, timeout] = (type(error), error.args)
    return found


def test_closed_sockets_behave_as_natively(arun):
    native = closed_outcomes()
    with monkey.patched():
        assert closed_outcomes() == native
        assert arun(lambda: to_greenlet(closed_outcomes)) == native


@pytest.mark.skipif(not hasattr(socket, "AF_ALG"), reason="needs the kernel's crypto sockets")
def test_sendmsg_afalg(bench):
    def body(b):
        try:
            algorithm = b.take(socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET))
            algorithm.bind(("hash", "sha256"))
        except OSError as error:
            pytest.skip(f"the kernel has no AF_ALG hashes: {error}")
        operation, _ = algorithm.accept()
        with operation:
            operation.sendall(b"abc")
            assert operation.recv(32).hex().startswith("ba7816bf")

    bench(body)


def test_a_look_without_waiting(bench):
    """settimeout(0), recv, settimeout(5), as pools of connections do it: nothing but the look is different."""

    def body(bench):
        one, two = bench.pair("tcp", timeout=5)
        two.sendall(b"first")
        assert one.recv(100) == b"first"
        for _ in range(2):
            one.settimeout(0)
            assert (one.gettimeout(), one.getblocking(), os.get_blocking(one.fileno())) == (0.0, False, False)
            with pytest.raises(BlockingIOError):
                one.recv(100)
            with pytest.raises(BlockingIOError):
                one.recv_into(bytearray(100))
            one.settimeout(5)
            assert (one.gettimeout(), one.getblocking(), os.get_blocking(one.fileno())) == (5.0, True, False)
            bench.meanwhile(two.sendall, b"next")
            assert one.recv(100) == b"next"
        one.settimeout(SHORT)
        with pytest.raises(TimeoutError, match=TEXT):
            one.recv(100)

    bench(body)


def test_no_timeout_makes_sure_of_the_descriptors_mode(bench):
    def body(bench):
        one, _ = bench.pair("tcp", timeout=5)
        one.settimeout(SHORT)
        with pytest.raises(TimeoutError, match=TEXT):
            one.recv(100)
        os.set_blocking(one.fileno(), True)  # by way of a duplicate, or in another process
        one.settimeout(0)
        assert not os.get_blocking(one.fileno())
        with pytest.raises(BlockingIOError):
            one.recv(100)

    bench(body)


def test_what_looked_without_waiting_is_put_back():
    one, two = socket.socketpair()

    async def main():
        await to_greenlet(look)

    def look():
        one.settimeout(5)
        one.settimeout(0)
        with pytest.raises(BlockingIOError):
            one.recv(1)
        one.settimeout(5)

    loop = new_loop("asyncio")
    try:
        with one, two, monkey.patched():
            loop.run_until_complete(main())
            assert patch._C.gettimeout(one) == 0.0
            monkey.unpatch_all()
            assert patch._C.gettimeout(one) == 5.0
    finally:
        finish(loop)
