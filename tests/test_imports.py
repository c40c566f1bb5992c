"""Imports in green code: of modules whose bodies park, by several greens and threads at once."""

from __future__ import annotations

import asyncio
import importlib
import sys
import textwrap
import threading
from importlib.machinery import ModuleSpec

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

GATED = """
    from greenio_gate import go
    go.wait()
    whole = True
"""


@pytest.fixture
def gate(write):
    """A module of two events: `began` and `go`."""
    write("greenio_gate", "import threading; began, go = threading.Event(), threading.Event()")
    return importlib.import_module("greenio_gate")


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
def test_a_cancelled_one(write, arun, gate, which):
    """The other waits on, or runs the body anew."""
    write("greenio_slow", GATED)

    async def main():
        calls = [asyncio.ensure_future(to_greenlet(load, "greenio_slow")) for _ in range(2)]
        await until_parked(2)
        cancelled = calls.pop(0 if which == "importer" else 1)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        gate.go.set()
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


class SlowLoader:
    """Finds one module, and takes its time before it is there."""

    def __init__(self, name, body, gate):
        self.name = name
        self.body = body
        self.gate = gate

    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self) if name == self.name else None

    def create_module(self, spec):
        self.gate.began.set()
        self.gate.go.wait()

    def exec_module(self, module):
        exec(self.body, vars(module))


def test_a_circle_that_closes_late(write, arun, gate, monkeypatch):
    """The green waits while the thread has not made the module yet: it gets that half done, and no error."""
    slow = SlowLoader("greenio_left", "import greenio_right; whole = True", gate)
    write("greenio_right", "import greenio_left; whole = True")
    monkeypatch.setattr(sys, "meta_path", [slow, *sys.meta_path])

    async def main():
        thread = asyncio.ensure_future(asyncio.to_thread(load, "greenio_left"))
        await to_greenlet(gate.began.wait)
        green = asyncio.ensure_future(to_greenlet(load, "greenio_right"))
        await until_parked()
        gate.go.set()
        assert await green
        assert await thread

    try:
        arun(main)
    finally:
        sys.modules.pop("greenio_left", None)


def test_an_importer_that_runs_a_loop(write, arun):
    """What runs on that loop is let in, since the importer is below it on the same stack."""
    write(
        "greenio_app",
        """
        import asyncio, greenio, time
        begun = True

        def work():
            import greenio_app
            time.sleep(0.001)
            import greenio_app as again
            return again.begun

        async def main():
            asyncio.get_running_loop().set_task_factory(greenio.task_factory)
            return await asyncio.create_task(greenio.to_greenlet(work))

        whole = asyncio.run(main())
        """,
    )

    async def main():
        assert await to_greenlet(load, "greenio_app")

    arun(main)


def test_what_a_thread_imports(write, arun, gate):
    """The loop is not held for as long as the thread takes, and other imports go on."""
    write("greenio_native", "import greenio_gate; greenio_gate.began.set(); greenio_gate.go.wait(); whole = True")
    write("greenio_other", "whole = True")

    async def main():
        thread = threading.Thread(target=load, args=("greenio_native",))
        thread.start()
        await to_greenlet(gate.began.wait)
        waiter = asyncio.ensure_future(to_greenlet(load, "greenio_native"))
        await until_parked()
        assert await to_greenlet(load, "greenio_other")
        gate.go.set()
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


def test_unpatched_in_the_midst(write, arun, gate):
    write("greenio_slow", GATED)

    async def main():
        calls = [asyncio.ensure_future(to_greenlet(load, "greenio_slow")) for _ in range(3)]
        await until_parked(3)
        monkey.unpatch_all()
        gate.go.set()
        assert all(await asyncio.gather(*calls))
        assert await to_greenlet(load, "greenio_slow")

    arun(main)
