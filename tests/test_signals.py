"""Waiting for signals: `signal.sigwait`, `sigwaitinfo`, `sigtimedwait`, `pause`; and signals during other waits."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import signal
import sys
import threading
import time

import pytest

from greenio import monkey, timeout, to_greenlet
from greenio._core import current_green
from greenio._patches import _signal
from greenio._patches._socket_state import TURN
from waiting import until, until_parked

pytestmark = pytest.mark.usefixtures("patched")

USR1, USR2, RT = signal.SIGUSR1, signal.SIGUSR2, signal.SIGRTMIN + 3
NAMES = ["sigwait", "sigwaitinfo", "sigtimedwait", "pause"]


def send(signum):
    """Send a signal to this very thread: one for the process might go to a thread of the test runner's."""
    signal.pthread_kill(threading.get_ident(), signum)


def number(answer):
    return getattr(answer, "si_signo", answer)


@pytest.fixture(autouse=True)
def as_before():
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    handlers = {signum: signal.getsignal(signum) for signum in (USR1, USR2, RT)}
    yield
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask
    assert {signum: signal.getsignal(signum) for signum in handlers} == handlers
    assert signal.set_wakeup_fd(-1) == -1
    assert not _signal._catchers


@pytest.fixture
def blocked():
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [USR1, USR2, RT])
    yield
    while signal.sigpending():
        monkey.original("signal", "sigwait")(signal.sigpending())
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@pytest.fixture(params=["signalfd", "no signalfd"])
def platform(request, monkeypatch):
    if request.param == "no signalfd":
        monkeypatch.setattr(_signal, "open_signalfd", lambda signals: None)


WAITS = {
    "sigwait": lambda signals: signal.sigwait(signals),
    "sigwaitinfo": lambda signals: signal.sigwaitinfo(signals),
    "sigtimedwait": lambda signals: signal.sigtimedwait(signals, 30),
}


@pytest.fixture(params=WAITS)
def wait(request):
    return WAITS[request.param]


@pytest.mark.usefixtures("blocked", "platform")
class TestBlocked:
    def test_cancelled_where_it_takes_a_turn(self, arun, wait):
        """A green that never has to wait yields now and then, before it takes anything."""

        async def main():
            started = []

            def work():
                current_green().operations = TURN
                send(RT)
                started.append(True)
                wait({RT})

            task = asyncio.create_task(to_greenlet(work))
            while not started:
                await asyncio.sleep(0)
            assert not task.done()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert RT in signal.sigpending()

        arun(main)

    @pytest.mark.parametrize("signum", [USR1, RT])
    def test_parks_until_it_comes(self, arun, wait, signum):
        async def main():
            task = asyncio.create_task(to_greenlet(wait, {signum, USR2}))
            await until_parked()
            send(signum)
            answer = await asyncio.wait_for(task, 20)
            assert number(answer) == signum
            if answer is not number(answer):
                assert answer.si_pid == os.getpid()

        arun(main)

    def test_pending_already(self, arun, wait):
        async def main():
            send(USR1)
            assert number(await to_greenlet(wait, iter([USR1]))) == USR1
            assert not signal.sigpending()

        arun(main)

    def test_others_are_left_pending(self, arun, wait):
        async def main():
            send(USR2)
            task = asyncio.create_task(to_greenlet(wait, [USR1]))
            await until_parked()
            send(USR1)
            assert number(await asyncio.wait_for(task, 20)) == USR1
            assert signal.sigpending() == {USR2}
            assert await to_greenlet(signal.sigwait, [USR2]) is USR2

        arun(main)

    def test_cancelled_takes_nothing(self, arun, wait):
        async def main():
            task = asyncio.create_task(to_greenlet(wait, [USR1]))
            await until_parked()
            task.cancel()
            send(USR1)
            with pytest.raises(asyncio.CancelledError):
                await task
            assert signal.sigpending() == {USR1}

        arun(main)

    def test_cancelled_at_every_turn(self, arun, wait):
        async def main():
            taken = 0
            for turns in range(12):
                task = asyncio.create_task(to_greenlet(wait, [USR1]))
                await until_parked()
                send(USR1)
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                try:
                    taken += number(await task) == USR1
                except asyncio.CancelledError:
                    assert signal.sigpending() == {USR1}
                    assert signal.sigwait([USR1]) is USR1
                assert not signal.sigpending()
            assert taken < 12

        arun(main)

    def test_one_signal_is_one_waiters(self, arun, wait):
        async def main():
            tasks = [asyncio.create_task(to_greenlet(wait, [USR1])) for _ in range(3)]
            await until_parked(3)
            for count in range(1, 4):
                send(USR1)
                await until(lambda: sum(task.done() for task in tasks) == count)
                assert not signal.sigpending()
            assert [number(task.result()) for task in tasks] == [USR1] * 3

        arun(main)

    def test_timeout(self, arun):
        async def main():
            begun = time.monotonic()
            assert await to_greenlet(signal.sigtimedwait, [USR1], 0.03) is None
            assert 0.03 <= time.monotonic() - begun < 10
            assert await to_greenlet(signal.sigtimedwait, [USR1], 0) is None
            assert await to_greenlet(signal.sigtimedwait, [], 0.001) is None

        arun(main)

    def test_block_with_a_limit(self, arun, wait):
        def limited():
            with timeout(0.01):
                wait([USR1])

        async def main():
            with pytest.raises(TimeoutError):
                await to_greenlet(limited)

        arun(main)

    def test_in_a_loop_of_green_code(self, arun, wait):
        async def inner():
            task = asyncio.create_task(to_greenlet(wait, [USR1]))
            await until_parked()
            send(USR1)
            return await task

        async def main():
            assert number(await to_greenlet(asyncio.run, inner())) == USR1

        arun(main)

    def test_in_another_thread(self, loop_kind, arun, wait):
        async def main():
            task = asyncio.create_task(to_greenlet(wait, [USR1]))
            await until_parked()
            signal.pthread_kill(threading.get_ident(), USR1)
            return number(await asyncio.wait_for(task, 20))

        answers = []
        thread = threading.Thread(target=lambda: answers.append(arun(main)))
        thread.start()
        thread.join()
        assert answers == [USR1]
        assert not signal.sigpending()


class TestFree:
    """Signals that are not blocked, as careless programs wait for them."""

    def test_caught(self, arun, wait):
        async def main():
            for _ in range(2):
                task = asyncio.create_task(to_greenlet(wait, [USR1, USR2]))
                await until_parked()
                send(USR2)
                assert number(await asyncio.wait_for(task, 20)) == USR2
                assert signal.getsignal(USR2) == signal.SIG_DFL

        arun(main)

    def test_one_signal_is_one_waiters(self, arun, wait):
        async def main():
            tasks = [asyncio.create_task(to_greenlet(wait, [USR1])) for _ in range(3)]
            await until_parked(3)
            for count in range(1, 4):
                send(USR1)
                await until(lambda: sum(task.done() for task in tasks) == count)
            assert [task.done() for task in tasks] == [True] * 3

        arun(main)

    def test_what_comes_too_late_goes_where_it_would_have_gone(self, arun, wait):
        seen = []
        before = signal.signal(USR1, lambda signum, frame: seen.append(signum))

        async def main():
            task = asyncio.create_task(to_greenlet(wait, [USR1]))
            await until_parked()
            task.cancel()
            send(USR1)
            with pytest.raises(asyncio.CancelledError):
                await task
            assert seen == [USR1]

        try:
            arun(main)
        finally:
            signal.signal(USR1, before)

    def test_timeout(self, arun):
        async def main():
            assert await to_greenlet(signal.sigtimedwait, [USR1], 0.01) is None

        arun(main)


WRONG_SETS = [[0], [65], ["a"], 3, [1.5], [10**40], None]
WRONG_TIMES = [-1, -0.5, float("nan"), float("inf"), 1e300, 2**63, 9.3e9, "1", None]


def outcome(fn, *args):
    try:
        return fn(*args)
    except Exception as error:
        return type(error), str(error)


def test_what_is_wrong_raises_as_natively(arun, blocked):
    calls = [(name, signals) for name in ("sigwait", "sigwaitinfo") for signals in WRONG_SETS]
    calls += [("sigtimedwait", signals, 0.001) for signals in WRONG_SETS]
    calls += [("sigtimedwait", [USR1], limit) for limit in WRONG_TIMES]
    native = [outcome(monkey.original("signal", name), *args) for name, *args in calls]
    green = arun(lambda: to_greenlet(lambda: [outcome(getattr(signal, name), *args) for name, *args in calls]))
    assert green == native
    assert all(isinstance(found, tuple) for found in native)


@pytest.mark.parametrize("name", NAMES)
def test_looks_as_natively(name):
    green, native = getattr(signal, name), monkey.original("signal", name)
    assert green is not native
    assert inspect.signature(green) == inspect.signature(native)
    assert (green.__name__, green.__doc__) == (native.__name__, native.__doc__)


def test_native_callers(blocked):
    send(USR1)
    assert signal.sigwait([USR1]) is USR1
    send(USR1)
    assert signal.sigwaitinfo([USR1]).si_signo == USR1
    assert signal.sigtimedwait([USR1], 0.001) is None


class TestPause:
    @pytest.fixture(autouse=True)
    def handled(self):
        self.seen = []
        before = signal.signal(USR1, lambda signum, frame: self.seen.append(signum))
        yield
        signal.signal(USR1, before)

    def test_until_a_handler_has_run(self, arun):
        def pause():
            answer = signal.pause()
            return answer, list(self.seen)

        async def main():
            tasks = [asyncio.create_task(to_greenlet(pause)) for _ in range(2)]
            await until_parked(2)
            await asyncio.sleep(0.01)
            assert not any(task.done() for task in tasks)
            send(USR1)
            assert await asyncio.wait_for(asyncio.gather(*tasks), 20) == [(None, [USR1])] * 2

        arun(main)

    def test_again_and_again(self, arun):
        def pauses():
            for count in range(1, 4):
                signal.pause()
                assert len(self.seen) == count

        async def main():
            task = asyncio.create_task(to_greenlet(pauses))
            for count in range(1, 4):
                await until_parked()
                send(USR1)
                await until(lambda: len(self.seen) == count)
                await asyncio.sleep(0.005)
            await asyncio.wait_for(task, 20)

        arun(main)

    def test_beside_handlers_of_the_loop(self, arun):
        async def main():
            loop, told = asyncio.get_running_loop(), []
            loop.add_signal_handler(USR2, told.append, 1)
            task = asyncio.create_task(to_greenlet(signal.pause))
            await until_parked()
            send(USR2)
            await asyncio.wait_for(task, 20)
            await until(lambda: told == [1])
            send(USR2)
            await until(lambda: told == [1, 1])
            loop.remove_signal_handler(USR2)

        arun(main)

    def test_cancelled(self, arun):
        async def main():
            task = asyncio.create_task(to_greenlet(signal.pause))
            await until_parked()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            send(USR1)
            assert self.seen == [USR1]

        arun(main)

    def test_in_a_thread_no_handler_runs(self, arun):
        async def main():
            task = asyncio.create_task(to_greenlet(signal.pause))
            await until_parked()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        thread = threading.Thread(target=arun, args=(main,))
        thread.start()
        thread.join()

    def test_sleep_goes_on(self, arun):
        """What PEP 475 says of native calls: a handler that raises nothing shortens no wait."""

        def sleep():
            begun = time.monotonic()
            time.sleep(0.05)
            return time.monotonic() - begun

        async def main():
            task = asyncio.create_task(to_greenlet(sleep))
            await until_parked()
            send(USR1)
            assert await task >= 0.05
            assert self.seen == [USR1]

        arun(main)


@pytest.mark.parametrize("warns", [False, True])
def test_the_wakeup_descriptor_that_is_given_back_warns_as_before(arun, warns):
    """A flood of signals fills it; on CPython 3.11 a warning may wait for itself, and uvloop asks for none."""
    source, sink = os.pipe()
    os.set_blocking(sink, False)

    def body():
        other_source, other_sink = os.pipe()
        os.set_blocking(other_sink, False)
        assert signal.set_wakeup_fd(other_sink) == -1
        assert signal.set_wakeup_fd(-1) == other_sink
        os.close(other_source)
        os.close(other_sink)

    async def main():
        before = signal.set_wakeup_fd(sink, warn_on_full_buffer=warns)
        try:
            await to_greenlet(body)
            with contextlib.suppress(BlockingIOError):
                while True:
                    os.write(sink, bytes(4096))
            send(USR1)
        finally:
            signal.set_wakeup_fd(before, warn_on_full_buffer=False)

    told = []
    handler = signal.signal(USR1, lambda *_: None)
    hook, sys.unraisablehook = sys.unraisablehook, lambda unraisable: told.append(unraisable.exc_type)
    try:
        arun(main)
    finally:
        sys.unraisablehook = hook
        signal.signal(USR1, handler)
        os.close(source)
        os.close(sink)
    assert told == [BlockingIOError] * warns
