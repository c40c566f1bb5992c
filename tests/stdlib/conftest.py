"""The modules run beside one another, as many as there are processors, from the first test of this folder on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from .modules import Module
from .runner import Report, judge

EVERYTHING = os.environ.get("GREENIO_STDLIB") == "all"

JOBS = 2 * (os.cpu_count() or 1)
"""Most of these tests wait for most of their time."""


@pytest.fixture(autouse=True)
def no_leaks() -> None:
    """Nothing runs in this process; the pool's threads and pipes are no leaks."""


@pytest.fixture(scope="session")
def reports(request: pytest.FixtureRequest) -> Iterator[Callable[[Module, str], Report]]:
    """Start all that was selected, slow modules first, and look up what came of one."""
    jobs = [
        item.callspec.params for item in request.session.items if "stdlib_module" in getattr(item, "fixturenames", ())
    ]
    jobs.sort(key=lambda job: -job["stdlib_module"].weight)
    running: dict[tuple[str, str], Future[Report]] = {}
    with ThreadPoolExecutor(JOBS) as pool:
        for job in jobs:
            module, mode = job["stdlib_module"], job["mode"]
            running[module.name, mode] = pool.submit(judge, module, mode, ci=not EVERYTHING, full=EVERYTHING)
        yield lambda module, mode: running[module.name, mode].result()
        pool.shutdown(cancel_futures=True)
