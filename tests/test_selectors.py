"""`selectors`: every class stays, and parks."""

import asyncio
import contextlib
import errno
import gc
import os
import selectors
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from greenio import _core, monkey, to_greenlet
from waiting import parked, until

CLASSES = [
    getattr(selectors, name) for name in ("SelectSelector", "PollSelector", "EpollSelector") if hasattr(selectors, name)
]


@pytest.fixture(params=CLASSES)
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@contextlib.contextmanager
def pairs(count: int) -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    with contextlib.ExitStack() as stack:
        made = [socket.socketpair() for _ in range(count)]
        for a, b in made:
            stack.enter_context(a)
            stack.enter_context(b)
        yield made


async def parked_call(fn: Callable[..., Any], *args: Any) -> asyncio.Task[Any]:
    """Start a call in a greenlet and return once it is parked."""
    before = parked()
    task = asyncio.create_task(to_greenlet(fn, *args))
    await until(lambda: task.done() or parked() > before)
    assert not task.done()
    return task


def afresh(fn: Callable[..., Any], *args: Any) -> Any:
    """Call a function on a greenlet that has all its turn before it."""
    green = _core.current_green()
    assert green is not None
    green.operations = 0
    return fn(*args)


def found(ready: Any) -> dict[Any, int]:
    return {key.data: events for key, events in ready}


def test_parks_until_ready(arun: Any, patched: None, kind: Any) -> None:
    async def main() -> None:
        with pairs(3) as made, kind() as selector:
            for index, (a, _) in enumerate(made):
                selector.register(a, selectors.EVENT_READ, index)
            for _ in range(3):
                task = await parked_call(selector.select)
                made[1][1].send(b"x")
                made[2][1].send(b"x")
                assert found(await task) == {1: selectors.EVENT_READ, 2: selectors.EVENT_READ}
                assert made[1][0].recv(9) + made[2][0].recv(9) == b"xx"

    arun(main)


def test_reading_and_writing(arun: Any, patched: None, kind: Any) -> None:
    async def main() -> None:
        with pairs(1) as [(a, b)], kind() as selector:
            a.setblocking(False)
            b.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    a.send(bytes(65536))
            selector.register(a, selectors.EVENT_READ | selectors.EVENT_WRITE, "a")
            task = await parked_call(selector.select)
            b.send(b"x")
            assert found(await task) == {"a": selectors.EVENT_READ}
            selector.modify(a, selectors.EVENT_WRITE, "a")
            task = await parked_call(selector.select)
            with contextlib.suppress(BlockingIOError):
                while True:
                    b.recv(65536)
            assert found(await task) == {"a": selectors.EVENT_WRITE}

    arun(main)


@pytest.mark.parametrize("wait", [0, -1, -0.5])
def test_zero_and_less_do_not_park(arun: Any, patched: None, kind: Any, wait: float) -> None:
    async def main() -> None:
        turns = 0

        def turn() -> None:
            nonlocal turns
            turns += 1

        with pairs(1) as [(a, _)], kind() as selector:
            selector.register(a, selectors.EVENT_READ)
            asyncio.get_running_loop().call_soon(turn)
            assert await to_greenlet(afresh, selector.select, wait) == []
            assert not turns

    arun(main)


def test_timeout_is_never_early(arun: Any, patched: None, kind: Any) -> None:
    async def main() -> None:
        with pairs(1) as [(a, _)], kind() as selector:
            for registered in (False, True):
                if registered:
                    selector.register(a, selectors.EVENT_READ)
                for seconds in (0.0004, 0.0101, 0.02):
                    begin = time.monotonic()
                    assert await to_greenlet(selector.select, seconds) == []
                    assert seconds <= time.monotonic() - begin < 5

    arun(main)


@pytest.mark.parametrize("wait", [float("nan"), float("inf"), 1e300, 1e10, "x", object()], ids=repr)
def test_timeouts_are_judged_natively(patched: None, kind: Any, wait: Any) -> None:
    def outcome(select: Any) -> Any:
        try:
            return select(wait)
        except Exception as error:
            return type(error), str(error)

    with kind() as selector:
        native = outcome(selector.select)
        assert asyncio.run(to_greenlet(outcome, selector.select)) == native


def test_native_threads_and_loops_use_the_native_method(patched: None, kind: Any) -> None:
    with pairs(1) as [(a, b)], kind() as selector:
        selector.register(a, selectors.EVENT_READ, "a")
        assert selector.select(0.01) == []
        threading.Timer(0.01, b.send, (b"x",)).start()
        assert found(selector.select()) == {"a": selectors.EVENT_READ}


def test_selector_made_before_the_patch_and_a_subclass(arun: Any, kind: Any) -> None:
    class Mine(kind):  # type: ignore[misc]
        pass

    async def main() -> None:
        with pairs(1) as [(a, b)], kind() as early, Mine() as mine:
            for selector in (early, mine):
                selector.register(a, selectors.EVENT_READ, "a")
            with monkey.patched():
                for selector in (early, mine):
                    task = await parked_call(selector.select)
                    b.send(b"x")
                    assert found(await task) == {"a": selectors.EVENT_READ}
                    a.recv(1)
                with kind() as late:
                    assert type(late) is kind

    arun(main)
    assert "select" not in vars(Mine)


def test_unpatched_while_parked(arun: Any, kind: Any) -> None:
    async def main() -> None:
        with pairs(1) as [(a, b)], kind() as selector:
            selector.register(a, selectors.EVENT_READ, "a")
            with monkey.patched():
                task = await parked_call(selector.select)
            b.send(b"x")
            assert found(await task) == {"a": selectors.EVENT_READ}
            assert found(selector.select()) == {"a": selectors.EVENT_READ}

    arun(main)


def test_cancelled(arun: Any, patched: None, kind: Any) -> None:
    async def main() -> None:
        with pairs(2) as [(a, b), (c, _)], kind() as selector:
            selector.register(a, selectors.EVENT_READ, "a")
            selector.register(c, selectors.EVENT_READ, "c")
            await to_greenlet(selector.select, 0.001)
            before = len(os.listdir("/proc/self/fd"))
            task = await parked_call(selector.select)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert len(os.listdir("/proc/self/fd")) == before
            b.send(b"x")
            assert found(await to_greenlet(selector.select)) == {"a": selectors.EVENT_READ}

    arun(main)


def test_two_greenlets_on_one_selector(arun: Any, patched: None, kind: Any) -> None:
    async def main() -> None:
        with pairs(2) as [(a, b), (c, _)], kind() as selector:
            selector.register(a, selectors.EVENT_READ, "a")
            selector.register(c, selectors.EVENT_READ, "c")
            tasks = [await parked_call(selector.select) for _ in range(2)]
            b.send(b"x")
            assert [found(ready) for ready in await asyncio.gather(*tasks)] == [{"a": selectors.EVENT_READ}] * 2

    arun(main)


@pytest.mark.skipif(not hasattr(selectors, "EpollSelector"), reason="this platform has no epoll")
def test_epoll_selector_closed_under_the_waiter(arun: Any, patched: None) -> None:
    async def main() -> None:
        selector = selectors.EpollSelector()
        task = await parked_call(selector.select)
        selector.close()
        selector.close()
        with pytest.raises(OSError) as caught:
            await task
        assert caught.value.errno == errno.EBADF
        with pytest.raises(ValueError, match="closed epoll"):
            await to_greenlet(selector.select, 0)

    arun(main)


@pytest.mark.skipif(not hasattr(selectors, "EpollSelector"), reason="this platform has no epoll")
def test_dropped_epoll_selectors_leave_their_numbers_usable(arun: Any, patched: None) -> None:
    def drop(fd: int) -> int:
        selector = selectors.EpollSelector()
        selector.register(fd, selectors.EVENT_READ)
        assert selector.select(0.001) == []
        return selector.fileno()

    async def main() -> None:
        with pairs(1) as [(a, b)]:
            await to_greenlet(drop, a.fileno())  # the first park opens the host's own descriptor
            gc.collect()
            number = await to_greenlet(drop, a.fileno())
            gc.collect()
            selector = selectors.EpollSelector()
            assert selector.fileno() == number
            selector.register(a, selectors.EVENT_READ, "a")
            task = await parked_call(selector.select)
            b.send(b"x")
            assert found(await task) == {"a": selectors.EVENT_READ}
            selector.close()

    arun(main)


def test_number_that_was_closed_in_c_and_used_again(arun: Any, patched: None, kind: Any) -> None:
    """Popen.communicate does so: its pipes are files, which C closes, and the next child's have the same numbers."""

    def talk(word: bytes) -> bytes:
        code = "import sys, time; data = sys.stdin.read(); time.sleep(0.02); print(data.upper(), end='')"
        command = [sys.executable, "-S", "-c", code]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
        )
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        with process, kind() as selector:
            process.stdin.write(word)
            process.stdin.close()
            selector.register(process.stdout, selectors.EVENT_READ, "out")
            selector.register(process.stderr, selectors.EVENT_READ, "err")
            answer = b""
            while selector.get_map():
                for key, _ in selector.select():
                    data = os.read(key.fd, 100)
                    if not data:
                        selector.unregister(key.fileobj)
                        key.fileobj.close()  # type: ignore[union-attr]
                    answer += data
        return answer

    async def main() -> None:
        for word in (b"one", b"two", b"three"):
            assert await to_greenlet(talk, word) == word.upper()

    arun(main)


def test_a_busy_selector_lets_others_have_a_turn(arun: Any, patched: None, kind: Any) -> None:
    async def main() -> None:
        over = False

        def stop() -> None:
            nonlocal over
            over = True

        def spin(selector: Any, wait: float | None) -> None:
            while not over:
                selector.select(wait)

        with pairs(1) as [(a, b)], kind() as selector:
            selector.register(a, selectors.EVENT_READ)
            b.send(b"x")
            for wait in (0, None, 5):
                over = False
                asyncio.get_running_loop().call_soon(stop)
                await to_greenlet(spin, selector, wait)

    arun(main)
