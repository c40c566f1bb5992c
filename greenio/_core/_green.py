"""Green greenlets: how one parks, and how it is resumed.

Theory of operation
===================
A `Green` is a greenlet that runs one call after another, each on behalf of one host task. While a call runs, its green
is in one of three states:

* *running*: its code, or code that it switched into, has the thread. `waiting` is False.
* *parked*: it gave the thread back in `park` and nothing has claimed it yet. `waiting` is True.
* *claimed*: a waker set `waiting` to False and will resume it, at once or by a callback it scheduled.

**A wake-up is a hint.** A finalizer or a signal handler runs wherever green code does, in the very midst of a park too,
and may park itself: it then gets the wake-up that was meant for the outer one. So whoever is about to tell a waker of
its green notes `parks` before, how often the green has parked; if that has changed when the green is about to switch
out, something has parked since, and the park ends at once. `waiting` is set before that last look, and nothing that
could run other code comes after it, but for signal handlers on CPython 3.10 and for trace functions. If one of those
parks, who gets the thread finds a green that has parked and is not waiting, and has it woken. So all who park look for
what they wait for when they wake, and park again if it is not there.

**The first waker wins.** Readiness, a timer, a lock, a cancellation: whoever turns `waiting` from True to False owns
the one and only resume of that park. Everybody else must see False and go on to the next waiter. All claims happen in
the thread of the host loop, so that no lock is needed; wakers elsewhere come through `call_soon_threadsafe`. A
cancellation that comes second is kept in `cancellation` and raised by the next park, or by the end of the call.

**What the thread shows.** The running loop and the async-generator hooks belong to the thread, so they are exchanged at
every switch. The outer side (a task that starts a call, a loop callback that resumes one) shows the host's; green code
shows none. Only while `await_` drives a coroutine does green code show the host's too, and `visible` is True: then a
switch exchanges nothing but the current task. Green code with a loop of its own (a nested `asyncio.run`) takes that
loop's marks off around each park. Whoever runs a loop has set the hooks, so the hooks tell, at half the price of asking
for the running loop (a `getpid` system call each time).

**Relayed parks.** As long as a call has awaited only, and waited for nothing else, its host task is stepped at every
wake-up: the green hands what it awaits to the task (RELAYED), and the task itself suspends on it and steps the green,
as it would a coroutine. That takes fewer turns of the loop than a callback of greenio's own, and every cancellation
goes the native way. With its first PARKED the call leaves this mode for good, since from then on the task awaits the
Call.

**A park returns to whoever resumed**: the parent is set anew at every resume. The greenlet that parks (`leaf`) may be
one that a library made inside the green; it is the one that is resumed.

**Steps of tasks.** `_tasks` runs each step of a coroutine on a green of another kind, which is visible always and rests
in `steppers`. If it has parked it is at rest, as any other, once `take_call` has said so.

Only this package imports greenlet.
"""

from __future__ import annotations

from asyncio import CancelledError, Future, Task
from collections.abc import Callable
from contextvars import Context, copy_context
from types import CodeType
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar, cast
from weakref import WeakSet

from greenlet import GreenletExit, getcurrent, greenlet

from .. import _original
from ._asyncio import (
    NO_HOOKS,
    AnyTask,
    Hooks,
    current_task,
    enter_task,
    get_hooks,
    get_running_loop,
    leave_task,
    set_hooks,
    set_running_loop,
)

if TYPE_CHECKING:
    from ._call import Call
    from ._host import Host

__all__ = [
    "ENDED",
    "PARKED",
    "READY",
    "RELAYED",
    "TIMED_OUT",
    "Abandoned",
    "Forked",
    "Green",
    "GreenletExit",
    "Identity",
    "ThreadState",
    "Wake",
    "as_native",
    "check",
    "current_green",
    "disturbed",
    "forked_green",
    "getcurrent",
    "greenlet",
    "greens",
    "new_green",
    "park",
    "parking",
    "pass_on",
    "pass_on_at_rest",
    "relay",
    "relays",
    "resume",
    "resume_each",
    "resume_if_waiting",
    "switch_out",
    "take_call",
    "thread_state",
]

F = TypeVar("F", bound=Callable[..., object])

Wake = object
"""What a waker hands to a park: READY, TIMED_OUT, or an exception to raise there."""


class _Marker:
    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name


_GONE: Final = _Marker("GONE")
ENDED: Final = _Marker("ENDED")
PARKED: Final = ()
"""What a switch without arguments hands over: those would be allocated, and the collector may run at that."""

RELAYED: Final = _Marker("RELAYED")
READY: Final = _Marker("READY")
TIMED_OUT: Final = _Marker("TIMED_OUT")


class ThreadState:
    """What the greens of one thread share: those at rest, the one that has the thread, and the main greenlet."""

    __slots__ = ("active", "idle", "main", "steppers")

    def __init__(self) -> None:
        self.active: Green | None = None
        self.idle: list[Green] = []
        self.steppers: list[Green] = []
        main = getcurrent()
        while main.parent is not None:
            main = main.parent
        self.main = main


class _Owner:
    """Goes when its thread ends, and lets the greens at rest go: no collector looks into a suspended greenlet."""

    __slots__ = ("_at_rest",)

    def __init__(self, state: ThreadState) -> None:
        self._at_rest = state.idle, state.steppers

    def __del__(self) -> None:
        for greens in self._at_rest:
            greens.clear()


class _Local(_original.local):
    state: ThreadState

    def __init__(self) -> None:
        self.state = ThreadState()
        self._owner = _Owner(self.state)


_local = _Local()


def thread_state() -> ThreadState:
    """Look up the calling thread's state."""
    return _local.state


class Identity(Protocol):
    """Who sync code is as long as a call lasts: what it calls its thread, and the values that are that thread's own."""

    hears_signals: bool
    """Whether what signal handlers raise is meant for this call, whoever else is parked."""

    def end(self) -> None:
        """Let go of them, in the green itself, when its call ends. May park."""


class Green(greenlet):
    """A greenlet that greenio made: code that runs in it is green."""

    __slots__ = (
        "awaited",
        "call",
        "cancellation",
        "cancels",
        "deadline",
        "error",
        "host",
        "identity",
        "leaf",
        "operations",
        "outcome",
        "parks",
        "task",
        "thread",
        "ticket",
        "timer",
        "timer_when",
        "visible",
        "waiter",
        "waiting",
        "what",
    )

    awaited: Future[Any] | None
    call: Call | None
    cancellation: CancelledError | None
    deadline: float | None
    cancels: int
    error: BaseException | None  # type: ignore[assignment]  # hides greenlet.error, an exception class
    host: Host
    identity: Identity | None
    leaf: greenlet
    operations: int
    outcome: Any
    parks: int
    task: AnyTask
    thread: ThreadState
    ticket: int | None
    timer: Any
    timer_when: float
    visible: bool
    waiter: Any
    waiting: bool
    what: object

    def on_timer(self) -> None:
        """Wake the park whose deadline has come; a deadline that moved on arms the timer anew."""
        self.timer = None
        deadline = self.deadline
        if deadline is None or not self.waiting:
            return
        if self.host.clock() < deadline:
            self.arm(deadline)
            return
        self.waiting = False
        resume(self, TIMED_OUT)

    def arm(self, deadline: float) -> None:
        """See to it that the timer fires at `deadline` or before.

        A timer that is early costs one callback; one that is moved costs two heap operations. So an armed timer stays
        through the parks that follow, and a conversation of many short waits with a timeout touches the heap once.
        """
        timer = self.timer
        if timer is not None:
            if self.timer_when <= deadline:
                return
            self.timer = None  # before all else: what parks in between must not rely on it
            timer.cancel()
        self.timer_when = deadline
        self.timer = self.host.call_at(deadline, self.on_timer)

    def disarm(self) -> None:
        """Take the timer off the loop."""
        timer, self.timer = self.timer, None
        if timer is not None:
            timer.cancel()

    def on_done(self, future: Future[Any]) -> None:
        """Wake the park that awaits `future`; one that has gone on already is left alone."""
        if self.awaited is future and self.waiting:
            self.waiting = False
            resume(self, READY)

    def take_cancellation(self) -> CancelledError:
        """Hand out the cancellation that came while nothing was parked, once."""
        error = self.cancellation
        assert error is not None
        self.cancellation = None
        return error

    def __repr__(self) -> str:
        at_rest = getattr(self, "task", None) is None
        state = "parked" if getattr(self, "waiting", False) else "idle" if at_rest else "running"
        what = getattr(self, "what", None)
        return f"<{type(self).__name__} at {id(self):#x} {state}{f' in {what!r}' if what is not None else ''}>"


class Forked(Green):
    """A green that forked, in the child: not green any more, so that what it calls blocks as in any new process."""

    __slots__ = ()


class Abandoned(Green):
    """A green that was parked when its thread forked, in the child: nobody may resume it, nor let go of it."""

    __slots__ = ()


_greens: WeakSet[Green] = WeakSet()


def new_green(run: Callable[..., object], thread: ThreadState) -> Green:
    """Make a green at rest that will run `run` in this thread.

    `run` must switch out at once: greenlet keeps the arguments of a first switch for good, so that the first call must
    not come with it.
    """
    green = Green(run)
    green.thread = thread
    green.awaited = green.call = green.cancellation = green.deadline = green.error = green.identity = None
    green.host = green.outcome = green.task = green.timer = green.what = None  # type: ignore[assignment]  # at rest
    green.leaf = green.ticket = green.waiter = None  # type: ignore[assignment]  # at rest
    green.timer_when = 0.0
    green.cancels = green.operations = green.parks = 0
    green.visible = green.waiting = False
    _greens.add(green)
    _call_deep(_LEVELS, green.switch)
    return green


_LEVELS = 12
"""Frames of `list.sort` under a new green, each with some 5 kB of C stack: what libuv puts there is less than half."""


def _call_deep(levels: int, fn: Callable[[], object]) -> int:
    """Call `fn` far down the C stack, so that a green that starts there leaves the loop's own C frames in place.

    A greenlet runs at the addresses where it started, and what lay there is moved away meanwhile. libuv keeps pointers
    to its frames while callbacks run (the events of a poll), and follows them when a descriptor is closed, or given to
    add_reader or remove_reader. If a green lay over those frames, uvloop would crash there or write into the green.
    """
    if levels:
        [None].sort(key=lambda _: _call_deep(levels - 1, fn))
    else:
        fn()
    return 0


def greens() -> list[Green]:
    """List every green of every thread, at rest or not.

    One that is being deallocated runs to its end then, without its attributes, and other threads could still find it.
    """
    while True:
        try:
            return [green for green in list(_greens) if hasattr(green, "thread")]
        except RuntimeError:
            pass  # another thread has just made one


def current_green() -> Green | None:
    """Look up the green on whose behalf the caller runs; None in native code. Never parks."""
    current = getcurrent()
    if current.__class__ is Green:
        return current
    ancestor = current.parent
    while ancestor is not None:
        if ancestor.__class__ is Green:
            # A library's greenlet may outlive the call that made it (sync Playwright keeps one for its loop), so
            # not the ancestor counts, but the green that has the thread.
            return ancestor.thread.active
        ancestor = ancestor.parent
    return None


def as_native(green: Green, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Run what must not park as native code of the thread: in it nobody is a green. It may block the loop for a moment.

    Args:
        green: The caller's green.
        fn: The function.
        *args: Its positional arguments.
        **kwargs: Its keyword arguments.
    """
    thread = green.thread
    active, thread.active = thread.active, None
    try:
        return greenlet(copy_context().run).switch(fn, *args, **kwargs)
    finally:
        thread.active = active


def forked_green() -> Forked | None:
    """Look up the green that the caller was before its process was forked; None elsewhere. Never parks."""
    current = getcurrent()
    while current is not None:
        if current.__class__ is Forked:
            return current
        current = current.parent  # type: ignore[assignment]
    return None


def pass_on(green: Green, value: object, error: BaseException | None = None) -> Wake:
    """Pass on what was not meant for a parked green, until whoever claimed it resumes it.

    A library makes a greenlet whose parent is the green that it runs in. When the loop runs that greenlet later (as it
    does with a task that began eagerly in green code), what it hands to its parent is for the loop's greenlet. Only a
    resume makes the green the one that has the thread.

    GreenletExit alone is meant for whom it is thrown into. It is raised when the loop resumes the green, so that all
    that follows runs in its own call; until then whoever threw it goes on. A cancellation in the same turn comes first.
    A green that awaits is not killed, since the Future would have to be cancelled for it: whoever threw gets an error.
    """
    killed: BaseException | None = None
    try:
        while green.thread.active is not green:
            if isinstance(error, GreenletExit):
                if green.host.loop.is_closed():
                    green.waiting = False
                    green.thread = ThreadState()  # nobody takes its call off it, so that it must not come to rest
                    break
                if green.awaited is not None:
                    error = RuntimeError("a greenlet that awaits cannot be killed; cancel its task, or what it awaits")
                else:
                    if killed is None and not relays(green):
                        green.host.loop.call_soon(resume_if_waiting, green, green.parks, context=Context())
                    killed, error = error, None
            value, error = _hand_on(_receiver(green), value, error)
        if error is not None:
            raise error
        return value if killed is None or isinstance(value, CancelledError) else killed
    finally:
        del error, killed


def pass_on_at_rest(value: object, error: BaseException | None = None) -> object:
    """Do so for the calling green, which is at rest, until a call comes; without a reference to that green.

    Whoever kills it is answered as by a dead greenlet. When the last reference to it goes, it is without attributes.
    """
    while getattr(getcurrent(), "host", _GONE) is None:
        if isinstance(error, GreenletExit):
            value, error = error, None
        value, error = _hand_on(_receiver(getcurrent()), value, error)
    if error is None:
        return value
    try:
        raise error
    finally:
        del error


def _receiver(green: Any) -> greenlet:
    """Tell who gets what was not meant for `green`: the green that has the thread, or else the loop's greenlet."""
    active = green.thread.active
    return cast(greenlet, green.parent if active is None or active is green else active)


def _hand_on(receiver: Any, value: object, error: BaseException | None) -> tuple[object, BaseException | None]:
    try:
        return (receiver.switch(value) if error is None else receiver.throw(error)), None
    except BaseException as caught:
        return None, caught


_parking: set[CodeType] = set()


def parking(fn: F) -> F:
    """Note that greens park in a function: the frame in which one is suspended tells whether it has."""
    _parking.add(fn.__code__)
    return fn


def relays(green: Green) -> bool:
    """Tell whether the host task may be handed what the green awaits: it is the task that has just stepped it."""
    call = green.call
    return _CAN_RELAY and (call is None or call.relaying)


_CAN_RELAY = hasattr(Task, "uncancel")
"""Not on CPython 3.10, whose tasks do not count cancellations, so that greens have to see each one themselves."""


@parking
def relay(green: Green, awaited: Any, mark: int) -> Wake:
    """Park until the host task has done waiting for `awaited`, a Future or None for one turn of the loop.

    Args:
        green: The caller's own green.
        awaited: What the task is to wait for.
        mark: Its `parks` when it began; see `park`.

    Returns:
        READY, which is a hint, or the exception that the task was to throw.
    """
    green.deadline = None
    green.operations = 0
    leaf = getcurrent()
    try:
        try:
            green.waiting = True
            if green.parks != mark:
                green.waiting = False
                return disturbed(green)
            green.parks = mark + 1
            green.leaf = leaf
            green.awaited = awaited
            wake: Wake = green.parent.switch(RELAYED)  # type: ignore[union-attr]
        except BaseException as error:
            if green.thread.active is green:  # a signal handler's, before the switch
                green.waiting = False
                raise
            wake = pass_on(green, None, error)
        return wake if green.thread.active is green else pass_on(green, wake)
    finally:
        green.awaited = None


def park(green: Green, deadline: float | None, mark: int) -> Wake:
    """Give the thread back to whoever resumed `green`, until a waker resumes it.

    Args:
        green: The caller's own green.
        deadline: When to give up waiting, on the host's clock, in seconds; None waits for ever.
        mark: Its `parks` before any waker was told: if something has parked since, this returns READY at once.

    Returns:
        READY, which is a hint, or TIMED_OUT.

    Raises:
        BaseException: What the waker passed: CancelledError, or an OSError when the descriptor was closed.
    """
    if green.cancellation is not None:
        raise green.take_cancellation()
    hooks = get_hooks()
    if hooks[0] is None:
        return switch_out(green, deadline, mark)
    return _park_inside(green, hooks, deadline, mark)


@parking
def switch_out(green: Green, deadline: float | None, mark: int) -> Wake:
    """Do what `park` does, in a thread state that fits `green.visible`, with no current task."""
    if green.host.ended:
        raise RuntimeError("the event loop of this greenlet is closed, so nothing could wake it")
    green.deadline = deadline
    if deadline is not None:
        green.arm(deadline)
    green.operations = 0
    leaf = getcurrent()
    try:
        green.waiting = True
        if green.parks != mark:
            green.waiting = False
            return disturbed(green)
        green.parks = mark + 1
        green.leaf = leaf
        wake: Wake = green.parent.switch()  # type: ignore[union-attr]
    except BaseException as error:
        if green.thread.active is green:  # a signal handler's, before the switch
            green.waiting = False
            raise
        wake = pass_on(green, None, error)
    if green.thread.active is not green:
        wake = pass_on(green, wake)
    if wake is READY or wake is TIMED_OUT:
        return wake
    try:
        raise cast(BaseException, wake)
    finally:
        del wake


def disturbed(green: Green) -> Wake:
    """End a park before its switch: something else has parked since it began."""
    green.disarm()  # the timer may have fired before it was noted
    return READY


def _park_inside(green: Green, hooks: Hooks, deadline: float | None, mark: int) -> Wake:
    """Park from code in which a loop runs: take its marks off the thread for as long as that lasts."""
    inner = get_running_loop()
    task = current_task(inner) if inner is not None else None
    if inner is not None and task is not None:
        leave_task(inner, task)
    visible = green.visible
    if not visible or inner is not green.host.loop:
        green.visible = False
        set_running_loop(None)
        set_hooks(*NO_HOOKS)
    try:
        return switch_out(green, deadline, mark)
    finally:
        if not green.visible:
            green.visible = visible
            set_running_loop(inner)
            set_hooks(*hooks)
        if inner is not None and task is not None:
            enter_task(inner, task)
        task = None  # it may come to hold the error that is on its way, whose traceback has this frame: a ring


def resume(green: Green, wake: Wake) -> None:
    """Switch into a parked green that the caller has claimed; come back when it parks again or ends.

    Runs in a callback of the host loop, where that loop is the running one and no task is current.
    """
    host = green.host
    thread = green.thread
    outer = thread.active
    call = green.call
    try:
        thread.active = green
        green.parent = getcurrent()
        if not green.visible:
            set_running_loop(None)
            set_hooks(*NO_HOOKS)
        try:
            outcome = green.leaf.switch(wake)
            if outcome is not ENDED and not green.waiting:
                outcome = check(green, outcome)
        finally:
            thread.active = outer
            if not green.visible:
                set_running_loop(host.loop)
                set_hooks(*host.hooks)
        if outcome is ENDED:
            take_call(green).wake()
    except BaseException:  # a signal handler's, or what a task raised through the loop
        _wake_later(host, green, call)
        raise


def _wake_later(host: Host, green: Green | None, *calls: Call | None) -> None:
    """Have calls that have ended step their tasks after all, though an exception came first. One may be on `green`."""
    set_running_loop(host.loop)
    set_hooks(*host.hooks)
    for call in calls:
        if call is not None and call.ended:
            if green is not None and green.call is call:
                take_call(green)
            host.loop.call_soon(call.wake, context=Context())


def check(green: Green, given: object) -> object:
    """Look why a green handed back the thread, without having ended, and is not waiting for anything.

    It has parked, and something else that parked in between has had its wake-up: it is woken. Or green code switched to
    the loop's greenlet by itself, which nobody expects: an error is raised there, until the green parks or ends.

    Args:
        green: The green.
        given: What it handed over.

    Returns:
        What it handed over last.
    """
    while given is not ENDED and not green.waiting:
        leaf: greenlet | None = green.leaf
        frame = leaf.gr_frame if leaf is not None else None
        if green.__class__ is Abandoned or (frame is not None and frame.f_code in _parking):
            if green.__class__ is Green and (green.call is None or not green.call.due):
                green.waiting = True
                green.deadline = None
                green.host.loop.call_soon(resume_if_waiting, green, green.parks, context=Context())
            break
        value = "no value" if given is PARKED else repr(given)
        error = RuntimeError(
            f"green code switched to the event loop with {value}, and the loop expects nothing from it; what "
            "greenback.await_() is for, greenio.await_() does here"
        )
        given = green.throw(error)
    return given


def resume_if_waiting(green: Green, parks: int) -> None:
    """Wake a green that is still in the park that its `parks` counted last, unless it was claimed first."""
    if green.waiting and green.parks == parks:
        green.waiting = False
        resume(green, READY)


def take_call(green: Green) -> Call:
    """Part a green at rest from the call that has ended on it."""
    call = green.call
    assert call is not None
    # `leaf` too: most often it is the green itself, and the collector does not look into a suspended greenlet.
    green.call = green.gr_context = green.leaf = None  # type: ignore[assignment]
    if green.visible:
        call.keep(green)
    return call


def resume_each(host: Host, greens: list[Green]) -> None:
    """Resume many greens that became ready at once, as `resume` does, those that are still waiting.

    What a switch costs the outer side is paid once for all of them.
    """
    thread = host.thread
    outer, active = getcurrent(), thread.active
    ended: list[Call] = []
    green = call = None
    greens.reverse()
    try:
        set_running_loop(None)
        set_hooks(*NO_HOOKS)
        try:
            while greens:
                green = greens.pop()
                if not green.waiting:
                    continue
                green.waiting = False
                call = green.call
                if green.visible:
                    set_running_loop(host.loop)
                    set_hooks(*host.hooks)
                thread.active = green
                green.parent = outer
                outcome = green.leaf.switch(READY)
                if outcome is not ENDED and not green.waiting:
                    outcome = check(green, outcome)
                if green.visible:
                    set_running_loop(None)
                    set_hooks(*NO_HOOKS)
                if outcome is ENDED:
                    ended.append(take_call(green))
        finally:
            thread.active = active
            set_running_loop(host.loop)
            set_hooks(*host.hooks)
        while ended:
            ended.pop().wake()
    except BaseException:  # a signal handler's, or what a task raised through the loop; these will not be told again
        _wake_later(host, green, *ended, call)
        if greens:
            greens.reverse()
            host.loop.call_soon(resume_each, host, greens, context=Context())
        raise
