"""`timeout` and `timeout_at`: what `asyncio.timeout` means, in green code."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import time

import anyio
import pytest

from greenio import _original, await_, get_loop, timeout, timeout_at, to_greenlet
from waiting import parked, until_parked

pytestmark = pytest.mark.green_tasks


def green(arun, fn):
    async def main():
        task = asyncio.ensure_future(to_greenlet(fn))
        try:
            return await asyncio.wait_for(asyncio.shield(task), 20)
        finally:
            assert task.done()

    return arun(main)


def in_sleep():
    time.sleep(100)


def in_future():
    await_(asyncio.sleep(100))


def in_socket():
    left, right = socket.socketpair()
    with left, right:
        left.recv(1)


def in_nested_call():
    await_(to_greenlet(in_sleep))


WAITS = [in_sleep, in_future, in_socket, in_nested_call]


def settled():
    """Nothing of a timeout that is over comes later."""
    time.sleep(0)
    time.sleep(0.002)
    await_(asyncio.sleep(0))


@pytest.mark.parametrize("wait", WAITS)
def test_expires(arun, patched, wait):
    def fn():
        begin = time.monotonic()
        with pytest.raises(TimeoutError) as caught:
            with timeout(0.02) as limit:
                wait()
        assert isinstance(caught.value.__cause__, asyncio.CancelledError)
        assert limit.expired()
        assert 0.019 <= time.monotonic() - begin < 10
        settled()

    green(arun, fn)
    assert parked() == 0


@pytest.mark.parametrize("wait", [lambda: time.sleep(0.001), lambda: await_(asyncio.sleep(0.001)), lambda: None])
@pytest.mark.parametrize("limit", [None, 100])
def test_does_not_expire(arun, patched, wait, limit):
    def fn():
        with timeout(limit) as block:
            wait()
        assert not block.expired()
        assert (block.when() is None) == (limit is None)
        with pytest.raises(KeyError):
            with timeout(limit):
                wait()
                raise KeyError
        settled()

    green(arun, fn)


@pytest.mark.parametrize("limit", [0, -1, -1e9, 0.0])
@pytest.mark.parametrize("wait", [*WAITS, lambda: time.sleep(0), lambda: await_(asyncio.sleep(0))])
def test_zero_and_less_expire_at_the_first_wait(arun, patched, limit, wait):
    def fn():
        reached = []
        with pytest.raises(TimeoutError):
            with timeout(limit):
                reached.append(True)
                wait()
                reached.append("went on")
        assert reached == [True]
        settled()

    green(arun, fn)


def test_zero_without_a_wait(arun, patched):
    def fn():
        with timeout(0) as limit:
            value = 1
        settled()
        assert not limit.expired()
        return value

    assert green(arun, fn) == 1


def test_expired_while_it_did_not_wait(arun, patched):
    """A block that only computes is not cut short; its next wait is."""

    def fn():
        with pytest.raises(TimeoutError):
            with timeout(0.005):
                _busy(0.02)
                time.sleep(0)
                time.sleep(100)
        with timeout(0.005) as limit:
            _busy(0.02)
        assert not limit.expired()
        settled()

    green(arun, fn)


def _busy(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def test_timeout_at(arun, patched):
    def fn():
        when = get_loop().time() + 0.02
        with pytest.raises(TimeoutError):
            with timeout_at(when) as limit:
                assert limit.when() == when
                time.sleep(100)
        with pytest.raises(TimeoutError):
            with timeout_at(when):  # it is past
                time.sleep(0)
        with timeout_at(None) as limit:
            time.sleep(0)
            assert limit.when() is None
        settled()

    green(arun, fn)


def test_an_exception_of_the_block_wins_over_a_late_deadline(arun, patched):
    def fn():
        with pytest.raises(KeyError):
            with timeout(0.005):
                try:
                    time.sleep(100)
                except asyncio.CancelledError:
                    raise KeyError("in its place") from None
        settled()
        with timeout(0.005) as limit:
            try:
                time.sleep(100)
            except asyncio.CancelledError:
                pass
        assert limit.expired()
        settled()
        task_is_clean()

    green(arun, fn)


def task_is_clean():
    if sys.version_info >= (3, 11):

        async def count():
            return asyncio.current_task().cancelling()

        assert await_(count()) == 0


@pytest.mark.parametrize(("outer", "inner", "who"), [(0.01, 100, "outer"), (100, 0.01, "inner"), (0.01, 0.01, "outer")])
@pytest.mark.parametrize("wait", WAITS)
def test_nested(arun, patched, outer, inner, who, wait):
    def fn():
        ended = []
        with pytest.raises(TimeoutError):
            with timeout_at(get_loop().time() + outer) as first:
                try:
                    with timeout(inner) as second:
                        wait()
                finally:
                    ended.append(second.expired())
                    if outer > 1:
                        time.sleep(0.001)
        if who == "outer":
            assert first.expired()
        else:
            assert not first.expired()
            assert ended == [True]
        settled()
        task_is_clean()

    green(arun, fn)


@pytest.mark.parametrize("limit", [0.05, 0.02])
def test_both_deadlines_in_one_turn(arun, patched, limit):
    """The outer one ends its block, whatever becomes of the inner one, as with `asyncio.timeout`."""

    async def main():
        def body():
            with timeout(0.05):
                try:
                    with timeout(limit):
                        time.sleep(100)
                except TimeoutError:
                    pass
                time.sleep(100)

        task = asyncio.ensure_future(to_greenlet(body))
        await until_parked()
        _original.sleep(0.06)  # somebody computes
        with pytest.raises(TimeoutError):
            await task

    arun(main)


@contextlib.asynccontextmanager
async def by_greenio(seconds):
    with timeout(seconds):
        yield


@contextlib.asynccontextmanager
async def by_asyncio(seconds):
    if sys.version_info < (3, 11):
        pytest.skip("there is no asyncio.timeout")
    async with asyncio.timeout(seconds):
        yield


@contextlib.asynccontextmanager
async def by_anyio(seconds):
    with anyio.fail_after(seconds):
        yield


@pytest.mark.parametrize("wait", WAITS)
@pytest.mark.parametrize(("inner", "outer"), [(by_greenio, by_anyio), (by_asyncio, by_anyio), (by_anyio, by_greenio)])
def test_an_anyio_scope_and_a_timeout_in_one_turn(arun, patched, inner, outer, wait):
    """The scope sees that its task is being cancelled already, or cancels it first: both know what is theirs."""
    if sys.version_info < (3, 11) and inner is by_anyio:
        pytest.skip("tasks do not count, so that a scope takes the one cancellation for its own, natively too")

    async def main():
        async def limited():
            time.sleep(0.001)  # nothing is awaited by the task itself from here on
            async with outer(0.02):
                with contextlib.suppress(TimeoutError):
                    async with inner(0.01):
                        wait()
                time.sleep(100)

        task = asyncio.ensure_future(to_greenlet(lambda: await_(limited())))
        await asyncio.sleep(0.003)
        _original.sleep(0.03)
        with pytest.raises(TimeoutError):
            await task

    arun(main)


@pytest.mark.parametrize("wait", WAITS)
def test_two_cancellations_in_one_turn(arun, patched, wait):
    """They are one, with the message of the first, as natively."""

    async def main():
        def body():
            time.sleep(0.001)
            wait()

        task = asyncio.ensure_future(to_greenlet(body))
        await asyncio.sleep(0.005)
        task.cancel("first")
        task.cancel("second")
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        if sys.version_info >= (3, 11):
            assert caught.value.args == ("first",)

    arun(main)


def test_an_inner_timeout_leaves_the_outer_one_in_force(arun, patched):
    def fn():
        log = []
        with pytest.raises(TimeoutError):
            with timeout(0.03) as outer:
                for _ in range(2):
                    try:
                        with timeout(0.003):
                            time.sleep(100)
                    except TimeoutError:
                        log.append("inner")
                time.sleep(100)
        assert log == ["inner", "inner"]
        assert outer.expired()
        settled()
        task_is_clean()

    green(arun, fn)


def test_reschedule(arun, patched):
    def fn():
        with pytest.raises(TimeoutError):
            with timeout(None) as limit:
                limit.reschedule(get_loop().time() + 0.005)
                time.sleep(100)
        with timeout(0.005) as limit:
            limit.reschedule(None)
            time.sleep(0.01)
        assert not limit.expired()
        with timeout(0.005) as limit:
            limit.reschedule(get_loop().time() + 100)
            time.sleep(0.01)
            assert limit.when() > get_loop().time()
        with pytest.raises(TimeoutError):
            with timeout(100) as limit:
                limit.reschedule(get_loop().time() - 1)
                time.sleep(100)
        with timeout(0) as limit:
            limit.reschedule(None)
            time.sleep(0)
        settled()

    green(arun, fn)


def test_misuse(arun, patched):
    for make in (timeout, timeout_at):
        with pytest.raises(RuntimeError, match=r"asyncio\.timeout.*await to_greenlet\(fn\)"):
            with make(1):
                pass

    def fn():
        with timeout(1) as limit:
            pass
        with pytest.raises(RuntimeError, match="make a new one"):
            with limit:
                pass
        with pytest.raises(RuntimeError, match="inside the `with` block"):
            limit.reschedule(1)
        with pytest.raises(RuntimeError, match="inside the `with` block"):
            timeout(1).reschedule(1)
        with pytest.raises(TimeoutError):
            with timeout(0) as limit:
                try:
                    time.sleep(1)
                finally:
                    with pytest.raises(RuntimeError, match="expired"):
                        limit.reschedule(1)
        assert "expired" in repr(limit)
        assert "created" in repr(timeout(1))
        return True

    assert green(arun, fn)


@pytest.mark.parametrize("order", ["timeout first", "cancel first"])
def test_a_cancellation_in_the_turn_of_the_deadline(arun, patched, order):
    """The cancellation is somebody else's: it is not turned into TimeoutError, and it is not lost."""

    async def main():
        log = []
        loop = asyncio.get_running_loop()

        def fn():
            try:
                with timeout_at(loop.time()) as limit:
                    limits.append(limit)
                    limit.reschedule(loop.time() + 1000)
                    time.sleep(100)
            except BaseException as error:
                log.append(type(error))
                raise
            finally:
                log.append("finally")

        limits = []
        task = asyncio.ensure_future(to_greenlet(fn))
        await until_parked()
        (limit,) = limits
        limit._when = loop.time() - 1
        if order == "timeout first":
            limit._expire()
            task.cancel()
        else:
            task.cancel()
            limit._expire()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert log == [asyncio.CancelledError, "finally"]
        if sys.version_info >= (3, 11):
            assert task.cancelling() == 1

    arun(main)


def test_a_deadline_in_the_turn_of_a_wake_up(arun, patched):
    """The block has what it waited for, so it ends well, and nothing is left to be raised later."""

    async def main():
        loop = asyncio.get_running_loop()

        def fn():
            future = loop.create_future()
            with timeout(1000) as limit:
                steps.append((limit, future))
                try:
                    await_(future)
                except asyncio.CancelledError:
                    return "cancelled", limit.expired()
            settled()
            return "went on"

        steps = []
        task = asyncio.ensure_future(to_greenlet(fn))
        await until_parked()
        ((limit, future),) = steps
        limit._when = loop.time() - 1
        future.set_result(None)
        limit._expire()
        # As in a task: the await is cancelled though its future is done.
        assert await task == ("cancelled", True)
        if sys.version_info >= (3, 11):
            assert task.cancelling() == 0

    arun(main)


@pytest.mark.parametrize("depth", [1, 2])
def test_timeouts_across_nested_calls(arun, patched, depth):
    def fn():
        with pytest.raises(TimeoutError):
            with timeout(0.01):
                nest(depth)
        settled()
        task_is_clean()

        def inner():
            with pytest.raises(TimeoutError):
                with timeout(0.01):
                    time.sleep(100)
            settled()
            return "inner"

        with timeout(100):
            assert await_(to_greenlet(inner)) == "inner"
        task_is_clean()
        with pytest.raises(TimeoutError):
            with timeout(0.02):
                assert await_(to_greenlet(inner)) == "inner"
                time.sleep(100)
        settled()
        task_is_clean()

    def nest(left):
        if left:
            await_(to_greenlet(nest, left - 1))
        time.sleep(100)

    green(arun, fn)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="came with CPython 3.11")
def test_mixed_with_asyncio_timeout(arun, patched):
    def fn():
        async def limited(seconds):
            async with asyncio.timeout(seconds):
                with timeout(0.01):
                    time.sleep(100)

        with pytest.raises(TimeoutError):
            await_(limited(100))
        settled()
        with pytest.raises(TimeoutError):
            with timeout(100):
                await_(limited(0.001))
        settled()
        task_is_clean()

    green(arun, fn)


def test_many_timeouts_at_once(arun, patched):
    async def main():
        def fn(n):
            try:
                with timeout(0.001 * (n % 5)):
                    time.sleep(0.0025)
                return "slept"
            except TimeoutError:
                return "expired"

        results = await asyncio.gather(*(asyncio.ensure_future(to_greenlet(fn, n)) for n in range(100)))
        assert set(results) <= {"slept", "expired"}
        assert "expired" in results

    for _ in range(3):
        arun(main)


def test_an_early_timer_wakes_no_later_park(arun, patched):
    """A timer stays armed through shorter waits that follow: it must not cut a longer one short."""

    def fn():
        left, right = socket.socketpair()
        with left, right:
            left.settimeout(0.01)
            right.send(b"x")
            assert left.recv(10) == b"x"
            get_loop().call_later(0.002, right.send, b"y")
            assert left.recv(10) == b"y"
            begin = time.monotonic()
            time.sleep(0.03)
            assert time.monotonic() - begin >= 0.0299
            begin = time.monotonic()
            left.settimeout(0.02)
            with pytest.raises(TimeoutError):
                left.recv(10)
            assert time.monotonic() - begin >= 0.0199

    green(arun, fn)
