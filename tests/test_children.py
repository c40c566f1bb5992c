"""`os.wait` and its like: any child, one child, a group of children, stops and goings on; and `os.system`."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import pty
import signal
import subprocess
import sys
import threading
import time

import pytest

from greenio import monkey, spawn, to_greenlet
from greenio._patches import _children, _process_ends
from waiting import turns, until, until_parked

pytestmark = [
    pytest.mark.usefixtures("patched"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="what is waited for here is what Linux has"),
]


class Alarm(Exception):
    """What a signal handler raises."""


SCRIPT = 'read line; exit "$0"'


class Child:
    """A process that exits with a status when it is told to."""

    def __init__(self, status, group=None):
        reads, self.writes = os.pipe()
        options = {} if group is None else {"setpgroup": group}
        actions = [(os.POSIX_SPAWN_DUP2, reads, 0)]
        self.pid = os.posix_spawn(
            "/bin/sh", ["sh", "-c", SCRIPT, str(status)], os.environ, file_actions=actions, **options
        )
        os.close(reads)

    def end(self):
        """Tell it to exit."""
        if self.writes is not None:
            os.close(self.writes)
            self.writes = None

    def clean_up(self):
        """End it however the test went; its status must have been taken by then."""
        self.end()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                monkey.original("os", "waitpid")(self.pid, 0)
                raise AssertionError("its status was left")


@pytest.fixture
def start():
    children = []

    def make(status=0, group=None):
        child = Child(status, group)
        children.append(child)
        return child

    yield make
    for child in children:
        child.clean_up()


def by_waitid(idtype, which=lambda child: child.pid, options=os.WEXITED):
    def wait(child):
        found = os.waitid(idtype, which(child), options)
        assert found.si_code == os.CLD_EXITED
        return found.si_pid, found.si_status << 8

    return wait


def by_pidfd(child):
    fd = os.pidfd_open(child.pid)
    try:
        return by_waitid(os.P_PIDFD, lambda _: fd)(child)
    finally:
        os.close(fd)


def group_of(child):
    return os.getpgid(child.pid)


ONE = {
    "waitpid": lambda child: os.waitpid(child.pid, 0),
    "waitpid, stops too": lambda child: os.waitpid(child.pid, os.WUNTRACED | os.WCONTINUED),
    "wait4": lambda child: os.wait4(child.pid, 0)[:2],
    "waitid": by_waitid(os.P_PID),
    "waitid, stops too": by_waitid(os.P_PID, options=os.WEXITED | os.WSTOPPED | os.WCONTINUED),
    "waitid by pidfd": by_pidfd,
}
ANY = {
    "wait": lambda child: os.wait(),
    "waitpid": lambda child: os.waitpid(-1, 0),
    "wait3": lambda child: os.wait3(0)[:2],
    "wait4": lambda child: os.wait4(-1, os.WUNTRACED)[:2],
    "waitid": by_waitid(os.P_ALL, lambda _: 0),
    "waitpid, own group": lambda child: os.waitpid(0, 0),
    "waitpid, a group": lambda child: os.waitpid(-group_of(child), 0),
    "waitid, a group": by_waitid(os.P_PGID, group_of),
}
CALLS = {**{f"one: {name}": call for name, call in ONE.items()}, **{f"any: {name}": call for name, call in ANY.items()}}


@pytest.fixture(params=CALLS)
def call(request):
    return CALLS[request.param]


class TestEnds:
    def test_parks_until_the_child_has_ended(self, arun, start, way, call):
        async def main():
            child = start(3)
            task = spawn(call, child)
            await until_parked()
            child.end()
            assert await task == (child.pid, 3 << 8)

        arun(main)

    def test_takes_a_status_that_is_there(self, arun, start, call):
        async def main():
            child = start(4)
            child.end()
            await asyncio.to_thread(os.waitid, os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
            assert await to_greenlet(call, child) == (child.pid, 4 << 8)

        arun(main)

    def test_cancelled_wait_takes_nothing(self, arun, start, way, call):
        async def main():
            child = start(5)
            task = spawn(call, child)
            await until_parked()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            child.end()
            assert await to_greenlet(os.waitpid, child.pid, 0) == (child.pid, 5 << 8)
            await until(lambda: not _process_ends._ends)

        arun(main)

    def test_cancelled_in_the_turn_in_which_it_ends(self, arun, start, call):
        async def main():
            child = start(5)
            task = spawn(call, child)
            await until_parked()
            child.end()
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await to_greenlet(call, child) == (child.pid, 5 << 8)

        arun(main)

    def test_killed_by_a_signal(self, arun, start):
        async def main():
            child = start()
            task = spawn(os.waitpid, child.pid, 0)
            await until_parked()
            os.kill(child.pid, signal.SIGKILL)
            assert await task == (child.pid, signal.SIGKILL)

        arun(main)

    def test_left_where_it_is(self, arun, start):
        async def main():
            child = start(2)
            tasks = [spawn(os.waitid, os.P_PID, child.pid, os.WEXITED | os.WNOWAIT) for _ in range(3)]
            await until_parked(3)
            child.end()
            assert {(each.si_pid, each.si_status) for each in await asyncio.gather(*tasks)} == {(child.pid, 2)}
            assert await to_greenlet(os.waitpid, child.pid, 0) == (child.pid, 2 << 8)

        arun(main)

    @pytest.mark.parametrize("by_pid", [True, False], ids=["by pid", "any"])
    def test_one_of_many_gets_the_status(self, arun, start, by_pid):
        def wait():
            try:
                return os.waitpid(child.pid if by_pid else -1, 0)
            except ChildProcessError:
                return None

        async def inner():
            return await to_greenlet(wait)

        async def main():
            nonlocal child
            child, last = start(6), start()
            tasks = [spawn(wait), spawn(wait)]
            tasks += [asyncio.ensure_future(asyncio.to_thread(wait))]
            tasks += [asyncio.ensure_future(asyncio.to_thread(asyncio.run, inner()))]
            await until_parked(3)
            child.end()
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            last.end()
            if by_pid:
                await to_greenlet(os.waitpid, last.pid, 0)
            found = await asyncio.gather(*tasks)
            assert found.count((child.pid, 6 << 8)) == 1
            assert found.count((last.pid, 0)) == (not by_pid)

        child = None
        arun(main)

    def test_many_children_for_one_wait_each(self, arun, start):
        async def main():
            children = [start(each) for each in range(12)]
            tasks = [spawn(os.wait) for _ in children]
            await until_parked(12)
            for child in children:
                child.end()
            found = await asyncio.gather(*tasks)
            assert sorted(found) == sorted((child.pid, each << 8) for each, child in enumerate(children))

        arun(main)

    def test_child_that_is_started_later(self, arun, start, way):
        async def main():
            first = start()
            task = spawn(os.wait)
            await until_parked()
            later = start(8)
            later.end()
            assert await task == (later.pid, 8 << 8)
            first.end()
            assert await to_greenlet(os.wait) == (first.pid, 0)

        arun(main)

    def test_another_group_is_left_alone(self, arun, start):
        async def main():
            own, other = start(1), start(2, group=0)
            task = spawn(os.waitpid, -other.pid, 0)
            await until_parked()
            own.end()
            await asyncio.to_thread(os.waitid, os.P_PID, own.pid, os.WEXITED | os.WNOWAIT)
            await asyncio.sleep(0.01)
            assert not task.done()
            other.end()
            assert await task == (other.pid, 2 << 8)
            assert await to_greenlet(os.waitpid, 0, 0) == (own.pid, 1 << 8)

        arun(main)

    @pytest.mark.parametrize("name", ANY)
    def test_end_is_told_without_delay(self, arun, start, monkeypatch, name):
        monkeypatch.setattr(_children, "SHORTEST", 1000)

        async def main():
            child = start(1)
            task = spawn(ANY[name], child)
            await until_parked()
            child.end()
            assert await asyncio.wait_for(task, 20) == (child.pid, 1 << 8)

        arun(main)

    def test_pidfd_that_is_closed_meanwhile(self, arun, start):
        async def main():
            child = start(1)
            fd = os.pidfd_open(child.pid)
            task = spawn(os.waitid, os.P_PIDFD, fd, os.WEXITED)
            await until_parked()
            os.close(fd)
            child.end()
            with pytest.raises(OSError):
                await task
            await to_greenlet(os.waitpid, child.pid, 0)

        arun(main)

    def test_pidfd_that_does_not_block(self, arun, start):
        def body(fd):
            with pytest.raises(BlockingIOError):
                os.waitid(os.P_PIDFD, fd, os.WEXITED)

        async def main():
            child = start(1)
            fd = os.pidfd_open(child.pid)
            os.set_blocking(fd, False)
            if os.get_blocking(fd):
                pytest.skip("this kernel has no pidfds that do not block")
            await to_greenlet(body, fd)
            os.close(fd)
            child.end()
            await to_greenlet(os.waitpid, child.pid, 0)

        arun(main)


class TestChanges:
    @pytest.mark.parametrize("which", ["one", "any", "pidfd"])
    def test_stops_and_goes_on(self, arun, start, way, which):
        def stopped(child):
            if which == "pidfd":
                return os.waitid(os.P_PIDFD, fd, os.WSTOPPED).si_status
            return os.WSTOPSIG(os.waitpid(child.pid if which == "one" else -1, os.WUNTRACED)[1])

        def going_on(child):
            if which == "pidfd":
                return os.waitid(os.P_PIDFD, fd, os.WCONTINUED).si_status == signal.SIGCONT
            return os.WIFCONTINUED(os.waitpid(child.pid if which == "one" else -1, os.WCONTINUED)[1])

        async def main():
            nonlocal fd
            child = start(1)
            fd = os.pidfd_open(child.pid)
            try:
                task = spawn(stopped, child)
                await until_parked()
                os.kill(child.pid, signal.SIGSTOP)
                assert await task == signal.SIGSTOP
                task = spawn(going_on, child)
                await until_parked()
                os.kill(child.pid, signal.SIGCONT)
                assert await task
                task = spawn(stopped, child)
                await until_parked()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            finally:
                os.close(fd)
            child.end()
            assert await to_greenlet(os.waitpid, child.pid, 0) == (child.pid, 1 << 8)

        fd = -1
        arun(main)


class TestNative:
    def test_does_not_wait_when_told_not_to(self, arun, start):
        def body(child):
            assert os.waitpid(child.pid, os.WNOHANG) == (0, 0)
            assert os.waitpid(-1, os.WNOHANG) == (0, 0)
            assert os.wait3(os.WNOHANG)[:2] == (0, 0)
            assert os.wait4(child.pid, options=os.WNOHANG)[:2] == (0, 0)
            assert os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG) is None

        async def main():
            child = start()
            await to_greenlet(body, child)
            child.end()
            await to_greenlet(os.waitpid, child.pid, 0)

        arun(main)

    @pytest.mark.parametrize(
        "call",
        [
            lambda: os.waitpid(os.getpid(), 0),
            lambda: os.waitpid(-(2**20), 0),
            lambda: os.waitpid(1, 1 << 20),
            lambda: os.waitpid("1", 0),
            lambda: os.waitpid(1, "0"),
            lambda: os.waitpid(1),
            lambda: os.waitpid(2**70, 0),
            lambda: os.wait3(1.5),
            lambda: os.wait3(),
            lambda: os.wait4(os.getpid(), 0),
            lambda: os.wait4(pid=os.getpid(), options=0),
            lambda: os.wait4("1", 0),
            lambda: os.waitid(os.P_PID, os.getpid(), os.WEXITED),
            lambda: os.waitid(os.P_PID, os.getpid(), 0),
            lambda: os.waitid(os.P_PID, "1", os.WEXITED),
            lambda: os.waitid(77, 1, os.WEXITED),
            lambda: os.waitid(os.P_PIDFD, 0, os.WEXITED),
            lambda: os.waitid(os.P_PIDFD, -1, os.WEXITED),
            lambda: os.waitid(os.P_PIDFD, "0", os.WEXITED),
            lambda: os.waitid(os.P_PGID, 2**20, os.WEXITED),
            lambda: os.wait(1),
        ],
    )
    def test_raises_what_the_native_call_raises(self, arun, call):
        def error():
            with pytest.raises(Exception) as caught:
                call()
            if isinstance(caught.value, TypeError) and "argument" in str(caught.value):
                return TypeError
            return type(caught.value), caught.value.args

        async def main():
            assert await to_greenlet(error) == error()

        arun(main)

    def test_looks_native(self):
        for name in ("wait", "waitpid", "wait3", "wait4", "waitid", "system"):
            assert monkey.is_patched(f"os.{name}")
            assert inspect.isbuiltin(getattr(os, name))
            assert inspect.signature(getattr(os, name)) == inspect.signature(monkey.original("os", name))


class TestSystem:
    def test_parks_until_the_command_has_ended(self, arun, tmp_path):
        os.mkfifo(tmp_path / "fifo")

        async def main():
            task = spawn(os.system, f"cat '{tmp_path}/fifo' >/dev/null; exit 3")
            await until_parked()
            await asyncio.to_thread((tmp_path / "fifo").write_bytes, b"")
            assert await task == 3 << 8

        arun(main)

    def test_many_at_once(self, arun, tmp_path):
        os.mkfifo(tmp_path / "fifo")

        async def main():
            tasks = [spawn(os.system, f"read line <'{tmp_path}/fifo'") for _ in range(40)]
            await until_parked(40)
            fifo = os.open(tmp_path / "fifo", os.O_RDWR)
            os.write(fifo, b"\n" * 40)
            await asyncio.gather(*tasks)
            os.close(fifo)

        arun(main)

    def test_ignores_interrupts_meanwhile(self, arun):
        async def main():
            assert await to_greenlet(os.system, "kill -INT $PPID; kill -QUIT $PPID; exit 2") == 2 << 8

        arun(main)

    def test_cancelled(self, arun, tmp_path):
        os.mkfifo(tmp_path / "fifo")

        async def main():
            task = spawn(os.system, f"cat '{tmp_path}/fifo' >/dev/null")
            await until_parked()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.to_thread((tmp_path / "fifo").write_bytes, b"")

        arun(main)

    def test_what_a_handler_raises_comes_when_the_command_has_ended(self, arun, tmp_path):
        os.mkfifo(tmp_path / "fifo")
        raised = threading.Event()

        def ring(signum, frame):
            raised.set()
            raise Alarm

        def system():
            signal.signal(signal.SIGUSR1, ring)
            with pytest.raises(Alarm):
                os.system(f"cat '{tmp_path}/fifo' >/dev/null; echo done >'{tmp_path}/end'")
            return (tmp_path / "end").read_text()

        async def main():
            task = spawn(system)
            await until_parked()
            asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGUSR1)
            await until(raised.is_set)
            await turns(20)
            assert not task.done()
            await asyncio.to_thread((tmp_path / "fifo").write_bytes, b"")
            assert await task == "done\n"

        before = signal.getsignal(signal.SIGUSR1)
        try:
            arun(main)
        finally:
            signal.signal(signal.SIGUSR1, before)
            os.close(os.open(tmp_path / "fifo", os.O_RDWR))  # ends the command, if the test has failed

    @pytest.mark.parametrize("command", [3, "a\0b", None])
    def test_raises_what_the_native_call_raises(self, arun, command):
        def error():
            with pytest.raises((TypeError, ValueError)) as caught:
                os.system(command)
            return type(caught.value), caught.value.args

        async def main():
            assert await to_greenlet(error) == error()

        arun(main)


class TestWhatStandsOnThem:
    def test_spawn(self, arun):
        async def main():
            task = spawn(os.spawnlp, os.P_WAIT, "sh", "sh", "-c", "sleep 0.05; exit 3")
            await until_parked()
            assert await task == 3

        arun(main)

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    def test_fork(self, arun):
        def body():
            pid = os.fork()
            if not pid:
                time.sleep(0.02)  # native in the child
                os._exit(7)
            return os.waitpid(pid, 0) == (pid, 7 << 8)

        async def main():
            assert await to_greenlet(body)

        arun(main)

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    def test_pty(self, arun, capfd):
        async def main():
            return await to_greenlet(pty.spawn, ["sh", "-c", "sleep 0.02; exit 2"], lambda fd: os.read(fd, 100))

        stdin = os.dup(0)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        try:
            assert arun(main) == 2 << 8
        finally:
            os.dup2(stdin, 0)
            os.close(stdin)

    def test_beside_popen(self, arun):
        async def main():
            child = subprocess.Popen(["sh", "-c", "read line; exit 3"], stdin=subprocess.PIPE)
            popen, any_child = spawn(child.wait), spawn(os.waitpid, child.pid, 0)
            await until_parked(2)
            child.stdin.close()
            found = await asyncio.gather(popen, any_child, return_exceptions=True)
            assert found[0] == 3 or found[1] == (child.pid, 3 << 8)

        arun(main)
