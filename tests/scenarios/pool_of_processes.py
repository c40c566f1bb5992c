"""A pool of processes that green code uses, while the loop goes on."""

import asyncio
import concurrent.futures
import multiprocessing
import time

import uvloop

from greenio import monkey, to_greenlet


def use_pool():
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
        futures = [pool.submit(pow, 2, each) for each in range(10)]
        assert len(list(concurrent.futures.as_completed(futures))) == 10
        assert list(pool.map(abs, [-1, 2])) == [1, 2]
        pool.submit(time.sleep, 0.05).result()
    return [future.result() for future in futures]


async def main():
    asyncio.get_running_loop().slow_callback_duration = 60  # to start a process takes long on a busy machine
    task = asyncio.ensure_future(to_greenlet(use_pool))
    ticks = 0
    while not task.done():
        await asyncio.sleep(0.001)
        ticks += 1
    assert ticks > 5
    assert await task == [2**each for each in range(10)]


if __name__ == "__main__":
    monkey.patch_all()
    asyncio.run(main())
    loop = uvloop.new_event_loop()
    loop.run_until_complete(main())
    loop.close()
    print("ok")
