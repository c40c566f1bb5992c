"""The fixture that looks for leaks finds each kind of them: tests that leave something behind fail, and no others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

LEAKING = """
import _thread
import asyncio
import os
import socket
import threading
import time

import pytest

from conftest import new_loop
from greenio import monkey, spawn, to_greenlet

kept = []


def run(main, close):
    loop = new_loop("asyncio")
    try:
        return loop.run_until_complete(main())
    finally:
        loop.close() if close else kept.append(loop)


async def wait(seconds=0):
    await to_greenlet(time.sleep, seconds)


def test_nothing(patched):
    run(wait, close=True)
    thread = threading.Thread(target=time.sleep, args=(0.01,))
    thread.start()
    os.close(os.open(os.devnull, os.O_RDONLY))


def test_greenlet(patched):
    async def main():
        kept.append(spawn(time.sleep, 1000))
        await asyncio.sleep(0)

    run(main, close=False)


def test_task():
    async def main():
        kept.append(asyncio.ensure_future(asyncio.sleep(1000)))
        await asyncio.sleep(0)

    run(main, close=True)


def test_registration(patched):
    async def main():
        kept.extend(socket.socketpair())
        task = spawn(kept[-1].recv, 1)
        await asyncio.sleep(0)
        kept[-2].send(b"x")
        await task

    run(main, close=False)


def test_descriptor():
    kept.append(os.open(os.devnull, os.O_RDONLY))


def test_patch():
    monkey.patch_time()


def test_thread():
    monkey.unpatch_all()
    threading.Thread(target=threading.Event().wait, daemon=True).start()


def test_thread_that_threading_does_not_know():
    lock, begun = _thread.allocate_lock(), _thread.allocate_lock()
    lock.acquire()
    begun.acquire()
    _thread.start_new_thread(lambda: (begun.release(), lock.acquire()), ())
    begun.acquire()


def test_nothing_again(patched):
    run(wait, close=True)

"""

PLUGIN = """
import os


def pytest_runtest_logreport(report):
    if report.when == "call" or report.failed:
        said = report.longrepr.reprcrash.message.splitlines()[0] if report.failed else "passed"
        print(f"\\n> {report.location[2]}: {said}")


def pytest_sessionfinish():
    os._exit(0)  # parked greenlets and pending tasks have a lot to say on their way out
"""

FOUND = {
    "test_greenlet": "left in a call: [<Green at ",
    "test_task": "left pending: [<Task pending",
    "test_registration": "left registered: [",
    "test_descriptor": "left open: {'",
    "test_patch": "left patched: ['time']",
    "test_thread": "left running: {<Thread(",
    "test_thread_that_threading_does_not_know": "left running: 1 threads that",
}


def test_each_kind_is_found(tmp_path: Path) -> None:
    tests, path = Path(__file__).parent, tmp_path / "test_leaking.py"
    path.write_text(LEAKING)
    Path(tmp_path, "telling.py").write_text(PLUGIN)
    done = subprocess.run(
        [sys.executable, "-u", "-m", "pytest", "-s", "-p", "conftest", "-p", "telling", "-c", os.devnull, str(path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (tests, tests.parent, tmp_path)))},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    said: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        if line.startswith("> "):
            name, _, what = line[2:].partition(": ")
            said.setdefault(name, []).append(what)
    for name in ("test_nothing", "test_nothing_again"):
        assert said.pop(name) == ["passed"], done.stdout + done.stderr
    assert said.keys() == FOUND.keys()
    for name, (outcome, message) in said.items():
        assert outcome == "passed"
        assert FOUND[name] in message
