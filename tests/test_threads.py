"""Threads: each with its own loop and greenlets, one loop in several of them, and what no thread may do."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
import time

import pytest

from conftest import finish, new_loop
from greenio import _core, _original, await_, in_greenlet, offload, run, spawn, to_greenlet
from waiting import end_by_hand, parked, until_parked


def in_thread(fn, *args):
    """Run a function in a thread of its own, and return its result."""
    outcome = []

    def body():
        try:
            outcome.append((fn(*args), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join(30)
    ((result, error),) = outcome
    if error is not None:
        raise error
    return result


def work():
    total = 0
    for number in range(20):
        time.sleep(0.0005)
        total += await_(asyncio.sleep(0, number))
        left, right = socket.socketpair()
        with left, right:
            right.sendall(b"x" * number or b"x")
            total += len(left.recv(100))
    return total


def test_loops_in_several_threads_at_once(loop_kind, patched):
    def body():
        loop = new_loop(loop_kind)
        try:

            async def main():
                return await asyncio.gather(*(asyncio.ensure_future(to_greenlet(work)) for _ in range(5)))

            return loop.run_until_complete(main())
        finally:
            finish(loop)

    results = []
    threads = [threading.Thread(target=lambda: results.append(body())) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(40)
    assert len(results) == 6
    assert len({tuple(result) for result in results}) == 1
    assert parked() == 0


def test_a_loop_run_by_one_thread_then_by_another(loop_kind, patched):
    loop = new_loop(loop_kind)

    async def main():
        seen = threading.get_native_id()
        assert await to_greenlet(threading.get_native_id) == seen
        return await asyncio.gather(to_greenlet(work), asyncio.ensure_future(to_greenlet(work)))

    try:
        first = loop.run_until_complete(main())
        assert in_thread(loop.run_until_complete, main()) == first
        assert in_thread(loop.run_until_complete, main()) == first
        assert loop.run_until_complete(main()) == first
    finally:
        finish(loop)


def test_cancelled_through_the_loop_from_another_thread(arun, patched):
    async def main():
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(to_greenlet(time.sleep, 100))
        await until_parked()
        await asyncio.to_thread(loop.call_soon_threadsafe, task.cancel)
        await asyncio.wait([task], timeout=10)
        assert task.cancelled()

    arun(main)


def test_a_socket_closed_by_another_thread_wakes_the_reader(arun, patched):
    import errno

    async def main():
        left, right = socket.socketpair()
        with right:

            def read():
                try:
                    left.recv(1)
                except OSError as error:
                    return error.errno

            task = asyncio.ensure_future(to_greenlet(read))
            await until_parked()
            await asyncio.to_thread(left.close)
            assert await asyncio.wait_for(task, 10) == errno.EBADF

    arun(main)


def test_a_coroutine_that_another_thread_closes(arun, patched):
    """As the garbage collector may, in whichever thread it runs."""

    async def main():
        log = []

        def fn():
            try:
                time.sleep(100)
            finally:
                log.append(threading.get_native_id())

        coroutine = to_greenlet(fn)
        task = asyncio.ensure_future(coroutine)
        await until_parked()
        await asyncio.to_thread(coroutine.close)
        await asyncio.wait([task], timeout=10)
        assert log == [threading.get_native_id()]
        assert parked() == 0

    arun(main)


def test_a_loop_closed_by_another_thread(loop_kind, patched, caplog):
    loop = new_loop(loop_kind)

    async def begin():
        return asyncio.ensure_future(to_greenlet(time.sleep, 100))

    task = loop.run_until_complete(begin())
    loop.run_until_complete(asyncio.sleep(0))
    task._log_destroy_pending = False
    assert parked() == 1
    in_thread(loop.close)
    assert "parked in another thread" in caplog.text
    for green in _core.greens():
        if green.waiting:
            end_by_hand(green)


def test_run_in_threads_leaves_nothing(patched):
    def body():
        return run(lambda: [await_(task) for task in [spawn(work) for _ in range(3)]])

    in_thread(body)
    gc.collect()
    before = len(_core.greens())
    for _ in range(5):
        assert len(set(in_thread(body))) == 1
    gc.collect()
    assert len(_core.greens()) <= before + 1


def test_a_worker_thread_with_a_loop_of_its_own(arun, patched):
    async def main():
        def fn():
            time.sleep(0.001)
            result = offload(run, work)
            time.sleep(0.001)
            assert in_greenlet()
            return result

        assert len(set(await asyncio.gather(*(to_greenlet(fn) for _ in range(4))))) == 1

    arun(main)


def test_join_when_no_thread_can_be_started(arun, patched, monkeypatch):
    """What fails once, for want of threads, is tried again by the next who joins."""
    refuse = iter([True])

    def start(*args):
        if next(refuse, False):
            raise RuntimeError("can't start new thread")
        return native(*args)

    def join():
        thread = threading.Thread(target=_original.sleep, args=(0.1,))
        thread.start()
        monkeypatch.setattr(_original, "start_new_thread", start)
        with pytest.raises(RuntimeError, match="start new thread"):
            thread.join()
        begin = time.monotonic()
        thread.join(5)
        return time.monotonic() - begin

    native = _original.start_new_thread
    assert arun(lambda: to_greenlet(join)) < 4
