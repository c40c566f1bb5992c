"""Exceptions: any kind comes out as it is, with the user's frames only."""

from __future__ import annotations

import asyncio
import sys
import time
import traceback

import greenlet
import pytest

from conftest import finish, new_loop
from greenio import (
    async_to_sync,
    autosync,
    await_,
    enter,
    iterate,
    offload,
    run,
    spawn,
    sync_to_async,
    timeout,
    to_greenlet,
)
from waiting import parked

pytestmark = pytest.mark.green_tasks

PACKAGE = to_greenlet.__module__.split(".")[0]


def frames(error):
    entries = traceback.extract_tb(error.__traceback__)
    own = [entry.name for entry in entries if f"/{PACKAGE}/" in entry.filename and "/tests/" not in entry.filename]
    users = [entry.name for entry in entries if "/tests/" in entry.filename]
    return users, own


def fail():
    raise KeyError("from the bottom")


def fail_later():
    time.sleep(0.001)
    fail()


async def fail_async():
    await asyncio.sleep(0.001)
    fail()


def fail_awaiting():
    await_(fail_async())


def fail_deeper():
    await_(to_greenlet(fail_later))


@pytest.mark.parametrize(
    ("fn", "expected"),
    [
        (fail, ["fail"]),
        (fail_later, ["fail_later", "fail"]),
        (fail_async, ["fail_async", "fail"]),
        (fail_awaiting, ["fail_awaiting", "fail_async", "fail"]),
        (fail_deeper, ["fail_deeper", "fail_later", "fail"]),
        (sync_to_async(fail_later), ["fail_later", "fail"]),
        (async_to_sync(fail_async), ["fail_async", "fail"]),
    ],
)
def test_the_users_frames_only(arun, patched, fn, expected):
    async def main():
        with pytest.raises(KeyError) as caught:
            await to_greenlet(fn)
        users, own = frames(caught.value)
        assert users == ["main", *expected]
        assert own == []

    arun(main)


class Failing:
    """What fails in each of the ways in which an asynchronous object is used."""

    async def method(self):
        await fail_async()

    def function(self):
        fail()

    def __getitem__(self, key):
        fail()

    @property
    def attribute(self):
        fail()

    async def __aenter__(self):
        await fail_async()

    async def __aexit__(self, *error):
        pass

    def __aiter__(self):
        return self

    async def __anext__(self):
        await fail_async()


class Leaving(Failing):
    async def __aenter__(self):
        pass

    async def __aexit__(self, *error):
        await fail_async()


async def generate():
    await fail_async()
    yield


def through(manager):
    with manager:
        pass


FACES = {
    "method": (lambda: autosync(Failing()).method(), ["method", "fail_async"]),
    "function": (lambda: autosync(Failing()).function(), ["function"]),
    "item": (lambda: autosync(Failing())[0], ["__getitem__"]),
    "attribute": (lambda: autosync(Failing()).attribute, ["attribute"]),
    "iterator": (lambda: list(autosync(Failing())), ["__anext__", "fail_async"]),
    "next": (lambda: next(autosync(Failing())), ["__anext__", "fail_async"]),
    "iterate": (lambda: list(iterate(generate())), ["generate", "fail_async"]),
    "proxy entered": (lambda: through(autosync(Failing())), ["through", "__aenter__", "fail_async"]),
    "proxy left": (lambda: through(autosync(Leaving())), ["through", "__aexit__", "fail_async"]),
    "entered": (lambda: through(enter(Failing())), ["through", "__aenter__", "fail_async"]),
    "left": (lambda: through(enter(Leaving())), ["through", "__aexit__", "fail_async"]),
}


@pytest.mark.parametrize("way", FACES)
def test_the_users_frames_only_through_a_face(arun, way):
    async def main():
        use, expected = FACES[way]
        with pytest.raises(KeyError) as caught:
            await to_greenlet(use)
        assert frames(caught.value) == (["main", "<lambda>", *expected, "fail"], [])

    arun(main)


def test_a_waiting_call_that_fails_shows_where_it_was_called(arun, patched):
    async def main():
        def fn():
            time.sleep(-1)

        with pytest.raises(ValueError, match="non-negative") as caught:
            await to_greenlet(fn)
        assert frames(caught.value)[0][:2] == ["main", "fn"]

        def cancelled():
            with timeout(0):
                time.sleep(1)

        with pytest.raises(TimeoutError) as caught:
            await to_greenlet(cancelled)
        assert frames(caught.value)[0] == ["main", "cancelled"]

    arun(main)


def test_tracebacks_do_not_grow(arun, patched):
    error = KeyError("the same one")

    def fail_with_it():
        time.sleep(0)
        raise error.with_traceback(None)

    async def main():
        for _ in range(5):
            with pytest.raises(KeyError):
                await to_greenlet(fail_with_it)
            users, _ = frames(error)
            assert users == ["main", "fail_with_it"]

    arun(main)


def test_context_and_cause_survive(arun, patched):
    async def main():
        def fn():
            try:
                fail_later()
            except KeyError as error:
                time.sleep(0.001)
                raise ValueError("outer") from error

        with pytest.raises(ValueError, match="outer") as caught:
            await to_greenlet(fn)
        assert isinstance(caught.value.__cause__, KeyError)

    arun(main)


def test_the_exception_that_is_being_handled_is_each_sides_own(arun, patched):
    async def main():
        def fn():
            assert sys.exc_info() == (None, None, None)
            try:
                raise KeyError("green")
            except KeyError:
                time.sleep(0.001)
                assert isinstance(sys.exc_info()[1], KeyError)
                await_(asyncio.sleep(0.001))
                assert isinstance(sys.exc_info()[1], KeyError)

        await asyncio.gather(*(asyncio.ensure_future(to_greenlet(fn)) for _ in range(3)))
        assert sys.exc_info() == (None, None, None)

    arun(main)


class Own(BaseException):
    pass


@pytest.mark.parametrize("parks", [False, True])
@pytest.mark.parametrize(
    "kind", [Own, GeneratorExit, asyncio.CancelledError, greenlet.GreenletExit, StopAsyncIteration]
)
def test_unusual_exceptions(arun, patched, kind, parks):
    async def main():
        def fn():
            if parks:
                time.sleep(0.001)
            raise kind("unusual")

        with pytest.raises(kind, match="unusual"):
            await to_greenlet(fn)
        assert await to_greenlet(int) == 0

    arun(main)


@pytest.mark.parametrize("parks", [False, True])
def test_stop_iteration(arun, patched, parks):
    """No coroutine can raise it: as from any, it comes as RuntimeError."""

    async def main():
        def fn():
            if parks:
                time.sleep(0.001)
            next(iter(()))

        with pytest.raises(RuntimeError) as caught:
            await to_greenlet(fn)
        assert isinstance(caught.value.__cause__, StopIteration)

    arun(main)


@pytest.mark.parametrize("parks", [False, True])
@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_program_goes_through_the_loop(loop_kind, patched, kind, parks):
    loop = new_loop(loop_kind)

    def fn():
        if parks:
            time.sleep(0.001)
        raise kind("end")

    async def main():
        other = spawn(time.sleep, 0.005)
        try:
            await to_greenlet(fn)
        finally:
            log.append(other)

    log = []
    try:
        with pytest.raises(kind, match="end"):
            loop.run_until_complete(main())
        assert asyncio._get_running_loop() is None
        assert sys.get_asyncgen_hooks() == (None, None)
        loop.run_until_complete(log[0])  # whatever else was parked goes on when the loop does
    finally:
        finish(loop)
    assert parked() == 0


def test_keyboard_interrupt_of_a_running_program(patched):
    import signal

    def fn():
        try:
            signal.raise_signal(signal.SIGINT)
            time.sleep(100)
        finally:
            log.append("finally")

    log = []
    with pytest.raises(KeyboardInterrupt):
        run(fn)
    assert log == ["finally"]
    assert parked() == 0


def test_errors_of_an_offloaded_function(arun):
    async def main():
        with pytest.raises(KeyError) as caught:
            await to_greenlet(offload, fail)
        assert frames(caught.value)[0] == ["main", "fail"]

    arun(main)
