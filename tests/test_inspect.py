"""Looking at a process from outside: over its socket, and by a signal."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import textwrap
import threading
import time

import pytest

from greenio import _original, debug, spawn, to_greenlet
from greenio.debug import _listener
from waiting import until, until_parked

pytestmark = pytest.mark.usefixtures("patched")


@pytest.fixture(autouse=True)
def directory(monkeypatch, tmp_path_factory):
    """A place of its own; and short, since the path of a socket may have some hundred characters at most."""
    with tempfile.TemporaryDirectory(prefix="greenio-") as path:
        monkeypatch.setenv("XDG_RUNTIME_DIR", path)
        yield os.path.join(path, f"greenio-{os.getuid()}")


class TestListener:
    def test_answers(self, arun):
        async def main():
            task = spawn(time.sleep, 50)
            task.set_name("the sleeper")
            await until_parked()
            with debug.listen():
                for form in ("text", "tree", "json"):
                    for call in (asyncio.to_thread, to_greenlet):
                        answer = await call(debug.inspect, os.getpid(), form)
                        assert "the sleeper" in answer
                        assert "time.sleep" in answer
                        assert form != "json" or json.loads(answer)["pid"] == os.getpid()
                assert await asyncio.to_thread(debug.inspect, os.getpid(), "deadlocks") == "\n"
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        arun(main)

    def test_answers_while_the_loop_is_held(self, arun):
        async def main():
            with debug.listen():
                answer = debug.inspect(os.getpid())  # natively: the loop does not turn
            assert "running: " in answer
            assert "test_answers_while_the_loop_is_held" in answer

        arun(main)

    def test_place(self, directory):
        with debug.listen() as listener:
            assert listener.path == os.path.join(directory, f"{os.getpid()}.sock")
            assert stat.S_IMODE(os.stat(directory).st_mode) == 0o700
            assert stat.S_ISSOCK(os.stat(listener.path).st_mode)
        assert not os.path.exists(listener.path)
        listener.close()

    def test_directory_of_others_is_refused(self, directory, monkeypatch):
        os.mkdir(directory, 0o755)
        with pytest.raises(PermissionError, match="mode 0700"):
            debug.listen()
        os.rmdir(directory)
        os.symlink("/", directory)
        with pytest.raises(PermissionError, match="mode 0700"):
            debug.listen()
        os.unlink(directory)

    def test_peer_of_another_user_is_refused(self, monkeypatch):
        with debug.listen():
            found = os.getuid()
            monkeypatch.setattr(_listener.os, "getuid", lambda: found + 1)
            ours, theirs = socket.socketpair()
            with ours, theirs:
                if found:
                    with pytest.raises(PermissionError, match=f"belongs to user {found}"):
                        _listener._check_peer(ours)
                else:
                    _listener._check_peer(ours)  # root may
            monkeypatch.undo()

    def test_socket_that_a_dead_process_left(self, directory):
        os.mkdir(directory, 0o700)
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(os.path.join(directory, f"{os.getpid()}.sock"))
        with pytest.raises(ProcessLookupError, match=r"greenio.debug.listen\(\)"):
            debug.inspect(os.getpid())
        with debug.listen():
            assert debug.inspect(os.getpid()).startswith("process ")

    def test_later_one_takes_the_place_of_an_earlier_one(self, directory):
        with debug.listen() as earlier, debug.listen():
            earlier.close()
            assert debug.inspect(os.getpid()).startswith("process ")
        assert os.listdir(directory) == []

    def test_who_says_nothing_is_not_waited_for_long(self, monkeypatch):
        monkeypatch.setattr(_listener, "_PATIENCE", 0.05)
        with debug.listen() as listener, socket.socket(socket.AF_UNIX) as silent:
            silent.connect(listener.path)
            assert silent.recv(1) == b""

    def test_unknown_request(self):
        with debug.listen() as listener:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(listener.path)
                sock.send(b"xml")
                assert b"ValueError" in sock.recv(1000)
            with pytest.raises(ValueError, match='"tree" or "deadlocks"'):
                debug.inspect(os.getpid(), "xml")

    def test_nobody(self):
        with pytest.raises(ProcessLookupError, match="process 999999999 does not listen"):
            debug.inspect(999999999)

    def test_child_does_not_take_the_socket_away(self):
        with debug.listen() as listener:
            pid = os.fork()
            if not pid:
                listener.close()
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
            assert debug.inspect(os.getpid())


PROGRAM = """
    import signal, sys, time
    import greenio
    from greenio import debug, monkey

    monkey.patch_all()

    def serve():
        debug.dump_on_signal(signal.SIGUSR1, form=sys.argv[1])
        debug.listen()
        print("ready", flush=True)
        time.sleep(50)

    def loop():
        if sys.argv[2] == "uvloop":
            import uvloop
            return uvloop.new_event_loop()
        import asyncio
        return asyncio.new_event_loop()

    greenio.run(serve, loop_factory=loop)
"""


@pytest.mark.parametrize("form", ["text", "tree", "json"])
@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_program(tmp_path, form, kind, directory):
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(PROGRAM))
    with subprocess.Popen(
        [sys.executable, path, form, kind], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "ready\n"
        while "parked" not in (answer := debug.inspect(process.pid, form)):
            pass
        process.send_signal(signal.SIGUSR1)
        lines = []
        while not any("time.sleep" in line for line in lines):
            lines.append(process.stderr.readline())
            assert lines[-1], lines
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate()
    dumped = "".join(lines) + rest
    for text in (answer, dumped):
        assert "serve" in text
        assert "time.sleep" in text
        assert str(process.pid) in text
    assert os.listdir(directory) == [], "the socket goes with the process"


def test_dump_to_a_file_and_back(arun, tmp_path):
    before = signal.getsignal(signal.SIGUSR1)

    async def main():
        with open(tmp_path / "dump", "w") as file:
            restore = debug.dump_on_signal(signal.SIGUSR1, file=file)
            try:
                task = spawn(time.sleep, 50)
                task.set_name("the sleeper")
                await until_parked()
                signal.raise_signal(signal.SIGUSR1)
                await until(lambda: "the sleeper" in (tmp_path / "dump").read_text())
            finally:
                restore()
            restore()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    arun(main)
    assert signal.getsignal(signal.SIGUSR1) is before


def test_unknown_form_is_refused_before_the_signal_comes():
    before = signal.getsignal(signal.SIGUSR1)
    with pytest.raises(ValueError, match='"json" or "tree"'):
        debug.dump_on_signal(signal.SIGUSR1, form="xml")
    assert signal.getsignal(signal.SIGUSR1) is before


def test_thread_ends_with_the_listener():
    listener = debug.listen()
    assert "greenio listener" in [thread.name for thread in threading.enumerate()]
    listener.close()
    limit = time.monotonic() + 5
    while "greenio listener" in [thread.name for thread in threading.enumerate()]:
        assert time.monotonic() < limit
        _original.sleep(0.001)
