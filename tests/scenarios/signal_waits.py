"""Signals that are sent to the process: green code waits for them, beside threads, with and without blocking them."""

import asyncio
import os
import signal
import socket

import uvloop

import greenio
from greenio import monkey

monkey.patch_all()
PAIR = {signal.SIGTERM, signal.SIGUSR1}


async def parked():
    while not any(green.waiting for green in greenio._core.greens()):
        await asyncio.sleep(0.001)


async def tells(wait, signum):
    task = asyncio.create_task(greenio.to_greenlet(wait, PAIR))
    await parked()
    os.kill(os.getpid(), signum)
    return await asyncio.wait_for(task, 20)


async def main():
    loop = asyncio.get_running_loop()
    for _ in range(3):  # threads of the executor, which block nothing
        await loop.run_in_executor(None, socket.gethostname)
    for signum in PAIR:
        assert await tells(signal.sigwait, signum) is signum
        assert (await tells(signal.sigwaitinfo, signum)).si_signo == signum
        assert signal.getsignal(signum) == signal.SIG_DFL


async def blocked():
    assert await tells(signal.sigwait, signal.SIGTERM) is signal.SIGTERM
    assert (await tells(signal.sigwaitinfo, signal.SIGUSR1)).si_pid == os.getpid()
    child = await asyncio.create_subprocess_shell(f"kill -USR1 {os.getpid()}")
    info = await greenio.to_greenlet(signal.sigtimedwait, PAIR, 20)
    assert info.si_signo == signal.SIGUSR1
    await child.wait()


asyncio.run(main())
loop = uvloop.new_event_loop()
loop.run_until_complete(main())
loop.run_until_complete(loop.shutdown_default_executor())
loop.close()
before = signal.pthread_sigmask(signal.SIG_BLOCK, PAIR)
asyncio.run(blocked())
loop = uvloop.new_event_loop()
loop.run_until_complete(blocked())
loop.close()
signal.pthread_sigmask(signal.SIG_SETMASK, before)
assert greenio.run(lambda: signal.sigtimedwait(PAIR, 0.01)) is None
print("ok")
