"""`subprocess` in green code: waits, pipes, failed starts, cancellations; no status and no octet is lost."""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from each_park import acting_at
from greenio import get_loop, monkey, spawn, to_greenlet, wait_readable
from greenio._core import _green, _readiness
from greenio._patches import _process_ends
from waiting import parked, until, until_parked

pytestmark = pytest.mark.usefixtures("patched")

PIPE = subprocess.PIPE
BIG = bytes(range(256)) * 40_000
HOLD = ["cat"]
"""Lives until its input is closed."""


def exits(status):
    """Make a command that waits for the end of its input and then exits with a status."""
    return ["sh", "-c", f"cat >/dev/null; exit {status}"]


def is_gone(pid):
    """Tell whether no process is left of that number, not even a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def parks_in(fn):
    """Run a function green until it has parked once; its children may be quicker than a busy machine lets it be."""

    async def main():
        for _ in range(5):
            task = spawn(fn)
            await until(lambda task=task: parked() or task.done())
            has_parked = not task.done()
            found = await task
            if has_parked:
                return found
        raise AssertionError("it never parked")

    return main


class TestWait:
    def test_parks_until_the_child_has_ended(self, arun, way):
        async def main():
            with subprocess.Popen(exits(7), stdin=PIPE) as child:
                task = spawn(child.wait)
                await until_parked()
                child.stdin.close()
                assert await task == child.returncode == 7
                assert is_gone(child.pid)

        arun(main)

    def test_does_not_park_after_the_end(self, arun):
        def body():
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
            assert child.wait() == 3

        async def main():
            nonlocal child
            child = subprocess.Popen(["sh", "-c", "exit 3"])
            await asyncio.to_thread(os.waitid, os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
            task = spawn(body)
            await asyncio.sleep(0)
            assert task.done() or not parked()
            await task

        child = None
        arun(main)

    def test_tells_which_signal_killed_it(self, arun, way):
        async def main():
            child = subprocess.Popen(HOLD, stdin=PIPE)
            with child.stdin:
                task = spawn(child.wait)
                await until_parked()
                child.terminate()
                assert await task == -signal.SIGTERM

        arun(main)

    def test_times_out_and_keeps_the_status(self, arun, way):
        async def main():
            with subprocess.Popen(exits(5), stdin=PIPE) as child:
                began = time.monotonic()
                with pytest.raises(subprocess.TimeoutExpired) as caught:
                    await to_greenlet(child.wait, 0.05)
                assert 0.05 <= time.monotonic() - began < 5
                assert caught.value.timeout == 0.05
                assert caught.value.cmd == child.args
                assert child.returncode is None
                child.stdin.close()
                assert await to_greenlet(child.wait, 20) == 5

        arun(main)

    @pytest.mark.parametrize("timeout", [0, -1, 0.0, False])
    def test_a_timeout_of_nothing_does_not_park(self, arun, timeout):
        def body(child):
            with pytest.raises(subprocess.TimeoutExpired) as caught:
                child.wait(timeout)
            assert caught.value.timeout == timeout

        async def main():
            with subprocess.Popen(HOLD, stdin=PIPE) as child:
                await to_greenlet(body, child)
                assert not parked()

        arun(main)

    @pytest.mark.parametrize("timeout", [float("inf"), 1e12, float("nan"), 20])
    def test_takes_any_timeout_that_the_native_call_takes(self, arun, timeout):
        async def main():
            with subprocess.Popen(exits(0), stdin=PIPE) as child:
                task = spawn(child.wait, timeout)
                await until_parked()
                child.stdin.close()
                assert await task == 0

        arun(main)

    @pytest.mark.parametrize("timeout", ["1", []])
    def test_refuses_what_the_native_call_refuses(self, arun, timeout):
        def error(child):
            with pytest.raises(TypeError) as caught:
                child.wait(timeout)
            return str(caught.value)

        async def main():
            with subprocess.Popen(HOLD, stdin=PIPE) as child:
                assert await to_greenlet(error, child) == error(child)

        arun(main)

    def test_cancelled_wait_keeps_the_status(self, arun, way):
        async def main():
            with subprocess.Popen(exits(4), stdin=PIPE) as child:
                task = spawn(child.wait)
                await until_parked()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert child.returncode is None
                child.stdin.close()
                assert await to_greenlet(child.wait) == 4
            await until(lambda: not _process_ends._ends)

        arun(main)

    def test_cancelled_in_the_turn_in_which_the_child_ends(self, arun, way):
        async def main():
            with subprocess.Popen(exits(4), stdin=PIPE) as child:
                task = spawn(child.wait)
                await until_parked()
                child.stdin.close()
                os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert await to_greenlet(child.wait) == 4

        arun(main)

    def test_greens_and_threads_wait_for_one_child(self, arun, way):
        async def main():
            with subprocess.Popen(exits(9), stdin=PIPE) as child:
                waits = [spawn(child.wait) for _ in range(3)]
                waits += [spawn(child.wait, 20)]
                waits += [asyncio.ensure_future(asyncio.to_thread(child.wait)) for _ in range(2)]
                waits += [asyncio.ensure_future(asyncio.to_thread(child.wait, 20))]
                await until_parked(4)
                child.stdin.close()
                assert await asyncio.gather(*waits) == [9] * 7

        arun(main)

    def test_two_loops_wait_for_one_child(self, arun, way):
        async def wait_there(child):
            return await to_greenlet(child.wait)

        async def main():
            with subprocess.Popen(exits(6), stdin=PIPE) as child:
                other = asyncio.ensure_future(asyncio.to_thread(asyncio.run, wait_there(child)))
                here = spawn(child.wait)
                await until_parked(2)
                child.stdin.close()
                assert await asyncio.gather(here, other) == [6, 6]

        arun(main)

    def test_loops_that_run_in_green_code(self, arun):
        async def inner(child):
            return await to_greenlet(child.wait)

        async def main():
            with subprocess.Popen(exits(6), stdin=PIPE) as child:
                task = spawn(asyncio.run, inner(child))
                await until_parked(2)
                child.stdin.close()
                assert await task == 6

        arun(main)

    def test_somebody_else_takes_the_status(self, arun, way):
        async def main():
            with subprocess.Popen(exits(6), stdin=PIPE) as child:
                task = spawn(child.wait)
                await until_parked()
                child.stdin.close()
                os.waitpid(child.pid, 0)
                assert await task == 0  # what the native call says of a status that is gone

        arun(main)

    def test_ignored_children_have_no_status(self, arun, way):
        async def main():
            before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
            try:
                with subprocess.Popen(exits(6), stdin=PIPE) as child:
                    task = spawn(child.wait)
                    await until_parked()
                    child.stdin.close()
                    assert await task == 0
            finally:
                signal.signal(signal.SIGCHLD, before)

        arun(main)

    def test_child_of_another_process_is_not_waited_for(self, arun):
        async def main():
            with subprocess.Popen(HOLD, stdin=PIPE) as child:
                pid, child.pid = child.pid, os.getppid()
                assert await to_greenlet(child.wait) == 0
                child.pid, child.returncode = pid, None

        arun(main)

    def test_poll_does_not_park(self, arun):
        async def main():
            with subprocess.Popen(HOLD, stdin=PIPE) as child:
                assert await to_greenlet(child.poll) is None
                waiter = spawn(child.wait)
                await until_parked()
                assert await to_greenlet(child.poll) is None
                await to_greenlet(child.kill)
                assert await waiter == child.poll() == -signal.SIGKILL

        arun(main)

    def test_what_a_handler_raises_comes_out_of_the_wait(self, arun):
        class Alarm(Exception):
            pass

        def body(child):
            def handler(*_):
                raise Alarm

            before = signal.signal(signal.SIGALRM, handler)
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            try:
                with pytest.raises(Alarm):
                    child.wait()
            finally:
                signal.signal(signal.SIGALRM, before)

        async def main():
            with subprocess.Popen(HOLD, stdin=PIPE) as child:
                await to_greenlet(body, child)

        arun(main)

    def test_interrupt_gives_the_child_a_moment(self, arun):
        async def main():
            with subprocess.Popen(exits(2), stdin=PIPE) as child:

                def body():
                    with pytest.raises(KeyboardInterrupt):
                        child.wait()
                    assert child.returncode == 2

                task = spawn(body)
                await until_parked()
                green = next(green for green in _green.greens() if green.waiting)
                green.waiting = False
                get = asyncio.get_running_loop()
                get.call_soon(child.stdin.close)
                get.call_soon(_green.resume, green, KeyboardInterrupt())
                await task

        arun(main)


class TestLate:
    def test_popen_that_is_older_than_the_patch(self, arun, way):
        monkey.unpatch_all()
        child = subprocess.Popen(exits(3), stdin=PIPE)
        native = threading.Thread(target=child.wait)  # waits with the Popen's native lock held
        native.start()
        while child._waitpid_lock.acquire(False):
            child._waitpid_lock.release()
        with monkey.patched():

            async def main():
                tasks = [spawn(child.wait), spawn(child.wait, 20)]
                await until_parked(2)
                with pytest.raises(subprocess.TimeoutExpired):
                    await to_greenlet(child.wait, 0.01)
                child.stdin.close()
                assert await asyncio.gather(*tasks) == [3, 3]

            arun(main)
        native.join()

    def test_pipes_that_are_older_than_the_patch(self, arun):
        monkey.unpatch_all()
        child = subprocess.Popen(["sh", "-c", "read line; echo late"], stdin=PIPE, stdout=PIPE)
        stdin, child.stdin = child.stdin, None
        with monkey.patched():

            async def main():
                task = spawn(child.communicate)
                await until_parked()
                stdin.close()
                assert await task == (b"late\n", None)

            arun(main)


class TestCommunicate:
    @pytest.mark.parametrize("pipe", ["stdout", "stderr"])
    @pytest.mark.parametrize("bufsize", [-1, 0])
    def test_receives_from_one_pipe(self, arun, tmp_path, pipe, bufsize):
        ready = tmp_path / "fifo"
        os.mkfifo(ready)
        descriptor = 1 if pipe == "stdout" else 2

        def body():
            command = ["sh", "-c", f"printf a >&{descriptor}; cat {ready} >&{descriptor}; exit 2"]
            child = subprocess.Popen(command, bufsize=bufsize, **{pipe: PIPE})
            found = child.communicate()
            assert getattr(child, pipe).closed
            assert child.returncode == 2
            return found[["stdout", "stderr"].index(pipe)]

        async def main():
            task = spawn(body)
            await until_parked()
            await asyncio.to_thread(ready.write_bytes, BIG)
            assert await task == b"a" + BIG

        arun(main)

    @pytest.mark.parametrize("bufsize", [-1, 0])
    def test_sends_through_one_pipe(self, arun, tmp_path, bufsize):
        def body():
            with open(tmp_path / "out", "wb") as out:
                child = subprocess.Popen(["sh", "-c", "sleep 0.05; cat"], stdin=PIPE, stdout=out, bufsize=bufsize)
                child.stdin.write(b"before ")
                assert child.communicate(BIG) == (None, None)
            return child.returncode

        assert arun(parks_in(body)) == 0
        assert (tmp_path / "out").read_bytes() == b"before " + BIG

    def test_sends_and_receives_at_once(self, arun):
        def body():
            child = subprocess.Popen(["tee", "/dev/stderr"], stdin=PIPE, stdout=PIPE, stderr=PIPE)
            return child.communicate(BIG)

        assert arun(parks_in(body)) == (BIG, BIG)

    def test_many_at_once_beside_a_running_loop(self, arun):
        async def main():
            found = await asyncio.gather(
                *(to_greenlet(subprocess.run, ["cat"], input=b"%d" % each, stdout=PIPE) for each in range(30)),
                *(to_greenlet(subprocess.check_output, ["echo", str(each)]) for each in range(30)),
            )
            assert [each.stdout for each in found[:30]] == [b"%d" % each for each in range(30)]
            assert found[30:] == [b"%d\n" % each for each in range(30)]

        arun(main)

    @pytest.mark.parametrize("text", [{"text": True}, {"universal_newlines": True}, {"encoding": "utf-8"}])
    def test_text(self, arun, text):
        printed = "print('a', end=chr(13) + chr(10)); print('\u00e4', end=chr(13)); print('c')"
        command = [sys.executable, "-X", "utf8", "-c", printed]

        def body():
            out = subprocess.check_output(command, **text)
            err = subprocess.run(command, stdout=PIPE, stderr=subprocess.STDOUT, **text).stdout
            both = subprocess.run(command, capture_output=True, **text).stdout
            return out, err, both

        assert arun(parks_in(body)) == body() == ("a\n\u00e4\nc\n",) * 3

    def test_text_that_is_sent(self, arun, tmp_path):
        def body(name):
            text = "\u00e4\u20ac\n" * 50_000
            with open(tmp_path / name, "wb") as out:
                subprocess.run(["sh", "-c", "sleep 0.05; cat"], input=text, stdout=out, encoding="utf-16", check=True)
            return (tmp_path / name).read_bytes()

        assert arun(parks_in(lambda: body("green"))) == body("native")

    @pytest.mark.parametrize("options", [{}, {"text": True}, {"text": True, "bufsize": 1}, {"bufsize": 0}])
    def test_what_is_buffered_comes_first(self, arun, options):
        def body():
            child = subprocess.Popen(["sh", "-c", "echo one; echo two; sleep 0.05; echo three"], stdout=PIPE, **options)
            first = child.stdout.readline()
            return first, child.communicate()

        assert arun(parks_in(body)) == body()

    @pytest.mark.parametrize("data", ["text", 3, [1]])
    def test_input_of_a_wrong_type(self, arun, data):
        def error():
            child = subprocess.Popen(HOLD, stdin=PIPE)
            try:
                with pytest.raises(TypeError) as caught:
                    child.communicate(data)
            finally:
                child.stdin.close()
                child.wait()
            return str(caught.value)

        async def main():
            assert await to_greenlet(error) == error()

        arun(main)

    @pytest.mark.parametrize("data", [b"", b"x", BIG])
    def test_a_child_that_reads_nothing(self, arun, data):
        def body():
            child = subprocess.Popen(["sh", "-c", "exec <&-; sleep 0.05; exit 1"], stdin=PIPE)
            return child.communicate(data), child.returncode

        assert arun(parks_in(body)) == ((None, None), 1)

    def test_closed_pipes(self, arun):
        def body():
            child = subprocess.Popen(["true"], stdout=PIPE)
            child.stdout.close()
            try:
                with pytest.raises(ValueError) as caught:
                    child.communicate()
            finally:
                child.wait()
            return str(caught.value)

        async def main():
            assert await to_greenlet(body) == body()

        arun(main)

    @pytest.mark.parametrize("pipes", [{"stdout": PIPE}, {"stdin": PIPE, "stdout": PIPE}, {"stdin": PIPE}])
    def test_times_out_and_goes_on(self, arun, pipes):
        def body():
            child = subprocess.Popen(["sh", "-c", "printf a; sleep 0.2; printf b"], **pipes)
            began = time.monotonic()
            with pytest.raises(subprocess.TimeoutExpired):
                child.communicate(timeout=0.05)
            assert time.monotonic() - began >= 0.05
            return child.communicate(), child.returncode

        assert arun(parks_in(body)) == ((b"ab" if "stdout" in pipes else None, None), 0)

    def test_cancelled_and_called_again(self, arun):
        async def main():
            with subprocess.Popen(HOLD, stdin=PIPE, stdout=PIPE) as child:
                stdin, child.stdin = child.stdin, None
                task = spawn(child.communicate)
                stdin.write(b"first ")
                stdin.flush()
                await until_parked()
                for _ in range(20):
                    await asyncio.sleep(0.001)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                with pytest.raises(subprocess.TimeoutExpired):
                    await to_greenlet(child.communicate, None, 0.01)
                stdin.write(b"second")
                stdin.close()
                assert await to_greenlet(child.communicate) == (b"first second", None)

        arun(main)

    def test_run_kills_the_child_when_time_is_up(self, arun):
        def body(**pipes):
            with pytest.raises(subprocess.TimeoutExpired) as caught:
                subprocess.run(["sh", "-c", "echo begun; exec sleep 60"], timeout=0.2, **pipes)
            return caught.value.output

        assert arun(parks_in(body)) is None
        assert arun(parks_in(lambda: body(stdout=PIPE))) == b"begun\n"
        assert arun(parks_in(lambda: body(stdout=PIPE, stderr=PIPE))) == b"begun\n"

    def test_the_calls_that_stand_on_popen(self, arun):
        def body():
            assert subprocess.call(["sh", "-c", "sleep 0.02; exit 3"]) == 3
            assert subprocess.check_call(["sleep", "0.02"]) == 0
            with pytest.raises(subprocess.CalledProcessError) as caught:
                subprocess.check_output(["sh", "-c", "sleep 0.02; echo out; exit 4"])
            assert (caught.value.returncode, caught.value.output) == (4, b"out\n")
            assert subprocess.getstatusoutput("sleep 0.02; echo out; exit 5") == (5, "out")
            assert subprocess.getoutput("sleep 0.02; echo out") == "out"
            assert os.popen("sleep 0.02; exit 6").close() == 6 << 8
            with subprocess.Popen(["sh", "-c", "sleep 0.02; exit 7"]) as child:
                pass
            assert child.returncode == 7

        arun(parks_in(body))


class TestStart:
    def test_program_that_is_not_there(self, arun):
        def error(command, **options):
            with pytest.raises(OSError) as caught:
                subprocess.run(command, **options)
            return type(caught.value), caught.value.args, caught.value.filename

        async def main():
            for args in ((["no such program"], {}), (["true"], {"cwd": "/no such place"}), (["/etc/passwd"], {})):
                command, options = args
                assert await to_greenlet(error, command, **options) == error(command, **options)

        arun(main)

    def test_session_and_groups(self, arun):
        command = [sys.executable, "-c", "import os; print(os.getsid(0) == os.getpid())"]

        def body():
            return subprocess.check_output(command, start_new_session=True)

        assert arun(parks_in(body)) == b"True\n"

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    def test_function_before_the_program(self, arun):
        def fail():
            raise ValueError

        def body():
            assert subprocess.check_output(["cat"], stdin=subprocess.DEVNULL, preexec_fn=lambda: os.write(1, b"x"))
            with pytest.raises(subprocess.SubprocessError, match="preexec_fn"):
                subprocess.run(["true"], preexec_fn=fail)

        async def main():
            await to_greenlet(body)

        arun(main)

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    @pytest.mark.parametrize("times", [1, 2])
    def test_cancelled_before_the_program_runs(self, arun, monkeypatch, times):
        native = os.read
        seen = []

        def read(fd, count):  # parks, as it does where pipes are patched
            wait_readable(fd)
            return native(fd, count)

        def body():
            monkeypatch.setattr(os, "read", read)
            ours, theirs = os.pipe()
            try:
                subprocess.Popen(HOLD, preexec_fn=lambda: seen.append(0) or native(ours, 1))
            finally:
                os.close(ours)
                os.close(theirs)

        def children():
            return [int(pid) for task in os.listdir("/proc/self/task") for pid in _children_of(task)]

        async def main():
            before = children()
            task = spawn(body)
            await until_parked()
            assert set(children()) - set(before)
            for _ in range(times):
                task.cancel()
                if times > 1:
                    await asyncio.sleep(0)
            with pytest.raises(asyncio.CancelledError):
                await task
            assert children() == before

        arun(main)

    def test_native_code_is_left_alone(self):
        assert subprocess.check_output(["echo", "x"]) == b"x\n"
        assert list(inspect.signature(subprocess.Popen).parameters)[:3] == ["args", "bufsize", "executable"]
        assert str(inspect.signature(subprocess.Popen.communicate)) == "(self, input=None, timeout=None)"


def _children_of(task):
    try:
        with open(f"/proc/self/task/{task}/children") as file:
            return file.read().split()
    except FileNotFoundError:
        return []


def cancelling_at(patches, number, tasks):
    """Cancel the first of `tasks` in the turn after its n-th park, those that wait for descriptors included."""

    def act(*_):
        get_loop().call_soon(lambda: tasks[0].cancel())

    count = acting_at(patches, number, act)
    native = _readiness.Side.wait

    def wait(self, green, deadline):
        count[0] += 1
        if count[0] == number:
            act()
        return native(self, green, deadline)

    patches.setattr(_readiness.Side, "wait", wait)
    return count


RUNS = {
    "nothing": {"stdin": subprocess.DEVNULL},
    "output": {"stdin": subprocess.DEVNULL, "stdout": PIPE},
    "input": {"input": BIG[:300_000], "stdout": subprocess.DEVNULL},
    "all": {"input": BIG[:300_000], "stdout": PIPE, "stderr": PIPE},
    "a limit": {"input": BIG[:300_000], "stdout": PIPE, "timeout": 20},
}


@pytest.mark.parametrize("options", RUNS)
def test_cancelled_at_each_park(arun, monkeypatch, way, options):
    """`run` kills its child when it is cancelled, at whichever park: no child is left, no descriptor, no thread."""

    def body(made):
        native = subprocess.Popen.__init__

        class Popen(subprocess.Popen):
            def __init__(self, *args, **kwargs):
                made.append(self)  # first: that it starts may be waited for, and be cancelled
                native(self, *args, **kwargs)

        with pytest.MonkeyPatch.context() as patches:
            patches.setattr(subprocess, "Popen", Popen)
            return subprocess.run(["sh", "-c", "sleep 0.1; cat"], **RUNS[options])

    cancelled = 0
    for number in range(1, 400):
        tasks, made = [], []

        async def main(tasks=tasks, made=made):
            tasks.append(spawn(body, made))
            await asyncio.wait(tasks, timeout=20)
            assert tasks[0].done()

        with monkeypatch.context() as patches:
            count = cancelling_at(patches, number, tasks)
            arun(main)
        (child,) = made
        assert child.returncode is not None
        assert is_gone(child.pid)
        if count[0] < number or number > 30:
            break
        cancelled += tasks[0].cancelled()
    assert cancelled
    del tasks, made, child
    gc.collect()
