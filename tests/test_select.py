"""`select.select`, `poll` and `epoll`: what they mean stays, how they wait changes."""

import asyncio
import contextlib
import copy
import errno
import functools
import gc
import os
import pickle
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from greenio import _core, _original, monkey, timeout, to_greenlet
from waiting import parked, until, until_parked


@contextlib.contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    r, w = os.pipe()
    try:
        yield r, w
    finally:
        for fd in (r, w):
            with contextlib.suppress(OSError):
                os.close(fd)


@contextlib.contextmanager
def tcp_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        a = socket.create_connection(server.getsockname())
        b, _ = server.accept()
    with a, b:
        yield a, b


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


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


# What each of the three does when something becomes ready.


def select_in(fd: int, wait: float | None) -> bool:
    return bool(select.select([fd], [], [], wait)[0])


def select_in_and_out(fd: int, wait: float | None) -> bool:
    return bool(select.select([fd], [], [fd], wait)[0])


def poll_in(fd: int, wait: float | None) -> bool:
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return poller.poll(None if wait is None else wait * 1000) == [(fd, select.POLLIN)]


def poll_in_and_pri(fd: int, wait: float | None) -> bool:
    poller = select.poll()
    poller.register(fd, select.POLLIN | select.POLLPRI)
    return poller.poll(None if wait is None else wait * 1000) == [(fd, select.POLLIN)]


def epoll_in(fd: int, wait: float | None) -> bool:
    with select.epoll() as poller:
        poller.register(fd, select.EPOLLIN)
        return poller.poll(wait) == [(fd, select.EPOLLIN)]


WAYS = [select_in, select_in_and_out, poll_in, poll_in_and_pri, epoll_in]


@pytest.mark.parametrize("way", WAYS)
def test_parks_until_ready(arun: Any, patched: None, way: Any) -> None:
    async def main() -> None:
        with pipe() as (r, w):
            for _ in range(3):
                task = await parked_call(way, r, None)
                os.write(w, b"x")
                assert await task
                assert os.read(r, 10) == b"x"

    arun(main)


@pytest.mark.parametrize("way", WAYS)
def test_ready_at_once_does_not_park(arun: Any, patched: None, way: Any) -> None:
    async def main() -> None:
        turns = 0

        def turn() -> None:
            nonlocal turns
            turns += 1

        with pipe() as (r, w):
            os.write(w, b"x")
            asyncio.get_running_loop().call_soon(turn)
            assert await to_greenlet(afresh, way, r, None)
            assert not turns

    arun(main)


@pytest.mark.parametrize("way", WAYS)
def test_zero_does_not_park(arun: Any, patched: None, way: Any) -> None:
    async def main() -> None:
        turns = 0

        def turn() -> None:
            nonlocal turns
            turns += 1

        with pipe() as (r, _):
            asyncio.get_running_loop().call_soon(turn)
            assert not await to_greenlet(afresh, way, r, 0)
            assert not turns

    arun(main)


@pytest.mark.parametrize("way", WAYS)
def test_timeout_is_never_early(arun: Any, patched: None, way: Any) -> None:
    async def main() -> None:
        with pipe() as (r, _):
            for seconds in (0.0101, 0.03):
                begin = time.monotonic()
                assert not await to_greenlet(way, r, seconds)
                assert seconds <= time.monotonic() - begin < 5

    arun(main)


@pytest.mark.parametrize("way", WAYS)
def test_cancelled_wait_leaves_nothing_open(arun: Any, patched: None, way: Any) -> None:
    async def main() -> None:
        with pipe() as (r, w):
            await to_greenlet(way, r, 0.001)  # the first park opens the host's own descriptor
            before = descriptors()
            task = await parked_call(way, r, None)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            gc.collect()
            assert descriptors() == before
            task = await parked_call(way, r, None)
            os.write(w, b"x")
            assert await task

    arun(main)


@pytest.mark.parametrize("way", WAYS)
def test_under_a_green_timeout(arun: Any, patched: None, way: Any) -> None:
    def limited(fd: int) -> None:
        with timeout(0.01):
            way(fd, None)

    async def main() -> None:
        with pipe() as (r, _):
            with pytest.raises(TimeoutError):
                await to_greenlet(limited, r)

    arun(main)


@pytest.mark.parametrize("way", WAYS)
def test_many_wait_for_one_descriptor(arun: Any, patched: None, way: Any) -> None:
    async def main() -> None:
        with pipe() as (r, w):
            tasks = [asyncio.create_task(to_greenlet(way, r, None)) for _ in range(5)]
            await until_parked(5)
            os.write(w, b"x")
            assert all(await asyncio.gather(*tasks))

    arun(main)


@pytest.mark.parametrize("way", WAYS)
def test_native_calls_block_the_caller(patched: None, way: Any) -> None:
    with pipe() as (r, w):
        begin = time.monotonic()
        assert not way(r, 0.02)
        assert time.monotonic() - begin >= 0.02
        threading.Timer(0.02, os.write, (w, b"x")).start()
        assert way(r, None)


@pytest.mark.parametrize("way", WAYS)
def test_number_that_was_closed_in_c_and_used_again(arun: Any, patched: None, way: Any) -> None:
    async def main() -> None:
        with pipe() as (r, w):
            assert not await to_greenlet(way, r, 0.001)
            other, other_w = os.pipe()
            _original.close(r)  # what a C library does
            os.dup2(other, r)
            _original.close(other)
            try:
                task = await parked_call(way, r, None)
                os.write(other_w, b"x")
                assert await task
            finally:
                os.close(other_w)

    arun(main)


def test_urgent_data(arun: Any, patched: None) -> None:
    def by_select(b: socket.socket) -> Any:
        return select.select([], [], [b]) == ([], [], [b])

    def by_poll(b: socket.socket) -> Any:
        poller = select.poll()
        poller.register(b, select.POLLPRI)
        return poller.poll() == [(b.fileno(), select.POLLPRI)]

    def by_epoll(b: socket.socket) -> Any:
        with select.epoll() as poller:
            poller.register(b, select.EPOLLPRI)
            return poller.poll() == [(b.fileno(), select.EPOLLPRI)]

    async def main() -> None:
        for way in (by_select, by_poll, by_epoll):
            with tcp_pair() as (a, b):
                task = await parked_call(way, b)
                a.send(b"x")  # in band: none of their business
                for _ in range(5):
                    await asyncio.sleep(0)
                assert not task.done()
                a.send(b"!", socket.MSG_OOB)
                assert await task

    arun(main)


def test_select_many_descriptors_both_directions(arun: Any, patched: None) -> None:
    async def main() -> None:
        with contextlib.ExitStack() as stack:
            pairs = [stack.enter_context(contextlib.closing(s)) for _ in range(10) for s in socket.socketpair()]
            left, right = pairs[::2], pairs[1::2]
            task = await parked_call(select.select, left, [], left)
            right[3].send(b"x")
            right[7].send(b"x")
            assert await task == ([left[3], left[7]], [], [])
            assert await to_greenlet(select.select, left, [left[0]], []) == ([left[3], left[7]], [left[0]], [])
            assert left[3].recv(1) + left[7].recv(1) == b"xx"
            full = left[0]
            full.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    full.send(bytes(4096))
            task = await parked_call(select.select, left, [full], [])
            right[0].setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while right[0].recv(65536):
                    pass
            assert await task == ([], [full], [])

    arun(main)


def test_select_regular_file(arun: Any, patched: None) -> None:
    async def main() -> None:
        with open(__file__) as file, pipe() as (r, _):
            assert await to_greenlet(select.select, [file, r], [], []) == ([file], [], [])
            begin = time.monotonic()
            assert await to_greenlet(select.select, [r], [], [file], 0.02) == ([], [], [])
            assert time.monotonic() - begin >= 0.02

    arun(main)


def test_poll_regular_file(arun: Any, patched: None) -> None:
    def both(file: Any, r: int) -> None:
        poller = select.poll()
        poller.register(file, select.POLLIN)
        poller.register(r)
        assert poller.poll() == [(file.fileno(), select.POLLIN)]
        poller.modify(file, select.POLLPRI)
        assert poller.poll(5) == []

    async def main() -> None:
        with open(__file__) as file, pipe() as (r, _):
            await to_greenlet(both, file, r)

    arun(main)


def test_select_and_poll_on_nothing_sleep(arun: Any, patched: None) -> None:
    async def main() -> None:
        begin = time.monotonic()
        assert await to_greenlet(select.select, [], [], [], 0.01) == ([], [], [])
        assert await to_greenlet(lambda: select.poll().poll(10)) == []
        assert await to_greenlet(lambda: select.epoll().poll(0.01)) == []
        assert time.monotonic() - begin >= 0.03
        for way in (lambda: select.select([], [], []), lambda: select.poll().poll(-1), lambda: select.epoll().poll(-1)):
            task = await parked_call(way)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    arun(main)


def test_hang_up_is_told_without_asking(arun: Any, patched: None) -> None:
    def wait(r: int) -> Any:
        poller = select.poll()
        poller.register(r, 0)
        return poller.poll()

    async def main() -> None:
        with pipe() as (r, w):
            task = await parked_call(wait, r)
            os.write(w, b"x")
            await asyncio.sleep(0)
            assert not task.done()
            os.close(w)
            assert await task == [(r, select.POLLHUP)]

    arun(main)


def test_hang_up_is_no_reason_to_spin(arun: Any, patched: None) -> None:
    calls = 0

    class Counted:
        def __init__(self, fd: int) -> None:
            self.fd = fd

        def fileno(self) -> int:
            nonlocal calls
            calls += 1
            return self.fd

    async def main() -> None:
        with pipe() as (r, w):
            os.close(w)
            # The reading end can never be written to, and reports a hang-up all the time.
            assert await to_greenlet(select.select, [], [Counted(r)], [], 0.05) == ([], [], [])
            assert calls < 10

    arun(main)


@pytest.mark.parametrize("way", [select_in, select_in_and_out, epoll_in])
def test_closed_under_the_waiter(arun: Any, patched: None, way: Any) -> None:
    async def main() -> None:
        with pipe() as (r, w):
            task = await parked_call(way, r, None)
            if way is epoll_in:
                task.cancel()  # an epoll does not tell that a descriptor in it was closed, and sleeps on, as natively
                with pytest.raises(asyncio.CancelledError):
                    await task
                return
            os.close(r)
            with pytest.raises(OSError) as caught:
                await task
            assert caught.value.errno == errno.EBADF

    arun(main)


@pytest.mark.parametrize("mask", [select.POLLIN, select.POLLIN | select.POLLPRI])
def test_poll_tells_of_a_closed_descriptor(arun: Any, patched: None, mask: int) -> None:
    def wait(r: int) -> Any:
        poller = select.poll()
        poller.register(r, mask)
        return poller.poll()

    async def main() -> None:
        with pipe() as (r, _):
            task = await parked_call(wait, r)
            os.close(r)
            assert await task == [(r, select.POLLNVAL)]

    arun(main)


def outcome(fn: Callable[[], Any]) -> Any:
    try:
        return fn()
    except Exception as error:
        return type(error), str(error)


class BadFileno:
    def fileno(self) -> Any:
        return "x"


WRONG_SELECTS: list[Any] = [
    (5, [], []),
    ([], [], 5),
    ([object()], [], []),
    ([BadFileno()], [], []),
    ([-1], [], []),
    ([100_000], [], []),
    ([63], [], []),
    ([], [], [], -1),
    ([], [], [], float("nan")),
    ([], [], [], float("inf")),
    ([], [], [], 1e300),
    ([], [], [], 1e10),
    ([], [], [], "x"),
    ([], []),
    ([], [], [], 1, 1),
]
WRONG_TIMEOUTS: list[Any] = [float("nan"), float("inf"), -float("inf"), 1e300, 1e10, "x", b"", object()]


@pytest.mark.parametrize("args", WRONG_SELECTS, ids=repr)
def test_select_errors_are_native(patched: None, args: Any) -> None:
    native = outcome(lambda: _original.select_select(*args))
    assert native[0] is not tuple
    assert outcome(lambda: select.select(*args)) == native or len(args) not in (3, 4)
    green = asyncio.run(to_greenlet(outcome, lambda: select.select(*args)))
    assert green[0] is native[0]
    if len(args) in (3, 4):
        assert green == native


@pytest.mark.parametrize("wait", WRONG_TIMEOUTS, ids=repr)
def test_timeouts_are_judged_natively(patched: None, wait: Any) -> None:
    with _original.epoll() as probe:
        native = outcome(lambda: probe.poll(wait))
    assert asyncio.run(to_greenlet(outcome, lambda: select.epoll().poll(wait))) == native
    native = outcome(lambda: _original.poll().poll(wait))
    assert asyncio.run(to_greenlet(outcome, lambda: select.poll().poll(wait))) == native


@pytest.mark.parametrize("wait", [2_147_483, True, 2_147_483.5])
def test_long_and_odd_timeouts_are_taken(arun: Any, patched: None, wait: float) -> None:
    async def main() -> None:
        with pipe() as (r, w):
            for way in WAYS:
                task = await parked_call(way, r, wait)
                os.write(w, b"x")
                assert await task
                os.read(r, 1)

    arun(main)


def test_epoll_and_poll_errors_are_native(arun: Any, patched: None) -> None:
    def check(kind: Any) -> list[Any]:
        found = []
        for args in [(-2,), ("x",), (1, 0, 0), (1, 5)]:
            found.append(outcome(functools.partial(kind, *args)) if kind is _original.epoll else None)
        poller = kind()
        with pipe() as (r, _):
            for name, args in [
                ("register", (-1,)), ("register", ("x",)), ("register", (r, 2**40)), ("register", (9_999,)),
                ("modify", (r, 1)), ("unregister", (r,)), ("poll", (0, 0)), ("poll", (0, -5)), ("register", ()),
            ]:  # fmt: skip
                found.append(
                    None
                    if kind is _original.poll and args == (9_999,)
                    else outcome(functools.partial(getattr(poller, name), *args))
                )
        return [item[0] if isinstance(item, tuple) else None for item in found]

    async def main() -> None:
        assert await to_greenlet(check, select.epoll) == [*[None] * 4, *check(_original.epoll)[4:]]
        assert await to_greenlet(check, select.poll) == check(_original.poll)
        for args in [(-2,), ("x",), (1, 5), (1, 0, 0)]:
            assert outcome(lambda: select.epoll(*args))[0] is outcome(lambda: _original.epoll(*args))[0]

    arun(main)


def test_two_polls_of_one_object(arun: Any, patched: None) -> None:
    async def main() -> None:
        poller = select.poll()
        with pipe() as (r, w):
            poller.register(r, select.POLLIN)
            task = await parked_call(poller.poll)
            with pytest.raises(RuntimeError, match="concurrent poll"):
                await to_greenlet(poller.poll, 0)
            with pytest.raises(RuntimeError, match="concurrent poll"):
                poller.poll(0)
            os.write(w, b"x")
            assert await task == [(r, select.POLLIN)]
            assert await to_greenlet(poller.poll) == [(r, select.POLLIN)]

    arun(main)


def test_poll_is_a_factory(patched: None) -> None:
    made = select.poll()
    assert repr(made).startswith("<select.poll object at ")
    with pytest.raises(TypeError, match="cannot create 'select.poll' instances"):
        type(made)()
    assert type(made).__name__ == type(_original.poll()).__name__
    with pytest.raises(TypeError):
        select.poll(1)  # type: ignore[call-arg]


# epoll as a type, and as a descriptor


def test_epoll_is_a_type(patched: None) -> None:
    made = select.epoll(sizehint=1, flags=select.EPOLL_CLOEXEC)
    with made as entered:
        assert entered is made
        assert type(made) is select.epoll
        assert isinstance(made, select.epoll)
        assert repr(made).startswith("<select.epoll object at ")
        assert not os.get_inheritable(made.fileno())
        assert not made.closed
    assert made.closed
    made.close()
    for use in (made.fileno, made.poll, made.__enter__, lambda: made.register(0, 1)):
        with pytest.raises(ValueError, match="I/O operation on closed epoll object"):
            use()
    with _original.epoll() as native:
        assert isinstance(native, select.epoll)
        assert issubclass(_original.epoll, select.epoll)
    assert not isinstance(3, select.epoll)
    with pytest.raises(TypeError, match="type 'select.epoll' is not an acceptable base type"):
        type("Mine", (select.epoll,), {})


def refusals(made: Any) -> list[Any]:
    """Tell how an object refuses to be copied and pickled."""
    found: list[Any] = []
    for take in (copy.copy, copy.deepcopy, pickle.dumps, functools.partial(pickle.dumps, protocol=0)):
        with pytest.raises((TypeError, pickle.PicklingError)) as caught:
            take(made)
        found.append((caught.type, caught.value.args))
    return found


@pytest.mark.parametrize("name", ["epoll", "poll", "kqueue"])
def test_no_copies(name: str) -> None:
    if not hasattr(select, name):
        pytest.skip(f"there is no {name} here")
    with contextlib.ExitStack() as stack:
        made = getattr(select, name)()
        stack.callback(getattr(made, "close", int))
        native = refusals(made)
        with monkey.patched():
            green = getattr(select, name)()
            stack.callback(getattr(green, "close", int))
            assert type(green) is not type(made)
            assert refusals(green) == native
            assert refusals(made) == native


def test_epoll_fromfd(arun: Any, patched: None) -> None:
    async def main() -> None:
        with pipe() as (r, w), select.epoll() as first:
            first.register(r, select.EPOLLIN)
            with select.epoll.fromfd(os.dup(first.fileno())) as second:
                task = await parked_call(second.poll)
                os.write(w, b"x")
                assert await task == [(r, select.EPOLLIN)]

    arun(main)


def test_epoll_flags(arun: Any, patched: None) -> None:
    async def main() -> None:
        with pipe() as (r, w), select.epoll() as poller:
            poller.register(r, select.EPOLLIN | select.EPOLLET)
            for _ in range(2):
                task = await parked_call(poller.poll)
                os.write(w, b"x")  # each an edge, though nothing is read
                assert await task == [(r, select.EPOLLIN)]
            assert await to_greenlet(poller.poll, 0.01) == []
            poller.modify(r, select.EPOLLIN | select.EPOLLONESHOT)
            assert await to_greenlet(poller.poll) == [(r, select.EPOLLIN)]
            task = await parked_call(poller.poll)
            os.write(w, b"x")
            for _ in range(5):
                await asyncio.sleep(0)
            assert not task.done()
            poller.modify(r, select.EPOLLIN)  # while the other is parked
            assert await task == [(r, select.EPOLLIN)]
            poller.unregister(r)
            poller.register(r, select.EPOLLIN | select.EPOLLEXCLUSIVE)
            assert await to_greenlet(poller.poll) == [(r, select.EPOLLIN)]
            poller.register(w)
            assert len(await to_greenlet(poller.poll, 1, 1)) == 1
            assert len(await to_greenlet(poller.poll, maxevents=10)) == 2

    arun(main)


def test_registered_while_parked(arun: Any, patched: None) -> None:
    async def main() -> None:
        with pipe() as (r, w), select.epoll() as poller:
            os.write(w, b"x")
            task = await parked_call(poller.poll)
            poller.register(r, select.EPOLLIN)
            assert await task == [(r, select.EPOLLIN)]

    arun(main)


def test_epoll_closed_under_the_waiter(arun: Any, patched: None) -> None:
    async def main() -> None:
        poller = select.epoll()
        task = await parked_call(poller.poll)
        poller.close()
        with pytest.raises(OSError) as caught:
            await task
        assert caught.value.errno == errno.EBADF

    arun(main)


def test_dropped_epoll_leaves_its_number_usable(arun: Any, patched: None) -> None:
    def wait(r: int) -> int:
        poller = select.epoll()
        poller.register(r, select.EPOLLIN)
        assert poller.poll(0.001) == []
        return poller.fileno()

    async def main() -> None:
        with pipe() as (r, w):
            number = await to_greenlet(wait, r)
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(number)
            os.dup2(r, number)
            try:
                task = await parked_call(select.select, [number], [], [])
                os.write(w, b"x")
                assert await task == ([number], [], [])
            finally:
                os.close(number)

    arun(main)


def test_epoll_in_epoll_in_select(arun: Any, patched: None) -> None:
    async def main() -> None:
        with pipe() as (r, w), select.epoll() as inner, select.epoll() as outer:
            inner.register(r, select.EPOLLIN)
            outer.register(inner, select.EPOLLIN)
            task = await parked_call(select.select, [outer], [], [])
            other = await parked_call(outer.poll)
            os.write(w, b"x")
            assert await task == ([outer], [], [])
            assert await other == [(inner.fileno(), select.EPOLLIN)]

    arun(main)


def test_beside_a_thread_and_a_reader(arun: Any, patched: None) -> None:
    async def main() -> None:
        a, b = socket.socketpair()
        with a, b:
            waits = await parked_call(select.select, [a], [], [])
            reads = asyncio.create_task(to_greenlet(a.recv, 10))
            thread = asyncio.create_task(asyncio.to_thread(select.select, [a, b], [], [b]))
            await until_parked(2)
            b.send(b"hello")
            done = await asyncio.gather(reads, waits, return_exceptions=True)
            assert done[0] == b"hello"
            a.send(b"to the thread")
            await thread
            if done[1] != ([a], [], []):
                raise AssertionError(done)

    arun(main)


def test_a_busy_poller_lets_others_have_a_turn(arun: Any, patched: None) -> None:
    async def main() -> None:
        over = False

        def stop() -> None:
            nonlocal over
            over = True

        def spin(way: Any, fd: int) -> None:
            while not over:
                way(fd, 0)

        with pipe() as (r, _):
            for way in WAYS:
                over = False
                asyncio.get_running_loop().call_soon(stop)
                await to_greenlet(spin, way, r)

    arun(main)


def test_select_takes_generators_and_changing_lists(arun: Any, patched: None) -> None:
    async def main() -> None:
        with pipe() as (r, w):
            task = await parked_call(select.select, (fd for fd in [r]), iter(()), ())
            os.write(w, b"x")
            assert await task == ([r], [], [])

        fds: list[Any] = []

        class Shrinks:
            def fileno(self) -> int:
                del fds[-1]
                return w

        with pipe() as (r, w):
            fds[:] = [Shrinks() for _ in range(10)]
            assert len((await to_greenlet(select.select, [], fds, []))[1]) == 5

    arun(main)


def test_patch_and_unpatch(arun: Any) -> None:
    async def main() -> None:
        with pipe() as (r, w):
            with monkey.patched("select"):
                assert select.epoll is not _original.epoll
                poller, poll = select.epoll(), select.poll()
                tasks = [await parked_call(poller.poll), asyncio.create_task(to_greenlet(poll.poll, 10))]
            assert select.epoll is _original.epoll
            assert select.poll is _original.poll
            assert select.select is _original.select_select
            poller.register(r, select.EPOLLIN)  # type: ignore[attr-defined]
            os.write(w, b"x")
            assert await asyncio.gather(*tasks) == [[(r, select.EPOLLIN)], []]
            assert poller.poll() == [(r, select.EPOLLIN)]
            poller.close()

    arun(main)


LIVE_OBJECTS = """
import select

class Polls: pass
class Epolls: pass

Polls.kept, Epolls.kept = Polls(), Epolls()
Polls.kept.early, Epolls.kept.early = select.poll(), select.epoll()

from greenio import monkey
monkey.patch_all()
late = select.poll(), select.epoll()
print(sorted((found.native, found.name) for found in monkey.report().unreachable if found.module == "__main__"))
"""


def test_live_objects_from_before_the_patch_are_reported() -> None:
    command = [sys.executable, "-c", LIVE_OBJECTS]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=50, check=True)
    assert answer.stdout.strip() == "[('select.epoll', 'Epolls.early'), ('select.poll', 'Polls.early')]"
