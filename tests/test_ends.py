"""Ends: loops that close, stop, or are dropped while greenlets are parked, and coroutines that are closed."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
import weakref

import pytest

from conftest import finish, new_loop
from greenio import _core, await_, get_loop, run, spawn, task_factory, to_greenlet
from waiting import end_by_hand, parked, until, until_parked

pytestmark = pytest.mark.green_tasks


def marks():
    return asyncio._get_running_loop(), sys.get_asyncgen_hooks()


NO_MARKS = (None, (None, None))


def step(loop, times=3):
    for _ in range(times):
        loop.run_until_complete(asyncio.sleep(0))


def start(loop, fn, *args):
    async def begin():
        return asyncio.ensure_future(to_greenlet(fn, *args))

    task = loop.run_until_complete(begin())
    step(loop)
    return task


def silence(loop):
    """Keep quiet about tasks that a test leaves pending on purpose."""
    for task in asyncio.all_tasks(loop):
        task._log_destroy_pending = False


def test_loop_closed_with_parked_greenlets(loop_kind, patched):
    loop = new_loop(loop_kind)
    log = []

    def wait(name):
        try:
            time.sleep(100)
        except asyncio.CancelledError as error:
            log.append((name, "cancelled", str(error)))
            raise
        finally:
            log.append((name, "finally"))

    for name in "ab":
        start(loop, wait, name)
    assert parked() == 2
    silence(loop)
    loop.close()
    assert sorted(log) == [
        ("a", "cancelled", "the event loop is being closed"),
        ("a", "finally"),
        ("b", "cancelled", "the event loop is being closed"),
        ("b", "finally"),
    ]
    assert parked() == 0
    assert marks() == NO_MARKS


def test_finally_blocks_that_park_again_still_end(loop_kind, patched):
    loop = new_loop(loop_kind)
    log = []

    def wait():
        try:
            time.sleep(100)
        finally:
            try:
                time.sleep(50)
            finally:
                try:
                    await_(asyncio.sleep(25))
                finally:
                    log.append("last")

    start(loop, wait)
    silence(loop)
    loop.close()
    assert log == ["last"]
    assert marks() == NO_MARKS


def test_a_greenlet_that_will_not_end_is_abandoned_and_logged(loop_kind, patched, caplog):
    loop = new_loop(loop_kind)
    stop = []

    def stubborn():
        while not stop:
            try:
                time.sleep(100)
            except asyncio.CancelledError:
                pass

    start(loop, stubborn)
    silence(loop)
    loop.close()
    assert "went on waiting" in caplog.text
    stop.append(True)
    (green,) = (green for green in _core.greens() if green.waiting)
    end_by_hand(green)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_loop_closed_with_nested_calls(loop_kind, patched, depth):
    loop = new_loop(loop_kind)
    log = []

    def nest(left):
        try:
            if left:
                await_(to_greenlet(nest, left - 1))
            else:
                await_(asyncio.sleep(100))
        except asyncio.CancelledError:
            log.append(left)
            raise

    start(loop, nest, depth)
    silence(loop)
    loop.close()
    assert sorted(log) == list(range(depth + 1))
    assert parked() == 0
    assert marks() == NO_MARKS


def test_loop_closed_twice(loop_kind, patched):
    loop = new_loop(loop_kind)
    start(loop, time.sleep, 100)
    silence(loop)
    loop.close()
    loop.close()
    assert parked() == 0


def test_closing_a_running_loop_is_refused_and_ends_nothing(arun, patched):
    async def main():
        task = asyncio.ensure_future(to_greenlet(time.sleep, 60))  # less could be over before it is seen parked
        await until_parked()
        with pytest.raises(RuntimeError, match="running"):
            asyncio.get_running_loop().close()

        def close_it():
            with pytest.raises(RuntimeError, match="running"):
                _core.current_green().host.loop.close()

        await to_greenlet(close_it)
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    arun(main)


def test_asyncio_run_ends_what_is_left(loop_kind, patched):
    log = []

    def wait(seconds):
        try:
            time.sleep(seconds)
        finally:
            time.sleep(0.001)
            log.append(seconds)

    async def main():
        for seconds in (100, 200):
            spawn(wait, seconds)
        await until_parked(2)

    loop = new_loop(loop_kind)
    try:
        loop.run_until_complete(main())
    finally:
        finish(loop)
    assert sorted(log) == [100, 200]


def test_run_ends_what_is_left(patched):
    log = []

    def wait():
        try:
            time.sleep(100)
        finally:
            log.append("ended")

    def main():
        spawn(wait)
        time.sleep(0.001)
        return "result"

    assert run(main) == "result"
    assert log == ["ended"]
    assert marks() == NO_MARKS


def test_loop_stopped_and_run_again_with_parked_greenlets(loop_kind, patched):
    loop = new_loop(loop_kind)
    try:
        task = start(loop, lambda: (time.sleep(0.01), await_(asyncio.sleep(0.01, "slept"))))
        assert parked() == 1
        assert marks() == NO_MARKS
        assert loop.run_until_complete(task) == (None, "slept")
    finally:
        finish(loop)


@pytest.mark.parametrize("wait", [lambda: time.sleep(100), lambda: await_(asyncio.sleep(100)), lambda: time.sleep(0)])
def test_coroutine_closed_while_parked(arun, patched, wait):
    async def main():
        log = []

        def fn():
            try:
                wait()
            except asyncio.CancelledError as error:
                log.append(str(error))
                assert asyncio._get_running_loop() is None
                raise

        coroutine = to_greenlet(fn)
        task = asyncio.ensure_future(coroutine)
        while not parked():
            await asyncio.sleep(0) if sys.version_info < (3, 12) else None
            if not parked() and not task.done():
                await asyncio.sleep(0)
            if task.done():
                pytest.fail("it never parked")
            break
        before = asyncio.current_task(), marks()
        coroutine.close()
        assert (asyncio.current_task(), marks()) == before
        assert log == ["the coroutine of this call was ended by GeneratorExit"]
        # The greenlet is at rest, and is used again at once: nothing of the old call may wake the new one.
        begin = time.monotonic()
        await to_greenlet(time.sleep, 0.03)
        assert time.monotonic() - begin >= 0.029
        # A task that suspends on a Future itself hears of it as late as any other whose coroutine is closed.
        task.cancel()
        await asyncio.wait([task], timeout=5)
        assert task.done()
        assert task.cancelled() or task.exception() is not None

    arun(main)


def test_coroutine_closed_by_another_task_in_the_turn_of_its_cancellation(arun, patched):
    async def main():
        log = []

        def fn():
            try:
                time.sleep(100)
            finally:
                log.append("finally")

        coroutine = to_greenlet(fn)
        task = asyncio.ensure_future(coroutine)
        await until_parked()
        task.cancel()
        coroutine.close()
        begin = time.monotonic()
        await to_greenlet(time.sleep, 0.03)
        assert time.monotonic() - begin >= 0.029
        await asyncio.wait([task], timeout=5)
        assert log == ["finally"]

    arun(main)


def test_a_call_is_closed_from_inside_a_call_that_it_made(arun, patched):
    """A running greenlet, though not the innermost, is never resumed."""

    async def main():
        log = []

        async def inner():
            await to_greenlet(close)

        def close():
            outer.close()
            log.append("closed")

        def fn():
            time.sleep(0.001)  # from here on the task awaits the Call, and its coroutine is not running
            await_(inner())
            log.append("went on")
            with pytest.raises(asyncio.CancelledError):
                time.sleep(100)
            log.append("cancelled")

        outer = to_greenlet(fn)
        task = asyncio.ensure_future(outer)
        await asyncio.wait([task])
        assert log == ["closed", "went on", "cancelled"]
        assert isinstance(task.exception(), RuntimeError)  # the task found its coroutine closed

    arun(main)


def test_dropping_an_unclosed_loop_ends_its_greenlets(loop_kind, patched):
    if loop_kind == "uvloop":
        pytest.skip("uvloop does not close a dropped loop by its close()")
    loop = new_loop(loop_kind)
    log = []

    def wait():
        try:
            time.sleep(100)
        finally:
            log.append("ended")

    start(loop, wait)
    silence(loop)
    loop.close()
    assert log == ["ended"]


def test_closed_loops_are_not_kept(loop_kind, patched):
    def once():
        loop = new_loop(loop_kind)

        def wait():
            time.sleep(0.001)
            await_(asyncio.sleep(0))
            left, right = __import__("socket").socketpair()
            with left, right:
                left.sendall(b"x")
                right.recv(1)

        try:
            loop.run_until_complete(asyncio.wait_for(to_greenlet(wait), 5))
        finally:
            finish(loop)
        return weakref.ref(loop)

    references = [once() for _ in range(3)]
    gc.collect()
    assert [reference() for reference in references] == [None] * 3


def test_to_greenlet_in_a_finally_of_a_closing_loop_says_that_it_is_closed(loop_kind, patched):
    loop = new_loop(loop_kind)
    caught = []

    def wait():
        try:
            time.sleep(100)
        finally:
            while True:
                try:
                    time.sleep(1)
                except BaseException as error:
                    caught.append(error)
                    if not isinstance(error, asyncio.CancelledError):
                        break
                if len(caught) > 10:
                    break

    start(loop, wait)
    silence(loop)
    loop.close()
    assert parked() == 0
    assert {type(error) for error in caught} <= {asyncio.CancelledError, RuntimeError}


@pytest.mark.parametrize("green_tasks", [False, True], ids=["calls", "green tasks"])
def test_idle_greenlets_of_an_ended_thread_go(patched, green_tasks):
    async def sleep():
        time.sleep(0.001)

    def main():
        if green_tasks:
            get_loop().set_task_factory(task_factory)
            tasks = [get_loop().create_task(sleep()) for _ in range(5)]
        else:
            tasks = [spawn(time.sleep, 0.001) for _ in range(5)]
        for task in tasks:
            await_(task)

    def work():
        run(main)

    def once():
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()

    once()
    gc.collect()
    before = len(_core.greens())
    for _ in range(10):
        once()
    gc.collect()
    assert len(_core.greens()) <= before + 1


def test_a_task_left_at_the_end_swallows_its_cancellation(loop_kind, patched):
    loop = new_loop(loop_kind)

    def swallow():
        try:
            time.sleep(100)
        except asyncio.CancelledError:
            time.sleep(0.001)
            return "swallowed"

    try:
        task = start(loop, swallow)
    finally:
        finish(loop)
    assert task.result() == "swallowed"


def test_the_host_task_ends_when_a_coroutine_is_thrown_into(arun, patched):
    """Whoever throws past the call, as an async generator's athrow does, ends the function with it."""

    async def main():
        log = []

        def fn():
            try:
                time.sleep(100)
            finally:
                log.append("ended")

        class Driver:
            def __await__(self):
                coroutine = to_greenlet(fn)
                yielded = coroutine.send(None)
                assert yielded is not None
                try:
                    coroutine.throw(KeyError("thrown"))
                except KeyError:
                    log.append("came out")
                return
                yield

        await Driver()
        assert log == ["ended", "came out"]
        await until(lambda: parked() == 0)

    arun(main)
