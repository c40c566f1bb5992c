"""Regular files: native, unless `files=True` is asked for; then large operations go to threads."""

from __future__ import annotations

import asyncio
import builtins
import io
import os
import pickle
import shutil
import signal
import tempfile
import threading
from functools import partial

import pytest

from greenio import _original, monkey, to_greenlet
from greenio._patches import _files, _patching
from greenio._patches._files import LARGE
from waiting import turns, until, until_parked

DATA = os.urandom(LARGE + 100)


@pytest.fixture
def offloading():
    with monkey.patched(files=True):
        yield


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(DATA)
    return path


@pytest.fixture
def threads(monkeypatch):
    """Count the operations that went to a thread."""
    counted = []
    native = _files.call_in_thread

    def call_in_thread(green, fn, *args):
        counted.append(fn)
        return native(green, fn, *args)

    monkeypatch.setattr(_files, "call_in_thread", call_in_thread)
    return counted


def green(arun, fn, *args):
    return arun(lambda: to_greenlet(fn, *args))


def test_left_alone_unless_asked_for(path):
    native = open, os.read
    with monkey.patched(os=False):
        assert not monkey.is_patched("files")
        assert (builtins.open, os.read)[0] is native[0]
    with monkey.patched("files"):
        assert monkey.is_patched("files")
        assert open is io.open is not native[0]
    assert (builtins.open, io.open, os.read) == (native[0], *native)


MODES = ["r", "w", "a", "x", "r+", "w+", "a+", "x+", "rb", "wb", "ab", "xb", "r+b", "w+b", "a+b", "x+b"]


@pytest.mark.parametrize("buffering", [-1, 0, 1, 5000])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.filterwarnings("ignore:line buffering:RuntimeWarning")
def test_open_makes_what_it_always_makes(arun, offloading, tmp_path, mode, buffering):
    def describe():
        name = tmp_path / f"{mode}{buffering}"
        name.unlink(missing_ok=True)
        if mode[0] == "r":
            name.write_text("text")
        try:
            with open(name, mode, buffering) as file:
                raw = getattr(getattr(file, "buffer", file), "raw", file)
                shown = [file.mode, file.name, raw.mode, raw.name, file.readable(), file.writable(), file.tell()]
                kinds = [isinstance(file, kind) for kind in KINDS] + [isinstance(raw, io.FileIO)]
                layers = [type(file).__name__, type(file).__module__, type(raw).__name__]
                if isinstance(file, io.TextIOBase):
                    shown += [file.encoding, file.errors, file.line_buffering, file.newlines, type(file)]
                with pytest.raises(TypeError, match="cannot pickle"):
                    pickle.dumps(file)
            shown += [file.closed, raw.closed, os.path.getsize(name)]
            with pytest.raises(ValueError, match="closed file"):
                file.tell()
            return shown, kinds, layers
        except ValueError as error:
            return str(error)

    native = describe()
    assert green(arun, describe) == native


KINDS = [io.TextIOWrapper, io.BufferedReader, io.BufferedWriter, io.BufferedRandom, io.FileIO]

WRONG = [
    ("q",), ("rw",), ("",), ("rb", -1, "utf-8"), ("rb", -1, None, "strict"), ("rb", -1, None, None, "\n"), ("r", 0),
    ("r", -1, "no such"), ("r", -1, None, None, "x"), ("Ur",), (1,), ("r", "x"), ("rt+b",),
]  # fmt: skip


def outcome(fn, *args):
    try:
        fn(*args).close()
    except Exception as error:
        return type(error), str(error)


def test_what_is_wrong_raises_as_natively(arun, offloading, path, tmp_path):
    def outcomes():
        found = [outcome(open, path, *args) for args in WRONG]
        found += [outcome(open, name) for name in (tmp_path / "no such", tmp_path, "a\0b", 10**6, -1, None, 1.5)]
        found += [outcome(open, path, "x"), outcome(open, tmp_path / "no" / "such", "w")]
        return [*found, outcome(open, path, "r", -1, None, None, None, False)]

    native = outcomes()
    assert None not in native
    assert green(arun, outcomes) == native
    assert path.read_bytes() == DATA


def test_large_operations_park(arun, offloading, path, threads):
    def reads():
        with open(path, "rb") as file:
            assert file.read(10) == DATA[:10]
            assert not threads
            assert file.read() == DATA[10:]
            assert len(threads) == 1
            file.seek(0)
            assert file.read(LARGE) == DATA[:LARGE]
            file.seek(0)
            buffer = bytearray(LARGE)
            assert file.readinto(buffer) == LARGE
            assert bytes(buffer) == DATA[:LARGE]
        with open(path, "rb", 0) as file:
            assert file.readall() == DATA
        assert len(threads) == 4

    def writes():
        with open(path, "wb") as file:
            file.write(b"small")
            assert len(threads) == 4
            file.write(DATA)
        with open(path, "r+b") as file:
            file.seek(5)
            assert file.read() == DATA
            file.write(DATA)
        assert path.read_bytes() == b"small" + DATA + DATA
        assert len(threads) == 8

    green(arun, reads)
    green(arun, writes)


def test_files_of_an_opener(arun, offloading, path, threads):
    kinds = (tempfile.TemporaryFile, tempfile.NamedTemporaryFile, partial(open, path, "w+b", opener=os.open))

    def work():
        for number, kind in enumerate(kinds):
            with kind() as file:
                assert file.write(DATA) == len(DATA)
                file.seek(0)
                assert file.read() == DATA
            assert len(threads) == 2 * number + 2
        with open("a name", "rb", opener=lambda name, flags: os.open(path, flags)) as file:
            assert (file.name, file.read()) == ("a name", DATA)

    green(arun, work)


def test_an_opener_of_something_else(arun, offloading, path, threads):
    def work():
        reader, writer = os.pipe()
        os.write(writer, b"octets")
        os.close(writer)
        calls = []

        def opener(name, flags):
            calls.append((name, flags))
            return reader

        with open(path, "rb", opener=opener) as file:
            assert file.name == str(path)
            assert file.read() == b"octets"
        assert calls == [(str(path), os.O_RDONLY | os.O_CLOEXEC)]
        with pytest.raises(OSError):
            os.fstat(reader)

    green(arun, work)
    assert not threads


def test_wrong_openers_raise_as_natively(arun, offloading, path, tmp_path):
    def refuse(name, flags):
        raise KeyError(name)

    def outcomes():
        found = [outcome(partial(open, path, opener=opener)) for opener in (refuse, 1, lambda name: 0)]
        found += [outcome(partial(open, path, opener=lambda name, flags, fd=fd: fd)) for fd in ("x", -1, 10**6)]
        found += [outcome(partial(open, name, opener=os.open)) for name in (None, 1.5, 10**6, tmp_path / "no such")]
        found += [outcome(partial(open, None, "q", opener=os.open))]
        return [*found, outcome(partial(open, path, "q", opener=refuse)), outcome(partial(open, path, closefd=False))]

    native = outcomes()
    assert None not in native
    assert green(arun, outcomes) == native


def test_text(arun, offloading, path, threads):
    text = "line\r\n" * LARGE

    def work():
        with open(path, "w", encoding="latin-1", newline="") as file:
            assert file.write(text) == len(text)
        with open(path, encoding="latin-1") as file:
            assert file.readline() == "line\n"
            assert file.read() == "line\n" * (LARGE - 1)
        with open(path, newline="\n") as file:
            assert next(file) == "line\r\n"

    green(arun, work)
    assert threads


def test_functions_of_os(arun, offloading, path, tmp_path, threads):
    def work():
        fd = os.open(path, os.O_RDWR)
        other = os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT)
        try:
            assert os.read(fd, 10) == DATA[:10]
            assert not threads
            assert os.read(fd, LARGE) == DATA[10 : LARGE + 10]
            assert os.pread(fd, LARGE, 5) == DATA[5 : LARGE + 5]
            buffers = [bytearray(LARGE), bytearray(1)]
            assert os.preadv(fd, buffers, 0) == LARGE + 1
            assert os.sendfile(other, fd, 0, LARGE) == LARGE
            assert os.pwrite(fd, DATA, 0) == len(DATA)
            os.lseek(fd, 0, os.SEEK_SET)
            assert os.write(fd, DATA) == len(DATA)
            assert os.writev(other, [DATA, b"x"]) == len(DATA) + 1
            os.fsync(fd)
            os.fdatasync(fd)
            assert len(threads) == 9
            with open(fd, closefd=False) as file:
                os.fsync(file)
                os.fdatasync(file)
            assert len(threads) == 11
            with pytest.raises(ValueError, match="closed file"):
                os.fsync(file)
        finally:
            os.close(fd)
            os.close(other)

    green(arun, work)


def test_other_descriptors_are_left_to_others(arun, offloading, threads):
    def work():
        reader, writer = os.pipe()
        os.write(writer, b"x")
        assert os.read(reader, LARGE) == b"x"
        with open(reader, "rb") as file:
            os.close(writer)
            assert file.read() == b""
        with open(os.devnull, "rb") as file:
            assert isinstance(file, io.BufferedReader)

    green(arun, work)
    assert not threads


def test_copying(arun, offloading, path, tmp_path, threads):
    def work():
        shutil.copyfile(path, tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == DATA

    green(arun, work)
    assert threads


@pytest.fixture
def go_on(monkeypatch):
    """Has the threads of operations begin when it is set."""
    event = threading.Event()
    native = _original.start_new_thread
    monkeypatch.setattr(
        _original, "start_new_thread", lambda call, args: native(lambda: (event.wait(20), call()), args)
    )
    yield event
    event.set()


def test_cancellation_waits_for_the_operation(arun, offloading, path, go_on):
    written = []

    def write():
        with open(path, "wb") as file:
            written.append(file.write(DATA))
            os.fsync(file.fileno())
            asyncio.run(asyncio.sleep(30))

    async def main():
        task = asyncio.create_task(to_greenlet(write))
        await until_parked()
        task.cancel()
        await asyncio.sleep(0.01)
        assert not task.done()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 20)
        assert written == [len(DATA)]
        assert path.read_bytes() == DATA

    arun(main)


class Alarm(Exception):
    """What a signal handler raises."""


def test_what_a_handler_raises_waits_for_the_operation(arun, offloading, path, go_on):
    raised = threading.Event()

    def ring(signum, frame):
        raised.set()
        raise Alarm

    def write():
        signal.signal(signal.SIGUSR1, ring)
        with pytest.raises(Alarm), open(path, "wb") as file:
            file.write(DATA)
        return path.read_bytes()

    async def main():
        task = asyncio.create_task(to_greenlet(write))
        await until_parked()
        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGUSR1)
        await until(raised.is_set)
        await turns(20)
        assert not task.done()
        go_on.set()
        assert await asyncio.wait_for(task, 20) == DATA

    before = signal.getsignal(signal.SIGUSR1)
    try:
        with monkey.patched("signal"):
            arun(main)
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_two_greens_use_one_file(arun, offloading, path):
    async def main():
        file = await to_greenlet(open, path, "rb")
        with file:
            found = await asyncio.gather(
                *(to_greenlet(file.read, LARGE // 2) for _ in range(2)), to_greenlet(file.read)
            )
        assert sorted(b"".join(found)) == sorted(DATA)

    arun(main)


def test_native_callers(offloading, path):
    with open(path, "rb") as file:
        assert type(file) is io.BufferedReader
        assert type(file.raw) is io.FileIO
        assert os.read(file.fileno(), LARGE) == DATA[:LARGE]


def test_layers_come_off_in_any_order():
    """Another group that patches a name of `files` may come before or after it, and go before or after it."""
    from greenio._patches._table import Group, Patch

    native = os.read

    def lower(fd, size):
        return "lower", native(fd, size)

    group = Group("lower", (Patch(os, "read", lower),))
    groups = {"lower": group, **_patching.GROUPS}
    reader, writer = os.pipe()
    os.write(writer, b"x" * 20)
    with pytest.MonkeyPatch.context() as context:
        for module in (_patching, monkey):
            context.setattr(module, "GROUPS", groups)
        for order in (("lower", "files"), ("files", "lower")):
            blocks = [monkey.patched(name) for name in order]
            for leaving in (0, 1):
                blocks = [monkey.patched(name) for name in order]
                for block in blocks:
                    block.__enter__()
                assert os.read is not lower
                assert os.read(reader, 1) == ("lower", b"x")
                blocks[leaving].__exit__(None, None, None)
                expected = b"x" if order[leaving] == "lower" else ("lower", b"x")
                assert os.read(reader, 1) == expected
                blocks[1 - leaving].__exit__(None, None, None)
                assert os.read is native
        with monkey.patched("lower", "files"):
            assert os.read(reader, 1) == ("lower", b"x")
        assert os.read is native
    os.close(reader)
    os.close(writer)
