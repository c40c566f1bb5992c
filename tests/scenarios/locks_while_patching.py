"""Patched and unpatched fifty times while threads and greens use locks that are older: nobody is stuck."""

import asyncio
import queue
import threading
import time

from greenio import monkey, to_greenlet

SECONDS = 20

lock, rlock, condition, event, made = (
    threading.Lock(),
    threading.RLock(),
    threading.Condition(),
    threading.Event(),
    queue.Queue(),
)
stop = False
failures = []
laps = [0, 0]


def use(lap):
    with lock:
        laps[lap] += 1
    with rlock, rlock:
        time.sleep(0)
    with condition:
        condition.wait(0.0001)
        condition.notify()
        with condition:
            condition.wait(0.0001)
    made.put(1, timeout=SECONDS)
    assert made.get(timeout=SECONDS) == 1
    event.set()
    assert event.wait(SECONDS)


def in_a_thread():
    try:
        while not stop:
            use(0)
    except BaseException as error:
        failures.append(error)
        raise


async def main():
    asyncio.get_running_loop().slow_callback_duration = 60
    while not stop:
        await asyncio.wait_for(asyncio.gather(*(to_greenlet(use, 1) for _ in range(5))), SECONDS)


def on_a_loop():
    try:
        asyncio.run(main())
    except BaseException as error:
        failures.append(error)
        raise


def advance():
    """Let both take some more laps, so that they meet every state of the patches."""
    targets = [lap + 3 for lap in laps]
    end = time.monotonic() + SECONDS
    while any(lap < target for lap, target in zip(laps, targets, strict=True)) and not failures:
        assert time.monotonic() < end, f"somebody is stuck: {laps}"
        native_sleep(0.0001)


native_sleep = monkey.original("time", "sleep")
threads = [threading.Thread(target=target, daemon=True) for target in (in_a_thread, in_a_thread, on_a_loop)]
for thread in threads:
    thread.start()
for _ in range(50):
    monkey.patch_all()
    advance()
    monkey.unpatch_all()
    advance()
stop = True
for thread in threads:
    thread.join(SECONDS)
    assert not thread.is_alive()
assert not failures, failures
print("ok")
