"""Code that parks runs in the very midst of another park of its own green, as finalizers and signal handlers do."""

import asyncio
import gc
import itertools
import os
import queue
import select
import socket
import sys
import threading
import time

import pytest
from greenlet import getcurrent

from greenio import await_, spawn, to_greenlet
from waiting import turns

pytestmark = pytest.mark.usefixtures("patched")

SHORT = 0.0005
AT_END = {"worker", "finish"}
"""What comes after the call."""


class Scenario:
    """One blocking call, and what ends it, once, in another green: the interrupted one may hold a lock for that."""

    def __init__(self):
        self.loop = asyncio.get_running_loop()
        self.fired = None
        self.contended = threading.Lock()

    def fire(self):
        if self.fired is None:
            self.fired = spawn(self.wake)

    def wake(self):
        pass

    def block(self):
        raise NotImplementedError

    def end(self):
        pass


class Sleeps(Scenario):
    def block(self):
        begin = time.monotonic()
        time.sleep(4 * SHORT)
        assert time.monotonic() - begin >= 4 * SHORT


class Yields(Scenario):
    def block(self):
        time.sleep(0)


class Locks(Scenario):
    kind = "Lock"

    def __init__(self):
        super().__init__()
        self.lock, self.enough = getattr(threading, self.kind)(), self.loop.create_future()
        spawn(self.hold)

    def hold(self):
        with self.lock:
            await_(self.enough)

    def wake(self):
        self.loop.call_soon(self.enough.set_result, None)

    def block(self):
        with self.lock:
            pass

    def end(self):
        assert not self.lock.locked()


class RLocks(Locks):
    kind = "RLock"


class Semaphores(Scenario):
    def __init__(self):
        super().__init__()
        self.semaphore = threading.Semaphore(0)

    def wake(self):
        self.semaphore.release()

    def block(self):
        assert self.semaphore.acquire()


class Events(Scenario):
    def __init__(self):
        super().__init__()
        self.event = threading.Event()

    def wake(self):
        self.event.set()

    def block(self):
        assert self.event.wait(10)


class Queues(Scenario):
    kind = "Queue"

    def __init__(self):
        super().__init__()
        self.queue = getattr(queue, self.kind)()

    def wake(self):
        self.queue.put(1)

    def block(self):
        assert self.queue.get() == 1


class SimpleQueues(Queues):
    kind = "SimpleQueue"


class Futures(Scenario):
    def __init__(self):
        super().__init__()
        self.future = self.loop.create_future()

    def wake(self):
        self.future.set_result(1)

    def block(self):
        assert await_(self.future) == 1


class Turns(Scenario):
    def block(self):
        await_(asyncio.sleep(0))


class AfterAPark(Futures):
    """Where the task awaits the call, so that futures wake the green themselves."""

    def block(self):
        time.sleep(SHORT / 10)
        super().block()
        await_(asyncio.sleep(0))


class Sockets(Scenario):
    def __init__(self):
        super().__init__()
        self.here, self.there = socket.socketpair()

    def wake(self):
        self.there.send(b"x")

    def block(self):
        assert self.here.recv(1) == b"x"

    def end(self):
        self.here.close()
        self.there.close()


def read_all(read):
    got = b""
    while got != b"firstx":
        got += read()


class SocketsAgain(Sockets):
    """The descriptor is watched already, so that nobody tells the present state."""

    def __init__(self):
        super().__init__()
        self.there.send(b"first")

    def block(self):
        read_all(lambda: self.here.recv(10))


class Buffers(SocketsAgain):
    def block(self):
        buffer = bytearray(10)
        read_all(lambda: bytes(buffer[: self.here.recv_into(buffer)]))


class Senders(SocketsAgain):
    def block(self):
        read_all(lambda: self.here.recvfrom(10)[0])


class Pipes(Scenario):
    def __init__(self):
        super().__init__()
        self.here, self.there = os.pipe()
        os.write(self.there, b"first")

    def wake(self):
        os.write(self.there, b"x")

    def block(self):
        read_all(lambda: os.read(self.here, 10))

    def end(self):
        os.close(self.here)
        os.close(self.there)


class Timeouts(Sockets):
    def block(self):
        self.here.settimeout(10)
        assert self.here.recv(1) == b"x"
        self.here.settimeout(4 * SHORT)
        with pytest.raises(TimeoutError):
            self.here.recv(1)


class Selects(Sockets):
    def block(self):
        begin = time.monotonic()
        assert select.select([], [], [], 4 * SHORT) == ([], [], [])
        assert time.monotonic() - begin >= 4 * SHORT
        assert select.select([self.here, self.there], [], []) == ([self.here], [], [])


class Polls(Sockets):
    def block(self):
        poll = select.poll()
        assert poll.poll(2) == []
        poll.register(self.here, select.POLLIN)
        assert poll.poll() == [(self.here.fileno(), select.POLLIN)]


SCENARIOS = [
    Sleeps,
    Yields,
    Locks,
    RLocks,
    Semaphores,
    Events,
    Queues,
    SimpleQueues,
    Futures,
    Turns,
    AfterAPark,
    Sockets,
    SocketsAgain,
    Buffers,
    Senders,
    Pipes,
    Timeouts,
    Selects,
    Polls,
]


def sleep(scenario):
    scenario.loop.call_soon_threadsafe(scenario.fire)
    time.sleep(SHORT)


def wait_in_async_code(scenario):
    scenario.loop.call_soon_threadsafe(scenario.fire)
    await_(asyncio.sleep(SHORT))


def wait_for_a_lock(scenario):
    """It gets the lock, and has parked for it."""
    scenario.loop.call_soon_threadsafe(scenario.fire)
    scenario.contended.acquire()
    scenario.loop.call_later(SHORT, scenario.contended.release)
    with scenario.contended:
        pass


@pytest.mark.parametrize("loop_kind", ["asyncio", "uvloop"], indirect=True)
@pytest.mark.parametrize("interrupt", [sleep, wait_in_async_code, wait_for_a_lock])
@pytest.mark.parametrize("make", SCENARIOS)
def test_at_every_instruction(arun, make, interrupt):
    """What ends the outer wait comes while the inner one is parked."""
    interrupted = set()

    def work(scenario, at):
        seen, green = 0, getcurrent()

        def handle(frame, event, _):
            nonlocal seen
            if not str(frame.f_globals.get("__name__")).startswith("greenio.") or getcurrent() is not green:
                return None
            frame.f_trace_opcodes = True
            if event == "opcode" and frame.f_code.co_name not in AT_END:
                seen += 1
                if seen == at:
                    interrupted.add(frame.f_code.co_name)
                    sys.settrace(None)
                    interrupt(scenario)
            return handle

        sys.settrace(handle)
        try:
            scenario.block()
        finally:
            sys.settrace(None)
        return seen < at

    async def one(at):
        scenario = make()
        await turns()
        timer = scenario.loop.call_later(SHORT, scenario.fire)
        try:
            return await asyncio.wait_for(to_greenlet(work, scenario, at), 10)
        finally:
            timer.cancel()
            scenario.fire()
            await scenario.fired
            scenario.end()

    async def main():
        await one(0)  # CPython 3.12 tells of instructions only from the second time on that somebody asks it to
        for at in itertools.count(1):
            if await one(at):
                break
        assert interrupted

    arun(main)


@pytest.mark.parametrize("kind", ["Lock", "RLock"])
def test_finalizers_that_park(arun, kind):
    """The collector runs them wherever something is allocated."""

    class Ring:
        def __init__(self):
            self.ring = self

        def __del__(self):
            time.sleep(SHORT)

    async def main():
        lock, inside = getattr(threading, kind)(), []

        def work(name):
            for _ in range(40):
                with lock:
                    Ring()
                    inside.append(name)
                    assert inside == [name]
                    time.sleep(0)
                    inside.remove(name)

        await asyncio.wait_for(asyncio.gather(*(spawn(work, number) for number in range(3))), 40)

    before = gc.get_threshold()
    gc.set_threshold(3)
    try:
        arun(main)
    finally:
        gc.set_threshold(*before)
