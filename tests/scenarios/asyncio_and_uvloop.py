"""An asyncio program that knows nothing of greenio, on every kind of loop: streams, TLS, children, executors, DNS."""

import asyncio
import socket
import ssl
import sys
import threading
import time

import trustme
import uvloop

from greenio import monkey

context_before = ssl.create_default_context()
monkey.patch_all()

authority = trustme.CA()
server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
authority.issue_cert("localhost").configure_cert(server_context)
authority.configure_trust(context_before)


async def echo(reader, writer):
    while line := await reader.readline():
        writer.write(line)
        await writer.drain()
    writer.close()
    await writer.wait_closed()


async def conversation(**options):
    server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=server_context if options else None)
    host, port = server.sockets[0].getsockname()
    reader, writer = await asyncio.open_connection(host, port, **options)
    for number in range(50):
        writer.write(b"%d\n" % number)
        assert await reader.readline() == b"%d\n" % number
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()


async def sock_methods():
    loop = asyncio.get_running_loop()
    a, b = socket.socketpair()
    with a, b:
        a.setblocking(False)
        b.setblocking(False)
        receiving = asyncio.ensure_future(loop.sock_recv(a, 5))
        await asyncio.sleep(0)
        await loop.sock_sendall(b, b"hello")
        assert await receiving == b"hello"


async def main():
    loop = asyncio.get_running_loop()
    loop.slow_callback_duration = 60
    await conversation()
    await conversation(ssl=context_before, server_hostname="localhost")
    await sock_methods()
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "print(input())", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert (await child.communicate(b"said\n"))[0] == b"said\n"
    assert child.returncode == 0
    thread = threading.get_ident()
    assert await asyncio.to_thread(threading.get_ident) != thread
    assert await loop.run_in_executor(None, time.sleep, 0.01) is None
    assert await loop.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)
    assert (await loop.getaddrinfo("localhost", 80))[0]
    try:
        await asyncio.wait_for(asyncio.sleep(60), 0.01)
    except asyncio.TimeoutError:
        return "done"
    raise AssertionError("no timeout")


def run(loop, debug=False):
    asyncio.set_event_loop(loop)
    loop.set_debug(debug)
    try:
        assert loop.run_until_complete(asyncio.wait_for(main(), 60)) == "done"
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        asyncio.set_event_loop(None)
        loop.close()


assert asyncio.run(main()) == "done"
if sys.version_info < (3, 12):  # where child watchers want a loop in the main thread
    run(asyncio.SelectorEventLoop(), debug=True)
else:
    asyncio.run(main(), debug=True)
run(uvloop.new_event_loop())
run(uvloop.new_event_loop(), debug=True)
print("ok")
