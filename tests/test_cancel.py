"""Cancellation: from outside and from inside, in every state, counted right, and never lost."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
import time

import anyio
import pytest

from greenio import await_, spawn, timeout, to_greenlet
from waiting import parked, until, until_parked

pytestmark = pytest.mark.green_tasks

needs_311 = pytest.mark.skipif(sys.version_info < (3, 11), reason="came with CPython 3.11")


def in_sleep():
    time.sleep(100)


def in_future():
    await_(asyncio.sleep(100))


def in_socket():
    left, right = socket.socketpair()
    with left, right:
        left.recv(1)


def in_socket_with_timeout():
    left, right = socket.socketpair()
    with left, right:
        left.settimeout(100)
        left.recv(1)


def in_nested_call():
    await_(to_greenlet(in_sleep))


async def in_driven_code():
    time.sleep(100)


WAITS = [in_sleep, in_future, in_socket, in_socket_with_timeout, in_nested_call, in_driven_code]


def log_around(wait, log):
    if asyncio.iscoroutinefunction(wait):

        async def around():
            try:
                await wait()
            except BaseException as error:
                log.append(error)
                raise
            finally:
                time.sleep(0.001)
                await asyncio.sleep(0.001)
                log.append("finally")

        return around

    def fn():
        try:
            wait()
        except BaseException as error:
            log.append(error)
            raise
        finally:
            time.sleep(0.001)
            await_(asyncio.sleep(0.001))
            log.append("finally")

    return fn


def assert_cancelled_once(log, message=None):
    error, end = log
    assert isinstance(error, asyncio.CancelledError)
    assert end == "finally"
    if message is not None:
        assert error.args == (message,)
    assert parked() == 0


# From outside


@pytest.mark.parametrize("wait", WAITS)
def test_task_cancel(arun, patched, wait):
    async def main():
        log = []
        task = asyncio.ensure_future(to_greenlet(log_around(wait, log)))
        await until_parked()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()
        assert_cancelled_once(log)

    arun(main)


@pytest.mark.parametrize("wait", [in_sleep, in_socket, in_driven_code])
def test_the_message_arrives(arun, patched, wait):
    async def main():
        log = []
        task = asyncio.ensure_future(to_greenlet(log_around(wait, log)))
        await until_parked()
        task.cancel("the reason")
        with pytest.raises(asyncio.CancelledError):
            await task
        assert_cancelled_once(log, "the reason")

    arun(main)


@pytest.mark.parametrize("wait", WAITS)
def test_wait_for(arun, patched, wait):
    async def main():
        log = []
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(to_greenlet(log_around(wait, log)), 0.01)
        assert_cancelled_once(log)

    arun(main)


@needs_311
@pytest.mark.parametrize("wait", WAITS)
def test_asyncio_timeout_around(arun, patched, wait):
    async def main():
        log = []
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await to_greenlet(log_around(wait, log))
        assert_cancelled_once(log)
        assert asyncio.current_task().cancelling() == 0
        await asyncio.sleep(0)

    arun(main)


@needs_311
@pytest.mark.parametrize("wait", [in_sleep, in_socket, in_nested_call])
def test_asyncio_timeout_inside(arun, patched, wait):
    async def main():
        log = []
        task = asyncio.current_task()

        async def limited():
            async with asyncio.timeout(0.01):
                await to_greenlet(log_around(wait, log))

        async def limited_blocking():
            async with asyncio.timeout(0.01):
                log_around(wait, log)()

        def fn():
            with pytest.raises(TimeoutError):
                await_(limited())
            assert_cancelled_once(log)
            assert task.cancelling() == 0
            log.clear()
            with pytest.raises(TimeoutError):
                await_(limited_blocking())
            assert_cancelled_once(log)
            assert task.cancelling() == 0
            time.sleep(0.001)
            return "went on"

        assert await to_greenlet(fn) == "went on"
        await asyncio.sleep(0)

    arun(main)


@needs_311
@pytest.mark.parametrize("wait", WAITS)
def test_task_group_around(arun, patched, wait):
    async def main():
        log = []

        async def fail():
            await until_parked()
            raise KeyError("a sibling")

        async def group_of(body):
            with pytest.raises(ExceptionGroup) as caught:
                async with asyncio.TaskGroup() as group:
                    group.create_task(to_greenlet(log_around(wait, log)))
                    group.create_task(fail())
                    await body()
            assert [type(error) for error in caught.value.exceptions] == [KeyError]
            return asyncio.current_task().cancelling()

        async def nothing():
            pass

        await asyncio.create_task(group_of(nothing))
        assert_cancelled_once(log)

        log.clear()
        native = await asyncio.create_task(group_of(lambda: asyncio.sleep(100)))
        log.clear()
        assert await asyncio.create_task(group_of(lambda: to_greenlet(in_sleep))) == native
        assert_cancelled_once(log)

    arun(main)


@needs_311
def test_task_group_inside(arun, patched):
    async def main():
        log = []
        task = asyncio.current_task()

        async def fail():
            await until_parked(2)
            raise KeyError("a sibling")

        async def group_of():
            async with asyncio.TaskGroup() as group:
                group.create_task(to_greenlet(log_around(in_sleep, log)))
                group.create_task(fail())
                log_around(in_socket, log)()

        def fn():
            with pytest.raises(ExceptionGroup):
                await_(group_of())
            assert task.cancelling() == 0
            time.sleep(0.001)

        await to_greenlet(fn)
        assert len(log) == 4

    arun(main)


@pytest.mark.parametrize("wait", WAITS)
def test_anyio_scopes_around(arun, patched, wait):
    async def main():
        log = []
        with anyio.move_on_after(0.01) as scope:
            if asyncio.iscoroutinefunction(wait):
                await to_greenlet(wait)
            else:

                def fn():
                    try:
                        wait()
                    finally:
                        log.append("finally")

                await to_greenlet(fn)
        assert scope.cancelled_caught
        assert parked() == 0
        if sys.version_info >= (3, 11):
            assert asyncio.current_task().cancelling() == 0
        await asyncio.sleep(0)
        async with anyio.create_task_group() as group:
            group.start_soon(to_greenlet, wait)
            await until_parked()
            group.cancel_scope.cancel()

    arun(main)


@pytest.mark.parametrize("wait", [in_sleep, in_future, in_socket, in_nested_call])
def test_anyio_scopes_inside(arun, patched, wait):
    async def main():
        async def limited():
            with anyio.move_on_after(0.01) as scope:
                wait()
            return scope.cancelled_caught

        async def limited_call():
            with anyio.move_on_after(0.01) as scope:
                await to_greenlet(wait)
            return scope.cancelled_caught

        def fn():
            assert await_(limited())
            time.sleep(0.001)
            assert await_(limited_call())
            time.sleep(0.001)
            await_(anyio.sleep(0.001))
            return "went on"

        assert await to_greenlet(fn) == "went on"
        if sys.version_info >= (3, 11):
            assert asyncio.current_task().cancelling() == 0
        await asyncio.sleep(0)

    arun(main)


def test_an_anyio_scope_that_is_cancelled_while_cleaning_up(arun, patched):
    """As anyio's `aclose_forcefully` does: a timeout does not take that for somebody else's cancellation."""

    async def clean_up():
        with anyio.CancelScope() as scope:
            scope.cancel()
            await anyio.sleep(1)

    def body():
        with pytest.raises(TimeoutError), timeout(0.01):
            try:
                await_(anyio.sleep(10))
            finally:
                await_(clean_up())

    async def main():
        await to_greenlet(body)

    arun(main)


def test_an_anyio_shield_protects_cleaning_up(arun, patched):
    async def main():
        log = []

        async def clean_up():
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.005)
                log.append("clean")

        def fn():
            try:
                time.sleep(100)
            finally:
                await_(clean_up())

        with anyio.move_on_after(0.005):
            await to_greenlet(fn)
        assert log == ["clean"]

    arun(main)


def test_shield(arun, patched):
    async def main():
        enough = threading.Event()
        inner = asyncio.ensure_future(to_greenlet(lambda: (enough.wait(20), "done")[1]))

        def fn():
            return await_(asyncio.shield(inner))

        task = asyncio.ensure_future(to_greenlet(fn))
        await until_parked(2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        enough.set()
        assert await inner == "done"

    arun(main)


def test_awaiting_a_task_in_green_code_cancels_it(arun, patched):
    async def main():
        children = []

        def fn():
            children.append(spawn(time.sleep, 100))
            await_(children[0])

        task = asyncio.ensure_future(to_greenlet(fn))
        await until_parked(2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert children[0].cancelled()

    arun(main)


# Counting, and swallowing


@needs_311
@pytest.mark.parametrize("wait", WAITS)
def test_a_swallowed_cancellation(arun, patched, wait):
    """As in native code: the function goes on, the task is not cancelled, the count stays until uncancel()."""

    async def main():
        counts = []

        if asyncio.iscoroutinefunction(wait):

            async def fn():
                try:
                    await wait()
                except asyncio.CancelledError:
                    counts.append(task.cancelling())
                time.sleep(0.001)
                await asyncio.sleep(0.001)
                counts.append(task.uncancel())
                return "swallowed"

        else:

            def fn():
                try:
                    wait()
                except asyncio.CancelledError:
                    counts.append(task.cancelling())
                time.sleep(0.001)
                await_(asyncio.sleep(0.001))
                counts.append(task.uncancel())
                return "swallowed"

        task = asyncio.ensure_future(to_greenlet(fn))
        await until_parked()
        task.cancel()
        assert await task == "swallowed"
        assert counts == [1, 0]
        assert not task.cancelled()

    arun(main)


def test_cancelled_again_while_cleaning_up(arun, patched):
    async def main():
        log = []

        def fn():
            try:
                time.sleep(100)
            finally:
                try:
                    time.sleep(200)
                except asyncio.CancelledError as error:
                    log.append(error.args)
                    await_(asyncio.sleep(0.001))
                    log.append("clean")

        task = asyncio.ensure_future(to_greenlet(fn))
        await until_parked()
        task.cancel("first")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await until_parked()
        task.cancel("second")
        with pytest.raises(asyncio.CancelledError):
            await task
        assert log == [("second",), "clean"]

    arun(main)


@pytest.mark.parametrize("wait", WAITS)
def test_two_cancellations_in_one_turn_are_one(arun, patched, wait):
    async def native(waiting):
        try:
            await asyncio.sleep(100)
        finally:
            await asyncio.sleep(0.001)
            waiting.append("clean")

    async def main():
        log = []
        task = asyncio.ensure_future(to_greenlet(log_around(wait, log)))
        await until_parked()
        task.cancel("first")
        task.cancel("second")
        with pytest.raises(asyncio.CancelledError):
            await task
        assert_cancelled_once(log)
        if sys.version_info >= (3, 11):
            assert task.cancelling() == 2

        log.clear()
        task = asyncio.ensure_future(native(log))
        await asyncio.sleep(0.001)
        task.cancel()
        task.cancel()
        await asyncio.wait([task])
        assert log == ["clean"]

    arun(main)


# States


def test_cancelled_before_the_first_step(arun, loop_kind, patched):
    if loop_kind == "asyncio-eager":
        pytest.skip("an eager task has had its first step")

    async def main():
        called = []
        task = asyncio.ensure_future(to_greenlet(called.append, 1))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not called

    arun(main)


@pytest.mark.parametrize("parks_first", [False, True])
def test_a_function_cancels_its_own_task(arun, patched, parks_first):
    async def main():
        log = []

        def fn():
            task = tasks[0]
            if parks_first:
                time.sleep(0.001)
            task.cancel("by itself")
            log.append("went on")
            try:
                time.sleep(100)
            except asyncio.CancelledError as error:
                log.append(error.args)
                begin = time.monotonic()
                time.sleep(0.02)  # nothing of the cancelled wait may wake this one
                assert time.monotonic() - begin >= 0.0199
                raise

        async def call():
            tasks.append(asyncio.current_task())
            await to_greenlet(fn)

        tasks = []
        task = asyncio.ensure_future(call())
        with pytest.raises(asyncio.CancelledError):
            await task
        assert log == ["went on", ("by itself",)]

    arun(main)


@pytest.mark.parametrize("wait", [lambda: time.sleep(0), lambda: await_(asyncio.sleep(0))])
@pytest.mark.parametrize("parks_first", [False, True])
def test_a_cancelled_yield_wakes_no_later_park(arun, patched, wait, parks_first):
    async def main():
        def fn():
            if parks_first:
                time.sleep(0.001)
            tasks[0].cancel()
            with pytest.raises(asyncio.CancelledError):
                wait()
            begin = time.monotonic()
            time.sleep(0.02)
            assert time.monotonic() - begin >= 0.0199
            return "whole"

        async def call():
            tasks.append(asyncio.current_task())
            return await to_greenlet(fn)

        tasks = []
        assert await asyncio.ensure_future(call()) == "whole"

    arun(main)


@pytest.mark.parametrize("parks_first", [False, True])
@pytest.mark.parametrize("fails", [False, True])
def test_a_cancellation_that_comes_too_late_for_the_function(arun, patched, parks_first, fails):
    """It is delivered all the same: at the end of the call, or at the task's next wait."""

    async def main():
        log = []

        def fn():
            if parks_first:
                time.sleep(0.001)
            tasks[0].cancel("late")
            if fails:
                raise KeyError("its own")
            return "its result"

        async def call():
            tasks.append(asyncio.current_task())
            try:
                log.append(await to_greenlet(fn))
            except KeyError as error:
                log.append(error.args)
            await asyncio.sleep(100)

        tasks = []
        task = asyncio.ensure_future(call())
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(asyncio.shield(task), 10)
        assert task.cancelled()
        assert log in ([("its own",)] if fails else [], [("its own",)] if fails else ["its result"])
        if sys.version_info >= (3, 11):
            assert task.cancelling() == 1

    arun(main)


# A wake-up and a cancellation in the same turn: neither is lost, in both orders


def race(arun, begin, wake, check, *, wake_first, native=None):
    async def main():
        log = []
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(to_greenlet(begin, log))
        await until_parked()

        def both():
            if wake_first:
                wake(loop)
                task.cancel()
            else:
                task.cancel()
                wake(loop)

        loop.call_soon(both)
        await asyncio.wait([task], timeout=10)
        assert task.done()
        check(task, log)
        assert parked() == 0

    arun(main)


BOTH_ORDERS = pytest.mark.parametrize("wake_first", [True, False], ids=["wake first", "cancel first"])


@BOTH_ORDERS
def test_future_and_cancel_in_one_turn(arun, patched, wake_first):
    futures = []

    def begin(log):
        futures.append(_loop_future())
        try:
            log.append(await_(futures[-1]))
        except asyncio.CancelledError:
            log.append("cancelled")
            raise

    def _loop_future():
        from greenio import get_loop

        return get_loop().create_future()

    def wake(loop):
        if not futures[-1].done():
            futures[-1].set_result("result")

    def check(task, log):
        assert task.cancelled()
        assert log == ["cancelled"]  # as in native code, where the await is cancelled though the future is done

    race(arun, begin, wake, check, wake_first=wake_first)


@BOTH_ORDERS
def test_socket_and_cancel_in_one_turn(arun, patched, wake_first):
    pairs = []

    def begin(log):
        left, right = socket.socketpair()
        pairs.append((left, right))
        with left, right:
            try:
                log.append(left.recv(10))
            except asyncio.CancelledError:
                log.append("cancelled")
                log.append(left.recv(10))  # the data is there for whoever reads next
                raise

    def wake(loop):
        socket.socket.send(pairs[-1][1], b"data")

    def check(task, log):
        assert task.cancelled()
        assert log == ["cancelled", b"data"]

    race(arun, begin, wake, check, wake_first=wake_first)


@BOTH_ORDERS
def test_a_cancelled_reader_leaves_the_wake_up_to_the_next(arun, patched, wake_first):
    async def main():
        left, right = socket.socketpair()
        with left, right:
            left.setblocking(True)
            for _ in range(20):
                log = []

                def read(name, log=log):
                    log.append((name, left.recv(1)))

                first = asyncio.ensure_future(to_greenlet(read, "first"))
                await until_parked(1)
                second = asyncio.ensure_future(to_greenlet(read, "second"))
                await until_parked(2)
                if wake_first:
                    right.send(b"x")
                    first.cancel()
                else:
                    first.cancel()
                    right.send(b"x")
                await asyncio.wait([first])
                await until(lambda log=log: log)
                if log == [("first", b"x")]:
                    right.send(b"y")
                await asyncio.wait_for(second, 10)
                assert len(log) <= 2

    arun(main)


@BOTH_ORDERS
def test_timer_and_cancel_in_one_turn(arun, patched, wake_first):
    async def main():
        loop = asyncio.get_running_loop()
        for offset in (-0.001, 0, 0.001):
            log = []

            def fn(log=log):
                try:
                    time.sleep(0.02)
                    log.append("slept")
                    time.sleep(100)
                except asyncio.CancelledError:
                    log.append("cancelled")
                    raise

            task = asyncio.ensure_future(to_greenlet(fn))
            await until_parked()

            def cancel(task=task):
                time.sleep(0.01)  # native: hold the loop, so that both are due in the same turn
                task.cancel()

            loop.call_later(0.015 + offset, cancel)
            await asyncio.wait([task], timeout=10)
            assert task.cancelled()
            assert log in (["cancelled"], ["slept", "cancelled"])

    arun(main)


@BOTH_ORDERS
def test_yield_and_cancel_in_one_turn(arun, patched, wake_first):
    async def main():
        for wait in (lambda: time.sleep(0), lambda: await_(asyncio.sleep(0))):
            log = []
            loop = asyncio.get_running_loop()

            def fn(wait=wait, log=log):
                task = tasks[-1]
                if not wake_first:
                    loop.call_soon(task.cancel)
                    wait()
                    log.append("not cancelled")
                else:
                    wait_and_cancel(task, wait)
                    time.sleep(100)

            def wait_and_cancel(task, wait):
                # The cancellation is queued behind the wake-up.
                future = loop.create_future()
                loop.call_soon(lambda: loop.call_soon(task.cancel))
                loop.call_soon(future.set_result, None)
                await_(future)
                wait()

            async def call():
                tasks.append(asyncio.current_task())
                await to_greenlet(fn)

            tasks = []
            task = asyncio.ensure_future(call())
            await asyncio.wait([task], timeout=10)
            assert task.cancelled()
            assert log == []

    arun(main)


@BOTH_ORDERS
def test_end_of_a_nested_call_and_cancel_in_one_turn(arun, patched, wake_first):
    futures = []

    def begin(log):
        async def inner():
            futures.append(asyncio.get_running_loop().create_future())
            return await to_greenlet(lambda: await_(futures[-1]))

        try:
            log.append(await_(inner()))
        finally:
            log.append("finally")

    def wake(loop):
        if not futures[-1].done():
            futures[-1].set_result("result")

    def check(task, log):
        assert task.cancelled()
        assert log[-1] == "finally"

    race(arun, begin, wake, check, wake_first=wake_first)


def test_close_and_cancel_in_one_turn(arun, patched):
    for cancel_first in (True, False):

        async def main(cancel_first=cancel_first):
            left, right = socket.socketpair()
            with right:
                log = []

                def fn():
                    try:
                        left.recv(1)
                    except OSError as error:
                        log.append(error.errno)
                    time.sleep(100)

                task = asyncio.ensure_future(to_greenlet(fn))
                await until_parked()
                if cancel_first:
                    task.cancel()
                left.close()
                task.cancel()
                await asyncio.wait([task], timeout=10)
                assert task.cancelled()

        arun(main)


def test_a_timeout_in_a_call_that_is_cancelled(arun, patched):
    async def main():
        log = []

        def fn():
            try:
                with timeout(100):
                    time.sleep(100)
            except BaseException as error:
                log.append(type(error))
                raise

        task = asyncio.ensure_future(to_greenlet(fn))
        await until_parked()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert log == [asyncio.CancelledError]

    arun(main)


def test_many_cancelled_at_random_turns(arun, patched):
    import random

    async def main():
        generator = random.Random(7)
        for _ in range(60):
            tasks = [asyncio.ensure_future(to_greenlet(generator.choice(WAITS))) for _ in range(8)]
            while tasks:
                for _ in range(generator.randrange(3)):
                    await asyncio.sleep(0)
                task = tasks.pop(generator.randrange(len(tasks)))
                task.cancel()
                if generator.random() < 0.5:
                    await asyncio.wait([task])
                    assert task.cancelled()
        await until(lambda: parked() == 0)

    arun(main)
