"""Ask for a report after futures were freed: `_asyncio` of CPython 3.12 shows the collector its list of freed ones."""

from __future__ import annotations

import asyncio
import gc

from greenio import monkey


async def free_futures() -> None:
    asyncio.get_running_loop().slow_callback_duration = 60.0  # a busy machine is not what is tested
    futures = [asyncio.get_running_loop().create_future() for _ in range(100)]
    for future in futures:
        asyncio.get_running_loop().call_soon(future.set_result, None)
    await asyncio.gather(*(wait_for(future) for future in futures))


async def wait_for(future: asyncio.Future[None]) -> None:
    await future


asyncio.run(free_futures())
with monkey.patched():
    for _ in range(3):
        assert monkey.report().patched
asyncio.run(free_futures())
assert not gc.get_referrers(object())  # walks over everything, and would not come back from a ring
print("ok")
