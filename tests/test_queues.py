"""Queues between greens, loops and threads."""

import _queue
import asyncio
import gc
import queue
import signal
import sys
import threading
import time

import pytest

from conftest import finish, new_loop
from greenio import _core, monkey, spawn, to_greenlet
from greenio._patches import _rows
from greenio._sync import Row
from waiting import turns, until, until_parked

pytestmark = pytest.mark.usefixtures("patched")

KINDS_OF_QUEUE = {
    "Queue": lambda: queue.Queue(),
    "LifoQueue": lambda: queue.LifoQueue(),
    "PriorityQueue": lambda: queue.PriorityQueue(),
    "SimpleQueue": lambda: queue.SimpleQueue(),
}


@pytest.fixture(params=KINDS_OF_QUEUE)
def make(request):
    return KINDS_OF_QUEUE[request.param]


def test_every_item_arrives_once(arun, make):
    """Producers and consumers of both kinds on one queue."""

    async def main():
        shared, got = make(), []

        def produce(start):
            for number in range(start, start + 50):
                shared.put(number)

        def consume():
            while (item := shared.get(timeout=20)) >= 0:
                got.append(item)

        consumers = [spawn(consume) for _ in range(10)]
        consumers += [asyncio.ensure_future(asyncio.to_thread(consume)) for _ in range(2)]
        await asyncio.gather(
            *(to_greenlet(produce, start) for start in range(0, 500, 50)),
            *(asyncio.to_thread(produce, start) for start in range(500, 700, 50)),
        )
        while not shared.empty():
            await asyncio.sleep(0.001)
        for _ in consumers:
            shared.put(-1)
        await asyncio.wait_for(asyncio.gather(*consumers), 20)
        assert sorted(got) == list(range(700))

    arun(main)


def test_greens_are_served_in_order(arun):
    async def main():
        shared = queue.SimpleQueue()
        waiting = [spawn(shared.get) for _ in range(10)]
        await turns()
        for number in range(10):
            shared.put(number)
        assert await asyncio.gather(*waiting) == list(range(10))

    arun(main)


TAKERS = {
    "Semaphore": lambda: taker(threading.Semaphore(0)),
    "BoundedSemaphore": lambda: taker(drained(threading.BoundedSemaphore(1))),
    "with Semaphore": lambda: taker(threading.Semaphore(0), "__enter__"),
    "Queue.get": lambda: getter(queue.Queue()),
    "LifoQueue.get": lambda: getter(queue.LifoQueue()),
    "PriorityQueue.get": lambda: getter(queue.PriorityQueue()),
    "SimpleQueue.get": lambda: getter(queue.SimpleQueue()),
    "Queue.put": lambda: putter(queue.Queue(1)),
    "LifoQueue.put": lambda: putter(queue.LifoQueue(1)),
    "PriorityQueue.put": lambda: putter(queue.PriorityQueue(1)),
}
"""What takes one of a shared thing, and what gives one back: made anew for each test, with nothing to take."""


def taker(semaphore, name="acquire"):
    return getattr(semaphore, name), semaphore.release


def drained(semaphore):
    semaphore.acquire()
    return semaphore


def getter(shared):
    return shared.get, lambda: shared.put(0)


def putter(shared):
    shared.put(0)
    return lambda: shared.put(0), shared.get


@pytest.fixture(params=TAKERS)
def taken(request):
    return TAKERS[request.param]()


def first_in_rows():
    """List the loops of which a green waits, but not for its turn in a row."""
    parked = [green for green in _core.greens() if green.host is not None and green.waiting]
    return {green.host.loop for green in parked if not isinstance(green.what, Row)}


class TestOrder:
    """Greens of a loop are served in the order in which they came, whatever others do meanwhile."""

    def test_one_that_gives_and_takes_without_a_park_goes_past_nobody(self, arun, taken):
        take, give = taken

        async def main():
            served = []

            def hog():
                for _ in range(20):
                    give()
                    take()
                    served.append("hog")

            def want(name):
                take()
                served.append(name)
                give()

            waiting = [spawn(want, number) for number in range(3)]
            await turns()
            await asyncio.wait_for(to_greenlet(hog), 10)
            assert served[:4] == [0, 1, 2, "hog"]
            await asyncio.gather(*waiting)

        arun(main)

    def test_one_that_misses_what_it_was_woken_for_keeps_its_place(self, arun, taken):
        """Native code is not barred by greens that wait, and so may be there first."""
        take, give = taken

        async def main():
            served = []

            def want(name):
                take()
                served.append(name)

            waiting = [spawn(want, number) for number in range(4)]
            await turns()
            for _ in range(3):
                give()
                take()  # at once, in the loop's thread: whoever was woken finds nothing
                await turns()
                assert not served
            for _ in waiting:
                give()
                await turns(5)
            await asyncio.gather(*waiting)
            assert served == [0, 1, 2, 3]

        arun(main)

    def test_turns_of_those_that_are_cancelled_or_out_of_time_are_passed_on(self, arun, taken):
        take, give = taken

        async def main():
            served = []

            def want(name):
                take()
                served.append(name)

            waiting = [spawn(want, number) for number in range(5)]
            await turns()
            for number in (0, 2):
                waiting[number].cancel()
            give()
            waiting[3].cancel()
            await turns(5)
            give()
            await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 10)
            assert served == [1, 4]

        arun(main)

    def test_time_runs_while_others_are_first(self, arun):
        async def main():
            semaphore, full = threading.Semaphore(0), queue.Queue(1)
            full.put(0)
            waiting = [spawn(semaphore.acquire), spawn(queue.Queue.get, empty := queue.Queue()), spawn(full.put, 1)]
            await turns()

            def hurry():
                began = time.monotonic()
                assert semaphore.acquire(timeout=0.02) is False
                with pytest.raises(queue.Empty):
                    empty.get(timeout=0.02)
                with pytest.raises(queue.Full):
                    full.put(2, timeout=0.02)
                assert 0.06 <= time.monotonic() - began < 10

            await to_greenlet(hurry)
            semaphore.release()
            empty.put(0)
            full.get()
            await asyncio.wait_for(asyncio.gather(*waiting), 10)
            assert not (_rows._acquirers or _rows._getters or _rows._putters)

        arun(main)

    def test_greens_of_two_loops(self, arun, taken, loop_kind):
        """Each loop lets only the first of its greens wait for the condition; the order is that of all of them."""
        take, give = taken
        names = ["here 1", "here 2", "there 1", "here 3", "there 2", "there 3", "here 4"]
        served = []
        other = new_loop(loop_kind)
        thread = threading.Thread(target=other.run_forever)

        async def want(name):
            await to_greenlet(take)
            served.append(name)

        async def main():
            loops = {"here": asyncio.get_running_loop(), "there": other}
            waiting = []
            for name in names:
                waiting.append(asyncio.run_coroutine_threadsafe(want(name), loops[name.split()[0]]))
                await until_parked(len(waiting))
            for number in range(len(names)):
                awaited = {loops[name.split()[0]] for name in names[number:]}
                await until(lambda awaited=awaited: first_in_rows() == awaited)
                give()
                await until(lambda number=number: len(served) > number)
            await asyncio.gather(*map(asyncio.wrap_future, waiting))
            assert served == names

        thread.start()
        try:
            arun(main)
        finally:
            other.call_soon_threadsafe(other.stop)
            thread.join(10)
            finish(other)

    def test_a_loop_that_does_not_run_holds_up_none_of_another(self, loop_kind):
        """The first in its row is a green of a loop that stands still."""
        still, shared = new_loop(loop_kind), queue.Queue()

        async def begin():
            waiting = spawn(shared.get)
            await turns()
            return waiting

        first = still.run_until_complete(begin())

        async def main():
            second = spawn(shared.get)
            await turns()
            shared.put(1)
            shared.put(2)  # the first notice goes to the green that cannot hear it
            return await asyncio.wait_for(second, 10)

        loop = new_loop(loop_kind)
        try:
            assert loop.run_until_complete(main()) == 1
            assert still.run_until_complete(asyncio.wait_for(first, 10)) == 2
        finally:
            finish(loop)
            finish(still)


MANY = 10_000


@pytest.mark.parametrize("kind", ["SimpleQueue", "Queue"])
def test_ten_thousand_wait(arun, kind):
    """All for one queue, fed by a thread; each gets one item."""

    async def main():
        shared = KINDS_OF_QUEUE[kind]()
        waiting = [spawn(shared.get) for _ in range(MANY)]
        await until_parked(MANY)
        await asyncio.to_thread(lambda: [shared.put(number) for number in range(MANY)])
        assert sorted(await asyncio.wait_for(asyncio.gather(*waiting), 50)) == list(range(MANY))

    arun(main)


def test_ten_thousand_wait_for_room(arun):
    async def main():
        shared = queue.Queue(1)
        shared.put(-1)
        waiting = [spawn(shared.put, number) for number in range(MANY)]
        await until_parked(MANY)
        got = await asyncio.wait_for(to_greenlet(lambda: [shared.get() for _ in range(MANY + 1)]), 50)
        assert got == list(range(-1, MANY))
        await asyncio.wait_for(asyncio.gather(*waiting), 50)

    arun(main)


@pytest.mark.parametrize("kind", ["SimpleQueue", "Queue"])
def test_ten_thousand_are_cancelled(arun, kind):
    """Every other one, while items come: none is lost with them."""

    async def main():
        shared, got = KINDS_OF_QUEUE[kind](), []
        waiting = [spawn(lambda: got.append(shared.get())) for _ in range(MANY)]
        await until_parked(MANY)
        for number, task in enumerate(waiting):
            if number % 2:
                shared.put(number)
            else:
                task.cancel()
        results = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 50)
        assert sum(isinstance(result, asyncio.CancelledError) for result in results) == MANY // 2
        assert sorted(got) == list(range(1, MANY, 2))
        assert shared.empty()

    arun(main)


def test_timeouts(arun, make):
    async def main():
        shared = make()

        def work():
            for arguments in ((False,), (True, 0), (True, 0.05)):
                began = time.monotonic()
                with pytest.raises(queue.Empty):
                    shared.get(*arguments)
                assert (arguments[1] if len(arguments) > 1 else 0) <= time.monotonic() - began < 10
            with pytest.raises(ValueError, match="non-negative"):
                shared.get(True, -1)
            with pytest.raises(queue.Empty):
                shared.get_nowait()
            shared.put_nowait("item")
            assert (shared.qsize(), shared.empty()) == (1, False)
            assert shared.get(timeout=1) == "item"

        await to_greenlet(work)
        work()

    arun(main)


def test_full_queue(arun):
    async def main():
        shared = queue.Queue(1)

        def fill():
            shared.put(1)
            with pytest.raises(queue.Full):
                shared.put(2, timeout=0.02)
            shared.put(3)
            shared.join()

        filling = spawn(fill)
        await asyncio.sleep(0.05)

        def drain():
            for expected in (1, 3):
                assert shared.get() == expected
                shared.task_done()

        await asyncio.to_thread(drain)
        await asyncio.wait_for(filling, 5)

    arun(main)


@pytest.mark.parametrize("early", [True, False], ids=["cancelled first", "put first"])
def test_cancelled_in_the_turn_of_a_put_loses_no_item(arun, make, early):
    async def main():
        shared, got = make(), []

        def consume():
            got.append(shared.get())

        first, second = spawn(consume), spawn(consume)
        await turns()
        if early:
            first.cancel()
        shared.put("item")
        if not early:
            first.cancel()
        await asyncio.wait({first})
        await asyncio.wait({second}, timeout=0.05)
        assert got == ["item"]
        shared.put("item")
        if not second.done():
            await asyncio.wait_for(second, 5)
        await turns()
        assert len(got) + shared.qsize() == 2

    arun(main)


def test_put_in_a_finalizer_and_in_a_signal_handler(arun):
    async def main():
        shared = queue.SimpleQueue()

        class Puts:
            def __init__(self):
                self.ring = self

            def __del__(self):
                shared.put("finalizer")

        waiting = spawn(shared.get)
        await turns()
        Puts()
        await asyncio.to_thread(gc.collect)
        assert await asyncio.wait_for(waiting, 5) == "finalizer"
        waiting = spawn(shared.get)
        await turns()
        before = signal.signal(signal.SIGALRM, lambda *_: shared.put("handler"))
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            assert await asyncio.wait_for(waiting, 5) == "handler"
        finally:
            signal.signal(signal.SIGALRM, before)

    arun(main)


def test_older_than_the_patch(arun):
    async def main():
        monkey.unpatch_all()
        old = queue.Queue()
        with monkey.patched():
            waiting = spawn(old.get, True, 5)
            await turns()
            old.put("item")
            assert await waiting == "item"

    arun(main)


@pytest.mark.usefixtures("thawed")
def test_early_simple_queue_in_a_container_is_reported():
    monkey.unpatch_all()
    module = sys.modules[__name__]
    module.early = [_queue.SimpleQueue()]  # one with a name is exchanged
    try:
        with monkey.patched():
            found = {item.name for item in monkey.report().unreachable if item.module == __name__}
    finally:
        del module.early
    assert "early" in found


@pytest.mark.skipif(not hasattr(queue, "ShutDown"), reason="queues can be shut down from 3.13 on")
def test_shutdown(arun):
    async def main():
        shared = queue.Queue()
        waiting = [spawn(shared.get) for _ in range(3)]
        await turns()
        await asyncio.to_thread(shared.shutdown)
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(result) for result in results] == [queue.ShutDown] * 3

    arun(main)


def test_pool_of_threads_keeps_its_work_queue(arun):
    async def main():
        seen = await asyncio.gather(*(asyncio.to_thread(threading.get_ident) for _ in range(20)))
        assert threading.get_ident() not in seen

    arun(main)


class TestSubclassesOfSimpleQueue:
    """The native class sets itself up in `__new__`, so that a subclass may leave its `__init__` out."""

    def test_own_arguments(self):
        class Named(queue.SimpleQueue):
            def __init__(self, name, *, size=0):
                self.name, self.size = name, size

        shared = Named("jobs", size=3)
        shared.put(1)
        assert (shared.get(), shared.name, shared.size, shared.qsize()) == (1, "jobs", 3, 0)

    @pytest.mark.parametrize("native", [True, False])
    def test_the_class_itself_takes_none(self, native):
        kind = monkey.original("queue", "SimpleQueue") if native else queue.SimpleQueue
        for arguments in [((1,), {}), ((), {"size": 1})]:
            with pytest.raises(TypeError, match=r"SimpleQueue\(\) takes no .*arguments"):
                kind(*arguments[0], **arguments[1])
