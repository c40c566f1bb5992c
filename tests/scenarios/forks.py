"""Forks around patching: in a child all is patched, or nothing, and it can be undone there."""

import os
import socket
import threading
import time

from greenio import monkey
from greenio._patches import _patching

stop = threading.Event()


def keep_patching():
    while not stop.is_set():
        with monkey.patched():
            pass


def in_child():
    groups = monkey.report().patched
    assert len(groups) in (0, len(_patching.BY_DEFAULT)), groups
    assert monkey.is_patched("time.sleep") == (time.sleep is not monkey.original("time", "sleep"))
    monkey.patch_all()
    a, b = socket.socketpair()
    with a, b:
        a.sendall(b"x")
        assert b.recv(1) == b"x"
    monkey.unpatch_all()
    assert "recv" not in vars(socket.socket)


thread = threading.Thread(target=keep_patching)
thread.start()
for _ in range(20):
    child = os.fork()
    if not child:
        code = 1
        try:
            in_child()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
stop.set()
thread.join()
print("ok")
