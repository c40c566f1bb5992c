"""The interpreter ends in silence: users of atexit, daemon threads in native calls, sockets and tasks that are left."""

import asyncio
import atexit
import socket
import threading
import time

from greenio import monkey, to_greenlet

monkey.patch_all()


def at_the_end():
    time.sleep(0.001)
    with socket.create_connection(listener.getsockname(), timeout=5) as client:
        listener.accept()[0].close()
        assert client.recv(1) == b""
    listener.close()
    a.close()
    b.close()
    print("ok")


def wait_in(call, argument):
    started.wait()
    call(argument)


async def main():
    asyncio.get_running_loop().slow_callback_duration = 60
    await to_greenlet(a.sendall, b"x")
    assert await to_greenlet(b.recv, 10) == b"x"
    tasks.append(asyncio.ensure_future(to_greenlet(b.recv, 1)))
    await asyncio.sleep(0.01)


atexit.register(at_the_end)
tasks = []
listener = socket.create_server(("127.0.0.1", 0))
a, b = socket.socketpair()
c, d = socket.socketpair()
started = threading.Barrier(3)
for call, argument in ((c.recv, 1), (time.sleep, 1000)):
    threading.Thread(target=wait_in, args=(call, argument), daemon=True).start()
started.wait()
asyncio.run(main())
assert tasks[0].cancelled()
c.settimeout(5)
