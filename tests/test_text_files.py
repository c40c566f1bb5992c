"""Text files that park: nothing is lost by a cancellation, nothing mixed, and all else is as natively."""

from __future__ import annotations

import asyncio
import io
import os
import random
import socket
import subprocess

import pytest

import greenio
from greenio import _original, to_greenlet
from waiting import turns, until_parked

pytestmark = pytest.mark.usefixtures("patched")


def start(fn, *args, **keywords):
    return asyncio.ensure_future(to_greenlet(fn, *args, **keywords))


READS = {
    "read": lambda file: file.read(30),
    "read all": lambda file: file.read(),
    "readline": lambda file: file.readline(),
    "readline of a size": lambda file: file.readline(30),
    "next": lambda file: next(file),
    "list": lambda file: "".join(file),
    "readlines": lambda file: "".join(file.readlines()),
}
BINARY_READS = {**READS, "list": lambda file: b"".join(file), "readlines": lambda file: b"".join(file.readlines())}
BINARY_READS["readinto"] = lambda file: (buffer := bytearray(30), buffer[: file.readinto(buffer)])[1]


@pytest.fixture
def pipe():
    """A pipe: to write to, and to read from in green code."""
    reader, writer = os.pipe()
    with open(writer, "wb", 0) as raw:
        yield reader, raw


@pytest.fixture
def pair():
    left, right = socket.socketpair()
    with left, right:
        yield left, right


async def check_cancelled_reads(file, send, end, read, text=True):
    """Cancel a read that has a part, and more than once; the next one reads all."""
    send(b"<")
    assert await to_greenlet(file.read, 1) == ("<" if text else b"<")
    send(b"a\xe2")
    for piece in (b"\x98", b"\x83b", b""):
        running = start(read, file)
        await until_parked()
        send(piece)
        await turns(20)
        assert not running.done()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    with pytest.raises(TimeoutError):
        await to_greenlet(limited, read, file)
    send(b"c\r\n")
    end()
    found = "a\N{SNOWMAN}bc\n" if text else "a\N{SNOWMAN}bc\r\n".encode()
    assert await asyncio.wait_for(to_greenlet(read, file), 10) == found
    await to_greenlet(file.close)


def limited(read, file):
    with greenio.timeout(0.001):
        return read(file)


@pytest.mark.parametrize("read", READS)
def test_a_cancelled_read_loses_nothing(arun, pipe, read):
    async def main():
        file = await to_greenlet(os.fdopen, pipe[0], encoding="utf-8")
        await check_cancelled_reads(file, pipe[1].write, pipe[1].close, READS[read])

    arun(main)


@pytest.mark.parametrize("read", READS)
def test_the_pipes_of_popen(arun, read):
    async def main():
        def launch():
            return subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8")

        child = await to_greenlet(launch)

        def send(octets):
            _original.write(child.stdin.fileno(), octets)

        await check_cancelled_reads(child.stdout, send, child.stdin.close, READS[read])
        assert await to_greenlet(child.wait) == 0

    arun(main)


@pytest.mark.parametrize("read", READS)
def test_text_files_of_sockets(arun, pair, read):
    async def main():
        file = await to_greenlet(pair[0].makefile, encoding="utf-8")
        await check_cancelled_reads(file, pair[1].sendall, pair[1].close, READS[read])

    arun(main)


@pytest.mark.parametrize("read", BINARY_READS)
def test_binary_files_of_sockets(arun, pair, read):
    async def main():
        file = await to_greenlet(pair[0].makefile, "rb")
        await check_cancelled_reads(file, pair[1].sendall, pair[1].close, BINARY_READS[read], text=False)

    arun(main)


@pytest.mark.parametrize("mode", ["r", "rb"])
def test_a_timeout_of_the_socket_ends_its_files(arun, pair, mode):
    """As natively: the socket raises it, and SocketIO remembers."""
    pair[0].settimeout(0.01)

    def work():
        file = pair[0].makefile(mode)
        pair[1].sendall(b"part")
        with pytest.raises(TimeoutError):
            file.readline()
        pair[1].sendall(b" of a line\n")
        for read in (file.readline, lambda: file.read(2), file.readline, lambda: file.read(1)):
            with pytest.raises(OSError, match="cannot read from timed out object"):
                read()
        file.close()
        assert pair[0].recv(100) == b" of a line\n"

    work()
    arun(lambda: to_greenlet(work))


@pytest.mark.parametrize("mode", ["r", "w", "rb", "wb", "rw", "rwb", "br", "q"])
@pytest.mark.parametrize("buffering", [None, -1, 0, 1, 100])
def test_makefile_makes_what_it_always_makes(arun, pair, mode, buffering):
    def describe():
        try:
            with pair[0].makefile(mode, buffering, encoding=None if "b" in mode else "latin-1", newline="") as file:
                layers = [file]
                for name in ("buffer", "raw"):
                    if hasattr(layers[-1], name):
                        layers.append(getattr(layers[-1], name))
                kinds = (io.TextIOWrapper, io.BufferedReader, io.BufferedWriter, io.BufferedRWPair, socket.SocketIO)
                shown = [[isinstance(layer, kind) for kind in kinds] for layer in layers]
                shown += [[type(layer).__name__, type(layer).__module__] for layer in layers]
                names = ("mode", "name", "encoding", "errors", "line_buffering", "newlines", "write_through")
                shown += [[getattr(layer, name, None) for name in names] for layer in layers]
                shown += [[layer.readable(), layer.writable(), layer.closed] for layer in layers]
                if "r" not in mode:
                    file.write(b"x\n" if "b" in mode else "x\n")
                    file.flush()
                    shown.append(pair[1].recv(10))
                else:
                    pair[1].sendall(b"one\r\ntwo\r\n")
                    shown += [file.readline(), file.read(2), file.read(3)]
            return [*shown, file.closed]
        except (ValueError, AssertionError) as error:
            return type(error), str(error)

    native = describe()
    assert arun(lambda: to_greenlet(describe)) == native


OPERATIONS = {
    "read": lambda file, size: file.read(size),
    "readline": lambda file, size: file.readline(),
    "readline of a size": lambda file, size: file.readline(size),
    "readlines": lambda file, size: file.readlines(size + 1),
    "next": lambda file, size: next(file, None),
}
PIECES = ["\r", "\n", "\r\n", "x", "yz", "\N{SNOWMAN}", "\N{GRINNING FACE}", "long" * 1000]


@pytest.mark.parametrize("newline", [None, "", "\n", "\r", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-8-sig", "shift_jis"])
def test_reads_as_natively(arun, newline, encoding):
    """Random texts by random calls."""
    dice = random.Random(f"{newline}{encoding}")
    rounds = int(os.environ.get("GREENIO_FUZZ_ROUNDS", "30"))

    def read(opening, data, calls):
        reader, writer = os.pipe()
        with opening(writer, "wb", 0) as raw:
            raw.write(data)
        with opening(reader, encoding=encoding, newline=newline, errors="replace") as file:
            return [OPERATIONS[name](file, size) for name, size in calls] + [file.read(), file.newlines]

    for _ in range(rounds):
        text = "".join(dice.choices(PIECES, k=dice.randrange(12)))
        data = text.encode(encoding, "replace")
        calls = [(dice.choice(list(OPERATIONS)), dice.randrange(20)) for _ in range(dice.randrange(15))]
        native = read(_original_open, data, calls)
        assert arun(lambda data=data, calls=calls: to_greenlet(read, open, data, calls)) == native


_original_open = greenio.monkey.original("io", "open")


def test_what_is_wrong_raises_as_natively(arun):
    def outcomes(opening):
        reader, writer = os.pipe()
        with opening(writer, "w", encoding="utf-8") as target, opening(reader, encoding="utf-8") as file:
            target.write("abc\n")
            target.flush()
            found = [
                outcome(call)
                for call in (
                    lambda: file.read("x"), lambda: file.readline("x"), lambda: file.readline(None),
                    lambda: file.write("x"), lambda: target.read(), lambda: target.readline(), lambda: next(target),
                    lambda: file.tell(), lambda: file.seek(0), lambda: target.write(b"x"), lambda: file.readline(2),
                    lambda: file.reconfigure(encoding="latin-1"), lambda: file.reconfigure(newline=""),
                    lambda: file.readline(), lambda: file.reconfigure(line_buffering=True),
                    lambda: _original.write(writer, b"x\xffy\n"), lambda: file.readline(), target.close,
                    lambda: file.readline(), lambda: file.read(),
                )
            ]  # fmt: skip
        found += [outcome(call) for call in (file.read, file.readline, file.readlines, lambda: next(file), file.detach)]
        found += [outcome(call) for call in (target.flush, lambda: target.write("x"), file.close, target.close)]
        return found

    native = outcomes(_original_open)
    assert arun(lambda: to_greenlet(outcomes, open)) == native


def outcome(call):
    try:
        return call()
    except Exception as error:
        return type(error), str(error)


class Number:
    """What is no int, but may stand for one, as numpy's do."""

    def __init__(self, value):
        self.value = value

    def __index__(self):
        return self.value


@pytest.mark.parametrize("mode", ["r", "rb"])
def test_sizes_that_are_no_ints(arun, pipe, mode):
    async def main():
        file = await to_greenlet(os.fdopen, pipe[0], mode)
        for read in (file.read, file.readline):
            pipe[1].write(b"abc")
            assert await to_greenlet(file.read, 1) in ("a", b"a")
            assert await to_greenlet(read, Number(2)) in ("bc", b"bc")
            running = start(read, Number(4))
            await until_parked()
            pipe[1].write(b"de")
            await turns(20)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            pipe[1].write(b"fg")
            assert await asyncio.wait_for(to_greenlet(read, Number(4)), 10) in ("defg", b"defg")
        await to_greenlet(file.close)

    arun(main)


@pytest.mark.parametrize("mode", ["r", "rb", "rw"])
def test_files_that_were_detached(arun, mode):
    def work():
        left, right = socket.socketpair()
        with left, right:
            file = left.makefile(mode)
            file.detach().close()
            calls = [file.read, file.readline, file.readlines, lambda: next(file), file.detach, file.flush, file.close]
            return [outcome(call) for call in calls]

    native = work()
    assert arun(lambda: to_greenlet(work)) == native


def test_when_settings_may_change(arun):
    """Once something was read they may not; what was read ahead is not lost by the attempt."""

    def work(opening):
        reader, writer = os.pipe()
        with opening(writer, "wb", 0) as raw, opening(reader, encoding="utf-8") as file:
            raw.write(b"one\ntwo\r\n")
            found = [file.readline()]
            changes = ({"newline": None}, {"newline": ""}, {"encoding": "latin-1"}, {"errors": "replace"}, {})
            found += [outcome(lambda change=change: file.reconfigure(**change)) for change in changes]
            return [*found, file.readline(), raw.close(), file.read(), file.encoding, file.errors]

    native = work(_original_open)
    assert native[1][0] is io.UnsupportedOperation
    assert arun(lambda: to_greenlet(work, open)) == native


def test_settings_may_change_before_the_first_read(arun, pipe):
    def work():
        file = os.fdopen(pipe[0], encoding="ascii")
        file.reconfigure(encoding="latin-1", newline="")
        pipe[1].write(b"\xe4\r\n")
        assert file.readline() == "\xe4\r\n"
        pipe[1].write(b"rest")
        with file.detach() as buffered:
            assert buffered.read(4) == b"rest"

    arun(lambda: to_greenlet(work))


def test_lines_of_two_readers_are_whole(arun, pipe):
    async def main():
        file = await to_greenlet(open, pipe[0], encoding="ascii")
        running = [start(file.readline) for _ in range(4)]
        await until_parked(4)
        for piece in (b"on", b"e\nt", b"w", b"o\nthree\nfo", b"ur\n"):
            pipe[1].write(piece)
            await turns(20)
        assert sorted(await asyncio.gather(*running)) == ["four\n", "one\n", "three\n", "two\n"]
        await to_greenlet(file.close)

    arun(main)


def test_lines_of_two_writers_are_whole(arun):
    """Each fills the text layer's own buffer while others are parked in it."""
    count, length = 40, 3000

    async def main():
        reader, writer = os.pipe()
        file = await to_greenlet(open, writer, "w", encoding="ascii")

        def write(letter):
            for _ in range(count):
                file.write(letter * length + "\n")

        running = [start(write, letter) for letter in "abcd"]
        await until_parked(4)

        async def close():
            await asyncio.gather(*running)
            await to_greenlet(file.close)

        closing = asyncio.ensure_future(close())
        with await to_greenlet(open, reader, encoding="ascii") as source:
            lines = await asyncio.wait_for(to_greenlet(source.readlines), 20)
        await closing
        assert sorted(lines) == sorted(letter * length + "\n" for letter in "abcd" for _ in range(count))

    arun(main)


@pytest.mark.parametrize("mode", ["r", "rb", "rwb"])
def test_a_socket_that_receives_in_its_own_way(arun, mode):
    """A file calls `recv_into` for all that it reads, as natively: a subclass may decode there, or count."""

    class Shifting(socket.socket):
        def recv_into(self, buffer, *rest):
            count = super().recv_into(buffer, *rest)
            octets = memoryview(buffer).cast("B")
            for place in range(count):
                octets[place] -= 1
            return count

    def work():
        left, right = socket.socketpair()
        with Shifting(fileno=left.detach()) as shifting, right, shifting.makefile(mode) as file:
            right.sendall(bytes(octet + 1 for octet in b"one\ntwo, and more\n"))
            right.shutdown(socket.SHUT_WR)
            return [file.readline(), file.read(5), file.read()]

    lines = arun(lambda: to_greenlet(work))
    assert lines == (["one\n", "two, ", "and more\n"] if mode == "r" else [b"one\n", b"two, ", b"and more\n"])


def test_a_socket_whose_method_was_exchanged(arun, pair):
    """On the object itself, as a test may do it."""

    class Plain(socket.socket):
        pass

    def work():
        with Plain(fileno=pair[0].detach()) as plain, plain.makefile("rb", 0) as file:
            plain.recv_into = lambda buffer: 0
            again = plain.makefile("rb", 0)
            pair[1].sendall(b"data")
            assert again.read(4) == b""
            again.close()
            del plain.recv_into
            assert file.read(4) == b"data"

    arun(lambda: to_greenlet(work))
