"""Sync faces of async objects: `iterate`, `enter`, `autosync`."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time

import httpx
import pytest

from greenio import async_to_sync, autosync, await_, enter, iterate, spawn, timeout, to_greenlet
from waiting import until_parked


async def numbers(count, log=None):
    try:
        for number in range(count):
            await asyncio.sleep(0)
            yield number
    finally:
        if log is not None:
            await asyncio.sleep(0)
            log.append("closed")


class Connection:
    """As a driver's: awaitable methods, cursors, transactions."""

    kind = "connection"

    def __init__(self):
        self.log = []
        self.limit = 3

    async def fetch(self, value, *, twice=False):
        assert asyncio.get_running_loop()
        await asyncio.sleep(0)
        return [value] * (2 if twice else 1)

    def plain(self, value):
        return value + 1

    async def rows(self):
        for number in range(self.limit):
            await asyncio.sleep(0)
            yield number

    @contextlib.asynccontextmanager
    async def transaction(self):
        self.log.append("begin")
        await asyncio.sleep(0)
        try:
            yield self
        except KeyError:
            self.log.append("rolled back")
            return
        self.log.append("commit")

    def later(self):
        return asyncio.get_running_loop().create_task(self.fetch("later"))

    async def fails(self):
        await asyncio.sleep(0)
        raise KeyError("from the bottom")

    async def other(self):
        return Connection()

    def __len__(self):
        return 7

    def __getitem__(self, key):
        return key * 2

    def __eq__(self, other):
        return isinstance(other, Connection)

    __hash__ = None

    def __str__(self):
        return "a connection"


class Pool:
    """What it gives can be awaited, and entered."""

    def __init__(self):
        self.log = []

    def acquire(self):
        return Acquired(self)


class Acquired:
    def __init__(self, pool):
        self.pool = pool

    def __await__(self):
        return self._take().__await__()

    async def _take(self):
        self.pool.log.append("taken")
        await asyncio.sleep(0)
        return Connection()

    async def __aenter__(self):
        return await self._take()

    async def __aexit__(self, *error):
        self.pool.log.append("given back")


def green(arun, fn):
    async def main():
        await to_greenlet(fn)

    arun(main)


def test_iterate(arun):
    def body():
        assert list(iterate(numbers(5))) == [0, 1, 2, 3, 4]
        assert list(iterate(numbers(0))) == []
        log = []
        with contextlib.closing(iterate(numbers(5, log))) as items:
            assert next(items) == 0
            assert iter(items) is items
        assert log == ["closed"]
        with pytest.raises(StopIteration):
            next(items)
        with pytest.raises(TypeError, match="asynchronous iterable"):
            iterate([1])

    green(arun, body)


class Ticker:
    """Its iteration begins where it is asked for, in a task of the loop."""

    def __aiter__(self):
        loop = asyncio.get_running_loop()
        self.tasks = [loop.create_task(asyncio.sleep(0, number)) for number in range(3)]
        return self

    async def __anext__(self):
        if not self.tasks:
            raise StopAsyncIteration
        return await self.tasks.pop(0)


@pytest.mark.parametrize("face", [iterate, autosync])
def test_an_iteration_begins_where_the_loop_is_visible(arun, face):
    def body():
        assert list(face(Ticker())) == [0, 1, 2]

    green(arun, body)


def test_iteration_that_is_left_early_is_closed_by_the_loop(arun):
    log = []

    async def main():
        def body():
            for _ in iterate(numbers(5, log)):
                break

        await to_greenlet(body)
        for _ in range(5):
            await asyncio.sleep(0)
        assert log == ["closed"]

    arun(main)


def test_errors_and_cancellation_of_an_iteration(arun):
    async def failing():
        yield 1
        raise KeyError("failing")

    async def endless(log):
        try:
            yield 1
            await asyncio.get_running_loop().create_future()
        finally:
            log.append("ended")

    async def main():
        def body():
            seen = []
            with pytest.raises(KeyError, match="failing"):
                seen.extend(iterate(failing()))

        await to_greenlet(body)
        log = []
        task = asyncio.ensure_future(to_greenlet(lambda: list(iterate(endless(log)))))
        await until_parked()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert log == ["ended"]

    arun(main)


def test_enter(arun):
    def body():
        connection = Connection()
        with enter(connection.transaction()) as entered:
            assert entered is connection
            time.sleep(0)
        with enter(connection.transaction()):
            raise KeyError
        assert connection.log == ["begin", "commit", "begin", "rolled back"]
        with pytest.raises(ValueError, match="passes"):
            with enter(connection.transaction()):
                raise ValueError("passes")
        lock = asyncio.Lock()
        with enter(lock) as nothing:
            assert nothing is None
            assert lock.locked()
        assert not lock.locked()
        with pytest.raises(TypeError, match="asynchronous context manager"):
            enter(open)

    green(arun, body)


def test_autosync(arun):
    def body():
        bare = Connection()
        connection = autosync(bare)
        assert autosync(connection) is connection
        assert isinstance(connection, Connection)
        assert connection.fetch("x", twice=True) == ["x", "x"]
        assert connection.plain(1) == 2
        assert connection.later() == ["later"]
        assert list(connection.rows()) == [0, 1, 2]
        connection.limit = 1
        assert bare.limit == 1
        assert list(connection.rows()) == [0]
        del connection.limit
        assert not hasattr(bare, "limit")
        assert connection.kind == "connection"
        assert connection.log is bare.log
        with connection.transaction() as entered:
            assert entered.fetch(1) == [1]
        with connection.transaction():
            raise KeyError
        assert bare.log == ["begin", "commit", "begin", "rolled back"]
        with pytest.raises(KeyError, match="from the bottom"):
            connection.fails()
        with pytest.raises(AttributeError):
            _ = connection.missing
        assert connection.other().fetch(2) == [2]
        assert len(connection) == 7
        assert connection[3] == 6
        assert connection == bare
        assert connection == autosync(bare)
        with pytest.raises(TypeError):
            hash(connection)
        assert str(connection) == "a connection"
        assert repr(connection) == f"autosync({bare!r})"
        assert "fetch" in dir(connection)
        assert connection.fetch.__name__ == "fetch"

    green(arun, body)


def test_autosync_of_what_can_be_awaited_and_entered(arun):
    def body():
        bare = Pool()
        pool = autosync(bare)
        with pool.acquire() as connection:
            assert connection.fetch(1) == [1]
        assert bare.log == ["taken", "given back"]
        taken = pool.acquire()
        assert bare.log == ["taken", "given back"]
        assert taken.fetch(2) == [2]
        assert taken.fetch(3) == [3]
        assert bare.log == ["taken", "given back", "taken"]
        assert isinstance(taken, Connection)

    green(arun, body)


def test_autosync_of_attributes_that_are_to_be_awaited(arun):
    class Row:
        """As SQLAlchemy's `awaitable_attrs`."""

        def __init__(self):
            self.saved = asyncio.get_running_loop().create_task(asyncio.sleep(0, "saved"))

        @property
        def owner(self):
            return self._load()

        async def _load(self):
            await asyncio.sleep(0)
            return Connection()

    async def main():
        row = Row()

        def body():
            owner = autosync(row).owner
            assert isinstance(owner, Connection)
            assert owner.fetch(1) == [1]
            assert await_(autosync(row).saved) == "saved"

        await to_greenlet(body)

    arun(main)


def test_await_takes_what_can_be_awaited_and_entered(arun):
    def body():
        bare = Pool()
        acquired = autosync(bare).acquire()
        assert await_(acquired).fetch(1) == [1]
        assert await_(acquired).fetch(2) == acquired.fetch(2) == [2]
        assert bare.log == ["taken"]
        task = autosync(spawn(int))
        assert await_(task) == await_(task) == 0
        assert task.done()
        with pytest.raises(TypeError, match="takes an awaitable"):
            await_(autosync(bare))

    green(arun, body)


def test_autosync_leaves_plain_things_alone(arun):
    def body():
        class Holder:
            def __init__(self):
                self.number, self.items, self.kind = 1, [1], int

            async def give(self, value):
                return value

        holder = autosync(Holder())
        assert type(holder.number) is int
        assert type(holder.items) is list
        assert holder.kind is int
        for value in (None, 1, "x", [1], {"a": 1}, int):
            assert holder.give(value) is value
        inner = Connection()
        assert repr(holder.give(inner)) == f"autosync({inner!r})"
        assert holder.give(autosync(inner)) == inner

    green(arun, body)


def test_special_methods_that_python_calls_are_the_objects_alone(arun):
    """A proxy that goes away does not finalize its object, and what `__getattr__` finds is looked up once."""
    log = []

    class Handle:
        def __getattr__(self, name):
            log.append(name)
            if name == "missing":
                raise AttributeError(name)
            return name

        def __del__(self):
            log.append("finalized")

        async def give(self):
            return self

    def body():
        bare = Handle()
        handle = autosync(bare)
        assert handle.found == "found"
        with pytest.raises(AttributeError):
            _ = handle.missing
        handle.give()
        del handle
        assert log == ["found", "missing"]
        del bare
        assert log.pop() == "finalized"

    green(arun, body)


def wrapped(method):
    @functools.wraps(method)
    def call(*args):
        return method(*args)

    return call


def marked(method):
    """As compiled coroutine functions mark themselves for asyncio."""

    def call(*args):
        return method(*args)

    call._is_coroutine = asyncio.coroutines._is_coroutine
    return call


@pytest.mark.parametrize("decorate", [wrapped, marked])
def test_coroutine_functions_in_disguise(arun, decorate):
    class Given:
        @decorate
        async def get(self):
            await asyncio.sleep(0)
            return 5

    class Giver:
        async def give(self):
            return Given()

    def body():
        assert autosync(Giver()).give().get() == 5

    green(arun, body)


def test_outside_green_code():
    bare = Connection()
    connection = autosync(bare)
    assert connection.plain(1) == 2
    with pytest.raises(RuntimeError, match="outside a greenlet"):
        connection.fetch(1)
    with pytest.raises(RuntimeError, match="outside a greenlet"):
        list(iterate(numbers(1)))
    with pytest.raises(RuntimeError, match="outside a greenlet"):
        with enter(bare.transaction()):
            pass


def test_httpx(arun):
    async def main():
        async def serve(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello")
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"

        def body():
            with autosync(httpx.AsyncClient(trust_env=False)) as client:
                assert isinstance(client, httpx.AsyncClient)
                response = client.get(url)
                assert isinstance(response, httpx.Response)
                assert (response.status_code, response.text) == (200, "hello")
                with client.stream("GET", url) as streamed:
                    assert b"".join(streamed.aiter_bytes()) == b"hello"
                client.headers["x"] = "y"
                assert client.headers["x"] == "y"
            assert client.is_closed

        await to_greenlet(body)
        server.close()
        await server.wait_closed()

    arun(main)


@contextlib.asynccontextmanager
async def talking(answer):
    """An HTTP server that answers in chunks: `answer(chunk, reader)` sends them; the value is its address."""
    tasks = set()

    async def serve(reader, writer):
        def chunk(data):
            writer.write(b"%x\r\n%b\r\n" % (len(data), data))

        tasks.add(asyncio.current_task())
        with contextlib.suppress(asyncio.CancelledError, EOFError, OSError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n")
            await answer(chunk, reader)
            chunk(b"")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks)
        await server.wait_closed()


def test_httpx_streams_both_ways(arun):
    """Each side waits for what the other has sent: nothing is gathered first."""

    async def main():
        turns = asyncio.Queue()

        async def answer(chunk, reader):
            for number in range(3):
                assert await turns.get() == number
                chunk(b"line %d\n" % number)

        async def upload():
            for number in range(3):
                await asyncio.sleep(0)
                yield b"%d" % number

        async def echo(chunk, reader):
            while data := await reader.readuntil(b"\r\n"):
                if not int(data, 16):
                    await reader.readuntil(b"\r\n")
                    return
                chunk(await reader.readexactly(int(data, 16)))
                await reader.readuntil(b"\r\n")

        def body(lines, echoing):
            with autosync(httpx.AsyncClient(trust_env=False, timeout=20)) as client:
                with client.stream("GET", lines) as streamed:
                    turns.put_nowait(0)
                    for number, line in enumerate(streamed.aiter_lines()):
                        assert line == f"line {number}"
                        turns.put_nowait(number + 1)
                    assert number == 2
                assert client.post(echoing, content=upload()).text == "012"
                response = client.send(client.build_request("POST", echoing, content=upload()), stream=True)
                assert not response.is_closed
                assert response.aread() == b"012"
                assert response.is_closed

        async with talking(answer) as lines, talking(echo) as echoing:
            await to_greenlet(body, lines, echoing)

    arun(main)


@pytest.mark.parametrize("how", ["break", "error", "cancel", "timeout"])
def test_httpx_stream_that_is_left_early(arun, how):
    """The connection is closed, and the client goes on."""

    async def main():
        ended = asyncio.Event()

        async def answer(chunk, reader):
            chunk(b"first")
            await reader.read()
            ended.set()

        def read(client, url):
            with client.stream("GET", url) as streamed:
                for data in streamed.aiter_bytes():
                    assert data == b"first"
                    if how == "break":
                        break
                    if how == "error":
                        raise KeyError("mine")

        def body(url):
            with autosync(httpx.AsyncClient(trust_env=False, timeout=20)) as client:
                if how == "break":
                    read(client, url)
                elif how == "error":
                    with pytest.raises(KeyError, match="mine"):
                        read(client, url)
                elif how == "timeout":
                    with pytest.raises(TimeoutError), timeout(0.1):
                        read(client, url)
                else:
                    task = spawn(read, client, url)
                    await_(until_parked())
                    task.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await_(task)
                if how != "cancel":  # which may come before the server has seen the request
                    await_(asyncio.wait_for(ended.wait(), 20))
                with client.stream("GET", url) as streamed:
                    assert next(streamed.aiter_bytes()) == b"first"

        async with talking(answer) as url:
            await to_greenlet(body, url)

    arun(main)


def test_cancelled_in_a_method(arun):
    async def main():
        class Slow:
            async def wait(self):
                await asyncio.get_running_loop().create_future()

        task = asyncio.ensure_future(to_greenlet(lambda: autosync(Slow()).wait()))
        await until_parked()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    arun(main)


def test_async_to_sync_is_still_the_bridge(arun):
    async def double(number):
        await asyncio.sleep(0)
        return 2 * number

    green(arun, lambda: None)

    async def main():
        assert await to_greenlet(async_to_sync(double), 4) == 8

    arun(main)
