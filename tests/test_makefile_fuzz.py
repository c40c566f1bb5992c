"""Random calls of the files of `makefile`: as natively, and nothing is lost whoever is cancelled when."""

from __future__ import annotations

import asyncio
import os
import random
import socket

import pytest

from greenio import to_greenlet
from waiting import turns

pytestmark = pytest.mark.usefixtures("patched")

ROUNDS = int(os.environ.get("GREENIO_FUZZ_ROUNDS", "20"))
ENCODINGS = ["utf-8", "utf-16", "utf-8-sig", "shift_jis"]
NEWLINES = [None, "", "\n", "\r", "\r\n"]
PIECES = ["\r", "\n", "\r\n", "x", "yz", "\N{SNOWMAN}", "\N{GRINNING FACE}", "line\n", "long" * 50, "L" * 9000 + "\n"]


def into(method, size):
    buffer = bytearray(size)
    return bytes(buffer[: method(buffer)])


READS = {
    "read": lambda file, size, none: file.read(size),
    "readline": lambda file, size, none: file.readline(),
    "readline of a size": lambda file, size, none: file.readline(size),
    "readlines": lambda file, size, none: none.join(file.readlines(size)),
    "next": lambda file, size, none: next(file, none),
}
BINARY = {
    **READS,
    "readinto": lambda file, size, none: into(file.readinto, size),
    "read1": lambda file, size, none: file.read1(size),
    "readinto1": lambda file, size, none: into(file.readinto1, size),
}
EXACT = [*READS, "readinto"]
"""What reads as much whatever the pieces are in which it comes."""

PARTIAL = {"read", "read1", "readinto", "readinto1"}
"""What a file without a buffer reads in one piece, or has not."""


def outcome(call, *args):
    try:
        return call(*args)
    except Exception as error:
        return type(error)


def options_of(dice, mode, buffering):
    options = {"mode": mode, "buffering": buffering}
    if "b" not in mode:
        options.update(encoding=dice.choice(ENCODINGS), newline=dice.choice(NEWLINES), errors="replace")
    return options


def data_for(dice, options):
    text = "".join(dice.choices(PIECES, k=dice.randrange(14)))
    return text.encode(options.get("encoding", "utf-8"), "replace")


@pytest.mark.parametrize("buffering", [None, 0, 1, 100])
@pytest.mark.parametrize("mode", ["r", "w", "rw", "rb", "wb", "rwb"])
def test_as_natively(arun, mode, buffering):
    """All reads come before the first write, since the C text layer forgets then what it has read ahead."""
    dice = random.Random(f"{mode}{buffering}")
    none = b"" if "b" in mode else ""

    def converse(options, data, reads, writes):
        left, right = socket.socketpair()
        with left, right:
            right.sendall(data)
            right.shutdown(socket.SHUT_WR)
            if isinstance(file := outcome(lambda: left.makefile(**options)), type):
                return file
            found = [outcome(BINARY[name], file, size, none) for name, size in reads]
            found += [outcome(file.read), outcome(getattr, file, "newlines")]
            for text in writes:
                found.append(outcome(file.write, text.encode() if "b" in mode else text))
                found.append(outcome(file.flush) if len(text) % 2 else None)
            found += [file.close(), left._io_refs, left.close()]
            return [*found, b"".join(iter(lambda: right.recv(2**16), b""))]

    for _ in range(ROUNDS):
        options = options_of(dice, mode, buffering)
        data = data_for(dice, options) if "r" in mode else b""
        reads = [(dice.choice(EXACT), dice.randrange(1, 30)) for _ in range(dice.randrange(12))]
        writes = dice.choices(PIECES, k=dice.randrange(6))
        case = (options, data, reads, writes)
        native = converse(*case)
        assert arun(lambda case=case: to_greenlet(converse, *case)) == native


@pytest.mark.parametrize(
    ("mode", "buffering"),
    [(mode, size) for mode in ("r", "rw", "rb", "rwb") for size in (None, 1, 7, 0)[: 3 + ("b" in mode)]],
)
def test_cancelled_reads(arun, mode, buffering):
    """A reader is cancelled over and over, while another green writes; both ways all arrives, in order."""
    dice = random.Random(f"{mode}{buffering}")
    none = b"" if "b" in mode else ""
    names = sorted(READS if "b" not in mode else BINARY if buffering != 0 else BINARY.keys() - PARTIAL)

    async def feed(right, data):
        while data:
            size = dice.choice([1, 2, 3, 50, 9000])
            right.sendall(data[:size])
            data = data[size:]
            await turns(dice.randrange(4))
        right.shutdown(socket.SHUT_WR)

    def write(file):
        file.write(b"w" if "b" in mode else "w")
        if buffering != 0:
            file.flush()

    async def converse(options, data):
        left, right = socket.socketpair()
        with left, right:
            file = await to_greenlet(lambda: left.makefile(**options))
            feeding = asyncio.ensure_future(feed(right, data))
            found, written = [], 0
            for _ in range(60):
                reading = asyncio.ensure_future(
                    to_greenlet(BINARY[dice.choice(names)], file, dice.randrange(1, 30), none)
                )
                await turns(dice.randrange(6))
                if "w" in mode:
                    await asyncio.wait_for(to_greenlet(write, file), 20)
                    written += 1
                if dice.random() < 0.7:
                    reading.cancel()
                try:
                    found.append(await asyncio.wait_for(reading, 20))
                except asyncio.CancelledError:
                    pass
            found.append(await asyncio.wait_for(to_greenlet(file.read), 20))
            await feeding
            await to_greenlet(file.close)
            left.close()
            wire = b"".join(iter(lambda: right.recv(2**16), b""))
            return none.join(found), wire, written

    for _ in range(max(1, ROUNDS // 4)):
        options = options_of(dice, mode, buffering)
        if "newline" in options:
            options["newline"] = dice.choice(NEWLINES[1:])
        data = data_for(dice, options)
        found, wire, written = arun(lambda options=options, data=data: converse(options, data))
        assert found == (data if "b" in mode else data.decode(options["encoding"], "replace"))
        assert wire == b"w" * written or wire.decode(options["encoding"]) == "w" * written
