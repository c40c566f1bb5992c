"""`makefile("rwb")`, `makefile("rw")`: greens share such a file as threads do, and a cancelled read loses nothing."""

from __future__ import annotations

import asyncio
import gc
import io
import pickle
import socket
import threading
import weakref

import pytest

import greenio
from greenio import to_greenlet
from waiting import turns, until, until_parked

pytestmark = pytest.mark.usefixtures("patched")

BIG = 2**22
"""More octets than the buffers of a socket take."""


def start(fn, *args, **keywords):
    return asyncio.ensure_future(to_greenlet(fn, *args, **keywords))


@pytest.fixture
def pair():
    left, right = socket.socketpair()
    with left, right:
        yield left, right


def outcome(call):
    try:
        return call()
    except Exception as error:
        return type(error), str(error)


def into(method, size):
    buffer = bytearray(size)
    return method(buffer), bytes(buffer)


STATE = {
    **{name: lambda file, name=name: getattr(file, name)() for name in ("readable", "writable", "seekable", "isatty")},
    **{
        name: lambda file, name=name: getattr(file, name) for name in ("mode", "name", "closed", "newlines", "encoding")
    },
    "detach": lambda file: None if isinstance(file, io.TextIOBase) else file.detach(),
    "tell": lambda file: file.tell(),
    "seek": lambda file: file.seek(0),
    "truncate": lambda file: file.truncate(),
    "raw": lambda file: file.raw,
    "class": lambda file: (type(file).__name__, type(file).__module__, repr(file).partition(" object at")[0]),
    "kinds": lambda file: [isinstance(file, kind) for kind in (io.BufferedRWPair, io.BufferedIOBase, io.TextIOBase)],
    "buffer": lambda file: isinstance(file.buffer, io.BufferedRWPair),
    "pickle": lambda file: None if isinstance(file, io.RawIOBase) else pickle.dumps(file),
    "hash": lambda file: hash(file) == hash(file),
    "iter": lambda file: iter(file) is file,
}
READS = {
    "read": lambda file: file.read(3),
    "read nothing": lambda file: file.read(0),
    "read1": lambda file: file.read1(2),
    "readinto": lambda file: into(file.readinto, 4),
    "readinto1": lambda file: into(file.readinto1, 4),
    "readinto nothing": lambda file: into(file.readinto, 0),
    "peek": lambda file: file.peek(1)[:1],
    "readline": lambda file: file.readline(),
    "readline of a size": lambda file: file.readline(2),
    "readline of none": lambda file: file.readline(None),
    "next": lambda file: next(file),
    "readlines": lambda file: file.readlines(3),
    "read a word": lambda file: file.read("x"),
    "read a fraction": lambda file: file.read(1.5),
    "read too little": lambda file: file.read(-2),
    "readinto a constant": lambda file: file.readinto(b"xx"),
    "readline of a word": lambda file: file.readline("x"),
    "readlines of a word": lambda file: file.readlines("x"),
}
WRITES = {
    "write": lambda file: file.write(b"some\n"),
    "write words": lambda file: file.write("words\n"),
    "writelines": lambda file: file.writelines([b"a\n", b"b\n"]),
    "writelines of words": lambda file: file.writelines(["a\n", "b\n"]),
    "write a number": lambda file: file.write(1),
    "flush": lambda file: file.flush(),
}
REST = {"all": lambda file: file.read(), "end": lambda file: file.read(), "no line": lambda file: file.readline()}
_LATER = {name: STATE[name] for name in STATE if name != "newlines"}  # the C code forgets them when it writes
ENDED = {**_LATER, **READS, **WRITES, "no lines": lambda file: file.readlines(), "again": lambda file: file.close()}


@pytest.mark.parametrize("buffering", [None, 0, 100])
@pytest.mark.parametrize("mode", ["rwb", "rw"])
def test_all_methods_do_what_they_always_do(arun, mode, buffering):
    def describe():
        left, right = socket.socketpair()
        with left, right:
            right.sendall(b"one\ntwo\r\nthree\nfour\nfive\nsix\nseven and eight\n" + b"line\n" * 20)
            right.shutdown(socket.SHUT_WR)
            options = {} if "b" in mode else {"encoding": "utf-8"}
            found = [outcome(lambda: left.makefile(mode, buffering, **options).close())]
            if isinstance(found[0], tuple):
                return found
            file = left.makefile(mode, buffering, **options)
            found += [left._io_refs, outcome(file.fileno)]
            for calls in (STATE, READS, REST, WRITES):
                found += [(name, outcome(lambda call=call: call(file))) for name, call in calls.items()]
            found += [file.__enter__() is file, file.__exit__(None, None, None), left._io_refs]
            found += [(name, outcome(lambda call=call: call(file))) for name, call in ENDED.items()]
            found += [outcome(file.__enter__), outcome(file.fileno), left._io_refs, right.recv(1000)]
            return [str(each).replace(str(left.fileno()), "N").replace("_io.", "") for each in found]

    native = describe()
    assert arun(lambda: to_greenlet(describe)) == native


@pytest.mark.parametrize("mode", ["rwb", "rw"])
def test_the_socket_is_closed_with_its_last_file(arun, mode):
    def work():
        left, right = socket.socketpair()
        with right:
            first, second = left.makefile(mode), left.makefile(mode)
            left.close()
            first.close()
            first.close()
            assert left.fileno() >= 0
            second.write(b"last" if "b" in mode else "last")
            second.close()
            assert left.fileno() == -1
            assert right.recv(10) == b"last"
            assert right.recv(10) == b""

    work()
    arun(lambda: to_greenlet(work))


def test_a_dropped_file_is_written_and_closed(arun, pair):
    def work():
        file = pair[0].makefile("rwb")
        seen = weakref.ref(file)
        file.write(b"left")
        del file
        assert seen() is None
        assert pair[0]._io_refs == 0
        assert pair[1].recv(10) == b"left"

    gc.disable()
    try:
        arun(lambda: to_greenlet(work))
    finally:
        gc.enable()


@pytest.mark.parametrize("close", ["file", "socket first"])
def test_what_cannot_be_written_at_the_end(arun, close):
    def work():
        left, right = socket.socketpair()
        file = left.makefile("rwb")
        file.write(b"lost")
        right.close()
        if close == "socket first":
            left.close()
        with pytest.raises(BrokenPipeError):
            file.close()
        found = [file.closed, left._io_refs, file.close()]
        left.close()
        return found

    native = work()
    assert arun(lambda: to_greenlet(work)) == native


DATA = b"<a line>\nanother \xe2\x98\x83 one\r\nand the rest"
BINARY = {
    "read": lambda file: file.read(len(DATA)),
    "read all": lambda file: file.read(),
    "readinto": lambda file: (buffer := bytearray(len(DATA)), bytes(buffer[: file.readinto(buffer)]))[1],
    "readline": lambda file: file.readline() + file.readline() + file.readline(),
    "readlines": lambda file: b"".join(file.readlines()),
    "iter": lambda file: b"".join(file),
    "read1": lambda file: file.read1(5) + b"".join(iter(lambda: file.read1(5), b"")),
    "peek": lambda file: b"".join(iter(lambda: file.peek(1) and file.read(1), b"")),
}
TEXT = {
    "read": lambda file: file.read(len(DATA.decode())),
    "read all": lambda file: file.read(),
    "readline": lambda file: file.readline() + file.readline() + file.readline(),
    "readlines": lambda file: "".join(file.readlines()),
    "iter": lambda file: "".join(file),
}
ONE_CALL = {"read", "read all", "readinto", "readlines"}
"""What is a single call of the file; of the others the test keeps what they have returned."""


class Noting:
    """Passes calls on to a file, and keeps what it has read."""

    def __init__(self, file):
        self.file = file
        self.found = []

    def __getattr__(self, name):
        method = getattr(self.file, name)
        if name == "peek":
            return method

        def call(*args):
            found = method(*args)
            if found and not isinstance(found, list | int):
                self.found.append(found)
            return found

        return call

    def __iter__(self):
        return iter(self.readline, self.file.read(0))


FILES = {
    "rwb": ({"mode": "rwb"}, BINARY),
    "rw": ({"mode": "rw", "encoding": "utf-8", "newline": ""}, TEXT),
    "unbuffered": ({"mode": "rb", "buffering": 0}, ("read all", "readline", "readlines", "iter")),
}


@pytest.mark.parametrize("how", ["parked", "at once"])
@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in FILES for name in FILES[kind][1]])
def test_cancelled_at_each_park(arun, kind, name, how):
    """The read parks after each octet. What it has not returned is there for the next one."""
    options = FILES[kind][0]
    whole = DATA.decode() if "encoding" in options else DATA
    read = (BINARY if whole is DATA else TEXT)[name]

    async def once(number):
        left, right = socket.socketpair()
        with left, right:
            file = await to_greenlet(left.makefile, **options)
            noting = Noting(file)
            running = start(read, file if name in ONE_CALL else noting)
            for octet in DATA[:number]:
                await until_parked()
                right.sendall(bytes([octet]))
                await turns()
            if how == "parked":
                await until_parked()
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            right.sendall(DATA[number:])
            right.shutdown(socket.SHUT_WR)
            rest = await asyncio.wait_for(to_greenlet(file.read), 20)
            await to_greenlet(file.close)
            assert rest[:0].join([*noting.found, rest]) == whole

    async def main():
        for number in range(len(DATA)):
            await once(number)

    arun(main)


@pytest.mark.parametrize("mode", ["rwb", "rw"])
def test_a_limit_in_the_midst_of_a_line(arun, pair, mode):
    def limited(file):
        with greenio.timeout(0.001):
            return file.readline()

    async def main():
        file = await to_greenlet(pair[0].makefile, mode)
        pair[1].sendall(b"half ")
        with pytest.raises(TimeoutError):
            await to_greenlet(limited, file)
        pair[1].sendall(b"a line\n")
        found = await asyncio.wait_for(to_greenlet(file.readline), 20)
        assert found == (b"half a line\n" if "b" in mode else "half a line\n")
        await to_greenlet(file.close)

    arun(main)


@pytest.mark.parametrize("mode", ["rwb", "rw"])
class TestTwoGreens:
    def test_lines_are_whole(self, arun, pair, mode):
        async def main():
            file = await to_greenlet(pair[0].makefile, mode)
            running = [start(file.readline) for _ in range(4)]
            await until_parked(4)
            for piece in (b"on", b"e\nt", b"w", b"o\nthree\nfo", b"ur\n"):
                pair[1].sendall(piece)
                await turns(20)
            lines = sorted(await asyncio.gather(*running))
            assert [line if "b" in mode else line.encode() for line in lines] == [
                b"four\n",
                b"one\n",
                b"three\n",
                b"two\n",
            ]
            await to_greenlet(file.close)

        arun(main)

    def test_one_reads_while_another_writes(self, arun, pair, mode):
        text = (lambda octets: octets) if "b" in mode else bytes.decode

        async def main():
            file = await to_greenlet(pair[0].makefile, mode)
            reading = start(file.readline)
            await until_parked()

            def write():
                file.write(text(b"question\n"))
                file.flush()

            await asyncio.wait_for(to_greenlet(write), 20)
            assert pair[1].recv(100) == b"question\n"
            pair[1].sendall(b"answer\n")
            assert await asyncio.wait_for(reading, 20) == text(b"answer\n")
            await to_greenlet(file.close)

        arun(main)

    def test_one_reads_while_another_is_parked_in_a_write(self, arun, pair, mode):
        text = (lambda octets: octets) if "b" in mode else bytes.decode

        async def main():
            file = await to_greenlet(pair[0].makefile, mode)

            def write():
                file.write(text(b"x" * BIG))
                file.flush()

            writing = [start(write) for _ in range(2)]
            await until_parked(2)
            reading = start(file.readline)
            await until_parked(3)
            pair[1].sendall(b"answer\n")
            assert await asyncio.wait_for(reading, 20) == text(b"answer\n")
            assert not any(task.done() for task in writing)

            def drain():
                left = 2 * BIG
                while left:
                    left -= len(pair[1].recv(2**16))

            await asyncio.wait_for(to_greenlet(drain), 20)
            await asyncio.gather(*writing)
            await to_greenlet(file.close)

        arun(main)

    def test_close_waits_for_a_reader(self, arun, pair, mode):
        """As a thread does: what was written goes out, and the reader gets its answer."""
        text = (lambda octets: octets) if "b" in mode else bytes.decode

        async def main():
            file = await to_greenlet(pair[0].makefile, mode)
            reading = start(file.read, 6)
            await until_parked()
            await to_greenlet(file.write, text(b"last"))
            closing = start(file.close)
            await until_parked(2)
            assert pair[1].recv(100) == b"last"
            pair[1].sendall(b"ans")
            await turns(20)
            pair[1].sendall(b"wer")
            assert await asyncio.wait_for(reading, 20) == text(b"answer")
            await asyncio.wait_for(closing, 20)
            assert file.closed
            assert pair[0]._io_refs == 0

        arun(main)

    def test_with_a_thread(self, arun, pair, mode):
        text = (lambda octets: octets) if "b" in mode else bytes.decode

        async def main():
            file = await to_greenlet(pair[0].makefile, mode)
            reading = start(file.readline)
            await until_parked()
            found = []
            thread = threading.Thread(target=lambda: found.append(file.readline()))
            thread.start()
            pair[1].sendall(b"one\ntwo\n")
            found.append(await asyncio.wait_for(reading, 20))
            await until(lambda: not thread.is_alive())
            thread.join()
            assert sorted(found) == [text(b"one\n"), text(b"two\n")]
            await to_greenlet(file.close)

        arun(main)


@pytest.mark.parametrize("buffering", [None, 1])
def test_text_that_was_written_is_handed_down_by_a_read(arun, pair, buffering):
    def work():
        with pair[0].makefile("rw", buffering, encoding="utf-8") as file:
            pair[1].sendall(b"answer\n")
            file.write("question\n")
            found = [file.readline()]
            file.buffer.flush()
            return [*found, pair[1].recv(100)]

    native = work()
    assert arun(lambda: to_greenlet(work)) == native == ["answer\n", b"question\n"]


def test_text_that_was_read_ahead_outlives_a_write(arun, pair):
    """Before CPython 3.13 the C code forgets it, and so half a character."""

    def work():
        with pair[0].makefile("rw", encoding="utf-8") as file:
            pair[1].sendall(b"one\ntwo\nthr\xe2\x98")
            found = [file.readline()]
            file.write("x")
            file.flush()
            pair[1].sendall(b"\x83e\n")
            return [*found, file.readline(), file.readline()]

    assert arun(lambda: to_greenlet(work)) == ["one\n", "two\n", "thr\N{SNOWMAN}e\n"]


def test_no_timeout_is_native(arun, pair):
    """A file of a non-blocking socket says what it always says."""

    def work():
        pair[0].setblocking(False)
        with pair[0].makefile("rwb") as file:
            calls = [file.readline, file.readlines, lambda: file.read(3), lambda: file.read1(3), file.read, file.peek]
            found = [outcome(call) for call in calls]
            pair[1].sendall(b"one\npart")
            return [*found, *map(outcome, [file.readline, file.readline, lambda: file.read(3)])]

    native = work()
    assert arun(lambda: to_greenlet(work)) == native
