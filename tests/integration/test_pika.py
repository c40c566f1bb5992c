"""pika's BlockingConnection against the real RabbitMQ. It runs a poller of its own, over `select`."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator

import pika
import pytest

from greenio import spawn, to_greenlet

from .servers import Cutter, Heartbeat

pytestmark = [pytest.mark.usefixtures("patched", "rabbitmq")]

AT_ONCE = 50


@contextlib.contextmanager
def connected(port: int = 5672, **options: object) -> Iterator[pika.BlockingConnection]:
    """Connect, and close what is still open at the end."""
    connection = pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", port, **options))
    try:
        yield connection
    finally:
        if connection.is_open:
            connection.close()


def exchange(number: int) -> list[bytes]:
    """Publish to a queue of one's own and read it all back."""
    with connected() as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        queue = channel.queue_declare("", exclusive=True).method.queue
        for turn in range(3):
            channel.basic_publish("", queue, f"{number}-{turn}".encode())
        found = []
        for _, _, body in channel.consume(queue, auto_ack=True):
            found.append(body)
            if len(found) == 3:
                break
        channel.cancel()
        return found


def test_fifty_at_once(arun):
    async def main():
        async with Heartbeat():
            found = await asyncio.gather(*(to_greenlet(exchange, number) for number in range(AT_ONCE)))
        assert found == [[f"{number}-{turn}".encode() for turn in range(3)] for number in range(AT_ONCE)]

    arun(main)


def test_consumers_wait_while_the_loop_goes_on(arun):
    def consume(ready: list[str]) -> bytes:
        with connected() as connection:
            channel = connection.channel()
            queue = channel.queue_declare("", exclusive=False, auto_delete=True).method.queue
            ready.append(queue)
            for _, _, body in channel.consume(queue, auto_ack=True):
                return body
        raise AssertionError("nothing came")

    def publish(queues: list[str]) -> None:
        with connected() as connection:
            channel = connection.channel()
            for queue in queues:
                channel.basic_publish("", queue, queue.encode())

    async def main():
        queues: list[str] = []
        async with Heartbeat(at_least=10):
            consumers = [spawn(consume, queues) for _ in range(10)]
            while len(queues) < 10:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)  # they wait, and the heart beats
            await to_greenlet(publish, queues)
            assert sorted(await asyncio.gather(*consumers)) == sorted(queue.encode() for queue in queues)

    arun(main)


def test_timeouts(arun):
    def work() -> None:
        with connected() as connection:
            channel = connection.channel()
            queue = channel.queue_declare("", exclusive=True).method.queue
            began = time.monotonic()
            assert next(channel.consume(queue, inactivity_timeout=0.3)) == (None, None, None)
            assert 0.29 < time.monotonic() - began < 4
            connection.sleep(0.1)

    async def main():
        async with Heartbeat(at_least=10):
            await asyncio.gather(*(to_greenlet(work) for _ in range(5)))

    arun(main)


@pytest.mark.parametrize("reset", [True, False], ids=["reset", "end of file"])
def test_server_killed_while_a_consumer_waits(arun, reset):
    waiting: list[str] = []

    def consume(port: int) -> None:
        with connected(port) as connection:
            channel = connection.channel()
            queue = channel.queue_declare("", exclusive=True).method.queue
            waiting.append(queue)
            next(channel.consume(queue))

    async def main():
        waiting.clear()
        async with Cutter(("127.0.0.1", 5672), reset=reset) as proxy, Heartbeat():
            consumer = spawn(consume, proxy.port)
            while not waiting:
                await asyncio.sleep(0.01)
            proxy.cut()
            with pytest.raises(pika.exceptions.AMQPConnectionError):
                await consumer

    arun(main)


def test_cancelled_consumer_in_a_with_block_closes_its_connection(arun):
    kept: list[pika.BlockingConnection] = []

    def consume() -> None:
        with connected() as connection:
            channel = connection.channel()
            queue = channel.queue_declare("", exclusive=True).method.queue
            kept.append(connection)
            next(channel.consume(queue))

    async def main():
        async with Heartbeat():
            victim = spawn(consume)
            while not kept:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
            victim.cancel()
            with pytest.raises(asyncio.CancelledError):
                await victim
            # The close was said to the broker in good order: a `with` block may park in its clean-up.
            assert kept.pop().is_closed
            assert await to_greenlet(exchange, 1)

    arun(main)
