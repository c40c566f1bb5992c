"""Imports in green code: of modules whose bodies park, by several greens and threads at once."""

from __future__ import annotations

import asyncio
import importlib
import sys
import textwrap
import threading

import pytest

from greenio import monkey, to_greenlet
from waiting import until_parked

pytestmark = pytest.mark.usefixtures("patched")


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write modules that are there to be imported, and forget them at the end."""
    monkeypatch.syspath_prepend(str(tmp_path))
    names = []

    def write(name, body):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(body))
        importlib.invalidate_caches()
        names.append(name)

    yield write
    for name in names:
        sys.modules.pop(name, None)


SLOW = """
    import time
    time.sleep(0.05)
    whole = True
"""


def load(name):
    return importlib.import_module(name).whole


def load_by_statement(name):
    space = {}
    exec(f"from {name} import whole", space)
    return space["whole"]


@pytest.mark.parametrize("load", [load, load_by_statement])
def test_all_greens_get_the_whole_module(write, arun, load):
    write("greenio_slow", SLOW)

    async def main():
        assert all(await asyncio.gather(*(to_greenlet(load, "greenio_slow") for _ in range(20))))

    arun(main)


def test_a_module_within_a_module(write, arun):
    write("greenio_slow", SLOW)
    write("greenio_outer", "import time; time.sleep(0.01); from greenio_slow import whole")

    async def main():
        names = ["greenio_outer", "greenio_slow"] * 5
        assert all(await asyncio.gather(*(to_greenlet(load, name) for name in names)))

    arun(main)


def test_a_body_that_fails(write, arun):
    """The next one tries again, as in threads."""
    write("greenio_broken", "import time; time.sleep(0.01); raise ValueError('no')")

    async def main():
        calls = (to_greenlet(load, "greenio_broken") for _ in range(3))
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(result) for result in results] == [ValueError] * 3

    arun(main)


@pytest.mark.parametrize("which", ["importer", "waiter"])
def test_a_cancelled_one(write, arun, which):
    """The other waits on, or runs the body anew."""
    write("greenio_slow", SLOW)

    async def main():
        calls = [asyncio.ensure_future(to_greenlet(load, "greenio_slow")) for _ in range(2)]
        await until_parked(2)
        cancelled = calls.pop(0 if which == "importer" else 1)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        assert await to_greenlet(load, "greenio_slow")
        assert await calls[0]

    arun(main)


def test_modules_that_import_one_another(write, arun):
    """Natively the two threads would wait for each other too; the import system gives one of them what there is."""
    write("greenio_left", "import time; time.sleep(0.02); import greenio_right; whole = True")
    write("greenio_right", "import time; time.sleep(0.02); import greenio_left; whole = True")

    async def main():
        names = ["greenio_left", "greenio_right"]
        assert all(await asyncio.gather(*(to_greenlet(load, name) for name in names)))

    arun(main)


@pytest.mark.parametrize("thread_first", [True, False])
def test_modules_that_a_thread_and_a_green_import_crosswise(write, arun, thread_first):
    write("greenio_left", "import time; time.sleep(0.02); import greenio_right; whole = True")
    write("greenio_right", "import time; time.sleep(0.02); import greenio_left; whole = True")

    async def main():
        calls = [asyncio.to_thread(load, "greenio_left"), to_greenlet(load, "greenio_right")]
        if not thread_first:
            calls.reverse()
        assert all(await asyncio.gather(*calls))

    arun(main)


def test_what_a_thread_imports(write, arun):
    """The loop is not held for as long as the thread takes."""
    write("greenio_native", "import greenio_gate; greenio_gate.began.set(); greenio_gate.go.wait(); whole = True")
    write("greenio_gate", "import threading; began, go = threading.Event(), threading.Event()")

    async def main():
        import greenio_gate

        thread = threading.Thread(target=load, args=("greenio_native",))
        thread.start()
        await to_greenlet(greenio_gate.began.wait)
        waiter = asyncio.ensure_future(to_greenlet(load, "greenio_native"))
        await until_parked()
        greenio_gate.go.set()
        assert await waiter
        await to_greenlet(thread.join)

    arun(main)


def test_what_a_green_imports_and_a_thread_waits_for(write, arun):
    write("greenio_slow", SLOW)

    async def main():
        first = asyncio.ensure_future(to_greenlet(load, "greenio_slow"))
        await until_parked()
        assert await asyncio.to_thread(load, "greenio_slow")
        assert await first

    arun(main)


def test_the_importer_again(write, arun):
    """A body that imports its own module, by whatever detour, is let in."""
    write("greenio_inner", "import greenio_selfish; import time; time.sleep(0.01); assert greenio_selfish.begun")
    write("greenio_selfish", "begun = True; import time; time.sleep(0.01); import greenio_inner; whole = True")

    async def main():
        assert all(await asyncio.gather(*(to_greenlet(load, "greenio_selfish") for _ in range(3))))

    arun(main)


def test_unpatched_in_the_midst(write, arun):
    write("greenio_slow", SLOW)

    async def main():
        calls = [asyncio.ensure_future(to_greenlet(load, "greenio_slow")) for _ in range(3)]
        await until_parked(3)
        monkey.unpatch_all()
        try:
            assert all(await asyncio.gather(*calls))
        finally:
            monkey.patch_all()
        assert await to_greenlet(load, "greenio_slow")

    arun(main)
