"""Patched and unpatched fifty times under traffic, in threads and on a loop: no call notices."""

import asyncio
import socket
import threading
import time

from greenio import monkey, to_greenlet

stop = threading.Event()
failures = []
laps = [0, 0, 0]


def answer(sock):
    with sock:
        while data := sock.recv(1000):
            sock.sendall(data)


def ask(lap, sock, timeout):
    sock.settimeout(timeout)
    try:
        while not stop.is_set():
            sock.sendall(b"ping")
            got = b""
            while len(got) < 4:
                got += sock.recv(4 - len(got))
            assert got == b"ping"
            laps[lap] += 1
            time.sleep(0)
    except BaseException as error:
        failures.append(error)
        raise
    finally:
        sock.close()


async def on_the_loop():
    asyncio.get_running_loop().slow_callback_duration = 60
    pairs = [socket.socketpair() for _ in range(4)]
    await asyncio.gather(
        *(to_greenlet(answer, pair[0]) for pair in pairs[:2]),
        *(to_greenlet(ask, 2, pair[1], timeout) for pair, timeout in zip(pairs, (None, 30.0), strict=False)),
    )
    for pair in pairs[2:]:
        for sock in pair:
            sock.close()


def advance(lap):
    """Wait for three more laps, so that traffic meets every state of the patches."""
    target = laps[lap] + 3
    end = time.monotonic() + 20
    while laps[lap] < target and not failures:
        assert time.monotonic() < end, f"traffic stands still: {laps}"
        native_sleep(0.0001)


native_sleep = monkey.original("time", "sleep")
pairs = [socket.socketpair() for _ in range(2)]
threads = [threading.Thread(target=answer, args=(pair[0],)) for pair in pairs]
threads += [
    threading.Thread(target=ask, args=(lap, pair[1], timeout))
    for lap, (pair, timeout) in enumerate(zip(pairs, (None, 30.0), strict=True))
]
for thread in threads:
    thread.start()
for _ in range(50):
    monkey.patch_all()
    advance(0)
    monkey.unpatch_all()
    advance(1)

monkey.patch_all()
loop_thread = threading.Thread(target=asyncio.run, args=(on_the_loop(),))
loop_thread.start()
advance(2)
stop.set()
for thread in (*threads, loop_thread):
    thread.join()
assert not failures, failures
monkey.unpatch_all()
assert not monkey.report().patched
print("ok")
