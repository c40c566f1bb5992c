"""The semi-private names of asyncio that the kernel stands on, all in one place.

`_enter_task`, `_leave_task`, `_get_running_loop` and `_set_running_loop` are documented by CPython for third-party
loops and tasks ("Extending asyncio"); every supported version has them. `_current_tasks` is the dict behind
`current_task` on the versions that have that written in Python, where a call of it costs six times a look-up.
`_source_traceback` is looked for, and may be missing. The rest of greenio uses public API only.
"""

from __future__ import annotations

import sys
from asyncio import (
    AbstractEventLoop,
    Task,
    _get_running_loop,
    _set_running_loop,
    base_events,
    tasks,
)
from asyncio.tasks import _enter_task, _leave_task
from collections.abc import Callable
from typing import Any, Final, TypeAlias

__all__ = [
    "NO_HOOKS",
    "AnyTask",
    "Hooks",
    "current_task",
    "enter_task",
    "forget_makers",
    "get_hooks",
    "get_running_loop",
    "leave_task",
    "set_hooks",
    "set_running_loop",
]

AnyTask: TypeAlias = "Task[Any]"
Hooks: TypeAlias = tuple[Any, Any]

enter_task: Callable[[AbstractEventLoop, AnyTask], None] = _enter_task
leave_task: Callable[[AbstractEventLoop, AnyTask], None] = _leave_task
current_task: Callable[[AbstractEventLoop], AnyTask | None] = (
    tasks.current_task if sys.version_info >= (3, 12) else tasks._current_tasks.get  # type: ignore[attr-defined]
)
get_running_loop: Callable[[], AbstractEventLoop | None] = _get_running_loop
set_running_loop: Callable[[AbstractEventLoop | None], None] = _set_running_loop


def forget_makers(task: AnyTask, filename: str) -> None:
    """Take task factories off the end of what asyncio's debug mode notes of a task's origin, as asyncio does itself."""
    frames = getattr(task, "_source_traceback", None)
    while frames and (frames[-1].filename in (filename, base_events.__file__) or frames[-1].name == "factory"):
        del frames[-1]


get_hooks = sys.get_asyncgen_hooks
set_hooks = sys.set_asyncgen_hooks

NO_HOOKS: Final[Hooks] = (None, None)
"""Passed as `*NO_HOOKS`, which is quicker than two arguments: the tuple is there already."""
