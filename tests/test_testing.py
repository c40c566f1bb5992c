"""greenio.testing: the clock that jumps, the states, the leaks, the faults; each found, and nothing found without."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import queue
import socket
import ssl
import subprocess
import sys
import threading
import time

import pytest
import trustme

import greenio
from greenio import await_, monkey, offload, spawn, to_greenlet
from greenio.testing import (
    Fault,
    VirtualClockLoop,
    assert_no_leaks,
    assert_parks,
    faults,
    wait_until_parked,
)

HOUR = 3600.0


@pytest.fixture
def virtual():
    """Run a function green on a loop with a clock that jumps, and see that it takes no time."""

    def run(fn, limit=10.0, **options):
        began = time.monotonic()
        result = greenio.run(fn, loop_factory=lambda: VirtualClockLoop(**options))
        assert time.monotonic() - began < limit
        return result

    return run


class TestVirtualClock:
    def test_async_sleeps_and_timeouts(self, virtual):
        async def main():
            loop = asyncio.get_running_loop()
            began = loop.time()
            order = []

            async def sleep(hours):
                await asyncio.sleep(hours * HOUR)
                order.append(hours)

            await asyncio.gather(sleep(3), sleep(1), sleep(2))
            assert order == [1, 2, 3]
            assert 3 * HOUR <= loop.time() - began < 3 * HOUR + 5
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(asyncio.Event().wait(), 1000 * HOUR)
            assert 1003 * HOUR <= loop.time() - began < 1003 * HOUR + 10

        virtual(main)

    def test_green_sleeps_and_timeouts(self, virtual, patched):
        def main():
            began = greenio.get_loop().time()
            time.sleep(2 * HOUR)
            with pytest.raises(TimeoutError), greenio.timeout(HOUR):
                time.sleep(2 * HOUR)
            assert 3 * HOUR <= greenio.get_loop().time() - began < 3 * HOUR + 5
            assert not threading.Event().wait(HOUR)
            lock = threading.Lock()
            with lock:
                assert not lock.acquire(timeout=HOUR)
            with pytest.raises(queue.Empty):
                queue.Queue().get(timeout=HOUR)
            with pytest.raises(queue.Empty):
                queue.SimpleQueue().get(timeout=HOUR)
            condition = threading.Condition()
            with condition:
                assert not condition.wait_for(lambda: False, HOUR)
            left, right = socket.socketpair()
            with left, right:
                left.settimeout(HOUR)
                with pytest.raises(TimeoutError):
                    left.recv(1)

        virtual(main)

    def test_green_and_async_sleeps_are_one_order(self, virtual, patched):
        order = []

        async def main():
            async def asleep(hours):
                await asyncio.sleep(hours * HOUR)
                order.append(hours)

            def sleep(hours):
                time.sleep(hours * HOUR)
                order.append(hours)

            await asyncio.gather(*(asleep(hours) for hours in (5, 1, 3)), *(spawn(sleep, hours) for hours in (4, 2, 6)))

        virtual(main)
        assert order == [1, 2, 3, 4, 5, 6]

    def test_clocks_of_time_agree(self, virtual, patched):
        native = time.time

        def main():
            clocks = (time.time, time.monotonic, time.perf_counter)
            began = [clock() for clock in clocks]
            nanoseconds = time.monotonic_ns()
            time.sleep(HOUR)
            assert all(HOUR <= clock() - before < HOUR + 5 for clock, before in zip(clocks, began, strict=True))
            assert time.monotonic_ns() - nanoseconds >= HOUR * 1e9
            assert asyncio.run(_elapsed(time.monotonic)) < 1  # another loop, whose clock is native
            await_(asyncio.sleep(HOUR))
            assert 2 * HOUR <= time.time() - began[0] < 2 * HOUR + 5
            thread = []
            worker = threading.Thread(target=lambda: thread.append(time.time()))
            worker.start()
            worker.join()
            assert thread[0] < began[0] + HOUR / 2

        virtual(main)
        assert time.time is native

    def test_real_io_comes_before_the_clock_jumps(self, virtual, patched):
        """An echo on the same loop, with timeouts of an hour around every wait."""

        async def main():
            async def echo(reader, writer):
                while data := await asyncio.wait_for(reader.read(100), HOUR):
                    writer.write(data)
                    await writer.drain()
                writer.close()

            server = await asyncio.start_server(echo, "127.0.0.1", 0)
            port = server.sockets[0].getsockname()[1]

            def client():
                with socket.create_connection(("127.0.0.1", port), timeout=HOUR) as sock:
                    for _ in range(100):
                        sock.sendall(b"x" * 10)
                        received = b""
                        while len(received) < 10:
                            received += sock.recv(10)

            began = asyncio.get_running_loop().time()
            await asyncio.gather(*(spawn(client) for _ in range(5)))
            assert asyncio.get_running_loop().time() - began < HOUR
            server.close()
            await server.wait_closed()

        virtual(main, io_patience=5.0)  # however busy the machine is

    def test_another_process_is_waited_for(self, virtual, patched):
        async def main():
            script = "import sys; sys.stdin.readline(); print('here')"
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", script, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            loop = asyncio.get_running_loop()
            with loop.real_time():
                told, _ = await asyncio.wait_for(process.communicate(b"go\n"), 60)
            assert told.strip() == b"here"

        virtual(main, limit=50)

    def test_thread_of_the_executor_is_waited_for(self, virtual, patched):
        native_sleep = monkey.original("time", "sleep")

        def main():
            with greenio.timeout(HOUR):
                assert offload(lambda: native_sleep(0.1) or 5) == 5
            began = greenio.get_loop().time()
            greenio.await_(asyncio.wait_for(asyncio.to_thread(native_sleep, 0.05), HOUR))
            assert greenio.get_loop().time() - began < HOUR

        virtual(main)

    def test_thread_that_waits_for_the_clock_holds_nobody_up(self, virtual):
        async def main():
            loop = asyncio.get_running_loop()
            sleeps = lambda: asyncio.run_coroutine_threadsafe(asyncio.sleep(HOUR, 7), loop).result()  # noqa: E731
            assert await asyncio.to_thread(sleeps) == 7

        virtual(main, job_patience=0.05)

    def test_advance(self, virtual):
        async def main():
            loop = asyncio.get_running_loop()
            with loop.real_time():
                fired = asyncio.Event()
                loop.call_later(HOUR, fired.set)
                loop.advance(HOUR)
                await asyncio.wait_for(fired.wait(), 5)
            with pytest.raises(ValueError, match="cannot go back"):
                loop.advance(-1)

        virtual(main)


async def _elapsed(clock):
    began = clock()
    await asyncio.sleep(0.01)
    return clock() - began


class TestParked:
    def test_wait_until_parked(self, arun, patched):
        async def main():
            left, right = socket.socketpair()
            with left, right:
                tasks = [spawn(left.recv, 1), spawn(time.sleep, 0.0001), spawn(right.recv, 1)]
                await wait_until_parked(2)

                def wake():
                    await_(wait_until_parked(2))
                    left.send(b"x")
                    right.send(b"x")

                await asyncio.wait_for(to_greenlet(wake), 10)
                await asyncio.gather(*tasks)
                with pytest.raises(AssertionError, match="0 of 1 greenlets are parked"):
                    await wait_until_parked(timeout=0.01)

        arun(main)

    def test_assert_parks(self, arun, patched):
        def work(sock, peer):
            with assert_parks(0):
                time.monotonic()
                peer.send(b"x")
                sock.recv(1)
            with assert_parks(2) as parks:
                time.sleep(0.001)
                await_(asyncio.sleep(0.001))
            assert parks[0] == "'time.sleep'"
            with pytest.raises(AssertionError, match=r"parked 1 times, not 2:\n  'time.sleep'"):
                with assert_parks(2):
                    time.sleep(0.001)
            with pytest.raises(AssertionError, match="parked 0 times, not 1$"), assert_parks(1):
                pass

        async def main():
            left, right = socket.socketpair()
            with left, right:
                await asyncio.gather(*(to_greenlet(work, left, right) for _ in range(1)), asyncio.sleep(0.002))

        arun(main)

    def test_blocks_of_two_greenlets_overlap(self, arun, patched):
        turns = []

        def work(number, times):
            with assert_parks(times):
                for _ in range(times):
                    turns.append(number)
                    time.sleep(0.001)

        async def main():
            await asyncio.gather(to_greenlet(work, 1, 2), to_greenlet(work, 2, 4), to_greenlet(work, 3, 3))

        arun(main)
        assert turns[:3] == [1, 2, 3]
        import greenlet

        assert greenlet.gettrace() is None

    def test_assert_parks_outside_a_greenlet(self):
        with pytest.raises(RuntimeError, match="outside a greenlet"), assert_parks(1):
            pass


class TestLeaks:
    def test_nothing_is_left(self, arun, patched):
        def work():
            left, right = socket.socketpair()
            with left, right, assert_no_leaks():
                left.send(b"x")
                right.recv(1)
                offload(len, "a")
                task = spawn(time.sleep, 0.001)
                await_(task)
                threading.Thread(target=lambda: None).start()
                with socket.create_server(("127.0.0.1", 0)):
                    pass

        async def main():
            async with assert_no_leaks():
                await to_greenlet(work)
                ending = asyncio.ensure_future(asyncio.sleep(0.001))
                assert not ending.done()
                del ending

        arun(main)
        with assert_no_leaks():
            arun(main)

    def test_each_kind_is_found(self, arun, patched):
        async def main():
            tasks, sockets, begun = [], [], threading.Event()
            with pytest.raises(AssertionError) as found:
                async with assert_no_leaks(grace=0.01):
                    sockets += socket.socketpair()
                    tasks += [spawn(sockets[0].recv, 1), asyncio.ensure_future(asyncio.sleep(1000))]
                    thread = threading.Thread(target=begun.wait, name="left-behind")
                    thread.start()
                    await wait_until_parked()
            message = str(found.value)
            for kind in ("greenlets: <Green", "registrations: <", "tasks: <Task", "left-behind", "descriptors: "):
                assert kind in message
            begun.set()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for sock in sockets:
                sock.close()
            await to_greenlet(thread.join)

        arun(main)

    def test_an_error_of_the_block_comes_first(self):
        with pytest.raises(ZeroDivisionError), assert_no_leaks(grace=0):
            fd = os.open(os.devnull, os.O_RDONLY)
            1 / 0  # noqa: B018
        os.close(fd)


def echo_in_green(connection):
    with connection:
        while data := connection.recv(4096):
            connection.sendall(data)


@pytest.fixture
def conversation(arun, patched):
    """Send and receive over TCP between two greenlets, under the faults of the test; both ends are concerned."""

    def run(work, serve=echo_in_green, **options):
        async def main():
            with socket.create_server(("127.0.0.1", 0)) as listening:

                def accept():
                    serve(listening.accept()[0])

                server = spawn(accept)

                def client():
                    with socket.create_connection(listening.getsockname(), timeout=20) as sock:
                        with faults(**options) as injected:
                            work(sock)
                    await_(asyncio.wait([server]))
                    return injected

                injected = await to_greenlet(client)
                return injected, server.exception()

        return arun(main)

    return run


class TestFaults:
    def test_none(self, conversation):
        def work(sock):
            sock.sendall(b"hello")
            assert sock.recv(100) == b"hello"

        injected, error = conversation(work)
        assert not injected.injected
        assert error is None
        assert "recv" not in vars(socket.socket) or monkey.is_patched("socket.socket.recv")

    def test_short_reads_and_writes_lose_nothing(self, conversation):
        data = os.urandom(20_000)

        def work(sock):
            position = 0
            for at in range(0, len(data), 1000):
                sock.sendall(data[at : at + 1000])
                received = b""
                while len(received) < 1000:
                    received += sock.recv(1000)
                assert received == data[at : at + 1000]
                position += 1000
            assert sock.send(b"abcdefgh") in range(1, 9)

        injected, error = conversation(work, short_reads=0.5, short_writes=0.5, seed=1)
        assert error is None
        assert injected.count("short read") > 10
        assert injected.count("short write") > 10

    def test_seed_decides(self, conversation):
        def work(sock):
            for _ in range(20):
                sock.sendall(b"0123456789")
                received = b""
                while len(received) < 10:
                    received += sock.recv(10)

        first, second, third = (
            conversation(work, short_reads=0.3, only=lambda sock: sock.gettimeout() is not None, seed=seed)[0].injected
            for seed in (1, 1, 2)
        )
        assert first == second != third

    def test_delays_park(self, conversation):
        def work(sock):
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"

        injected, _ = conversation(work, delays=1.0, delay=0.002)
        assert injected.count("delay") >= 4

    def test_reset_is_seen_at_both_ends(self, conversation):
        def work(sock):
            if sock.gettimeout() is None:
                return
            with pytest.raises(ConnectionResetError):
                sock.sendall(b"x")
            with pytest.raises(OSError):
                sock.recv(1)

        injected, error = conversation(work, resets=1.0, only=lambda sock: sock.gettimeout() is not None)
        assert injected.injected[0] == Fault("reset", "sendall")
        assert isinstance(error, ConnectionResetError)

    def test_reset_wakes_who_waits_there(self, arun, patched):
        async def main():
            with socket.create_server(("127.0.0.1", 0)) as listening:
                with socket.create_connection(listening.getsockname()) as sock, listening.accept()[0]:
                    waiting = spawn(sock.recv, 1)
                    await wait_until_parked()

                    def work():
                        with faults(resets=1.0), pytest.raises(ConnectionResetError):
                            sock.send(b"x")

                    await to_greenlet(work)
                    with pytest.raises(OSError):
                        await asyncio.wait_for(waiting, 10)

        arun(main)

    def test_reset_of_a_unix_socket_is_its_end(self, arun, patched):
        async def main():
            left, right = socket.socketpair()

            def work():
                with faults(resets=1.0, only=lambda sock: sock is left), pytest.raises(ConnectionResetError):
                    left.recv(1)
                return right.recv(1)

            with left, right:
                assert await to_greenlet(work) == b""

        arun(main)

    def test_interrupts(self, conversation):
        def work(sock):
            with pytest.raises(InterruptedError):
                sock.recv(1)

        injected, _ = conversation(work, interrupts=1.0, only=lambda sock: sock.gettimeout() is not None)
        assert {fault.kind for fault in injected.injected} == {"interrupt"}

    def test_tls(self, conversation):
        authority = trustme.CA()
        server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost").configure_cert(server_context)
        context = ssl.create_default_context()
        authority.configure_trust(context)

        def serve(connection):
            with server_context.wrap_socket(connection, server_side=True) as wrapped:
                echo_in_green(wrapped)

        def work(sock):
            with context.wrap_socket(sock, server_hostname="localhost") as wrapped:
                wrapped.sendall(b"x" * 10_000)
                received = 0
                while received < 10_000:
                    received += len(wrapped.recv(10_000))

        injected, error = conversation(work, serve, short_reads=0.5, short_writes=0.5, seed=3)
        assert error is None
        assert injected.count("short read")

    def test_messages_are_short_and_lose_nothing(self, conversation):
        data = os.urandom(5_000)

        def work(sock):
            unsent, received = memoryview(data), b""
            while len(received) < len(data):
                if unsent:
                    unsent = unsent[sock.sendmsg(iter([unsent[:300], unsent[300:1000]])) :]
                received += sock.recvmsg(700, 300)[0]  # 300 has the bit of MSG_WAITALL, and is no flag
                if len(received) < len(data):
                    parts = bytearray(200), bytearray(100)
                    count = sock.recvmsg_into(iter(parts))[0]
                    received += (parts[0] + parts[1])[:count]
            assert received == data

        injected, error = conversation(work, short_reads=0.5, short_writes=0.5, seed=1)
        assert error is None
        for fault in (("short write", "sendmsg"), ("short read", "recvmsg"), ("short read", "recvmsg_into")):
            assert Fault(*fault) in injected.injected

    def test_short_message_has_a_part_of_what_is_there(self, arun, patched):
        def work():
            left, right = socket.socketpair()
            with left, right, faults(short_reads=1.0, short_writes=1.0) as injected:
                sent = left.sendmsg([b"abc", b"def"])
                assert 0 < sent < 6
                left.send(b"x" * 100)
                assert 0 < len(right.recvmsg(8)[0]) < 8
                parts = bytearray(b"-" * 4), bytearray(b"-" * 4)
                count = right.recvmsg_into(parts)[0]
                assert 0 < count < 8
                assert (parts[0] + parts[1])[count:] == b"-" * (8 - count)
            return injected.injected

        async def main():
            calls = [fault.call for fault in await to_greenlet(work)]
            assert calls == ["sendmsg", "send", "recvmsg", "recvmsg_into"]

        arun(main)

    @pytest.mark.parametrize("count", [None, 4_000])
    def test_file_goes_out_in_parts(self, conversation, tmp_path, count):
        path = tmp_path / "file"
        path.write_bytes(data := os.urandom(5_000))
        wanted = data[500:][:count]

        def work(sock):
            with path.open("rb") as file:
                assert sock.sendfile(file, 500, count) == len(wanted)
                assert file.tell() == 500 + len(wanted)
            received = b""
            while len(received) < len(wanted):
                received += sock.recv(5_000)
            assert received == wanted

        injected, error = conversation(work, short_writes=1.0)
        assert error is None
        assert Fault("short write", "sendfile") in injected.injected

    def test_what_a_file_like_object_has_goes_out_in_parts(self, conversation):
        def work(sock):
            assert sock.sendfile(io.BytesIO(b"x" * 5_000)) == 5_000
            received = 0
            while received < 5_000:
                received += len(sock.recv(5_000))

        injected, error = conversation(work, short_writes=1.0)
        assert error is None
        assert Fault("short write", "send") in injected.injected

    @pytest.mark.parametrize("call", ["recvmsg", "recvmsg_into", "sendmsg", "sendfile"])
    def test_reset_of_messages_and_files(self, conversation, call, tmp_path):
        def work(sock):
            with path.open("rb") as file, pytest.raises(ConnectionResetError):
                getattr(sock, call)(
                    *{"recvmsg": (1,), "recvmsg_into": ([bytearray(1)],), "sendmsg": ([b"x"],), "sendfile": (file,)}[
                        call
                    ]
                )

        path = tmp_path / "file"
        path.write_bytes(b"x")
        injected, error = conversation(work, resets=1.0, only=lambda sock: sock.gettimeout() is not None)
        assert injected.injected == [Fault("reset", call)]
        assert isinstance(error, ConnectionResetError)

    def test_connect_ex_returns_its_faults(self, arun, patched):
        def work():
            with socket.create_server(("127.0.0.1", 0)) as listening:
                address = listening.getsockname()
                with socket.socket() as sock, faults(interrupts=1.0, resets=1.0) as injected:
                    assert sock.connect_ex(address) == errno.EINTR
                with socket.socket() as sock, faults(delays=1.0, delay=0.002, resets=1.0) as delayed:
                    assert sock.connect_ex(address) == 0
            return injected.injected + delayed.injected

        async def main():
            found = await to_greenlet(work)
            assert found == [Fault("interrupt", "connect_ex"), Fault("delay", "connect_ex")]

        arun(main)

    def test_blocks_of_two_greenlets_overlap(self, arun, patched):
        before = {owner: dict(vars(owner)) for owner in (socket.socket, ssl.SSLSocket)}
        ended = asyncio.Event()

        def first():
            with faults(short_reads=1.0) as injected:
                await_(wait_until_parked())
            ended.set()
            return injected

        def second(left, right):
            with faults(delays=1.0, delay=0.001) as injected:
                await_(ended.wait())
                right.send(b"abcdef")
                assert left.recv(6) == b"abcdef"
            return injected

        async def main():
            left, right = socket.socketpair()
            with left, right:
                one, other = spawn(first), spawn(second, left, right)
                assert not (await one).injected
                assert [fault.kind for fault in (await other).injected] == ["delay", "delay"]
            assert {owner: dict(vars(owner)) for owner in before} == before

        arun(main)

    def test_native_code_meets_none(self):
        left, right = socket.socketpair()
        with left, right, faults(resets=1.0, short_reads=1.0):
            left.send(b"abc")
            assert right.recv(3) == b"abc"
        assert "recv" not in vars(socket.socket)

    def test_a_datagram_is_never_cut(self, arun, patched):
        def work():
            left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
            with left, right, faults(short_reads=1.0, short_writes=1.0):
                left.send(b"abcdef")
                assert right.recv(6) == b"abcdef"
                left.sendmsg([b"abc", b"def"])
                assert right.recvmsg(6)[0] == b"abcdef"

        async def main():
            await to_greenlet(work)

        arun(main)

    @pytest.mark.parametrize("options", [{"resets": 2}, {"short_reads": -0.1}, {"delay": -1}])
    def test_wrong_probabilities(self, options):
        with pytest.raises(ValueError, match="from 0 to 1"), faults(**options):
            pass
