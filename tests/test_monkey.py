"""Patching itself: all or nothing, undone exactly, early references, the report; scenarios in fresh interpreters."""

import asyncio
import copy
import dataclasses
import functools
import inspect
import io
import json
import os
import pickle
import pydoc
import select
import selectors
import socket
import ssl
import subprocess
import sys
import threading
import time
import types
import unittest.mock
from pathlib import Path
from socket import getaddrinfo as early_getaddrinfo
from time import sleep as early_sleep
from typing import ClassVar

import pytest

from greenio import monkey, spawn, to_greenlet, wait_readable
from greenio._patches import _patching
from greenio._patches._table import Group, Patch
from waiting import parked, until, until_parked

SCENARIOS = sorted((Path(__file__).parent / "scenarios").glob("*.py"))
PATCHES = [patch for group in _patching.GROUPS.values() for patch in group.loaded()]
BY_DEFAULT = [name for name in _patching.GROUPS if name in _patching.BY_DEFAULT]
FUNCTIONS = {patch.target: patch for patch in PATCHES if callable(patch.green) and not isinstance(patch.green, type)}
BUILT_IN = [name for name, patch in FUNCTIONS.items() if isinstance(patch.green, types.BuiltinFunctionType)]
HELD = types.SimpleNamespace(sleep=time.sleep, getaddrinfo=socket.getaddrinfo)  # an instance, which nobody rebinds
KEPT_ELSEWHERE = {"greenio", "hypothesis", "sys", "tests", "test_monkey", "_pytest", "pytest"}


def native(name):
    return getattr(HELD, name)


class Client:
    pause = time.sleep
    nap = staticmethod(time.sleep)
    look_up = socket.getaddrinfo


def default(pause=time.sleep, *, nap=time.sleep):
    return pause, nap


def make_closure(pause):
    def closure():
        return pause

    return closure


closure = make_closure(time.sleep)
partial = functools.partial(time.sleep, 0)
container = {"pause": [time.sleep]}
default.pause = time.sleep


@pytest.fixture(autouse=True)
def unpatched():
    yield
    monkey.unpatch_all()


def identity(value):
    """Tell which object it is; of a bound method, which is made anew, what it is made of."""
    if type(value) is types.MethodType:
        return id(value.__func__), id(value.__self__)
    return (value.__name__, id(value.__self__)) if type(value) is types.BuiltinMethodType else id(value)


def snapshot():
    """Tell the identity of all that modules and patched classes hold."""
    found = {
        (name, key): identity(value)
        for name, module in tuple(sys.modules.items())
        if isinstance(module, types.ModuleType) and name.partition(".")[0] not in KEPT_ELSEWHERE
        for key, value in tuple(vars(module).items())
    }
    for owner in {patch.owner for patch in PATCHES if isinstance(patch.owner, type)} | {Client}:
        found.update(((owner, key), identity(value)) for key, value in tuple(vars(owner).items()))
    return found


def in_thread(fn):
    failures = []

    def run():
        try:
            fn()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert not failures, failures


@pytest.mark.parametrize("script", SCENARIOS, ids=lambda path: path.stem)
def test_scenario(script):
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", str(script)], capture_output=True, text=True, timeout=55
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "ok\n"


@pytest.mark.parametrize("options", [{"stderr": subprocess.PIPE}, {"timeout": 20}])
def test_subprocess_alone_is_enough_for_pipes(arun, options):
    async def main():
        task = spawn(lambda: subprocess.run(["sh", "-c", "sleep 0.2; echo end"], stdout=subprocess.PIPE, **options))
        await until(lambda: parked() or task.done())
        assert not task.done()
        assert (await task).stdout == b"end\n"

    with monkey.patched("subprocess"):
        assert monkey.is_patched("selectors")
        arun(main)


class TestAllOrNothing:
    def test_everything_comes_back(self):
        before = snapshot()
        monkey.patch_all()
        assert snapshot() != before
        monkey.unpatch_all()
        assert snapshot() == before

    @pytest.mark.parametrize("group", _patching.GROUPS)
    def test_one_group(self, group):
        before = snapshot()
        getattr(monkey, f"patch_{group}")()
        needs = {"threading": {"local"}}.get(group, {*_patching.GROUPS[group].needs})  # patch_threading() has options
        assert set(monkey.report().patched) == {group, *needs}
        assert monkey.is_patched(group)
        changed = {key for key, value in snapshot().items() if before.get(key) != value}
        assert all(_patching.GROUPS[group].loaded()) == bool(changed)
        monkey.unpatch_all()
        assert snapshot() == before

    def test_twice_is_once(self):
        before = snapshot()
        monkey.patch_all()
        once = snapshot()
        report = monkey.report()
        monkey.patch_all()
        monkey.patch_socket()
        assert snapshot() == once
        assert monkey.report() == report
        monkey.unpatch_all()
        assert snapshot() == before
        monkey.unpatch_all()
        assert snapshot() == before

    @pytest.mark.parametrize("broken", BY_DEFAULT)
    def test_group_that_fails_in_the_middle(self, broken, monkeypatch):
        group = _patching.GROUPS[broken]
        half = len(group.patches) // 2
        undone = []
        patches = (*group.patches[:half], Patch(int, "bit_length", print), *group.patches[half:])
        failing = dataclasses.replace(group, patches=patches, undo=lambda: undone.append(broken))
        monkeypatch.setitem(_patching.GROUPS, broken, failing)
        before = snapshot()
        with pytest.raises(TypeError, match="immutable type|built-in/extension type"):
            monkey.patch_all(files=True)
        assert snapshot() == before
        assert undone == [broken]
        assert not monkey.report().patched

    def test_what_was_patched_before_a_failure_stays(self, monkeypatch):
        monkeypatch.setitem(_patching.GROUPS, "dns", Group("dns", (Patch(int, "bit_length", print),)))
        monkey.patch_time()
        before = snapshot()
        with pytest.raises(TypeError):
            monkey.patch_all()
        assert snapshot() == before
        assert list(monkey.report().patched) == ["time"]

    def test_failure_while_rebinding(self, monkeypatch):
        exchange = _patching.exchange

        def failing(*args):
            for done in exchange(*args):
                yield done
                raise KeyboardInterrupt

        before = snapshot()
        monkeypatch.setattr(_patching, "exchange", failing)
        with pytest.raises(KeyboardInterrupt):
            monkey.patch_all()
        monkeypatch.undo()
        assert snapshot() == before

    def test_undo_that_fails_does_not_keep_the_rest(self, monkeypatch):
        def fail():
            raise ZeroDivisionError

        before = snapshot()
        monkeypatch.setitem(_patching.GROUPS, "select", dataclasses.replace(_patching.GROUPS["select"], undo=fail))
        monkey.patch_all()
        with pytest.raises(ZeroDivisionError):
            monkey.unpatch_all()
        assert snapshot() == before
        assert not monkey.report().patched

    def test_group_that_is_missing(self, monkeypatch):
        group = dataclasses.replace(_patching.GROUPS["select"], missing="there is no select here")
        monkeypatch.setitem(_patching.GROUPS, "select", group)
        before = snapshot()
        for call in (monkey.patch_all, monkey.patch_select, monkey.patched("select").__enter__):
            with pytest.raises(RuntimeError, match="there is no select here.*select=False.*dns, fcntl, .*time"):
                call()
        assert snapshot() == before
        monkey.patch_all(select=False)
        assert not monkey.is_patched("select")
        assert monkey.is_patched("selectors")

    @pytest.mark.parametrize(
        "call",
        [
            lambda: monkey.patch_all(queue=True),
            lambda: monkey.patch_all(queue=False),
            lambda: monkey.patched("queue").__enter__(),
            lambda: monkey.patched(queue=False).__enter__(),
        ],
    )
    def test_group_that_is_unknown(self, call):
        with pytest.raises(ValueError, match="'queue'; the groups are dns, fcntl, files, green_threads, .* time"):
            call()
        assert not monkey.report().patched

    def test_what_others_set_since_is_left(self):
        monkey.patch_all()
        with unittest.mock.patch("time.sleep") as mocked:
            monkey.unpatch_all()
            assert time.sleep is mocked
        assert not monkey.is_patched("time")
        time.sleep = native("sleep")


class TestBlocks:
    def test_names_and_keywords(self):
        for block, groups in (
            (monkey.patched(), set(BY_DEFAULT)),
            (monkey.patched("time"), {"time"}),
            (monkey.patched("time", dns=True), {"time", "dns"}),
            (monkey.patched(ssl=False), set(BY_DEFAULT) - {"ssl"}),
            (monkey.patched("green_threads"), {"threading", "green_threads"}),
            (monkey.patched(files=True, green_threads=True), set(_patching.GROUPS)),
        ):
            with block:
                assert set(monkey.report().patched) == groups
            assert not monkey.report().patched

    def test_nested(self):
        before = snapshot()
        with monkey.patched("time"):
            with monkey.patched():
                with monkey.patched("time", "dns"):
                    assert monkey.is_patched("socket")
                assert monkey.is_patched("dns")
            assert list(monkey.report().patched) == ["time"]
        assert snapshot() == before

    def test_comes_back_after_an_exception(self):
        before = snapshot()
        with pytest.raises(ZeroDivisionError), monkey.patched():
            raise ZeroDivisionError
        assert snapshot() == before

    def test_patched_before_stays(self):
        monkey.patch_time()
        with monkey.patched():
            pass
        assert list(monkey.report().patched) == ["time"]

    def test_asked_for_meanwhile_stays(self):
        with monkey.patched():
            monkey.patch_time()
        assert list(monkey.report().patched) == ["time"]

    def test_unpatched_meanwhile(self):
        with monkey.patched():
            monkey.unpatch_all()
            assert not monkey.report().patched
            monkey.patch_dns()
        assert list(monkey.report().patched) == ["dns"]

    def test_overlapping(self):
        first, second = monkey.patched("time", "dns"), monkey.patched("time")
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert list(monkey.report().patched) == ["time"]
        second.__exit__(None, None, None)
        assert not monkey.report().patched

    def test_threads_at_once(self):
        before = snapshot()
        start = threading.Barrier(4)
        failures = []

        def work(block):
            start.wait()
            try:
                for _ in range(10):
                    with block():
                        assert monkey.is_patched("time.sleep")
                        assert time.sleep is not native("sleep")
            except BaseException as error:
                failures.append(error)

        blocks = [monkey.patched, functools.partial(monkey.patched, "time"), monkey.patched, monkey.patched]
        threads = [threading.Thread(target=work, args=(block,)) for block in blocks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        assert snapshot() == before


@pytest.mark.parametrize("name", FUNCTIONS)
class TestLooksNative:
    def test_names(self, name):
        patch = FUNCTIONS[name]
        assert patch.green.__name__ == getattr(patch.owner, patch.name).__name__
        assert patch.green.__doc__ == getattr(patch.owner, patch.name).__doc__
        with monkey.patched(files=True):
            found = functools.reduce(getattr, patch.green.__qualname__.split("."), sys.modules[patch.green.__module__])
            assert found is patch.green

    def test_signature(self, name):
        def signature(value):
            try:
                return inspect.signature(value)
            except ValueError:
                return None

        patch = FUNCTIONS[name]
        assert signature(patch.green) == signature(getattr(patch.owner, patch.name))

    def test_pickle(self, name):
        patch = FUNCTIONS[name]
        with monkey.patched(files=True):
            value = getattr(patch.owner, patch.name)
            assert value is patch.green
            for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
                text = pickle.dumps(value, protocol)
                assert pickle.loads(text) is value
                assert pickle._loads(pickle._dumps(value, protocol)) is value
            assert copy.deepcopy(value) is copy.copy(value) is value
        assert pickle.loads(text) is getattr(patch.owner, patch.name)


@pytest.mark.parametrize("name", BUILT_IN)
def test_stands_in_for_a_built_in_function(name):
    patch = FUNCTIONS[name]
    before = getattr(patch.owner, patch.name)

    def traits(value):
        @functools.wraps(value)
        def wrapper():
            pass

        del wrapper.__wrapped__
        return (
            repr(value),
            value.__self__,
            value.__text_signature__,
            isinstance(value, types.BuiltinFunctionType),
            inspect.isbuiltin(value),
            inspect.isroutine(value),
            hasattr(value, "__dict__"),
            hasattr(value, "__get__"),
            vars(wrapper),
            pydoc.plaintext.document(value),
        )

    assert traits(patch.green) == traits(before)
    assert inspect.unwrap(patch.green) is before
    with pytest.raises(AttributeError):
        patch.green.mark = 1


def test_built_in_functions_do_not_bind():
    with monkey.patched():

        class Late:
            pause = time.sleep

        assert Late().pause is Late.pause is time.sleep
        assert Late().pause(0) is None
        assert Client().pause is Client.nap is time.sleep
        assert Client().nap(0) is None


def test_classes_stay():
    made = {
        cls: cls.__mro__
        for module in (socket, ssl, selectors)
        for cls in vars(module).values()
        if isinstance(cls, type) and cls.__module__ in ("socket", "ssl", "selectors", "_socket")
    }

    class Early(socket.socket):
        pass

    with monkey.patched():

        class Late(socket.socket):
            pass

        for cls, mro in made.items():
            assert cls.__mro__ == mro
        assert isinstance(selectors.DefaultSelector, type)
        for cls in (socket.socket, Early, Late):
            with cls() as sock:
                assert isinstance(sock, socket.SocketType)
                assert isinstance(sock, socket.socket)
                assert cls.recv is socket.socket.recv
                assert repr(sock).startswith(f"<{cls.__module__}.{cls.__qualname__} fd=")
    for module in (socket, ssl, selectors):
        assert all(getattr(module, cls.__name__, cls) is cls for cls in made if cls.__module__ == module.__name__)


class TestEarlyReferences:
    def test_names_and_class_attributes(self):
        with monkey.patched():
            assert early_sleep is time.sleep is not native("sleep")
            assert early_getaddrinfo is socket.getaddrinfo is not native("getaddrinfo")
            assert vars(Client)["pause"] is time.sleep
            assert vars(Client)["look_up"] is socket.getaddrinfo
        assert early_sleep is time.sleep is native("sleep")
        assert vars(Client)["look_up"] is native("getaddrinfo")

    def test_what_has_no_name_keeps_the_native(self):
        with monkey.patched():
            assert default() == (native("sleep"), native("sleep"))
            assert closure() is partial.func is container["pause"][0] is default.pause is native("sleep")

    def test_defining_modules_and_packages_of_the_loop_keep_theirs(self, monkeypatch):
        import _socket
        import concurrent.futures.thread
        import posix

        kept = types.ModuleType("uvloop.imaginary")
        like_it = types.ModuleType("uvloops")
        for module in (kept, like_it, asyncio, concurrent.futures.thread):
            monkeypatch.setitem(sys.modules, module.__name__, module)
            monkeypatch.setattr(module, "early", native("sleep"), raising=False)
        c_names = dict(vars(_socket)), dict(vars(posix))
        with monkey.patched():
            assert (dict(vars(_socket)), dict(vars(posix))) == c_names
            assert asyncio.early is concurrent.futures.thread.early is kept.early is native("sleep")
            assert like_it.early is time.sleep

    def test_modules_imported_later_give_theirs_back(self, monkeypatch):
        late = types.ModuleType("imported_late")
        monkeypatch.setitem(sys.modules, "imported_late", late)
        with monkey.patched():
            exec("from time import sleep\nclass C:\n  s = sleep\n  t = staticmethod(sleep)", vars(late))
            assert late.sleep is time.sleep
        assert late.sleep is late.C.s is late.C.t is late.C().t is native("sleep")

    def test_module_gone_from_sys_modules_is_restored(self, monkeypatch):
        gone = types.ModuleType("soon_gone")
        gone.nap = native("sleep")
        monkeypatch.setitem(sys.modules, "soon_gone", gone)
        with monkey.patched():
            assert gone.nap is time.sleep
            del sys.modules["soon_gone"]
        assert gone.nap is native("sleep")

    def test_name_that_was_set_since_is_left(self, monkeypatch):
        module = types.ModuleType("changes_its_mind")
        module.nap = native("sleep")
        monkeypatch.setitem(sys.modules, "changes_its_mind", module)
        with monkey.patched():
            module.nap = len
        assert module.nap is len

    def test_class_is_not_kept_alive(self):
        import gc
        import weakref

        class Short:
            nap = native("sleep")

        gone = weakref.ref(Short)
        with monkey.patched():
            assert vars(Short)["nap"] is time.sleep
            del Short
            gc.collect()
            assert gone() is None


class TestGreen:
    def test_early_names_park(self, arun):
        async def main():
            turned = []
            asyncio.get_running_loop().call_soon(turned.append, 1)
            await to_greenlet(early_sleep, 0.05)
            assert turned
            asyncio.get_running_loop().call_soon(turned.append, 2)
            await to_greenlet(Client().pause, 0.05)
            assert len(turned) == 2

        with monkey.patched():
            arun(main)

    def test_patched_while_parked(self, arun):
        async def main():
            for patch in (monkey.patch_all, functools.partial(in_thread, monkey.patch_all)):
                got = []

                def work(sock, got=got):
                    wait_readable(sock, 20)
                    while len(got) < 2:
                        got.append(sock.recv(1))

                a, b = socket.socketpair()
                with a, b:
                    task = asyncio.ensure_future(to_greenlet(work, a))
                    await until_parked()
                    patch()
                    b.send(b"x")
                    await until(lambda got=got: got and parked())
                    b.send(b"y")
                    await task
                assert got == [b"x", b"y"]
                monkey.unpatch_all()

        arun(main)

    @pytest.mark.parametrize("seconds", [None, 20.0])
    def test_unpatched_while_parked(self, arun, seconds):
        async def main():
            monkey.patch_all()
            a, b = socket.socketpair()
            a.settimeout(seconds)
            with a, b:
                reads = asyncio.ensure_future(to_greenlet(a.recv, 1))
                sleeps = asyncio.ensure_future(to_greenlet(time.sleep, 0.5))
                await until_parked(2)
                monkey.unpatch_all()
                assert time.sleep is native("sleep")
                assert a.gettimeout() == seconds
                await sleeps
                b.send(b"x")
                assert await reads == b"x"

        arun(main)

    def test_unpatched_while_parked_until_a_timeout(self, arun):
        async def main():
            monkey.patch_all()
            a, b = socket.socketpair()
            a.settimeout(0.3)
            with a, b:
                reads = asyncio.ensure_future(to_greenlet(a.recv, 1))
                await until_parked()
                monkey.unpatch_all()
                start = time.monotonic()
                with pytest.raises(TimeoutError, match="timed out"):
                    await reads
                assert time.monotonic() - start < 0.55

        arun(main)

    def test_unpatched_from_a_greenlet(self, arun):
        async def main():
            with monkey.patched():
                await to_greenlet(monkey.unpatch_all)
                assert not monkey.report().patched

        arun(main)


@pytest.mark.asyncio
async def test_patched_in_a_loop_that_pytest_asyncio_runs():
    with monkey.patched():
        turned = []
        asyncio.get_running_loop().call_soon(turned.append, 1)
        await to_greenlet(time.sleep, 0.001)
        assert turned
        await asyncio.to_thread(time.sleep, 0.001)


class TestLookingUp:
    def test_is_patched(self):
        names = ["socket", "time.sleep", "socket.socket.recv", "socket.getaddrinfo", "select.select", "os.close"]
        assert not any(map(monkey.is_patched, names))
        with monkey.patched():
            assert all(map(monkey.is_patched, names))
        with monkey.patched("time"):
            assert [name for name in names if monkey.is_patched(name)] == ["time.sleep"]

    @pytest.mark.parametrize("name", ["nonsense", "time.time", "socket.socket", ""])
    def test_is_patched_of_what_never_is(self, name):
        with pytest.raises(ValueError, match="the groups are dns, fcntl"):
            monkey.is_patched(name)

    @pytest.mark.parametrize("name", sorted(patch.target for patch in PATCHES))
    def test_original(self, name):
        module, _, rest = name.partition(".")
        before = functools.reduce(getattr, rest.split("."), sys.modules[module])
        assert monkey.original(module, rest) is before
        with monkey.patched():
            assert monkey.original(module, rest) is before

    def test_original_of_what_leads_to_a_patched_object(self):
        with monkey.patched():
            assert monkey.original(__name__, "early_sleep") is native("sleep")
            assert monkey.original("ssl", "SSLSocket.fileno") is socket.socket.fileno
            assert monkey.original("ssl", "SSLSocket.gettimeout") is monkey.original("socket", "socket.gettimeout")
            assert monkey.original("time", "time") is time.time

    def test_original_of_nothing(self):
        with pytest.raises(AttributeError):
            monkey.original("time", "nonsense")
        with pytest.raises(ModuleNotFoundError):
            monkey.original("nonsense", "time")


@pytest.mark.usefixtures("thawed")
class TestReport:
    def test_nothing_is_patched(self):
        report = monkey.report()
        assert report == monkey.Report({}, (), ())
        assert str(report) == "patched: nothing\nrebound early references: 0\nout of reach: 0"

    def test_rebound(self):
        with monkey.patched():
            rebound = monkey.report().rebound
        assert monkey.Reference("time.sleep", __name__, "early_sleep") in rebound
        assert monkey.Reference("socket.getaddrinfo", __name__, "early_getaddrinfo") in rebound
        for name in ("pause", "nap"):
            assert monkey.Reference("time.sleep", __name__, f"Client.{name}", "class attribute") in rebound
        assert list(rebound) == sorted(rebound)

    def test_out_of_reach(self):
        bound = type("Instance", (), {"__module__": __name__})()
        bound.pause = native("sleep")
        with monkey.patched():
            report = monkey.report()
        found = {(item.name, item.kind) for item in report.unreachable if item.module == __name__}
        assert found >= {
            ("default", "default"),
            ("default", "attribute"),
            ("make_closure.<locals>.closure", "closure"),
            ("partial", "container"),
            ("container", "container"),
            ("Instance.pause", "instance"),
        }
        assert not [item for item in report.unreachable if item.module.partition(".")[0] in ("greenio", "asyncio")]

    def test_containers_in_attributes(self):
        """An attribute is named, not the key of what it holds."""

        class Slotted:
            __slots__ = ("__weakref__", "table")

        class Owner:
            table: ClassVar[dict] = {"nap": time.sleep}
            nested: ClassVar[dict] = {"times": {"nap": [time.sleep]}}

        owner, slotted = Owner(), Slotted()
        owner.own = {"nap": time.sleep}
        slotted.table = {"nap": time.sleep}
        spread = Owner()
        vars(spread)["spread"] = {"nap": (time.sleep,)}
        with monkey.patched():
            report = monkey.report()
        prefix = "TestReport.test_containers_in_attributes.<locals>."
        found = {
            (item.name.removeprefix(prefix), item.kind)
            for item in report.unreachable
            if item.module == __name__ and item.name.startswith(prefix)
        }
        assert found == {
            ("Owner.table", "class attribute"),
            ("Owner.nested", "class attribute"),
            ("Owner.own", "instance"),
            ("Owner.spread", "instance"),
            ("Slotted.table", "instance"),
        }
        assert owner.own and slotted.table

    @pytest.mark.skipif(not hasattr(select, "epoll"), reason="there is no epoll here")
    def test_live_objects(self):
        holder = type("Holder", (), {"__module__": __name__})()
        with (
            select.epoll() as early,
            selectors.EpollSelector(),
            asyncio.Runner() if False else select.epoll() as listed,
        ):
            holder.queue = early
            container["queue"] = [listed]
            with monkey.patched(), select.epoll() as late:
                holder.late = late
                found = {(i.name, i.kind) for i in monkey.report().unreachable if i.native == "select.epoll"}
            del container["queue"]
        assert found == {("Holder.queue", "instance"), ("container", "live object")}

    def test_live_files(self):
        """Those of pipes that native code has opened; not regular files, closed ones, or what green code opens."""
        (reader, writer), terminal = os.pipe(), os.openpty()
        holder = type("Holder", (), {"__module__": __name__})()
        holder.text = os.fdopen(reader)
        container["file"] = [os.fdopen(writer, "wb", 0)]
        with open(terminal[0], "rb", 0) as device, open(__file__) as regular, open(os.devnull) as null:
            holder.device, holder.regular, holder.null = device, regular, null
            holder.closed = os.fdopen(os.dup(terminal[1]), "wb", 0)
            holder.closed.close()
            with monkey.patched():
                holder.green = asyncio.run(to_greenlet(open, terminal[1], "rb", 0))
                found = {(i.module, i.name, i.kind) for i in monkey.report().unreachable if i.native == "io.FileIO"}
        for file in (holder.text, holder.green, *container.pop("file")):
            file.close()
        ours = {(name, kind) for module, name, kind in found if module == __name__}
        assert ours == {("Holder.text", "instance"), ("Holder.device", "instance"), ("container", "live object")}

    def test_live_files_of_sockets(self):
        """Those that are older than the patch, or made by native code; not what green code makes, or other streams."""
        one, two = socket.socketpair()
        holder = type("Holder", (), {"__module__": __name__})()
        holder.text, holder.both, holder.words = one.makefile(), one.makefile("rwb"), one.makefile("rw")
        container["file"] = [one.makefile("wb")]
        holder.raw, holder.closed, holder.gone = one.makefile("rb", 0), one.makefile("rwb"), one.makefile("rb")
        holder.closed.close()
        gone = holder.gone.detach()
        memory = io.BytesIO()
        holder.memory = io.BufferedReader(memory)
        if sys.version_info >= (3, 12):  # older ones do not tell what such a pair is of
            holder.pair = io.BufferedRWPair(memory, memory)
        with open(__file__, "rb") as holder.regular:
            with monkey.patched("socket"):
                holder.green = [asyncio.run(to_greenlet(one.makefile, mode)) for mode in ("rb", "wb", "rwb", "rw")]
                found = {(i.native, i.name, i.kind) for i in monkey.report().unreachable if i.module == __name__}
        for file in (holder.text, holder.both, holder.words, holder.raw, gone, *holder.green, *container.pop("file")):
            file.close()
        one.close()
        two.close()
        assert {item for item in found if item[0].startswith("io.")} == {
            ("io.BufferedReader", "Holder.text", "instance"),
            ("io.BufferedRWPair", "Holder.both", "instance"),
            ("io.BufferedRWPair", "Holder.words", "instance"),
            ("io.BufferedWriter", "container", "live object"),
        }

    def test_forms(self):
        with monkey.patched(files=True):
            report = monkey.report()
        assert json.loads(json.dumps(report.as_dict())) == report.as_dict()
        assert list(report.as_dict()["patched"]) == [*BY_DEFAULT, "files"]
        entry = {"native": "time.sleep", "module": __name__, "name": "early_sleep", "kind": "name"}
        assert entry in report.as_dict()["rebound"]
        out = io.StringIO()
        print(report, file=out)
        lines = out.getvalue().splitlines()
        assert f"  {__name__}.early_sleep = time.sleep" in lines
        assert f"  {__name__}.default (default) = time.sleep" in lines
        assert "    socket.socket.recv" in lines
