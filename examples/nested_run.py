"""A blocking library that calls `asyncio.run` inside, used 20 times at once from a running loop.

Called from async code it would fail ("asyncio.run() cannot be called from a running event loop"). In a greenlet no loop
is running, so it may; and its loop parks in its selector like any other blocking code.
"""

import asyncio
import time

import stage
from greenio import monkey, to_greenlet

CALLS, DELAY = 20, 0.3


class BlockingClient:
    """Stands for an SDK that is async inside and sync outside."""

    def fetch(self, number: int) -> str:
        return asyncio.run(self._fetch(number))

    async def _fetch(self, number: int) -> str:
        await asyncio.sleep(DELAY)
        return f"answer {number}"


async def main() -> None:
    client = BlockingClient()
    began = time.monotonic()
    answers = await asyncio.gather(*(to_greenlet(client.fetch, number) for number in range(CALLS)))
    took = time.monotonic() - began
    print(f"{len(answers)} answers, from {answers[0]!r} to {answers[-1]!r}, each from an asyncio.run of its own")
    print(f"{took:.2f} s on {stage.describe_loop()}; one after the other they take {CALLS * DELAY:.0f} s")


if __name__ == "__main__":
    options = stage.arguments(__doc__).parse_args()
    monkey.patch_all()
    stage.run(main, loop=options.loop)
