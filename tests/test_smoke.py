import asyncio
import socket
import time

from greenio import to_greenlet


def test_two_greenlets_talk(arun, patched):
    async def main():
        a, b = socket.socketpair()
        with a, b:
            a.settimeout(5)

            def ping():
                a.sendall(b"ping")
                return a.recv(10)

            def pong():
                time.sleep(0.01)
                b.sendall(b.recv(10).upper())

            answer, _ = await asyncio.gather(to_greenlet(ping), to_greenlet(pong))
            assert answer == b"PING"

    arun(main)
