"""Threads that green code starts as greenlets: an option."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import os
import sys
import threading
import time

import pytest

from conftest import finish, new_loop
from greenio import await_, in_greenlet, monkey, run, to_greenlet
from waiting import parked, until, until_parked

native_sleep = time.sleep


@pytest.fixture(autouse=True)
def green_threads():
    with monkey.patched(green_threads=True):
        yield


def is_green(thread):
    """Tell whether a thread that has started has no OS thread of its own."""
    return thread.native_id == threading.get_native_id()


class TestLikeAnyThread:
    def test_life(self, arun):
        async def main():
            def work():
                gate, seen = threading.Event(), []

                def body(*args, **kwargs):
                    assert in_greenlet()
                    gate.wait(10)
                    seen.append((args, kwargs, threading.current_thread(), threading.get_ident()))

                thread = threading.Thread(target=body, args=(1,), kwargs={"two": 2}, name="mine")
                assert thread.ident is None
                assert not thread.is_alive()
                with pytest.raises(RuntimeError, match="before it is started"):
                    thread.join()
                thread.start()
                assert thread.is_alive()
                assert is_green(thread)
                assert thread in threading.enumerate()
                assert repr(thread) == f"<Thread(mine, started {thread.ident})>"
                with pytest.raises(RuntimeError, match="once"):
                    thread.start()
                with pytest.raises(RuntimeError, match="daemon"):
                    thread.daemon = True
                began = time.monotonic()
                thread.join(0.02)
                assert 0.02 <= time.monotonic() - began < 10
                assert thread.is_alive()
                gate.set()
                thread.join()
                assert seen == [((1,), {"two": 2}, thread, thread.ident)]
                assert not thread.is_alive()
                assert thread not in threading.enumerate()
                assert "stopped" in repr(thread)
                thread.join()
                thread.join(0)

            await to_greenlet(work)

        arun(main)

    def test_subclass_with_its_own_run(self, arun):
        class Counter(threading.Thread):
            total = 0

            def run(self):
                for _ in range(3):
                    time.sleep(0.001)
                    self.total += 1
                assert threading.current_thread() is self

        async def main():
            def work():
                threads = [Counter() for _ in range(5)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join(10)
                return [thread.total for thread in threads]

            assert await to_greenlet(work) == [3] * 5

        arun(main)

    def test_they_do_not_hold_one_another(self, arun):
        async def main():
            def work():
                meet = threading.Barrier(11)
                threads = [threading.Thread(target=meet.wait, args=(20,)) for _ in range(10)]
                for thread in threads:
                    thread.start()
                meet.wait(20)
                for thread in threads:
                    thread.join(10)
                assert not any(thread.is_alive() for thread in threads)

            await to_greenlet(work)

        arun(main)

    def test_thread_locals_and_context(self, arun):
        variable = contextvars.ContextVar("variable", default="none")

        async def main():
            def work():
                local, seen = threading.local(), []
                local.value = 1
                variable.set("mine")

                def body(number):
                    assert not hasattr(local, "value")
                    local.value = number
                    time.sleep(0.001)
                    seen.append((local.value, variable.get()))

                threads = [threading.Thread(target=body, args=(i,)) for i in range(3)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join(10)
                assert local.value == 1
                return sorted(seen)

            assert await to_greenlet(work) == [(i, "none") for i in range(3)]

        arun(main)

    def test_excepthook(self, arun, monkeypatch):
        async def main():
            seen = []
            monkeypatch.setattr(threading, "excepthook", seen.append)

            def work():
                def leave():
                    sys.exit(3)

                failing = threading.Thread(target=lambda: 1 // 0)
                for thread in (failing, threading.Thread(target=leave)):
                    thread.start()
                    thread.join(10)
                    assert not thread.is_alive()
                return failing

            thread = await to_greenlet(work)
            assert [(args.exc_type, args.thread) for args in seen][:1] == [(ZeroDivisionError, thread)]
            assert [args.exc_type for args in seen][1:] == [SystemExit]  # which the stock hook does not show

        arun(main)

    def test_excepthook_of_what_is_no_exception(self, arun, monkeypatch):
        """As natively, also for a CancelledError that nobody has asked for by cancelling the task."""

        class Odd(BaseException):
            pass

        async def main():
            seen = []
            monkeypatch.setattr(threading, "excepthook", lambda args: seen.append(args.exc_type))

            def fail(error):
                raise error

            def work():
                for kind in (Odd, GeneratorExit, asyncio.CancelledError):
                    thread = threading.Thread(target=fail, args=(kind(),))
                    thread.start()
                    thread.join(10)
                    assert is_green(thread)

            await to_greenlet(work)
            assert seen == [Odd, GeneratorExit, asyncio.CancelledError]

        arun(main)

    def test_timer(self, arun):
        async def main():
            def work():
                called = []
                timers = [threading.Timer(0.01, called.append, [1]), threading.Timer(60, called.append, [2])]
                for timer in timers:
                    timer.start()
                    assert is_green(timer)
                timers[1].cancel()
                for timer in timers:
                    timer.join(20)
                    assert not timer.is_alive()
                assert called == [1]

            await to_greenlet(work)

        arun(main)

    def test_asyncio_run_inside(self, arun):
        async def main():
            def work():
                found = []
                threads = [
                    threading.Thread(target=lambda i=i: found.append(asyncio.run(asyncio.sleep(0.005, i))))
                    for i in range(5)
                ]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join(20)
                return sorted(found)

            assert await to_greenlet(work) == list(range(5))

        arun(main)

    def test_threads_of_threads(self, arun):
        async def main():
            def work(depth):
                if depth:
                    thread = threading.Thread(target=work, args=(depth - 1,))
                    thread.start()
                    thread.join(10)
                    assert not thread.is_alive()
                done.append(depth)

            done = []
            await to_greenlet(work, 5)
            assert done == list(range(6))

        arun(main)

    def test_joined_by_a_native_thread(self, arun):
        async def main():
            made = []

            def work():
                made.append(threading.Thread(target=time.sleep, args=(0.05,)))
                made[0].start()

            await to_greenlet(work)
            with pytest.raises(RuntimeError, match="a greenlet of this very thread"):
                made[0].join()
            assert made[0].is_alive()
            await asyncio.wait_for(asyncio.to_thread(made[0].join), 20)
            assert not made[0].is_alive()
            made[0].join()

        arun(main)

    def test_ten_thousand(self, loop_kind):
        if loop_kind == "asyncio-debug":
            pytest.skip("asyncio's debug mode takes a traceback for each")

        def work():
            count, total = 10_000, []
            threads = [threading.Thread(target=lambda: (time.sleep(0.01), total.append(1))) for _ in range(count)]
            for thread in threads:
                thread.start()
            assert threading.active_count() >= count
            for thread in threads:
                thread.join()
            return len(total)

        loop = new_loop(loop_kind)
        try:
            assert loop.run_until_complete(to_greenlet(work)) == 10_000
        finally:
            finish(loop)


def test_started_in_a_nested_loop(arun):
    """It is a greenlet of the loop around it: so it outlives it, and async code may join it."""

    async def main():
        def body():
            gate.wait(20)
            seen.append(in_greenlet())

        async def start():
            made.append(threading.Thread(target=body))
            made[0].start()

        async def join():
            made[0].join(20)
            return made[0].is_alive()

        def work():
            asyncio.run(start())
            assert made[0].is_alive()
            gate.set()
            return asyncio.run(join())

        gate, made, seen = threading.Event(), [], []
        assert await to_greenlet(work) is False
        assert seen == [True]

    arun(main)


class TestRealOnes:
    def test_started_by_native_and_async_code(self, arun):
        async def main():
            def body():
                seen.append(in_greenlet())

            async def start():
                thread = threading.Thread(target=body)
                thread.start()
                await asyncio.to_thread(thread.join)
                return is_green(thread)

            seen = []
            assert await start() is False
            assert await to_greenlet(lambda: await_(start())) is False
            assert await to_greenlet(start) is False
            assert seen == [False] * 3

        arun(main)

    def test_of_executors(self, arun):
        async def main():
            def work():
                with concurrent.futures.ThreadPoolExecutor(2) as pool:
                    return pool.submit(threading.get_native_id).result(10)

            assert await to_greenlet(work) != threading.get_native_id()
            assert await asyncio.to_thread(threading.get_native_id) != threading.get_native_id()

        arun(main)

    def test_unless_it_is_asked_for(self, arun):
        async def main():
            monkey.unpatch_all()
            with monkey.patched():
                assert not monkey.is_patched("green_threads")

                def work():
                    thread = threading.Thread(target=int)
                    thread.start()
                    thread.join(10)
                    return is_green(thread)

                assert await to_greenlet(work) is False

        arun(main)


class TestEnds:
    def test_run_waits_for_those_that_are_no_daemons(self):
        done = []

        def body(seconds):
            time.sleep(seconds)
            done.append(seconds)
            if seconds == 0.02:
                threading.Thread(target=body, args=(0.01,)).start()

        def work():
            threading.Thread(target=body, args=(0.02,)).start()
            threading.Thread(target=body, args=(100,), daemon=True).start()
            return "result"

        assert run(work) == "result"
        assert done == [0.02, 0.01]
        assert not any(is_green(thread) for thread in threading.enumerate() if thread is not threading.main_thread())
        done.clear()

        def fail():
            work()
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            run(fail)
        assert done == [0.02, 0.01]

    def test_what_a_loop_cancels_at_its_end(self, loop_kind):
        log, made = [], []

        def body():
            try:
                time.sleep(100)
            finally:
                log.append("ended")

        def work():
            made.append(threading.Thread(target=body))
            made[0].start()
            made.append(threading.Thread(target=body))
            time.sleep(0.001)
            made[1].start()  # and the loop ends before it has begun

        loop = new_loop(loop_kind)
        try:
            loop.run_until_complete(to_greenlet(work))
        finally:
            finish(loop)
        assert log[:1] == ["ended"]
        for thread in made:
            assert not thread.is_alive()
            thread.join()
        assert parked() == 0

    def test_loop_that_is_closed_without_notice(self, loop_kind):
        made = []

        def work():
            made.append(threading.Thread(target=time.sleep, args=(100,)))
            made[0].start()
            time.sleep(0.001)

        loop = new_loop(loop_kind)
        task = loop.create_task(to_greenlet(work))
        loop.run_until_complete(task)
        for left in asyncio.all_tasks(loop):
            left._log_destroy_pending = False
        loop.close()
        assert not made[0].is_alive()
        assert parked() == 0

    def test_unpatched_while_they_live(self, arun):
        async def main():
            made = []

            def work():
                made.append(threading.Thread(target=time.sleep, args=(0.03,)))
                made[0].start()

            await to_greenlet(work)
            await until_parked()
            monkey.unpatch_all()
            assert made[0].is_alive()
            await until(lambda: not made[0].is_alive())
            made[0].join()

        arun(main)

    @pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
    def test_forked_child(self, arun):
        async def main():
            children = []

            def work():
                other = threading.Thread(target=time.sleep, args=(0.05,))
                other.start()
                time.sleep(0.001)
                child = os.fork()
                if child:
                    children.append(child)
                    other.join()
                    return
                code = 1
                try:
                    assert not other.is_alive()
                    other.join()
                    assert threading.enumerate() == [threading.main_thread()]
                    thread = threading.Thread(target=int)
                    thread.start()
                    thread.join()
                    code = 0
                finally:
                    os._exit(code)

            def outer():
                thread = threading.Thread(target=work)
                thread.start()
                thread.join()

            await to_greenlet(outer)
            _, status = await asyncio.to_thread(os.waitpid, children[0], 0)
            assert status == 0

        arun(main)
