"""Signal handlers that raise: in green code, where it is parked, in a loop of its own, and where nobody can tell."""

from __future__ import annotations

import asyncio
import dis
import functools
import itertools
import os
import queue
import select
import signal
import socket
import sys
import threading
import time

import pytest

from conftest import finish, new_loop
from greenio import _original, await_, monkey, run, to_greenlet
from greenio._core import thread_state
from waiting import turns, until_parked


class Alarm(Exception):
    """What the handlers here raise."""


def ring(signum, frame):
    raise Alarm


@pytest.fixture(autouse=True)
def handlers_back():
    """Leave no handler behind."""
    before = signal.getsignal(signal.SIGUSR1)
    yield
    signal.signal(signal.SIGUSR1, before)


def kill():
    os.kill(os.getpid(), signal.SIGUSR1)


def sleep():
    time.sleep(60)


def receive():
    left, right = socket.socketpair()
    with left, right:
        left.settimeout(60)
        left.recv(1)


def acquire():
    lock = threading.Lock()
    lock.acquire()
    try:
        lock.acquire(timeout=60)
    finally:
        assert lock.locked()
        lock.release()


def wait():
    condition = threading.Condition()
    with condition:
        try:
            condition.wait(60)
        finally:
            assert condition._is_owned()
            assert not condition._waiters


def get():
    queue.Queue().get(timeout=60)


def get_simple():
    queue.SimpleQueue().get(timeout=60)


def poll():
    left, right = socket.socketpair()
    with left, right:
        select.select([left], [], [], 60)


def run_loop():
    asyncio.run(asyncio.sleep(60))


def join():
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    try:
        thread.join(60)
    finally:
        end.set()
        thread.join()


IN_A_TASK = pytest.mark.native_tasks("a task that has the thread is green there, and interrupted itself")
WAITS = [sleep, receive, acquire, wait, get, get_simple, poll, run_loop, join]


def interrupted(wait):
    signal.signal(signal.SIGUSR1, ring)
    with pytest.raises(Alarm):
        wait()
    time.sleep(0.001)  # and the green parks and wakes as before
    return "went on"


@pytest.mark.parametrize("wait", WAITS)
@pytest.mark.parametrize("where", ["thread", "callback", pytest.param("task", marks=IN_A_TASK)])
def test_what_a_handler_raises_reaches_the_green_that_is_parked(arun, patched, wait, where):
    async def main():
        task = asyncio.ensure_future(to_greenlet(interrupted, wait))
        await until_parked()
        loop = asyncio.get_running_loop()
        if where == "task":
            kill()
        elif where == "callback":
            loop.call_soon(kill)
        else:  # the loop sleeps
            loop.call_soon(loop.run_in_executor, None, kill)
        return await asyncio.wait_for(task, 20)

    assert arun(main) == "went on"


def test_nothing_waits_for_what_was_interrupted(arun, patched):
    left, right = socket.socketpair()

    def body():
        signal.signal(signal.SIGUSR1, ring)
        with pytest.raises(Alarm):
            left.recv(1)
        right.send(b"x")
        return left.recv(1)

    async def main():
        task = asyncio.ensure_future(to_greenlet(body))
        await until_parked()
        asyncio.get_running_loop().call_soon(kill)
        return await asyncio.wait_for(task, 20)

    with left, right:
        assert arun(main) == b"x"


@pytest.mark.parametrize("wait", [sleep, receive, acquire, get])
def test_a_handler_is_given_the_frame_that_is_parked(arun, patched, wait):
    """That of the code which waits, natively; not the loop's, nor greenio's."""
    seen = []

    def see(signum, frame):
        seen.append(frame.f_code.co_name)
        raise Alarm

    def body():
        signal.signal(signal.SIGUSR1, see)
        with pytest.raises(Alarm):
            wait()

    async def main():
        task = asyncio.ensure_future(to_greenlet(body))
        await until_parked()
        threading.Timer(0.05, kill).start()
        await task

    arun(main)
    assert seen == [wait.__name__]


def test_a_handler_that_returns_interrupts_nothing(arun, patched):
    rung = []

    def body():
        signal.signal(signal.SIGUSR1, lambda *_: rung.append(1))
        start = time.monotonic()
        time.sleep(0.1)
        return time.monotonic() - start

    async def main():
        task = asyncio.ensure_future(to_greenlet(body))
        await until_parked()
        kill()
        return await task

    assert arun(main) >= 0.1
    assert rung == [1]


def test_green_code_that_has_the_thread_is_interrupted_where_it_is(arun, patched):
    def body():
        signal.signal(signal.SIGUSR1, ring)
        with pytest.raises(Alarm):
            kill()

    arun(lambda: to_greenlet(body))


def test_a_call_that_a_waker_has_claimed_gets_it_at_its_next_park(arun, patched):
    lock = threading.Lock()
    lock.acquire()

    def body():
        signal.signal(signal.SIGUSR1, ring)
        lock.acquire()
        with pytest.raises(Alarm):
            time.sleep(60)
        return "interrupted"

    def release_and_kill():
        lock.release()
        kill()

    async def main():
        task = asyncio.ensure_future(to_greenlet(body))
        await until_parked()
        asyncio.get_running_loop().call_soon(release_and_kill)
        return await asyncio.wait_for(task, 20)

    assert arun(main) == "interrupted"


def outcome(loop, main):
    """Run `main`, and tell where the loop's exceptions went: out of it, or to its handler."""
    caught = []
    loop.set_exception_handler(lambda _, context: caught.append(type(context["exception"])))
    try:
        loop.run_until_complete(main())
    except Alarm as error:
        caught.append(type(error))
    return caught


def test_a_call_that_has_ended_meanwhile_leaves_it_to_the_loop(loop_kind, patched):
    lock = threading.Lock()
    lock.acquire()

    def body():
        signal.signal(signal.SIGUSR1, ring)
        lock.acquire()

    async def main():
        task = asyncio.ensure_future(to_greenlet(body))
        await until_parked()
        lock.release()
        kill()
        await task
        await turns()

    loop = new_loop(loop_kind)
    try:
        assert outcome(loop, main) == [Alarm]
    finally:
        finish(loop)


def test_where_several_are_parked_the_loop_gets_it(loop_kind, patched):
    ended = []

    def body():
        signal.signal(signal.SIGUSR1, ring)
        try:
            time.sleep(0.2)
        finally:
            ended.append(sys.exc_info()[0])

    async def main():
        both = [asyncio.ensure_future(to_greenlet(body)) for _ in range(2)]
        await until_parked(2)
        asyncio.get_running_loop().call_soon(kill)
        await asyncio.gather(*both)

    loop = new_loop(loop_kind)
    try:
        assert outcome(loop, main) == [Alarm]
    finally:
        finish(loop)
    assert Alarm not in ended
    assert len(ended) == 2


@pytest.mark.native_tasks("a green task for each is one more")
@pytest.mark.parametrize("by", ["arun", "run"])
def test_what_native_code_has_set_reaches_the_green_if_the_loop_does_nothing_else(arun, by, loop_kind):
    """A handler of the module's, as it is written for a program that waits in one place."""

    def body():
        with pytest.raises(Alarm):
            time.sleep(60)
        time.sleep(0.001)
        return "went on"

    async def main():
        threading.Timer(0.05, kill).start()
        return await to_greenlet(body)

    with monkey.patched():
        signal.signal(signal.SIGUSR1, ring)
        assert signal.getsignal(signal.SIGUSR1) is ring
        if by == "arun":
            assert arun(main) == "went on"
        else:
            threading.Timer(0.05, kill).start()
            assert run(body, loop_factory=lambda: new_loop(loop_kind)) == "went on"
    assert signal.getsignal(signal.SIGUSR1) is ring


def test_what_is_set_again_as_the_interpreter_knows_it(patched):
    """A library that bound `signal.getsignal` before the patch."""
    signal.signal(signal.SIGUSR1, ring)
    signal.signal(signal.SIGUSR1, _original.getsignal(signal.SIGUSR1))
    assert signal.getsignal(signal.SIGUSR1) is ring


def test_what_native_code_has_set_is_not_for_a_loop_that_does_not_run(loop_kind, patched):
    still, loop = new_loop(loop_kind), new_loop(loop_kind)
    signal.signal(signal.SIGUSR1, ring)

    async def begin():
        waiting = asyncio.ensure_future(to_greenlet(time.sleep, 0.2))
        await until_parked()
        return waiting

    waiting = still.run_until_complete(begin())

    async def main():
        threading.Timer(0.05, kill).start()
        await asyncio.sleep(0.1)

    try:
        assert outcome(loop, main) == [Alarm]
        still.run_until_complete(waiting)
    finally:
        finish(loop)
        finish(still)


@pytest.mark.native_tasks("code of a task is green there, and interrupted itself")
def test_what_native_code_has_set_comes_out_of_native_code_that_holds_the_thread(arun, patched):
    """As natively: the time limit of a test, say, which ends a callback that would never return."""
    signal.signal(signal.SIGUSR1, ring)
    interrupted = []

    def hold():
        with pytest.raises(Alarm):
            _original.sleep(60)
        interrupted.append(True)

    async def main():
        asyncio.get_running_loop().call_later(0.01, hold)
        threading.Timer(0.05, kill).start()
        await to_greenlet(time.sleep, 0.2)

    arun(main)
    assert interrupted


def test_what_native_code_has_set_is_the_loops_if_that_has_another_task(loop_kind, patched):
    signal.signal(signal.SIGUSR1, ring)

    async def main():
        task = asyncio.ensure_future(to_greenlet(time.sleep, 0.1))
        await until_parked()
        asyncio.get_running_loop().call_soon(kill)
        await task

    loop = new_loop(loop_kind)
    try:
        assert outcome(loop, main) == [Alarm]
    finally:
        finish(loop)


def test_handlers_of_the_interpreter_and_of_asyncio_are_left_alone(patched):
    async def main():
        return _original.getsignal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        assert _original.getsignal(signal.SIGINT) is signal.default_int_handler
        handler = asyncio.run(main())
        assert getattr(handler, "func", handler).__module__ in ("asyncio.runners", "_signal")
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_await_leaves_it_to_the_loop_while_the_task_stands_for_the_green(loop_kind, patched):
    def body():
        signal.signal(signal.SIGUSR1, ring)
        try:
            await_(asyncio.sleep(0.1))
        except Alarm:
            return "interrupted"
        return "went on"

    results = []

    async def main():
        task = asyncio.ensure_future(to_greenlet(body))
        await turns()
        asyncio.get_running_loop().call_soon(kill)
        results.append(await task)

    loop = new_loop(loop_kind)
    try:
        caught = outcome(loop, main)
    finally:
        finish(loop)
    # On CPython 3.10 greens see each wake-up themselves.
    assert (caught, results[:1]) in (([Alarm], []), ([Alarm], ["went on"]), ([], ["interrupted"]))
    assert results[:1] != ["interrupted"] or sys.version_info < (3, 11)


def test_handlers_are_shown_as_they_were_given(arun, patched):
    def body():
        before = signal.signal(signal.SIGUSR1, ring)
        assert signal.getsignal(signal.SIGUSR1) is ring
        assert signal.signal(signal.SIGUSR1, before) is ring
        assert signal.getsignal(signal.SIGUSR1) == before
        signal.signal(signal.SIGUSR1, ring)

    arun(lambda: to_greenlet(body))
    assert signal.getsignal(signal.SIGUSR1) is ring


def test_wrong_arguments_are_refused_as_ever(arun, patched):
    def body():
        for wrong in ((signal.SIGUSR1, None), (signal.SIGUSR1, "ring"), ("SIGUSR1", ring), (signal.SIGUSR1,)):
            with pytest.raises(TypeError):
                signal.signal(*wrong)
        with pytest.raises(ValueError, match="signal number out of range"):
            signal.signal(4242, ring)
        with pytest.raises(ValueError, match="signal number out of range"):
            signal.getsignal(4242)

    arun(lambda: to_greenlet(body))


def test_the_handlers_themselves_are_left_when_unpatched(arun):
    monkey.patch_all()
    try:
        arun(lambda: to_greenlet(signal.signal, signal.SIGUSR1, ring))
    finally:
        monkey.unpatch_all()
    assert signal.getsignal(signal.SIGUSR1) is ring


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_is_interrupted_natively(arun, patched):
    def body():
        signal.signal(signal.SIGUSR1, ring)
        pid = os.fork()
        if not pid:
            try:
                kill()
            except Alarm:
                os._exit(3)
            os._exit(4)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert arun(lambda: to_greenlet(body)) == 3


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there are no timers here")
def test_a_handler_that_blocks_between_two_calls_of_a_greenlet(arun, patched):
    """A signal may come when a greenlet is taken from the pool or goes back, and has no call to park in."""
    seen, over = [], False

    def handler(*_):
        try:
            time.sleep(0)
            seen.append(None)
        except Exception as error:
            seen.append(error)
        if not over:
            signal.setitimer(signal.ITIMER_REAL, 0.0002)  # only now: on a busy machine they would pile up

    async def main():
        nonlocal over
        before = signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.0002)
        try:
            while len(seen) < 2000 and not any(seen):
                await asyncio.gather(*(to_greenlet(time.sleep, 0) for _ in range(1200)))
        finally:
            over = True
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert not any(seen)

    arun(main)


def at_each_look(at, interrupted, is_left_out):
    """Make a trace function that calls the handler of SIGUSR1 once, where the interpreter could do so in greenio.

    That is after a call, where a function begins, and where a loop goes back, from the first entry of a call on.

    Returns:
        It, and what tells how many such places there were.
    """
    seen, begun, last = 0, False, {}

    def handle(frame, event, _):
        nonlocal seen, begun
        code = frame.f_code
        if not str(frame.f_globals.get("__name__")).startswith("greenio.") or code.co_name in is_left_out:
            return None
        frame.f_trace_opcodes = True
        begun = begun or code.co_name == "_start"  # before, there is no green to get it
        if event == "opcode" and begun:
            before, last[frame] = last.get(frame, ""), dis.opname[code.co_code[frame.f_lasti]]
            seen += before.startswith(("CALL", "RESUME", "JUMP_BACK", "JUMP_ABS"))
            if seen == at:
                interrupted.add(code.co_name)
                sys.settrace(None)
                _original.getsignal(signal.SIGUSR1)(signal.SIGUSR1, frame)
        return handle

    return handle, lambda: seen


@pytest.mark.parametrize("loop_kind", ["asyncio", "uvloop"], indirect=True)
def test_what_a_handler_raises_wherever_it_may_come(arun, patched, loop_kind):
    """A call may be about to park for the first time, or be waiting, or be resumed: the green gets it, and goes on.

    So does the next call, which waits for the same number of a descriptor.
    """
    interrupted = set()

    def wait(left, about_to_receive):
        try:
            time.sleep(0.0005)
            about_to_receive()
            left.recv(1)
        except Alarm:
            time.sleep(0.0005)
            return True
        return False

    async def one(at):
        handle, seen = at_each_look(at, interrupted, {"worker", "finish"})  # before the function, and after it

        def stop():
            if seen() < at:
                sys.settrace(None)
                right.send(b"x")

        loop = asyncio.get_running_loop()
        left, right = socket.socketpair()
        with left, right:
            soon = functools.partial(loop.call_soon_threadsafe, loop.call_later, 0.002, stop)
            task = loop.create_task(to_greenlet(wait, left, soon))
            sys.settrace(handle)
            try:
                got_it = await asyncio.wait_for(task, 10)
            finally:
                sys.settrace(None)
        assert got_it == (at <= seen()), f"at {at} of {seen()}, in {interrupted}"
        return seen() < at

    async def main():
        await to_greenlet(signal.signal, signal.SIGUSR1, ring)
        await one(sys.maxsize)  # CPython 3.12 tells of instructions only from the second time on that somebody asks
        for at in itertools.count(1):
            if await one(at):
                break
            assert await one(sys.maxsize)
        assert interrupted >= {"to_greenlet", "_start", "resume", "wait", "_watch"}

    arun(main)


@pytest.mark.parametrize("loop_kind", ["asyncio", "uvloop"], indirect=True)
def test_what_a_handler_raises_as_a_call_begins_or_ends(arun, patched, loop_kind):
    """Somebody gets it: the function, who awaits the call, or the loop. The call ends, and so does the next one."""
    interrupted, at_loop = set(), []

    def sleep():
        try:
            time.sleep(0.0005)
        except Alarm:
            return "got it"
        return "done"

    async def one(at):
        handle, seen = at_each_look(at, interrupted, {"select"})  # in which the loop waits once the call has ended
        task = asyncio.get_running_loop().create_task(to_greenlet(sleep))
        at_loop.clear()
        pool = thread_state().idle
        others = pool[:]
        pool.clear()  # only a new one is traced from its beginning
        sys.settrace(handle)
        try:
            outcome = await asyncio.wait_for(task, 10)
        except Alarm:
            outcome = "raised"
        finally:
            sys.settrace(None)
        pool += others
        await turns()
        known = (outcome != "done") + len(at_loop)
        assert known == (at <= seen()), f"{outcome}, {at_loop} at {at} of {seen()}, in {interrupted}"
        return seen() < at

    async def main():
        asyncio.get_running_loop().set_exception_handler(lambda _, given: at_loop.append(given["exception"]))
        await to_greenlet(signal.signal, signal.SIGUSR1, ring)
        await one(sys.maxsize)  # CPython 3.12 tells of instructions only from the second time on that somebody asks
        for at in itertools.count(1):
            if await one(at):
                break
            assert await asyncio.gather(*(asyncio.wait_for(to_greenlet(sleep), 10) for _ in range(9))) == ["done"] * 9
        assert interrupted >= {"to_greenlet", "_start", "resume", "worker", "finish"}

    arun(main)
