"""What green code sees, what it leaves behind, and how calls nest."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import inspect
import os
import socket
import sys
import threading
import time
import tracemalloc
import weakref

import greenlet
import pytest

from conftest import finish, new_loop
from greenio import _core, async_to_sync, await_, get_loop, in_greenlet, offload, spawn, sync_to_async, to_greenlet
from greenio._core import _call, getcurrent
from greenio._core._green import thread_state
from waiting import parked, until_parked

pytestmark = pytest.mark.green_tasks

variable = contextvars.ContextVar("variable", default="unset")


def no_loop_seen():
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()
    with pytest.raises(RuntimeError):
        asyncio.current_task()
    assert asyncio._get_running_loop() is None
    assert sys.get_asyncgen_hooks() == (None, None)


def host_seen(loop, task):
    assert asyncio.get_running_loop() is loop
    assert asyncio.current_task() is task
    assert asyncio.current_task(loop) is task
    hooks = sys.get_asyncgen_hooks()
    assert hooks.firstiter is not None
    assert hooks.finalizer is not None


def nap():
    time.sleep(0.0001)


def raises(error):
    raise error


def yield_():
    time.sleep(0)


def wait_future():
    await_(asyncio.sleep(0.0001))


def wait_socket():
    left, right = socket.socketpair()
    with left, right:
        get_loop().call_soon(right.send, b"x")
        assert left.recv(1) == b"x"


PARKS = [nap, yield_, wait_future, wait_socket]


@pytest.mark.parametrize("wait", PARKS)
def test_green_code_sees_no_loop_and_the_loop_sees_itself(arun, patched, wait):
    async def main():
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        seen = []

        def fn():
            no_loop_seen()
            assert asyncio.current_task(loop) is None
            assert in_greenlet()
            assert get_loop() is loop
            for _ in range(3):
                wait()
                no_loop_seen()
            seen.append("green")

        async def watch():
            me = asyncio.current_task()
            while len(seen) < 4:
                host_seen(loop, me)
                await asyncio.sleep(0)
                host_seen(loop, me)

        watcher = asyncio.ensure_future(watch())
        for _ in range(2):
            await to_greenlet(fn)
            host_seen(loop, task)
        await asyncio.gather(to_greenlet(fn), to_greenlet(fn))
        host_seen(loop, task)
        await watcher

    arun(main)


@pytest.mark.parametrize("wait", PARKS)
def test_driven_code_sees_the_host(arun, patched, wait):
    async def main():
        loop, task = asyncio.get_running_loop(), asyncio.current_task()

        async def driven():
            host_seen(loop, task)
            await asyncio.sleep(0)
            host_seen(loop, task)
            wait()  # blocks, that is parks, inside async code
            host_seen(loop, task)
            return await asyncio.sleep(0.0001, "result")

        def fn():
            no_loop_seen()
            assert await_(driven()) == "result"
            no_loop_seen()
            wait()
            no_loop_seen()

        await to_greenlet(fn)
        host_seen(loop, task)
        assert await to_greenlet(driven) == "result"
        host_seen(loop, task)

    arun(main)


def test_callbacks_run_with_no_current_task_while_driven_code_is_parked(arun, patched):
    async def main():
        loop = asyncio.get_running_loop()
        seen = []

        def look():
            seen.append((asyncio.current_task(loop), asyncio._get_running_loop()))

        def fn():
            loop.call_soon(look)
            await_(asyncio.sleep(0.001))
            loop.call_soon(look)
            time.sleep(0.001)

        async def driven():
            loop.call_soon(look)
            time.sleep(0.001)

        await to_greenlet(fn)
        await to_greenlet(driven)
        assert seen == [(None, loop)] * 3

    arun(main)


@pytest.mark.native_tasks("async code is not native there")
def test_native_code_is_not_green(arun, patched):
    assert not in_greenlet()

    async def main():
        assert not in_greenlet()
        await to_greenlet(nap)
        assert not in_greenlet()
        assert await asyncio.to_thread(in_greenlet) is False
        assert await to_greenlet(lambda: offload(in_greenlet)) is False

    arun(main)
    assert not in_greenlet()


def test_what_ends_at_once_never_turns_the_loop(arun):
    async def main():
        turned = []
        asyncio.get_running_loop().call_soon(turned.append, 1)
        assert await to_greenlet(divmod, 7, 2) == (3, 1)
        assert await to_greenlet(dict, a=1) == {"a": 1}
        assert await to_greenlet(lambda: await_(_give(5))) == 5
        assert not turned

    async def _give(value):
        return value

    arun(main)


def test_arguments_and_results(arun, patched):
    async def main():
        def fn(*args, **kwargs):
            nap()
            return args, kwargs

        assert await to_greenlet(fn, 1, 2, fn=3, self=4, call=5) == ((1, 2), {"fn": 3, "self": 4, "call": 5})
        assert await to_greenlet(functools.partial(fn, 1), k=2) == ((1,), {"k": 2})
        assert await to_greenlet("x".upper) == "X"
        assert await to_greenlet(lambda: None) is None
        error = ValueError("a value")
        assert await to_greenlet(lambda: error) is error

    arun(main)


def test_to_greenlet_is_a_coroutine_function():
    assert inspect.iscoroutinefunction(to_greenlet)
    assert asyncio.iscoroutinefunction(to_greenlet) if sys.version_info < (3, 14) else True


# Context variables


@pytest.mark.parametrize("wait", [lambda: None, *PARKS])
def test_context_variables_are_seen_both_ways(arun, patched, wait):
    async def main():
        variable.set("outside")

        def fn():
            assert variable.get() == "outside"
            wait()
            assert variable.get() == "outside"
            variable.set("inside")
            wait()
            assert variable.get() == "inside"
            await_(driven())
            assert variable.get() == "driven"

        async def driven():
            assert variable.get() == "inside"
            variable.set("driven")

        await to_greenlet(fn)
        assert variable.get() == "driven"

    arun(main)


def test_tasks_do_not_share_context_variables(arun, patched):
    async def main():
        def fn(name):
            variable.set(name)
            for _ in range(5):
                nap()
                assert variable.get() == name
                yield_()
                assert variable.get() == name
            return contextvars.copy_context().run(variable.get)

        assert await asyncio.gather(*(to_greenlet(fn, str(n)) for n in range(5))) == ["0", "1", "2", "3", "4"]
        tasks = [asyncio.ensure_future(to_greenlet(fn, str(n))) for n in range(5)]
        assert await asyncio.gather(*tasks) == ["0", "1", "2", "3", "4"]

    arun(main)


def test_a_park_inside_context_run(arun, patched):
    async def main():
        def fn():
            context = contextvars.copy_context()

            def inside():
                variable.set("inner")
                nap()
                assert variable.get() == "inner"
                await_(asyncio.sleep(0))
                assert variable.get() == "inner"

            variable.set("outer")
            context.run(inside)
            assert variable.get() == "outer"
            assert context[variable] == "inner"

        await asyncio.gather(*(asyncio.ensure_future(to_greenlet(fn)) for _ in range(3)))

    arun(main)


def test_a_callback_of_the_loop_does_not_see_a_greens_context(arun, patched):
    async def main():
        variable.set("main")
        seen = []
        loop = asyncio.get_running_loop()
        context = contextvars.copy_context()

        def fn():
            variable.set("green")
            loop.call_soon(lambda: seen.append(variable.get()), context=context)
            nap()

        await asyncio.ensure_future(to_greenlet(fn))
        assert seen == ["main"]
        assert variable.get() == "main"

    arun(main)


# Nesting


def test_nested_calls(arun, patched):
    async def main():
        loop = asyncio.get_running_loop()

        def nest(depth):
            no_loop_seen()
            nap()
            if depth == 0:
                return ["bottom"]
            result = await_(again(depth - 1))
            no_loop_seen()
            nap()
            return [depth, *result]

        async def again(depth):
            task = asyncio.current_task()
            host_seen(loop, task)
            try:
                return await to_greenlet(nest, depth)
            finally:
                host_seen(loop, task)

        assert await to_greenlet(nest, 5) == [5, 4, 3, 2, 1, "bottom"]
        assert await asyncio.gather(*(to_greenlet(nest, n) for n in range(5))) == [
            [*range(n, 0, -1), "bottom"] for n in range(5)
        ]

    arun(main)


def test_a_park_returns_to_whoever_resumed(arun, patched):
    """An eager task started in green code first parks into that green; later it is resumed by the loop."""

    async def main():
        order = []

        def child(name):
            order.append(f"{name} starts")
            nap()
            order.append(f"{name} ends")
            return name

        def parent():
            tasks = [spawn(child, name) for name in "ab"]
            order.append("parent goes on")
            nap()
            return [await_(task) for task in tasks]

        assert await to_greenlet(parent) == ["a", "b"]
        assert sorted(order) == ["a ends", "a starts", "b ends", "b starts", "parent goes on"]

    arun(main)


def test_the_child_ends_after_the_parent(arun, patched):
    async def main():
        def parent():
            return spawn(lambda: (nap(), await_(asyncio.sleep(0.001)), "late")[-1])

        task = await to_greenlet(parent)
        assert not task.done()
        assert await task == "late"

    arun(main)


def test_coroutine_functions_are_driven(arun, patched):
    async def main():
        async def blocking_inside():
            time.sleep(0.001)
            await asyncio.sleep(0)
            time.sleep(0.001)
            return "async"

        assert await to_greenlet(blocking_inside) == "async"

        async def broken():
            time.sleep(0.001)
            raise KeyError("async")

        with pytest.raises(KeyError, match="async"):
            await to_greenlet(broken)

        def returns_one():
            return blocking_inside()

        coroutine = await to_greenlet(returns_one)  # no coroutine function: what it returns is its result
        assert await coroutine == "async"

    arun(main)


@pytest.mark.native_tasks("what async_to_sync has made parks in async code there, instead of being refused")
def test_decorators(arun, patched):
    @sync_to_async
    def block(a, *, b):
        """Doc."""
        time.sleep(0.001)
        return a + b

    @async_to_sync
    async def wait(a):
        await asyncio.sleep(0.001)
        return a * 2

    assert block.__doc__ == "Doc."
    assert inspect.iscoroutinefunction(block)
    assert wait(4) == 8

    async def main():
        assert await block(1, b=2) == 3
        assert await to_greenlet(wait, 5) == 10
        with pytest.raises(RuntimeError, match="await to_greenlet"):
            wait(1)

    arun(main)


def test_spawn_in_a_nested_loop_belongs_to_that_loop(arun):
    """Async code is async code, whoever runs its loop."""

    async def main():
        async def inner():
            task = spawn(divmod, 7, 2)
            assert task.get_loop() is asyncio.get_running_loop()
            return await task

        assert await to_greenlet(asyncio.run, inner()) == (3, 1)

    arun(main)


# What is left behind


class Thing:
    pass


def keep_nothing_scenario(refs, how):
    def fn(argument, keyword=None):
        result = Thing()
        refs["result"] = weakref.ref(result)
        if how in ("parks", "cancelled", "raises parked"):
            nap()
            wait_future()
        if how == "cancelled":
            time.sleep(100)
        if how.startswith("raises"):
            error = Error()
            refs["error"] = weakref.ref(error)
            raise error
        return result

    class Error(Exception):
        pass

    async def call():
        argument, keyword, value = Thing(), Thing(), Thing()
        for name, thing in (("argument", argument), ("keyword", keyword), ("context", value), ("fn", fn)):
            refs[name] = weakref.ref(thing)
        variable.set(value)
        return await to_greenlet(fn, argument, keyword=keyword)

    return call


@pytest.mark.parametrize("how", ["at once", "parks", "raises at once", "raises parked", "cancelled"])
@pytest.mark.parametrize("collect", [False, True])
def test_greenlets_at_rest_keep_nothing(arun, patched, how, collect):
    async def main():
        for _ in range(3):
            refs = {}
            task = asyncio.ensure_future(keep_nothing_scenario(refs, how)())
            refs["task"] = weakref.ref(task)
            if how == "cancelled":
                await until_parked()
                await asyncio.sleep(0.005)
                task.cancel()
            await asyncio.wait([task])
            task.cancelled() or task.exception()
            del task
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            if collect:
                gc.collect()
            kept = [name for name, ref in refs.items() if ref() is not None]
            if (not collect and "raises" in how) or how == "cancelled":
                gc.collect()  # a traceback and the frames it came through are a cycle, as in native code
                kept = [name for name, ref in refs.items() if ref() is not None]
            assert kept == []

    arun(main)


def test_greenlets_are_reused(arun, patched):
    async def main():
        for _ in range(20):
            await to_greenlet(nap)
        before = len(_core.greens())
        for _ in range(50):
            await to_greenlet(nap)
            await to_greenlet(int)
        assert len(_core.greens()) == before

    arun(main)


@pytest.mark.native_tasks("green tasks have greens beside those of their calls")
def test_the_pool_is_bounded(arun, patched, monkeypatch):
    monkeypatch.setattr(_call, "POOL_LIMIT", 3)
    state = thread_state()
    state.idle.clear()
    gc.collect()
    others = len(_core.greens())  # those of other threads, and those that other tests had abandoned

    async def main():
        gate = asyncio.get_running_loop().create_future()
        tasks = [asyncio.ensure_future(to_greenlet(await_, gate)) for _ in range(20)]
        await until_parked(20)
        gate.set_result(None)
        await asyncio.gather(*tasks)
        assert len(state.idle) <= 3
        del tasks
        gc.collect()
        assert len(_core.greens()) <= others + 3

    gc.collect()
    arun(main)


def test_calls_do_not_leak(loop_kind, patched):
    if loop_kind == "asyncio-debug":
        pytest.skip("debug mode keeps a traceback for every task")
    loop = new_loop(loop_kind)

    async def some(count):
        for _ in range(count // 4):
            await to_greenlet(int)
            await to_greenlet(yield_)
            await to_greenlet(lambda: await_(asyncio.sleep(0)))
            task = asyncio.ensure_future(to_greenlet(time.sleep, 10))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])

    try:
        loop.run_until_complete(some(1000))
        gc.collect()
        tracemalloc.start()
        try:
            loop.run_until_complete(some(400))
            gc.collect()
            before = tracemalloc.get_traced_memory()[0]
            loop.run_until_complete(some(10_000))
            gc.collect()
            grown = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        assert grown < 50_000
    finally:
        finish(loop)


# Libraries' own greenlets


def test_await_from_a_library_greenlet(arun, patched):
    async def main():
        loop = asyncio.get_running_loop()

        def library():
            assert in_greenlet()
            time.sleep(0.001)
            no_loop_seen()
            return await_(asyncio.sleep(0.001, "from below")), get_loop() is loop

        def fn():
            return greenlet.greenlet(library).switch()

        assert await to_greenlet(fn) == ("from below", True)
        assert await asyncio.gather(*(to_greenlet(fn) for _ in range(5))) == [("from below", True)] * 5

    arun(main)


def test_a_library_greenlet_that_outlives_its_call(arun, patched):
    """As sync Playwright's dispatcher: made in one call, used from others."""

    async def main():
        log = []

        def dispatcher(caller):
            while caller is not None:
                time.sleep(0.001)
                log.append(await_(asyncio.sleep(0.001, asyncio.current_task.__name__)))
                caller = caller.switch("answer")
            log.append("end")

        fiber = greenlet.greenlet(dispatcher)

        def use():
            return fiber.switch(greenlet.getcurrent())

        def first():
            fiber.parent = greenlet.getcurrent()
            return use()

        assert await to_greenlet(first) == "answer"
        tasks = [asyncio.ensure_future(to_greenlet(time.sleep, 0.01)) for _ in range(3)]
        assert await to_greenlet(use) == "answer"
        assert await asyncio.ensure_future(to_greenlet(use)) == "answer"
        await asyncio.gather(*tasks)

        def last():
            fiber.parent = greenlet.getcurrent()
            fiber.switch(None)

        await to_greenlet(last)
        assert log == ["current_task"] * 3 + ["end"]
        assert fiber.dead

    arun(main)


def test_the_context_of_a_library_greenlet_is_its_own(arun, patched):
    async def main():
        def library():
            variable.set("library")
            time.sleep(0.001)
            return variable.get()

        def fn():
            variable.set("fn")
            assert greenlet.greenlet(library).switch() == "library"
            assert variable.get() == "fn"
            time.sleep(0.001)
            assert variable.get() == "fn"

        await to_greenlet(fn)

    arun(main)


def test_beside_sqlalchemys_async_engine(arun, patched):
    sqlalchemy = pytest.importorskip("sqlalchemy")
    pytest.importorskip("aiosqlite")
    from sqlalchemy.ext.asyncio import create_async_engine

    async def main():
        engine = create_async_engine("sqlite+aiosqlite://")
        select = sqlalchemy.text("select 40 + 2")

        async def query():
            async with engine.connect() as connection:
                return (await connection.execute(select)).scalar()

        def green():
            time.sleep(0.001)
            value = await_(query())
            time.sleep(0.001)
            return value

        def parks_below_sqlalchemy(connection):
            time.sleep(0.001)
            return connection.execute(select).scalar()

        async def run_sync():
            async with engine.connect() as connection:
                return await connection.run_sync(parks_below_sqlalchemy)

        try:
            assert await query() == 42
            assert await to_greenlet(green) == 42
            assert await asyncio.gather(query(), to_greenlet(green), query(), to_greenlet(green)) == [42] * 4
            assert await to_greenlet(lambda: await_(run_sync())) == 42
        finally:
            await engine.dispose()

    arun(main)


def test_beside_greenback(arun, patched):
    greenback = pytest.importorskip("greenback")

    async def main():
        def portal():
            return greenback.await_(asyncio.sleep(0.001, "greenback"))

        def green():
            time.sleep(0.001)
            return await_(asyncio.sleep(0.001, "greenio"))

        async def both():
            await greenback.ensure_portal()
            assert portal() == "greenback"
            assert await to_greenlet(green) == "greenio"
            assert greenback.await_(to_greenlet(green)) == "greenio"
            await to_greenlet(nap)
            return portal()

        assert await asyncio.gather(*(asyncio.ensure_future(both()) for _ in range(3))) == ["greenback"] * 3

        async def cancelled():
            await greenback.ensure_portal()
            greenback.await_(to_greenlet(time.sleep, 100))

        task = asyncio.ensure_future(cancelled())
        await until_parked()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    arun(main)


def test_greenback_where_it_cannot_work(arun, patched):
    """The portal is not what steps a call that has parked: an error, and the loop goes on."""
    greenback = pytest.importorskip("greenback")

    async def main():
        async def late():
            await greenback.ensure_portal()
            time.sleep(0.001)
            return greenback.await_(asyncio.sleep(0.001, "greenback"))

        beside = asyncio.ensure_future(asyncio.sleep(0.01, "beside"))
        with pytest.raises((RuntimeError, AttributeError)):  # greenio's own, or greenback's
            await asyncio.ensure_future(to_greenlet(lambda: await_(late())))
        assert await beside == "beside"

    arun(main)


@pytest.mark.parametrize("before", [lambda: None, nap, lambda: await_(asyncio.sleep(0))])
@pytest.mark.parametrize("after", [lambda: None, nap])
@pytest.mark.parametrize("given", ["mine", None, ()])
def test_a_switch_to_the_loop(arun, patched, before, after, given):
    """Green code that gives the loop something by greenlet's own means is told so, and can go on."""

    async def main():
        def body():
            before()
            for _ in range(2):
                expected = f"switched to the event loop with {given!r}," if given != () else "with no value"
                with pytest.raises(RuntimeError, match=expected):
                    getcurrent().parent.switch(given) if given != () else getcurrent().parent.switch()
            after()
            return in_greenlet()

        assert await asyncio.gather(*(to_greenlet(body) for _ in range(3))) == [True] * 3

    arun(main)


# offload


def test_offload_of_what_stops(arun, patched):
    """No Future takes StopIteration."""

    async def main():
        def body():
            with pytest.raises(StopIteration) as caught:
                offload(next, iter(()))
            assert os.path.basename(caught.traceback[-1].path) == "test_kernel.py"
            stop = StopIteration("value")
            with pytest.raises(StopIteration) as caught:
                offload(raises, stop)
            assert caught.value is stop

        await to_greenlet(body)

    arun(main)


def test_offload(arun, patched):
    async def main():
        variable.set("offloaded")

        def fn():
            import threading

            thread, seen = offload(lambda: (threading.get_ident(), variable.get()))
            assert thread != threading.get_ident()
            assert seen == "offloaded"
            offload(variable.set, "lost in the copy")
            assert variable.get() == "offloaded"
            with pytest.raises(ZeroDivisionError):
                offload(divmod, 1, 0)
            return offload(divmod, 7, 2)

        assert await to_greenlet(fn) == (3, 1)

    arun(main)
    assert offload(divmod, 7, 2) == (3, 1)


def test_a_cancelled_offload_leaves_the_thread_to_finish(arun, patched):
    import threading

    async def main():
        begun, go, ended = threading.Event(), threading.Event(), threading.Event()

        def work():
            begun.set()
            go.wait(20)
            ended.set()

        task = asyncio.ensure_future(to_greenlet(offload, work))
        while not begun.is_set():
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not ended.is_set()
        go.set()
        while not ended.is_set():
            await asyncio.sleep(0.001)

    arun(main)


# Tools


@pytest.mark.parametrize("kind", ["settrace", "setprofile"])
def test_tracing_goes_on(arun, patched, kind):
    traced = []

    def trace(frame, event, argument):
        if frame.f_code.co_name in ("green_function", "later"):
            traced.append((frame.f_code.co_name, event))
        return trace

    async def main():
        def green_function():
            time.sleep(0.001)
            later()

        def later():
            pass

        getattr(sys, kind)(trace)
        await to_greenlet(green_function)
        await to_greenlet(green_function)
        assert getattr(sys, kind.replace("set", "get"))() is trace

    before = getattr(sys, kind.replace("set", "get"))()
    try:
        arun(main)
    finally:
        getattr(sys, kind)(before)
    assert traced.count(("green_function", "call")) == 2
    assert traced.count(("later", "call")) == 2


def test_debug_mode_is_content(patched, caplog):
    loop = new_loop("asyncio")
    loop.set_debug(True)
    loop.slow_callback_duration = 0.05

    async def main():
        await asyncio.gather(*(to_greenlet(time.sleep, 0.1) for _ in range(3)))
        await asyncio.gather(*(asyncio.ensure_future(to_greenlet(wait)) for wait in PARKS))

    try:
        loop.run_until_complete(main())
    finally:
        finish(loop)
    assert "took" not in caplog.text
    assert parked() == 0


def test_async_generators_in_driven_code(arun, patched):
    async def main():
        loop, log = asyncio.get_running_loop(), []

        async def numbers():
            try:
                for number in range(3):
                    await asyncio.sleep(0)
                    time.sleep(0.001)
                    yield number
            finally:
                await asyncio.sleep(0)
                log.append("closed")

        async def consume():
            return [number async for number in numbers()]

        async def abandon():
            generator = numbers()
            await generator.__anext__()
            await generator.aclose()

        async def leave():
            async for _ in numbers():
                break
            gc.collect()
            for _ in range(5):
                await asyncio.sleep(0.001)

        def fn():
            assert await_(consume()) == [0, 1, 2]
            await_(abandon())
            await_(leave())
            generator = numbers()
            assert await_(generator.__anext__()) == 0
            await_(generator.aclose())

        await to_greenlet(fn)
        assert log == ["closed"] * 4
        assert loop.is_running()

    arun(main)


def test_the_loop_finalises_an_async_generator_that_green_code_left(arun, patched):
    async def main():
        closed = asyncio.Event()

        async def endless():
            try:
                while True:
                    yield 1
            finally:
                closed.set()

        def fn():
            generator = endless()
            assert await_(generator.__anext__()) == 1

        await to_greenlet(fn)
        gc.collect()
        await asyncio.wait_for(closed.wait(), 5)

    arun(main)


def test_reprs(arun, patched):
    async def main():
        task = asyncio.ensure_future(to_greenlet(time.sleep, 10))
        await until_parked()
        (green,) = (green for green in _core.greens() if green.waiting)
        assert "parked in 'time.sleep'" in repr(green)
        assert "Call of <Green" in repr(green.call)
        task.cancel()
        await asyncio.wait([task])
        assert "idle" in repr(green)

    arun(main)


def test_a_loop_that_runs_again(loop_kind):
    loop = new_loop(loop_kind)
    seen = []

    async def main():
        hooks = tuple(sys.get_asyncgen_hooks())
        await to_greenlet(lambda: seen.append(get_loop()))
        host_seen(loop, asyncio.current_task())
        assert tuple(sys.get_asyncgen_hooks()) == hooks

    for _ in range(3):
        loop.run_until_complete(main())
    finish(loop)
    assert seen == [loop] * 3


def test_a_loop_that_another_thread_runs_next(loop_kind):
    loop = new_loop(loop_kind)
    seen = []

    async def main():
        await to_greenlet(lambda: seen.append(threading.get_ident()))
        host_seen(loop, asyncio.current_task())

    loop.run_until_complete(main())
    thread = threading.Thread(target=loop.run_until_complete, args=(main(),))
    thread.start()
    thread.join()
    loop.run_until_complete(main())
    finish(loop)
    assert seen == [threading.get_ident(), thread.ident, threading.get_ident()]


@pytest.mark.parametrize("firstiter", [lambda agen: None, None, [].append], ids=["function", "none", "method"])
def test_hooks_of_the_users_own_are_put_back(arun, firstiter):
    async def main():
        await to_greenlet(int)
        before = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(firstiter, None)
        try:
            for _ in range(2):
                await to_greenlet(no_loop_seen)
                assert sys.get_asyncgen_hooks() == (firstiter, None)
                assert asyncio.get_running_loop() is asyncio.current_task().get_loop()
        finally:
            sys.set_asyncgen_hooks(*before)
        await to_greenlet(no_loop_seen)
        assert sys.get_asyncgen_hooks() == before

    arun(main)


def test_without_a_loop_the_error_stands_alone():
    call = to_greenlet(int)
    with pytest.raises(RuntimeError, match="needs a running event loop") as caught:
        call.send(None)
    assert caught.value.__context__ is None
