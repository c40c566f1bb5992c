"""`await_`, and waiting for descriptors: what they take, what they raise, and who waits with whom."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import tempfile
import time

import pytest

from greenio import await_, spawn, to_greenlet, wait_readable, wait_writable
from waiting import parked, until_parked

pytestmark = pytest.mark.green_tasks


def test_what_is_done_never_parks(arun):
    async def main():
        turned = []
        loop = asyncio.get_running_loop()
        loop.call_soon(turned.append, 1)
        done = loop.create_future()
        done.set_result("done")
        assert await to_greenlet(await_, done) == "done"
        assert not turned

    arun(main)


@pytest.mark.parametrize("parks_first", [False, True])
def test_futures_tasks_and_coroutines(arun, patched, parks_first):
    async def main():
        loop = asyncio.get_running_loop()

        class Awaitable:
            def __await__(self):
                yield from asyncio.sleep(0.001).__await__()
                return "awaitable"

        async def fails():
            await asyncio.sleep(0.001)
            raise KeyError("fails")

        def fn(task, bad, future):
            if parks_first:
                time.sleep(0.001)
            assert await_(task) == "task"
            assert await_(task) == "task"
            assert await_(Awaitable()) == "awaitable"
            for _ in range(2):
                with pytest.raises(KeyError, match="fails"):
                    await_(bad)
            with pytest.raises(KeyError, match="fails"):
                await_(fails())
            with pytest.raises(asyncio.CancelledError):
                await_(future)
            return await_(both())

        async def both():
            return await asyncio.gather(asyncio.sleep(0.001, 1), asyncio.sleep(0, 2))

        future = loop.create_future()
        loop.call_later(0.02, future.cancel)
        task = asyncio.ensure_future(asyncio.sleep(0.002, "task"))
        bad = asyncio.ensure_future(fails())
        assert await to_greenlet(fn, task, bad, future) == [1, 2]

    arun(main)


def test_the_frames_of_a_failed_task_stay(arun, patched):
    import traceback

    async def main():
        async def fails():
            await asyncio.sleep(0.001)
            raise KeyError("fails")

        async def in_a_task():
            await asyncio.ensure_future(fails())

        for wait in (lambda: None, lambda: time.sleep(0.001)):

            def fn(wait=wait):
                wait()
                await_(in_a_task())

            with pytest.raises(KeyError) as caught:
                await to_greenlet(fn)
            assert traceback.extract_tb(caught.value.__traceback__)[-1].name == "fails"

    arun(main)


def test_many_await_one(arun, patched):
    async def main():
        gate = asyncio.Event()
        tasks = [spawn(lambda: await_(gate.wait())) for _ in range(50)]
        await until_parked(50)
        gate.set()
        assert await asyncio.gather(*tasks) == [True] * 50
        assert parked() == 0

    arun(main)


def test_asyncio_primitives(arun, patched):
    async def main():
        lock, queue = asyncio.Lock(), asyncio.Queue(2)
        held = []

        async def critical():
            async with lock:
                held.append(1)
                assert len(held) == 1
                time.sleep(0.0005)
                await asyncio.sleep(0)
                held.pop()

        def produce():
            for number in range(10):
                await_(critical())
                await_(queue.put(number))

        def consume():
            return [await_(queue.get()) for _ in range(10)]

        results = await asyncio.gather(*(spawn(fn) for fn in (produce, consume, produce, consume)))
        assert sorted(results[1] + results[3]) == sorted([*range(10)] * 2)

    arun(main)


# Descriptors


@pytest.fixture
def pipe():
    read, write = os.pipe()
    yield read, write
    for fd in (read, write):
        try:
            os.close(fd)
        except OSError:
            pass


def test_pipes(arun, pipe):
    read, write = pipe

    async def main():
        for payload in (b"a", b"b"):
            task = asyncio.ensure_future(to_greenlet(wait_readable, read, 20))
            await until_parked()
            os.write(write, payload)
            await task
            await to_greenlet(wait_readable, read)  # still
            assert os.read(read, 10) == payload
        with pytest.raises(TimeoutError):
            await to_greenlet(wait_readable, read, 0.01)
        with pytest.raises(TimeoutError):
            await to_greenlet(wait_readable, read, 0)
        await to_greenlet(wait_writable, write)
        assert os.get_blocking(read)
        assert os.get_blocking(write)

    arun(main)


def test_a_full_pipe(arun, pipe):
    read, write = pipe
    os.set_blocking(write, False)
    with pytest.raises(BlockingIOError):
        while True:
            os.write(write, b"x" * 65536)

    async def main():
        task = asyncio.ensure_future(to_greenlet(wait_writable, write, 20))
        await until_parked()
        os.read(read, 1 << 20)
        await task

    arun(main)


def test_the_other_end_closed(arun, pipe):
    read, write = pipe

    async def main():
        task = asyncio.ensure_future(to_greenlet(wait_readable, read, 20))
        await until_parked()
        os.close(write)
        await task
        assert os.read(read, 1) == b""

    arun(main)


def test_regular_files_are_ready(arun):
    async def main():
        with tempfile.TemporaryFile() as file:
            for _ in range(2):
                await to_greenlet(wait_readable, file, 1)
                await to_greenlet(wait_writable, file.fileno(), 1)

    arun(main)


@pytest.mark.parametrize("wait", [wait_readable, wait_writable])
def test_bad_descriptors(arun, wait):
    async def main():
        read, write = os.pipe()
        await to_greenlet(wait_writable, write)  # from here on nothing else opens descriptors
        os.close(read)
        os.close(write)
        for fd in (read, write, -1, 1_000_000):
            with pytest.raises(OSError) as caught:
                await to_greenlet(wait, fd, 1)
            assert caught.value.errno == errno.EBADF

    arun(main)


def test_closed_under_a_waiter(arun, patched):
    async def main():
        left, right = socket.socketpair()
        with right:
            tasks = [asyncio.ensure_future(to_greenlet(wait_readable, left)) for _ in range(3)]
            await until_parked(3)
            left.close()
            for task in tasks:
                with pytest.raises(OSError) as caught:
                    await task
                assert caught.value.errno == errno.EBADF

    arun(main)


def test_several_waiters_and_both_directions(arun, pipe):
    async def main():
        left, right = socket.socketpair()
        with left, right:
            readers = [asyncio.ensure_future(to_greenlet(wait_readable, left, 20)) for _ in range(5)]
            await until_parked(5)
            await to_greenlet(wait_writable, left, 1)
            readers[2].cancel()
            right.send(b"x")
            await asyncio.wait(readers)
            assert [task.cancelled() for task in readers] == [False, False, True, False, False]
            for task in readers:
                assert task.cancelled() or task.result() is None

    arun(main)


def test_a_number_that_is_used_again(arun):
    """Closed behind greenio's back by os.close, and opened anew with the same number."""

    async def main():
        before = None
        for _ in range(5):
            read, write = os.pipe()
            if before is not None:
                assert read == before
            task = asyncio.ensure_future(to_greenlet(wait_readable, read, 20))
            await until_parked()
            os.write(write, b"x")
            await task
            before = read
            os.close(read)
            os.close(write)

    arun(main)
