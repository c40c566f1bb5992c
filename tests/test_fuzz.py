"""Chaos with a seed: greenlets that do anything, and a driver that cancels, closes and resolves at any turn.

Also cancel-everywhere: every park of a scenario is counted, and then cancelled, and then timed out, one by one.
"""

from __future__ import annotations

import asyncio
import errno
import os
import random
import socket
import time

import pytest

from each_park import acting_at
from greenio import _core, await_, get_loop, spawn, timeout, to_greenlet, wait_readable
from waiting import parked, until

ROUNDS = int(os.environ.get("GREENIO_FUZZ_ROUNDS", "8"))

EXPECTED_ERRNO = {errno.EBADF, errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.EINVAL}


class Chaos:
    """One round: the things that greenlets and the driver fight over."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.loop = asyncio.get_running_loop()
        self.pairs = [socket.socketpair() for _ in range(4)]
        self.futures = [self.loop.create_future() for _ in range(4)]
        self.ends = []
        for pair in self.pairs:
            for sock in pair:
                sock.settimeout(self.random.choice([None, 0.003, 5]))

    def close(self):
        for pair in self.pairs:
            for sock in pair:
                sock.close()

    def one_of_the_sockets(self):
        return self.random.choice(self.random.choice(self.pairs))

    def step(self, depth):
        choice = self.random.randrange(12)
        if choice == 0:
            time.sleep(0)
        elif choice == 1:
            time.sleep(self.random.random() * 0.003)
        elif choice in (2, 3):
            self.one_of_the_sockets().recv(self.random.choice([1, 100]))
        elif choice in (4, 5):
            self.one_of_the_sockets().sendall(b"x" * self.random.choice([1, 10, 1000]))
        elif choice == 6:
            await_(asyncio.shield(self.random.choice(self.futures)))
        elif choice == 7:
            await_(asyncio.sleep(self.random.choice([0, 0.001])))
        elif choice == 8 and depth < 3:
            await_(to_greenlet(self.steps, depth + 1))
        elif choice == 9 and depth < 3:
            with timeout(self.random.random() * 0.002):
                self.steps(depth + 1)
        elif choice == 10 and depth < 3:
            await_(self.driven(depth + 1))
        elif choice == 11:
            wait_readable(self.one_of_the_sockets(), 0.002)

    async def driven(self, depth):
        await asyncio.sleep(0)
        self.steps(depth)
        await to_greenlet(self.step, depth)

    def steps(self, depth=0):
        for _ in range(self.random.randrange(1, 6)):
            try:
                self.step(depth)
            except TimeoutError:
                pass
            except OSError as error:
                assert error.errno in EXPECTED_ERRNO, error
            except ValueError as error:
                assert "file descriptor" in str(error) or "fileno" in str(error), error

    def call(self, number):
        try:
            self.steps()
            if self.random.random() < 0.3:
                try:
                    time.sleep(0.001)
                finally:
                    time.sleep(0)
            return number
        finally:
            self.ends.append(number)
            assert asyncio._get_running_loop() is None

    def disturb(self, tasks):
        choice = self.random.randrange(8)
        if choice in (0, 1):
            self.random.choice(tasks).cancel()
        elif choice == 2:
            self.one_of_the_sockets().close()
        elif choice == 3:
            index = self.random.randrange(len(self.pairs))
            for sock in self.pairs[index]:
                sock.close()
            self.pairs[index] = socket.socketpair()  # the numbers are used again at once
        elif choice == 4:
            index = self.random.randrange(len(self.futures))
            if not self.futures[index].done():
                self.futures[index].set_result(None)
            self.futures[index] = self.loop.create_future()
        elif choice == 5:
            for sock in self.pairs[self.random.randrange(len(self.pairs))]:
                try:
                    socket.socket.send(sock, b"y", socket.MSG_DONTWAIT)
                except OSError:
                    pass
        elif choice == 6:
            task = self.random.choice(tasks)
            task.cancel()
            task.cancel()

    async def play(self):
        calls = [to_greenlet(self.call, number) for number in range(12)]
        tasks = [asyncio.ensure_future(call) for call in calls]
        beats = 0
        for _ in range(60):
            for _ in range(self.random.randrange(3)):
                await asyncio.sleep(0)
            if self.random.random() < 0.2:
                await asyncio.sleep(0.001)
            beats += 1
            self.disturb(tasks)
        for future in self.futures:
            if not future.done():
                future.set_result(None)
        for task in tasks:
            task.cancel()
        done, pending = await asyncio.wait(tasks, timeout=20)
        if pending:  # a call may swallow one cancellation: the last wait of a call may still be ahead
            for pair in self.pairs:
                for sock in pair:
                    sock.close()
            done, pending = await asyncio.wait(tasks, timeout=20)
        assert not pending
        for number, task in enumerate(tasks):
            if not task.cancelled():
                assert task.exception() is None, task.exception()
                assert task.result() == number
        assert len(self.ends) == len(set(self.ends))
        assert beats == 60


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_chaos(arun, patched, seed):
    async def main():
        chaos = Chaos(seed)
        try:
            await chaos.play()
        finally:
            chaos.close()
        await until(lambda: parked() == 0)
        assert not any(side.waiters for watch in _core.registrations() for side in (watch.reader, watch.writer))
        loop = asyncio.get_running_loop()
        host, active = loop._greenio_host, loop.create_future()
        assert not host.calls
        loop.call_soon(lambda: active.set_result(host.thread.active))
        assert await active is None

    arun(main)


# Cancel everywhere


def scenario(log):
    """Every kind of park, with cleaning up that parks too."""
    left, right = socket.socketpair()
    with left, right:
        try:
            time.sleep(0)
            time.sleep(0.0005)
            child = spawn(pong, right)
            try:
                left.settimeout(5)
                left.sendall(b"ping")
                log.append(left.recv(10))
                log.append(await_(driven()))
                log.append(await_(to_greenlet(nested)))
                with timeout(50):
                    left.sendall(b"again")
                    log.append(left.recv(10))
            finally:
                child.cancel()
                await_(asyncio.wait([child]))
        finally:
            time.sleep(0)
            log.append("end")
    return "done"


def pong(sock):
    while data := sock.recv(10):
        time.sleep(0.0005)
        sock.sendall(data.upper())


async def driven():
    await asyncio.sleep(0)
    time.sleep(0.0005)
    return await asyncio.sleep(0.0005, "driven")


def nested():
    time.sleep(0.0005)
    return await_(asyncio.sleep(0.0005, "nested"))


class Parks:
    """Looks at the green's state at every turn, and acts at its n-th park."""

    def __init__(self, act_at):
        self.count = 0
        self.act_at = act_at

    def watch(self, loop, task, act):
        """Count a park whenever the waiting state of the greens of the scenario changes to a new one."""
        seen = set()

        def look():
            if task.done():
                return
            for call in tuple(loop._greenio_host.calls):
                green = call.green
                state = (id(green), id(green.what), green.timer_when, green.operations, id(green.awaited))
                if green.waiting and green.task is task and state not in seen:
                    seen.add(state)
                    self.count += 1
                    if self.count == self.act_at:
                        act()
            loop.call_soon(look)

        look()


def run_scenario(arun, act_at, act):
    outcome = {}

    async def main():
        loop = asyncio.get_running_loop()
        log = []
        task = asyncio.ensure_future(to_greenlet(scenario, log))
        await asyncio.sleep(0)
        parks = Parks(act_at)
        parks.watch(loop, task, lambda: act(task))
        await asyncio.wait([task], timeout=20)
        assert task.done(), "it hangs"
        await until(lambda: parked() == 0)
        assert not loop._greenio_host.calls
        outcome.update(count=parks.count, log=log, cancelled=task.cancelled())
        if not task.cancelled():
            outcome["result"] = task.result()
        if hasattr(task, "cancelling"):
            outcome["cancelling"] = task.cancelling()

    arun(main)
    return outcome


def test_cancel_everywhere(arun, patched):
    whole = run_scenario(arun, -1, lambda task: None)
    assert whole["result"] == "done"
    assert whole["log"] == [b"PING", "driven", "nested", b"AGAIN", "end"]
    assert whole["count"] > 8
    for number in range(1, whole["count"] + 1):
        outcome = run_scenario(arun, number, lambda task: task.cancel())
        assert outcome["log"][-1] in ("end", "nested", "driven", b"PING", b"AGAIN") or outcome["log"] == []
        assert outcome["cancelled"] or outcome.get("result") == "done"
        if "cancelling" in outcome and outcome["cancelled"]:
            assert outcome["cancelling"] == 1


def test_cancel_twice_everywhere(arun, patched):
    whole = run_scenario(arun, -1, lambda task: None)
    for number in range(1, whole["count"] + 1):

        def twice(task):
            task.cancel()
            asyncio.get_running_loop().call_soon(task.cancel)
            asyncio.get_running_loop().call_soon(lambda: asyncio.get_running_loop().call_soon(task.cancel))

        outcome = run_scenario(arun, number, twice)
        assert outcome["cancelled"] or outcome.get("result") == "done"


@pytest.mark.parametrize("how", ["cancel", "timeout"])
def test_at_exactly_that_park(arun, patched, monkeypatch, how):
    def once(act_at):
        outcome = []

        def limited(log):
            try:
                with timeout(None) as limit:
                    limits.append(limit)
                    return scenario(log)
            except TimeoutError:
                get_loop()
                time.sleep(0)
                return "timed out"

        def act(green):
            if how == "cancel":
                green.task.cancel()
            else:
                limits[0].reschedule(get_loop().time() - 1)

        limits = []
        with monkeypatch.context() as scope:
            count = acting_at(scope, act_at, act)

            async def main():
                log = []
                task = asyncio.ensure_future(to_greenlet(limited, log))
                done, _ = await asyncio.wait([task], timeout=20)
                assert done, f"it hangs after park {act_at}"
                await until(lambda: parked() == 0)
                outcome.append("cancelled" if task.cancelled() else task.result())

            arun(main)
        return count[0], outcome[0]

    total, result = once(-1)
    assert result == "done"
    ends = [once(number)[1] for number in range(1, total + 1)]
    assert set(ends) <= {"cancelled", "timed out", "done"}
    assert ("cancelled" if how == "cancel" else "timed out") in ends
