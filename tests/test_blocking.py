"""`on_blocking`: native code that would hold a loop is told of or refused; what cannot block or is asyncio's is not."""

from __future__ import annotations

import asyncio
import concurrent.futures
import fcntl
import logging
import multiprocessing
import os
import pickle
import queue
import select
import selectors
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import warnings
from functools import partial
from time import sleep as early_sleep

import pytest

import tls
from greenio import _original, monkey, to_greenlet
from greenio._patches import _blocking, _patching, _would_block
from greenio.monkey import BlockingCallError, BlockingCallWarning
from waiting import until

HERE = __file__


@pytest.fixture
def raising():
    with monkey.patched(on_blocking="raise"):
        yield


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def blocks(fn, *args, call):
    """Say that a call would hold the loop, under this name."""
    with pytest.raises(BlockingCallError) as caught:
        fn(*args)
    assert caught.value.call == call
    assert caught.value.filename == HERE
    assert f"{call}() holds the event loop" in str(caught.value)
    assert "to_greenlet" in str(caught.value)


pytestmark = pytest.mark.usefixtures("raising")


class TestSleep:
    def test_in_a_coroutine(self, arun):
        async def main():
            blocks(time.sleep, 1, call="time.sleep")
            blocks(early_sleep, 1, call="time.sleep")
            time.sleep(0)
            with pytest.raises(ValueError, match="non-negative"):
                time.sleep(-1)
            with pytest.raises(TypeError):
                time.sleep("1")

        arun(main)

    def test_elsewhere_it_is_as_ever(self, arun):
        async def main():
            await to_greenlet(time.sleep, 0.001)
            await to_greenlet(in_a_coroutine)
            await asyncio.to_thread(time.sleep, 0.001)
            await asyncio.get_running_loop().run_in_executor(None, time.sleep, 0.001)

        async def in_a_coroutine():
            time.sleep(0.001)

        arun(main)
        time.sleep(0.001)

    def test_in_a_callback(self, arun):
        async def main():
            loop = asyncio.get_running_loop()
            caught = []
            loop.set_exception_handler(lambda loop, context: caught.append(context["exception"]))
            loop.call_soon(time.sleep, 1)  # written in C: no frame of its own
            loop.call_soon(lambda: time.sleep(1))
            await until(lambda: len(caught) == 2)
            assert [error.task for error in caught] == [None, None]
            assert caught[1].filename == HERE

        arun(main)


def test_message_names_call_task_and_line(arun):
    async def main():
        asyncio.current_task().set_name("the task")
        with pytest.raises(BlockingCallError) as caught:
            await below()
        error = caught.value
        assert error.task == "the task"
        assert error.lineno == below.__code__.co_firstlineno + 1
        assert "in task 'the task', in " in str(error)
        assert f"below() at {HERE}:{error.lineno}; write `await asyncio.sleep(seconds)`, or" in str(error)
        copy = pickle.loads(pickle.dumps(error))
        assert (str(copy), copy.call, copy.lineno) == (str(error), error.call, error.lineno)

    async def below():
        deeper()  # this is the line that has to be changed

    def deeper():
        partial(time.sleep, 1)()

    arun(main)


class TestSockets:
    def test_reads(self, arun, pair):
        ours, theirs = pair
        buffer = bytearray(8)

        async def main():
            for timeout in (None, 5):
                ours.settimeout(timeout)
                blocks(ours.recv, 1, call="socket.socket.recv")
                blocks(ours.recv_into, buffer, call="socket.socket.recv_into")
                blocks(ours.recvfrom, 1, call="socket.socket.recvfrom")
                blocks(ours.recvfrom_into, buffer, call="socket.socket.recvfrom_into")
                blocks(ours.recvmsg, 1, call="socket.socket.recvmsg")
                blocks(ours.recvmsg_into, [buffer], call="socket.socket.recvmsg_into")
                theirs.send(b"abc")
                assert ours.recv(1) + ours.recvfrom(1)[0] + ours.recvmsg(1)[0] == b"abc"

        arun(main)

    def test_what_does_not_wait(self, arun, pair):
        ours, theirs = pair

        async def main():
            ours.setblocking(False)
            with pytest.raises(BlockingIOError):
                ours.recv(1)
            ours.setblocking(True)
            with pytest.raises(BlockingIOError):
                ours.recv(1, socket.MSG_DONTWAIT)
            with pytest.raises(BlockingIOError):
                ours.recv_into(bytearray(1), 1, socket.MSG_DONTWAIT)
            os.set_blocking(ours.fileno(), False)
            with pytest.raises(BlockingIOError):
                ours.recv(1)
            theirs.close()
            assert ours.recv(1) == b""

        arun(main)

    def test_adopted_socket(self, arun, pair):
        ours, theirs = pair

        async def main():
            ours.settimeout(5)
            theirs.send(b"a")
            assert await to_greenlet(ours.recv, 1) == b"a"
            blocks(ours.recv, 1, call="socket.socket.recv")
            theirs.send(b"b")
            assert ours.recv(1) == b"b"

        arun(main)

    def test_writes(self, arun, pair):
        ours, _ = pair

        async def main():
            assert ours.send(b"a") == 1
            ours.sendall(b"a")
            blocks(ours.sendall, bytes(10_000_000), call="socket.socket.sendall")
            ours.setblocking(False)
            with pytest.raises(BlockingIOError):
                while True:
                    ours.send(bytes(65536))
            ours.setblocking(True)
            blocks(ours.send, b"a", call="socket.socket.send")
            blocks(ours.sendall, b"a", call="socket.socket.sendall")
            blocks(ours.sendmsg, [b"a"], call="socket.socket.sendmsg")

        arun(main)

    def test_accept_and_connect(self, arun):
        async def main():
            with socket.create_server(("127.0.0.1", 0)) as server:
                blocks(server.accept, call="socket.socket.accept")
                with socket.socket() as client:
                    blocks(client.connect, server.getsockname(), call="socket.socket.connect")
                with socket.socket() as client:
                    client.setblocking(False)
                    with pytest.raises(BlockingIOError):
                        client.connect(server.getsockname())
                    server.accept()[0].close()
                with socket.socket(type=socket.SOCK_DGRAM) as client:
                    client.connect(server.getsockname())

        arun(main)

    def test_streams_of_asyncio(self, arun):
        async def main():
            async def serve(reader, writer):
                writer.write(await reader.read(1))
                writer.close()

            server = await asyncio.start_server(serve, "localhost", 0)
            port = server.sockets[0].getsockname()[1]
            reader, writer = await asyncio.open_connection("localhost", port)
            writer.write(b"x")
            assert await reader.read() == b"x"
            writer.close()
            await writer.wait_closed()
            server.close()
            await server.wait_closed()

        arun(main)


def test_tls(arun, pair):
    ours, theirs = pair

    async def main():
        client = tls.client_context().wrap_socket(ours, server_hostname="localhost", do_handshake_on_connect=False)
        server = tls.server_context().wrap_socket(theirs, server_side=True, do_handshake_on_connect=False)
        with client, server:
            blocks(server.do_handshake, call="ssl.SSLSocket.do_handshake")
            await asyncio.gather(to_greenlet(client.do_handshake), to_greenlet(server.do_handshake))
            assert client.send(b"abc") == 3
            await until(lambda: select.select([server], [], [], 0)[0])
            assert server.recv(1) == b"a"
            assert server.recv(2) == b"bc"
            blocks(server.recv, 1, call="ssl.SSLSocket.recv")
            client.setblocking(False)
            with pytest.raises(ssl.SSLWantReadError):
                while True:
                    client.recv(1)

    arun(main)


class TestDescriptors:
    def test_select(self, arun, pair):
        ours, theirs = pair

        async def main():
            blocks(select.select, [ours], [], [], call="select.select")
            blocks(select.select, [ours], [], [], 1, call="select.select")
            assert select.select([ours], [], [], 0) == ([], [], [])
            assert select.select([ours], [ours], [], 1) == ([], [ours], [])

        arun(main)

    @pytest.mark.parametrize("kind", ["poll", "epoll"])
    def test_pollers(self, arun, pair, kind):
        ours, theirs = pair

        async def main():
            poller = getattr(select, kind)()
            poller.register(ours, select.POLLIN)
            blocks(poller.poll, call=f"select.{kind}.poll")
            blocks(poller.poll, 1, call=f"select.{kind}.poll")
            assert poller.poll(0) == []
            theirs.send(b"a")
            assert poller.poll(1) == [(ours.fileno(), select.POLLIN)]
            if kind == "epoll":
                poller.close()

        arun(main)

    def test_to_look_consumes_no_event(self, arun, pair):
        ours, theirs = pair

        async def main():
            with select.epoll() as poller:
                poller.register(ours, select.EPOLLIN | select.EPOLLONESHOT)
                theirs.send(b"a")
                assert poller.poll(1) == [(ours.fileno(), select.EPOLLIN)]
                blocks(poller.poll, 1, call="select.epoll.poll")

        arun(main)

    @pytest.mark.parametrize("kind", ["SelectSelector", "PollSelector", "EpollSelector"])
    def test_selectors(self, arun, pair, kind):
        ours, theirs = pair

        async def main():
            with getattr(selectors, kind)() as selector:
                key = selector.register(ours, selectors.EVENT_READ)
                blocks(selector.select, call=f"selectors.{kind}.select")
                blocks(selector.select, 1, call=f"selectors.{kind}.select")
                assert selector.select(0) == []
                theirs.send(b"a")
                assert selector.select() == [(key, selectors.EVENT_READ)]

        arun(main)


def test_look_ups(arun):
    async def main():
        blocks(socket.getaddrinfo, "localhost", 80, call="socket.getaddrinfo")
        blocks(socket.gethostbyname, "localhost", call="socket.gethostbyname")
        blocks(socket.gethostbyaddr, "127.0.0.1", call="socket.gethostbyaddr")
        blocks(socket.getnameinfo, ("127.0.0.1", 80), 0, call="socket.getnameinfo")
        assert socket.getaddrinfo("127.0.0.1", 80)
        assert socket.gethostbyname("127.0.0.1") == "127.0.0.1"
        assert socket.getnameinfo(("127.0.0.1", 80), socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)
        assert await asyncio.get_running_loop().getaddrinfo("localhost", 80)

    arun(main)


class TestLocks:
    @pytest.mark.parametrize("kind", ["Lock", "RLock"])
    def test_held_elsewhere(self, arun, kind):
        lock = getattr(threading, kind)()
        held, enough = threading.Event(), threading.Event()

        def hold():
            with lock:
                held.set()
                enough.wait()

        async def main():
            thread = threading.Thread(target=hold)
            thread.start()
            await until(held.is_set)
            try:
                blocks(lock.acquire, call=f"threading.{kind}.acquire")
                blocks(lock.acquire, True, 5, call=f"threading.{kind}.acquire")
                blocks(lock.__enter__, call=f"threading.{kind}.acquire")
                assert not lock.acquire(blocking=False)
                assert not lock.acquire(True, 0)
            finally:
                enough.set()
            await to_greenlet(thread.join)
            with lock:
                assert lock.acquire(False) == (kind == "RLock")
                if kind == "RLock":
                    lock.release()

        arun(main)

    def test_critical_section_of_another_thread(self, arun, monkeypatch):
        monkeypatch.setattr(_would_block, "_BRIEF", 5)  # of a thread that the machine may keep waiting
        lock = threading.Lock()

        async def main():
            lock.acquire()
            release = threading.Thread(target=lambda: (_original.sleep(0.002), lock.release()))
            release.start()
            assert lock.acquire()
            lock.release()
            await to_greenlet(release.join)

        arun(main)

    def test_conditions_events_queues(self, arun):
        async def main():
            condition = threading.Condition()
            with condition:
                blocks(condition.wait, call="threading.Condition.wait")
            assert condition.acquire(False)  # it was given back
            condition.release()
            with pytest.raises(RuntimeError, match="un-acquired"):
                condition.wait()
            event = threading.Event()
            blocks(event.wait, call="threading.Event.wait")
            blocks(event.wait, 1, call="threading.Event.wait")
            event.set()
            assert event.wait()
            semaphore = threading.Semaphore(0)
            blocks(semaphore.acquire, call="threading.Semaphore.acquire")
            assert not semaphore.acquire(blocking=False)
            for kind in (queue.Queue, queue.SimpleQueue):
                items = kind()
                blocks(items.get, call=f"queue.{kind.__name__}.get")
                blocks(partial(items.get, timeout=1), call=f"queue.{kind.__name__}.get")
                with pytest.raises(queue.Empty):
                    items.get(block=False)
                items.put(1)
                assert items.get() == 1
            full = queue.Queue(1)
            full.put(1)
            blocks(full.put, 2, call="queue.Queue.put")

        arun(main)

    def test_futures_and_threads(self, arun):
        async def main():
            future = concurrent.futures.Future()
            with pytest.raises(BlockingCallError, match=r"await it by `asyncio.wrap_future`") as caught:
                future.result()
            assert caught.value.call.startswith("concurrent.futures.")
            future.set_result(1)
            assert future.result() == 1
            enough = threading.Event()
            thread = threading.Thread(target=enough.wait)
            thread.start()
            blocks(thread.join, call="threading.Thread.join")
            thread.join(0)
            enough.set()
            await to_greenlet(thread.join)
            thread.join()

        arun(main)

    def test_executors_and_logging_are_left_alone(self, arun, caplog):
        async def main():
            loop = asyncio.get_running_loop()
            with_many = [loop.run_in_executor(None, logging.getLogger(f"tests.{i}").warning, "x") for i in range(50)]
            for _ in range(50):
                logging.getLogger("tests").warning("y")
            await asyncio.gather(*with_many)
            await asyncio.to_thread(int)

        arun(main)
        assert len(caplog.records) == 100

    def test_shutdown_of_the_default_executor_is_the_loops(self, arun, monkeypatch):
        native_run = threading.Thread.run

        def end_late(thread):
            native_run(thread)
            _original.sleep(0.05)

        async def main():
            await asyncio.to_thread(int)
            monkeypatch.setattr(threading.Thread, "run", end_late)
            await asyncio.get_running_loop().shutdown_default_executor()

        arun(main)


def test_file_locks(arun, tmp_path):
    async def main():
        with open(tmp_path / "lock", "w") as one, open(tmp_path / "lock", "w") as two:
            fcntl.flock(one, fcntl.LOCK_EX)
            blocks(fcntl.flock, two, fcntl.LOCK_EX, call="fcntl.flock")
            with pytest.raises(BlockingIOError):
                fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(one, fcntl.LOCK_UN)
            fcntl.flock(two, fcntl.LOCK_EX)
            fcntl.lockf(one, fcntl.LOCK_EX)  # a process does not bar itself
            fcntl.fcntl(one, fcntl.F_GETFD)

    arun(main)


def test_signals(arun):
    async def main():
        old = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
        try:
            blocks(signal.sigwait, {signal.SIGUSR2}, call="signal.sigwait")
            blocks(signal.sigtimedwait, {signal.SIGUSR2}, 1, call="signal.sigtimedwait")
            assert signal.sigtimedwait({signal.SIGUSR2}, 0) is None
            blocks(signal.pause, call="signal.pause")
            signal.raise_signal(signal.SIGUSR2)
            assert signal.sigwait({signal.SIGUSR2}) == signal.SIGUSR2
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, old)

    arun(main)


def test_processes(arun):
    async def main():
        ours, theirs = multiprocessing.Pipe()
        with ours, theirs:
            with pytest.raises(BlockingCallError):
                ours.recv()
            theirs.send(1)
            assert ours.recv() == 1
            process = multiprocessing.get_context("fork").Process(target=theirs.recv)
            process.start()
            blocks(process.join, call="multiprocessing.process.BaseProcess.join")
            ours.send(2)
            await to_greenlet(process.join)
            process.join()
            process.close()

    arun(main)


class TestAllowed:
    def sleeps(self, arun, *allowed):
        async def main():
            outer()

        def outer():
            time.sleep(0.001)

        with monkey.patched(on_blocking="raise", allow_blocking=allowed):
            arun(main)

    def test_by_module(self, arun):
        self.sleeps(arun, __name__)

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="there, what a function in a function is in is not known")
    def test_by_function(self, arun):
        self.sleeps(arun, f"{__name__}.{self.sleeps.__func__.__qualname__}")

    def test_by_call(self, arun):
        self.sleeps(arun, "time.sleep")

    def test_by_class_on_any_version(self, arun):
        async def main():
            Allowed().sleep()

        with monkey.patched(on_blocking="raise", allow_blocking=[f"{__name__}.Allowed.sleep"]):
            arun(main)

    @pytest.mark.parametrize("other", ["asyncio", "tim", "time.slee", f"{__name__}x", f"{__name__}.other"])
    def test_others_are_not(self, arun, other):
        with pytest.raises(BlockingCallError):
            self.sleeps(arun, other)

    def test_a_single_name_is_a_mistake(self):
        with pytest.raises(ValueError, match=r"allow_blocking=\['time'\]"):
            monkey.patch_all(allow_blocking="time")


class Allowed:
    def sleep(self):
        time.sleep(0.001)


class TestWarnings:
    def caught(self, arun, main):
        with warnings.catch_warnings(record=True) as self.told:
            warnings.simplefilter("always")
            with monkey.patched(on_blocking="warn"):
                arun(main)
        return [each for each in self.told if each.category is BlockingCallWarning]

    def test_once_for_each_place(self, arun):
        async def main():
            for _ in range(3):
                await asyncio.gather(sleep(), sleep())
            time.sleep(0.001)

        async def sleep():
            time.sleep(0.001)

        found = self.caught(arun, main)
        lines = [main.__code__.co_firstlineno + 3, sleep.__code__.co_firstlineno + 1]
        assert sorted(each.lineno for each in found) == lines
        assert {each.filename for each in found} == {HERE}

    def test_once_for_each_call_of_a_line(self, arun):
        async def main():
            for _ in range(3):
                time.sleep(0.001), time.sleep(0.002)

        assert [each.lineno for each in self.caught(arun, main)] == [main.__code__.co_firstlineno + 2] * 2

    def test_the_call_is_made(self, arun):
        async def main():
            ours, theirs = socket.socketpair()
            with ours, theirs:
                thread = threading.Thread(target=send_when_told, args=[theirs])
                thread.start()
                assert ours.recv(1) == b"x"
                ours.settimeout(0.01)
                with pytest.raises(TimeoutError):
                    ours.recv(1)
                await to_greenlet(thread.join)

        def send_when_told(sock):
            end = _original.monotonic() + 20
            while not self.told and _original.monotonic() < end:
                _original.sleep(0.001)
            sock.send(b"x")

        assert len(self.caught(arun, main)) == 2

    def test_as_errors_they_come_each_time(self, arun):
        async def main():
            for _ in range(2):
                with pytest.raises(BlockingCallWarning):
                    time.sleep(1)

        with monkey.patched(on_blocking="warn"):
            arun(main)


class TestSwitch:
    @pytest.fixture(autouse=True)
    def off(self, raising):
        with monkey.patched(on_blocking="ignore"):
            yield
        monkey.unpatch_all()

    def test_without_it_nothing_is_in_between(self):
        unguarded = {patch.target: vars(patch.owner)[patch.name] for patch in every_patch()}
        assert unguarded == {patch.target: patch.green for patch in every_patch()}
        assert "_take" in vars(_would_block.Lock)
        assert vars(_would_block.Lock)["_take"].__code__.co_filename.endswith("_locks.py")

    def test_on_and_off(self):
        green, take = time.sleep, vars(_would_block.Lock)["_take"]
        monkey.patch_all(on_blocking="raise")
        assert time.sleep is not green
        assert early_sleep is time.sleep
        assert vars(_would_block.Lock)["_take"] is not take
        monkey.patch_all()
        assert time.sleep is not green, "left as it is"
        monkey.patch_all(on_blocking="ignore")
        assert time.sleep is early_sleep is green
        assert vars(_would_block.Lock)["_take"] is take

    def test_original_and_report_see_through(self):
        before = monkey.report()
        with monkey.patched(on_blocking="warn"):
            assert monkey.original("time", "sleep") is _original.sleep
            assert monkey.original(__name__, "early_sleep") is _original.sleep
            assert monkey.is_patched("time.sleep")
            assert monkey.report() == before

    def test_groups_come_and_go_below(self):
        with monkey.patched(on_blocking="raise"):
            with monkey.patched("files"):
                assert time.sleep.__wrapped__.__wrapped__ is _original.sleep
            assert time.sleep.__wrapped__.__wrapped__ is _original.sleep
        assert time.sleep.__wrapped__ is _original.sleep

    def test_unknown_choice(self):
        with pytest.raises(ValueError, match='"warn" or "raise"'):
            monkey.patch_all(on_blocking="complain")
        with pytest.raises(ValueError, match='"warn" or "raise"'), monkey.patched(on_blocking="complain"):
            pass


def test_only_patched_names_are_looked_at(arun):
    monkey.unpatch_all()

    async def main():
        time.sleep(0.001)
        blocks(socket.gethostbyname, "localhost", call="socket.gethostbyname")

    monkey.patch_all(time=False, on_blocking="raise")
    try:
        if not monkey.is_patched("time"):
            arun(main)
    finally:
        monkey.unpatch_all()
    assert _patching._guards is None


def every_patch():
    return [patch for group in _patching.applied_groups.values() for patch in group.group.loaded()]


def test_descriptors(arun):
    async def main():
        read, write = os.pipe()
        try:
            blocks(os.read, read, 1, call="os.read")
            blocks(os.readv, read, [bytearray(1)], call="os.readv")
            assert os.write(write, b"a") == os.writev(write, [b"b"]) == 1
            assert os.read(read, 2) == b"ab"
            os.set_blocking(write, False)
            with pytest.raises(BlockingIOError):
                while True:
                    os.write(write, bytes(4096))
            os.set_blocking(write, True)
            blocks(os.write, write, b"a", call="os.write")
            os.set_blocking(read, False)
            while os.read(read, 65536):
                if not select.select([read], [], [], 0)[0]:
                    break
            with pytest.raises(BlockingIOError):
                os.read(read, 1)
        finally:
            os.close(read)
            os.close(write)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.read(read, 1)

    arun(main)


class TestFilesOfPipes:
    """Their layers are written in C, and wait in the raw file below."""

    @pytest.fixture(params=["green", "native"])
    def pipe(self, request):
        async def opened(fd):
            fdopen = partial(os.fdopen, fd, "rb")
            return await to_greenlet(fdopen) if request.param == "green" else fdopen()

        return opened

    def test_reads(self, arun, pipe):
        async def main():
            fd, write = os.pipe()
            with await pipe(fd) as file:
                blocks(file.readline, call="io.FileIO.readinto")
                blocks(file.read, call="io.FileIO.readall")
                blocks(file.raw.read, 1, call="io.FileIO.read")
                blocks(file.raw.readline, call="io.FileIO.read")
                os.write(write, b"a line\nand more")
                assert file.readline() == b"a line\n"
                assert file.read1() == b"and more"
                blocks(file.read, call="io.FileIO.readall")
                os.set_blocking(fd, False)
                assert file.read(1) is None
                os.set_blocking(fd, True)
                os.write(write, b"the rest")
                os.close(write)
                assert file.read() == b"the rest"

        arun(main)

    def test_what_is_no_pipe(self, arun, tmp_path):
        (tmp_path / "file").write_bytes(b"abc")

        async def main():
            for path, content in ((tmp_path / "file", b"abc"), (os.devnull, b"")):
                with open(path, "rb") as file:
                    assert file.read() == content
                with open(path, "rb", buffering=0) as file:
                    assert file.read() == content

        arun(main)

    def test_of_children(self, arun):
        async def main():
            with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
                blocks(child.stdout.readline, call="io.FileIO.readinto")
                child.stdin.close()
                await to_greenlet(child.wait)
                assert child.stdout.read() == ""
            child = await asyncio.create_subprocess_exec("echo", "1", stdout=asyncio.subprocess.PIPE)
            assert await child.communicate() == (b"1\n", None)

        arun(main)

    def test_elsewhere_they_are_as_ever(self, arun):
        async def main():
            assert await asyncio.to_thread(echo) == await to_greenlet(echo) == "1\n"

        def echo():
            with subprocess.Popen(["echo", "1"], stdout=subprocess.PIPE, text=True) as child:
                return child.stdout.read()

        arun(main)
        assert echo() == "1\n"


def test_standard_input():
    program = (
        "import asyncio, sys\n"
        "from greenio import monkey\n"
        "monkey.patch_all(on_blocking='raise')\n"
        "async def main():\n"
        "    for read in (sys.stdin.readline, sys.stdin.buffer.read, input):\n"
        "        try: read()\n"
        "        except monkey.BlockingCallError as error: print(error.call, error.lineno)\n"
        "asyncio.run(main())\n"
        "sys.stdout.flush()\n"
        "print(input())\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        told = [child.stdout.readline() for _ in range(3)]
        assert told == ["io.FileIO.readinto 6\n", "io.FileIO.readall 6\n", "io.FileIO.readinto 6\n"]
        assert child.communicate("a line\n")[0] == "a line\n"


def test_every_row_is_of_something_patched():
    patched = {patch.target for patch in every_patch()}
    assert {row.target for row in _would_block.TABLE} <= patched | {"select.kqueue"}


def test_children_are_looked_at_without_taking_their_status():
    pid = os.posix_spawn(
        sys.executable, [sys.executable, "-c", "import sys; sys.stdin.read()"], os.environ, file_actions=file_actions()
    )
    assert _would_block._child_runs(pid)
    for fd in WRITE:
        os.close(fd)
    while _would_block._child_runs(pid):
        _original.sleep(0.001)
    assert not _would_block._child_runs(-1)
    assert os.waitpid(pid, 0)[0] == pid
    assert not _blocking._holds(_would_block._child_runs, (pid,), {}), "no child: the native call says so"


WRITE = []


def file_actions():
    read, write = os.pipe()
    os.set_inheritable(read, True)
    WRITE.extend([read, write])
    return [(os.POSIX_SPAWN_DUP2, read, 0), (os.POSIX_SPAWN_CLOSE, write)]
