"""Finalizers while the interpreter goes down: locks, clocks, sockets and identity are the native ones there."""

import atexit
import builtins
import logging
import queue
import socket
import threading
import time

from greenio import in_greenlet, monkey, run

monkey.patch_all()


class Last:
    """What outlives its module, with all that its finalizer needs: globals may be gone by then."""

    def __init__(self):
        self.locks = threading.Lock(), threading.RLock(), threading.Condition(), threading.Semaphore()
        self.event = threading.Event()
        self.queue = queue.Queue()
        self.local = threading.local()
        self.sockets = socket.socketpair()
        self.calls = time.sleep, threading.get_ident, threading.current_thread, in_greenlet, print

    def __del__(self):
        sleep, get_ident, current_thread, in_greenlet, show = self.calls
        done = 0
        for lock in self.locks:
            with lock:
                done += 1
        self.event.set()
        done += self.event.wait(0.001)
        self.queue.put(1)
        done += self.queue.get(timeout=0.001)
        self.local.value = 1
        done += self.local.value
        a, b = self.sockets
        a.sendall(b"x")
        done += len(b.recv(10))
        a.close()
        b.close()
        sleep(0.001)
        done += current_thread().ident == get_ident()
        done += not in_greenlet()
        if done == 10:
            show("ok")


def at_the_end():
    """Run green code in the last phase in which that is possible."""
    assert run(lambda: (time.sleep(0.001), in_greenlet())) == (None, True)


atexit.register(at_the_end)
builtins.last = Last()
# logging takes a lock to forget a handler.
logging.getLogger("finalizers").addHandler(logging.StreamHandler())
