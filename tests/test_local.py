"""`threading.local`: values of greens, of threads and of async code, kept apart; and all that a local can be."""

from __future__ import annotations

import abc
import asyncio
import copy
import gc
import pickle
import threading
import time
import weakref

import pytest

from greenio import await_, monkey, spawn, to_greenlet
from waiting import turns, until_parked

pytestmark = pytest.mark.usefixtures("patched")

native_local = threading.local
in_a_container = [native_local]


class Early(threading.local):
    """A subclass that is older than any patch."""

    shared = 1

    def __init__(self, *args, **kwargs):
        self.made = [args, kwargs]


class Property(threading.local):
    @property
    def double(self):
        return 2 * self.single


early = threading.local()
early_with_arguments = Early(1, two=2)


@pytest.fixture(params=["green", "native"])
def where(request, arun):
    """Run a body in a greenlet, or in a thread: what it sees is the same."""
    if request.param == "native":
        return lambda fn: fn()

    def run(fn):
        async def main():
            await to_greenlet(fn)

        arun(main)

    return run


class TestWhoseValues:
    def test_greens_threads_and_async_code(self, arun):
        async def main():
            local = threading.local()
            local.value = "thread"

            async def look():
                await asyncio.sleep(0)
                return local.value

            def work(number):
                assert not hasattr(local, "value")
                local.value = number
                time.sleep(0.001)
                assert await_(look()) == "thread"
                assert vars(local) == {"value": number}
                return local.value

            assert await asyncio.gather(*(to_greenlet(work, i) for i in range(10))) == list(range(10))
            assert await to_greenlet(look) == "thread"
            assert not await asyncio.to_thread(hasattr, local, "value")
            assert local.value == "thread"

        arun(main)

    def test_a_pooled_greenlet_starts_fresh(self, arun):
        async def main():
            local = threading.local()

            def work():
                assert not hasattr(local, "value")
                local.value = 1

            for _ in range(3):
                await to_greenlet(work)

        arun(main)

    def test_nested_calls_have_their_own(self, arun):
        async def main():
            local = threading.local()

            def outer():
                local.value = "outer"
                assert await_(to_greenlet(hasattr, local, "value")) is False
                assert local.value == "outer"

            await to_greenlet(outer)

        arun(main)

    def test_loops_in_green_code(self, arun):
        async def main():
            local = threading.local()

            async def nested():
                await asyncio.sleep(0.001)
                local.value += 1

            def work():
                local.value = 1
                asyncio.run(nested())
                return local.value

            assert await asyncio.gather(to_greenlet(work), to_greenlet(work)) == [2, 2]
            assert not hasattr(local, "value")

        arun(main)

    def test_older_than_the_patch(self, arun):
        async def main():
            early.value = "thread"

            def work(number):
                assert not hasattr(early, "value")
                early.value = number
                assert early_with_arguments.made == [(1,), {"two": 2}]
                early_with_arguments.made.append(number)
                time.sleep(0.001)
                assert early_with_arguments.made[2:] == [number]
                return early.value

            assert await asyncio.gather(*(to_greenlet(work, i) for i in range(3))) == [0, 1, 2]
            assert early.value == "thread"
            assert early_with_arguments.made == [(1,), {"two": 2}]
            monkey.unpatch_all()
            assert early.value == "thread"
            assert type(early) is native_local is threading.local
            assert "__getattribute__" not in vars(Early)

        arun(main)

    def test_registry_of_sessions(self, arun):
        """What SQLAlchemy's scoped_session does."""

        class Registry:
            def __init__(self, make):
                self.make, self.registry = make, threading.local()

            def __call__(self):
                try:
                    return self.registry.value
                except AttributeError:
                    value = self.registry.value = self.make()
                    return value

        async def main():
            sessions = Registry(object)

            def work():
                mine = sessions()
                time.sleep(0.001)
                assert sessions() is mine
                return mine

            found = await asyncio.gather(*(to_greenlet(work) for _ in range(10)))
            assert len({id(session) for session in found}) == 10

        arun(main)

    def test_sqlalchemys_registry(self, arun):
        from sqlalchemy.orm import Session, scoped_session, sessionmaker

        async def main():
            sessions = scoped_session(sessionmaker())

            def work():
                mine = sessions()
                assert isinstance(mine, Session)
                time.sleep(0.001)
                assert sessions() is mine
                sessions.remove()
                return mine

            found = await asyncio.gather(*(to_greenlet(work) for _ in range(5)))
            assert len(set(map(id, found))) == 5

        arun(main)


class TestWhatALocalIs:
    def test_plain(self, where):
        def body():
            local = threading.local()
            local.one = 1
            assert (local.one, vars(local), local.__dict__) == (1, {"one": 1}, {"one": 1})
            assert "one" in dir(local)
            local.__dict__["two"] = 2
            assert local.two == 2
            del local.one
            for use in (lambda: local.one, lambda: delattr(local, "one")):
                with pytest.raises(AttributeError, match="one"):
                    use()
            for use in (lambda: setattr(local, "__dict__", {}), lambda: delattr(local, "__dict__")):
                with pytest.raises(AttributeError, match="read-only"):
                    use()
            for use in (copy.copy, copy.deepcopy, pickle.dumps):
                with pytest.raises(TypeError, match="cannot pickle"):
                    use(local)
            with pytest.raises(TypeError, match="nitialization arguments are not supported"):
                threading.local(1)
            assert type(local).__name__ == "_local"
            assert repr(local).startswith("<_thread._local object at 0x")
            assert isinstance(local, threading.local)
            assert isinstance(local, native_local)

        where(body)

    def test_shadowed_class_attributes(self, where):
        class Sub(threading.local):
            attribute = "class"

            def method(self):
                return self.attribute

        def body():
            sub = Sub()
            assert sub.method() == "class"
            sub.attribute = "instance"
            assert sub.method() == "instance"
            sub.method = lambda: "mine"
            assert sub.method() == "mine"
            del sub.attribute, sub.method
            assert sub.method() == "class"

        where(body)

    @pytest.mark.parametrize("kind", ["late", "early"])
    def test_data_descriptors(self, where, kind):
        class Late(threading.local):
            @property
            def double(self):
                return 2 * self.single

        def body():
            sub = Late() if kind == "late" else Property()
            sub.single = 4
            assert sub.double == 8
            with pytest.raises(AttributeError):
                sub.double = 1
            with pytest.raises(AttributeError):
                del sub.double
            sub.__dict__["double"] = "hidden"
            assert sub.double == 8

        where(body)

    def test_slots_are_shared(self, arun):
        class Slotted(threading.local):
            __slots__ = ("shared",)

        async def main():
            slotted = Slotted()
            slotted.shared = 1

            def work():
                slotted.shared += 1
                slotted.own = 1
                return slotted.shared

            assert await to_greenlet(work) == 2
            assert await asyncio.to_thread(lambda: slotted.shared) == 2
            assert not hasattr(slotted, "own")

        arun(main)

    def test_getattr_hook(self, where):
        class Hooked(threading.local):
            def __getattr__(self, name):
                return name.upper()

        def body():
            hooked = Hooked()
            assert hooked.missing == "MISSING"
            hooked.missing = 1
            assert hooked.missing == 1

        where(body)

    def test_with_a_metaclass(self):
        class Meta(type):
            pass

        class WithMeta(threading.local, metaclass=Meta):
            pass

        class Abstract(threading.local, abc.ABC):
            pass

        for cls in (WithMeta, Abstract):
            made = cls()
            made.value = 1
            assert made.value == 1

    def test_init_runs_once_for_each(self, arun):
        calls = []

        class Counted(threading.local):
            def __init__(self, *args, **kwargs):
                calls.append((args, kwargs))
                self.value = len(calls)

        async def main():
            counted = Counted(1, two=2)

            def work():
                first = counted.value
                time.sleep(0.001)
                assert counted.value == first
                return first

            found = await asyncio.gather(*(to_greenlet(work) for _ in range(3)), asyncio.to_thread(work))
            assert sorted(found) == [2, 3, 4, 5]
            assert counted.value == 1
            assert calls == [((1,), {"two": 2})] * 5

        arun(main)
        calls.clear()

    @pytest.mark.parametrize("kind", ["late", "early"])
    def test_made_in_a_greenlet(self, arun, kind):
        calls = []

        class Late(threading.local):
            def __init__(self, value):
                calls.append(value)
                self.value = value

        class Early(in_a_container[0]):
            __init__ = Late.__init__

        if kind == "early":
            monkey.unpatch_all()
            monkey.patch_all()
        cls = {"late": Late, "early": Early}[kind]

        async def main():
            def work():
                made = cls(7)
                assert made.value == 7
                return made

            made = await to_greenlet(work)
            assert calls == [7]
            assert made.value == 7  # the thread's own, made now
            assert calls == [7, 7]
            assert await asyncio.to_thread(lambda: made.value) == 7
            with pytest.raises(TypeError, match="not supported"):
                await to_greenlet(threading.local, 1)

        arun(main)
        monkey.unpatch_all()
        assert cls(8).value == 8

    def test_made_by_a_new_of_its_own(self, arun):
        """What is older than the patch and makes its instances itself stays as it is."""
        made = []

        class Early(in_a_container[0]):
            def __new__(cls, value):
                made.append(value)
                return super().__new__(cls)

        monkey.unpatch_all()
        monkey.patch_all()

        async def main():
            def work():
                early = Early(7)
                early.value = 1
                return early

            early = await to_greenlet(work)
            assert not hasattr(early, "value")

        arun(main)
        assert made == [7]

    @pytest.mark.parametrize("kind", ["late", "early"])
    def test_init_that_fails_runs_again(self, arun, kind):
        failures = [ZeroDivisionError]

        def init(self):
            if threading.current_thread() is not threading.main_thread() and failures:
                raise failures.pop()
            self.value = 1

        async def main():
            cls = type("Sub", (threading.local,), {"__init__": init})
            sub = cls()

            def work():
                with pytest.raises(ZeroDivisionError):
                    _ = sub.value
                return sub.value

            assert await to_greenlet(work) == 1

        arun(main)


class Value:
    pass


class TestLifetime:
    def test_values_end_with_the_call(self, arun):
        async def main():
            local, log = threading.local(), []

            class Closed:
                def __del__(self):
                    time.sleep(0)
                    log.append(threading.get_ident())

            def work(pause):
                local.value = Closed()
                if pause:
                    time.sleep(0.001)
                return threading.get_ident()

            for pause in (False, True):
                ident = await to_greenlet(work, pause)
                assert log == [ident]  # by who used it
                log.clear()

            def fail():
                local.value = Closed()
                raise ZeroDivisionError

            with pytest.raises(ZeroDivisionError):
                await to_greenlet(fail)
            assert len(log) == 1

        arun(main)

    def test_values_end_with_a_cancelled_call(self, arun):
        async def main():
            local, value = threading.local(), Value()
            gone = weakref.ref(value)

            def work(value):
                local.value = value
                time.sleep(100)

            task = spawn(work, value)
            del value
            await until_parked()
            task.cancel()
            await asyncio.wait({task})
            del task
            gc.collect()
            assert gone() is None

        arun(main)

    def test_values_end_with_the_local(self, arun):
        async def main():
            def work():
                local, value = threading.local(), Value()
                local.value, local.ring = value, local
                gone, values = weakref.ref(local), weakref.ref(value)
                del local, value
                gc.collect()
                assert gone() is None
                assert values() is None

            await to_greenlet(work)

        arun(main)

    def test_the_local_does_not_keep_the_call(self, arun):
        async def main():
            local = threading.local()

            def work():
                local.value = 1
                return weakref.ref(threading.current_thread())

            gone = await to_greenlet(work)
            gc.collect()
            assert gone() is None

        arun(main)

    def test_many_locals_in_a_long_call(self, arun):
        async def main():
            def work():
                for _ in range(1000):
                    threading.local().value = 1
                threading.local().last = 1
                from greenio._core import current_green

                return len(current_green().identity._locals)

            assert await to_greenlet(work) == 0

        arun(main)

    def test_finalizer_that_sets_values_again(self, arun):
        async def main():
            local, log = threading.local(), []

            class Stubborn:
                def __del__(self):
                    log.append(1)
                    local.value = Stubborn()

            await asyncio.wait_for(to_greenlet(lambda: setattr(local, "value", Stubborn())), 10)
            assert 1 <= len(log) < 100
            monkey.unpatch_all()
            Stubborn.__del__ = lambda self: None

        arun(main)


def test_left_alone():
    monkey.unpatch_all()
    monkey.patch_threading(local=False)
    assert threading.local is native_local is in_a_container[0]
    assert not monkey.is_patched("local")
    assert threading.current_thread is not monkey.original("threading", "current_thread")
    monkey.patch_threading()
    assert monkey.is_patched("local")
    monkey.unpatch_all()


def test_unpatched_while_in_use(arun):
    async def main():
        local = threading.local()

        def work():
            local.value = 1
            time.sleep(0.02)
            return local.value

        running = spawn(work)
        await turns()
        monkey.unpatch_all()
        assert not hasattr(local, "value")
        assert await running == 1

    arun(main)


@pytest.mark.parametrize("ends", ["patched", "unpatched"])
def test_values_in_an_early_one_outlast_a_patch(arun, ends):
    """They are dropped at the end of the call, as ever: then too if the local has its own place by that time."""

    class Value:
        pass

    async def main():
        gate, kept = asyncio.Event(), []

        def work():
            early.mine = Value()
            kept.append(weakref.ref(early.mine))
            await_(gate.wait())
            assert ends == "unpatched" or early.mine is kept[0]()

        running = spawn(work)
        await until_parked()
        monkey.unpatch_all()
        gc.collect()
        assert type(early) is native_local
        assert not hasattr(early, "mine")
        if ends == "patched":
            monkey.patch_all()
            gc.collect()
        assert kept[0]() is not None
        gate.set()
        await asyncio.wait_for(running, 20)
        gc.collect()
        assert kept[0]() is None
        assert not hasattr(early, "mine")

    arun(main)
    monkey.unpatch_all()


@pytest.mark.usefixtures("thawed")
def test_report_of_what_is_out_of_reach():
    hidden = [native_local()]
    with monkey.patched():
        found = {str(item) for item in monkey.report().unreachable if item.native == "threading.local"}
    assert hidden
    assert f"{__name__}.in_a_container (container)" in found
