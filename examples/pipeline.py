"""A pipeline of both kinds of code: an async producer, blocking consumers that use redis-py, and an async collector.

`await_` is how green code waits for something async: here, for the two asyncio queues.
"""

import asyncio

import redis

import stage
from greenio import await_, monkey, spawn

ITEMS, CONSUMERS = 300, 8
KEY = "greenio:example:pipeline"
LAST = object()


async def produce(readings: asyncio.Queue) -> None:
    for number in range(ITEMS):
        await readings.put({"sensor": number % 10, "value": number * number})
        if number % 50 == 49:
            await asyncio.sleep(0.02)  # the source pauses, as sources do
    for _ in range(CONSUMERS):
        await readings.put(LAST)


def consume(name: int, readings: asyncio.Queue, stored: asyncio.Queue, database: redis.Redis) -> int:
    """Plain blocking code but for `await_`: it could be somebody else's."""
    count = 0
    while (reading := await_(readings.get())) is not LAST:
        length = database.rpush(KEY, f"{reading['sensor']}={reading['value']}")
        await_(stored.put((name, length)))
        count += 1
    return count


async def collect(stored: asyncio.Queue) -> int:
    longest = 0
    for number in range(1, ITEMS + 1):
        _, length = await stored.get()
        longest = max(longest, length)
        if number % 100 == 0:
            print(f"collected {number} of {ITEMS}")
    return longest


async def main(address: tuple[str, int]) -> None:
    host, port = address
    readings, stored = asyncio.Queue(maxsize=20), asyncio.Queue(maxsize=20)
    with redis.Redis(host, port, protocol=2) as database:
        consumers = [spawn(consume, name, readings, stored, database) for name in range(CONSUMERS)]
        collector = asyncio.create_task(collect(stored))
        await produce(readings)
        counts = await asyncio.gather(*consumers)
        longest = await collector
        await spawn(database.delete, KEY)
    print(f"{CONSUMERS} blocking consumers stored {sum(counts)} readings, {counts} each; the list grew to {longest}")


if __name__ == "__main__":
    parser = stage.arguments(__doc__)
    parser.add_argument("--embedded", action="store_true", help="look for no real Redis")
    options = parser.parse_args()
    monkey.patch_all()
    with stage.redis_server(embedded=options.embedded) as address:
        stage.run(main, address, loop=options.loop)
