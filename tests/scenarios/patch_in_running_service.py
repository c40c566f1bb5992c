"""A service that patches while its loop runs, and connections, contexts and names exist: nothing of it is disturbed."""

import asyncio
import socket
import threading
from socket import getaddrinfo
from time import sleep

import uvloop

from greenio import monkey, to_greenlet


class Client:
    pause = sleep

    def __init__(self, address):
        self.socket = socket.create_connection(address)

    def ask(self, line):
        self.socket.sendall(line)
        self.pause(0.001)
        return self.socket.recv(100)


def ask_once(address, line):
    client = Client(address)
    with client.socket:
        return client.ask(line)


async def echo(reader, writer):
    while line := await reader.readline():
        writer.write(line)
    writer.close()
    await writer.wait_closed()


async def main():
    loop = asyncio.get_running_loop()
    loop.slow_callback_duration = 60
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    reader, writer = await asyncio.open_connection(*address)
    client = await asyncio.to_thread(Client, address)
    assert await asyncio.to_thread(client.ask, b"in a thread\n") == b"in a thread\n"
    native = sleep

    for how in (monkey.patch_all, lambda: in_thread(monkey.patch_all)):
        how()
        assert sleep is not native
        assert client.pause is sleep
        turns = 0

        async def count():
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counting = loop.create_task(count())
        answers = await asyncio.gather(*(to_greenlet(ask_once, address, b"%d\n" % number) for number in range(20)))
        assert answers == [b"%d\n" % number for number in range(20)]
        assert await to_greenlet(client.ask, b"made before\n") == b"made before\n"
        assert await to_greenlet(getaddrinfo, "localhost", 80)
        assert turns > 1
        counting.cancel()
        assert await asyncio.to_thread(client.ask, b"in a thread\n") == b"in a thread\n"
        writer.write(b"asyncio\n")
        assert await reader.readline() == b"asyncio\n"
        monkey.unpatch_all()
        assert sleep is native
        assert client.pause is native

    assert await asyncio.to_thread(client.ask, b"in a thread\n") == b"in a thread\n"
    client.socket.close()
    writer.close()
    await writer.wait_closed()
    server.close()


def in_thread(fn):
    thread = threading.Thread(target=fn)
    thread.start()
    thread.join()


for factory in (asyncio.SelectorEventLoop, uvloop.new_event_loop):
    loop = factory()
    loop.run_until_complete(asyncio.wait_for(main(), 30))
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
print("ok")
