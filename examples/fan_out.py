"""Fetch 200 URLs with `requests`, all at once, with a progress bar.

The server takes a fifth of a second for every answer: one after the other that would be 40 seconds.
"""

import asyncio
import sys
import time

import requests

import stage
from greenio import monkey, to_greenlet

URLS, DELAY, WIDTH = 200, 0.2, 40


def show(done: int, began: float) -> None:
    bar = "#" * (WIDTH * done // URLS)
    if sys.stdout.isatty() or done % 50 == 0:
        end = "\r" if sys.stdout.isatty() and done < URLS else "\n"
        print(f"[{bar:<{WIDTH}}] {done:3}/{URLS} {time.monotonic() - began:5.2f} s", end=end, flush=True)


async def main(base: str) -> None:
    began = time.monotonic()
    calls = [to_greenlet(requests.get, f"{base}/page/{number}", timeout=30) for number in range(URLS)]
    size = 0
    for done, call in enumerate(asyncio.as_completed(calls), start=1):
        page = await call
        size += len(page.content)
        show(done, began)
    took = time.monotonic() - began
    print(f"fetched {URLS} pages, {size} bytes, in {took:.2f} s; one by one they take {URLS * DELAY:.0f} s")


if __name__ == "__main__":
    options = stage.arguments(__doc__).parse_args()
    monkey.patch_all()
    with stage.slow_http_server(DELAY) as base:
        stage.run(main, base, loop=options.loop)
