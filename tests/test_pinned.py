"""What asyncio, concurrent.futures and the import system stand on: it stays native, and works from both sides."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import importlib
import signal
import sys
import threading
import time

import pytest

from conftest import finish, new_loop
from greenio import await_, in_greenlet, monkey, spawn, to_greenlet
from waiting import turns, until_parked

pytestmark = pytest.mark.usefixtures("patched")

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
PINNED = ("asyncio", "concurrent.futures")
WHEN = [concurrent.futures.ALL_COMPLETED, concurrent.futures.FIRST_COMPLETED, concurrent.futures.FIRST_EXCEPTION]


class Failure(Exception):
    pass


def fail():
    raise Failure("as it should")


@pytest.fixture(params=["native", "green"])
def call(request):
    """Call a sync function from a coroutine, natively or in a greenlet."""

    async def natively(fn, *args):
        return fn(*args)

    return natively if request.param == "native" else to_greenlet


def test_pinned_packages_hold_nothing_green():
    for name, module in tuple(sys.modules.items()):
        if not name.startswith(PINNED) or module is None:
            continue
        held = [key for key, value in vars(module).items() if "greenio" in str(getattr(type(value), "__module__", ""))]
        held += [
            key for key, value in vars(module).items() if str(getattr(value, "__module__", "")).startswith("greenio")
        ]
        assert not held, (name, held)


class TestRunInExecutor:
    def test_results_and_errors(self, arun, call):
        async def main():
            loop = asyncio.get_running_loop()
            assert await await_of(call, loop.run_in_executor, None, divmod, 7, 2) == (3, 1)
            with pytest.raises(Failure):
                await await_of(call, loop.run_in_executor, None, fail)
            with concurrent.futures.ThreadPoolExecutor(1) as executor:
                name = await await_of(call, loop.run_in_executor, executor, lambda: threading.current_thread().name)
                assert name.startswith("ThreadPoolExecutor")
                assert await await_of(call, loop.run_in_executor, executor, in_greenlet) is False

        arun(main)

    def test_worker_blocks_its_own_thread_alone(self, arun):
        async def main():
            loop = asyncio.get_running_loop()
            gate = threading.Event()
            waiting = [loop.run_in_executor(None, gate.wait, 20) for _ in range(3)]
            await turns()
            await to_greenlet(gate.set)
            assert await asyncio.wait_for(asyncio.gather(*waiting), 20) == [True] * 3

        arun(main)

    def test_cancelled(self, arun):
        async def main():
            loop = asyncio.get_running_loop()
            gate = threading.Event()
            with concurrent.futures.ThreadPoolExecutor(1) as executor:
                first = loop.run_in_executor(executor, gate.wait, 20)
                second = loop.run_in_executor(executor, fail)
                second.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await to_greenlet(await_, second)
                gate.set()
                assert await to_greenlet(await_, first) is True

        arun(main)


async def await_of(call, fn, *args):
    """Await what a sync function returns, that is called natively or green."""
    return await (await call(fn, *args))


class TestToThread:
    def test_results_errors_and_context(self, arun):
        async def main():
            variable.set("of the caller")
            assert await asyncio.to_thread(variable.get) == "of the caller"
            assert await to_greenlet(lambda: await_(asyncio.to_thread(variable.get))) == "of the caller"
            with pytest.raises(Failure):
                await to_greenlet(lambda: await_(asyncio.to_thread(fail)))
            assert await asyncio.to_thread(threading.get_ident) != threading.get_ident()

        arun(main)

    def test_thread_uses_patched_calls_natively(self, arun):
        def work():
            assert not in_greenlet()
            time.sleep(0.001)
            with threading.Lock():
                return asyncio.run(asyncio.sleep(0.001, "slept"))

        async def main():
            assert await asyncio.to_thread(work) == "slept"

        arun(main)


class TestCallSoonThreadsafe:
    def test_from_a_thread_and_from_green_code(self, arun, call):
        async def main():
            loop = asyncio.get_running_loop()
            done = loop.create_future()
            await call(loop.call_soon_threadsafe, done.set_result, "first")
            assert await done == "first"
            done = loop.create_future()
            thread = threading.Thread(target=loop.call_soon_threadsafe, args=(done.set_result, "second"))
            await call(thread.start)
            assert await done == "second"
            await call(thread.join)

        arun(main)

    def test_wakes_a_loop_that_sleeps(self, arun):
        async def main():
            loop, done = asyncio.get_running_loop(), asyncio.Event()

            def later():
                loop.call_soon_threadsafe(done.set)

            timer = threading.Timer(0.01, later)
            timer.start()
            await asyncio.wait_for(done.wait(), 20)
            await to_greenlet(timer.join)

        arun(main)

    def test_future_of_another_thread(self, arun):
        """`run_coroutine_threadsafe`, whose result green code and threads wait for."""

        async def answer():
            await asyncio.sleep(0.001)
            return "answer"

        async def main():
            loop = asyncio.get_running_loop()

            def ask():
                return asyncio.run_coroutine_threadsafe(answer(), loop).result(20)

            assert await to_greenlet(ask) == "answer"
            assert await asyncio.to_thread(ask) == "answer"

        arun(main)

    def test_cancelled_future_of_another_thread(self, arun):
        async def main():
            loop = asyncio.get_running_loop()
            running, cancelled = asyncio.Event(), asyncio.Event()

            async def wait():
                running.set()
                try:
                    await asyncio.sleep(60)
                finally:
                    cancelled.set()

            future = asyncio.run_coroutine_threadsafe(wait(), loop)
            await running.wait()
            assert await to_greenlet(future.cancel)
            await asyncio.wait_for(cancelled.wait(), 20)
            with pytest.raises(concurrent.futures.CancelledError):
                await to_greenlet(future.result)

        arun(main)


class TestWrapFuture:
    """`_chain_future`, which compares the threads of loops from CPython 3.12 on."""

    def test_wrapped(self, arun, call):
        async def main():
            future = concurrent.futures.Future()
            wrapped = asyncio.wrap_future(future)
            await call(future.set_result, 1)
            assert await wrapped == 1
            future = concurrent.futures.Future()
            wrapped = asyncio.wrap_future(future)
            await asyncio.to_thread(future.set_exception, Failure())
            with pytest.raises(Failure):
                await wrapped

        arun(main)

    def test_cancelled_from_either_side(self, arun):
        async def main():
            future = concurrent.futures.Future()
            wrapped = asyncio.wrap_future(future)
            wrapped.cancel()
            with pytest.raises(asyncio.CancelledError):
                await wrapped
            await turns()
            assert future.cancelled()
            future = concurrent.futures.Future()
            wrapped = asyncio.wrap_future(future)
            await to_greenlet(future.cancel)
            with pytest.raises(asyncio.CancelledError):
                await wrapped

        arun(main)

    def test_loop_of_another_thread(self, arun, loop_kind):
        """A loop in a thread waits for what green code of this loop gives."""
        future = concurrent.futures.Future()

        async def wait():
            return await asyncio.wrap_future(future)

        def other_loop():
            loop = new_loop(loop_kind)
            try:
                return loop.run_until_complete(wait())
            finally:
                finish(loop)

        async def main():
            task = asyncio.create_task(asyncio.to_thread(other_loop))
            await turns(20)
            await to_greenlet(future.set_result, "given")
            assert await asyncio.wait_for(task, 20) == "given"

        arun(main)


class TestThreadChecks:
    """Debug mode: a loop refuses what comes from another thread, and takes what comes from green code."""

    @pytest.mark.parametrize("kind", ["asyncio-debug"])
    def test_refused_from_a_thread(self, kind):
        loop = new_loop(kind)

        async def main():
            with pytest.raises(RuntimeError, match="Non-thread-safe operation"):
                await asyncio.to_thread(loop.call_soon, print)
            with pytest.raises(RuntimeError, match="Non-thread-safe operation"):
                await asyncio.to_thread(loop.call_later, 1, print)

        try:
            loop.run_until_complete(main())
        finally:
            finish(loop)

    def test_taken_from_green_code(self, arun):
        async def main():
            loop = asyncio.get_running_loop()

            def schedule():
                futures = [loop.create_future() for _ in range(3)]
                loop.call_soon(futures[0].set_result, 0)
                loop.call_later(0.001, futures[1].set_result, 1)
                loop.call_at(loop.time() + 0.001, futures[2].set_result, 2)
                return [await_(future) for future in futures]

            assert await to_greenlet(schedule) == [0, 1, 2]

        arun(main)


class TestExecutors:
    def test_used_by_green_code(self, arun):
        def work():
            with concurrent.futures.ThreadPoolExecutor(2) as executor:
                futures = [executor.submit(time.sleep, 0.001) for _ in range(4)]
                done, waiting = concurrent.futures.wait(futures, 20)
                assert (len(done), len(waiting)) == (4, 0)
                assert len(list(concurrent.futures.as_completed(futures, 20))) == 4
                assert list(executor.map(abs, [-1, -2])) == [1, 2]
                with pytest.raises(Failure):
                    executor.submit(fail).result()
                gate = threading.Event()
                waiting = executor.submit(gate.wait, 20)
                with pytest.raises(concurrent.futures.TimeoutError):
                    waiting.result(0.001)
                gate.set()
                return waiting.result()

        async def main():
            assert await asyncio.gather(*(to_greenlet(work) for _ in range(5))) == [True] * 5

        arun(main)

    def test_green_code_waits_while_the_loop_goes_on(self, arun):
        async def main():
            gate = threading.Event()
            with concurrent.futures.ThreadPoolExecutor(1) as executor:
                future = executor.submit(gate.wait, 20)
                task = spawn(future.result)
                await until_parked()
                gate.set()
                assert await asyncio.wait_for(task, 20) is True

        arun(main)

    @pytest.mark.parametrize("return_when", WHEN)
    def test_a_cancelled_wait_leaves_nothing_in_the_futures(self, arun, return_when):
        async def main():
            futures = [concurrent.futures.Future() for _ in range(2)]
            for wait in (concurrent.futures.wait, lambda futures, *_: list(concurrent.futures.as_completed(futures))):
                task = spawn(wait, futures, None, return_when)
                await until_parked()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert [future._waiters for future in futures] == [[], []]

        arun(main)

    @pytest.mark.parametrize("return_when", WHEN)
    @pytest.mark.parametrize("how", ["result", "failure", "cancelled"])
    def test_wait_ends_when_it_does_natively(self, arun, how, return_when):
        def settle(future):
            if how == "failure":
                future.set_exception(Failure())
            elif how == "result":
                future.set_result(1)
            else:
                future.cancel()
                future.set_running_or_notify_cancel()

        async def main():
            futures = [concurrent.futures.Future() for _ in range(3)]
            native = monkey.original("concurrent.futures", "wait")
            task = spawn(concurrent.futures.wait, futures, 20, return_when)
            await until_parked()
            settle(futures[0])
            first = ({futures[0]}, {*futures[1:]})
            assert await to_greenlet(concurrent.futures.wait, futures, 0.001, return_when) == first
            assert native(futures, 0, return_when) == first
            if return_when == "FIRST_COMPLETED" or (return_when, how) == ("FIRST_EXCEPTION", "failure"):
                assert native(futures, None, return_when) == first
                assert await asyncio.wait_for(task, 20) == first
                return
            assert not task.done()
            for future in futures[1:]:
                settle(future)
            assert await asyncio.wait_for(task, 20) == native(futures) == ({*futures}, set())

        arun(main)

    def test_the_timeout_of_a_signal_handler_is_not_that_of_wait(self, arun):
        def alarm(*_):
            raise TimeoutError("of the handler")

        async def main():
            before = await to_greenlet(signal.signal, signal.SIGALRM, alarm)
            try:
                task = spawn(concurrent.futures.wait, [concurrent.futures.Future()], 60)
                await until_parked()
                signal.raise_signal(signal.SIGALRM)
                with pytest.raises(TimeoutError, match="of the handler"):
                    await asyncio.wait_for(task, 20)
            finally:
                signal.signal(signal.SIGALRM, before)

        arun(main)

    def test_wait_refuses_what_it_refuses_natively(self, arun):
        future = concurrent.futures.Future()
        for wrong in (([future], 0.001, "SOMETIME"), (None,), ([future], "soon")):
            with pytest.raises((TypeError, ValueError)) as native:
                monkey.original("concurrent.futures", "wait")(*wrong)
            with pytest.raises(native.type):
                arun(lambda wrong=wrong: to_greenlet(concurrent.futures.wait, *wrong))


def test_imports_in_green_code_and_threads_at_once(arun, tmp_path, monkeypatch):
    """The import system's locks are native: two greens of one thread must not wait for one another in there."""
    for name in "abcd":
        (tmp_path / f"slow_{name}.py").write_text("import time\ntime.sleep(0)\nvalue = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    names = [f"slow_{name}" for name in "abcd"]

    def load(name):
        return importlib.import_module(name).value

    async def main():
        greens = [to_greenlet(load, name) for name in names]
        threads = [asyncio.to_thread(load, name) for name in names]
        found = await asyncio.wait_for(asyncio.gather(*greens, *threads), 20)
        assert found == [1] * 8

    try:
        arun(main)
    finally:
        for name in names:
            sys.modules.pop(name, None)


@pytest.mark.parametrize("name", ["sleep"])
def test_original(name):
    native = monkey.original("time", name)
    assert native is not getattr(time, name)
    assert native.__name__ == name
    monkey.unpatch_all()
    assert monkey.original("time", name) is native
