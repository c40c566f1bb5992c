"""Forks: the child is native, whatever was parked in the parent, and the parent goes on undisturbed."""

from __future__ import annotations

import asyncio
import atexit
import io
import logging
import multiprocessing
import os
import queue
import signal
import socket
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest

from greenio import _original, await_, in_greenlet, monkey, offload, run, spawn, to_greenlet
from greenio._core import thread_state
from greenio._sync import OldLock, PassableRLock
from waiting import parked, until_parked

if not hasattr(os, "fork"):
    pytest.skip("no fork here", allow_module_level=True)

pytestmark = [
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]

FAILED = 99


def fork(child):
    """Fork; in the child run `child` and leave by its result. In the parent, return the child's number."""
    number = os.fork()
    if number:
        return number
    code = FAILED
    try:
        code = child() or 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def exit_code(number):
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


async def code_of(number):
    """Wait for a child without holding the loop."""
    return await asyncio.to_thread(exit_code, number)


def bystander(log, pipe):
    """A greenlet that is parked in the parent: nothing of it may run in the child."""
    try:
        time.sleep(0.2)
    finally:
        log.append("bystander")
        os.write(pipe, b"finally\n")


async def with_bystanders(fork_now):
    """Fork beside parked greenlets of every kind; check that all of them end well in the parent, and only there."""
    read, write = os.pipe()
    left, right = socket.socketpair()
    log = []
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    with left, right:
        tasks = [
            asyncio.ensure_future(to_greenlet(bystander, log, write)),
            asyncio.ensure_future(to_greenlet(left.recv, 10)),
            asyncio.ensure_future(to_greenlet(await_, future)),
        ]
        await until_parked(3)
        code = await code_of(await fork_now())
        right.send(b"data")
        future.set_result("result")
        assert await asyncio.gather(*tasks) == [None, b"data", "result"]
        assert await to_greenlet(lambda: (time.sleep(0.001), "parks still")[1]) == "parks still"
    os.close(write)
    with open(read) as written:
        assert written.read() == "finally\n"
    assert log == ["bystander"]
    return code


def blocks():
    """In the child: nothing is green, blocking calls block, and they work."""
    assert not in_greenlet()
    assert asyncio._get_running_loop() is None
    assert sys.get_asyncgen_hooks() == (None, None)
    begin = time.monotonic()
    time.sleep(0.02)
    assert time.monotonic() - begin >= 0.0199
    left, right = socket.socketpair()
    with left, right:
        left.settimeout(0.01)
        with pytest.raises(TimeoutError):
            left.recv(1)
        left.settimeout(5)
        right.sendall(b"x" * 10)
        assert left.recv(100) == b"x" * 10
        left.settimeout(None)
        right.sendall(b"y")
        assert left.recv(100) == b"y"
    assert offload(divmod, 7, 2) == (3, 1)
    with pytest.raises(RuntimeError, match="outside a greenlet"):
        await_(asyncio.sleep(0))
    return 7


def runs_loops():
    """In the child: loops of its own, with greenlets of their own."""

    async def main():
        assert await to_greenlet(lambda: (time.sleep(0.001), await_(asyncio.sleep(0.001, "x")))[1]) == "x"
        left, right = socket.socketpair()
        with left, right:
            task = spawn(left.recv, 1)
            await asyncio.sleep(0.001)
            await to_greenlet(right.sendall, b"z")
            assert await task == b"z"
        return 5

    assert asyncio.run(main()) == 5
    assert run(lambda: (time.sleep(0.001), in_greenlet())[1])
    assert not in_greenlet()
    return 8


CHILDREN = [(blocks, 7), (runs_loops, 8)]


@pytest.mark.parametrize(("child", "code"), CHILDREN)
def test_fork_in_green_code(arun, patched, child, code):
    async def main():
        async def fork_now():
            return await to_greenlet(fork, child)

        assert await with_bystanders(fork_now) == code

    arun(main)


@pytest.mark.parametrize(("child", "code"), CHILDREN)
def test_fork_in_green_code_that_has_parked(arun, patched, child, code):
    async def main():
        def fn():
            time.sleep(0.001)
            await_(asyncio.sleep(0.001))
            return fork(child)

        async def fork_now():
            return await asyncio.ensure_future(to_greenlet(fn))

        assert await with_bystanders(fork_now) == code

    arun(main)


@pytest.mark.parametrize("before", [None, 0, 0.001])
def test_a_coroutine_in_a_green_forks_and_awaits_on(arun, before):
    """Nothing stands in the way of the child, if it means to go on with its copy of the loop."""

    async def main():
        loop = asyncio.get_running_loop()

        async def fork_and_await():
            if before is not None:
                await asyncio.sleep(before)
            number = os.fork()
            if number:
                return number
            code = FAILED
            try:
                for _ in range(3):
                    await asyncio.sleep(0)
                    future = loop.create_future()
                    loop.call_soon(future.set_result, 7)
                    code = await future
            finally:
                os._exit(code)

        assert await code_of(await to_greenlet(lambda: await_(fork_and_await()))) == 7

    arun(main)


def test_fork_in_the_loop(arun, patched):
    async def main():
        def child():
            assert not in_greenlet()
            time.sleep(0.01)
            return 7

        async def fork_now():
            return fork(child)

        assert await with_bystanders(fork_now) == 7

    arun(main)


@pytest.mark.parametrize("kind", ["call", "step"])
@pytest.mark.parametrize(("child", "code"), CHILDREN)
def test_fork_in_a_thread_while_a_new_green_runs(arun, patched, monkeypatch, kind, child, code):
    """It has never parked yet, and its thread is not there in the child."""
    failures = []

    def whole_child():
        code = child()
        return FAILED if failures else code

    async def main():
        begun, forked = _original.allocate_lock(), _original.allocate_lock()
        begun.acquire()
        forked.acquire()

        def runs():
            begun.release()
            assert forked.acquire(timeout=10)

        async def steps():
            runs()

        def fork_now():
            assert begun.acquire(timeout=10)
            number = fork(whole_child)
            forked.release()
            return exit_code(number)

        thread = asyncio.ensure_future(asyncio.to_thread(fork_now))
        await asyncio.sleep(0)
        state = thread_state()
        state.idle.clear()
        state.steppers.clear()
        await (to_greenlet(runs) if kind == "call" else to_greenlet(steps))
        assert await thread == code

    monkeypatch.setattr(sys, "unraisablehook", failures.append)
    arun(main)
    assert not failures


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("leave", [sys.exit, os._exit])
def test_the_child_exits(arun, patched, leave, nested):
    async def main():
        def fn():
            time.sleep(0.001)
            number = os.fork()
            if number:
                return number
            time.sleep(0.001)
            leave(5)

        async def again():
            return await to_greenlet(fn)

        async def fork_now():
            return await (to_greenlet(lambda: await_(again())) if nested else again())

        assert await with_bystanders(fork_now) == 5

    arun(main)


@pytest.mark.parametrize(
    ("argument", "code"), [(None, 0), (0, 0), (3, 3), ("a message", 1)], ids=["None", "0", "3", "message"]
)
def test_exit_codes(arun, patched, argument, code, capfd):
    async def main():
        def fn():
            number = os.fork()
            if number:
                return number
            sys.exit(argument)

        assert await code_of(await to_greenlet(fn)) == code

    arun(main)
    if isinstance(argument, str):
        assert "a message" in capfd.readouterr().err


def test_the_child_waits_for_its_threads(arun, patched, capfd):
    """`sys.exit` waits for threads that are no daemons and for the work of executors, as in any process."""

    async def main():
        def fn():
            number = os.fork()
            if number:
                return number
            atexit.register(os.write, 1, b"atexit\n")
            allowed = threading.Event()

            def work():
                allowed.wait(20)
                time.sleep(0.01)
                os.write(1, b"work\n")

            executor = ThreadPoolExecutor(1)
            executor.submit(work)
            executor.shutdown(wait=False)
            threading.Thread(target=work).start()
            allowed.set()
            sys.exit(3)

        assert await code_of(await to_greenlet(fn)) == 3

    arun(main)
    assert capfd.readouterr().out == "work\nwork\natexit\n"


def test_the_child_of_async_code_that_cancels_its_tasks_runs_nothing_of_the_parents(arun, patched):
    """What asyncio.run does at its end, in a child that was forked in the loop."""

    async def main():
        read, write = os.pipe()
        log = []
        task = asyncio.ensure_future(to_greenlet(bystander, log, write))
        await until_parked()

        def child():
            task.cancel()
            task.get_coro().close()
            return 6

        number = fork(child)
        assert await code_of(number) == 6
        await task
        os.close(write)
        with open(read) as written:
            assert written.read() == "finally\n"

    arun(main)


def test_multiprocessing_fork(arun, patched):
    context = multiprocessing.get_context("fork")

    async def main():
        def work(queue):
            time.sleep(0.001)
            queue.send((in_greenlet(), "worked"))

        def fn():
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=work, args=(sender,))
            process.start()
            answer = receiver.recv()
            process.join()
            receiver.close()
            sender.close()
            code = process.exitcode
            process.close()
            return answer, code

        assert await to_greenlet(fn) == ((False, "worked"), 0)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        arun(main)


def test_a_child_of_a_child(arun, patched):
    async def main():
        def child():
            return exit_code(fork(lambda: run(lambda: (time.sleep(0.001), 3)[1])))

        assert await code_of(await to_greenlet(fork, child)) == 3

    arun(main)


def test_fork_without_a_loop(patched):
    assert exit_code(fork(lambda: run(lambda: (time.sleep(0.001), 4)[1]))) == 4
    assert parked() == 0


def test_the_child_has_the_values_of_the_forking_green(arun, patched):
    """As it has those of a thread that forks; other threads of the child begin with none."""
    data = threading.local()

    def work():
        data.mine = "green"
        number = os.fork()
        if not number:
            others = []
            thread = threading.Thread(target=lambda: others.append(vars(data)))
            thread.start()
            thread.join(10)
            seen = dict(vars(data)), others, threading.current_thread() is threading.main_thread()
            data.mine = "changed"
            os._exit(7 if seen == ({"mine": "green"}, [{}], True) and data.mine == "changed" else 99)
        return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]), data.mine

    async def main():
        data.mine = "the thread's"
        for parks in (False, True):
            assert await to_greenlet(lambda parks=parks: (time.sleep(0.001 * parks), work())[1]) == (7, "green")
        assert data.mine == "the thread's"

    arun(main)


def test_the_child_releases_what_the_forking_green_held(arun, patched):
    """A lock that is owned stays its owner's, whose greenlet is not green any more in the child."""

    def hold_and_fork():
        lock = threading.RLock()
        with lock:

            def child():
                assert lock.acquire(timeout=5), "it is somebody else's"
                lock.release()
                lock.release()
                return 7

            return fork(child)

    async def main():
        assert await code_of(await to_greenlet(hold_and_fork)) == 7

    arun(main)


@pytest.mark.parametrize(("kind", "native"), [(OldLock, "Lock"), (PassableRLock, "RLock")])
def test_the_child_watches_older_locks_by_a_thread_of_its_own(arun, patched, kind, native):
    """The parent's thread that does so is not there."""
    old = monkey.original("threading", native)()
    shared = kind(old)

    def hold(held, let_go):
        with old:
            held.release()
            assert let_go.acquire(timeout=20)

    async def wait_for_it(fork_now=None):
        held, let_go = _original.allocate_lock(), _original.allocate_lock()
        held.acquire()
        let_go.acquire()
        thread = threading.Thread(target=hold, args=(held, let_go))
        thread.start()
        await asyncio.to_thread(held.acquire)
        waiting = spawn(shared.acquire, True, 20)
        await until_parked()
        number = None if fork_now is None else fork_now()
        let_go.release()
        assert await asyncio.wait_for(waiting, 10)
        await asyncio.to_thread(thread.join)
        return number

    def child():
        old._at_fork_reinit()
        asyncio.run(wait_for_it())
        return 7

    async def main():
        assert await code_of(await wait_for_it(lambda: fork(child))) == 7

    arun(main)


class Shared:
    """What greens and threads are busy with while others fork."""

    def __init__(self):
        self.lock, self.rlock = threading.Lock(), threading.RLock()
        self.condition, self.items = threading.Condition(), queue.SimpleQueue()
        self.bounded = queue.Queue(2)
        self.stop = False
        self.handler = logging.StreamHandler(io.StringIO())
        self.logger = logging.Logger("busy")
        self.logger.addHandler(self.handler)

    def use(self):
        while not self.stop:
            with self.lock, self.rlock, self.rlock:
                time.sleep(0.0001)
            self.items.put(1)
            self.items.get()
            self.logger.warning("busy")
            with self.condition:
                self.condition.notify_all()
                self.condition.wait(0.0005)
            self.bounded.put(1)
            self.bounded.get()
            with self.handler.lock:  # so that forks find it held
                time.sleep(0)

    def talk(self, sock):
        while not self.stop:
            sock.sendall(b"x" * 1000)
            sock.recv(1000)


def check_child(shared):
    """In a child of the storm: what belongs to nobody else works, and what is held tells so in time."""
    signal.alarm(30)  # natively, whatever hangs
    assert not in_greenlet()
    shared.logger.warning("in the child")  # logging makes its locks anew
    with shared.handler.lock:
        pass
    for lock in (shared.lock, shared.rlock):
        if lock.acquire(timeout=0.001):
            lock.release()
        lock._at_fork_reinit()
        assert lock.acquire(False)
        lock.release()
    shared.condition._at_fork_reinit()
    with shared.condition:
        assert shared.condition.wait(0.001) is False
    while not shared.items.empty():
        shared.items.get()
    shared.items.put("item")
    assert shared.items.get(timeout=20) == "item"
    gate, seen = threading.Event(), []
    thread = threading.Thread(target=lambda: (gate.wait(20), seen.append(threading.current_thread().name)))
    thread.start()
    gate.set()
    thread.join()
    assert seen == [thread.name]
    assert runs_loops() == 8
    return 3


def test_fork_storm(arun, patched):
    """Many forks from greens and threads while locks, queues, sockets and logging are in use by greens and threads."""

    async def main():
        shared = Shared()
        left, right = socket.socketpair()

        def fork_from_here():
            return [exit_code(fork(lambda: check_child(shared))) for _ in range(3)]

        def fork_from_green():
            codes = []
            for _ in range(4):
                with shared.lock:
                    number = fork(lambda: check_child(shared))
                while not (found := os.waitpid(number, os.WNOHANG))[0]:
                    time.sleep(0.001)
                codes.append(os.waitstatus_to_exitcode(found[1]))
            return codes

        with left, right:
            busy = [spawn(shared.use) for _ in range(4)] + [spawn(shared.talk, sock) for sock in (left, right)]
            busy += [asyncio.ensure_future(asyncio.to_thread(shared.use)) for _ in range(2)]
            forks = [spawn(fork_from_green) for _ in range(3)]
            forks += [asyncio.ensure_future(asyncio.to_thread(fork_from_here)) for _ in range(2)]
            codes = await asyncio.wait_for(asyncio.gather(*forks), 50)
            shared.stop = True
            for sock in (left, right):
                sock.shutdown(socket.SHUT_RDWR)
            await asyncio.wait_for(asyncio.gather(*busy, return_exceptions=True), 20)
        assert codes == [[3] * 4] * 3 + [[3] * 3] * 2

    arun(main)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_multiprocessing_without_fork(arun, patched, method):
    context = multiprocessing.get_context(method)

    async def main():
        def fn():
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=sender.send, args=("sent",))
            process.start()
            answer = receiver.recv()
            process.join()
            receiver.close()
            sender.close()
            code = process.exitcode
            process.close()
            return answer, code

        assert await to_greenlet(fn) == ("sent", 0)

    multiprocessing.forkserver._forkserver._preload_modules = []
    multiprocessing.forkserver.ensure_running()
    try:
        arun(main)
    finally:
        multiprocessing.forkserver._forkserver._stop()
        multiprocessing.resource_tracker._resource_tracker._stop()


def test_a_coroutine_that_forks_has_no_loop_in_the_child(arun):
    async def main():
        await to_greenlet(int)

        def child():
            assert asyncio._get_running_loop() is None
            call = to_greenlet(int)
            with pytest.raises(RuntimeError, match="needs a running event loop"):
                call.send(None)
            return 7

        number = fork(child)
        assert await to_greenlet(int) == 0
        assert await code_of(number) == 7

    arun(main)
