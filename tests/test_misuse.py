"""Every misuse says what happened, and the call that fixes it; a coroutine that cannot be awaited is closed."""

from __future__ import annotations

import asyncio
import fractions
import gc
import os
import threading
import time
import types

import pytest

from conftest import finish, new_loop
from greenio import (
    async_to_sync,
    await_,
    get_loop,
    in_greenlet,
    monkey,
    offload,
    run,
    spawn,
    sync_to_async,
    timeout,
    timeout_at,
    to_greenlet,
    wait_readable,
    wait_writable,
)
from waiting import parked


async def coroutine():
    pass


def noop():
    pass


def never_awaited():
    gc.collect()  # a coroutine that was not closed warns here, and warnings are errors


def test_await_outside_a_greenlet():
    with pytest.raises(RuntimeError, match=r"outside a greenlet: outside a running loop use `asyncio.run\(\)`"):
        await_(coroutine())
    never_awaited()


def test_await_in_async_code(arun):
    async def main():
        with pytest.raises(RuntimeError, match="outside a greenlet: in async code write `await` instead"):
            await_(coroutine())
        future = asyncio.get_running_loop().create_future()
        with pytest.raises(RuntimeError, match="outside a greenlet"):
            await_(future)
        never_awaited()

    arun(main)


@pytest.mark.parametrize("thing", [None, 5, noop, coroutine, [], object()])
def test_await_of_what_is_no_awaitable(arun, thing):
    async def main():
        with pytest.raises(TypeError, match="takes an awaitable, not .*call"):
            await to_greenlet(await_, thing)

    arun(main)


def test_await_of_generators(arun):
    async def main():
        def plain():
            yield

        @types.coroutine
        def old_style():
            yield
            return "old style"

        async def asynchronous():
            yield

        with pytest.raises(TypeError, match="takes an awaitable"):
            await to_greenlet(await_, plain())
        with pytest.raises(TypeError, match="takes an awaitable"):
            await to_greenlet(await_, asynchronous())
        assert await to_greenlet(await_, old_style()) == "old style"

    arun(main)


def test_await_of_a_coroutine_that_is_used_up(arun):
    async def main():
        used = coroutine()
        await used
        with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
            await to_greenlet(await_, used)

    arun(main)


def test_an_iterator_without_send_is_awaited(arun):
    class Iterator:
        def __init__(self):
            self.left = 3

        def __iter__(self):
            return self

        def __next__(self):
            self.left -= 1
            if not self.left:
                raise StopIteration("end")
            return None

    class Awaitable:
        def __await__(self):
            return Iterator()

    async def main():
        assert await to_greenlet(await_, Awaitable()) == "end"

    arun(main)


def test_bad_yields(arun):
    @types.coroutine
    def bad(thing):
        try:
            yield thing
        finally:
            log.append("told")

    log = []

    async def main():
        with pytest.raises(RuntimeError, match=r"await_\(\) got a bad yield: 5"):
            await to_greenlet(await_, bad(5))
        future = asyncio.get_running_loop().create_future()
        with pytest.raises(RuntimeError, match="yield was used instead of yield from"):
            await to_greenlet(await_, bad(future))
        assert log == ["told"] * 2

    arun(main)


def test_a_future_of_a_different_loop(arun, loop_kind):
    other = new_loop(loop_kind)
    future = other.create_future()

    async def main():
        with pytest.raises(RuntimeError, match="attached to a different loop"):
            await to_greenlet(await_, future)
        assert not future.done()

    try:
        arun(main)
    finally:
        finish(other)


def test_to_greenlet_without_a_loop():
    with pytest.raises(RuntimeError, match=r"needs a running event loop.*greenio\.run\(fn\)"):
        to_greenlet(noop).send(None)


def test_to_greenlet_without_a_task(arun):
    async def main():
        caught = []

        def callback():
            try:
                to_greenlet(noop).send(None)
            except RuntimeError as error:
                caught.append(str(error))

        asyncio.get_running_loop().call_soon(callback)
        await asyncio.sleep(0.001)
        assert len(caught) == 1
        assert "needs a current task" in caught[0]
        assert "asyncio.create_task(to_greenlet(fn))" in caught[0]

    arun(main)


def test_to_greenlet_in_green_code_without_await_(arun):
    async def main():
        def fn():
            pending = to_greenlet(noop)
            with pytest.raises(RuntimeError, match="needs a running event loop"):
                pending.send(None)

        await to_greenlet(fn)

    arun(main)


@pytest.mark.parametrize("thing", [None, 5, "fn"])
def test_to_greenlet_of_what_is_no_function(arun, thing):
    async def main():
        with pytest.raises(TypeError, match=r"to_greenlet\(\) takes a function and its arguments"):
            await to_greenlet(thing)
        assert await to_greenlet(divmod, 7, 2) == (3, 1)

    arun(main)


def test_to_greenlet_of_a_coroutine(arun):
    async def main():
        with pytest.raises(TypeError, match=r"to_greenlet\(\) takes a function.*, not <coroutine.*`await` it"):
            await to_greenlet(coroutine())
        never_awaited()

    arun(main)


def test_wrong_arguments_are_the_functions_own_error(arun):
    async def main():
        with pytest.raises(TypeError, match="positional argument"):
            await to_greenlet(noop, 1)

    arun(main)


def test_run_in_a_running_loop(arun):
    async def main():
        with pytest.raises(RuntimeError, match=r"running event loop; write `await to_greenlet\(fn\)` instead"):
            run(noop)

    arun(main)


def test_run_with_a_loop_factory_that_fails():
    def factory():
        raise KeyError("no loop")

    with pytest.raises(KeyError, match="no loop"):
        run(noop, loop_factory=factory)
    never_awaited()


def test_run(loop_kind):
    made = []

    def factory():
        made.append(new_loop(loop_kind))
        return made[-1]

    def fn(a, b):
        assert in_greenlet()
        assert get_loop() is made[0]
        return a + b

    async def afn(a):
        await asyncio.sleep(0.001)
        assert asyncio.get_running_loop() is made[1]
        return a

    assert run(fn, 1, 2, loop_factory=factory) == 3
    assert run(afn, 5, loop_factory=factory, debug=True) == 5
    assert made[1].get_debug()
    with pytest.raises(KeyError, match="mine"):
        run(lambda: (_ for _ in ()).throw(KeyError("mine")), loop_factory=factory)
    assert all(loop.is_closed() for loop in made)
    assert run(divmod, 7, 2) == (3, 1)


def test_spawn_without_a_loop():
    with pytest.raises(RuntimeError, match=r"needs a running loop or a greenlet.*greenio\.run\(fn\)"):
        spawn(noop)
    never_awaited()


def test_get_loop_outside_a_greenlet(arun):
    async def main():
        with pytest.raises(RuntimeError, match=r"asyncio\.get_running_loop\(\).*await to_greenlet\(fn\)"):
            get_loop()

    arun(main)
    with pytest.raises(RuntimeError, match="outside a greenlet"):
        get_loop()


def test_async_to_sync_in_a_running_loop(arun):
    async def main():
        with pytest.raises(RuntimeError, match=r"await the original, or call this inside `await to_greenlet\(fn\)`"):
            async_to_sync(coroutine)()
        never_awaited()

    arun(main)


@pytest.mark.parametrize("wait", [wait_readable, wait_writable])
def test_waiting_for_a_descriptor_outside_a_greenlet(arun, wait):
    with pytest.raises(RuntimeError, match=r"outside a greenlet.*await to_greenlet\(fn\)"):
        wait(0)

    async def main():
        with pytest.raises(RuntimeError, match="outside a greenlet"):
            wait(0)

    arun(main)


@pytest.mark.parametrize("wait", [wait_readable, wait_writable])
@pytest.mark.parametrize("thing", [None, "x", 1.5, object()])
def test_waiting_for_what_has_no_descriptor(arun, wait, thing):
    async def main():
        with pytest.raises(TypeError) as caught:
            await to_greenlet(wait, thing)
        text = f"{wait.__name__}() takes a descriptor or an object with fileno(), not {thing!r}"
        assert str(caught.value) == text

    arun(main)


NAN = float("nan")


def rescheduled(seconds):
    with timeout(None) as limit:
        limit.reschedule(seconds)


TIMED = {
    "timeout": timeout,
    "timeout_at": timeout_at,
    "reschedule": rescheduled,
    "wait_readable": lambda seconds: with_pipe(wait_readable, seconds),
    "wait_writable": lambda seconds: with_pipe(wait_writable, seconds),
}


def with_pipe(wait, seconds):
    """Wait for the end of a pipe that is not ready."""
    reader, writer = os.pipe()
    try:
        wait(reader if wait is wait_readable else writer, seconds)
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize("name", TIMED)
def test_seconds_that_are_none(arun, name):
    async def main():
        with pytest.raises(ValueError, match=rf"^{name}\(\) takes a number of seconds or None, not NaN"):
            await asyncio.wait_for(to_greenlet(TIMED[name], NAN), 10)
        for thing in ("x", [], 1j):
            with pytest.raises(TypeError) as caught:
                await asyncio.wait_for(to_greenlet(TIMED[name], thing), 10)
            assert str(caught.value) == f"{name}() takes a number of seconds or None, not {thing!r}"
        assert parked() == 0

    arun(main)


def test_every_kind_of_number_is_a_limit(arun):
    async def main():
        def fn():
            for seconds in (10, 10.5, True, fractions.Fraction(21, 2), float("inf"), None):
                with timeout(seconds):
                    await_(asyncio.sleep(0))

        await to_greenlet(fn)

    arun(main)


def test_joining_a_thread_for_nan_seconds(arun, patched):
    async def main():
        end = threading.Event()
        thread = threading.Thread(target=end.wait)
        thread.start()
        try:
            with pytest.raises(ValueError, match="NaN"):
                await to_greenlet(thread.join, NAN)
            assert thread.is_alive()
            await to_greenlet(thread.join, -1)
        finally:
            end.set()
            await to_greenlet(thread.join)

    arun(main)


def test_offload_needs_no_greenlet(arun):
    async def main():
        assert offload(divmod, 7, 2) == (3, 1)

    arun(main)


CALLERS = {
    "spawn": (spawn, "a function and its arguments"),
    "run": (run, "a function and its arguments"),
    "offload": (offload, "a function and its arguments"),
    "sync_to_async": (sync_to_async, "a function"),
    "async_to_sync": (async_to_sync, "a coroutine function"),
}


@pytest.mark.parametrize("name", CALLERS)
def test_what_is_no_function_is_refused_at_once(arun, name):
    call, wanted = CALLERS[name]

    def refused():
        for thing in (None, 5, "fn"):
            with pytest.raises(TypeError) as caught:
                call(thing)
            assert str(caught.value) == f"{name}() takes {wanted}, not {thing!r}"
        unused = coroutine()
        with pytest.raises(TypeError) as caught:
            call(unused)
        assert (
            str(caught.value) == f"{name}() takes {wanted}, not {unused!r}; `await` it, or pass the coroutine function"
        )
        del unused
        never_awaited()

    async def main():
        refused()
        await to_greenlet(refused)
        assert len(asyncio.all_tasks()) == 1

    refused()
    arun(main)


def test_async_to_sync_of_a_plain_function(arun):
    def plain():
        return 5

    def refused():
        with pytest.raises(TypeError) as caught:
            async_to_sync(plain)()
        assert str(caught.value) == f"async_to_sync() takes a coroutine function, not {plain!r}, which returned 5"

    refused()
    arun(lambda: to_greenlet(refused))


def test_async_to_sync_of_what_returns_an_awaitable(arun):
    class Answer:
        def __await__(self):
            return asyncio.sleep(0, "answer").__await__()

    async def main():
        assert await to_greenlet(async_to_sync(Answer)) == "answer"

    assert async_to_sync(Answer)() == "answer"
    arun(main)


GROUPS_WANTED = 'patched() takes the names of groups, as in patched("socket", "ssl")'
ALLOWED_WANTED = 'allow_blocking takes names, as in allow_blocking=["package.module"]'
NAMES_WANTED = 'original() takes names, as in original("time", "sleep")'
NAME_WANTED = 'is_patched() takes a name, as in is_patched("time.sleep")'
MISNAMED = {
    "patched list": (lambda: monkey.patched(["socket"]).__enter__(), GROUPS_WANTED, ["socket"]),
    "patched number": (lambda: monkey.patched(5).__enter__(), GROUPS_WANTED, 5),
    "patched allows": (lambda: monkey.patched(allow_blocking=[5]).__enter__(), ALLOWED_WANTED, 5),
    "patch_all": (lambda: monkey.patch_all(allow_blocking=[5]), ALLOWED_WANTED, 5),
    "patch_all number": (lambda: monkey.patch_all(allow_blocking=5), ALLOWED_WANTED, 5),
    "patch_all warns": (lambda: monkey.patch_all(on_blocking="warn", allow_blocking=["a", 5]), ALLOWED_WANTED, 5),
    "original module": (lambda: monkey.original(time, "sleep"), NAMES_WANTED, time),
    "original number": (lambda: monkey.original("time", 5), NAMES_WANTED, 5),
    "is_patched": (lambda: monkey.is_patched(time), NAME_WANTED, time),
}


@pytest.mark.parametrize("case", MISNAMED)
def test_what_is_no_name_is_refused(case):
    call, wanted, thing = MISNAMED[case]
    with pytest.raises(TypeError) as caught:
        call()
    assert str(caught.value) == f"{wanted}, not {thing!r}"
    assert not any(map(monkey.is_patched, ("socket", "time")))


def test_is_patched_of_a_class_names_what_is_in_it():
    text = "^'socket.socket' itself is never patched, but what is in it is, as 'socket.socket.recv'; the groups are "
    with pytest.raises(ValueError, match=text):
        monkey.is_patched("socket.socket")
    assert not monkey.is_patched("socket.socket.recv")


def test_misuse_leaves_the_greenlets_usable(arun):
    async def main():
        for _ in range(50):
            with pytest.raises(TypeError):
                await to_greenlet(None)
            with pytest.raises(TypeError):
                await to_greenlet(await_, None)
        assert await to_greenlet(lambda: await_(asyncio.sleep(0, "fine"))) == "fine"
        assert parked() == 0

    arun(main)
