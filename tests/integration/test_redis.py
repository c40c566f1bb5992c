"""redis-py against the real Redis."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.retry import Retry

from greenio import spawn, to_greenlet

from .servers import OWN, Cutter, Heartbeat, until

pytestmark = [pytest.mark.usefixtures("patched", "redis_server")]

AT_ONCE = 50
HOST = "127.0.0.1"


def client(port: int = 6379, **options) -> redis.Redis:
    """Make a client that tells of an error at once, without trying again."""
    return redis.Redis(host=HOST, port=port, retry=Retry(NoBackoff(), 0), **options)


async def parked_in_server(commands: redis.asyncio.Redis, name: str) -> None:
    """Wait until the server has a client of that name blocked."""

    async def blocked() -> bool:
        # "b": the client waits in a blocking operation
        return any(entry["name"] == name and "b" in entry["flags"] for entry in await commands.client_list())

    await until(blocked)


def test_fifty_wait_at_once(arun):
    async def main():
        pool = client()
        began = time.monotonic()
        async with Heartbeat(at_least=10):
            answers = await asyncio.gather(
                *(to_greenlet(pool.blpop, f"{OWN}:nothing:{i}", timeout=0.3) for i in range(AT_ONCE))
            )
        assert answers == [None] * AT_ONCE
        assert time.monotonic() - began < AT_ONCE * 0.3 / 2
        pool.close()

    arun(main)


def test_answers_go_to_those_who_asked(arun):
    async def main():
        with client(decode_responses=True) as pool:

            def work(number: int) -> None:
                key = f"{OWN}:answers:{number}"
                for turn in range(10):
                    pool.set(key, f"{number}-{turn}", ex=60)
                    assert pool.get(key) == f"{number}-{turn}"
                with pool.pipeline() as pipe:
                    pipe.incr(f"{key}:n").expire(f"{key}:n", 60).delete(f"{key}:n", key)
                    assert pipe.execute() == [1, True, 2]

            async with Heartbeat():
                await asyncio.gather(*(to_greenlet(work, i) for i in range(AT_ONCE)))

    arun(main)


def test_pool_shared_with_native_threads(arun):
    async def main():
        with client(decode_responses=True) as pool:

            def work(number: int) -> None:
                for _ in range(20):
                    assert pool.echo(f"hello {number}") == f"hello {number}"

            async with Heartbeat():
                await asyncio.gather(
                    *(to_greenlet(work, i) for i in range(AT_ONCE)),
                    *(asyncio.to_thread(work, 100 + i) for i in range(4)),
                )

    arun(main)


def test_subscriber_hears_publisher(arun):
    async def main():
        with client(decode_responses=True) as pool, pool.pubsub() as channel:
            channel.subscribe(f"{OWN}:channel")

            def listen() -> list[str]:
                heard = (message["data"] for message in channel.listen() if message["type"] == "message")
                return [next(heard) for _ in range(5)]

            listener = spawn(listen)

            def publish() -> None:
                while not pool.pubsub_numsub(f"{OWN}:channel")[0][1]:
                    time.sleep(0.01)
                for number in range(5):
                    pool.publish(f"{OWN}:channel", f"news {number}")

            async with Heartbeat():
                await to_greenlet(publish)
                assert await listener == [f"news {number}" for number in range(5)]

    arun(main)


def test_socket_timeout(arun):
    async def main():
        with client(socket_timeout=0.3) as pool:
            began = time.monotonic()
            async with Heartbeat(at_least=10):
                results = await asyncio.gather(
                    *(to_greenlet(pool.execute_command, "BLPOP", f"{OWN}:nothing:{i}", 5) for i in range(10)),
                    return_exceptions=True,
                )
            assert [type(result) for result in results] == [redis.exceptions.TimeoutError] * 10
            assert 0.29 < time.monotonic() - began < 4
            assert await to_greenlet(pool.ping)

    arun(main)


@pytest.mark.parametrize("reset", [True, False], ids=["reset", "end of file"])
def test_server_killed_in_mid_answer(arun, reset):
    async def main():
        with client() as direct:
            await to_greenlet(direct.set, f"{OWN}:large", b"x" * 200_000, ex=60)
        async with Cutter(("127.0.0.1", 6379), after=100_000, reset=reset) as proxy, Heartbeat():
            with client(proxy.port) as pool, pytest.raises(redis.exceptions.ConnectionError):
                await to_greenlet(pool.get, f"{OWN}:large")

    arun(main)


def test_cancelled_command_gives_its_connection_up(arun):
    async def main():
        commands = redis.asyncio.Redis(decode_responses=True)
        with client(client_name=f"{OWN}-cancelled", single_connection_client=False) as pool:
            others = [spawn(pool.blpop, f"{OWN}:other:{i}", timeout=10) for i in range(5)]
            victim = spawn(pool.blpop, f"{OWN}:cancelled", timeout=10)
            async with Heartbeat():

                async def blocked() -> int:
                    found = await commands.client_list()
                    return sum(entry["name"] == f"{OWN}-cancelled" and "b" in entry["flags"] for entry in found)

                async def all_blocked() -> bool:
                    return await blocked() == 6

                async def victim_gone() -> bool:
                    return await blocked() == 5

                await until(all_blocked)
                victim.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await victim
                # The next answer on that connection would have been the cancelled one's: redis-py closed it. Until the
                # server has noticed, it would go on giving items to it.
                await until(victim_gone)
                await commands.rpush(f"{OWN}:cancelled", "for the next reader")
                assert await to_greenlet(pool.lpop, f"{OWN}:cancelled") == b"for the next reader"
                for number in range(5):
                    await commands.rpush(f"{OWN}:other:{number}", f"item {number}")
                found = await asyncio.gather(*others)
            assert [item for _, item in found] == [f"item {number}".encode() for number in range(5)]
        await commands.aclose()

    arun(main)


def test_beside_the_native_async_client(arun):
    async def main():
        commands = redis.asyncio.Redis(decode_responses=True)
        with client(decode_responses=True) as pool:

            def blocking(number: int) -> str:
                pool.set(f"{OWN}:mixed:{number}", f"green {number}", ex=60)
                return pool.blpop(f"{OWN}:mixed:list:{number}", timeout=10)[1]

            async def native(number: int) -> str:
                await commands.rpush(f"{OWN}:mixed:list:{number}", f"async {number}")
                while (found := await commands.get(f"{OWN}:mixed:{number}")) is None:
                    await asyncio.sleep(0.01)
                return found

            async with Heartbeat():
                results = await asyncio.gather(
                    *(to_greenlet(blocking, i) for i in range(AT_ONCE)), *(native(i) for i in range(AT_ONCE))
                )
            assert results == [f"async {i}" for i in range(AT_ONCE)] + [f"green {i}" for i in range(AT_ONCE)]
            await to_greenlet(pool.delete, *(f"{OWN}:mixed:{i}" for i in range(AT_ONCE)))
        await commands.aclose()

    arun(main)


def test_lock_in_redis_excludes(arun):
    """redis-py's own distributed lock keeps its token in a threading.local, unless told not to."""

    async def main():
        with client() as pool:
            inside = []

            def work() -> None:
                with pool.lock(f"{OWN}:lock", timeout=20, sleep=0.01, thread_local=False):
                    inside.append(threading.get_ident())
                    assert len(inside) == 1
                    pool.ping()
                    inside.pop()

            async with Heartbeat():
                await asyncio.gather(*(to_greenlet(work) for _ in range(10)))

    arun(main)
