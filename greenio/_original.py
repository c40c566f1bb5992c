"""The native objects, taken before anything is patched.

Every other file of the package takes what it needs of a patchable module from here, so that greenio itself never
runs through its own patches. This file imports nothing of greenio.
"""

import _queue
import _thread
import asyncio
import os
import select
import selectors
import signal as _signal
import socket
import threading
import time
from typing import Any

__all__ = [
    "AddressFamily",
    "Condition",
    "Empty",
    "Event",
    "PollSelector",
    "RLock",
    "SSLSocket",
    "Semaphore",
    "SimpleQueue",
    "Socket",
    "SocketKind",
    "Thread",
    "allocate_lock",
    "close",
    "current_thread",
    "dup",
    "dup2",
    "enumerate_threads",
    "epoll",
    "get_ident",
    "get_native_id",
    "getaddrinfo",
    "getnameinfo",
    "getsignal",
    "kevent",
    "kqueue",
    "local",
    "main_thread",
    "monotonic",
    "new_event_loop",
    "open_descriptor",
    "poll",
    "read",
    "select_select",
    "sendfile",
    "set_blocking",
    "set_event_loop",
    "signal",
    "sleep",
    "start_new_thread",
    "start_thread",
    "waitid",
    "write",
]

Socket = socket.socket
try:
    from ssl import SSLSocket
except ImportError:  # a CPython that was built without OpenSSL
    SSLSocket = type("SSLSocket", (Socket,), {})  # type: ignore[assignment, misc]
PollSelector = selectors.PollSelector

close = os.close
dup = os.dup
dup2 = os.dup2
open_descriptor = os.open
read = os.read
sendfile = getattr(os, "sendfile", None)
set_blocking = os.set_blocking
waitid: Any = getattr(os, "waitid", None)
write = os.write

epoll = getattr(select, "epoll", None)
kevent = getattr(select, "kevent", None)
kqueue = getattr(select, "kqueue", None)
poll = getattr(select, "poll", None)
select_select = select.select

AddressFamily = socket.AddressFamily
SocketKind = socket.SocketKind
getaddrinfo = socket.getaddrinfo
getnameinfo = socket.getnameinfo

new_event_loop = asyncio.new_event_loop
set_event_loop = asyncio.set_event_loop

Condition = threading.Condition
Event = threading.Event
RLock = _thread.RLock
Semaphore = threading.Semaphore
allocate_lock = _thread.allocate_lock
start_new_thread = _thread.start_new_thread
Thread = threading.Thread
start_thread = threading.Thread.start
current_thread = threading.current_thread
enumerate_threads = threading.enumerate
get_ident = threading.get_ident
get_native_id = getattr(threading, "get_native_id", get_ident)
local = threading.local
main_thread = threading.main_thread

Empty = _queue.Empty
SimpleQueue = _queue.SimpleQueue

monotonic = time.monotonic
sleep = time.sleep

signal = _signal.signal
getsignal = _signal.getsignal
