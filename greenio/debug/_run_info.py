"""`run_info`: every task with its coroutine and its greens, what they wait for, pools and registrations."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio import AbstractEventLoop, Task
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, TextIO, TypeAlias
from weakref import WeakKeyDictionary

from .. import _original
from .._core import Green, get_running_loop, greens, host_if_any, hosts, is_busy, pools, registrations
from ._stacks import Frame, stack_of_green, stack_of_task, stack_of_thread
from ._waits import Wait, address_of, name_of_thread, wait_of
from ._watchdog import watched_loops

__all__ = ["GreenInfo", "LoopInfo", "PoolInfo", "Registration", "RunInfo", "TaskInfo", "print_run_info", "run_info"]

Form: TypeAlias = Literal["text", "json", "tree"]


@dataclass(frozen=True)
class GreenInfo:
    """One green that is in a call.

    Attributes:
        id: What `repr` calls it, as in "0x7f0c12345678".
        state: "parked", "running", or "claimed" if it is about to be resumed.
        wait: What it waits for, if it is parked.
        stack: Where it is, outermost first, without greenio's own frames.
    """

    id: str
    state: str
    wait: Wait | None
    stack: tuple[Frame, ...]


@dataclass(frozen=True)
class TaskInfo:
    """One task that has not ended.

    Attributes:
        name: Its name.
        coroutine: Its coroutine.
        state: "running", "suspended", or "cancelling" if it has been asked to end.
        stack: Where the coroutine is, outermost first: what awaits what.
        greens: The greens that work for it, outermost call first.
    """

    name: str
    coroutine: str
    state: str
    stack: tuple[Frame, ...]
    greens: tuple[GreenInfo, ...]


@dataclass(frozen=True)
class LoopInfo:
    """One event loop.

    Attributes:
        loop: Its kind and address.
        thread: The thread that runs it, as far as that is known.
        running: Whether it runs.
        tasks: Its tasks, by name.
    """

    loop: str
    thread: str | None
    running: bool
    tasks: tuple[TaskInfo, ...]


@dataclass(frozen=True)
class PoolInfo:
    """The greens of one thread.

    Attributes:
        thread: The thread, as far as that is known.
        idle: How many are at rest.
        busy: How many are in a call.
        limit: How many are kept at rest at most, of those for calls and of those for steps of tasks.
    """

    thread: str | None
    idle: int
    busy: int
    limit: int


@dataclass(frozen=True)
class Registration:
    """One descriptor that a loop watches for its greens.

    Attributes:
        fd: The descriptor.
        address: The peer of a socket, or what else it is.
        reading: How many greens wait to read; None if the kernel is not asked.
        writing: How many greens wait to write; None if the kernel is not asked.
        loop: The loop's kind and address.
    """

    fd: int
    address: str | None
    reading: int | None
    writing: int | None
    loop: str


@dataclass(frozen=True)
class RunInfo:
    """What `run_info()` found. `str()` of it is a tree; there are `text()` and `json()` besides.

    Attributes:
        pid: The process.
        loops: The loops that run greens or are watched, and those in which this or `listen` was called.
        pools: The pools of greens.
        registrations: The descriptors that are watched.
    """

    pid: int
    loops: tuple[LoopInfo, ...]
    pools: tuple[PoolInfo, ...]
    registrations: tuple[Registration, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain dicts and lists. Never parks."""
        return asdict(self)

    def json(self, indent: int | None = 2) -> str:
        """Return it as JSON, indented by so many spaces; None puts it on one line. Never parks."""
        return json.dumps(self.as_dict(), indent=indent)

    def text(self) -> str:
        """Return it as stacks with their source lines, as in tracebacks. Never parks."""
        return "\n".join(_text(self)) + "\n"

    def tree(self) -> str:
        """Return it as a tree, a line for each task, green and frame. Never parks."""
        return "\n".join(_tree(self)) + "\n"

    def __str__(self) -> str:
        return self.tree()


def run_info() -> RunInfo:
    """Tell what every task and greenlet does, of every loop that has greenlets or is watched. Never parks.

    May be called from any thread, from a signal handler, in green code and in native code. What other threads do goes
    on meanwhile, so that their part may be out of date by the time it is read.

    Returns:
        Frozen dataclasses that refer to nothing live.
    """
    members = _greens_by_task()
    return RunInfo(
        pid=os.getpid(),
        loops=tuple(_loop_info(loop, members) for loop in _loops()),
        pools=tuple(PoolInfo(_thread(pool.thread_id), pool.idle, pool.busy, pool.limit) for pool in pools()),
        registrations=tuple(_registrations()),
    )


def print_run_info(file: TextIO | None = None, *, form: Literal["text", "json", "tree"] = "text") -> None:
    """Print what `run_info` tells. Never parks.

    Args:
        file: Where to; None for the standard error stream.
        form: "text" for stacks with their source lines, "tree" for a line each, or "json".
    """
    print(render(form), end="", file=sys.stderr if file is None else file)


def check_form(form: str) -> None:
    """Refuse what `render` cannot make."""
    if form not in ("text", "json", "tree"):
        raise ValueError(f'form must be "text", "json" or "tree", not {form!r}')


def render(form: Form) -> str:
    """Make what `print_run_info` prints."""
    check_form(form)
    info = run_info()
    if form == "json":
        return info.json() + "\n"
    return info.text() if form == "text" else info.tree()


_seen: WeakKeyDictionary[AbstractEventLoop, int] = WeakKeyDictionary()
"""Loops that have no host, by the thread that runs them: those in which something of this package was called."""


def remember_loop() -> None:
    """Take note of the loop that runs in the caller's thread, so that it is shown even if it has no greens."""
    running = get_running_loop()
    if running is not None:
        _seen[running] = _original.get_ident()


def _loops() -> list[AbstractEventLoop]:
    remember_loop()
    found = [*(host.loop for host in hosts()), *watched_loops(), *tuple(_seen)]
    return list({id(loop): loop for loop in found if not loop.is_closed()}.values())


def name_of_loop(loop: AbstractEventLoop) -> str:
    """Name a loop by its kind and address."""
    return f"{type(loop).__module__}.{type(loop).__qualname__} at {id(loop):#x}"


def _thread(thread_id: int | None) -> str | None:
    return None if thread_id is None else name_of_thread(thread_id)


def thread_id_of(loop: AbstractEventLoop) -> int | None:
    """Tell which thread runs a loop, as far as that is known."""
    host = host_if_any(loop)
    if host is not None:
        return host.thread_id
    return _seen.get(loop)


def _loop_info(loop: AbstractEventLoop, members: Mapping[int, list[Green]]) -> LoopInfo:
    tasks = sorted(asyncio.all_tasks(loop), key=lambda task: (len(task.get_name()), task.get_name()))
    running = running_task(loop)
    infos = tuple(_task_info(task, task is running, members.get(id(task), [])) for task in tasks)
    return LoopInfo(name_of_loop(loop), _thread(thread_id_of(loop)), loop.is_running(), infos)


def _greens_by_task() -> dict[int, list[Green]]:
    found: dict[int, list[Green]] = {}
    for green in greens():
        if is_busy(green):
            found.setdefault(id(green.task), []).append(green)
    return found


def running_task(loop: AbstractEventLoop) -> Task[Any] | None:
    """Tell which task of a loop has its thread, in the coroutine or in a green."""
    host = host_if_any(loop)
    if host is not None and host.thread.active is not None and host.thread.active.host is host:
        return host.thread.active.task
    try:
        return asyncio.current_task(loop)
    except RuntimeError:
        return None


def _task_info(task: Task[Any], runs: bool, members: list[Green]) -> TaskInfo:
    cancelling = getattr(task, "cancelling", int)()
    state = "cancelling" if cancelling else "running" if runs else "suspended"
    stack = stack_of_task(task)
    if runs and not members:
        stack = stack_of_thread(thread_id_of(task.get_loop())) or stack
    return TaskInfo(task.get_name(), _name_of_coroutine(task), state, stack, tuple(_green_infos(members)))


def _name_of_coroutine(task: Task[Any]) -> str:
    coroutine = task.get_coro()
    return str(getattr(coroutine, "__qualname__", None) or repr(coroutine))


def _green_infos(members: list[Green]) -> Iterator[GreenInfo]:
    for green in members:
        try:
            yield _green_info(green)
        except AttributeError:
            if is_busy(green):
                raise  # else its call has ended meanwhile, in another thread


def _green_info(green: Green) -> GreenInfo:
    waits = green.waiting
    state = "parked" if waits else "running" if green.thread.active is green else "claimed"
    return GreenInfo(f"{id(green):#x}", state, wait_of(green) if waits else None, stack_of_green(green))


def _registrations() -> Iterator[Registration]:
    for watch in registrations():
        sides = [len(side.waiters) if side.armed else None for side in (watch.reader, watch.writer)]
        yield Registration(watch.fd, address_of(watch.fd), sides[0], sides[1], name_of_loop(watch.host.loop))


def _text(info: RunInfo) -> Iterator[str]:
    yield f"process {info.pid}"
    for loop in info.loops:
        yield f"\nloop {_head_of_loop(loop)}"
        for task in loop.tasks:
            yield f"\n  task {task.name!r} {task.state}: {task.coroutine}"
            yield from _lines(task.stack, "    ")
            for green in task.greens:
                yield f"    green {_head_of_green(green)}"
                yield from _lines(green.stack, "      ")
    yield from _figures(info)


def _lines(stack: tuple[Frame, ...], indent: str) -> Iterator[str]:
    for frame in stack:
        yield f"{indent}{frame}"
        if frame.source:
            yield f"{indent}  {frame.source}"


def _head_of_loop(loop: LoopInfo) -> str:
    where = f" in {loop.thread}" if loop.thread is not None else ""
    return f"{loop.loop}{where}, {'running' if loop.running else 'not running'}, {len(loop.tasks)} tasks"


def _head_of_green(green: GreenInfo) -> str:
    return f"{green.id} {green.state}" + (f": {green.wait}" if green.wait is not None else "")


def _figures(info: RunInfo) -> Iterator[str]:
    yield ""
    for pool in info.pools:
        yield f"pool of {pool.thread or 'a thread'}: {pool.busy} busy, {pool.idle} idle, {pool.limit} kept at most"
    for entry in info.registrations:
        counts = (("reading", entry.reading), ("writing", entry.writing))
        waiting = ", ".join(f"{count} {name}" for name, count in counts if count is not None)
        yield f"registered fd={entry.fd} ({entry.address}): {waiting or 'disarmed'}"


def _tree(info: RunInfo) -> Iterator[str]:
    yield f"process {info.pid}"
    loops = [(f"loop {_head_of_loop(loop)}", [_branch(task) for task in loop.tasks]) for loop in info.loops]
    yield from _branches(loops)
    yield from _figures(info)


def _branch(task: TaskInfo) -> Any:
    below: list[Any] = [(_leaf(frame), []) for frame in task.stack]
    below += [
        (f"green {_head_of_green(green)}", [(_leaf(frame), []) for frame in green.stack]) for green in task.greens
    ]
    return f"task {task.name!r} {task.state}: {task.coroutine}", below


def _leaf(frame: Frame) -> str:
    return f"{frame.function} {frame.file}:{frame.line}"


def _branches(branches: list[Any], indent: str = "") -> Iterator[str]:
    for number, (head, below) in enumerate(branches, 1):
        last = number == len(branches)
        yield f"{indent}{'└── ' if last else '├── '}{head}"
        yield from _branches(below, indent + ("    " if last else "│   "))
