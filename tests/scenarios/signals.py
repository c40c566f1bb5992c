"""Signals interrupt native calls as before: handlers run, calls go on by PEP 475, an exception ends them."""

import select
import signal
import socket
import time

from greenio import monkey

monkey.patch_all()
hits = []
signal.signal(signal.SIGALRM, lambda *_: hits.append(1))


def rings():
    signal.setitimer(signal.ITIMER_REAL, 0.02)


start = time.monotonic()
rings()
time.sleep(0.2)
assert len(hits) == 1
assert time.monotonic() - start >= 0.2

a, b = socket.socketpair()
signal.signal(signal.SIGALRM, lambda *_: b.send(b"late"))
rings()
assert a.recv(10) == b"late"
rings()
assert select.select([a], [], [], 30)[0] == [a]
assert a.recv(10) == b"late"


class Alarm(Exception):
    pass


def ring(*_):
    raise Alarm


signal.signal(signal.SIGALRM, ring)
for call, args in ((a.recv, (1,)), (time.sleep, (30,)), (a.accept, ()), (select.select, ([a], [], [], 30))):
    if call == a.accept:
        listener = socket.create_server(("127.0.0.1", 0))
        call = listener.accept
    rings()
    try:
        call(*args)
    except Alarm:
        continue
    raise AssertionError(f"{call} was not interrupted")
listener.close()
a.close()
b.close()
print("ok")
