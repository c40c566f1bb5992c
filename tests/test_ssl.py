"""`ssl.SSLSocket` in green code: what it means is what it means natively, and everything that waits parks."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import re
import socket
import ssl
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import urllib3

import tls
from conftest import KINDS, Run, finish, new_loop
from greenio import await_, monkey, spawn, to_greenlet
from greenio._patches import _certificates
from waiting import until

Play = Callable[..., list[Any]]


def _in_threads(*functions: Callable[[], Any]) -> list[Any]:
    """Run functions side by side in threads, and return their results or the first error."""
    results: list[Any] = [None] * len(functions)
    errors: list[BaseException] = []

    def call(index: int) -> None:
        try:
            results[index] = functions[index]()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=call, args=(index,), daemon=True) for index in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    if errors:
        raise errors[0]
    assert not any(thread.is_alive() for thread in threads)
    return results


@pytest.fixture(params=["native", *KINDS])
def play(request: pytest.FixtureRequest) -> Iterator[Play]:
    """Run functions side by side: once natively in threads, and green on every kind of loop."""
    if request.param == "native":
        yield _in_threads
        return

    def run(*functions: Callable[[], Any]) -> list[Any]:
        async def main() -> list[Any]:
            return list(await asyncio.gather(*(to_greenlet(function) for function in functions)))

        loop = new_loop(request.param)
        try:
            return loop.run_until_complete(main())
        finally:
            finish(loop)

    with monkey.patched():
        yield run


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two connected sockets."""
    a, b = socket.socketpair()
    with a, b:
        yield a, b


@pytest.fixture
def small_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two connected sockets that hold next to nothing."""
    a, b = tls.small_pair()
    with a, b:
        yield a, b


def _text(error: BaseException) -> str:
    return re.sub(r"^_ssl\.c:(\d+:)? ?", "", str(error)).partition(" (_ssl")[0]


# What means the same natively and green.


def test_certificates_of_authorities(play: Play, tmp_path: Path) -> None:
    pem = tls.authority().cert_pem.bytes()
    file = tmp_path / "authority.pem"
    file.write_bytes(pem)

    def load() -> list[int]:
        counts = []
        for how in ({"cafile": file}, {"cadata": pem.decode()}, {"capath": tmp_path}):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_verify_locations(**how)  # type: ignore[arg-type]
            counts.append(len(context.get_ca_certs()))
        ssl.create_default_context()
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).set_default_verify_paths()
        for wrong in ({}, {"cafile": 1}, {"cafile": "/nowhere"}):
            with pytest.raises((TypeError, FileNotFoundError)):
                context.load_verify_locations(**wrong)  # type: ignore[arg-type]
        return counts

    assert play(load, load) == [[1, 1, 0]] * 2


def test_certificates_without_an_executor(arun: Run, patched: None) -> None:
    """A loop that is about to end has none left."""

    async def main() -> None:
        await asyncio.get_running_loop().shutdown_default_executor()
        context = await to_greenlet(ssl.create_default_context)
        assert context.check_hostname

    arun(main)


def test_certificates_are_read_elsewhere(arun: Run, patched: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenSSL needs tens of milliseconds for those of a system."""

    async def main() -> None:
        entered, left = threading.Event(), threading.Event()

        def slow(*_: Any) -> None:
            entered.set()
            assert left.wait(20)

        monkeypatch.setattr(_certificates, "_native_default", slow)
        monkeypatch.setattr(_certificates, "_native_load", slow)
        for load in (
            lambda context: context.load_default_certs(),
            lambda context: context.load_verify_locations("anything"),
            lambda context: context.load_verify_locations(capath="anything"),
        ):
            entered.clear(), left.clear()
            loading = asyncio.ensure_future(to_greenlet(load, ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)))
            await until(entered.is_set)
            assert not loading.done()
            left.set()
            await loading

    arun(main)


@pytest.mark.parametrize("size", [0, 1, 16384, 16385, 3_000_000])
@pytest.mark.parametrize("timeout", [None, 20])
def test_echo(play: Play, pair: tuple[socket.socket, socket.socket], size: int, timeout: float | None) -> None:
    data = os.urandom(size)
    for end in pair:
        end.settimeout(timeout)

    def server() -> None:
        with tls.serve(pair[1]) as connection:
            received = b""
            while len(received) < size:
                received += connection.recv(65536)
            connection.sendall(received)

    def client() -> bytes:
        with tls.join(pair[0]) as connection:
            assert connection.gettimeout() == timeout
            connection.sendall(data)
            with connection.makefile("rb") as file:
                return file.read()

    assert play(server, client)[1] == data


def test_recv_into_read_write_and_pending(play: Play, pair: tuple[socket.socket, socket.socket]) -> None:
    def server() -> None:
        with tls.serve(pair[1]) as connection:
            assert connection.write(b"0123456789") == 10
            assert connection.read() == b"thanks"

    def client() -> None:
        with tls.join(pair[0]) as connection:
            buffer = bytearray(4)
            assert connection.recv_into(buffer) == 4
            assert buffer == b"0123"
            assert connection.pending() == 6
            assert connection.read(1) == b"4"
            assert connection.read(3, buffer) == 3
            assert connection.recv_into(buffer, 1) == 1
            assert buffer == b"8673"
            assert connection.recv(5) == b"9"
            assert connection.pending() == 0
            assert connection.read(0) == b""
            assert connection.recv_into(bytearray()) == 0
            with pytest.raises(ValueError):
                connection.read(-1)
            with pytest.raises(TypeError):
                connection.read(1, b"read-only")  # type: ignore[arg-type]
            assert connection.version() == "TLSv1.3"
            assert connection.send(b"thanks") == 6

    play(server, client)


def test_calls_that_tls_does_not_know(play: Play, pair: tuple[socket.socket, socket.socket]) -> None:
    def client() -> None:
        with tls.join(pair[0]) as connection:
            for call in (
                lambda: connection.recvfrom(1),
                lambda: connection.recvfrom_into(bytearray(1)),
                lambda: connection.sendto(b"x", ("127.0.0.1", 1)),
                lambda: connection.recv(1, socket.MSG_PEEK),
                lambda: connection.recv_into(bytearray(1), 1, socket.MSG_PEEK),
                lambda: connection.send(b"x", socket.MSG_OOB),
                lambda: connection.sendall(b"x", socket.MSG_OOB),
            ):
                with pytest.raises(ValueError):
                    call()
            for call in (
                lambda: connection.recvmsg(1),
                lambda: connection.recvmsg_into([bytearray(1)]),
                lambda: connection.sendmsg([b"x"]),
                connection.dup,
            ):
                with pytest.raises(NotImplementedError):
                    call()

    play(lambda: tls.serve(pair[1]).close(), client)


def test_handshake_timeout(play: Play, pair: tuple[socket.socket, socket.socket]) -> None:
    pair[0].settimeout(0.05)

    def client() -> None:
        with pytest.raises(TimeoutError) as caught:
            tls.join(pair[0])
        assert _text(caught.value) == "The handshake operation timed out"

    play(client)


def test_read_timeout(play: Play, pair: tuple[socket.socket, socket.socket]) -> None:
    def client() -> None:
        with tls.join(pair[0]) as connection:
            connection.settimeout(0.05)
            for _ in range(2):
                with pytest.raises(TimeoutError) as caught:
                    connection.recv(10)
                assert _text(caught.value) == "The read operation timed out"
            connection.settimeout(20)
            connection.sendall(b"go on")
            assert connection.recv(10) == b"all right"

    def server() -> None:
        with tls.serve(pair[1]) as connection:
            assert connection.recv(10) == b"go on"
            connection.sendall(b"all right")

    play(server, client)


def test_write_timeout(play: Play, pair: tuple[socket.socket, socket.socket]) -> None:
    held, released = socket.socketpair()

    def server() -> None:
        with tls.serve(pair[1]):
            released.recv(1)

    def client() -> None:
        with tls.join(pair[0]) as connection:
            connection.settimeout(0.05)
            with pytest.raises(TimeoutError) as caught:
                connection.sendall(b"x" * 10_000_000)
            assert _text(caught.value) == "The write operation timed out"
            held.sendall(b"!")

    with held, released:
        play(server, client)


def test_unwrap_timeout(play: Play, pair: tuple[socket.socket, socket.socket]) -> None:
    held, released = socket.socketpair()

    def server() -> None:
        with tls.serve(pair[1]):
            released.recv(1)

    def client() -> None:
        with tls.join(pair[0]) as connection:
            connection.settimeout(0.05)
            with pytest.raises(TimeoutError) as caught:
                connection.unwrap()
            assert _text(caught.value) == "The read operation timed out"
            held.sendall(b"!")

    with held, released:
        play(server, client)


def test_octet_by_octet_does_not_outwit_the_deadline(play: Play, pair: tuple[socket.socket, socket.socket]) -> None:
    """Each piece of a record makes the socket readable, and none of them ends the operation."""
    ended: list[bool] = []

    def client() -> None:
        pair[0].settimeout(0.1)
        with pytest.raises(TimeoutError):
            tls.join(pair[0])
        ended.append(True)

    def dribble() -> None:
        pair[1].sendall(b"\x16\x03\x03\x40\x00")  # the head of a record of 16384 octets
        for _ in range(16000):
            if ended:
                break
            with contextlib.suppress(OSError):
                pair[1].sendall(b"\0")
            time.sleep(0.002)

    play(client, dribble)
    assert ended


def test_nonblocking_sockets_stay_so(play: Play, pair: tuple[socket.socket, socket.socket]) -> None:
    control = socket.socketpair()

    def server() -> None:
        control[1].recv(1)
        with tls.serve(pair[1]) as connection:
            control[1].recv(1)
            connection.sendall(b"late")

    def client() -> None:
        pair[0].settimeout(0)
        with pytest.raises(ValueError, match="non-blocking"):
            tls.join(pair[0].dup())
        with tls.join(pair[0], do_handshake_on_connect=False) as connection:
            with pytest.raises(ssl.SSLWantReadError):
                connection.do_handshake()
            control[0].sendall(b"!")
            connection.do_handshake(block=True)
            assert connection.gettimeout() == 0
            assert connection.getblocking() is False
            with pytest.raises(ssl.SSLWantReadError):
                connection.recv(10)
            with tempfile.TemporaryFile() as file, pytest.raises(ValueError, match="non-blocking"):
                connection.sendfile(file)
            with pytest.raises(ssl.SSLWantWriteError):
                while True:
                    connection.send(b"x" * 16384)
            control[0].sendall(b"!")
            connection.settimeout(20)
            assert connection.recv(10) == b"late"

    with control[0], control[1]:
        play(server, client)


def test_end_of_file(play: Play, pair: tuple[socket.socket, socket.socket]) -> None:
    """A peer that hangs up without a word is an end or an error, as the caller wished; one that says so is an end."""
    other = socket.socketpair()

    def server() -> None:
        connection = tls.serve(pair[1])
        socket.socket(fileno=connection.detach()).close()
        with tls.serve(other[1]) as connection, pytest.raises(OSError):
            connection.unwrap()

    def client() -> None:
        with tls.join(pair[0], suppress_ragged_eofs=False) as connection:
            with pytest.raises(ssl.SSLEOFError):
                connection.recv(10)
            connection.suppress_ragged_eofs = True
            assert connection.recv(10) == b""
            assert connection.recv_into(bytearray(3)) == 0
        with tls.join(other[0], suppress_ragged_eofs=False) as connection:
            assert connection.recv(10) == b""
            assert connection.recv(10) == b""  # at once, though nothing more comes

    with other[0], other[1]:
        play(server, client)


def test_unwrap_gives_the_plain_connection(play: Play, pair: tuple[socket.socket, socket.socket]) -> None:
    def talk(wrap: Callable[[socket.socket], ssl.SSLSocket], end: socket.socket) -> None:
        with wrap(end) as connection:
            connection.settimeout(20)
            connection.sendall(b"secret")
            assert connection.recv(10) == b"secret"
            plain = connection.unwrap()
            assert plain.gettimeout() == 20
            assert plain.getblocking()
            plain.sendall(b"public")
            assert plain.recv(10) == b"public"
            with pytest.raises(ValueError, match="No SSL wrapper"):
                connection.unwrap()
            with pytest.raises(ValueError, match="unwrapped"):
                connection.read(1)
            with pytest.raises(ValueError, match="unwrapped"):
                connection.write(b"x")
            assert connection.version() is None

    play(lambda: talk(tls.serve, pair[1]), lambda: talk(tls.join, pair[0]))


def test_connect_accept_and_sendfile(play: Play) -> None:
    content = os.urandom(200_000)

    def server() -> None:
        with tls.server_context().wrap_socket(listener, server_side=True) as tls_listener:
            for _ in range(3):
                connection, address = tls_listener.accept()
                with connection:
                    assert address[0] == "127.0.0.1"
                    received = b""
                    while len(received) < len(content):
                        received += connection.recv(65536)
                    connection.sendall(received[::-1])

    def client() -> None:
        context = tls.client_context()
        for timeout, method in ((None, "connect"), (20, "connect"), (20, "connect_ex")):
            with context.wrap_socket(socket.socket(), server_hostname="localhost") as connection:
                connection.settimeout(timeout)
                assert not getattr(connection, method)(address)
                with pytest.raises(ValueError, match="already-connected"):
                    connection.connect(address)
                with tempfile.TemporaryFile() as file:
                    file.write(content)
                    file.seek(0)
                    assert connection.sendfile(file, 0) == len(content)
                with connection.makefile("rb") as answer:
                    assert answer.read(len(content)) == content[::-1]

    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        play(server, client)


def test_connect_refused(play: Play) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = unused.getsockname()

        def client() -> None:
            context = tls.client_context()
            with context.wrap_socket(socket.socket(), server_hostname="localhost") as connection:
                with pytest.raises(ConnectionRefusedError):
                    connection.connect(address)
                assert connection.connect_ex(address) != 0

        play(client)


def test_get_server_certificate(play: Play) -> None:
    def client() -> str:
        return ssl.get_server_certificate(("127.0.0.1", port), timeout=20)

    with tls.native_server() as port:
        assert play(client)[0].strip() == tls.certificate().cert_chain_pems[0].bytes().decode().strip()


def test_certificate_errors(play: Play, pair: tuple[socket.socket, socket.socket]) -> None:
    def server() -> None:
        with pytest.raises(ssl.SSLError):
            tls.serve(pair[1])

    def client() -> None:
        with pytest.raises(ssl.SSLCertVerificationError):
            ssl.create_default_context().wrap_socket(pair[0], server_hostname="localhost")

    play(server, client)


def test_operations_that_shake_hands_by_themselves(play: Play, small_pair: tuple[socket.socket, socket.socket]) -> None:
    """A write that has to read first, and a read that has to write first, more than the buffers hold."""
    context = tls.server_context(tls.huge_certificate())

    def server() -> None:
        with context.wrap_socket(small_pair[1], server_side=True, do_handshake_on_connect=False) as connection:
            assert connection.recv(10) == b"hello"
            connection.sendall(b"goodbye")

    def client() -> None:
        with tls.join(small_pair[0], do_handshake_on_connect=False) as connection:
            connection.sendall(b"hello")
            assert connection.recv(10) == b"goodbye"

    play(server, client)


def test_a_read_that_has_to_write_in_mid_connection(
    play: Play, small_pair: tuple[socket.socket, socket.socket]
) -> None:
    """The server asks for a certificate after the handshake; the client's answer is larger than the buffers."""
    server_context = tls.server_context()
    server_context.post_handshake_auth = True
    server_context.verify_mode = ssl.CERT_REQUIRED
    client_context = tls.client_context(tls.huge_certificate())
    client_context.post_handshake_auth = True

    def server() -> bool:
        with server_context.wrap_socket(small_pair[1], server_side=True) as connection:
            connection.settimeout(20)
            assert connection.recv(10) == b"let me in"
            connection.verify_client_post_handshake()
            connection.sendall(b"who are you?")
            assert connection.recv(10) == b"me"
            return bool(connection.getpeercert())

    def client() -> None:
        with client_context.wrap_socket(small_pair[0], server_hostname="localhost") as connection:
            connection.settimeout(20)
            connection.sendall(b"let me in")
            assert connection.recv(20) == b"who are you?"
            connection.sendall(b"me")
            assert connection.recv(1) == b""

    assert play(server, client)[0]


def test_subclasses(play: Play, pair: tuple[socket.socket, socket.socket]) -> None:
    calls: list[str] = []

    class Counted(ssl.SSLSocket):
        def read(self, *args: Any) -> Any:
            calls.append("read")
            return super().read(*args)

        def send(self, *args: Any) -> int:
            calls.append("send")
            return super().send(*args)

        def do_handshake(self, block: bool = False) -> None:
            calls.append("handshake")
            super().do_handshake(block)

    class Context(ssl.SSLContext):
        sslsocket_class = Counted

    context = Context(ssl.PROTOCOL_TLS_CLIENT)
    tls.authority().configure_trust(context)

    def client() -> None:
        with context.wrap_socket(pair[0], server_hostname="localhost") as connection:
            assert isinstance(connection, Counted)
            connection.sendall(b"hello")
            assert connection.recv(10) == b"hello"

    def server() -> None:
        with tls.serve(pair[1]) as connection:
            tls.echo(connection)

    play(server, client)
    assert calls == ["handshake", "send", "read"]


# What only greenlets do.


def _connect(pair: tuple[socket.socket, socket.socket]) -> tuple[ssl.SSLSocket, ssl.SSLSocket]:
    """Shake hands natively: in two threads."""
    server, client = _in_threads(lambda: tls.serve(pair[1]), lambda: tls.join(pair[0]))
    return server, client


def test_both_directions_at_once(arun: Run, patched: None, small_pair: tuple[socket.socket, socket.socket]) -> None:
    """One greenlet reads what another writes, through the same two sockets. OpenSSL allows no threads to do so."""
    size = 300_000

    def send(connection: ssl.SSLSocket) -> None:
        connection.sendall(b"%d" % connection.server_side * size)

    def receive(connection: ssl.SSLSocket) -> None:
        expected = b"%d" % (not connection.server_side)
        received = 0
        while received < size:
            data = connection.recv(7000)
            assert set(data) == set(expected)
            received += len(data)

    async def main() -> None:
        with server, client:
            calls = [to_greenlet(work, end) for end in (server, client) for work in (send, receive)]
            await asyncio.gather(*calls)

    server, client = _connect(small_pair)
    arun(main)


def test_writers_take_turns(arun: Run, patched: None, small_pair: tuple[socket.socket, socket.socket]) -> None:
    """A record that is half sent is finished before another greenlet's begins."""
    size = 100_000

    def send(connection: ssl.SSLSocket, letter: bytes) -> None:
        connection.sendall(letter * size)

    def receive(connection: ssl.SSLSocket) -> dict[str, int]:
        received = b""
        while len(received) < 4 * size:
            received += connection.recv(9000)
        return {letter: received.count(letter.encode()) for letter in "abcd"}

    async def main() -> None:
        with server, client:
            *_, counts = await asyncio.gather(
                *(to_greenlet(send, server, letter) for letter in (b"a", b"b", b"c", b"d")),
                to_greenlet(receive, client),
            )
        assert counts == {"a": size, "b": size, "c": size, "d": size}

    server, client = _connect(small_pair)
    arun(main)


def test_writer_in_the_queue_times_out(
    arun: Run, patched: None, small_pair: tuple[socket.socket, socket.socket]
) -> None:
    async def main() -> None:
        with server, client:
            client.settimeout(20)
            first = asyncio.create_task(to_greenlet(client.sendall, b"x" * 1_000_000))
            await asyncio.sleep(0)
            client.settimeout(0.02)
            with pytest.raises(TimeoutError, match="The write operation timed out"):
                await to_greenlet(client.sendall, b"y")
            second = asyncio.create_task(to_greenlet(client.sendall, b"y"))
            await asyncio.sleep(0)
            second.cancel()
            with pytest.raises(asyncio.CancelledError):
                await second
            client.close()
            with pytest.raises(OSError):
                await first

    server, client = _connect(small_pair)
    arun(main)


def test_a_read_tells_others_that_the_handshake_went_on(
    arun: Run, patched: None, pair: tuple[socket.socket, socket.socket]
) -> None:
    """What a parked write waits for may be taken by a read that another greenlet has just begun."""
    context = tls.server_context()
    context.num_tickets = 0  # or the server would send something more, and wake them all

    def server() -> None:
        with context.wrap_socket(pair[1], server_side=True) as connection:
            assert connection.recv(10) == b"first"
            connection.sendall(b"second")

    async def main() -> None:
        with tls.join(pair[0], do_handshake_on_connect=False) as connection:
            write = asyncio.create_task(to_greenlet(connection.sendall, b"first"))
            await asyncio.sleep(0)  # it has sent its hello, and is parked for the server's
            thread = threading.Thread(target=server)
            thread.start()
            assert is_readable(connection)  # the answer has come, and the loop has not looked yet
            assert await to_greenlet(connection.recv, 10) == b"second"
            await write
            thread.join()

    def is_readable(connection: ssl.SSLSocket) -> bool:
        return bool(monkey.original("select", "select")([connection], [], [], 10)[0])

    arun(main)


def _parked_reader(connection: ssl.SSLSocket) -> asyncio.Task[bytes]:
    return asyncio.create_task(to_greenlet(connection.recv, 10))


def test_cancelled_read_leaves_the_connection_whole(
    arun: Run, patched: None, pair: tuple[socket.socket, socket.socket]
) -> None:
    async def main() -> None:
        with server, client:
            reader = _parked_reader(client)
            await asyncio.sleep(0)
            reader.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reader
            reader = _parked_reader(client)
            await asyncio.sleep(0)
            await to_greenlet(server.sendall, b"hello")
            assert await reader == b"hello"

    server, client = _connect(pair)
    arun(main)


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # before 3.13, ssl leaves the closing to the finalizer
def test_cancelled_handshake_closes_the_socket(
    arun: Run, patched: None, pair: tuple[socket.socket, socket.socket]
) -> None:
    async def main() -> None:
        handshake = asyncio.create_task(to_greenlet(tls.join, pair[0]))
        await asyncio.sleep(0)
        handshake.cancel()
        with pytest.raises(asyncio.CancelledError):
            await handshake

    arun(main)
    gc.collect()
    pair[1].settimeout(20)
    assert pair[1].recv(10000)  # the hello
    assert pair[1].recv(1) == b""


def test_closed_under_a_reader(arun: Run, patched: None, pair: tuple[socket.socket, socket.socket]) -> None:
    async def main() -> None:
        with server, client:
            reader = _parked_reader(client)
            await asyncio.sleep(0)
            client.close()
            with pytest.raises(OSError, match="Bad file descriptor"):
                await reader

    server, client = _connect(pair)
    arun(main)


def test_shut_down_under_a_reader(arun: Run, patched: None, pair: tuple[socket.socket, socket.socket]) -> None:
    async def main() -> None:
        with server, client:
            reader = _parked_reader(client)
            await asyncio.sleep(0)
            client.shutdown(socket.SHUT_RDWR)
            assert await reader == b""

    server, client = _connect(pair)
    arun(main)


def test_threads_use_what_green_code_adopted(
    arun: Run, patched: None, pair: tuple[socket.socket, socket.socket]
) -> None:
    def native() -> None:
        client.settimeout(0.02)
        with pytest.raises(TimeoutError, match="The read operation timed out"):
            client.recv(10)
        with pytest.raises(TimeoutError, match="The write operation timed out"):
            client.sendall(b"x" * 10_000_000)
        client.settimeout(0)
        with pytest.raises(ssl.SSLWantReadError):
            client.recv(10)

    def talk(connection: ssl.SSLSocket) -> bytes:
        connection.sendall(b"hello")
        return connection.recv(10)

    async def main() -> None:
        client, server = await asyncio.gather(to_greenlet(tls.join, pair[0]), to_greenlet(tls.serve, pair[1]))
        with server, client:
            for timeout in (None, 20):
                client.settimeout(timeout)
                server.settimeout(timeout)
                for caller in (to_greenlet, asyncio.to_thread, to_greenlet):
                    other = to_greenlet if caller is asyncio.to_thread else asyncio.to_thread
                    assert await asyncio.gather(caller(talk, client), other(talk, server)) == [b"hello", b"hello"]
                    assert client.gettimeout() == timeout
            unwrapped = await asyncio.gather(asyncio.to_thread(client.unwrap), asyncio.to_thread(server.unwrap))
            assert await asyncio.gather(*(asyncio.to_thread(talk, end) for end in unwrapped)) == [b"hello"] * 2

    arun(main)
    server, client = _connect(socket.socketpair())
    with server, client:

        async def limits() -> None:
            reader = _parked_reader(client)
            await asyncio.sleep(0)
            reader.cancel()
            await asyncio.wait([reader])
            await asyncio.to_thread(native)

        arun(limits)


def test_native_handshake_of_an_adopted_socket(
    arun: Run, patched: None, pair: tuple[socket.socket, socket.socket]
) -> None:
    async def main() -> None:
        client = tls.join(pair[0], do_handshake_on_connect=False)
        with client:
            client.settimeout(0.02)
            with pytest.raises(TimeoutError):
                await to_greenlet(client.do_handshake)
            with pytest.raises(TimeoutError, match="The handshake operation timed out"):
                await asyncio.to_thread(client.do_handshake)
            client.settimeout(20)
            serving = asyncio.to_thread(tls.serve, pair[1])
            server, _ = await asyncio.gather(serving, asyncio.to_thread(client.do_handshake))
            server.close()

    arun(main)


def test_unpatched_in_mid_connection(arun: Run, pair: tuple[socket.socket, socket.socket]) -> None:
    """Parked greenlets finish their wait; the sockets wait in C again, as their timeouts say."""

    async def main() -> None:
        with monkey.patched():
            client, server = await asyncio.gather(to_greenlet(tls.join, pair[0]), to_greenlet(tls.serve, pair[1]))
            server.settimeout(20)
            reader = _parked_reader(client)
            impatient = _parked_reader(server)
            await asyncio.sleep(0)
        with client, server:
            assert os.get_blocking(client.fileno())
            assert server.gettimeout() == 20
            await asyncio.to_thread(server.sendall, b"hello")
            await asyncio.to_thread(client.sendall, b"hello")
            assert await reader == await impatient == b"hello"
            assert os.get_blocking(client.fileno())
            server.settimeout(0.02)
            with pytest.raises(TimeoutError):
                await asyncio.to_thread(server.recv, 1)

    arun(main)


def test_unpatched_in_the_middle_of_a_record(arun: Run, pair: tuple[socket.socket, socket.socket]) -> None:
    """A greenlet that was parked when the patch was taken off does not hold the loop when it has to wait once more."""

    async def main() -> None:
        with monkey.patched():
            client, records = await asyncio.gather(
                to_greenlet(tls.join, pair[0]), asyncio.to_thread(tls.Records, pair[1])
            )
            client.settimeout(20)
            reader = _parked_reader(client)
            await asyncio.sleep(0)
        with client:
            record = records.seal(b"hello")
            for octet in record:
                assert not reader.done()
                pair[1].sendall(bytes([octet]))
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            assert await reader == b"hello"

    arun(main)


@pytest.mark.parametrize("group", ["ssl", "socket"])
def test_one_group_without_the_other(arun: Run, pair: tuple[socket.socket, socket.socket], group: str) -> None:
    """TLS that is patched alone parks; TLS that is left alone blocks, as it did before."""

    def client(port: int) -> None:
        with tls.client_context().wrap_socket(socket.socket(), server_hostname="localhost") as connection:
            connection.settimeout(20)
            connection.connect(("127.0.0.1", port))
            connection.sendall(b"hello")
            assert connection.recv(10) == b"hello"
            assert connection.gettimeout() == 20
            connection.settimeout(0.02)
            with pytest.raises(TimeoutError, match="The read operation timed out"):
                connection.recv(10)
            connection.settimeout(None)
            connection.sendall(b"hello")
            assert connection.recv(10) == b"hello"

    async def main() -> None:
        with tls.native_server() as port:
            await to_greenlet(client, port)
        if group == "socket":
            return
        a, b = await asyncio.gather(to_greenlet(tls.join, pair[0]), to_greenlet(tls.serve, pair[1]))
        with a, b:
            reader = _parked_reader(a)
            await asyncio.sleep(0)
            a.close()
            with pytest.raises(OSError, match="Bad file descriptor"):
                await reader

    with monkey.patched(group):
        arun(main)


class _Counting:
    """Stands before an `_ssl._SSLSocket`, and counts the calls that did nothing."""

    def __init__(self, real: Any) -> None:
        self._real = real
        self.wasted = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def read(self, *args: Any) -> Any:
        try:
            return self._real.read(*args)
        except ssl.SSLWantReadError:
            self.wasted += 1
            raise


@pytest.mark.parametrize("timeout", [None, 20])
def test_a_conversation_wastes_no_calls(
    arun: Run, patched: None, pair: tuple[socket.socket, socket.socket], timeout: float | None
) -> None:
    rounds = 200

    def talk() -> None:
        client.settimeout(timeout)
        for _ in range(rounds):
            client.sendall(b"question")
            assert client.recv(65536) == b"question"

    async def main() -> None:
        with client:
            with server:
                echo = asyncio.create_task(to_greenlet(tls.echo, server))
                await to_greenlet(talk)
                client.shutdown(socket.SHUT_RDWR)
                await echo
                assert counting.wasted < rounds / 20

    server, client = _connect(pair)
    counting = client._sslobj = _Counting(client._sslobj)  # type: ignore[attr-defined]
    arun(main)


def test_a_long_download_lets_others_run(arun: Run, patched: None, pair: tuple[socket.socket, socket.socket]) -> None:
    size = 20_000_000
    turns = 0

    def download() -> None:
        received = 0
        while received < size:
            received += len(client.recv(1000))

    async def heartbeat() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async def main() -> None:
        with server, client:
            beat = asyncio.create_task(heartbeat())
            await asyncio.gather(asyncio.to_thread(server.sendall, bytes(size)), to_greenlet(download))
            beat.cancel()
            assert turns > size / 1000 / 40

    server, client = _connect(pair)
    arun(main)


def test_fifty_requests_at_once(arun: Run, patched: None) -> None:
    """The server answers nobody before it has been asked by all, and a task of the loop has seen that."""

    def handle(connection: ssl.SSLSocket) -> None:
        first = connection.recv(1)
        asked.append(first)
        assert answer.wait(30)
        tls.http(connection, first)

    def by_requests() -> int:
        with requests.Session() as session:
            session.trust_env = False
            return len(session.get(url, verify=authority, timeout=30).content)

    def by_urllib3() -> int:
        return len(pool.request("GET", url, timeout=30).data)

    async def give_leave() -> None:
        while len(asked) < 50:
            await asyncio.sleep(0.001)
        answer.set()

    async def main() -> None:
        leave = asyncio.create_task(give_leave())
        calls = [to_greenlet(call) for call in (by_requests, by_urllib3) for _ in range(25)]
        assert await asyncio.gather(*calls) == [10000] * 50
        await leave

    answer = threading.Event()
    asked: list[bytes] = []
    with (
        tls.authority().cert_pem.tempfile() as authority,
        tls.native_server(handle) as port,
        urllib3.PoolManager(ssl_context=tls.client_context(), maxsize=25) as pool,
    ):
        url = f"https://localhost:{port}/"
        arun(main)
    gc.collect()


def test_the_loops_own_tls_is_left_alone(arun: Run, patched: None) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(5))
        await writer.drain()
        writer.close()
        with contextlib.suppress(OSError, ssl.SSLError):
            await writer.wait_closed()

    def blocking(port: int) -> bytes:
        with socket.create_connection(("127.0.0.1", port)) as plain, tls.join(plain) as connection:
            connection.sendall(b"green")
            return connection.recv(10)

    async def main() -> None:
        server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls.server_context())
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=tls.client_context(), server_hostname="localhost"
        )
        writer.write(b"async")
        assert await reader.readexactly(5) == b"async"
        assert await to_greenlet(blocking, port) == b"green"
        assert await asyncio.to_thread(blocking, port) == b"green"
        writer.close()
        with contextlib.suppress(OSError, ssl.SSLError):
            await writer.wait_closed()
        server.close()
        await server.wait_closed()

    arun(main)
    gc.collect()


def test_await_inside_a_conversation(arun: Run, patched: None, pair: tuple[socket.socket, socket.socket]) -> None:
    def client() -> bytes:
        with tls.join(pair[0]) as connection:
            peer = spawn(lambda: connection.sendall(b"spawned"))
            await_(peer)
            return connection.recv(10)

    def server() -> None:
        with tls.serve(pair[1]) as connection:
            connection.sendall(connection.recv(10))

    async def main() -> None:
        assert (await asyncio.gather(to_greenlet(client), to_greenlet(server)))[0] == b"spawned"

    arun(main)


# What was made before the patch, each in a fresh interpreter.

_PRELUDE = """
import asyncio, socket, ssl, sys
sys.path.insert(0, {tests!r})
"""

_CONVERSATION = """
import tls
from greenio import monkey, to_greenlet
{before}
early = ssl.create_default_context()
tls.authority().configure_trust(early)
server = tls.server_context()
{late}

def client(end, context):
    with context.wrap_socket(end, server_hostname="localhost") as connection:
        connection.sendall(b"hello")
        return connection.recv(10)

def serve(end):
    with server.wrap_socket(end, server_side=True) as connection:
        connection.sendall(connection.recv(10))

async def main():
    late = ssl.create_default_context()
    late.options |= ssl.OP_NO_COMPRESSION
    late.minimum_version = ssl.TLSVersion.TLSv1_2
    late.verify_mode = ssl.CERT_REQUIRED
    tls.authority().configure_trust(late)
    early.minimum_version = ssl.TLSVersion.TLSv1_2
    calls = []
    for context in (early, late):
        for _ in range(3):
            a, b = socket.socketpair()
            calls += [to_greenlet(client, a, context), to_greenlet(serve, b)]
    results = await asyncio.wait_for(asyncio.gather(*calls), 30)
    print(type(early).__module__, set(results[::2]))

asyncio.run(main())
"""


def _script(before: str, late: str) -> str:
    tests = str(Path(__file__).parent)
    program = _PRELUDE.format(tests=tests) + _CONVERSATION.format(before=before, late=late)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=50
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


_INJECT = "import truststore; truststore.inject_into_ssl()"


@pytest.mark.parametrize(
    ("before", "late", "module"),
    [
        ("", "monkey.patch_all()", "ssl"),
        ("monkey.patch_all()", "", "ssl"),
        (_INJECT, "monkey.patch_all()", "truststore._api"),
        (f"{_INJECT}; monkey.patch_all()", "", "truststore._api"),
        (f"monkey.patch_all(); {_INJECT}", "", "truststore._api"),
    ],
)
def test_contexts_made_at_any_time(before: str, late: str, module: str) -> None:
    assert _script(before, late) == f"{module} {{b'hello'}}"
