"""Other people's tools in green code: what docs/debugging.md says of each, held against the tool itself."""

from __future__ import annotations

import asyncio
import cProfile
import faulthandler
import json
import pstats
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from greenio import spawn, to_greenlet
from waiting import until, until_parked

pytestmark = pytest.mark.usefixtures("patched")

BIN = Path(sys.executable).parent


def parks():
    time.sleep(0.001)


def counts(number):
    total = 0
    for each in range(number):
        total += each
    time.sleep(0.001)
    return total


def before():
    pass


def after():
    pass


def late():
    pass


def by_function(setter):
    seen = set()

    def note(frame, event, arg):
        if event == "call":
            seen.add(frame.f_code.co_name)
        return note

    return lambda: setter(note), lambda: setter(None), lambda: seen


def by_profile():
    profile = cProfile.Profile()
    return profile.enable, profile.disable, lambda: {name for _, _, name in pstats.Stats(profile).stats}


TOOLS = {
    "settrace": lambda: by_function(sys.settrace),
    "setprofile": lambda: by_function(sys.setprofile),
    "cProfile": by_profile,
}


def green():
    parks()
    return counts(3)


class TestTracing:
    """Such functions belong to the thread: they see all of its greens and coroutines, wherever they are set."""

    @pytest.mark.parametrize("where", ["green", "native"])
    @pytest.mark.parametrize("kind", ["settrace", "setprofile", "cProfile"])
    def test_sees_the_whole_thread(self, arun, kind, where):
        start, stop, names = TOOLS[kind]()
        go = threading.Event()

        def own():
            if where == "green":
                start()
            before()
            go.wait()
            after()
            if where == "green":
                stop()

        async def main():
            other = spawn(go.wait)
            await until_parked()
            if where == "native":
                start()
            task = spawn(own)
            await until_parked(2)
            await spawn(late)
            go.set()
            await asyncio.gather(other, task)
            if where == "native":
                stop()

        arun(main)
        assert {"before", "after", "late"} <= names()

    def test_lines_and_returns(self, arun):
        seen = []

        def trace(frame, event, arg):
            if frame.f_code is counts.__code__:
                seen.append(event)
            return trace

        def traced():
            sys.settrace(trace)
            try:
                return green()
            finally:
                sys.settrace(None)

        async def main():
            await asyncio.gather(spawn(traced), spawn(parks))
            assert sys.gettrace() is None

        before_all = sys.gettrace()
        try:
            arun(main)
        finally:
            sys.settrace(before_all)
        assert seen[:2] == ["call", "line"]
        assert seen[-1] == "return"

    @pytest.mark.skipif(sys.version_info < (3, 12), reason="new in 3.12")
    def test_monitoring_sees_every_green(self, arun):
        seen = []
        monitoring = sys.monitoring
        tool = monitoring.PROFILER_ID
        monitoring.use_tool_id(tool, "tests")
        try:
            monitoring.register_callback(
                tool, monitoring.events.PY_START, lambda code, offset: seen.append(code.co_name)
            )
            monitoring.set_local_events(tool, parks.__code__, monitoring.events.PY_START)
            monitoring.set_local_events(tool, counts.__code__, monitoring.events.PY_START)

            async def main():
                await asyncio.gather(*(spawn(green) for _ in range(3)))

            arun(main)
        finally:
            monitoring.free_tool_id(tool)
        assert sorted(seen) == ["counts"] * 3 + ["parks"] * 3


def test_faulthandler_shows_what_has_the_thread(arun, tmp_path):
    async def main():
        task = spawn(time.sleep, 50)
        await until_parked()
        with open(tmp_path / "dump", "w") as file:
            await to_greenlet(dump, file)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    def dump(file):
        faulthandler.dump_traceback(file)

    arun(main)
    text = (tmp_path / "dump").read_text()
    assert 'test_tools.py", line' in text
    assert " in dump\n" in text
    assert "run_until_complete" not in text, "of a green alone"


def program(tmp_path, source):
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(source))
    return path


DEBUGGED = """
    import time
    import greenio
    from greenio import monkey
    monkey.patch_all()
    ticks = []

    def ticking():
        while True:
            time.sleep(0.001)
            ticks.append(1)

    def target():
        value = 41
        time.sleep(0.01)
        {stop}
        value += 1
        time.sleep(0.01)
        return value

    def main():
        greenio.spawn(ticking)
        time.sleep(0.02)
        print("result", target(), len(ticks) > 0)

    greenio.run(main)
"""


@pytest.mark.parametrize("stop", ["breakpoint()", "import pdb; pdb.set_trace()"])
def test_pdb(tmp_path, stop):
    path = program(tmp_path, DEBUGGED.format(stop=stop))
    commands = "where\np value\nnext\nnext\np value\nstep\ncontinue\n"
    done = subprocess.run([sys.executable, path], input=commands, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    assert "(Pdb) 41" in done.stdout
    assert "(Pdb) 42" in done.stdout
    assert "target()" in done.stdout
    assert "result 42 True" in done.stdout


def test_pdb_post_mortem(tmp_path):
    source = """
        import greenio, pdb, sys

        def fails():
            local = "a local of the green"
            raise ValueError(local)

        try:
            greenio.run(fails)
        except ValueError:
            pdb.post_mortem(sys.exc_info()[2])
    """
    path = program(tmp_path, source)
    done = subprocess.run([sys.executable, path], input="p local\nq\n", capture_output=True, text=True, timeout=50)
    assert "'a local of the green'" in done.stdout


COVERED = """
    import asyncio
    import time
    import greenio
    from greenio import monkey
    monkey.patch_all()

    def one():
        time.sleep(0.001)
        a = 1
        time.sleep(0.001)
        return a

    async def native():
        b = 2
        await asyncio.sleep(0.01)
        return b

    async def main():
        await asyncio.gather(*(greenio.to_greenlet(one) for _ in range(3)), native())

    if __name__ == "__main__":
        asyncio.run(main())
"""


@pytest.mark.parametrize("concurrency", ["greenlet", "thread,greenlet"])
def test_coverage(tmp_path, concurrency):
    path = program(tmp_path, COVERED)
    data = tmp_path / ".coverage"
    run = [sys.executable, "-m", "coverage", "run", f"--data-file={data}", f"--concurrency={concurrency}", path.name]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    report = [sys.executable, "-m", "coverage", "json", f"--data-file={data}", "-o", "-", "-q"]
    done = subprocess.run(report, cwd=tmp_path, capture_output=True, text=True, timeout=50)
    found = json.loads(done.stdout)["files"]["program.py"]
    assert found["missing_lines"] == []


def test_py_spy(arun, tmp_path):
    """It sees what has the thread: the green if one has, otherwise the loop. Parked greens it does not see."""
    spy = BIN / "py-spy"
    if not spy.exists():
        pytest.skip("py-spy is not installed")
    source = """
        import time, sys
        import greenio
        from greenio import monkey
        monkey.patch_all()

        def parked():
            time.sleep(50)

        def busy():
            print("ready", flush=True)
            while True:
                pass

        def main():
            greenio.spawn(parked)
            time.sleep(0.01)
            busy()

        greenio.run(main)
    """
    with subprocess.Popen([sys.executable, program(tmp_path, source)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            done = subprocess.run([spy, "dump", "--pid", str(process.pid)], capture_output=True, text=True, timeout=50)
        finally:
            process.kill()
    if done.returncode:
        pytest.skip(f"py-spy may not trace here: {done.stderr}")
    assert "busy (" in done.stdout
    assert "main (" in done.stdout
    assert "parked (" not in done.stdout


def test_current_frames_shows_what_has_the_thread(arun):
    """What py-spy and samplers in Python go by."""
    seen = []

    def look(thread_id):
        frame = sys._current_frames()[thread_id]
        while frame is not None:
            seen.append(frame.f_code.co_name)
            frame = frame.f_back

    def busy(looked):
        while not looked():
            pass

    async def main():
        thread = threading.Thread(target=look, args=(threading.get_ident(),))
        thread.start()
        await to_greenlet(busy, lambda: not thread.is_alive())
        await until(lambda: seen)

    arun(main)
    assert seen
