"""Sockets in green code: parking, waking, closing under a waiter, sharing, and what native code sees meanwhile."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import socket
import threading
import time

import pytest

from greenio import _core, _original, monkey, spawn, to_greenlet, wait_readable, wait_writable
from greenio._patches import _sending
from tests.conftest import finish, new_loop
from tests.waiting import until, until_parked


def tcp_pair():
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = socket.create_connection(server.getsockname())
        two, _ = server.accept()
        return one, two


def full_listener():
    """A TCP listener that answers no more, and the sockets that fill its backlog."""
    server = socket.socket()
    server.bind(("127.0.0.1", 0))
    server.listen(0)
    held = [server]
    while True:
        client = socket.socket()
        held.append(client)
        client.setblocking(False)
        client.connect_ex(server.getsockname())
        if not _connected(client):
            return server, held


def _connected(client):
    end = time.monotonic() + 0.05  # a connection on loopback is there at once, or not before a second has gone
    while time.monotonic() < end:
        try:
            client.getpeername()
        except OSError:
            continue
        return True
    return False


def fill(sock):
    """Send until no more goes in."""
    try:
        while True:
            sock.send(bytes(1 << 20), socket.MSG_DONTWAIT)
    except BlockingIOError:
        return


def blocked_calls():
    """Calls that wait for ever, each with what must be closed to end it and what else to close."""
    one, two = tcp_pair()
    yield "recv", one, lambda: one.recv(10), [two]
    one, two = tcp_pair()
    one.settimeout(30)
    yield "recv with a timeout", one, lambda one=one: one.recv_into(bytearray(10)), [two]
    server = socket.create_server(("127.0.0.1", 0))
    yield "accept", server, server.accept, []
    one, two = tcp_pair()
    fill(one)
    yield "sendall", one, lambda one=one: one.sendall(bytes(1 << 24)), [two]
    server, held = full_listener()
    client = socket.socket()
    yield "connect", client, lambda: client.connect(server.getsockname()), held
    datagram = socket.socket(type=socket.SOCK_DGRAM)
    datagram.bind(("127.0.0.1", 0))
    yield "recvfrom", datagram, lambda: datagram.recvfrom(10), []


@pytest.mark.parametrize("where", ["greenlet", "thread", "loop"])
@pytest.mark.parametrize("how", ["close", "detach"])
def test_closed_under_a_waiter(arun, patched, where, how):
    async def main():
        for name, sock, call, others in blocked_calls():
            waiter = asyncio.create_task(to_greenlet(call))
            await until_parked()
            end = getattr(sock, how)
            if where == "greenlet":
                fd = await to_greenlet(end)
            elif where == "thread":
                fd = await asyncio.to_thread(end)
            else:
                fd = end()
            with pytest.raises(OSError) as caught:
                await asyncio.wait_for(waiter, 10)
            assert caught.value.args == (errno.EBADF, os.strerror(errno.EBADF)), name
            if how == "detach":
                assert os.get_blocking(fd) is (sock.gettimeout() is None)
                os.close(fd)
            for other in others:
                other.close()

    arun(main)


def test_connect_ex_tells_that_it_was_closed(arun, patched):
    async def main():
        server, held = full_listener()
        client = socket.socket()
        waiter = asyncio.create_task(to_greenlet(client.connect_ex, server.getsockname()))
        await until_parked()
        client.close()
        assert await asyncio.wait_for(waiter, 10) == errno.EBADF
        for other in held:
            other.close()

    arun(main)


@pytest.mark.parametrize("where", ["greenlet", "thread"])
def test_shutdown_ends_a_waiter(arun, patched, where):
    async def main():
        run = to_greenlet if where == "greenlet" else asyncio.to_thread
        one, two = tcp_pair()
        with one, two:
            reader = asyncio.create_task(to_greenlet(one.recv, 10))
            await until_parked()
            await run(one.shutdown, socket.SHUT_RD)
            assert await asyncio.wait_for(reader, 10) == b""
        one, two = tcp_pair()
        with one, two:
            fill(one)
            writer = asyncio.create_task(to_greenlet(one.sendall, bytes(1 << 24)))
            await until_parked()
            await run(one.shutdown, socket.SHUT_WR)
            with pytest.raises(BrokenPipeError):
                await asyncio.wait_for(writer, 10)
        with socket.create_server(("127.0.0.1", 0)) as server:
            acceptor = asyncio.create_task(to_greenlet(server.accept))
            await until_parked()
            await run(server.shutdown, socket.SHUT_RD)
            with pytest.raises(OSError) as caught:
                await asyncio.wait_for(acceptor, 10)
            assert caught.value.errno == errno.EINVAL

    arun(main)


def test_cancelled_waits_lose_nothing(arun, patched):
    async def main():
        for _, sock, call, others in blocked_calls():
            waiter = asyncio.create_task(to_greenlet(call))
            await until_parked()
            waiter.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiter
            for other in (sock, *others):
                other.close()
        one, two = tcp_pair()
        with one, two:
            for _ in range(3):
                waiter = asyncio.create_task(to_greenlet(one.recv, 10))
                await until_parked()
                two.sendall(b"kept")
                waiter.cancel()  # in the same turn as the wake-up
                with pytest.raises(asyncio.CancelledError):
                    await waiter
                assert await to_greenlet(one.recv, 10) == b"kept"

    arun(main)


def test_cancelled_while_it_yields_before_a_read(arun, patched):
    """A cancellation that meets a greedy reader must not swallow data that was read already."""
    received = []

    def read(sock):
        while True:
            received.append(sock.recv(1))

    async def main():
        one, two = tcp_pair()
        with one, two:
            two.sendall(bytes(range(200)))
            task = asyncio.create_task(to_greenlet(read, one))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert 0 < len(received) < 200
            rest = await to_greenlet(one.recv, 1000)
            assert b"".join(received) + rest == bytes(range(200))

    arun(main)


def test_waiters_are_served_in_order(arun, patched):
    served = []

    def read(sock, number):
        data = sock.recv(1)
        served.append((number, data))

    async def main():
        one, two = tcp_pair()
        with one, two:
            readers = []
            for number in range(5):
                readers.append(asyncio.create_task(to_greenlet(read, one, number)))
                await until_parked(number + 1)
            for octet in b"abcde":
                await to_greenlet(two.sendall, bytes([octet]))
                await until(lambda octet=octet: any(data == bytes([octet]) for _, data in served))
            await asyncio.wait_for(asyncio.gather(*readers), 10)

    arun(main)
    assert served == [(number, bytes([octet])) for number, octet in enumerate(b"abcde")]


def test_all_waiters_are_served_by_one_arrival(arun, patched):
    async def main():
        one, two = tcp_pair()
        with one, two:
            readers = [asyncio.create_task(to_greenlet(one.recv, 1)) for _ in range(10)]
            await until_parked(10)
            two.sendall(b"0123456789")
            assert b"".join(await asyncio.wait_for(asyncio.gather(*readers), 10)) == b"0123456789"

    arun(main)


def test_readers_and_writers_on_one_socket(arun, patched):
    data = bytes(range(256)) * 4000

    def drain(sock):
        received = bytearray()
        while len(received) < len(data):
            received += sock.recv(50_000)
        return bytes(received)

    async def main():
        one, two = tcp_pair()
        with one, two:
            calls = [to_greenlet(sock.sendall, data) for sock in (one, two)]
            drained = [to_greenlet(drain, sock) for sock in (one, two)]
            assert (await asyncio.wait_for(asyncio.gather(*calls, *drained), 30))[2:] == [data, data]

    arun(main)


def test_several_writers_on_one_socket(arun, patched):
    async def main():
        one, two = tcp_pair()
        with one, two:
            fill(one)
            writers = [asyncio.create_task(to_greenlet(one.send, bytes([number]))) for number in range(1, 5)]
            await until_parked(4)

            def drain():
                written = set()
                while len(written) < 4:
                    written |= set(two.recv(1 << 20)) - {0}
                return written

            drained, *sent = await asyncio.wait_for(asyncio.gather(to_greenlet(drain), *writers), 30)
            assert drained == {1, 2, 3, 4} and sent == [1, 1, 1, 1]

    arun(main)


@pytest.mark.parametrize("timeout", [None, 30, 0])
def test_the_descriptors_mode_is_what_the_timeout_says(arun, patched, timeout):
    async def main():
        one, two = tcp_pair()
        with one, two:
            one.settimeout(timeout)
            two.settimeout(timeout)
            mode = timeout is None
            assert os.get_blocking(one.fileno()) is mode
            if timeout == 0:
                with pytest.raises(BlockingIOError):
                    await to_greenlet(one.recv, 10)
            else:
                reader = asyncio.create_task(to_greenlet(one.recv, 10))
                await until_parked()
                assert os.get_blocking(one.fileno()) is mode
                assert one.gettimeout() == one.timeout == timeout and one.getblocking()
                await to_greenlet(two.sendall, b"x")
                await reader
            assert os.get_blocking(one.fileno()) is mode and one.gettimeout() == timeout
            await to_greenlet(wait_writable, one)
            assert os.get_blocking(one.fileno()) is mode

    arun(main)


def test_the_mode_is_back_after_accept_and_connect(arun, patched):
    async def main():
        with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as client:
            acceptor = asyncio.create_task(to_greenlet(server.accept))
            await until_parked()
            assert os.get_blocking(server.fileno())
            await to_greenlet(client.connect, server.getsockname())
            assert os.get_blocking(client.fileno())
            peer, _ = await acceptor
            with peer:
                assert os.get_blocking(peer.fileno()) and os.get_blocking(server.fileno())

    arun(main)


@pytest.mark.parametrize("unpatched", [False, True])
def test_threads_block_on_adopted_sockets_as_the_timeout_says(loop_kind, unpatched):
    async def main():
        one, two = tcp_pair()
        with one, two:
            one.settimeout(0.05)
            with pytest.raises(TimeoutError, match="^timed out$"):
                await to_greenlet(one.recv, 10)
            if unpatched:
                monkey.unpatch_all()
            assert one.gettimeout() == 0.05 and one.getblocking()
            begun = time.monotonic()
            with pytest.raises(TimeoutError, match="^timed out$"):
                await asyncio.to_thread(one.recv, 10)
            assert time.monotonic() - begun >= 0.05
            one.settimeout(30)
            reader = asyncio.create_task(asyncio.to_thread(one.recv, 10))
            await asyncio.to_thread(two.sendall, b"late")
            assert await reader == b"late"
            one.settimeout(None)
            reader = asyncio.create_task(asyncio.to_thread(one.recv, 10))
            await asyncio.to_thread(two.sendall, b"later")
            assert await reader == b"later"

    loop = new_loop(loop_kind)
    with monkey.patched():
        try:
            loop.run_until_complete(main())
        finally:
            finish(loop)


def test_unpatched_while_a_thread_closes_an_adopted_socket(arun):
    class ClosedWhenAsked(socket.socket):
        """Closed between the look whether it is, and the change of its mode."""

        armed = False

        def fileno(self):
            number = super().fileno()
            if self.armed:
                self.armed = False
                self.close()
            return number

    async def main():
        left, right = socket.socketpair()
        with left, ClosedWhenAsked(fileno=right.detach()) as closing:
            closing.settimeout(5)
            left.send(b"x")
            assert await to_greenlet(closing.recv, 1) == b"x"
            closing.armed = True
            monkey.unpatch_all()
            assert not closing.armed
            assert closing.fileno() == -1

    monkey.patch_all()
    arun(main)


def test_unpatched_after_the_number_of_an_adopted_socket_was_closed(arun):
    one, two = tcp_pair()

    def use():
        one.settimeout(10)
        two.sendall(b"x")
        assert one.recv(10) == b"x"

    with two:
        with monkey.patched():
            arun(lambda: to_greenlet(use))
            os.close(one.fileno())
        assert one.gettimeout() == 10
        one.detach()


def test_unpatched_under_a_waiter(arun):
    async def main():
        one, two = tcp_pair()
        with one, two:
            one.settimeout(0.05)
            impatient = asyncio.create_task(to_greenlet(one.recv, 10))
            patient = asyncio.create_task(to_greenlet(two.recv, 10))
            await until_parked(2)
            monkey.unpatch_all()
            begun = time.monotonic()
            one.settimeout(30)  # a native wait in the loop would show
            with pytest.raises(TimeoutError, match="^timed out$"):
                await impatient
            assert time.monotonic() - begun < 10
            one.sendall(b"goes on")
            assert await asyncio.wait_for(patient, 10) == b"goes on"

    with monkey.patched():
        arun(main)


def test_a_thread_accepts_beside_a_greenlet(arun, patched):
    """The listener's mode is switched for the length of an attempt; a thread must not see that."""
    accepted = []

    def accept_natively(server, count):
        for _ in range(count):
            accepted.append(server.accept()[0])

    def accept_green(server):
        while True:
            accepted.append(server.accept()[0])

    async def main():
        with socket.create_server(("127.0.0.1", 0), backlog=300) as server:
            native = asyncio.create_task(asyncio.to_thread(accept_natively, server, 50))
            green = asyncio.create_task(to_greenlet(accept_green, server))
            clients = []
            while not native.done():
                clients.append(await to_greenlet(socket.create_connection, server.getsockname()))
            await native
            await until(lambda: len(accepted) == len(clients))
            green.cancel()
            with pytest.raises(asyncio.CancelledError):
                await green
            for sock in (*clients, *accepted):
                sock.close()

    arun(main)


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_numbers_are_used_again(arun, patched):
    """A descriptor that was watched, and closed in whatever way, must not make the next with its number deaf."""

    def behind_the_back(sock):
        os.closerange(sock.fileno(), sock.fileno() + 1)
        sock.detach()

    def by_number(sock):
        os.close(sock.fileno())
        sock.detach()

    closers = {
        "close": lambda sock: sock.close(),
        "os.close": by_number,
        "detach": lambda sock: os.close(sock.detach()),
        "socket.close": lambda sock: socket.close(sock.detach()),
        "garbage": None,
        "behind the back": behind_the_back,
    }

    async def main():
        for name, close in closers.items():
            for _ in range(4):
                one, two = tcp_pair()
                number = one.fileno()
                reader = asyncio.create_task(to_greenlet(one.recv, 10))
                await until_parked()
                await to_greenlet(two.sendall, b"heard")
                assert await asyncio.wait_for(reader, 10) == b"heard", name
                two.close()
                if close is not None:
                    close(one)
                del one, two, reader
                with socket.socket() as probe:
                    assert probe.fileno() <= number, name

    arun(main)


def test_dropped_without_a_close(arun, patched):
    async def main():
        one, two = tcp_pair()
        with two:
            one.settimeout(0.01)
            with pytest.raises(TimeoutError):
                await to_greenlet(one.recv, 10)
            number = one.fileno()
            assert any(watch.fd == number for watch in _core.registrations())
            with pytest.warns(ResourceWarning, match="unclosed"):
                del one
                gc.collect()
            assert not any(watch.fd == number for watch in _core.registrations())
            assert await to_greenlet(two.recv, 10) == b""

    arun(main)


def test_os_close_under_a_waiter(arun, patched):
    async def main():
        one, two = tcp_pair()
        with two:
            reader = asyncio.create_task(to_greenlet(one.recv, 10))
            await until_parked()
            os.close(one.fileno())
            with pytest.raises(OSError) as caught:
                await asyncio.wait_for(reader, 10)
            assert caught.value.errno == errno.EBADF
            one.detach()

    arun(main)


def test_shared_by_the_loops_of_two_threads(loop_kind, patched):
    count = 300
    received = []

    def read(sock):
        while data := sock.recv(1):
            received.append(data)

    def run_loop(sock):
        loop = new_loop(loop_kind)
        try:
            loop.run_until_complete(_both(sock))
        finally:
            finish(loop)

    async def _both(sock):
        await asyncio.gather(to_greenlet(read, sock), to_greenlet(read, sock))

    one, two = tcp_pair()
    with one, two:
        threads = [threading.Thread(target=run_loop, args=(one,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for number in range(count):
            two.sendall(bytes([number % 256]))
            if number % 10 == 0:
                time.sleep(0.0005)
        two.shutdown(socket.SHUT_WR)
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()
    assert sorted(received) == sorted(bytes([number % 256]) for number in range(count))


def test_closed_by_the_loop_of_another_thread(arun, patched):
    async def main():
        one, two = tcp_pair()
        with two:
            reader = asyncio.create_task(to_greenlet(one.recv, 10))
            await until_parked()

            def elsewhere():
                loop = asyncio.SelectorEventLoop()
                try:
                    loop.run_until_complete(to_greenlet(one.close))
                finally:
                    finish(loop)

            await asyncio.to_thread(elsewhere)
            with pytest.raises(OSError) as caught:
                await asyncio.wait_for(reader, 10)
            assert caught.value.errno == errno.EBADF

    arun(main)


def test_a_descriptor_that_a_transport_owns(arun, patched):
    async def main():
        one, two = tcp_pair()
        with two:
            transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=one)
            transport.pause_reading()
            owned = transport.get_extra_info("socket")
            await to_greenlet(wait_writable, owned.fileno(), 10)
            view = socket.socket(fileno=owned.fileno())
            try:
                view.settimeout(30)
                reader = asyncio.create_task(to_greenlet(view.recv, 10))
                await until_parked()
                two.sendall(b"ours")
                assert await asyncio.wait_for(reader, 10) == b"ours"
                waiter = asyncio.create_task(to_greenlet(wait_readable, owned.fileno(), 30))
                await until_parked()
                two.sendall(b"more")
                await asyncio.wait_for(waiter, 10)
                assert await to_greenlet(view.recv, 10) == b"more"
            finally:
                view.detach()
            transport.close()
            assert await asyncio.wait_for(to_greenlet(two.recv, 10), 10) == b""

    arun(main)


def test_streams_and_greenlets_side_by_side(arun, patched):
    def serve(server):
        peer, _ = server.accept()
        with peer, peer.makefile("rwb") as file:
            for line in file:
                file.write(line.upper())
                file.flush()

    async def main():
        with socket.create_server(("127.0.0.1", 0)) as server:
            serving = asyncio.create_task(to_greenlet(serve, server))
            reader, writer = await asyncio.open_connection(*server.getsockname())
            for _ in range(3):
                writer.write(b"line\n")
                assert await reader.readline() == b"LINE\n"
            writer.close()
            await writer.wait_closed()
            await serving

    arun(main)


def test_never_early(arun, patched):
    async def main():
        one, two = tcp_pair()
        with one, two, socket.create_server(("127.0.0.1", 0)) as server:

            def wait(call, *args):
                begun = time.monotonic()
                with pytest.raises(TimeoutError, match="^timed out$"):
                    call(*args)
                return time.monotonic() - begun

            for timeout in (1e-9, 0.0005, 0.0013, 0.0107) * 5:
                one.settimeout(timeout)
                server.settimeout(timeout)
                assert timeout <= await to_greenlet(wait, one.recv, 10) < timeout + 10
                assert timeout <= await to_greenlet(wait, server.accept) < timeout + 10

    arun(main)


def test_a_new_timeout_counts_from_the_next_call(arun, patched):
    async def main():
        one, two = tcp_pair()
        with one, two:
            one.settimeout(30)
            reader = asyncio.create_task(to_greenlet(one.recv, 10))
            await until_parked()
            one.settimeout(0.001)
            await asyncio.sleep(0.02)  # twenty times the new timeout, which must not end the old wait
            assert not reader.done()
            two.sendall(b"in time")
            assert await reader == b"in time"
            with pytest.raises(TimeoutError):
                await to_greenlet(one.recv, 10)

    arun(main)


def test_a_greedy_reader_lets_others_have_their_turn(arun, patched):
    chunks = 0

    def flood(sock):
        sock.settimeout(30)
        try:
            while True:
                sock.sendall(bytes(1 << 16))
        except OSError:
            return

    def swallow(sock):
        nonlocal chunks
        while chunks < 2000:
            sock.recv(1000)
            chunks += 1

    async def main():
        one, two = tcp_pair()
        with one, two:
            thread = threading.Thread(target=flood, args=(two,))
            thread.start()
            task = asyncio.create_task(to_greenlet(swallow, one))
            turns = 0
            while not task.done():
                turns += 1
                await asyncio.sleep(0)
            one.close()
            await asyncio.to_thread(thread.join)
            assert turns > 2000 / 64

    arun(main)


def test_greedy_writers_and_failing_calls_too(arun, patched):
    def send(sock):
        for _ in range(1000):
            sock.sendto(b"x", ("127.0.0.1", 9))

    def fail(sock):
        for _ in range(1000):
            with pytest.raises(BlockingIOError):
                sock.recvfrom(1)

    async def main():
        with socket.socket(type=socket.SOCK_DGRAM) as sock, socket.socket(type=socket.SOCK_DGRAM) as silent:
            silent.bind(("127.0.0.1", 0))
            silent.setblocking(False)
            for call in (lambda: send(sock), lambda: fail(silent)):
                task = asyncio.create_task(to_greenlet(call))
                turns = 0
                while not task.done():
                    turns += 1
                    await asyncio.sleep(0)
                assert turns > 1000 / 64

    arun(main)


def test_many_connections_at_once(arun, patched):
    def serve(server, count):
        for _ in range(count):
            spawn(answer, server.accept()[0])

    def answer(sock):
        with sock:
            while data := sock.recv(100):
                sock.sendall(data)

    def ask(address, number):
        with socket.create_connection(address, timeout=30) as sock:
            for turn in range(5):
                question = b"%d-%d" % (number, turn)
                sock.sendall(question)
                assert sock.recv(100) == question
        return number

    async def main():
        with socket.create_server(("127.0.0.1", 0), backlog=200) as server:
            serving = asyncio.create_task(to_greenlet(serve, server, 100))
            asking = [to_greenlet(ask, server.getsockname(), number) for number in range(100)]
            assert await asyncio.gather(*asking) == list(range(100))
            await serving
            await until(lambda: not [green for green in _core.greens() if green.waiting])

    arun(main)


def test_a_signal_of_readiness_that_somebody_else_used_up(arun, patched):
    """Between the wake-up and the attempt a thread takes the data: the waiter goes on waiting, to its own deadline."""

    async def main():
        one, two = tcp_pair()
        with one, two, one.dup() as thief:
            thief.setblocking(False)
            one.settimeout(0.1)
            reader = asyncio.create_task(to_greenlet(one.recv, 10))
            await until_parked()
            begun = time.monotonic()
            two.sendall(b"stolen")
            while True:
                try:
                    assert thief.recv(10) == b"stolen"
                    break
                except BlockingIOError:
                    continue
            with pytest.raises(TimeoutError):
                await reader
            assert time.monotonic() - begun < 10

    arun(main)


class Sizes:
    """Stands before what sends, and notes how much it is given at a time."""

    def __init__(self, native, place):
        self.native = native
        self.place = place
        self.noted = []

    def __call__(self, *args):
        sent = self.native(*args)
        self.noted.append(args[self.place] if isinstance(args[self.place], int) else len(args[self.place]))
        return sent


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, "sendfile"])
def test_much_is_sent_in_pieces(arun, patched, monkeypatch, tmp_path, kind):
    """A peer that keeps up would have one call last as long as there are octets, and the loop stand still."""
    octets = os.urandom(2**16) * 64

    def receive(sock):
        parts = []
        while part := sock.recv(2**20):
            parts.append(part)
        return b"".join(parts)

    def send(one):
        if kind == "sendfile":
            path = tmp_path / "octets"
            path.write_bytes(octets)
            sizes = Sizes(_original.sendfile, 3)
            monkeypatch.setattr(_original, "sendfile", sizes)
            with path.open("rb") as file:
                assert one.sendfile(file) == len(octets)
        else:
            sizes = Sizes(_sending.attempt, 6)
            monkeypatch.setattr(_sending, "attempt", sizes)
            one.sendall(kind(octets))
        one.shutdown(socket.SHUT_WR)
        assert len(sizes.noted) >= 16
        assert max(sizes.noted) <= 2**18

    async def main():
        one, two = tcp_pair()
        with one, two:
            received, _ = await asyncio.gather(asyncio.to_thread(receive, two), to_greenlet(send, one))
        assert received == octets

    arun(main)


@pytest.mark.parametrize("kind", [socket.SOCK_SEQPACKET, socket.SOCK_DGRAM])
def test_a_message_stays_whole(arun, patched, kind):
    one, two = socket.socketpair(socket.AF_UNIX, kind)
    message = os.urandom(300_000)
    with one, two:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**19)
        if one.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) < len(message) + 1000:
            pytest.skip("the system allows no message of this size")

        def send():
            for _ in range(20):  # some of them wait until others have been received
                one.sendall(message)

        async def main():
            sending = asyncio.ensure_future(to_greenlet(send))
            await until_parked()
            assert [await to_greenlet(two.recv, 2**20) for _ in range(20)] == [message] * 20
            await sending

        arun(main)
