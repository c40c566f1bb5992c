"""`multiprocessing` from green code: processes, connections, queues, locks, pools and managers."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import inspect
import multiprocessing
import multiprocessing.forkserver
import multiprocessing.managers
import multiprocessing.pool
import os
import pkgutil
import queue
import random
import signal
import threading
import time

import pytest

from greenio import monkey, spawn, timeout, to_greenlet
from greenio._patches import _connections
from greenio._patches._semaphores import SemLock
from waiting import parked, until, until_parked

pytestmark = [
    pytest.mark.usefixtures("patched"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]

fork = multiprocessing.get_context("fork")
METHODS = ["fork", "spawn", "forkserver"]
BIG = bytes(range(256)) * 2000
"""A message that no pipe and no socket takes at once."""


@pytest.fixture(scope="module", autouse=True)
def helpers_end():
    """End the processes that multiprocessing keeps for itself, so that nothing is left over."""
    yield
    multiprocessing.forkserver._forkserver._stop()
    multiprocessing.resource_tracker._resource_tracker._stop()


@pytest.fixture(scope="module", autouse=True)
def helpers_run(helpers_end):
    """Start them before the search for leaks of the first test."""
    multiprocessing.forkserver._forkserver._preload_modules = []
    multiprocessing.forkserver.ensure_running()
    kept = fork.RawValue("i")  # has the heap open its file
    yield
    del kept


async def ended(*tasks):
    return await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 30)


async def turning(task):
    """Wait for a task while the loop goes on; tell how often it turned."""
    turns = 0
    while not task.done():
        turns += 1
        await asyncio.sleep(0.001)
    return turns


def child_of(fn, *args):
    process = fork.Process(target=fn, args=args)
    process.start()
    return process


def end(process):
    process.join()
    code = process.exitcode
    process.close()
    return code


class TestProcess:
    @pytest.mark.parametrize("method", METHODS)
    def test_join_parks(self, arun, method):
        def work():
            process = multiprocessing.get_context(method).Process(target=time.sleep, args=(0.05,))
            process.start()
            return end(process)

        async def main():
            task = asyncio.create_task(to_greenlet(work))
            assert await turning(task) > 10
            assert task.result() == 0

        arun(main)

    def test_join_with_a_timeout(self, arun):
        def work():
            process = child_of(time.sleep, 60)
            begun = time.monotonic()
            process.join(0.02)
            assert 0.02 <= time.monotonic() - begun < 10
            assert process.is_alive()
            process.terminate()
            return end(process)

        assert arun(lambda: to_greenlet(work)) == -signal.SIGTERM

    def test_cancelled_join_loses_no_status(self, arun):
        async def main():
            process = child_of(time.sleep, 60)
            tasks = [asyncio.create_task(to_greenlet(process.join)) for _ in range(3)]
            await until_parked(3)
            tasks[0].cancel()
            process.kill()
            found = await ended(*tasks)
            assert isinstance(found[0], asyncio.CancelledError)
            assert found[1:] == [None, None]
            assert await to_greenlet(end, process) == -signal.SIGKILL

        arun(main)

    def test_somebody_else_waits_for_it(self, arun):
        async def main():
            process = child_of(time.sleep, 0)
            await asyncio.to_thread(os.waitid, os.P_PID, process.pid, os.WEXITED)
            assert await to_greenlet(process._popen.wait) is None
            process._popen.returncode = 0
            process.close()

        arun(main)


@pytest.fixture(params=[True, False], ids=["duplex", "simplex"])
def pipe(request):
    receiver, sender = fork.Pipe(duplex=request.param)
    with receiver, sender:
        yield receiver, sender


class TestConnection:
    @pytest.mark.parametrize("message", ["small", "x" * 5000, BIG], ids=["small", "5000", "big"])
    def test_messages(self, arun, pipe, message):
        receiver, sender = pipe

        def receive():
            return [receiver.recv() for _ in range(3)]

        async def main():
            task = asyncio.create_task(to_greenlet(receive))
            await until_parked()
            for each in (message, message, [message]):
                await to_greenlet(sender.send, each)
            assert await asyncio.wait_for(task, 20) == [message, message, [message]]

        arun(main)

    def test_bytes(self, arun, pipe):
        receiver, sender = pipe
        buffer = bytearray(10)

        def receive():
            found = [receiver.recv_bytes(), receiver.recv_bytes(3), receiver.recv_bytes_into(buffer, 2)]
            with pytest.raises(multiprocessing.BufferTooShort) as caught:
                receiver.recv_bytes_into(buffer)
            found.append(caught.value.args[0])
            with pytest.raises(OSError, match="bad message length"):
                receiver.recv_bytes(2)
            return found

        def send():
            for data in (b"", b"abc", b"defg", b"x" * 11, b"long"):
                sender.send_bytes(data)

        async def main():
            receiving = asyncio.create_task(to_greenlet(receive))
            await until_parked()
            await to_greenlet(send)
            assert await asyncio.wait_for(receiving, 20) == [b"", b"abc", 4, b"x" * 11]
            assert bytes(buffer) == b"\0\0defg\0\0\0\0"

        arun(main)

    def test_with_native_ends(self, arun, pipe):
        receiver, sender = pipe

        async def main():
            native = asyncio.create_task(asyncio.to_thread(sender.send, BIG))
            assert await to_greenlet(receiver.recv) == BIG
            await native
            native = asyncio.create_task(asyncio.to_thread(receiver.recv))
            await to_greenlet(sender.send, BIG)
            assert await native == BIG

        arun(main)

    def test_poll(self, arun, pipe):
        receiver, sender = pipe

        async def main():
            assert not await to_greenlet(receiver.poll)
            assert not await to_greenlet(receiver.poll, 0.01)
            task = asyncio.create_task(to_greenlet(receiver.poll, None))
            await until_parked()
            sender.send(1)
            assert await asyncio.wait_for(task, 20)
            assert receiver.recv() == 1

        arun(main)

    def test_end_of_file(self, arun, pipe):
        receiver, sender = pipe

        async def main():
            task = asyncio.create_task(to_greenlet(receiver.recv))
            await until_parked()
            sender.close()
            with pytest.raises(EOFError):
                await asyncio.wait_for(task, 20)

        arun(main)

    @pytest.mark.parametrize("part", [b"\0\0", b"\0\0\0\7abc", b"\xff\xff\xff\xff\0\0"])
    def test_end_of_file_in_a_message(self, arun, pipe, part):
        receiver, sender = pipe

        async def main():
            task = asyncio.create_task(to_greenlet(receiver.recv))
            await until_parked()
            os.write(sender.fileno(), part)
            sender.close()
            with pytest.raises(OSError, match="got end of file during message"):
                await asyncio.wait_for(task, 20)

        arun(main)

    def test_receiver_has_gone(self, arun, pipe):
        receiver, sender = pipe

        async def main():
            task = asyncio.create_task(to_greenlet(sender.send_bytes, BIG))
            await until_parked()
            receiver.close()
            with pytest.raises(BrokenPipeError):
                await asyncio.wait_for(task, 20)

        arun(main)

    def test_closed_by_another(self, arun, pipe):
        receiver, _ = pipe

        async def main():
            task = asyncio.create_task(to_greenlet(receiver.recv))
            await until_parked()
            receiver.close()
            with pytest.raises(OSError, match="Bad file descriptor"):
                await asyncio.wait_for(task, 20)

        arun(main)

    def test_cancelled_before_a_message(self, arun, pipe):
        receiver, sender = pipe

        async def main():
            task = asyncio.create_task(to_greenlet(receiver.recv))
            await until_parked()
            task.cancel()
            sender.send("message")
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await to_greenlet(receiver.recv) == "message"

        arun(main)

    def test_cancelled_in_a_message(self, arun, pipe):
        """The message is read to its end, and the cancellation comes with the next wait."""
        receiver, sender = pipe
        got = []

        def receive():
            got.append(receiver.recv_bytes())
            time.sleep(60)

        async def main():
            task = asyncio.create_task(to_greenlet(receive))
            await until_parked()
            os.write(sender.fileno(), b"\0\0\0\7mes")
            await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.sleep(0.01)
            assert not task.done()
            os.write(sender.fileno(), b"sage")
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(task, 20)
            assert got == [b"message"]

        arun(main)

    @pytest.mark.parametrize("native", [False, True])
    def test_cancelled_twice_in_a_message(self, arun, pipe, native):
        """The writer has stopped half-way: the wait ends, and what was read is kept for the next reader."""
        receiver, sender = pipe

        async def main():
            task = asyncio.create_task(to_greenlet(receiver.recv_bytes))
            await until_parked()
            os.write(sender.fileno(), b"\0\0\0\7mes")
            await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(task, 20)
            assert receiver.poll()
            os.write(sender.fileno(), b"sage")
            sender.send_bytes(b"next")
            read = asyncio.to_thread if native else to_greenlet
            assert await read(receiver.recv_bytes) == b"message"
            assert await read(receiver.recv_bytes) == b"next"

        arun(main)

    def test_cancelled_while_sending(self, arun, pipe):
        receiver, sender = pipe

        async def main():
            task = asyncio.create_task(to_greenlet(sender.send_bytes, BIG))
            await until_parked()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(task, 20)
            late = asyncio.create_task(to_greenlet(sender.send_bytes, b"after it"))
            await until_parked()
            assert await to_greenlet(receiver.recv_bytes) == BIG
            assert await to_greenlet(receiver.recv_bytes) == b"after it"
            await late
            await until(lambda: not _connections._rests)

        arun(main)

    def test_closed_while_a_thread_sends_the_rest(self, arun, pipe):
        receiver, sender = pipe

        async def main():
            task = asyncio.create_task(to_greenlet(sender.send_bytes, BIG))
            await until_parked()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            sender.close()
            assert await to_greenlet(receiver.recv_bytes) == BIG
            with pytest.raises(EOFError):
                await to_greenlet(receiver.recv_bytes)

        arun(main)

    def test_listener_and_client(self, arun):
        def serve(listener):
            with listener.accept() as connection:
                connection.send(connection.recv() * 2)

        def ask(address):
            with multiprocessing.connection.Client(address, authkey=b"key") as connection:
                connection.send(21)
                return connection.recv()

        async def main():
            with multiprocessing.connection.Listener(("127.0.0.1", 0), authkey=b"key") as listener:
                serving = asyncio.create_task(to_greenlet(serve, listener))
                await until_parked()
                assert await to_greenlet(ask, listener.address) == 42
                await serving

        arun(main)


def hold(lock, connection):
    """In another process: take a lock, and give it back when told."""
    with lock:
        connection.send("held")
        connection.recv()
    connection.send("free")
    connection.recv()


class Holder:
    """Another process that holds a lock."""

    def __init__(self, lock):
        self.connection, other = fork.Pipe()
        self.process = child_of(hold, lock, other)
        other.close()
        assert self.connection.recv() == "held"

    def give_back(self):
        self.connection.send("go on")

    def end(self):
        self.connection.close()
        self.process.terminate()
        end(self.process)


LOCKS = {"Lock": fork.Lock, "RLock": fork.RLock, "Semaphore": fork.Semaphore, "BoundedSemaphore": fork.BoundedSemaphore}


@pytest.fixture(params=LOCKS)
def make(request):
    return LOCKS[request.param]


class Unscheduled:
    """A native semaphore for which a thread has waited that is given no processor: it takes, and goes on, when told."""

    def __init__(self, native):
        self.native = native
        self.waits, self.take, self.taken, self.go_on = (threading.Event() for _ in range(4))

    def acquire(self, block=True, timeout=None):
        if not block:
            return self.native.acquire(False)
        self.waits.set()
        self.take.wait()
        taken = self.native.acquire(False)
        self.taken.set()
        self.go_on.wait()
        return taken

    def __getattr__(self, name):
        return getattr(self.native, name)


class TestLocks:
    def test_greens_exclude_one_another(self, arun, make):
        async def main():
            lock, inside = make(), []

            def work(number):
                with lock:
                    inside.append(number)
                    time.sleep(0.001)
                    assert inside == [number]
                    inside.remove(number)

            assert await ended(*(asyncio.create_task(to_greenlet(work, i)) for i in range(20))) == [None] * 20

        arun(main)

    def test_greens_and_threads(self, arun, make):
        async def main():
            lock, total = make(), [0]

            def work():
                for _ in range(20):
                    with lock:
                        before = total[0]
                        time.sleep(0)
                        total[0] = before + 1

            tasks = [asyncio.create_task(to_greenlet(work)) for _ in range(5)]
            threads = [asyncio.create_task(asyncio.to_thread(work)) for _ in range(3)]
            assert await ended(*tasks, *threads) == [None] * 8
            assert total == [160]

        arun(main)

    def test_another_process_holds_it(self, arun, make):
        async def main():
            lock = make()
            holder = Holder(lock)
            try:
                task = asyncio.create_task(to_greenlet(lock.acquire))
                await until_parked()
                assert not await to_greenlet(lock.acquire, False)
                begun = time.monotonic()
                assert not await to_greenlet(lock.acquire, True, 0.02)
                assert 0.02 <= time.monotonic() - begun < 10
                assert not task.done()
                holder.give_back()
                assert await asyncio.wait_for(task, 20) is True
            finally:
                holder.end()

        arun(main)

    def test_a_permit_that_nobody_waits_for_any_more_is_there_at_once(self, arun):
        """The thread that watches on behalf of greens may have it in its hands at the time."""

        async def main():
            lock = fork.Semaphore(0)
            native = lock._semlock._native = Unscheduled(lock._semlock._native)
            task = asyncio.create_task(to_greenlet(lock.acquire))
            await until(native.waits.is_set)
            task.cancel()
            await ended(task)
            lock.release()
            native.take.set()
            await until(native.taken.is_set)
            trying = asyncio.create_task(to_greenlet(lock.acquire, False))
            await until(lambda: trying.done() or parked())
            native.go_on.set()
            assert await ended(trying) == [True]
            assert not await to_greenlet(lock.acquire, False)

        arun(main)

    def test_cancelled_wait_takes_no_permit(self, arun, make):
        async def main():
            lock = make()
            holder = Holder(lock)
            try:
                task = asyncio.create_task(to_greenlet(lock.acquire))
                await until_parked()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                holder.give_back()
                assert holder.connection.recv() == "free"
                other = await asyncio.wait_for(asyncio.to_thread(Holder, lock), 20)
                other.end()
            finally:
                holder.end()

        arun(main)

    def test_cancelled_at_every_turn(self, arun, make):
        async def main():
            lock = make()
            for turns in range(8):
                holder = Holder(lock)
                try:
                    task = asyncio.create_task(to_greenlet(lambda: lock.acquire() and lock.release()))
                    await until_parked()
                    holder.give_back()
                    assert await to_greenlet(holder.connection.recv) == "free"
                    for _ in range(turns):
                        await asyncio.sleep(0)
                    task.cancel()
                    await ended(task)
                finally:
                    holder.end()
                assert await asyncio.wait_for(asyncio.to_thread(lock.acquire, True, 20), 30)
                await asyncio.to_thread(lock.release) if make != fork.RLock else None
                if make == fork.RLock:
                    return  # a thread has it now

        arun(main)

    def test_in_order(self, arun):
        async def main():
            lock, order = fork.Lock(), []

            def work(number):
                with lock:
                    order.append(number)

            lock.acquire()
            tasks = []
            for number in range(10):
                tasks.append(asyncio.create_task(to_greenlet(work, number)))
                await until_parked(number + 1)
            lock.release()
            await ended(*tasks)
            assert order == list(range(10))

        arun(main)

    def test_contended_by_processes(self, arun, make):
        value = fork.Value("i", 0, lock=False)

        def add(lock):
            for _ in range(50):
                with lock:
                    before = value.value
                    time.sleep(0)
                    value.value = before + 1

        async def main():
            value.value = 0
            lock = make()
            children = [child_of(add, lock) for _ in range(2)]
            tasks = [asyncio.create_task(to_greenlet(add, lock)) for _ in range(3)]
            assert await ended(*tasks) == [None] * 3
            assert [await to_greenlet(end, child) for child in children] == [0, 0]
            assert value.value == 250

        arun(main)

    def test_counts(self, arun):
        async def main():
            semaphore = fork.Semaphore(2)
            assert await to_greenlet(lambda: [semaphore.acquire(timeout=0) for _ in range(3)]) == [True, True, False]
            assert semaphore.get_value() == 0
            semaphore.release()
            assert semaphore.get_value() == 1
            assert "value=1" in repr(semaphore)
            bounded = fork.BoundedSemaphore(1)
            with pytest.raises(ValueError, match="released too many times"):
                await to_greenlet(bounded.release)

        arun(main)

    def test_recursive_lock_is_a_greens_own(self, arun):
        async def main():
            lock = fork.RLock()

            def take():
                assert lock.acquire()
                assert lock.acquire(False)

            def hold():
                take()
                time.sleep(0.01)
                assert repr(lock) == "<RLock(MainProcess, 2)>" or "MainProcess" in repr(lock)
                lock.release()
                time.sleep(0.01)
                lock.release()

            def refuse():
                with pytest.raises(AssertionError, match="not owned"):
                    lock.release()
                return lock.acquire(False)

            holding = asyncio.create_task(to_greenlet(hold))
            await until_parked()
            assert await to_greenlet(refuse) is False
            assert lock.acquire(False) is False  # native code of the same thread
            assert lock.acquire(True, 0.001) is False
            with pytest.raises(RuntimeError, match="held by a greenlet"):
                lock.acquire()
            waiting = asyncio.create_task(to_greenlet(lambda: (lock.acquire(), lock.release())))
            await ended(holding, waiting)
            assert lock.acquire()
            assert await to_greenlet(lock.acquire, False) is False
            lock.release()

        arun(main)

    def test_wrong_timeouts(self, arun):
        lock = fork.Lock()
        lock.acquire()

        def outcome(limit):
            try:
                return lock.acquire(True, limit)
            except Exception as error:
                return type(error)

        limits = [-1, 0, 0.0, "x", [], 1j]
        native = [outcome(limit) for limit in limits]
        assert arun(lambda: to_greenlet(lambda: [outcome(limit) for limit in limits])) == native


def code_in_child(fn):
    """Fork, and tell how the child ended, which leaves by the outcome of `fn`."""
    number = os.fork()
    if not number:
        code = 99
        try:
            code = fn()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


class TestForks:
    """`os.fork`, of which multiprocessing knows nothing."""

    def test_while_a_green_waits(self, arun):
        """Greens of the child have a thread of their own that waits for what other processes give back."""
        semaphore, asked = fork.Semaphore(0), fork.Semaphore(0)

        async def main_of_child():
            waiting = asyncio.create_task(to_greenlet(semaphore.acquire, True, 10))
            await until_parked()
            asked.release()
            begun = time.monotonic()
            assert await waiting
            return time.monotonic() - begun

        def child():
            return 7 if asyncio.run(main_of_child()) < 5 else 8

        async def main():
            waiting = asyncio.create_task(to_greenlet(semaphore.acquire))
            await until_parked()
            forked = asyncio.create_task(to_greenlet(code_in_child, child))
            assert await asyncio.to_thread(asked.acquire, True, 10)
            waiting.cancel()
            await ended(waiting)
            semaphore.release()
            assert (await ended(forked)) == [7]

        arun(main)

    def test_while_a_green_has_a_recursive_lock(self, arun):
        """In the child the green that forked has it still."""
        lock = fork.RLock()

        def child():
            assert lock._semlock._is_mine()
            lock.release()
            assert lock.acquire(True, 1)
            assert lock.acquire(True, 1)
            lock.release()
            lock.release()
            assert not lock._semlock._is_mine()
            return 7

        def work():
            lock.acquire()
            return code_in_child(child)

        assert arun(lambda: to_greenlet(work)) == 7


class TestConditions:
    def test_event_of_another_process(self, arun):
        async def main():
            event, answer = fork.Event(), fork.Event()
            child = child_of(lambda: (event.wait(), answer.set()))
            waiting = [asyncio.create_task(to_greenlet(answer.wait)) for _ in range(3)]
            await until_parked(3)
            assert await to_greenlet(answer.wait, 0.01) is False
            await to_greenlet(event.set)
            assert await ended(*waiting) == [True] * 3
            assert await to_greenlet(end, child) == 0

        arun(main)

    def test_condition(self, arun):
        async def main():
            condition, seen = fork.Condition(), []

            def wait(number):
                with condition:
                    seen.append((number, condition.wait(20)))

            tasks = [asyncio.create_task(to_greenlet(wait, number)) for number in range(4)]
            await until_parked(4)

            def notify(count):
                with condition:
                    condition.notify(count)

            await to_greenlet(notify, 1)
            await until(lambda: len(seen) == 1)
            await to_greenlet(notify, 2)
            await until(lambda: len(seen) == 3)
            tasks[3].cancel()
            await ended(*tasks)
            assert [answer for _, answer in seen] == [True] * 3
            await to_greenlet(notify, 1)  # what it counts is right after a cancellation too

            def times_out():
                with condition:
                    return condition.wait(0.01), condition.wait_for(lambda: False, 0.01)

            assert await to_greenlet(times_out) == (False, False)

        arun(main)

    def test_whoever_times_out_as_another_process_notifies(self, arun):
        condition = fork.Condition()
        end_of_all = time.monotonic() + 2

        def notify():
            while time.monotonic() < end_of_all:
                with condition:
                    condition.notify_all()  # finds no permit that somebody has given back late, or fails
                time.sleep(random.random() * 0.004)

        def wait():
            while time.monotonic() < end_of_all:
                with condition:
                    condition.wait(random.random() * 0.004)

        async def compute():
            while time.monotonic() < end_of_all:
                end_of_turn = time.perf_counter() + 0.003
                while time.perf_counter() < end_of_turn:
                    pass
                await asyncio.sleep(0.0005)

        async def main():
            child = child_of(notify)
            await asyncio.gather(compute(), *(to_greenlet(wait) for _ in range(4)))
            assert await to_greenlet(end, child) == 0

        arun(main)

    def test_cancelled_waiter_leaves_with_the_lock_given_back(self, arun):
        async def main():
            condition = fork.Condition()

            def wait():
                with condition:
                    condition.wait()

            def take(seconds):
                with condition:
                    time.sleep(seconds)

            task = asyncio.create_task(to_greenlet(wait))
            await until_parked()
            taking = asyncio.create_task(to_greenlet(take, 0.02))
            await until_parked(2)
            task.cancel()
            found = await ended(task, taking)
            assert isinstance(found[0], asyncio.CancelledError)
            await to_greenlet(take, 0)

        arun(main)

    def test_barrier(self, arun):
        async def main():
            barrier = fork.Barrier(4)
            child = child_of(barrier.wait, 20)
            places = await ended(*(asyncio.create_task(to_greenlet(barrier.wait, 20)) for _ in range(3)))
            assert len({*places} & {0, 1, 2, 3}) == 3
            assert await to_greenlet(end, child) == 0

        arun(main)


def double(incoming, outgoing):
    for number in iter(incoming.get, None):
        outgoing.put(number * 2)


def end_queue(*queues):
    for each in queues:
        each.close()
        if hasattr(each, "join_thread"):
            each.join_thread()
        each._reader.close()


class TestQueues:
    @pytest.mark.parametrize("make", [fork.Queue, fork.SimpleQueue, fork.JoinableQueue])
    def test_workers(self, arun, make):
        async def main():
            incoming, outgoing = make(), make()
            children = [child_of(double, incoming, outgoing) for _ in range(2)]
            getting = [asyncio.create_task(to_greenlet(outgoing.get)) for _ in range(30)]
            await until_parked(30)

            def put():
                for number in range(30):
                    incoming.put(number)
                for _ in children:
                    incoming.put(None)

            await to_greenlet(put)
            assert sorted(await ended(*getting)) == list(range(0, 60, 2))
            assert [await to_greenlet(end, child) for child in children] == [0, 0]
            await to_greenlet(end_queue, incoming, outgoing)

        arun(main)

    def test_get_with_a_timeout(self, arun):
        async def main():
            items = fork.Queue()
            begun = time.monotonic()
            with pytest.raises(queue.Empty):
                await to_greenlet(items.get, True, 0.02)
            assert 0.02 <= time.monotonic() - begun < 10
            with pytest.raises(queue.Empty):
                await to_greenlet(items.get_nowait)
            await to_greenlet(end_queue, items)

        arun(main)

    def test_bounded(self, arun):
        async def main():
            items = fork.Queue(2)
            putting = [asyncio.create_task(to_greenlet(items.put, number)) for number in range(6)]
            await until(lambda: sum(task.done() for task in putting) == 2)
            with pytest.raises(queue.Full):
                await to_greenlet(items.put, 6, True, 0.01)
            putting[5].cancel()
            got = [await to_greenlet(items.get) for _ in range(5)]
            assert got == [0, 1, 2, 3, 4]
            await ended(*putting)
            for number in range(2):
                await to_greenlet(items.put, number, False)
            assert [await to_greenlet(items.get) for _ in range(2)] == [0, 1]
            await to_greenlet(end_queue, items)

        arun(main)

    def test_cancelled_put_keeps_no_place(self, arun):
        async def main():
            items = fork.Queue(1)
            with items._notempty:  # native code holds the lock that comes after the place
                task = asyncio.create_task(to_greenlet(items.put, "lost"))
                await until_parked()
                task.cancel()
                await ended(task)
            await to_greenlet(items.put, "kept", False)
            assert await to_greenlet(items.get) == "kept"
            await to_greenlet(end_queue, items)

        arun(main)

    def test_join(self, arun):
        async def main():
            items = fork.JoinableQueue()
            for number in range(3):
                await to_greenlet(items.put, number)
            joining = asyncio.create_task(to_greenlet(items.join))
            await until_parked()
            for _ in range(3):
                assert not joining.done()
                await to_greenlet(items.get)
                await to_greenlet(items.task_done)
            await asyncio.wait_for(joining, 20)
            await to_greenlet(end_queue, items)

        arun(main)

    @pytest.mark.parametrize("call", ["task_done", "set", "clear"])
    def test_cancelled_where_it_takes_the_lock(self, arun, call):
        """What is called in a `finally` is done, and the cancellation comes after it."""

        async def main():
            items, event = fork.JoinableQueue(), fork.Event()
            await to_greenlet(items.put, "item")
            assert await to_greenlet(items.get) == "item"
            if call == "clear":
                event.set()
            shared = items if call == "task_done" else event
            go_on = threading.Event()

            def hold():
                with shared._cond:
                    go_on.wait()

            holding = asyncio.create_task(to_greenlet(hold))
            await until_parked()
            task = asyncio.create_task(to_greenlet(getattr(shared, call)))
            await until_parked(2)
            for _ in range(2):
                task.cancel()
                await asyncio.sleep(0)
            go_on.set()
            found = await ended(holding, task)
            assert isinstance(found[1], asyncio.CancelledError)
            assert event.is_set() == (call == "set")
            if call != "task_done":
                await to_greenlet(items.task_done)
            await asyncio.wait_for(to_greenlet(items.join), 10)
            await to_greenlet(end_queue, items)

        arun(main)

    def test_cancelled_put_of_a_big_item(self, arun):
        """Half of it is in the pipe, which other processes write to as well: the lock is held until all is there."""

        async def main():
            items = fork.SimpleQueue()
            task = asyncio.create_task(to_greenlet(items.put, BIG))
            await until_parked()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            child = child_of(items.put, "of another process")
            assert await to_greenlet(items.get) == BIG
            assert await to_greenlet(items.get) == "of another process"
            assert await to_greenlet(end, child) == 0
            items.close()

        arun(main)


def square(number):
    time.sleep(0.001)
    return number * number


@pytest.mark.parametrize("method", METHODS)
def test_pool(arun, method):
    def work():
        with multiprocessing.get_context(method).Pool(2) as pool:
            found = pool.map(abs, range(-20, 0)), pool.apply(divmod, (7, 2)), list(pool.imap(abs, [-1, 2]))
            later = pool.apply_async(time.sleep, (0.05,))
            with pytest.raises(multiprocessing.TimeoutError):
                later.get(0.001)
            later.get(20)
            pool.close()
            pool.join()
        return found

    async def main():
        task = asyncio.create_task(to_greenlet(work))
        assert await turning(task) > 10
        assert task.result() == (list(range(20, 0, -1)), (3, 1), [1, 2])

    arun(main)


def test_manager(arun):
    def ask(items, number):
        items.put(number)
        return number

    def count(lock, found):
        with lock:
            found["count"] = found.get("count", 0) + 1

    async def use(items, lock, found):
        getting = [asyncio.create_task(to_greenlet(items.get)) for _ in range(5)]
        await until_parked(5)
        assert await ended(*(spawn(ask, items, number) for number in range(5))) == list(range(5))
        assert sorted(await ended(*getting)) == list(range(5))
        assert await ended(*(spawn(count, lock, found) for _ in range(8))) == [None] * 8
        assert await to_greenlet(found.copy) == {"count": 8}

    async def main():
        manager = await to_greenlet(fork.Manager)
        try:
            await use(*await to_greenlet(lambda: (manager.Queue(), manager.RLock(), manager.dict())))
        finally:
            await to_greenlet(manager.shutdown)

    arun(main)
    gc.collect()


class Locks(multiprocessing.managers.SyncManager):
    """A manager with a table of its own."""


def use_locks(method):
    with Locks(ctx=multiprocessing.get_context(method)) as manager:
        for make in (manager.Lock, manager.RLock, manager.OwnLock):
            with make():
                pass


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_spawned_manager_of_any_time(arun, method):
    """What a manager makes is sent to its process by name, whether it was registered before the patch or since."""
    monkey.unpatch_all()
    Locks.register("OwnLock", threading.Lock, multiprocessing.managers.AcquirerProxy)
    with monkey.patched():
        arun(lambda: to_greenlet(use_locks, method))
        Locks.register("OwnLock", threading.Lock, multiprocessing.managers.AcquirerProxy)
        arun(lambda: to_greenlet(use_locks, method))
    use_locks(method)
    gc.collect()


def test_a_cancelled_call_of_a_proxy(arun):
    """The answer that nobody waits for any more is not taken for that to the next call."""

    def stop_waiting(call):
        with pytest.raises(TimeoutError), timeout(0.02):
            call()

    def use(manager):
        lock, items, found = manager.Lock(), manager.Queue(), manager.dict(a=1)
        lock.acquire()
        stop_waiting(lock.acquire)
        lock.release()
        assert (found["a"], len(found)) == (1, 1)
        stop_waiting(items.get)
        items.put("item")
        assert items.empty() in (True, False)

    def keep_on_errors(manager):
        found = manager.dict()
        found["a"] = 1
        connection = found._tls.connection
        for call in (lambda: found["b"], lambda: found.update(a=threading.Lock())):
            with pytest.raises((KeyError, TypeError)):
                call()
        assert found._tls.connection is connection
        assert found["a"] == 1

    async def main():
        manager = await to_greenlet(fork.Manager)
        try:
            await asyncio.wait_for(to_greenlet(use, manager), 10)
            await to_greenlet(keep_on_errors, manager)
        finally:
            await to_greenlet(manager.shutdown)

    arun(main)
    gc.collect()


def test_a_cancelled_start_of_a_manager_leaves_no_server(arun):
    begun = fork.Event()

    def begin():
        begun.set()
        time.sleep(60)

    async def main():
        manager = multiprocessing.managers.SyncManager(ctx=fork)
        starting = asyncio.create_task(to_greenlet(manager.start, begin))
        await to_greenlet(begun.wait, 20)
        starting.cancel()
        assert isinstance((await ended(starting))[0], asyncio.CancelledError)
        assert not multiprocessing.active_children()

    arun(main)


def test_process_pool_executor(arun):
    import concurrent.futures

    def work():
        with concurrent.futures.ProcessPoolExecutor(2, mp_context=fork) as executor:
            return sorted(executor.map(abs, [-3, -2])), executor.submit(divmod, 7, 2).result()

    assert arun(lambda: to_greenlet(work)) == ([2, 3], (3, 1))


@pytest.mark.parametrize("method", METHODS)
def test_a_pool_that_coroutines_use_too(arun, method):
    """`run_in_executor` takes the lock of the pool natively, and waits for nobody who is parked with it."""
    import concurrent.futures

    async def main():
        loop = asyncio.get_running_loop()
        context = multiprocessing.get_context(method)
        with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as executor:
            green = [asyncio.ensure_future(to_greenlet(executor.submit, abs, -number)) for number in range(200)]
            native = []
            while not all(task.done() for task in green):
                await asyncio.sleep(0)
                native.append(loop.run_in_executor(executor, abs, -1))
            done = await asyncio.wait_for(asyncio.gather(*native), 30)
            assert done == [1] * len(native)
            assert native
            results = await asyncio.gather(*(to_greenlet(task.result().result, 30) for task in green))
            assert results == list(range(200))
            await to_greenlet(executor.shutdown)

    arun(main)


def test_workers_of_a_pool_have_the_context_of_who_submits(arun):
    import concurrent.futures

    def work():
        _variable.set("set in green code")
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=fork) as executor:
            return executor.submit(_value).result(30)

    assert arun(lambda: to_greenlet(work)) == "set in green code"


_variable: contextvars.ContextVar = contextvars.ContextVar("_variable", default="not set")


def _value():
    return _variable.get()


class TestOldObjects:
    def test_made_before_the_patch(self, arun):
        monkey.unpatch_all()
        lock, condition, event, items = fork.Lock(), fork.Condition(), fork.Event(), fork.SimpleQueue()
        assert not isinstance(lock._semlock, SemLock)
        native = type(lock._semlock)

        async def main():
            lock.acquire()
            waits = [lock.acquire, lambda: lock.__enter__(), event.wait, items.get, condition.acquire]
            condition.acquire()
            tasks = [asyncio.create_task(to_greenlet(wait)) for wait in waits]
            await until_parked(5)
            lock.release()
            await until(lambda: tasks[0].done())
            lock.release()
            condition.release()
            await to_greenlet(event.set)
            items.put("item")
            assert await ended(*tasks) == [True, True, True, "item", True]
            lock.release()

        with monkey.patched():
            arun(main)
            assert isinstance(lock._semlock, SemLock)
        assert type(lock._semlock) is native
        assert lock.acquire(False)
        lock.release()
        items.close()

    def test_late_objects_go_back_too(self):
        lock = fork.RLock()
        assert isinstance(lock._semlock, SemLock)
        monkey.unpatch_all()
        assert not isinstance(lock._semlock, SemLock)
        with lock:
            assert lock._semlock._is_mine()


@pytest.mark.parametrize("method", METHODS)
def test_locks_are_passed_to_children(arun, method):
    context = multiprocessing.get_context(method)
    locks = context.Lock(), context.RLock(), context.Semaphore(3)

    def work():
        process = context.Process(target=map, args=(None, locks))
        process.start()
        return end(process)

    assert arun(lambda: to_greenlet(work)) == 0


def test_limits_of_blocks(arun):
    lock = fork.Lock()
    lock.acquire()

    def work():
        with pytest.raises(TimeoutError), timeout(0.01):
            lock.acquire()
        return True

    assert arun(lambda: to_greenlet(work))


def test_signatures():
    import concurrent.futures.process

    for target in monkey.report().patched["multiprocessing"]:
        module = "concurrent.futures.process" if target.startswith("concurrent") else ".".join(target.split(".")[:2])
        native = monkey.original(module, target.removeprefix(f"{module}."))
        if "ForkAwareLocal" not in target and "_close" not in target:
            assert inspect.signature(pkgutil.resolve_name(target)) == inspect.signature(native), target
    assert concurrent.futures.process.ProcessPoolExecutor.submit is not monkey.original(
        "concurrent.futures.process", "ProcessPoolExecutor.submit"
    )


def test_thread_is_native(arun):
    """What is called outside a greenlet is the native call."""
    lock = fork.Lock()
    outcomes = []

    def work():
        outcomes.append(lock.acquire(True, 0.001))
        outcomes.append(lock.acquire())

    lock.acquire()
    thread = threading.Thread(target=work)
    thread.start()
    while not outcomes:
        time.sleep(0.001)
    lock.release()
    thread.join()
    assert outcomes == [False, True]
