"""`run_info`: tasks, greens, what they wait for; its forms; and what a recorder adds."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import json
import os
import queue
import select
import socket
import threading
import time

import greenlet
import pytest

import greenio
from greenio import await_, debug, spawn, to_greenlet
from greenio._core import thread_state
from greenio._sync import Lock, _owners
from waiting import until, until_parked

pytestmark = pytest.mark.usefixtures("patched")


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


async def shown(fn, *args, parks=1):
    """Run `fn` green until it is parked, and tell what is told of it."""
    task = spawn(fn, *args)
    task.set_name("shown")
    await until_parked(parks)
    try:
        return task_info("shown")
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def task_info(name):
    (loop,) = [loop for loop in debug.run_info().loops if loop.running]
    (found,) = [task for task in loop.tasks if task.name == name]
    return found


def functions(stack):
    return [frame.function.rpartition(".")[2] for frame in stack]


def wait_in(info):
    (green,) = info.greens
    assert green.state == "parked"
    return green.wait


class TestWaits:
    def test_sleep(self, arun):
        def outer():
            inner()

        def inner():
            time.sleep(50)

        async def main():
            info = await shown(outer)
            wait = wait_in(info)
            assert wait.what == "time.sleep"
            assert 45 < wait.seconds_left < 51
            assert wait.seconds_waited is None
            (green,) = info.greens
            assert functions(green.stack) == ["outer", "inner"]
            assert green.stack[1].file == __file__
            assert green.stack[1].source == "time.sleep(50)"
            assert info.coroutine == "to_greenlet"

        arun(main)

    def test_socket(self, arun):
        async def main():
            with socket.create_server(("127.0.0.1", 0)) as server:
                host, port = server.getsockname()
                with socket.create_connection((host, port)) as client:
                    wait = wait_in(await shown(client.recv, 1))
                    assert wait.what == f"readable fd={client.fileno()}"
                    assert (wait.fd, wait.address) == (client.fileno(), f"peer {host}:{port}")
                    assert wait.seconds_left is None
                    server.accept()[0].close()
                assert wait_in(await shown(server.accept)).address == f"at {host}:{port}"

        arun(main)

    def test_to_look_leaves_the_socket_as_it_is(self, arun, pair):
        async def main():
            task = spawn(pair[0].recv, 1)
            await until_parked()
            socket.setdefaulttimeout(5)
            try:
                debug.run_info()
            finally:
                socket.setdefaulttimeout(None)
            assert os.get_blocking(pair[0].fileno())
            pair[1].send(b"x")
            assert await task == b"x"

        arun(main)

    def test_lock_and_owner(self, arun):
        lock = threading.RLock()

        def hold():
            with lock:
                time.sleep(50)

        async def main():
            holder = spawn(hold)
            holder.set_name("the holder")
            await until_parked()
            wait = wait_in(await shown(lock.acquire, parks=2))
            assert wait.what.startswith("RLock at 0x")
            assert wait.owner.endswith("of task 'the holder'")
            assert "which green" in str(wait)
            holder.cancel()
            await asyncio.gather(holder, return_exceptions=True)
            lock.acquire()
            assert wait_in(await shown(lock.acquire)).owner == "thread 'MainThread'"
            lock.release()

        arun(main)

    def test_owner_of_a_plain_lock(self, arun):
        lock = threading.Lock()

        async def main():
            with lock:
                assert wait_in(await shown(lock.acquire)).owner is None
                with debug.record():
                    assert wait_in(await shown(lock.acquire)).owner is None, "taken before"
            with debug.record(), lock:
                assert wait_in(await shown(lock.acquire)).owner == "thread 'MainThread'"

        arun(main)

    @pytest.mark.parametrize(
        ("make", "name"),
        [
            (lambda: queue.Queue().get, "queue.Queue.get"),
            (lambda: threading.Event().wait, "threading.Event.wait"),
            (lambda: threading.Semaphore(0).acquire, "threading.Semaphore.acquire"),
            (lambda: queue.SimpleQueue().get, None),
        ],
    )
    def test_call(self, arun, make, name):
        async def main():
            wait = wait_in(await shown(make()))
            assert wait.call == name

        arun(main)

    def test_await(self, arun):
        async def main():
            future = asyncio.get_running_loop().create_future()
            assert "Future pending" in wait_in(await shown(await_, future)).what
            child = asyncio.create_task(asyncio.sleep(50), name="child")
            assert wait_in(await shown(await_, child)).what == "task 'child'"

        arun(main)

    def test_many_descriptors(self, arun, pair):
        async def main():
            wait = wait_in(await shown(select.select, pair, [], [], 50))
            assert wait.what == f"readable fd={pair[0].fileno()} or readable fd={pair[1].fileno()}"
            assert wait.seconds_left > 40

        arun(main)


class TestTasks:
    def test_coroutine_stack(self, arun):
        async def outer():
            await inner()

        async def inner():
            await asyncio.sleep(50)

        async def main():
            task = asyncio.create_task(outer(), name="plain")
            await asyncio.sleep(0)
            info = task_info("plain")
            assert info.state == "suspended"
            assert functions(info.stack)[:2] == ["outer", "inner"]
            assert info.greens == ()
            task.cancel()
            assert task_info("plain").state in ("cancelling", "suspended")
            await asyncio.gather(task, return_exceptions=True)

        arun(main)

    def test_coroutine_above_and_below_a_green(self, arun):
        async def handler():
            await to_greenlet(blocking)

        def blocking():
            await_(asynchronous())

        async def asynchronous():
            time.sleep(50)

        async def main():
            task = asyncio.create_task(handler(), name="mixed")
            await until_parked()
            info = task_info("mixed")
            assert functions(info.stack) == ["handler"]
            assert functions(info.greens[0].stack) == ["blocking", "asynchronous"]
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        arun(main)

    def test_coroutine_suspended_in_a_green(self, arun):
        async def handler():
            await deep()

        async def deep():
            reached.append(True)
            await asyncio.get_running_loop().create_future()

        def blocking():
            await_(handler())

        def mixed():
            time.sleep(0)  # from now on it parks by itself, and its task awaits the call
            await_(handler())

        async def stack_in(fn):
            reached.clear()
            task = spawn(fn)
            task.set_name("shown")
            await until(lambda: reached)
            (green,) = task_info("shown").greens
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert "Future pending" in green.wait.what
            return functions(green.stack)

        reached = []

        async def main():
            assert await stack_in(handler) == ["handler", "deep"]
            assert await stack_in(blocking) == ["blocking", "handler", "deep"]
            assert await stack_in(mixed) == ["mixed", "handler", "deep"]

        arun(main)

    def test_running(self, arun):
        def green():
            return task_info("me")

        async def main():
            asyncio.current_task().set_name("me")
            info = task_info("me")
            assert info.state == "running"
            assert functions(info.stack)[0] == "main"
            info = await to_greenlet(green)
            assert info.state == "running"
            assert [each.state for each in info.greens] == ["running"]
            assert functions(info.greens[0].stack)[:2] == ["green", "task_info"]
            assert info.greens[0].wait is None

        arun(main)

    def test_from_another_thread(self, arun):
        async def main():
            task = spawn(time.sleep, 50)
            task.set_name("sleeper")
            await until_parked()
            info = await asyncio.to_thread(task_info, "sleeper")
            assert wait_in(info).what == "time.sleep"
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        arun(main)


def test_figures(arun, pair):
    async def main():
        task = spawn(pair[0].recv, 1)
        await until_parked()
        info = debug.run_info()
        assert info.pid == os.getpid()
        (pool,) = [pool for pool in info.pools if pool.busy]
        assert (pool.thread, pool.busy) == ("thread 'MainThread'", 1)
        (entry,) = [entry for entry in info.registrations if entry.fd == pair[0].fileno()]
        assert (entry.reading, entry.writing) == (1, None)
        pair[1].send(b"x")
        await task
        (entry,) = [entry for entry in debug.run_info().registrations if entry.fd == pair[0].fileno()]
        assert entry.reading in (0, None)

    arun(main)


def test_forms(arun):
    def nap():
        time.sleep(50)

    async def main():
        task = spawn(nap)
        task.set_name("sleeper")
        await until_parked()
        info = debug.run_info()
        assert str(info) == info.tree()
        assert "── task 'sleeper' suspended: to_greenlet\n" in info.tree()
        assert "parked: time.sleep, for " in info.tree()
        text = info.text()
        assert "  task 'sleeper' suspended" in text
        assert 'File "' + __file__ in text
        assert "        time.sleep(50)\n" in text
        plain = json.loads(info.json())
        assert plain == json.loads(json.dumps(dataclasses.asdict(info)))
        assert plain["pid"] == os.getpid()
        out = io.StringIO()
        for form in ("text", "tree", "json"):
            debug.print_run_info(out, form=form)
        assert out.getvalue().count("sleeper") == 3
        with pytest.raises(ValueError, match='"text", "json" or "tree"'):
            debug.print_run_info(out, form="xml")
        with pytest.raises(dataclasses.FrozenInstanceError):
            info.pid = 1
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    arun(main)


class TestRecorder:
    def test_since(self, arun, pair):
        async def main():
            with debug.record():
                task = spawn(pair[0].recv, 1)
                task.set_name("reader")
                await until_parked()
                await until(lambda: wait_in(task_info("reader")).seconds_waited > 0.01)
                assert ", since " in str(wait_in(task_info("reader")))
                pair[1].send(b"x")
                await task
                awaiting = spawn(await_, asyncio.get_running_loop().create_future())
                awaiting.set_name("awaiting")
                await until_parked()
                assert wait_in(task_info("awaiting")).seconds_waited < 20
            assert wait_in(task_info("awaiting")).seconds_waited is None
            awaiting.cancel()
            await asyncio.gather(awaiting, return_exceptions=True)

        arun(main)

    def test_leaves_nothing_behind(self):
        before = dict(vars(Lock))
        seen = []
        greenlet.settrace(trace := lambda event, args: seen.append(event))
        try:
            one, two = debug.record(), debug.record()
            one.start()
            one.start()
            with two:
                one.stop()
                one.stop()
                lock = threading.Lock()
                with lock:
                    assert _owners.owner_of(lock) == threading.get_ident()
                assert _owners.owner_of(lock) is None
                greenio.run(time.sleep, 0)
            assert greenlet.gettrace() is trace
        finally:
            greenlet.settrace(None)
        assert seen, "a trace function that was there goes on"
        assert dict(vars(Lock)) == before
        assert not _owners._owners


def test_greens_that_are_let_go_of(arun, patched):
    """Before it goes, such a green runs to its end, without its attributes; other threads may look at that moment."""
    seen, errors = [], []

    def look(event, pair):
        seen.append(event)
        try:
            debug.run_info()
            debug.deadlocks()
        except Exception as error:
            errors.append(error)

    async def main():
        await to_greenlet(time.sleep, 0.001)
        await asyncio.sleep(0)  # now it is at rest
        greenlet.settrace(look)
        try:
            thread_state().idle.clear()
        finally:
            greenlet.settrace(None)

    arun(main)
    assert "throw" in seen
    assert not errors
