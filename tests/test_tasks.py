"""Coroutines in greens: `to_greenlet(coroutine_function)`, task factories, `install`. Blocking calls in them park."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import inspect
import socket
import sys
import threading
import time
import traceback
import weakref

import anyio
import greenlet
import pytest
import requests

import greenio
from conftest import check_tasks, finish, new_loop
from greenio import _core, in_greenlet, install, monkey, spawn, to_greenlet, uninstall
from greenio._core import _tasks
from waiting import parked, until, until_parked

native_sleep = time.sleep
WAYS = ["to_greenlet", "factory"]
if sys.version_info >= (3, 12):
    WAYS.append("eager factory")


def set_factory(loop, way="factory"):
    if way != "to_greenlet":
        loop.set_task_factory(greenio.eager_task_factory if way == "eager factory" else greenio.task_factory)


@pytest.fixture(params=WAYS)
def way(request, loop_kind):
    if (loop_kind, request.param) == ("uvloop", "eager factory") and _KNOWS_NO_EAGER_START:
        pytest.skip("uvloop passes `eager_start`, which asyncio's own eager factories take from CPython 3.13.3 on")
    return request.param


_KNOWS_NO_EAGER_START = (3, 13) <= sys.version_info < (3, 13, 3)


@pytest.fixture
def grun(loop_kind, way, patched):
    """Run a coroutine function whose blocking calls park: driven by `to_greenlet`, or in a task of a factory."""
    if loop_kind == "asyncio-eager" and way != "to_greenlet":
        pytest.skip("its own factory is the point of it")

    def run(main):
        loop = new_loop(loop_kind)
        asyncio.set_event_loop(loop)
        set_factory(loop, way)
        try:
            result = loop.run_until_complete(to_greenlet(main) if way == "to_greenlet" else main())
            check_tasks(loop)
            return result
        finally:
            finish(loop)

    return run


@pytest.fixture
def frun(loop_kind, patched):
    """Run a coroutine function in a task of the factory."""

    def run(main):
        loop = new_loop(loop_kind)
        asyncio.set_event_loop(loop)
        set_factory(loop, "eager factory" if loop_kind == "asyncio-eager" else "factory")
        try:
            result = loop.run_until_complete(main())
            check_tasks(loop)
            return result
        finally:
            finish(loop)

    return run


class Ticker:
    """Counts the turns of a native task beside what is tested."""

    def __init__(self):
        self.ticks = 0
        loop = asyncio.get_running_loop()
        self._handle = loop.call_soon(self._tick, loop)

    def _tick(self, loop):
        self.ticks += 1
        self._handle = loop.call_later(0.002, self._tick, loop)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._handle.cancel()


async def below(seconds):
    """Block some coroutines further down."""

    async def deeper():
        async def deepest():
            time.sleep(seconds)
            return in_greenlet()

        return await deepest()

    return await deeper()


def test_sleep_below_parks(grun):
    async def main():
        with Ticker() as ticker:
            assert await below(0.05)
            await asyncio.sleep(0)
            assert await below(0.05)
        assert ticker.ticks >= 10

    grun(main)


def test_requests_below_parks(grun):
    async def main():
        async def serve(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(0.02)  # the answer comes only if the loop goes on
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello")
            await writer.drain()
            writer.close()

        async def fetch():
            await asyncio.sleep(0)
            return requests.get(f"http://127.0.0.1:{port}/", timeout=20).text

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        assert await fetch() == "hello"
        assert await fetch() == "hello"
        server.close()
        await server.wait_closed()

    grun(main)


def test_the_task_is_the_hosts(grun):
    async def main():
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        for block in (lambda: None, lambda: time.sleep(0.001)):
            block()
            assert asyncio.current_task() is task
            assert asyncio.get_running_loop() is loop
            await asyncio.sleep(0)
            block()
            await asyncio.sleep(0.001)
            assert asyncio.current_task() is task
            assert asyncio.get_running_loop() is loop
        assert task in asyncio.all_tasks()

    grun(main)


@pytest.mark.parametrize("where", ["blocking", "awaiting", "in turns"])
def test_cancellation(grun, where):
    async def main():
        log = []

        async def victim():
            try:
                if where == "in turns":
                    time.sleep(0.001)
                    await asyncio.sleep(0.001)
                    time.sleep(0.001)
                if where == "awaiting":
                    await asyncio.get_running_loop().create_future()
                log.append("begins")
                time.sleep(100)
            except asyncio.CancelledError as error:
                log.append(error.args)
                time.sleep(0.001)
                await asyncio.sleep(0.001)
                log.append("cleaned")
                raise

        task = asyncio.ensure_future(to_greenlet(victim) if not _is_green_task() else victim())
        await until_parked(1 if where != "awaiting" or _is_green_task() is False else 0)
        if where == "in turns":
            await until(lambda: log == ["begins"])
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel("stop")
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()
        assert log[-2:] == [("stop",), "cleaned"]

    grun(main)


def _is_green_task():
    return isinstance(asyncio.current_task(), _tasks.Task)


def test_timeouts(grun):
    async def main():
        began = time.monotonic()
        left, right = socket.socketpair()
        for block in (lambda: time.sleep(100), lambda: left.recv(1)):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(_blocks(block), 0.01)
            if sys.version_info >= (3, 11):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.01):
                        block()
                assert asyncio.current_task().cancelling() == 0
            with pytest.raises(TimeoutError), greenio.timeout(0.01):
                block()
        assert time.monotonic() - began < 20
        left.close()
        right.close()
        time.sleep(0.001)
        await asyncio.sleep(0.001)

    grun(main)


async def _blocks(block):
    if in_greenlet():
        block()
    else:
        await to_greenlet(block)


def test_own_timeout_spans_awaits(grun):
    """`greenio.timeout` around blocking and awaiting parts of a coroutine, while other tasks use the same greens."""

    async def main():
        async def other():
            for _ in range(20):
                time.sleep(0.001)
                await asyncio.sleep(0)

        async def limited(seconds):
            with greenio.timeout(seconds) as limit:
                await asyncio.sleep(0)
                time.sleep(0.002)
                await asyncio.sleep(0.002)
                if seconds < 1:
                    await asyncio.sleep(100)
                time.sleep(0.001)
            return limit.expired()

        others = [asyncio.ensure_future(to_greenlet(other)) for _ in range(5)]
        assert await limited(50) is False
        with pytest.raises(TimeoutError):
            await limited(0.02)
        if sys.version_info >= (3, 11):
            assert asyncio.current_task().cancelling() == 0
        await asyncio.gather(*others)

    grun(main)


def test_context_variables(grun):
    variable = contextvars.ContextVar("variable", default=0)

    async def main():
        async def child(number):
            for _ in range(3):
                variable.set(variable.get() + number)
                time.sleep(0.001)
                await asyncio.sleep(0)
            return variable.get()

        variable.set(100)
        assert await asyncio.gather(*(asyncio.ensure_future(child(n)) for n in (1, 2))) == [103, 106]
        assert variable.get() == 100
        assert await child(5) == 115
        assert variable.get() == 115
        time.sleep(0.001)
        assert contextvars.copy_context()[variable] == 115

    grun(main)


def test_anyio_scopes(grun):
    async def main():
        log = []

        async def child(number):
            try:
                await anyio.sleep(0)
                if in_greenlet():
                    time.sleep(100)
                await anyio.sleep(100)
            finally:
                log.append(number)

        with anyio.move_on_after(0.02) as scope:
            await anyio.sleep(0)
            time.sleep(100)
        assert scope.cancelled_caught
        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                for number in range(3):
                    group.start_soon(child, number, name=f"child {number}")
                await anyio.sleep(0.01)
                time.sleep(0.005)
                group.cancel_scope.cancel()
        assert sorted(log) == [0, 1, 2]
        with pytest.raises(TimeoutError), anyio.fail_after(0.01):
            time.sleep(100)
        with anyio.CancelScope(shield=True), anyio.move_on_after(0.01) as inner:
            time.sleep(100)
        assert inner.cancelled_caught

    grun(main)


def test_async_generators(grun):
    async def main():
        closed = []

        async def numbers():
            try:
                for number in range(100):
                    time.sleep(0.0005)
                    yield number
                    await asyncio.sleep(0)
            finally:
                time.sleep(0.0005)
                await asyncio.sleep(0)
                closed.append(1)

        async for number in numbers():
            if number == 3:
                break
        gc.collect()
        await until(lambda: closed == [1])  # by the hooks of the loop
        generator = numbers()
        assert await generator.__anext__() == 0
        await generator.aclose()
        assert closed == [1, 1]
        assert [n async for n in numbers()] == list(range(100))

    grun(main)


def test_async_generator_that_is_left_to_the_loop(frun):
    closed = []

    async def numbers():
        try:
            time.sleep(0.001)
            yield 1
        finally:
            await asyncio.sleep(0)
            closed.append(1)

    kept = numbers()

    async def main():
        assert await kept.__anext__() == 1

    frun(main)
    assert closed == [1]


def test_many_at_once(grun):
    async def main():
        async def one(number):
            total = 0
            for _ in range(3):
                time.sleep(0.001)
                total += await asyncio.sleep(0.001, number)
                total += await asyncio.sleep(0, number)
            assert asyncio.current_task().get_name() == f"one {number}"
            return total

        tasks = [asyncio.ensure_future(_green(one, number)) for number in range(200)]
        for number, task in enumerate(tasks):
            task.set_name(f"one {number}")
        assert await asyncio.gather(*tasks) == [6 * number for number in range(200)]
        assert parked() == 0

    grun(main)


def _green(fn, *args):
    return fn(*args) if _is_green_task() else to_greenlet(fn, *args)


def test_bridges_inside(grun):
    """`to_greenlet`, `await_` and `spawn` from a coroutine that is green itself."""

    async def main():
        async def deep(number):
            time.sleep(0.001)
            await asyncio.sleep(0)
            return number

        def sync():
            time.sleep(0.001)
            return greenio.await_(deep(1)) + greenio.await_(spawn(lambda: time.sleep(0.001) or 2))

        assert await to_greenlet(sync) == 3
        assert greenio.await_(deep(4)) == 4
        assert greenio.await_(asyncio.ensure_future(deep(5))) == 5
        assert await to_greenlet(deep, 6) == 6
        time.sleep(0.001)
        assert greenio.await_(deep(7)) == 7
        assert greenio.async_to_sync(deep)(8) == 8
        assert await asyncio.gather(*(spawn(sync) for _ in range(5))) == [3] * 5

    grun(main)


def test_await_in_the_first_step_is_cancelled(frun):
    async def main():
        gate = asyncio.get_running_loop().create_future()
        log = []

        async def victim():
            try:
                greenio.await_(gate)
            except asyncio.CancelledError:
                log.append("cancelled")
                await asyncio.sleep(0)
                raise

        task = asyncio.ensure_future(victim())
        await until_parked()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert log == ["cancelled"]
        assert gate.cancelled()

    frun(main)


# Who stays in which green


def test_no_green_is_held_by_tasks_that_await(frun):
    async def main():
        gate = asyncio.Event()
        gc.collect()
        before = len(_core.greens())
        tasks = [asyncio.ensure_future(gate.wait()) for _ in range(500)]
        await asyncio.sleep(0)
        assert len(_core.greens()) <= before + 2
        gate.set()
        await asyncio.gather(*tasks)
        assert len(_core.greens()) <= before + 2

    frun(main)


def test_a_lock_that_is_held_over_an_await(frun):
    """Natively its owner is the thread; here the task has to be the same green before and after."""

    async def main():
        lock = threading.RLock()

        async def hold(number):
            with lock:
                await asyncio.sleep(0)
                with lock:
                    order.append(number)
                    await asyncio.sleep(0.001)
                    order.append(number)

        order = []
        await asyncio.gather(*(asyncio.ensure_future(hold(number)) for number in range(5)))
        assert order == [number for number in range(5) for _ in range(2)]

    frun(main)


def test_a_librarys_greenlet_over_awaits(frun):
    """As SQLAlchemy's: it is made in one step, resumed in another, and switches to its parent."""

    async def main():
        async def bridged(number):
            def sync():
                first = greenlet.getcurrent().parent.switch(asyncio.sleep(0.001, number))
                time.sleep(0.001)
                return first + greenlet.getcurrent().parent.switch(asyncio.sleep(0, number))

            inner = greenlet.greenlet(sync)
            found = inner.switch()
            while not inner.dead:
                found = inner.switch(await found)
            return found

        tasks = [asyncio.ensure_future(bridged(number)) for number in range(50)]
        assert await asyncio.gather(*tasks) == [2 * number for number in range(50)]

    frun(main)


def test_greenback(frun):
    """It exchanges the coroutine of a task that runs."""
    greenback = pytest.importorskip("greenback")

    async def main():
        async def both(number):
            coroutine = asyncio.current_task().get_coro()
            await greenback.ensure_portal()
            assert asyncio.current_task().get_coro() is not coroutine
            time.sleep(0.001)
            found = greenback.await_(asyncio.sleep(0.001, number))
            await asyncio.sleep(0.001)
            return found + greenback.await_(to_greenlet(lambda: time.sleep(0.001) or number))

        async def waits():
            await greenback.ensure_portal()
            greenback.await_(asyncio.sleep(100))

        tasks = [asyncio.get_running_loop().create_task(both(number)) for number in range(20)]
        assert await asyncio.gather(*tasks) == [2 * number for number in range(20)]
        task = asyncio.get_running_loop().create_task(waits())
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    frun(main)


def test_what_a_librarys_greenlet_hands_over_is_for_the_step_that_runs_it(frun):
    """Its parent is a green that is parked, or at rest, or another task's by now."""

    async def main():
        made = []

        def hand_over():
            got = made[0].parent.switch("first")
            assert made[0].parent.switch(("second", got)) is None
            return "end"

        gate = threading.Event()

        def fn():
            made.append(greenlet.greenlet(hand_over))
            gate.wait(20)

        task = asyncio.ensure_future(to_greenlet(fn))
        await until_parked(1)
        assert made[0].switch() == "first"
        await asyncio.sleep(0)
        assert made[0].switch(7) == ("second", 7)
        await asyncio.sleep(0)
        assert made[0].switch(None) == "end"
        assert not task.done()
        gate.set()
        await task

    frun(main)


def test_signal_handlers_of_the_loop(frun):
    """Set by a green task they are the host loop's, also beside a nested loop's."""
    import os
    import signal

    async def inner():
        loop = asyncio.get_running_loop()
        came = loop.create_future()
        loop.add_signal_handler(signal.SIGUSR1, came.set_result, None)
        os.kill(os.getpid(), signal.SIGUSR1)
        await came
        os.kill(os.getpid(), signal.SIGUSR2)
        while not seen:
            await asyncio.sleep(0.001)
        loop.remove_signal_handler(signal.SIGUSR1)

    seen = []

    async def main():
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR2, seen.append, "host")
        try:
            await to_greenlet(lambda: asyncio.run(inner()))
            assert seen == ["host"]
            os.kill(os.getpid(), signal.SIGUSR2)
            await until(lambda: seen == ["host", "host"])
        finally:
            loop.remove_signal_handler(signal.SIGUSR2)

    frun(main)


def test_sqlalchemy(frun, tmp_path):
    from sqlalchemy import text
    from sqlalchemy.ext.asyncio import create_async_engine

    async def main():
        engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/test.db")

        async def query(number):
            async with engine.connect() as connection:
                time.sleep(0.001)
                return (await connection.execute(text(f"select {number}"))).scalar()

        found = await asyncio.gather(*(asyncio.ensure_future(query(number)) for number in range(5)))
        assert found == list(range(5))
        await engine.dispose()

    frun(main)


def test_nothing_of_the_last_step_stays(frun):
    class Thing:
        pass

    async def main():
        async def use(block):
            thing = Thing()
            things.append(weakref.ref(thing))
            if block:
                time.sleep(0.001)
            await asyncio.sleep(0)
            if block:
                time.sleep(0.001)

        things = []
        for block in (False, True):
            await asyncio.ensure_future(use(block))
        await asyncio.sleep(0)
        assert [thing() for thing in things] == [None, None]

    frun(main)


# Truth


def test_names_coroutines_and_frames(frun):
    async def main():
        def wait():
            time.sleep(100)

        async def blocks():
            await asyncio.sleep(0)
            wait()

        async def awaits():
            await asyncio.get_running_loop().create_future()

        coroutines = [blocks(), awaits()]
        tasks = [
            asyncio.get_running_loop().create_task(coroutine, name=name)
            for coroutine, name in zip(coroutines, ["first", "second"], strict=True)
        ]
        await until_parked()
        await asyncio.sleep(0)
        for task, coroutine, name in zip(tasks, coroutines, ["first", "second"], strict=True):
            assert isinstance(task, asyncio.Task)
            assert task.get_name() == name
            assert task.get_coro() is coroutine
            text = repr(task)
            assert text.startswith("<Task pending name=")
            assert f"{coroutine.__qualname__}() running at {__file__}:" in text
        assert [frame.f_code.co_name for frame in tasks[0].get_stack()] == ["blocks", "wait"]
        assert [frame.f_code.co_name for frame in tasks[0].get_stack(limit=1)] == ["wait"]
        assert [frame.f_code.co_name for frame in tasks[1].get_stack()] == ["awaits"]
        lines = []
        tasks[0].print_stack(file=type("File", (), {"write": lambda self, text: lines.append(text)})())
        assert "time.sleep(100)" in "".join(lines)
        assert inspect.getcoroutinestate(coroutines[0]) == inspect.CORO_RUNNING
        assert inspect.getcoroutinestate(coroutines[1]) == inspect.CORO_SUSPENDED
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert all(task.cancelled() for task in tasks)

    frun(main)


def test_a_name_is_made_where_none_is_given(frun):
    async def main():
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(asyncio.sleep(0)), asyncio.create_task(asyncio.sleep(0), name=None)]
        names = [task.get_name() for task in tasks]
        assert all(name.startswith("Task-") for name in names)
        assert len(set(names)) == 2
        await asyncio.gather(*tasks)

    frun(main)


@pytest.mark.parametrize("parks", [False, True])
def test_tracebacks_show_the_users_frames(frun, parks):
    async def main():
        async def fails():
            await asyncio.sleep(0)
            if parks:
                time.sleep(0.001)
            raise KeyError("from the bottom")

        task = asyncio.ensure_future(fails())
        await asyncio.wait([task])
        names = [entry.name for entry in traceback.extract_tb(task.exception().__traceback__)]
        if sys.version_info >= (3, 11):
            assert names == ["fails"]
        else:
            assert names[-1] == "fails"

    frun(main)


def test_traceback_of_what_a_task_awaits_shows_the_users_frames(frun):
    async def main():
        async def fails():
            await asyncio.sleep(0)
            raise KeyError("from the bottom")

        async def waits():
            try:
                await asyncio.ensure_future(fails())
            except KeyError as error:
                return [entry.name for entry in traceback.extract_tb(error.__traceback__)]

        assert await asyncio.ensure_future(waits()) == ["waits", "fails"]

    frun(main)


def test_origin_of_a_task_in_debug_mode(loop_kind, patched):
    async def main():
        task = asyncio.get_running_loop().create_task(asyncio.sleep(0))
        await task
        return [(entry.filename, entry.name) for entry in task._source_traceback]

    loop = new_loop(loop_kind)
    loop.set_debug(True)
    try:
        native = loop.run_until_complete(main())
        set_factory(loop, "eager factory" if loop_kind == "asyncio-eager" else "factory")
        green = loop.run_until_complete(main())
    finally:
        finish(loop)
    assert native[-1][1] == green[-1][1] == "main" or loop_kind == "asyncio-eager"
    assert green[-1] == (__file__, "main")


def test_results_of_every_kind(frun):
    async def main():
        class Own(BaseException):
            pass

        async def gives(value, parks):
            if parks:
                time.sleep(0.001)
            if isinstance(value, BaseException):
                raise value
            return value

        for parks in (False, True):
            for value in (None, 1, (1, 2), ValueError("v"), StopAsyncIteration("s"), Own("own"), StopIteration):
                task = asyncio.ensure_future(gives(value, parks))
                await asyncio.wait([task])
                if isinstance(value, BaseException):
                    assert task.exception() is value
                else:
                    assert task.result() == value
            task = asyncio.ensure_future(gives(StopIteration("x"), parks))
            await asyncio.wait([task])
            assert isinstance(task.exception(), RuntimeError)

    frun(main)


def test_cancelled_in_its_last_step(frun):
    """A cancellation that comes while the last step runs, or has been claimed, is not lost."""

    async def main():
        async def itself(parks):
            await asyncio.sleep(0)
            if parks:
                time.sleep(0.001)
            asyncio.current_task().cancel()
            if parks is None:
                await asyncio.sleep(0)

        for parks in (False, True, None):
            task = asyncio.ensure_future(itself(parks))
            await asyncio.wait([task])
            assert task.cancelled()

    frun(main)


def test_cancelled_before_it_begins(frun):
    async def main():
        async def never():
            raise AssertionError

        task = asyncio.get_running_loop().create_task(never()) if not _eager() else None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()

    frun(main)


def _eager():
    return asyncio.get_running_loop().get_task_factory() is getattr(greenio, "eager_task_factory", None)


def test_loop_that_is_closed_over_a_parked_step(loop_kind, patched):
    log = []

    async def victim():
        try:
            await asyncio.sleep(0)
            time.sleep(100)
        except asyncio.CancelledError:
            log.append("cancelled")
            raise

    loop = new_loop(loop_kind)
    set_factory(loop)
    task = loop.create_task(victim())
    task._log_destroy_pending = False
    loop.run_until_complete(_until_parked())
    loop.close()
    assert log == ["cancelled"]
    assert parked() == 0
    for _ in range(2):
        gc.collect()


async def _until_parked():
    await until_parked()


def test_many_parked_steps_do_not_swell_the_pool(monkeypatch, patched):
    monkeypatch.setattr(_tasks, "POOL_LIMIT", 10)
    steppers = _core.thread_state().steppers
    steppers.clear()  # those of other tests
    loop = new_loop("asyncio")
    set_factory(loop)

    async def below_and_on():
        await below(0.002)
        for _ in range(3):  # none of these parks, so the greens that were kept go back
            await asyncio.sleep(0)
            assert len(steppers) <= 10

    async def main():
        await asyncio.gather(*(below(0.002) for _ in range(100)))
        assert 0 < len(steppers) <= 10
        await asyncio.gather(*(below(0) for _ in range(100)))
        await asyncio.gather(*(below_and_on() for _ in range(100)))
        assert 0 < len(steppers) <= 10

    try:
        loop.run_until_complete(main())
    finally:
        finish(loop)
    assert len(steppers) <= 10


# install


@pytest.mark.native_tasks("sets and takes back the factory itself")
def test_install_and_uninstall(loop_kind, patched):
    loop = new_loop(loop_kind)
    earlier = loop.get_task_factory()

    async def green():
        return in_greenlet(), await asyncio.to_thread(in_greenlet), await loop.run_in_executor(None, in_greenlet)

    async def in_a_task():
        return await asyncio.ensure_future(green())

    try:
        install(loop)
        install(loop)
        assert loop.run_until_complete(in_a_task()) == (True, True, True)
        uninstall(loop)
        uninstall(loop)
        assert loop.get_task_factory() is earlier
        assert "run_in_executor" not in vars(loop)
        assert loop.run_until_complete(in_a_task()) == (False, False, False)
        install(loop, tasks=False)
        assert loop.run_until_complete(in_a_task()) == (False, True, True)
        uninstall(loop)
        install(loop, executor=False)
        assert loop.run_until_complete(in_a_task()) == (True, False, False)
        uninstall(loop)
    finally:
        finish(loop)


def test_an_installed_loops_executor_is_called_as_any_loops(loop_kind, patched):
    loop = new_loop(loop_kind)

    async def main():
        return await loop.run_in_executor(executor=None, func=in_greenlet)

    try:
        install(loop)
        assert loop.run_until_complete(main())
    finally:
        finish(loop)


def test_install_keeps_an_earlier_executor_and_factory(loop_kind, patched):
    from concurrent.futures import ThreadPoolExecutor

    loop = new_loop(loop_kind)
    with ThreadPoolExecutor(1, thread_name_prefix="earlier") as pool:
        loop.set_default_executor(pool)

        def factory(loop, coro, **options):
            return asyncio.Task(coro, loop=loop, **options)

        async def name():
            return await loop.run_in_executor(None, lambda: threading.current_thread().name)

        def offloaded():
            return greenio.offload(lambda: threading.current_thread().name)

        try:
            loop.set_task_factory(factory)
            install(loop)
            assert not loop.run_until_complete(name()).startswith("earlier")
            assert loop.run_until_complete(to_greenlet(offloaded)).startswith("earlier")
            uninstall(loop)
            assert loop.get_task_factory() is factory
            assert loop.run_until_complete(name()).startswith("earlier")
            install(loop)
            loop.set_task_factory(None)
            uninstall(loop)
            assert loop.get_task_factory() is None
        finally:
            finish(loop)


def test_an_installed_loop_is_collected(loop_kind):
    loop = new_loop(loop_kind)
    install(loop)
    gone = weakref.ref(loop)
    finish(loop)
    del loop
    gc.collect()
    assert gone() is None


def test_look_ups_do_not_hold_an_installed_loop(loop_kind, patched):
    loop = new_loop(loop_kind)
    install(loop)
    seen = []

    def slow(*args):
        seen.append((in_greenlet(), threading.current_thread() is threading.main_thread()))
        native_sleep(0.05)
        return []

    async def main():
        with Ticker() as ticker:
            await loop.run_in_executor(None, _core.NativeWork(slow))
            await loop.getaddrinfo("localhost", 80)
            await to_greenlet(socket.gethostbyname, "localhost")
            await to_greenlet(socket.getaddrinfo, "localhost", 80)
        assert ticker.ticks >= 5

    try:
        loop.run_until_complete(main())
    finally:
        finish(loop)
    assert seen == [(False, False)]


def test_unpatched_code_is_as_ever(loop_kind):
    """Without a patch a green task is just a task."""
    loop = new_loop(loop_kind)
    install(loop)

    async def main():
        assert not monkey.is_patched("time")
        return await asyncio.gather(asyncio.sleep(0.001, 1), asyncio.to_thread(native_sleep, 0.001))

    try:
        assert loop.run_until_complete(main()) == [1, None]
    finally:
        finish(loop)
