"""`os.read`, `os.write` and their like, in green code: on pipes, named pipes, terminals, eventfds and sockets."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import socket
import sys
import termios
import threading
import time
import tty

import pytest

from greenio import _core, _original, monkey, to_greenlet
from greenio._patches import _attempts
from waiting import turns, until, until_parked

pytestmark = [
    pytest.mark.usefixtures("patched"),
    pytest.mark.skipif(sys.platform != "linux", reason="what there is to be read differs"),
]
BIG = os.urandom(10 * 2**20)


@pytest.fixture(params=["nowait", "polled"])
def way(request, monkeypatch):
    """Take each of the two ways that `_attempts` has, whatever this kernel can do."""
    if request.param == "polled":
        monkeypatch.setattr(_attempts, "NOWAIT", 0)
    return request.param


@pytest.fixture
def pipe():
    """Open a pipe; whoever closes an end of it says so by -1."""
    ends = list(os.pipe())
    yield ends
    for fd in ends:
        if fd >= 0:
            os.close(fd)


def close(pipe, end):
    os.close(pipe[end])
    pipe[end] = -1


def start(fn, *args):
    return asyncio.ensure_future(to_greenlet(fn, *args))


async def fill(fd):
    """Fill a pipe natively, and tell with how much."""
    os.set_blocking(fd, False)
    size = 0
    try:
        while True:
            size += _original.write(fd, bytes(4096))
    except BlockingIOError:
        return size
    finally:
        os.set_blocking(fd, True)


def read_into(fd, size):
    buffer = bytearray(size)
    count = os.readv(fd, [memoryview(buffer)[:2], memoryview(buffer)[2:]])
    return bytes(buffer[:count])


def read_at_nowhere(fd, size):
    buffer = bytearray(size)
    return bytes(buffer[: os.preadv(fd, [buffer], -1)])


READS = [lambda fd, size: os.read(fd, size), read_into, read_at_nowhere]


@pytest.mark.parametrize("read", READS, ids=["read", "readv", "preadv"])
def test_reads_park(arun, pipe, way, read):
    async def main():
        running = start(read, pipe[0], 10)
        await until_parked()
        beats = asyncio.ensure_future(turns(50))
        await beats  # the loop goes on
        assert not running.done()
        _original.write(pipe[1], b"abc")
        assert await running == b"abc"
        _original.write(pipe[1], b"0123456789ab")
        assert await to_greenlet(read, pipe[0], 10) == b"0123456789"
        assert await to_greenlet(read, pipe[0], 10) == b"ab"
        running = start(read, pipe[0], 10)
        await until_parked()
        close(pipe, 1)
        assert await running == b""
        assert os.get_blocking(pipe[0])

    arun(main)


@pytest.mark.parametrize("read", READS, ids=["read", "readv", "preadv"])
def test_a_cancelled_read_takes_nothing(arun, pipe, way, read):
    async def main():
        running = start(read, pipe[0], 10)
        await until_parked()
        running.cancel()
        _original.write(pipe[1], b"abc")  # in the same turn
        with pytest.raises(asyncio.CancelledError):
            await running
        assert await to_greenlet(read, pipe[0], 10) == b"abc"

    arun(main)


def write_parts(fd, data):
    return os.writev(fd, [data[:5], b"", memoryview(data)[5:100], data[100:]])


def write_at_nowhere(fd, data):
    return os.pwritev(fd, [data], -1)


WRITES = {"write": lambda fd, data: os.write(fd, data), "writev": write_parts, "pwritev": write_at_nowhere}


@pytest.mark.parametrize("write", WRITES)
def test_large_writes_return_when_all_is_written(arun, pipe, way, write):
    async def main():
        beats = [0]

        async def beat():
            while True:
                beats[0] += 1
                await asyncio.sleep(0)

        def read_all():
            found = hashlib.sha256()
            while part := os.read(pipe[0], 100_000):
                found.update(part)
            return found.digest()

        beating = asyncio.ensure_future(beat())
        reading = start(read_all)
        assert await to_greenlet(WRITES[write], pipe[1], BIG) == len(BIG)
        close(pipe, 1)
        assert await reading == hashlib.sha256(BIG).digest()
        beating.cancel()
        assert beats[0] > 10

    arun(main)


def test_a_slow_native_reader(arun, pipe, way):
    found = bytearray()

    def read_slowly():
        while part := _original.read(pipe[0], 4099):
            found.extend(part)
            if len(found) % 50 == 0:
                _original.sleep(0.001)

    async def main():
        thread = threading.Thread(target=read_slowly)
        thread.start()
        assert await to_greenlet(os.write, pipe[1], memoryview(BIG)[: 2**20]) == 2**20
        close(pipe, 1)
        await until(lambda: not thread.is_alive())
        thread.join()

    arun(main)
    assert found == BIG[: 2**20]


@pytest.mark.parametrize("write", WRITES)
def test_a_cancelled_write_has_written_a_part(arun, pipe, way, write):
    async def main():
        running = start(WRITES[write], pipe[1], BIG)
        await until_parked()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        close(pipe, 1)
        found = b""
        while part := _original.read(pipe[0], 2**20):
            found += part
        assert 0 < len(found) < len(BIG)
        assert BIG.startswith(found)

    arun(main)


def at_wait(patches, number, act, green=None):
    """Call `act` at the n-th wait of a green for a descriptor; return a list with the number of such waits."""
    count = [0]
    native = _core.Side.wait

    def wait(self, caller, deadline):
        if green in (None, caller):
            count[0] += 1
            if count[0] == number:
                act()
        return native(self, caller, deadline)

    patches.setattr(_core.Side, "wait", wait)
    return count


def test_cancelled_at_each_park(arun, way):
    """Whatever was written is read by somebody, once, at whichever park the reader is cancelled."""

    async def main(number):
        ends = os.pipe()
        found = []

        def read_all():
            while part := os.read(ends[0], 1000):
                found.append(part)

        def write_all():
            for position in range(0, 20_000, 700):
                os.write(ends[1], BIG[position : min(position + 700, 20_000)])
                time.sleep(0)
            os.close(ends[1])

        reading = start(read_all)
        await until_parked()
        with pytest.MonkeyPatch.context() as patches:
            reader = next(green for green in _core.greens() if green.waiting)
            count = at_wait(patches, number, reading.cancel, reader)
            writing = start(write_all)
            await asyncio.wait([reading, writing])
        if count[0] >= number:
            assert reading.cancelled()
            await to_greenlet(read_all)
        os.close(ends[0])
        assert b"".join(found) == BIG[:20_000]
        return count[0] >= number

    number = 1
    while arun(lambda: main(number)) and number < 12:
        number += 1
    assert number > 5


@pytest.mark.parametrize("write", WRITES)
def test_no_reader(arun, pipe, way, write):
    async def main():
        running = start(WRITES[write], pipe[1], BIG)
        await until_parked()
        close(pipe, 0)
        assert 0 < await running < len(BIG)  # as natively
        with pytest.raises(BrokenPipeError):
            await to_greenlet(WRITES[write], pipe[1], BIG)

    arun(main)


def test_close_under_a_waiter(arun, pipe, way):
    async def main():
        running = start(os.read, pipe[0], 10)
        await until_parked()
        close(pipe, 0)
        with pytest.raises(OSError) as caught:
            await running
        assert caught.value.errno == errno.EBADF

    arun(main)


def test_close_under_a_writer(arun, pipe, way):
    async def main():
        await fill(pipe[1])
        running = start(os.write, pipe[1], b"x" * 10_000)
        await until_parked()
        thread = threading.Thread(target=close, args=(pipe, 1))
        thread.start()
        with pytest.raises(OSError) as caught:
            await running
        assert caught.value.errno == errno.EBADF
        await until(lambda: not thread.is_alive())
        thread.join()

    arun(main)


def test_two_readers_of_one_pipe(arun, pipe, way):
    async def main():
        reading = [start(os.read, pipe[0], 1) for _ in range(5)]
        await until_parked(5)
        for number in range(5):
            await to_greenlet(os.write, pipe[1], b"%d" % number)
            await turns()
        assert sorted(await asyncio.gather(*reading)) == [b"0", b"1", b"2", b"3", b"4"]

    arun(main)


@pytest.mark.parametrize("number", range(10))
def test_greens_and_threads_read_one_pipe(arun, pipe, number):
    """A thread that is quicker than the green which was told leaves the loop going."""
    counts = {"thread": 0, "green": 0}

    def read_natively():
        while _original.read(pipe[0], 1) != b".":
            counts["thread"] += 1

    def read_all():
        while os.read(pipe[0], 1) != b".":
            counts["green"] += 1

    async def main():
        threads = [threading.Thread(target=read_natively) for _ in range(2)]
        greens = [start(read_all) for _ in range(2)]
        for thread in threads:
            thread.start()
        for _ in range(300):
            _original.write(pipe[1], b"x" * 3)
            await asyncio.sleep(0)
        await until(lambda: sum(counts.values()) == 900)
        _original.write(pipe[1], b"....")
        await asyncio.gather(*greens)
        await until(lambda: not any(thread.is_alive() for thread in threads))
        for thread in threads:
            thread.join()

    arun(main)
    assert sum(counts.values()) == 900


def test_two_loops_read_one_pipe(arun, pipe, way):
    counted = []

    def read_all():
        while (part := os.read(pipe[0], 1)) != b".":
            counted.append(part)

    async def main():
        thread = threading.Thread(target=lambda: asyncio.run(to_greenlet(read_all)))
        thread.start()
        here = start(read_all)
        for _ in range(200):
            _original.write(pipe[1], b"xyz")
            await asyncio.sleep(0)
        await until(lambda: len(counted) == 600)
        _original.write(pipe[1], b"..")
        await here
        await until(lambda: not thread.is_alive())
        thread.join()

    arun(main)


def test_a_non_blocking_descriptor_stays_one(arun, pipe, way):
    def work():
        os.set_blocking(pipe[0], False)
        os.set_blocking(pipe[1], False)
        for read in READS:
            with pytest.raises(BlockingIOError):
                read(pipe[0], 10)
        written = os.write(pipe[1], BIG)
        assert 0 < written < len(BIG)
        with pytest.raises(BlockingIOError):
            os.write(pipe[1], b"x")
        with pytest.raises(BlockingIOError):
            os.writev(pipe[1], [b"x"])
        assert os.read(pipe[0], 5) == BIG[:5]
        assert not os.get_blocking(pipe[0])

    arun(lambda: to_greenlet(work))


def outcome(fn, *args):
    try:
        return fn(*args)
    except Exception as error:
        return type(error), str(error), getattr(error, "errno", None), getattr(error, "filename", None)


def wrong():
    bad = 10**6
    reader, writer = os.pipe()
    os.write(writer, b"x" * 100)
    memory = memoryview(bytearray(20))[::2]
    calls = [
        (os.read, bad, 1), (os.read, -1, 1), (os.read, reader, -1), (os.read, reader, 0), (os.read, reader, "x"),
        (os.read, "x", 1), (os.read, reader, 2**63), (os.read, 2**40, 1), (os.read, writer, 1), (os.read, reader),
        (os.read, reader, 1.5), (os.read, reader, True), (os.write, bad, b"x"), (os.write, reader, b"x"),
        (os.write, writer, "x"), (os.write, writer, None), (os.write, writer, b""), (os.write, writer, memory),
        (os.write, bad, b""), (os.readv, reader, []), (os.readv, reader, [b"x"]), (os.readv, reader, 5),
        (os.readv, bad, [bytearray(1)]), (os.readv, reader, [bytearray(0)]), (os.writev, writer, []),
        (os.writev, writer, [b"", b""]), (os.writev, writer, "x"), (os.writev, bad, [b"x"]), (os.writev, writer, 5),
        (os.writev, writer, [b"x"] * 2000), (os.preadv, reader, [bytearray(1)], 0), (os.pread, reader, 1, 0),
        (os.pwritev, writer, [b"x"], 0), (os.sendfile, writer, bad, 0, 1), (os.sendfile, bad, reader, 0, 1),
        (os.sendfile, writer, reader, None, 1), (os.splice, bad, writer, 1), (os.splice, reader, bad, 1),
        (os.splice, reader, writer, -1), (os.eventfd_read, bad), (os.eventfd_write, bad, 1),
        (os.eventfd_write, writer, -1), (os.eventfd_read, "x"), (os.open, "/no/such", 0), (os.open, 5, 0),
        (os.open, "a\0b", 0), (os.open, "/", "x"), (os.open, "/", os.O_WRONLY), (os.read, os.open("/", 0), 5),
    ]  # fmt: skip
    try:
        return [outcome(fn, *args) for fn, *args in calls]
    finally:
        os.close(reader)
        os.close(writer)


def test_what_is_wrong_raises_as_natively(arun, way):
    before = set(os.listdir("/proc/self/fd"))
    native = wrong()
    green = arun(lambda: to_greenlet(wrong))
    for fd in set(os.listdir("/proc/self/fd")) - before:
        if os.path.isdir(f"/proc/self/fd/{fd}") and os.readlink(f"/proc/self/fd/{fd}") == "/":
            os.close(int(fd))
    for expected, found in zip(native, green, strict=True):
        assert found == expected


def test_a_failed_write_keeps_no_buffer(arun, pipe):
    def work():
        os.set_blocking(pipe[1], False)
        data = bytearray(BIG[: 2**20])
        try:
            while True:
                os.write(pipe[1], data)
        except BlockingIOError:
            data.clear()  # BufferError, if something still looks at it

    arun(lambda: to_greenlet(work))


def test_nothing_is_moved_at_once(arun, pipe, terminal, way):
    """Pipes, sockets and terminals let a call that moves no octet pass, whatever is there; and so do these."""
    sockets, full, files = socket.socketpair(), os.pipe(), []

    def opened(fd, mode):
        files.append(os.fdopen(os.dup(fd), mode, 0))
        return files[-1]

    calls = [
        lambda: os.read(pipe[0], 0),
        lambda: os.readv(pipe[0], [bytearray()]),
        lambda: os.write(full[1], b""),
        lambda: os.read(sockets[0].fileno(), 0),
        lambda: os.read(terminal[1], 0),
        lambda: os.write(terminal[1], b""),
        lambda: opened(pipe[0], "rb").read(0),
        lambda: opened(full[1], "wb").write(b""),
    ]
    if hasattr(os, "splice"):
        calls.append(lambda: os.splice(pipe[0], full[1], 0))

    async def main():
        await fill(full[1])
        return [await asyncio.wait_for(to_greenlet(call), 5) for call in calls], [call() for call in calls]

    try:
        green, native = arun(main)
        assert green == native
    finally:
        for file in (*files, *sockets):
            file.close()
        for fd in full:
            os.close(fd)


def test_regular_files(arun, way, tmp_path):
    def work():
        fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
        try:
            assert os.write(fd, BIG[:100_000]) == 100_000
            assert os.writev(fd, [b"ab", b"cd"]) == 4
            os.lseek(fd, 0, os.SEEK_SET)
            assert os.read(fd, 10) == BIG[:10]
            assert read_into(fd, 10) == BIG[10:20]
            assert read_at_nowhere(fd, 10) == BIG[20:30]
            assert os.read(fd, 200_000) == BIG[30:100_000] + b"abcd"
            assert os.read(fd, 10) == b""
            assert os.pread(fd, 5, 3) == BIG[3:8]
        finally:
            os.close(fd)

    with pytest.MonkeyPatch.context() as patches:
        count = at_wait(patches, 0, None)
        arun(lambda: to_greenlet(work))
    assert count == [0]


def test_the_number_of_a_closed_pipe_is_used_again(arun, way, tmp_path):
    """C code that closes descriptors tells nobody."""

    async def main():
        reader, writer = os.pipe()
        running = start(os.read, reader, 1)
        await until_parked()
        _original.write(writer, b"x")
        assert await running == b"x"
        _original.close(reader)
        _original.close(writer)
        again = os.pipe()
        assert again == (reader, writer)
        running = start(os.read, reader, 1)
        await until_parked()
        _original.write(writer, b"y")
        assert await running == b"y"
        _original.close(reader)
        (tmp_path / "file").write_bytes(b"z")
        assert _original_open(tmp_path / "file") == reader
        assert await to_greenlet(os.read, reader, 1) == b"z"
        os.close(reader)
        os.close(writer)

    arun(main)


def _original_open(path):
    return monkey.original("os", "open")(path, os.O_RDONLY)


def test_sockets(arun, way):
    async def main():
        a, b = socket.socketpair()
        with a, b:
            running = start(os.read, a.fileno(), 10)
            await until_parked()
            _original.write(b.fileno(), b"abc")
            assert await running == b"abc"
            running = start(os.write, a.fileno(), BIG[: 2**20])
            await until_parked()
            found = b""
            while len(found) < 2**20:
                found += await to_greenlet(os.read, b.fileno(), 2**16)
            assert await running == 2**20
            assert found == BIG[: 2**20]

    arun(main)


def test_eventfd(arun, way):
    async def main():
        fd = os.eventfd(0)
        try:
            running = start(os.eventfd_read, fd)
            await until_parked()
            await to_greenlet(os.eventfd_write, fd, 3)
            assert await running == 3
            running = start(os.read, fd, 8)
            await until_parked()
            os.eventfd_write(fd, 1)
            assert await running == (1).to_bytes(8, sys.byteorder)
            await to_greenlet(os.eventfd_write, fd, 2**64 - 5)
            running = start(os.eventfd_write, fd, 4)
            await until_parked()
            assert await to_greenlet(os.eventfd_read, fd) == 2**64 - 5
            await running
            assert await to_greenlet(os.eventfd_read, fd) == 4
            await to_greenlet(os.eventfd_write, fd, 2**64 - 2)
            running = start(os.eventfd_write, fd, 1)
            await until_parked()
            assert os.eventfd_read(fd) == 2**64 - 2
            await running
            os.set_blocking(fd, False)
            assert await to_greenlet(os.eventfd_read, fd) == 1
            with pytest.raises(BlockingIOError):
                await to_greenlet(os.eventfd_read, fd)
        finally:
            os.close(fd)

    arun(main)


def test_sendfile(arun, tmp_path):
    (tmp_path / "file").write_bytes(BIG)

    async def main():
        source = _original_open(tmp_path / "file")
        a, b = socket.socketpair()
        try:
            running = start(os.sendfile, a.fileno(), source, None, 2**20)
            await until_parked()
            found = b""
            while len(found) < 2**20:
                found += await to_greenlet(b.recv, 2**16)
            assert await running == 2**20
            assert found == BIG[: 2**20]
            assert os.lseek(source, 0, os.SEEK_CUR) == 2**20
            assert await to_greenlet(os.sendfile, a.fileno(), source, len(BIG) - 10, 100) == 10
            assert await to_greenlet(lambda: os.sendfile(a.fileno(), in_fd=source, offset=len(BIG), count=1)) == 0
            running = start(os.sendfile, a.fileno(), source, 0, 2**20)
            await until_parked()
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
        finally:
            a.close()
            b.close()
            os.close(source)

    arun(main)


def test_sendfile_to_a_pipe(arun, tmp_path, pipe):
    (tmp_path / "file").write_bytes(BIG)

    async def main():
        source = _original_open(tmp_path / "file")
        try:
            size = await fill(pipe[1])
            running = start(os.sendfile, pipe[1], source, 5, 1000)
            await until_parked()
            assert len(_original.read(pipe[0], size)) == size
            assert await running == 1000
            assert os.read(pipe[0], 2000) == BIG[5:1005]
        finally:
            os.close(source)

    arun(main)


def test_splice(arun, pipe):
    async def main():
        other = os.pipe()
        a, b = socket.socketpair()
        try:
            running = start(os.splice, pipe[0], other[1], 100)
            await until_parked()
            _original.write(pipe[1], b"abc")
            assert await running == 3
            assert os.read(other[0], 10) == b"abc"
            running = start(os.splice, a.fileno(), other[1], 100)
            await until_parked()
            b.send(b"def")
            assert await running == 3
            assert await to_greenlet(os.splice, other[0], b.fileno(), 100) == 3
            assert a.recv(10) == b"def"
            size = await fill(other[1])
            _original.write(pipe[1], b"ghi")
            running = start(os.splice, pipe[0], other[1], 100)
            await until_parked()
            assert len(_original.read(other[0], size)) == size
            assert await running == 3
            with pytest.raises(BlockingIOError):
                await to_greenlet(lambda: os.splice(pipe[0], other[1], 1, flags=os.SPLICE_F_NONBLOCK))
            os.set_blocking(pipe[0], False)
            with pytest.raises(BlockingIOError):
                await to_greenlet(os.splice, pipe[0], other[1], 1)
        finally:
            for fd in other:
                os.close(fd)
            a.close()
            b.close()

    arun(main)


@pytest.fixture
def terminal():
    ends = os.openpty()
    yield ends
    for fd in ends:
        try:
            os.close(fd)
        except OSError:
            pass


def test_terminal(arun, terminal):
    master, slave = terminal

    async def main():
        running = start(os.read, slave, 100)
        await until_parked()
        await to_greenlet(os.write, master, b"half a")
        await turns(20)
        assert not running.done()
        await to_greenlet(os.write, master, b" line\nand")
        assert await running == b"half a line\n"
        echo = b""
        while len(echo) < len(b"half a line\r\nand"):  # it may come in parts
            echo += await to_greenlet(os.read, master, 100)
        assert echo == b"half a line\r\nand"
        running = start(os.read, master, 100)
        await until_parked()
        await to_greenlet(os.write, slave, b"answer")
        assert await running == b"answer"
        assert os.get_blocking(master)
        assert os.get_blocking(slave)

    arun(main)


def set_modes(fd, least, tenths):
    tty.setraw(fd)
    modes = termios.tcgetattr(fd)
    modes[6][termios.VMIN], modes[6][termios.VTIME] = least, tenths
    termios.tcsetattr(fd, termios.TCSANOW, modes)


@pytest.mark.parametrize("read", [lambda fd, size: os.read(fd, size), read_into])
def test_a_terminal_without_lines(arun, terminal, read):
    master, slave = terminal

    async def soon(size):
        return await asyncio.wait_for(to_greenlet(read, slave, size), 10)

    async def main():
        set_modes(slave, 0, 0)
        assert await soon(10) == b""  # at once
        running = start(read, master, 10)  # the other end has no such modes
        await until_parked()
        await turns(20)
        assert not running.done()
        _original.write(slave, b"x")
        assert await running == b"x"

        set_modes(slave, 0, 2)
        began = time.monotonic()
        assert await soon(10) == b""
        assert time.monotonic() - began >= 0.19
        running = start(read, slave, 10)
        await until_parked()
        _original.write(master, b"y")
        assert await running == b"y"

        set_modes(slave, 5, 0)
        _original.write(master, b"abc")
        assert await soon(2) == b"ab"  # no more than it asks for
        running = start(read, slave, 3)
        await until_parked()
        await turns(20)
        assert not running.done()
        _original.write(master, b"de")
        assert await running == b"cde"
        running = start(read, slave, 100)
        await until_parked()
        _original.write(master, b"1234")
        await turns(20)
        assert not running.done()
        _original.write(master, b"56")
        assert await running == b"123456"

    arun(main)


def test_a_terminal_that_nobody_reads(arun, terminal):
    master, slave = terminal
    tty.setraw(slave)
    data = BIG[: 2**20]

    async def main():
        running = start(os.write, slave, data)
        await until_parked()
        await turns(20)
        found = b""
        while len(found) < len(data):
            found += await to_greenlet(os.read, master, 2**16)
        assert await running == len(data)
        assert found == data

    arun(main)


def test_a_terminal_with_line_ends_that_nobody_reads(arun, terminal):
    master, slave = terminal
    data = b"\n" * 100_000

    async def main():
        running = start(os.write, slave, data)
        await until_parked()
        found = b""
        while len(found) < 2 * len(data):
            found += await to_greenlet(os.read, master, 2**16)
        assert await running == len(data)

    arun(main)


def test_a_stopped_terminal(arun, terminal):
    master, slave = terminal
    termios.tcflow(slave, termios.TCOOFF)

    async def main():
        running = start(os.write, slave, b"x")
        await until_parked()
        await turns(20)
        assert not running.done()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        termios.tcflow(slave, termios.TCOON)
        await to_greenlet(os.write, slave, b"y")
        assert os.read(master, 10) == b"y"

    arun(main)


class TestNamedPipes:
    @pytest.fixture
    def path(self, tmp_path):
        path = tmp_path / "fifo"
        os.mkfifo(path)
        return path

    def test_greens_on_both_sides(self, arun, path):
        async def main():
            for first, second in ((os.O_RDONLY, os.O_WRONLY), (os.O_WRONLY, os.O_RDONLY)):
                opening = start(os.open, path, first)
                await until_parked()
                await turns(50)
                assert not opening.done()
                fds = [await to_greenlet(os.open, path, second), await opening]
                assert all(map(os.get_blocking, fds))
                assert not any(map(os.get_inheritable, fds))
                reader, writer = fds if first == os.O_WRONLY else reversed(fds)
                reading = start(os.read, reader, 10)
                await until_parked()
                await to_greenlet(os.write, writer, b"abc")
                assert await reading == b"abc"
                os.close(reader)
                os.close(writer)

        arun(main)

    @pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY])
    def test_a_thread_on_the_other_side(self, arun, path, flags):
        other = os.O_RDONLY + os.O_WRONLY - flags

        async def main():
            opened = []
            opening = start(os.open, path, flags)
            await until_parked()
            thread = threading.Thread(target=lambda: opened.append(monkey.original("os", "open")(path, other)))
            thread.start()
            opened.append(await opening)
            await until(lambda: not thread.is_alive())
            thread.join()
            for fd in opened:
                os.close(fd)

        arun(main)

    @pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY])
    def test_cancelled(self, arun, path, flags):
        async def main():
            opening = start(os.open, path, flags)
            await until_parked()
            opening.cancel()
            with pytest.raises(asyncio.CancelledError):
                await opening
            with pytest.raises(OSError) as caught:
                os.open(path, os.O_WRONLY | os.O_NONBLOCK)  # nobody is there to read
            assert caught.value.errno == errno.ENXIO

        arun(main)

    def test_a_writer_that_has_gone(self, arun, path):
        async def main():
            opening = start(os.open, path, os.O_RDONLY)
            await until_parked()
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
            reader = await opening
            assert await to_greenlet(os.read, reader, 1) == b""
            os.close(reader)

        arun(main)

    def test_what_never_waits(self, arun, path):
        def work():
            for flags in (os.O_RDWR, os.O_RDONLY | os.O_NONBLOCK, os.O_PATH):
                os.close(os.open(path, flags))
            directory = os.open(path.parent, os.O_RDONLY)
            os.close(os.open("fifo", os.O_RDWR, dir_fd=directory))
            os.close(directory)

        arun(lambda: to_greenlet(work))

    def test_supports_dir_fd(self):
        assert os.open in os.supports_dir_fd
        monkey.unpatch_all()
