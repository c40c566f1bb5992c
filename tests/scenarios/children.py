"""A program that forks its workers, from green code, and waits for them; nothing is left of any."""

import asyncio
import os
import signal
import threading
import time

import uvloop

from greenio import monkey, spawn, to_greenlet

monkey.patch_all()


def start(status, seconds=0.02):
    pid = os.fork()
    if pid == 0:
        time.sleep(seconds)  # native: nothing of the parent's is left to park on
        os._exit(status)
    return pid


def prefork():
    left = {start(status): status for status in range(1, 6)}
    again = 3
    while left:
        pid, status = os.wait()
        assert left.pop(pid) == os.waitstatus_to_exitcode(status)
        if again:
            again -= 1
            left[start(10 + again)] = 10 + again
    for wait in (os.wait, lambda: os.waitpid(-1, 0), lambda: os.wait3(0), lambda: os.waitid(os.P_ALL, 0, os.WEXITED)):
        try:
            wait()
        except ChildProcessError:
            continue
        raise AssertionError("there is no child")


def forks_and_waits_in_the_child():
    pid = os.fork()
    if pid == 0:
        inner = start(3)
        os._exit(os.waitstatus_to_exitcode(os.waitpid(inner, 0)[1]) + 1)
    assert os.waitpid(pid, 0) == (pid, 4 << 8)


def runs_a_loop_in_the_child():
    pid = os.fork()
    if pid == 0:
        asyncio.set_event_loop(None)
        found = asyncio.run(to_greenlet(lambda: os.waitpid(start(5), 0)[1]))
        os._exit(os.waitstatus_to_exitcode(found) + 1)
    assert os.waitpid(pid, 0) == (pid, 6 << 8)


async def main():
    ticks = 0
    asyncio.get_running_loop().slow_callback_duration = 60  # forks take long on a busy machine

    async def tick():
        nonlocal ticks
        while True:
            await asyncio.sleep(0.001)
            ticks += 1

    ticker = asyncio.ensure_future(tick())
    await to_greenlet(prefork)
    await to_greenlet(lambda: os.waitpid(start(0, 0.1), 0))
    assert ticks
    await to_greenlet(forks_and_waits_in_the_child)
    await to_greenlet(runs_a_loop_in_the_child)
    waiting = spawn(os.wait)
    pid = await to_greenlet(start, 0, 60)
    for _ in range(20):
        await asyncio.sleep(0.002)
    assert not waiting.done() or isinstance(waiting.exception(), ChildProcessError)
    waiting.cancel()
    await asyncio.wait([waiting])
    os.kill(pid, signal.SIGKILL)
    assert await to_greenlet(os.wait) == (pid, signal.SIGKILL)
    assert threading.active_count() == 1
    ticker.cancel()


asyncio.run(main())
loop = uvloop.new_event_loop()
loop.run_until_complete(main())
loop.close()
print("ok")
