"""File objects of pipes and terminals in green code: `open`, `os.fdopen`, `Popen`'s, the standard streams, `input`."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import os
import pickle
import select
import subprocess
import sys
import textwrap
import threading
import warnings
import weakref

import pytest

from greenio import _original, monkey, to_greenlet
from waiting import turns, until, until_parked

pytestmark = [
    pytest.mark.usefixtures("patched"),
    pytest.mark.skipif(sys.platform != "linux", reason="named pipes block elsewhere"),
]


@pytest.fixture
def pipe():
    ends = os.pipe()
    yield ends
    for fd in ends:
        try:
            os.close(fd)
        except OSError:
            pass


def start(fn, *args, **keywords):
    return asyncio.ensure_future(to_greenlet(fn, *args, **keywords))


KINDS = [io.TextIOWrapper, io.BufferedReader, io.BufferedWriter, io.FileIO, io.RawIOBase]


def described(file):
    layers = [file]
    for name in ("buffer", "raw"):
        if hasattr(layers[-1], name):
            layers.append(getattr(layers[-1], name))
    shown = []
    for layer in layers:
        shown += [isinstance(layer, kind) for kind in KINDS]
        shown += [type(layer).__name__, type(layer).__module__, type(layer).__qualname__, repr(layer), layer.name]
        shown += [getattr(layer, name, None) for name in ("mode", "closefd", "encoding", "errors", "line_buffering")]
        shown += [layer.readable(), layer.writable(), layer.seekable(), layer.isatty(), layer.fileno(), layer.closed]
        try:
            pickle.dumps(layer)
        except TypeError as error:
            shown.append(str(error).replace("_io.", ""))
        for call in (layer.tell, lambda layer=layer: layer.seek(0)):
            try:
                call()
            except OSError as error:
                shown.append((type(error), str(error)))
    return shown


@pytest.mark.parametrize("buffering", [-1, 0, 1, 5000])
@pytest.mark.parametrize("mode", ["r", "w", "rb", "wb", "ab", "a", "r+b", "w+b", "xb", "rw", "q", "r+"])
def test_open_makes_what_it_always_makes(arun, pipe, mode, buffering):
    def describe(opening):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            try:
                with opening(pipe["r" not in mode], mode, buffering, closefd=False) as file:
                    return described(file)
            except (ValueError, OSError) as error:
                return type(error), str(error)

    native = describe(open)
    assert arun(lambda: to_greenlet(describe, open)) == native
    assert arun(lambda: to_greenlet(describe, os.fdopen)) == native
    assert arun(lambda: to_greenlet(describe, io.open)) == native


def test_open_a_terminal(arun):
    master, slave = os.openpty()

    def describe():
        with open(slave, "w", closefd=False) as file, open(os.ttyname(slave)) as other:
            return [*described(file), other.line_buffering, other.name]

    native = describe()
    assert arun(lambda: to_greenlet(describe)) == native
    assert "line_buffering" in str(native) or True in native
    os.close(master)
    os.close(slave)


def test_regular_files_stay_native(arun, tmp_path):
    def work():
        path = tmp_path / "file"
        with open(path, "wb") as file:
            assert type(file) is io.BufferedWriter
            assert type(file.raw) is io.FileIO
        with open(path, "rb", opener=lambda path, flags: os.open(path, flags)) as file:
            assert type(file) is io.BufferedReader
            assert type(file.raw) is io.FileIO
            assert file.name == os.fspath(path)
        with open(os.open(path, os.O_RDONLY)) as file:
            assert type(file.buffer) is io.BufferedReader
        with pytest.raises(IsADirectoryError):
            open(tmp_path).close()
        with pytest.raises(FileNotFoundError):
            open(tmp_path / "none").close()

    arun(lambda: to_greenlet(work))


def test_lines_park(arun, pipe):
    async def main():
        reader = await to_greenlet(os.fdopen, pipe[0], "rb")
        running = start(lambda: list(reader))
        await until_parked()
        _original.write(pipe[1], b"one\ntw")
        await turns(20)
        assert not running.done()
        _original.write(pipe[1], b"o\n\nlast")
        os.close(pipe[1])
        assert await running == [b"one\n", b"two\n", b"\n", b"last"]
        await to_greenlet(reader.close)

    arun(main)


READS = {
    "read": lambda file: file.read(12),
    "read all": lambda file: file.read(),
    "read none": lambda file: file.read(None),
    "readline": lambda file: file.readline(),
    "readline of a size": lambda file: file.readline(12),
    "readinto": lambda file: (buffer := bytearray(12), buffer[: file.readinto(buffer)])[1],
    "next": lambda file: next(file),
    "readlines": lambda file: b"".join(file.readlines()),
    "raw readall": lambda file: file.raw.readall(),
}


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("parts", [1, 2, 3])
def test_a_cancelled_read_gives_back_what_it_had(arun, pipe, read, parts):
    async def main():
        reader = await to_greenlet(open, pipe[0], "rb")
        if read != "raw readall":
            _original.write(pipe[1], b"<")
            assert await to_greenlet(reader.peek) == b"<"
        running = start(READS[read], reader)
        await until_parked()
        for number in range(1, parts):
            _original.write(pipe[1], b"%d" % number)
            await turns(20)
            assert not running.done()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        _original.write(pipe[1], b"end\n")
        os.close(pipe[1])
        found = b"<" * (read != "raw readall") + b"12"[: parts - 1] + b"end\n"
        assert await to_greenlet(READS[read], reader) == found
        await to_greenlet(reader.close)

    arun(main)


RAW_READS = {
    "readline": lambda file: file.readline(),
    "readline of a size": lambda file: file.readline(9),
    "next": lambda file: next(file),
    "readlines": lambda file: b"".join(file.readlines()),
    "readlines of a size": lambda file: b"".join(file.readlines(8)),
}


@pytest.mark.parametrize("read", RAW_READS)
def test_a_cancelled_read_of_an_unbuffered_file_loses_nothing(arun, pipe, read):
    async def main():
        reader = await to_greenlet(os.fdopen, pipe[0], "rb", 0)
        running = start(RAW_READS[read], reader)
        await until_parked()
        _original.write(pipe[1], b"one\ntwo" if "readlines" in read else b"one")
        await turns(20)
        assert not running.done()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        _original.write(pipe[1], b" and\nrest\n")
        os.close(pipe[1])
        found = {"readlines": b"one\ntwo and\nrest\n", "readlines of a size": b"one\ntwo and\n"}.get(read, b"one and\n")
        assert await to_greenlet(RAW_READS[read], reader) == found
        await to_greenlet(reader.close)

    arun(main)


def test_lines_of_an_unbuffered_file_are_as_native_ones(arun):
    def of_nothing(file):
        other, writer = os.pipe()
        os.set_blocking(other, False)
        os.dup2(other, file.fileno())
        try:
            return file.readline()
        finally:
            os.close(other)
            os.close(writer)

    calls = [
        *(lambda file, size=size: [file.readline(size) for _ in range(6)] for size in (-1, None, 0, 1, 3, 4, 100)),
        *(lambda file, hint=hint: [file.readlines(hint), file.read()] for hint in (-1, None, 0, 1, 4, 5, 6, 100)),
        lambda file: [*file, file.readline(), file.readlines()],
        lambda file: file.readline("1"),
        lambda file: file.readlines("1"),
        lambda file: (file.close(), file.readline()),
        lambda file: (file.close(), file.readlines()),
        of_nothing,
    ]

    def outcome(call):
        reader, writer = os.pipe()
        os.write(writer, b"one\n\ntwo\nthree")
        os.close(writer)
        with open(reader, "rb", 0) as file:
            try:
                return call(file)
            except (OSError, TypeError, ValueError) as error:
                return type(error), str(error)

    for call in calls:
        assert arun(lambda call=call: to_greenlet(outcome, call)) == outcome(call)


def test_natives_read_what_was_given_back(arun, pipe):
    async def main():
        reader = await to_greenlet(open, pipe[0], "rb")
        _original.write(pipe[1], b"abc")
        running = start(reader.read, 100)
        await until_parked()
        running.cancel()
        await asyncio.wait([running])
        _original.write(pipe[1], b"de\n")
        assert reader.readline() == b"abcde\n"
        reader.close()

    arun(main)


def test_two_greens_use_one_file(arun, pipe):
    async def main():
        reader = await to_greenlet(open, pipe[0], "rb")
        running = [start(reader.readline) for _ in range(3)]
        await until_parked(3)
        _original.write(pipe[1], b"a\nb\nc\n")
        assert sorted(await asyncio.gather(*running)) == [b"a\n", b"b\n", b"c\n"]
        await to_greenlet(reader.close)

    arun(main)


CLOSES = {
    "a green": lambda file: to_greenlet(file.close),
    "native code": lambda file: asyncio.sleep(0, file.close()),
    "another thread": lambda file: asyncio.to_thread(file.close),
}


@pytest.mark.parametrize("mode", ["r", "rb"])
@pytest.mark.parametrize("close", CLOSES)
def test_close_under_readers(arun, pipe, close, mode):
    async def main():
        reader = await to_greenlet(open, pipe[0], mode)
        running = [start(reader.readline), start(reader.read), start(reader.read, 5)]
        await until_parked(3)
        _original.write(pipe[1], b"part")
        await turns(20)
        await asyncio.wait_for(CLOSES[close](reader), 10)
        assert reader.closed
        found = await asyncio.wait_for(asyncio.gather(*running, return_exceptions=True), 10)
        assert isinstance(found[0], OSError)
        assert found[0].errno == errno.EBADF
        for error in found[1:]:  # who had queued
            assert isinstance(error, ValueError)
            assert "closed file" in str(error)

    arun(main)


@pytest.mark.parametrize("mode", ["w", "wb"])
@pytest.mark.parametrize("close", CLOSES)
def test_close_under_a_writer(arun, pipe, close, mode):
    """It would wait for a thread that writes, or what that has written would be lost."""

    async def main():
        writer = await to_greenlet(open, pipe[1], mode)
        data = "x" * 10**6
        running = start(writer.write, data if mode == "w" else data.encode())
        await until_parked()
        if close == "native code":
            with pytest.raises(RuntimeError, match="held by a greenlet of this very thread"):
                writer.close()
            closing = start(writer.close)
        else:
            closing = asyncio.ensure_future(CLOSES[close](writer))
        await turns(20)
        assert not closing.done()
        size = 0
        while part := await to_greenlet(os.read, pipe[0], 2**16):
            size += len(part)
        await asyncio.wait_for(closing, 10)
        assert size == await running == 10**6

    arun(main)


def test_a_green_and_a_thread_use_one_file(arun, pipe):
    found = []

    async def main():
        reader = await to_greenlet(open, pipe[0], "rb")
        thread = threading.Thread(target=lambda: found.append(reader.readline()))
        thread.start()
        await until(lambda: _sleeps_in_read(thread))
        running = start(reader.readline)
        await until_parked()
        _original.write(pipe[1], b"a\nb\n")
        found.append(await running)
        await until(lambda: not thread.is_alive())
        thread.join()
        reader.close()

    arun(main)
    assert sorted(found) == [b"a\n", b"b\n"]


def _sleeps_in_read(thread):
    with io.FileIO(f"/proc/self/task/{thread.native_id}/wchan") as file:
        return b"pipe" in file.read()


def test_writers_queue_too(arun, pipe):
    async def main():
        writer = await to_greenlet(open, pipe[1], "wb")
        size = 300_000
        running = [start(writer.write, bytes([65 + number]) * size) for number in range(2)]
        await until_parked(2)
        found = b""
        while len(found) < 2 * size - 2**16:
            found += await to_greenlet(os.read, pipe[0], 2**16)
            await turns(2)
        closing = start(writer.close)
        while part := await to_greenlet(os.read, pipe[0], 2**16):
            found += part
        await asyncio.gather(closing, *running)
        assert found == b"A" * size + b"B" * size

    arun(main)


def test_a_cancelled_write_repeats_nothing(arun, pipe):
    """The buffered layer knows how much of its buffer is written."""

    async def main():
        writer = await to_greenlet(open, pipe[1], "wb", 2**18)
        data = os.urandom(2**18 - 10)
        assert await to_greenlet(writer.write, data) == len(data)
        running = start(writer.flush)
        await until_parked()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        closing = start(writer.close)
        found = b""
        while part := await to_greenlet(os.read, pipe[0], 2**16):
            found += part
        await closing
        assert found == data

    arun(main)


def test_print_to_a_slow_reader(arun, pipe):
    async def main():
        def work():
            with open(pipe[1], "w", encoding="utf-16-le", newline="\r\n") as file:
                for number in range(20_000):
                    print("line", number, "\N{SNOWMAN}", file=file)

        running = start(work)
        await until_parked()

        def read():
            with open(pipe[0], encoding="utf-16-le") as file:
                return file.readlines()

        assert await to_greenlet(read) == [f"line {number} \N{SNOWMAN}\n" for number in range(20_000)]
        await running

    arun(main)


def test_broken_pipe(arun, pipe):
    async def main():
        raw = await to_greenlet(open, pipe[1], "wb", 0)
        running = start(raw.write, bytes(10**6))
        await until_parked()
        os.close(pipe[0])
        assert 0 < await running < 10**6
        with pytest.raises(BrokenPipeError):
            await to_greenlet(raw.write, b"x")
        await to_greenlet(raw.close)

    arun(main)


def test_unbuffered_writes_write_all(arun, pipe):
    async def main():
        raw = await to_greenlet(open, pipe[1], "wb", 0)
        running = start(raw.write, bytes(10**6))
        size = 0
        while size < 10**6:
            size += len(await to_greenlet(os.read, pipe[0], 2**16))
        assert await running == 10**6
        running = start(raw.write, bytes(10**6))
        await until_parked()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await to_greenlet(raw.close)

    arun(main)


def test_close_under_a_raw_reader(arun, pipe):
    async def main():
        raw = await to_greenlet(open, pipe[0], "rb", 0)
        running = start(raw.read, 10)
        await until_parked()
        raw.close()
        with pytest.raises(OSError) as caught:
            await running
        assert caught.value.errno == errno.EBADF
        for call in (raw.read, raw.readall, lambda: raw.readinto(bytearray(1)), lambda: raw.write(b"x")):
            with pytest.raises(ValueError, match="closed file"):
                await to_greenlet(call)

    arun(main)


def test_non_blocking_files(arun, pipe):
    def work(opening):
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        os.set_blocking(writer, False)
        found = []
        with opening(reader, "rb") as file, opening(writer, "wb", 0) as raw:
            for call in (
                file.read,
                lambda: file.read(5),
                file.readline,
                file.read1,
                lambda: file.readinto(bytearray(2)),
            ):
                found.append(call())
                raw.write(b"ab")
                found.append(call())
            found += [file.raw.read(), file.raw.readall(), file.raw.readinto(bytearray(5)), raw.write(bytes(10**6))]
            found += [raw.write(b"x")]
        with pytest.raises(io.UnsupportedOperation), opening(os.dup(pipe[0]), "rb", 0) as file:
            file.write(b"x")
        with pytest.raises(io.UnsupportedOperation), opening(os.dup(pipe[1]), "wb", 0) as file:
            file.read(1)
        return found

    native = work(monkey.original("io", "open"))
    assert arun(lambda: to_greenlet(work, open)) == native


def test_nothing_keeps_a_dropped_file(arun, pipe):
    async def main():
        file = await to_greenlet(open, pipe[0], "rb", closefd=False)
        reference, raw = weakref.ref(file), weakref.ref(file.raw)
        del file
        assert reference() is raw() is None

    arun(main)


def test_named_pipes(arun, tmp_path):
    path = tmp_path / "fifo"
    os.mkfifo(path)

    def write():
        with open(path, "w") as file:
            file.write("text\n")

    def read():
        with open(path) as file:
            assert file.name == os.fspath(path)
            return file.read()

    async def main():
        running = start(read)
        await until_parked()
        await to_greenlet(write)
        assert await running == "text\n"
        opened = start(open, path, "wb", opener=lambda path, flags: os.open(path, flags))
        await until_parked()
        reading = start(read)
        file = await opened
        assert isinstance(file, io.BufferedWriter)
        await to_greenlet(file.close)
        assert await reading == ""

    arun(main)


def test_popen(arun):
    code = "import sys; print('ready', flush=True); [print(line.strip()[::-1], flush=True) for line in sys.stdin]"

    def converse(**options):
        with subprocess.Popen(
            [sys.executable, "-uc", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options
        ) as child:
            assert isinstance(child.stdout, io.TextIOWrapper)
            found = [child.stdout.readline()]
            for word in ("abc", "def"):
                print(word, file=child.stdin, flush=True)
                found.append(child.stdout.readline())
            child.stdin.close()
            return [*found, child.stdout.read(), child.wait()]

    def shell(read):
        with os.popen("echo a; echo b") as file:
            return read(file)

    async def main():
        running = [start(converse), start(converse, bufsize=1), start(converse, encoding="latin-1")]
        for each in running:
            assert await each == ["ready\n", "cba\n", "fed\n", "", 0]
        assert await to_greenlet(shell, list) == ["a\n", "b\n"]
        assert await to_greenlet(shell, lambda file: file.read()) == "a\nb\n"

    arun(main)


SCRIPT = """
    import asyncio, sys
    from greenio import monkey, to_greenlet
    monkey.patch_all()
    beats = [0]

    async def beat():
        while True:
            beats[0] += 1
            await asyncio.sleep(0.001)

    async def main():
        asyncio.get_running_loop().slow_callback_duration = 60.0  # a busy machine is not what is tested
        beating = asyncio.ensure_future(beat())
        await to_greenlet(work)
        beating.cancel()

    def tell(*words):
        print(*words, file=sys.stderr, flush=True)

"""


class Child:
    """A script of its own, whose standard streams are in the test's hands."""

    def __init__(self, script, **streams):
        code = textwrap.dedent(SCRIPT) + textwrap.dedent(script) + "\nasyncio.run(main())\n"
        self.process = subprocess.Popen([sys.executable, "-X", "dev", "-c", code], stderr=subprocess.PIPE, **streams)

    def expect(self, words):
        line = self.process.stderr.readline().decode()
        assert line == words + "\n", line + self.process.stderr.read().decode()

    def end(self):
        rest = self.process.stderr.read().decode()
        assert (self.process.wait(), rest) == (0, "")
        for stream in (self.process.stderr, self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


def test_input_from_a_pipe():
    child = Child(
        """
        def work():
            tell(repr(input("? ")))
            before = beats[0]
            tell(repr(input()))
            tell(repr(sys.stdin.readline()), beats[0] - before > 20)
            tell(next(sys.stdin))
            tell(repr(sys.stdin.read(2)), sys.stdin.buffer.readline(1) is not None)
            try:
                input()
            except EOFError as error:
                tell(error)
        """,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    child.process.stdin.write(b"one\ntwo\n")
    child.process.stdin.flush()
    child.expect("'one'")
    assert child.process.stdout.read1() == b"? "
    child.expect("'two'")
    _original.sleep(0.1)  # for which the loop in the child goes on
    child.process.stdin.write(b"three\n")
    child.process.stdin.flush()
    child.expect("'three\\n' True")
    child.process.stdin.write(b"four\n5 ")
    child.process.stdin.close()
    child.expect("four")
    child.expect("")
    child.expect("'5 ' True")
    child.expect("EOF when reading a line")
    child.end()


def test_a_cancelled_input_takes_no_line():
    child = Child(
        """
        async def main():
            running = asyncio.ensure_future(to_greenlet(input))
            await asyncio.sleep(0.01)
            running.cancel()
            await asyncio.wait([running])
            tell(running.cancelled())
            tell(await to_greenlet(input))
        """,
        stdin=subprocess.PIPE,
    )
    child.expect("True")
    child.process.stdin.write(b"line\n")
    child.process.stdin.flush()
    child.expect("line")
    child.end()


@pytest.mark.parametrize("read", ["input", "sys.stdin.readline", "sys.stdin.buffer.readline"])
def test_a_cancelled_input_gives_back_half_a_line(read):
    child = Child(
        f"""
        import select

        def is_ready():
            return bool(select.select([0], [], [], 0)[0])

        async def main():
            while not is_ready():
                await asyncio.sleep(0.001)
            running = asyncio.ensure_future(to_greenlet({read}))
            while is_ready():
                await asyncio.sleep(0.001)
            running.cancel()
            await asyncio.wait([running])
            tell(running.cancelled())
            tell(len((await to_greenlet({read})).strip()))
            tell(repr(next(sys.stdin)))
        """,
        stdin=subprocess.PIPE,
    )
    child.process.stdin.write(b"half")
    child.process.stdin.flush()
    child.expect("True")
    child.process.stdin.write(b" of a line\nanother\n")
    child.process.stdin.flush()
    child.expect("14")
    child.expect(r"'another\n'")
    child.end()


def test_two_greens_print_to_a_full_pipe():
    child = Child(
        """
        def work(letter):
            for _ in range(50):
                sys.stdout.write(letter * 3000 + "\\n")

        async def main():
            await asyncio.gather(*(to_greenlet(work, letter) for letter in "abcd"))
            await to_greenlet(sys.stdout.flush)
        """,
        stdout=subprocess.PIPE,
    )
    _original.sleep(0.2)
    lines = [child.process.stdout.readline() for _ in range(200)]
    assert sorted(lines) == sorted(b"%c" % letter * 3000 + b"\n" for letter in b"abcd" for _ in range(50))
    child.end()


def test_output_to_a_full_pipe():
    child = Child(
        """
        def work():
            for number in range(20_000):
                print("line", number)
            sys.stdout.flush()
            tell(beats[0] > 20)
        """,
        stdout=subprocess.PIPE,
    )
    _original.sleep(0.3)
    lines = [child.process.stdout.readline() for _ in range(20_000)]
    assert lines == [b"line %d\n" % number for number in range(20_000)]
    child.expect("True")
    child.end()


@pytest.mark.parametrize("prelude", ["", "import readline"])
def test_input_from_a_terminal(prelude):
    master, slave = os.openpty()
    child = Child(
        f"""
        {prelude}
        def work():
            tell(input("prompt> "))
            before = beats[0]
            tell(input("again> "))
            tell(beats[0] - before > 20)
            try:
                input()
            except EOFError as error:
                tell(repr(error))
        """,
        stdin=slave,
        stdout=slave,
    )
    shown = b""

    def expect_shown(words):
        nonlocal shown
        while words not in shown:
            assert select.select([master], [], [], 20)[0], shown
            shown += os.read(master, 1000)

    if prelude:
        expect_shown(b"prompt> ")
    else:
        assert child.process.stderr.read(8) == b"prompt> "
    os.write(master, b"hello\n")
    child.expect("hello")
    if prelude:
        expect_shown(b"again> ")
    else:
        assert child.process.stderr.read(7) == b"again> "
    os.write(master, b"half")
    _original.sleep(0.1)
    os.write(master, b" a line\n")
    child.expect("half a line")
    child.expect("True")
    os.write(master, b"\x04")
    child.expect("EOFError()")
    child.end()
    os.close(slave)
    os.close(master)


def test_a_password_from_the_terminal():
    """`getpass` opens the terminal itself; echo is off while it waits, and on afterwards."""
    master, slave = os.openpty()
    child = Child(
        """
        import getpass, os, termios
        from greenio import timeout
        os.close(os.open(os.ttyname(0), os.O_RDWR))  # now it is the terminal of this session
        def echoes():
            return bool(termios.tcgetattr(0)[3] & termios.ECHO)
        def work():
            tell(getpass.getpass("secret> "))
            before = beats[0]
            tell(getpass.getpass("again> "))
            tell(beats[0] - before > 20)
            tell(echoes())
            try:
                with timeout(0.05):
                    getpass.getpass()
            except TimeoutError:
                tell(echoes())
        """,
        stdin=slave,
        stdout=slave,
        start_new_session=True,
    )
    shown = b""
    for prompt, answer in ((b"secret> ", b"hush\n"), (b"again> ", b"half")):
        while prompt not in shown:
            assert select.select([master], [], [], 20)[0], shown
            shown += os.read(master, 1000)
        os.write(master, answer)
        if answer.endswith(b"\n"):
            child.expect("hush")
    _original.sleep(0.1)
    os.write(master, b" a word\n")
    for told in ("half a word", "True", "True", "True"):
        child.expect(told)
    child.end()
    assert b"hush" not in shown
    os.close(slave)
    os.close(master)


def test_streams_are_native_after_the_patch(monkeypatch):
    monkey.unpatch_all()
    reader, writer = os.pipe()
    stream = io.TextIOWrapper(io.BufferedWriter(io.FileIO(writer, "w")))
    monkeypatch.setattr(sys, "stdout", stream)
    before = [dict(vars(layer)) for layer in (stream.buffer, stream.buffer.raw)]
    with monkey.patched("os"):
        assert "write" in vars(stream.buffer.raw)
        print("text", flush=True)
    assert os.read(reader, 10) == b"text\n"
    after = [dict(vars(layer)) for layer in (stream.buffer, stream.buffer.raw)]
    after[0].pop("_greenio_lock")
    assert after == before
    stream.close()
    os.close(reader)


@pytest.mark.parametrize("closed", [False, True])
def test_native_streams_have_what_was_given_back(monkeypatch, closed):
    monkey.unpatch_all()
    reader, writer = os.pipe()
    stream = io.TextIOWrapper(io.BufferedReader(io.FileIO(reader)))
    monkeypatch.setattr(sys, "stdin", stream)

    async def main():
        running = start(input)
        await until_parked()
        _original.write(writer, b"half")
        await turns(20)
        running.cancel()
        await asyncio.wait([running])

    with monkey.patched("os"):
        asyncio.run(main())
        if closed:
            stream.close()
    if not closed:
        os.write(writer, b" a line\n")
        assert stream.readline() == "half a line\n"
        stream.close()
    os.close(writer)


@pytest.mark.parametrize("mode", ["r", "rb"])
def test_a_forked_child_reads_from_what_a_green_holds(arun, pipe, mode):
    """A green never parks inside the C code, whose lock would stay the thread's in the child."""

    async def main():
        reader = await to_greenlet(open, pipe[0], mode)
        running = start(reader.readline)
        await until_parked()
        child = os.fork()
        if not child:
            code = 1
            try:
                others, own = os.pipe()
                _original.write(own, b"line\n")
                os.dup2(others, reader.fileno())
                code = reader.readline() not in ("line\n", b"line\n")
                reader.close()
            finally:
                os._exit(code)
        assert await end_of(child) == 0
        running.cancel()
        await asyncio.wait([running])
        reader.close()

    arun(main)


async def end_of(child):
    """Wait for a child, without parking, and return its status."""
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        await asyncio.sleep(0.01)


def test_a_forked_child_writes_to_what_a_green_holds(arun, pipe):
    """The lock that a parked green holds is not held in the child."""

    async def main():
        writer = await to_greenlet(open, pipe[1], "wb")
        running = start(writer.write, bytes(10**6))
        await until_parked()
        child = os.fork()
        if not child:
            code = 1
            try:
                writer.flush()
            except RuntimeError:
                code = 0  # reentrant call: the native lock belongs to the thread
            finally:
                os._exit(code)
        assert await end_of(child) == 0
        running.cancel()
        await asyncio.wait([running])
        os.close(pipe[0])
        with contextlib.suppress(BrokenPipeError):
            await to_greenlet(writer.close)

    arun(main)
