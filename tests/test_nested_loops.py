"""Loops in green code: `asyncio.run` below `to_greenlet`."""

import asyncio
import contextlib
import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
import uvloop

from greenio import await_, in_greenlet, monkey, timeout, to_greenlet
from waiting import parked, until

pytestmark = pytest.mark.green_tasks


async def parked_call(fn: Callable[..., Any], *args: Any) -> asyncio.Task[Any]:
    """Start a call in a greenlet and return once it is parked."""
    before = parked()
    task = asyncio.create_task(to_greenlet(fn, *args))
    await until(lambda: task.done() or parked() > before)
    assert not task.done()
    return task


class Recorded:
    """A nested loop that remembers itself and its tasks, to see that they end."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self.events: list[str] = []

    def run(self, main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        async def recorded() -> Any:
            self.loop = asyncio.get_running_loop()
            assert asyncio.current_task() is not None
            return await main()

        return asyncio.run(recorded())


def test_twenty_at_once(arun: Any, patched: None) -> None:
    """Real time, since that is what is promised; the bound leaves ten times what was measured."""

    async def inner() -> int:
        await asyncio.sleep(0.3)
        return 1

    async def main() -> None:
        host = asyncio.get_running_loop()
        begin = time.monotonic()
        answers = await asyncio.gather(*(to_greenlet(lambda: asyncio.run(inner())) for _ in range(20)))
        assert sum(answers) == 20
        assert 0.3 <= time.monotonic() - begin < 3
        assert asyncio.get_running_loop() is host

    arun(main)


def test_sockets_of_a_nested_loop(arun: Any, patched: None) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data.upper())
        writer.close()

    async def talk(port: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        answer = b""
        for word in (b"one", b"two"):
            writer.write(word)
            answer += await reader.readexactly(3)
        writer.close()
        await writer.wait_closed()
        return answer

    async def main() -> None:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        calls = [to_greenlet(asyncio.run, talk(port)) for _ in range(10)]
        assert await asyncio.gather(*calls) == [b"ONETWO"] * 10
        server.close()
        await server.wait_closed()

    arun(main)


def test_host_and_nested_loop_take_turns(arun: Any, patched: None) -> None:
    """Neither waits: a nested loop that is never idle must not hold the host."""

    async def main() -> None:
        over = False

        async def inner() -> int:
            turns = 0
            while not over:
                await asyncio.sleep(0)
                turns += 1
            return turns

        task = asyncio.create_task(to_greenlet(lambda: asyncio.run(inner())))
        for _ in range(20):
            await asyncio.sleep(0)
        over = True
        assert await task

    arun(main)


def test_call_soon_threadsafe(arun: Any, patched: None) -> None:
    async def inner() -> str:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        thread = threading.Thread(target=lambda: loop.call_soon_threadsafe(future.set_result, "from a thread"))
        asyncio.get_running_loop().call_soon(thread.start)
        return str(await future)

    async def main() -> None:
        assert await to_greenlet(lambda: asyncio.run(inner())) == "from a thread"

    arun(main)


def test_executor_and_name_look_up(arun: Any, patched: None) -> None:
    async def inner() -> Any:
        loop = asyncio.get_running_loop()
        there = await loop.run_in_executor(None, lambda: (threading.get_ident(), in_greenlet()))
        also = await asyncio.to_thread(lambda: time.sleep(0.001) or threading.get_ident())
        found = await loop.getaddrinfo("localhost", 80, type=socket.SOCK_STREAM)
        return there, also, found

    async def main() -> None:
        (ident, green), also, found = await to_greenlet(lambda: asyncio.run(inner()))
        assert ident != threading.get_ident() != also
        assert not green
        assert found

    arun(main)


def test_subprocess(arun: Any, patched: None) -> None:
    async def inner(word: str) -> tuple[bytes, int | None]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-S", "-c", "import sys; print(input() + '!', end=''); sys.exit(3)",
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        out, _ = await process.communicate(word.encode())
        return out, process.returncode

    async def main() -> None:
        answers = await asyncio.gather(*(to_greenlet(lambda w=w: asyncio.run(inner(w))) for w in ("a", "b", "c")))
        assert answers == [(b"a!", 3), (b"b!", 3), (b"c!", 3)]

    arun(main)


def test_green_calls_in_a_nested_loop(arun: Any, patched: None) -> None:
    """A `to_greenlet` whose host is the nested loop, itself parked on the outer one."""

    def blocking(sock: socket.socket) -> bytes:
        time.sleep(0.001)
        return sock.recv(10)

    async def inner(a: socket.socket) -> Any:
        reads = asyncio.create_task(to_greenlet(blocking, a))
        ticks = 0
        while not reads.done():
            await asyncio.sleep(0.001)
            ticks += 1
        return await reads, ticks

    async def main() -> None:
        a, b = socket.socketpair()
        with a, b:
            task = await parked_call(lambda: asyncio.run(inner(a)))
            await asyncio.sleep(0.01)
            b.send(b"hello")
            data, ticks = await task
            assert data == b"hello"
            assert ticks

    arun(main)


@pytest.mark.parametrize("depth", [2, 6])
def test_loops_in_loops(arun: Any, patched: None, depth: int) -> None:
    async def level(left: int) -> int:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(0.001)
        if not left:
            return 0
        deeper: int = await to_greenlet(lambda: asyncio.run(level(left - 1)))
        assert asyncio.get_running_loop() is loop
        await asyncio.sleep(0.001)
        return deeper + 1

    async def main() -> None:
        assert await asyncio.gather(*(level(depth) for _ in range(3))) == [depth] * 3

    arun(main)


def test_a_blocking_call_in_a_nested_coroutine_parks_the_nested_loop_only(arun: Any, patched: None) -> None:
    async def inner() -> str:
        time.sleep(0.02)  # as anywhere, this holds the loop that it runs in
        return "slept"

    async def main() -> None:
        task = await parked_call(lambda: asyncio.run(inner()))
        for _ in range(3):
            await asyncio.sleep(0)
        assert not task.done()
        assert await task == "slept"

    arun(main)


def test_await_around_and_inside(arun: Any, patched: None) -> None:
    async def on_host() -> Any:
        await asyncio.sleep(0)
        return asyncio.get_running_loop()

    async def inner() -> Any:
        await asyncio.sleep(0.001)
        return asyncio.get_running_loop()

    async def main() -> None:
        host = asyncio.get_running_loop()

        def both() -> None:
            assert await_(on_host()) is host
            nested = asyncio.run(inner())
            assert nested is not host
            assert nested.is_closed()
            assert await_(on_host()) is host
            with pytest.raises(RuntimeError, match="no running event loop"):
                asyncio.get_running_loop()

        await to_greenlet(both)

    arun(main)


def test_cancelled_while_parked(arun: Any, patched: None) -> None:
    record = Recorded()

    async def child(name: str) -> None:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            await asyncio.sleep(0.001)  # clearing up may take its time
            record.events.append(name)
            raise

    async def inner() -> None:
        tasks = [asyncio.create_task(child(name)) for name in "ab"]
        try:
            await asyncio.gather(*tasks)
        finally:
            record.events.append("finally")

    async def main() -> None:
        task = await parked_call(record.run, inner)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert sorted(record.events) == ["a", "b", "finally"]
        assert record.loop is not None
        assert record.loop.is_closed()
        assert not asyncio.all_tasks(record.loop)

    arun(main)


def test_timeouts_of_the_outer_side(arun: Any, patched: None) -> None:
    record = Recorded()

    def limited() -> None:
        with timeout(0.01):
            record.run(lambda: asyncio.sleep(1000))

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await to_greenlet(limited)
        assert record.loop is not None
        assert record.loop.is_closed()
        with pytest.raises((TimeoutError, asyncio.TimeoutError)):
            await asyncio.wait_for(to_greenlet(record.run, lambda: asyncio.sleep(1000)), 0.01)
        assert record.loop.is_closed()

    arun(main)


def test_errors_and_results_come_out(arun: Any, patched: None) -> None:
    async def fails() -> None:
        await asyncio.sleep(0)
        raise LookupError("of the nested loop")

    async def exits() -> None:
        await asyncio.sleep(0)
        raise SystemExit(3)

    def outcome(afn: Any) -> Any:
        try:
            return asyncio.run(afn())
        except BaseException as error:
            return type(error), error.args

    async def main() -> None:
        assert await to_greenlet(outcome, fails) == (LookupError, ("of the nested loop",))
        assert await to_greenlet(outcome, exits) == (SystemExit, (3,))

    arun(main)


def test_nothing_is_kept(arun: Any, patched: None) -> None:
    async def main() -> None:
        async def inner() -> weakref.ref[Any]:
            await asyncio.sleep(0.001)
            return weakref.ref(asyncio.get_running_loop())

        loop = await to_greenlet(lambda: asyncio.run(inner()))
        gc.collect()
        assert loop() is None

    arun(main)


def test_run_until_complete_on_a_loop_that_is_kept(arun: Any, patched: None) -> None:
    """Sync clients often keep a loop and run it call by call."""

    def client() -> list[int]:
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        try:
            assert asyncio.get_event_loop() is loop
            return [loop.run_until_complete(asyncio.sleep(0.001, n)) for n in range(3)]
        finally:
            asyncio.set_event_loop(None)
            loop.close()

    async def main() -> None:
        assert await asyncio.gather(*(to_greenlet(client) for _ in range(5))) == [[0, 1, 2]] * 5

    arun(main)


def test_current_loop_of_green_code_is_its_own(arun: Any, patched: None) -> None:
    def client() -> None:
        with pytest.raises(RuntimeError, match="no current event loop in thread 'MainThread'"):
            asyncio.get_event_loop()
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        time.sleep(0.001)
        assert asyncio.get_event_loop() is loop
        loop.close()
        with pytest.raises((TypeError, AssertionError)):  # AssertionError up to 3.10
            asyncio.set_event_loop(object())  # type: ignore[arg-type]

    async def main() -> None:
        host = asyncio.get_running_loop()
        await asyncio.gather(to_greenlet(client), to_greenlet(client))
        assert asyncio.get_event_loop() is host
        # What asyncio.get_event_loop() will say when no loop runs.
        assert asyncio.get_event_loop_policy().get_event_loop() is host
        await to_greenlet(lambda: asyncio.run(asyncio.sleep(0)))
        assert asyncio.get_event_loop_policy().get_event_loop() is host

    arun(main)


@contextlib.contextmanager
def uvloop_policy() -> Iterator[None]:
    before = asyncio.get_event_loop_policy()
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    try:
        yield
    finally:
        asyncio.set_event_loop_policy(before)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_uvloop_policy_gives_green_code_a_stock_loop(patched: None) -> None:
    async def inner() -> Any:
        await asyncio.sleep(0.05)
        return asyncio.get_running_loop()

    async def main() -> None:
        assert isinstance(asyncio.get_running_loop(), uvloop.Loop)
        calls = [asyncio.create_task(to_greenlet(lambda: asyncio.run(inner()))) for _ in range(3)]
        await until(lambda: parked() == 3)
        for loop in await asyncio.gather(*calls):
            assert isinstance(loop, asyncio.SelectorEventLoop)
        other = asyncio.new_event_loop()
        assert isinstance(other, uvloop.Loop)
        other.close()

    with uvloop_policy():
        asyncio.run(main())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_child_processes_of_that_loop(patched: None) -> None:
    """uvloop's policy has no child watcher, and a stock loop waits for its children by one."""

    async def inner() -> tuple[bytes, int | None]:
        child = await asyncio.create_subprocess_exec("sh", "-c", "echo out; exit 3", stdout=asyncio.subprocess.PIPE)
        return (await child.communicate())[0], child.returncode

    async def main() -> None:
        calls = (to_greenlet(lambda: asyncio.run(inner())) for _ in range(3))
        assert await asyncio.wait_for(asyncio.gather(*calls), 20) == [(b"out\n", 3)] * 3
        with pytest.raises(NotImplementedError):
            asyncio.get_child_watcher()

    with uvloop_policy():
        asyncio.run(main())


@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.Runner is new in 3.11")
def test_runner(arun: Any, patched: None) -> None:
    def green() -> int:
        with asyncio.Runner() as runner:
            return sum(runner.run(asyncio.sleep(0.001, n)) for n in (1, 2))

    async def main() -> None:
        handler = signal.getsignal(signal.SIGINT)
        assert await asyncio.gather(to_greenlet(green), to_greenlet(green)) == [3, 3]
        assert signal.getsignal(signal.SIGINT) is handler

    arun(main)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.Runner is new in 3.11")
def test_interrupt_reaches_a_nested_runner(arun: Any, patched: None) -> None:
    record = Recorded()

    async def inner() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            record.events.append("finally")

    def green() -> str:
        try:
            record.run(inner)
        except KeyboardInterrupt:
            return "interrupted"
        return "ended"

    async def main() -> None:
        task = await parked_call(green)
        os.kill(os.getpid(), signal.SIGINT)
        assert await task == "interrupted"
        assert record.events == ["finally"]

    arun(main)


def test_signal_handlers_of_both_loops(arun: Any, patched: None) -> None:
    """The wake-up descriptor of `signal` is one for the process; a nested loop must not take it from the host."""

    async def inner() -> str:
        loop = asyncio.get_running_loop()
        came = loop.create_future()
        loop.add_signal_handler(signal.SIGUSR1, came.set_result, None)
        os.kill(os.getpid(), signal.SIGUSR1)
        await came
        os.kill(os.getpid(), signal.SIGUSR2)
        while not seen:
            await asyncio.sleep(0.001)
        loop.remove_signal_handler(signal.SIGUSR1)
        return "came"

    seen: list[str] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR2, seen.append, "host")
        try:
            assert await to_greenlet(lambda: asyncio.run(inner())) == "came"
            assert seen == ["host"]
            os.kill(os.getpid(), signal.SIGUSR2)
            await until(lambda: seen == ["host", "host"])
        finally:
            loop.remove_signal_handler(signal.SIGUSR2)

    arun(main)


def test_unpatched_while_a_nested_loop_is_parked(arun: Any) -> None:
    async def main() -> None:
        with monkey.patched():
            task = await parked_call(lambda: asyncio.run(asyncio.sleep(0.05, "ended")))
        assert await task == "ended"

    arun(main)
