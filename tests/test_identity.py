"""Who code is: `current_thread` and `get_ident` of greens, coroutines and threads, and what stands on them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import logging
import os
import signal
import sys
import threading
import time
import weakref
from _thread import get_ident as early_get_ident
from threading import current_thread as early_current_thread

import pytest

from greenio import await_, monkey, spawn, to_greenlet
from waiting import turns, until_parked

pytestmark = pytest.mark.usefixtures("patched")


class TestGreens:
    def test_each_call_is_somebody(self, arun):
        async def main():
            def who():
                first = threading.get_ident(), threading.current_thread()
                time.sleep(0.001)
                assert (threading.get_ident(), threading.current_thread()) == first
                assert first[1].ident == first[0] == early_get_ident()
                assert early_current_thread() is first[1]
                return first

            found = await asyncio.gather(*(to_greenlet(who) for _ in range(5)))
            idents = {ident for ident, _ in found}
            assert len(idents) == len({thread for _, thread in found}) == 5
            assert threading.get_ident() not in idents
            assert all(type(ident) is int and ident for ident in idents)

        arun(main)

    def test_a_thread_like_any_other(self, arun):
        async def main():
            kept = []

            def who():
                thread = threading.current_thread()
                kept.append(thread)
                assert isinstance(thread, threading.Thread)
                assert thread.is_alive()
                assert thread in threading.enumerate()
                assert thread is not threading.main_thread()
                assert thread.daemon is monkey.original("threading", "current_thread")().daemon
                assert thread.native_id == threading.get_native_id()
                assert {thread: 1}[thread] == 1
                with pytest.raises(RuntimeError, match="once"):
                    thread.start()
                with pytest.raises(RuntimeError, match="join current thread"):
                    thread.join()
                thread.name = "mine"
                return repr(thread)

            task = asyncio.get_running_loop().create_task(to_greenlet(who), name="Job-7")
            shown = await task
            assert shown.startswith("<_GreenThread(mine, started ")
            assert not kept[0].is_alive()
            assert kept[0] not in threading.enumerate()
            assert "stopped" in repr(kept[0])
            kept[0].join()
            await to_greenlet(kept[0].join, 1)

        arun(main)

    def test_its_name_tells_the_task(self, arun):
        async def main():
            asyncio.current_task().set_name("Job-7")
            assert await to_greenlet(lambda: threading.current_thread().name) == "Greenlet (Job-7)"

        arun(main)

    @pytest.mark.native_tasks("async code may wait for such a thread there")
    def test_joined_from_elsewhere(self, arun):
        async def main():
            made = []

            def long():
                made.append(threading.current_thread())
                time.sleep(0.05)

            running = spawn(long)
            await until_parked()
            with pytest.raises(RuntimeError, match="a greenlet of this very thread"):
                made[0].join()
            made[0].join(0)
            joins = [asyncio.ensure_future(asyncio.to_thread(made[0].join, 20)), spawn(made[0].join)]
            short = spawn(made[0].join, 0.001)
            await asyncio.wait_for(short, 10)
            assert made[0].is_alive()
            await asyncio.wait_for(asyncio.gather(running, *joins), 20)
            assert not made[0].is_alive()

        arun(main)

    def test_a_join_that_is_cancelled_ends_nothing(self, arun):
        async def main():
            made = []

            def long():
                made.append(threading.current_thread())
                time.sleep(0.1)
                assert made[0].is_alive()

            running = spawn(long)
            await until_parked()
            joining = spawn(made[0].join)
            await until_parked(2)
            joining.cancel()
            await asyncio.wait({joining})
            assert joining.cancelled()
            assert made[0].is_alive()
            await running

        arun(main)

    def test_the_next_call_is_somebody_else(self, arun):
        async def main():
            first = await to_greenlet(threading.current_thread)
            second = await to_greenlet(threading.current_thread)
            assert first is not second
            gone = weakref.ref(first)
            del first
            gc.collect()
            assert gone() is None

        arun(main)

    def test_greens_at_rest_do_not_count(self, arun):
        async def main():
            before = threading.active_count()
            await asyncio.gather(*(to_greenlet(threading.current_thread) for _ in range(20)))
            assert threading.active_count() == before == len(threading.enumerate())

        arun(main)

    def test_new_threads_are_no_daemons(self, arun):
        async def main():
            assert await to_greenlet(lambda: threading.Thread().daemon) is False

        arun(main)

    def test_a_librarys_greenlet_inside(self, arun):
        import greenlet

        async def main():
            def work():
                outside = threading.get_ident(), threading.current_thread()
                inside = greenlet.greenlet(lambda: (threading.get_ident(), threading.current_thread())).switch()
                assert inside == outside

            await to_greenlet(work)

        arun(main)

    def test_logging_tells_them_apart(self, arun):
        async def main():
            def make():
                return logging.LogRecord("name", 20, "file", 1, "message", (), None)

            green, native = await to_greenlet(make), make()
            assert green.threadName.startswith("Greenlet (")
            assert green.thread != native.thread == threading.get_ident()
            assert native.threadName == threading.current_thread().name

        arun(main)


class TestWhatSeesTheThread:
    def test_async_code(self, arun):
        async def main():
            async def who():
                await asyncio.sleep(0)
                return threading.get_ident(), threading.current_thread()

            native = threading.get_ident(), threading.current_thread()

            def work():
                assert await_(who()) == native
                green = threading.get_ident(), threading.current_thread()
                assert green != native
                return await_(who()), green

            assert (await to_greenlet(work))[0] == native
            assert await to_greenlet(who) == native
            assert (threading.get_ident(), threading.current_thread()) == native

        arun(main)

    def test_loops(self, arun):
        """In debug mode a loop checks that it is called in its own thread."""

        async def main():
            loop, called = asyncio.get_running_loop(), []
            loop.set_debug(True)

            def work():
                loop.call_soon(called.append, 1)
                loop.call_later(0, called.append, 2).cancel()
                time.sleep(0.001)
                inner = asyncio.new_event_loop()
                inner.set_debug(True)
                try:
                    return inner.run_until_complete(nested())
                finally:
                    inner.close()

            async def nested():
                asyncio.get_running_loop().call_soon(called.append, 3)
                await asyncio.sleep(0.001)
                return threading.get_ident()

            found = await asyncio.gather(*(to_greenlet(work) for _ in range(3)))
            assert sorted(called) == [1] * 3 + [3] * 3
            assert len({*found, threading.get_ident()}) == 4  # as in a worker thread

        arun(main)

    def test_executors(self, arun):
        async def main():
            def work():
                with concurrent.futures.ThreadPoolExecutor(1) as pool:
                    worker = pool.submit(threading.current_thread).result(20)
                    assert pool.submit(threading.get_ident).result(20) == worker.ident
                    return worker

            worker = await to_greenlet(work)
            assert worker.ident != threading.get_ident()
            assert await asyncio.to_thread(threading.current_thread) is not threading.current_thread()

        arun(main)

    def test_native_threads(self):
        seen = []

        def work():
            seen.append((threading.get_ident(), threading.current_thread(), threading.current_thread().ident))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert seen == [(thread.ident, thread, thread.ident)]
        assert threading.current_thread() is threading.main_thread()

    @pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="there are no such signals here")
    def test_system_calls_get_the_thread(self, arun):
        """C code takes any number for the address of a thread."""

        async def main():
            got = []
            before = signal.signal(signal.SIGUSR1, lambda *_: got.append(1))
            try:
                await to_greenlet(lambda: signal.pthread_kill(threading.get_ident(), signal.SIGUSR1))
                await turns()
            finally:
                signal.signal(signal.SIGUSR1, before)
            assert got == [1]
            if hasattr(time, "pthread_getcpuclockid"):
                own = await to_greenlet(lambda: time.pthread_getcpuclockid(threading.get_ident()))
                assert own == time.pthread_getcpuclockid(threading.get_ident())

        arun(main)

    @pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
    def test_forked_children(self, arun):
        async def main():
            def work():
                threading.current_thread()
                return fork()

            def fork():
                child = os.fork()
                if child:
                    return child
                code = 1
                try:
                    assert threading.current_thread() is threading.main_thread()
                    assert threading.get_ident() == threading.main_thread().ident
                    assert threading.enumerate() == [threading.main_thread()]
                    thread = threading.Thread(target=int)
                    thread.start()
                    thread.join()
                    code = 0
                finally:
                    os._exit(code)

            child = await to_greenlet(work)
            _, status = await asyncio.to_thread(os.waitpid, child, 0)
            assert status == 0

        arun(main)

    @pytest.mark.skipif(sys.version_info >= (3, 14), reason="it is gone")
    def test_deprecated_name(self, arun):
        async def main():
            def work():
                with pytest.warns(DeprecationWarning, match="currentThread"):
                    assert threading.currentThread() is threading.current_thread()

            await to_greenlet(work)

        arun(main)


def test_unpatched_while_a_green_is_somebody(arun):
    async def main():
        made = []

        def work():
            made.append(threading.current_thread())
            time.sleep(0.02)

        running = spawn(work)
        await until_parked()
        monkey.unpatch_all()
        assert made[0].is_alive()
        await running
        assert not made[0].is_alive()
        made[0].join()
        assert made[0] not in threading.enumerate()

    arun(main)
