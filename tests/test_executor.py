"""`GreenletPoolExecutor`: like a `ThreadPoolExecutor`, with greenlets of the loop for workers."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import sys
import threading
import time
import weakref
from concurrent.futures.thread import BrokenThreadPool

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest

import greenio
from conftest import finish, new_loop
from greenio import GreenletPoolExecutor, await_, in_greenlet, install, to_greenlet, uninstall
from greenio._core import current_green
from waiting import parked, turns, until, until_parked

native_sleep = time.sleep


def test_it_is_an_executor():
    executor = GreenletPoolExecutor(3)
    assert isinstance(executor, concurrent.futures.ThreadPoolExecutor)
    assert "max_workers=3" in repr(executor)
    executor.shutdown()
    for bad in (0, -1):
        with pytest.raises(ValueError, match="max_workers"):
            GreenletPoolExecutor(bad)
    with pytest.raises(TypeError, match="callable"):
        GreenletPoolExecutor(1, initializer=3)


def test_work_of_green_code(arun, patched):
    async def main():
        def work():
            with GreenletPoolExecutor(4) as executor:
                assert executor.submit(in_greenlet).result(10) is True
                assert executor.submit(pow, 2, exp=5).result(10) == 32
                assert list(executor.map(lambda x: time.sleep(0.001) or x * x, range(20))) == [x * x for x in range(20)]
                with pytest.raises(ZeroDivisionError):
                    executor.submit(lambda: 1 // 0).result(10)
                with pytest.raises(concurrent.futures.TimeoutError):
                    list(executor.map(time.sleep, [0, 0.2], timeout=0.01))
                futures = [executor.submit(time.sleep, 0.001) for _ in range(10)]
                done, left = concurrent.futures.wait(futures, 10)
                assert len(done) == 10
                assert not left
                later = executor.submit(lambda: time.sleep(0.01) or "later")
            assert later.result(0) == "later"
            with pytest.raises(RuntimeError, match="after shutdown"):
                executor.submit(int)

        await to_greenlet(work)

    arun(main)


def test_as_many_workers_as_asked_for(arun, patched):
    async def main():
        active, most = [], []

        def job():
            active.append(1)
            most.append(len(active))
            time.sleep(0.002)
            active.pop()

        executor = GreenletPoolExecutor(3)
        await asyncio.gather(*(asyncio.wrap_future(executor.submit(job)) for _ in range(20)))
        assert max(most) == 3
        executor.shutdown()

    arun(main)


def test_work_that_never_parks_leaves_the_loop_its_turns(arun, patched):
    async def main():
        executor = GreenletPoolExecutor(1)
        done = []

        def again():
            done.append(1)
            if len(done) < 1000:
                executor.submit(again)

        executor.submit(again)
        await turns(50)
        assert 0 < len(done) < 1000
        await to_greenlet(executor.shutdown)

    arun(main)


def test_one_that_is_dropped_is_gone_before_its_loop(arun, patched):
    local = threading.local()

    class Value:
        pass

    def keep():
        local.value = Value()
        return weakref.ref(local.value)

    async def main():
        executor = GreenletPoolExecutor(1)
        value = await asyncio.wrap_future(executor.submit(keep))
        await turns()
        gone = weakref.ref(executor)
        del executor
        gc.collect()
        assert gone() is None
        assert value() is None

    arun(main)


@pytest.mark.parametrize("known", [True, False])
def test_default_executor_of_a_loop(loop_kind, patched, known):
    loop = new_loop(loop_kind)
    loop.set_default_executor(GreenletPoolExecutor(50, loop=loop if known else None))

    def job(number):
        assert in_greenlet()
        time.sleep(0.05)
        return number

    async def main():
        began = time.monotonic()
        found = await asyncio.gather(*(asyncio.to_thread(job, number) for number in range(50)))
        assert found == list(range(50))
        assert await loop.run_in_executor(None, job, 1) == 1
        assert time.monotonic() - began < 2.4  # one after another they would take 2.5 s
        # What cannot park has a real thread, and look-ups do not come back in a circle.
        ident = await to_greenlet(lambda: greenio.offload(threading.get_native_id))
        assert ident != threading.get_native_id()
        assert await loop.getaddrinfo("localhost", 80)
        assert await asyncio.to_thread(lambda: threading.get_native_id()) == threading.get_native_id()
        import socket

        assert await to_greenlet(socket.getaddrinfo, "localhost", 80)
        assert await to_greenlet(socket.gethostbyname, "localhost")
        await loop.shutdown_default_executor()

    try:
        loop.run_until_complete(main())
    finally:
        finish(loop)


def test_cancelled_wait_leaves_the_work(arun, patched):
    async def main():
        done, gate = [], threading.Event()
        executor = GreenletPoolExecutor(1)
        loop = asyncio.get_running_loop()
        first = loop.run_in_executor(executor, lambda: (gate.wait(20), done.append(1)))
        second = loop.run_in_executor(executor, done.append, 2)
        await until_parked()
        first.cancel()
        second.cancel()
        gate.set()
        third = loop.run_in_executor(executor, done.append, 3)
        await third
        assert done == [1, 3]
        executor.shutdown()

    arun(main)


def test_submitted_from_other_threads(arun, patched):
    async def main():
        executor = GreenletPoolExecutor(10)
        found = []

        def thread():
            futures = [executor.submit(lambda n=n: (time.sleep(0.001), n, in_greenlet())) for n in range(20)]
            found.extend(future.result(20) for future in futures)

        threads = [threading.Thread(target=thread) for _ in range(4)]
        for each in threads:
            each.start()
        await until(lambda: not any(each.is_alive() for each in threads))
        for each in threads:
            each.join()
        assert sorted(found) == sorted([(None, n, True) for n in range(20)] * 4)
        thread_of_its_own = threading.Thread(target=executor.shutdown)
        thread_of_its_own.start()
        await until(lambda: not thread_of_its_own.is_alive())
        thread_of_its_own.join()

    arun(main)


def test_shutdown_waits_in_another_thread(arun, patched):
    async def main():
        executor = GreenletPoolExecutor(1)
        futures = [executor.submit(time.sleep, 0.01) for _ in range(3)]
        await asyncio.get_running_loop().run_in_executor(None, executor.shutdown)
        assert all(future.done() for future in futures)

    arun(main)


@pytest.mark.native_tasks("async code may wait for the shutdown there")
def test_shutdown_in_a_coroutine(arun, patched):
    async def main():
        executor = GreenletPoolExecutor(2)
        future = executor.submit(time.sleep, 0.01)
        with pytest.raises(RuntimeError, match="to_greenlet"):
            executor.shutdown()
        executor.shutdown(wait=False)
        await asyncio.wrap_future(future)
        executor.shutdown()

    arun(main)


def test_cancel_futures(arun, patched):
    async def main():
        executor, gate = GreenletPoolExecutor(1), threading.Event()
        futures = [executor.submit(gate.wait, 20) for _ in range(4)]
        await until_parked()
        asyncio.get_running_loop().call_later(0.005, gate.set)
        await to_greenlet(lambda: executor.shutdown(cancel_futures=True))
        assert [future.cancelled() for future in futures] == [False, True, True, True]
        assert futures[0].result(0) is True

    arun(main)


def test_initializer_and_thread_locals(arun, patched):
    async def main():
        local, began = threading.local(), []

        def initialize(value):
            began.append(value)
            local.count = 0

        def job():
            local.count += 1
            time.sleep(0.0005)
            return local.count, threading.current_thread().name

        executor = GreenletPoolExecutor(2, "mine", initialize, ("value",))
        counts = []
        for _ in range(5):
            counts.append(await asyncio.wrap_future(executor.submit(job)))
            await turns()
        assert [count for count, _ in counts] == [1, 2, 3, 4, 5]
        assert began == ["value"]
        await asyncio.gather(*(asyncio.wrap_future(executor.submit(job)) for _ in range(10)))
        assert began == ["value"] * 2
        executor.shutdown()

    arun(main)


def test_workers_are_numbered_as_those_of_threads_are(arun, patched):
    """Names of tasks, each worker's its own for good, whoever of them works again."""

    async def main():
        names = []

        def job():
            time.sleep(0.0005)
            names.append(current_green().task.get_name())

        with GreenletPoolExecutor(2, "mine") as executor:
            for _ in range(2):
                await asyncio.gather(*(asyncio.wrap_future(executor.submit(job)) for _ in range(2)))
                assert sorted(names) == ["mine_0", "mine_1"]
                names.clear()
                await turns()
            for _ in range(4):
                await asyncio.wrap_future(executor.submit(job))
                await turns()
            assert len({*names}) == 1

    arun(main)


def test_initializer_that_fails(arun, patched, caplog):
    async def main():
        executor = GreenletPoolExecutor(1, initializer=lambda: 1 // 0)
        futures = [executor.submit(int) for _ in range(3)]
        for future in futures:
            with pytest.raises(BrokenThreadPool):
                await asyncio.wrap_future(future)
        with pytest.raises(BrokenThreadPool):
            executor.submit(int)
        executor.shutdown()

    arun(main)
    assert "Exception in initializer" in caplog.text


def test_no_loop():
    executor = GreenletPoolExecutor()
    with pytest.raises(RuntimeError, match="no event loop yet"):
        executor.submit(int)
    executor.shutdown()


def test_what_a_loop_cancels_at_its_end(loop_kind, patched):
    log = []

    def job():
        try:
            time.sleep(100)
        finally:
            log.append("ended")

    loop = new_loop(loop_kind)
    executor = GreenletPoolExecutor(2, loop=loop)
    futures = [executor.submit(job) for _ in range(3)]

    async def main():
        await until_parked(2)

    loop.run_until_complete(main())
    for future in futures[2:]:
        future.cancel()
    finish(loop)
    assert log == ["ended"] * 2
    assert all(future.done() for future in futures)
    assert parked() == 0
    with pytest.raises(RuntimeError, match="closed"):
        executor.submit(int)
    executor.shutdown()


def test_loop_that_is_closed_without_notice(loop_kind, patched):
    loop = new_loop(loop_kind)
    executor = GreenletPoolExecutor(1, loop=loop)
    futures = [executor.submit(time.sleep, 100) for _ in range(3)]

    async def main():
        await until_parked(1)

    loop.run_until_complete(main())
    for task in asyncio.all_tasks(loop):
        task._log_destroy_pending = False
    loop.close()
    assert all(future.done() for future in futures)
    assert parked() == 0


def test_context_is_that_of_the_work(arun, patched):
    import contextvars

    variable = contextvars.ContextVar("variable", default="none")

    async def main():
        executor = GreenletPoolExecutor(1)
        asyncio.get_running_loop().set_default_executor(executor)
        variable.set("mine")
        assert await asyncio.wrap_future(executor.submit(variable.get)) == "none"
        assert await asyncio.to_thread(variable.get) == "mine"

    arun(main)


def test_asgiref(arun, patched):
    sync = pytest.importorskip("asgiref.sync")

    async def main():
        executor = GreenletPoolExecutor(10)

        def job(number):
            time.sleep(0.001)
            return number, in_greenlet()

        call = sync.sync_to_async(job, thread_sensitive=False, executor=executor)
        assert await asyncio.gather(*(call(n) for n in range(10))) == [(n, True) for n in range(10)]
        await to_greenlet(executor.shutdown)

    arun(main)


def test_anyio_keeps_its_own_threads(arun, patched):
    """It has no public way to other workers; they go on working where everything else is green."""

    def job(loop):
        time.sleep(0.001)
        assert not in_greenlet()
        assert anyio.from_thread.run(asyncio.sleep, 0.001, "from the loop") == "from the loop"
        return threading.get_native_id()

    async def main():
        loop = asyncio.get_running_loop()
        install(loop)
        here = threading.get_native_id()
        found = await asyncio.gather(*(anyio.to_thread.run_sync(job, loop) for _ in range(5)))
        found.append(await to_greenlet(lambda: await_(anyio.to_thread.run_sync(job, loop))))
        assert here not in found
        uninstall(loop)

    arun(main)


@pytest.mark.skipif(sys.platform != "linux", reason="counts OS threads")
def test_it_starts_no_thread(arun, patched):
    async def main():
        before = threading.active_count()
        executor = GreenletPoolExecutor(100)
        await asyncio.gather(*(asyncio.wrap_future(executor.submit(time.sleep, 0.001)) for _ in range(100)))
        assert threading.active_count() == before
        executor.shutdown()

    arun(main)
