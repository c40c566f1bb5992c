"""Logging from greens, coroutines and threads at once: no record is lost, torn or out of turn, and nothing stops."""

from __future__ import annotations

import asyncio
import gc
import logging
import logging.handlers
import os
import pickle
import socket
import struct
import threading
import time
import weakref

import pytest

from greenio import monkey, spawn, to_greenlet
from greenio._patches import _logging
from waiting import until, until_parked

NATIVE = [type(threading.RLock())]  # in a container, where a patch leaves it alone


@pytest.fixture
def logger():
    logger = logging.Logger("tests.logging")
    yield logger
    for handler in logger.handlers[:]:
        logger.removeHandler(handler)
        handler.close()


class Slow(logging.Handler):
    """Writes a record in two pieces, and parks in between."""

    def __init__(self):
        super().__init__()
        self.pieces: list[str] = []
        self.gate = threading.Event()
        self.gate.set()

    def emit(self, record):
        text = record.getMessage()
        self.pieces.append(f"<{text}")
        time.sleep(0.0005)
        self.gate.wait(30)
        self.pieces.append(f"{text}>")

    def whole(self):
        """Return what was written, which must not be torn."""
        begun, ended = self.pieces[::2], self.pieces[1::2]
        assert [piece[1:] for piece in begun] == [piece[:-1] for piece in ended]
        return [piece[1:] for piece in begun]


def in_order(texts, writers, count):
    assert len(texts) == writers * count
    for writer in {text.rpartition(" ")[0] for text in texts}:
        assert [text for text in texts if text.rpartition(" ")[0] == writer] == [f"{writer} {i}" for i in range(count)]


def write(logger, kind, number, count=10):
    for turn in range(count):
        logger.warning("%s-%d %d", kind, number, turn)


async def write_async(logger, number, count=10):
    for turn in range(count):
        logger.warning("coroutine-%d %d", number, turn)
        await asyncio.sleep(0)


async def everybody(logger):
    await asyncio.gather(
        *(to_greenlet(write, logger, "green", number) for number in range(25)),
        *(write_async(logger, number) for number in range(25)),
        *(asyncio.to_thread(write, logger, "thread", number) for number in range(2)),
    )
    await until(lambda: not _logging._backlogs)


def receive(sock, pause=0.0):
    """Read to the end, in a thread."""
    pieces = []

    def read():
        while data := sock.recv(2000):
            pieces.append(data)
            monkey.original("time", "sleep")(pause)

    thread = threading.Thread(target=read)
    thread.start()
    return pieces, thread


class TestEverybodyAtOnce:
    @pytest.mark.parametrize("made", ["early", "late"])
    def test_handler_that_parks(self, arun, logger, made):
        slow = Slow() if made == "early" else None
        with monkey.patched():
            slow = slow or Slow()
            logger.addHandler(slow)
            arun(lambda: asyncio.wait_for(everybody(logger), 50))
        in_order(slow.whole(), 52, 10)

    def test_slow_pipe(self, arun, logger):
        left, right = socket.socketpair()
        left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        pieces, reading = receive(right, 0.0005)
        with left, right, left.makefile("w") as stream:
            handler = logging.StreamHandler(stream)
            handler.setFormatter(logging.Formatter("%(message)s"))
            logger.addHandler(handler)
            with monkey.patched():
                arun(lambda: asyncio.wait_for(everybody(logger), 50))
            left.shutdown(socket.SHUT_WR)
            reading.join(30)
        in_order(b"".join(pieces).decode().splitlines(), 52, 10)

    def test_socket_handler(self, arun, logger):
        with socket.create_server(("127.0.0.1", 0)) as server:
            handler = logging.handlers.SocketHandler(*server.getsockname())
            handler.createSocket()
            peer, _ = server.accept()
            pieces, reading = receive(peer)
            logger.addHandler(handler)
            with peer:
                with monkey.patched():
                    arun(lambda: asyncio.wait_for(everybody(logger), 50))
                    handler.close()
                reading.join(30)
        data, found = b"".join(pieces), []
        while data:
            (length,) = struct.unpack(">L", data[:4])
            found.append(logging.makeLogRecord(pickle.loads(data[4 : 4 + length])).getMessage())
            data = data[4 + length :]
        in_order(found, 52, 10)


class TestNativeCodeBesideAParkedGreen:
    def test_its_records_are_written_in_turn(self, arun, logger):
        async def main():
            slow = Slow()
            logger.addHandler(slow)
            slow.gate.clear()
            writing = spawn(write, logger, "green", 0, 3)
            await until_parked()
            assert len(slow.pieces) == 1
            for number in range(5):
                logger.warning("coroutine-0 %d", number)
            assert len(slow.pieces) == 1
            slow.gate.set()
            await writing
            await until(lambda: not _logging._backlogs)
            texts = slow.whole()
            assert [text for text in texts if text[0] == "c"] == [f"coroutine-0 {i}" for i in range(5)]
            assert len(texts) == 8
            logger.warning("alone")
            assert slow.whole()[-1] == "alone"

        with monkey.patched():
            arun(main)

    def test_filters_run_at_once(self, arun, logger):
        async def main():
            slow, seen = Slow(), []

            def only_even(record):
                seen.append(record.getMessage())
                return record.getMessage()[-1] in "02468"

            slow.addFilter(only_even)
            logger.addHandler(slow)
            slow.gate.clear()
            writing = spawn(write, logger, "green", 0, 1)
            await until_parked()
            for number in range(4):
                logger.warning("coroutine-0 %d", number)
            assert len(seen) == 5
            slow.gate.set()
            await writing
            await until(lambda: not _logging._backlogs)
            assert slow.whole() == ["green-0 0", "coroutine-0 0", "coroutine-0 2"]

        with monkey.patched():
            arun(main)

    def test_the_end_of_the_loop_loses_nothing(self, loop_kind, logger):
        slow = Slow()
        logger.addHandler(slow)
        slow.gate.clear()

        async def main():
            running.append(spawn(write, logger, "green", 0, 1))
            await until_parked()
            for number in range(5):
                logger.warning("coroutine-0 %d", number)
            slow.gate.set()

        running: list[asyncio.Task[None]] = []
        with monkey.patched():
            asyncio.run(main())
        assert [piece[1:] for piece in slow.pieces if piece[:2] == "<c"] == [f"coroutine-0 {i}" for i in range(5)]

    def test_emit_that_fails(self, arun, logger, monkeypatch):
        class Failing(Slow):
            def emit(self, record):
                super().emit(record)
                if record.getMessage() == "coroutine-0 0":
                    raise ZeroDivisionError

        async def main():
            failing, failed = Failing(), []
            monkeypatch.setattr(failing, "handleError", failed.append)
            logger.addHandler(failing)
            failing.gate.clear()
            writing = spawn(write, logger, "green", 0, 1)
            await until_parked()
            for number in range(2):
                logger.warning("coroutine-0 %d", number)
            failing.gate.set()
            await writing
            await until(lambda: not _logging._backlogs)
            assert failing.whole() == ["green-0 0", "coroutine-0 0", "coroutine-0 1"]
            assert [record.getMessage() for record in failed] == ["coroutine-0 0"]

        with monkey.patched():
            arun(main)

    def test_other_uses_of_the_lock_pass(self, arun, logger):
        """Nobody expects `flush()` to fail, and nothing that native code does with the lock can be put off."""

        async def main():
            slow = Slow()
            logger.addHandler(slow)
            slow.gate.clear()
            writing = spawn(write, logger, "green", 0, 1)
            await until_parked()
            slow.acquire()
            slow.release()
            slow.flush()
            with slow.lock:
                pass
            with pytest.raises(RuntimeError, match="un-acquired"):
                slow.release()
            slow.gate.set()
            await writing
            assert slow.lock.acquire(False)
            slow.lock.release()

        with monkey.patched():
            arun(main)

    def test_the_lock_of_the_module(self, arun):
        async def main():
            def hold():
                with logging._lock:
                    time.sleep(0.02)

            holding = spawn(hold)
            await until_parked()
            name = f"tests.never.{time.monotonic()}"
            assert logging.getLogger(name) is logging.getLogger(name)
            assert logging.getLogger(name).isEnabledFor(logging.CRITICAL)
            waiting = spawn(logging.getLogger, name + ".more")
            await asyncio.gather(holding, waiting)

        with monkey.patched():
            arun(main)


class TestExchange:
    def test_there_and_back(self):
        handler = logging.Handler()
        before = logging._lock, handler.lock, logging.lastResort.lock
        with monkey.patched():
            during = logging._lock, handler.lock, logging.lastResort.lock
            assert not any(type(lock) is NATIVE[0] for lock in during)
            late = logging.Handler()
            assert type(late.lock) is type(handler.lock)
            assert logging.NullHandler().lock is None
        assert (logging._lock, handler.lock, logging.lastResort.lock) == before
        with late.lock, handler.lock:
            pass
        assert type(logging.Handler().lock) is NATIVE[0]
        handler.close()
        late.close()

    def test_handlers_are_not_kept_alive(self):
        handler = logging.Handler()
        with monkey.patched():
            gone = weakref.ref(handler)
            del handler
            gc.collect()
            assert gone() is None

    def test_held_by_a_thread_when_it_is_exchanged(self, arun):
        handler, held, let_go, order = logging.Handler(), threading.Event(), threading.Event(), []

        def hold():
            handler.acquire()
            handler.acquire()
            held.set()
            let_go.wait(20)
            handler.acquire()  # again, by way of the new one
            handler.release()
            order.append("thread")
            handler.release()
            handler.release()

        async def main():
            def work():
                with handler.lock:
                    order.append("green")

            waiting = spawn(work)
            await until_parked()
            assert not handler.lock.acquire(False)
            assert not handler.lock.acquire(timeout=0.01)
            assert not await to_greenlet(handler.lock.acquire, True, 0.01)
            let_go.set()
            await asyncio.wait_for(waiting, 20)
            assert order == ["thread", "green"]

        thread = threading.Thread(target=hold)
        thread.start()
        assert held.wait(20)
        with monkey.patched():
            arun(main)
            thread.join(20)
            with handler.lock:
                pass
        order.clear()
        handler.close()
        with handler.lock:
            pass

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
    @pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
    def test_forked_child(self, arun, logger):
        async def main():
            slow = Slow()
            logger.addHandler(slow)
            slow.gate.clear()
            writing = spawn(write, logger, "green", 0, 1)
            await until_parked()
            logger.warning("coroutine-0 0")
            child = os.fork()
            if not child:
                code = 1
                try:
                    slow.pieces.clear()
                    slow.gate.set()
                    logger.warning("child")
                    assert slow.whole() == ["child"]
                    code = 0
                finally:
                    os._exit(code)
            _, status = await asyncio.to_thread(os.waitpid, child, 0)
            assert status == 0
            slow.gate.set()
            await writing
            await until(lambda: not _logging._backlogs)
            assert slow.whole() == ["green-0 0", "coroutine-0 0"]

        with monkey.patched():
            arun(main)


@pytest.mark.skipif(not hasattr(logging, "logAsyncioTasks"), reason="records have no task before CPython 3.12")
def test_records_of_green_code_name_the_task(arun, logger, monkeypatch):
    seen = []

    class Keep(logging.Handler):
        def emit(self, record):
            seen.append(record.taskName)

    logger.addHandler(Keep())

    async def main():
        await asyncio.create_task(green())
        await asyncio.create_task(asynchronous())
        asyncio.current_task().set_name("native")
        logger.warning("x", extra={"other": 1})
        monkeypatch.setattr(logging, "logAsyncioTasks", False)
        await to_greenlet(logger.warning, "x")

    async def green():
        asyncio.current_task().set_name("mine")  # an eager task has begun before it gets its name
        await to_greenlet(logger.warning, "x")

    async def asynchronous():
        asyncio.current_task().set_name("async")
        logger.warning("x")

    with monkey.patched():
        arun(main)
    assert seen == ["mine", "async", "native", None]
    logger.warning("x")
    assert seen[-1] is None
