"""`install`: the tasks and the executor work of a loop in greens, without a change to the program."""

from __future__ import annotations

import asyncio
from asyncio import AbstractEventLoop
from collections.abc import Callable
from typing import Any

from .._core import eager_task_factory, is_native_work, task_factory
from ._executor import GreenletPoolExecutor

__all__ = ["install", "uninstall"]

_eager = getattr(asyncio, "eager_task_factory", None)
"""CPython 3.12 and later."""


class _Installed:
    """What stood in a loop before."""

    __slots__ = ("earlier", "executor", "factory")

    def __init__(self) -> None:
        self.earlier: Any = None
        self.executor: GreenletPoolExecutor | None = None
        self.factory: Any = None


_ATTRIBUTE = "_greenio_installed"
"""Where a loop keeps it, so that it goes when the loop goes."""


def install(loop: AbstractEventLoop, *, tasks: bool = True, executor: bool = True) -> None:
    """Have blocking calls park in a loop's tasks, and in what it runs in its default executor. Never parks.

    Tasks that exist already stay as they are. An earlier task factory and default executor are kept, and put back by
    `uninstall`. Work that cannot park (`offload`, the loop's own name look-ups) goes on using the earlier executor.

    Args:
        loop: The loop, running or not.
        tasks: Make its tasks by `task_factory`, or by `eager_task_factory` if they are eager now.
        executor: Run in greenlets what `asyncio.to_thread` and `loop.run_in_executor(None, ...)` are given.
    """
    installed: _Installed | None = getattr(loop, _ATTRIBUTE, None)
    if installed is None:
        installed = _Installed()
        setattr(loop, _ATTRIBUTE, installed)
    if tasks and installed.factory is None:
        earlier = installed.earlier = loop.get_task_factory()
        installed.factory = eager_task_factory if _eager is not None and earlier is _eager else task_factory
        loop.set_task_factory(installed.factory)
    if executor and installed.executor is None:
        installed.executor = GreenletPoolExecutor(thread_name_prefix="greenio", loop=loop)
        # In front of the loop's own method, which no loop lets anybody ask for its default executor.
        loop.run_in_executor = _run_green(loop.run_in_executor, installed.executor)  # type: ignore[method-assign]


def uninstall(loop: AbstractEventLoop) -> None:
    """Take back what `install` did to a loop. Never parks.

    Tasks that were made meanwhile, and work that was submitted, go on as they are. What somebody else has set since is
    left alone.
    """
    installed: _Installed | None = getattr(loop, _ATTRIBUTE, None)
    if installed is None:
        return
    delattr(loop, _ATTRIBUTE)
    if installed.factory is not None and loop.get_task_factory() is installed.factory:
        loop.set_task_factory(installed.earlier)
    if installed.executor is not None:
        shadow = vars(loop).get("run_in_executor")
        if getattr(shadow, "executor", None) is installed.executor:
            del loop.run_in_executor
        installed.executor.shutdown(wait=False)


def _run_green(native: Callable[..., Any], green: GreenletPoolExecutor) -> Any:
    def run_in_executor(executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        if executor is None and not is_native_work(func):
            executor = green
        return native(executor, func, *args)

    run_in_executor.executor = green  # type: ignore[attr-defined]
    return run_in_executor
