"""`fcntl.flock`, `lockf` and `fcntl(F_SETLKW)`, `os.lockf`: waits for what greens, descriptors and processes hold."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import inspect
import os
import struct
import subprocess
import sys
import time

import pytest

from greenio import monkey, timeout, to_greenlet
from greenio._patches import _fcntl
from waiting import until_parked

pytestmark = pytest.mark.usefixtures("patched")

HOLDER = """
import fcntl, sys
file = open(sys.argv[1], "r+")
fcntl.{name}(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.readline()
fcntl.{name}(file, fcntl.LOCK_UN)
print("free", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "locked"
    path.write_bytes(bytes(100))
    return path


@pytest.fixture(autouse=True)
def nobody_left():
    yield
    assert not _fcntl._waiters


class Holder:
    """Another process that holds a lock until it is told."""

    def __init__(self, path, name):
        command = [sys.executable, "-c", HOLDER.format(name=name), str(path)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "held\n"

    def give_back(self):
        print(file=self.process.stdin, flush=True)

    def end(self):
        self.process.communicate("\n\n")


@pytest.fixture
def hold(path):
    with contextlib.ExitStack() as holders:

        def make(name):
            holder = Holder(path, name)
            holders.callback(holder.end)
            return holder

        yield make


def request(kind):
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, 0, 0, 0)


def by_fcntl(file, operation):
    kinds = {fcntl.LOCK_EX: fcntl.F_WRLCK, fcntl.LOCK_SH: fcntl.F_RDLCK, fcntl.LOCK_UN: fcntl.F_UNLCK}
    command = fcntl.F_SETLK if operation & fcntl.LOCK_NB else fcntl.F_SETLKW
    return fcntl.fcntl(file, command, request(kinds[operation & ~fcntl.LOCK_NB]))


def by_description(file, operation):
    kinds = {fcntl.LOCK_EX: fcntl.F_WRLCK, fcntl.LOCK_SH: fcntl.F_RDLCK, fcntl.LOCK_UN: fcntl.F_UNLCK}
    command = fcntl.F_OFD_SETLK if operation & fcntl.LOCK_NB else fcntl.F_OFD_SETLKW
    return fcntl.fcntl(file, command, request(kinds[operation & ~fcntl.LOCK_NB]))


def by_os(file, operation):
    return os.lockf(file.fileno(), os.F_TLOCK if operation & fcntl.LOCK_NB else os.F_LOCK, 0)


CALLS = {
    "flock": lambda *a: fcntl.flock(*a),
    "lockf": lambda *a: fcntl.lockf(*a),
    "fcntl": by_fcntl,
    "os.lockf": by_os,
}
HOLDERS = {"flock": "flock", "lockf": "lockf", "fcntl": "lockf", "os.lockf": "lockf"}
OWN = {"flock": lambda *a: fcntl.flock(*a), "description": by_description}
"""Locks that belong to an open file description, so that greens of one process can hold them against one another."""


@pytest.fixture(params=CALLS)
def call(request):
    return request.param


@pytest.fixture(params=OWN)
def own(request):
    return OWN[request.param]


class TestOtherProcess:
    def test_parks_until_it_is_free(self, arun, path, hold, call):
        async def main():
            holder = hold(HOLDERS[call])
            with open(path, "r+") as file:
                with pytest.raises(BlockingIOError):
                    CALLS[call](file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                task = asyncio.create_task(to_greenlet(CALLS[call], file, fcntl.LOCK_EX))
                await until_parked()
                await asyncio.sleep(0.05)
                assert not task.done()
                holder.give_back()
                await asyncio.wait_for(task, 20)

        arun(main)

    def test_cancelled_wait_leaves_nothing_held(self, arun, path, hold, call):
        async def main():
            holder = hold(HOLDERS[call])
            with open(path, "r+") as file:
                task = asyncio.create_task(to_greenlet(CALLS[call], file, fcntl.LOCK_EX))
                await until_parked()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                holder.give_back()
                assert holder.process.stdout.readline() == "free\n"
                await asyncio.sleep(0.05)
                again = await asyncio.to_thread(Holder, path, HOLDERS[call])  # would hang if it were held
                again.end()

        arun(main)

    def test_what_was_taken_after_a_cancelled_wait_stays_held(self, arun, path, hold, call):
        """Whoever retries after a timeout must not lose the lock to what is left of the first attempt."""

        def retry(file, holder):
            with pytest.raises(TimeoutError), timeout(0.01):
                CALLS[call](file, fcntl.LOCK_EX)
            holder.give_back()
            CALLS[call](file, fcntl.LOCK_EX)
            time.sleep(0.05)

        async def main():
            holder = hold(HOLDERS[call])
            with open(path, "r+") as file:
                await to_greenlet(retry, file, holder)
                code = f"import fcntl; fcntl.{HOLDERS[call]}(open({str(path)!r}, 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
                done = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", code], capture_output=True)
                assert b"BlockingIOError" in done.stderr

        arun(main)


class TestSameProcess:
    def test_one_at_a_time_and_promptly(self, arun, path, own):
        inside = []

        def work(number):
            with open(path, "r+") as file:
                own(file, fcntl.LOCK_EX)
                inside.append(number)
                time.sleep(0.001)
                assert inside == [number]
                inside.remove(number)
                own(file, fcntl.LOCK_UN)

        async def main():
            begun = time.monotonic()
            await asyncio.gather(*(to_greenlet(work, number) for number in range(20)))
            assert time.monotonic() - begun < 20

        arun(main)

    def test_shared_with_shared_but_not_with_exclusive(self, arun, path, own):
        async def main():
            with open(path, "r+") as first, open(path, "r+") as second, open(path, "r+") as third:
                await to_greenlet(own, first, fcntl.LOCK_SH)
                await to_greenlet(own, second, fcntl.LOCK_SH)
                task = asyncio.create_task(to_greenlet(own, third, fcntl.LOCK_EX))
                await until_parked()
                own(first, fcntl.LOCK_UN)  # native code
                await asyncio.sleep(0.005)
                assert not task.done()
                own(second, fcntl.LOCK_UN)
                await asyncio.wait_for(task, 20)

        arun(main)

    def test_closing_the_file_gives_back(self, arun, path, own):
        async def main():
            with open(path, "r+") as second:
                with open(path, "r+") as first:
                    own(first, fcntl.LOCK_EX)
                    task = asyncio.create_task(to_greenlet(own, second, fcntl.LOCK_EX))
                    await until_parked()
                await asyncio.wait_for(task, 20)

        arun(main)

    def test_closing_what_waits(self, arun, path, own):
        async def main():
            with open(path, "r+") as first:
                own(first, fcntl.LOCK_EX)
                second = os.open(path, os.O_RDWR)
                task = asyncio.create_task(to_greenlet(own, second, fcntl.LOCK_EX))
                await until_parked()
                os.close(second)
                with pytest.raises(OSError, match="Bad file descriptor"):
                    await asyncio.wait_for(task, 20)

        arun(main)


RANGES = {
    "lockf": lambda file: fcntl.lockf(file, fcntl.LOCK_EX, 10, -20, os.SEEK_CUR),
    "os.lockf": lambda file: os.lockf(file.fileno(), os.F_LOCK, -20),
}
"""Each locks from octet 20 on where the position is 40, and ten octets or twenty."""


@pytest.mark.parametrize(("name", "last"), [("lockf", 29), ("os.lockf", 39)])
def test_range_counts_from_the_position_at_the_call(arun, path, hold, name, last):
    async def main():
        holder = hold("lockf")
        with open(path, "r+b", buffering=0) as file:
            file.seek(40)
            task = asyncio.create_task(to_greenlet(RANGES[name], file))
            await until_parked()
            file.seek(0)
            holder.give_back()
            await asyncio.wait_for(task, 20)
            for start, free in ((0, True), (19, True), (20, False), (last, False), (last + 1, True), (80, True)):
                code = (
                    f"import fcntl; file = open({str(path)!r}, 'r+'); "
                    f"fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, {start})"
                )
                done = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", code], capture_output=True)
                assert (done.returncode == 0) == free, (start, done.stderr)

    arun(main)


WRONG = [
    ("flock", -1, fcntl.LOCK_EX), ("flock", "x", fcntl.LOCK_EX), ("flock", 10**6, fcntl.LOCK_EX), ("flock", 0, 64),
    ("lockf", -1, fcntl.LOCK_EX), ("lockf", 10**6, fcntl.LOCK_EX), ("lockf", 0, 64), ("flock",), ("lockf", 0),
    ("fcntl", -1, fcntl.F_SETLKW, b""), ("fcntl", 10**6, fcntl.F_SETLKW, request(fcntl.F_WRLCK)),
    ("fcntl", 0, fcntl.F_SETLKW, b"x" * 2000), ("fcntl", 10**6, fcntl.F_GETFL), ("fcntl",),
    ("os.lockf", -1, os.F_LOCK, 0), ("os.lockf", 10**6, os.F_LOCK, 0), ("os.lockf", 0, 64, 0),
    ("os.lockf", 0, os.F_LOCK),
]  # fmt: skip


def place(name):
    module, _, name = name.rpartition(".")
    return (os if module else fcntl), name


def outcome(fn, *args):
    try:
        return fn(*args)
    except Exception as error:
        return type(error), str(error)


def test_what_is_wrong_raises_as_natively(arun):
    def outcomes(find):
        return [outcome(find(*place(name)), *args) for name, *args in WRONG]

    native = outcomes(lambda module, name: monkey.original(module.__name__, name))
    green = arun(lambda: to_greenlet(outcomes, getattr))
    named = [(kind, text.replace("_done", "")) for kind, text in native]
    assert [(kind, text) for kind, text in green if kind is not TypeError] == [
        (kind, text) for kind, text in named if kind is not TypeError
    ]
    assert [kind for kind, _ in green] == [kind for kind, _ in native]


@pytest.mark.parametrize("name", ["flock", "lockf", "fcntl", "os.lockf"])
def test_looks_as_natively(name):
    module, name = place(name)
    green, native = getattr(module, name), monkey.original(module.__name__, name)
    assert green is not native
    assert inspect.signature(green) == inspect.signature(native)
    assert (green.__name__, green.__module__, green.__doc__) == (native.__name__, module.__name__, native.__doc__)


def test_other_commands(arun, path):
    async def main():
        with open(path) as file:
            flags = monkey.original("fcntl", "fcntl")(file, fcntl.F_GETFL)
            assert fcntl.fcntl(file, fcntl.F_GETFL) == flags
            assert await to_greenlet(fcntl.fcntl, file, fcntl.F_GETFL) == flags
            answer = request(fcntl.F_RDLCK)
            assert await to_greenlet(fcntl.fcntl, file, fcntl.F_SETLKW, answer) == answer

    arun(main)
