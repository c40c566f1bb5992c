"""Threads that block on sockets block as they did: timeouts, errors, flags and the descriptor's mode are the same."""

import errno
import os
import socket
import threading
import time

from greenio import monkey

monkey.patch_all()


def error_of(call, *args):
    try:
        call(*args)
    except OSError as error:
        return type(error), error.errno, str(error)
    raise AssertionError(f"{call} returned")


a, b = socket.socketpair()
assert os.get_blocking(a.fileno())

got = []
threads = [threading.Thread(target=lambda: got.append(a.recv(1))) for _ in range(3)]
for thread in threads:
    thread.start()
b.sendall(b"xyz")
for thread in threads:
    thread.join()
assert sorted(got) == [b"x", b"y", b"z"]
assert os.get_blocking(a.fileno())
assert a.gettimeout() is None
assert a.getblocking()

a.settimeout(0.05)
start = time.monotonic()
assert error_of(a.recv, 1) == (TimeoutError, None, "timed out")
assert 0.04 < time.monotonic() - start < 5
assert not os.get_blocking(a.fileno())
assert a.timeout == 0.05

a.setblocking(False)
assert error_of(a.recv, 1)[:2] == (BlockingIOError, errno.EAGAIN)

a.settimeout(None)
sender = threading.Thread(target=b.sendall, args=(bytes(1_000_000),))
sender.start()
left = 1_000_000
while left:
    left -= len(a.recv(min(left, 65536), socket.MSG_WAITALL))
sender.join()
b.close()
assert a.recv(1) == b""
a.close()
assert error_of(a.recv, 1)[:2] == (OSError, errno.EBADF)

with socket.socket() as refused:
    refused.bind(("127.0.0.1", 0))
    with socket.socket() as client:
        assert client.connect_ex(refused.getsockname()) == errno.ECONNREFUSED
        assert client.gettimeout() is None

start = time.monotonic()
time.sleep(0.05)
assert time.monotonic() - start >= 0.05

print("ok")
