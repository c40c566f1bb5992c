"""What type checkers must make of greenio.debug. Checked by mypy and pyright, never run."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import Any

from typing_extensions import assert_type

from greenio import debug


def watching(loop: asyncio.AbstractEventLoop) -> None:
    with debug.watchdog(loop, 0.1, report=print, every=5) as dog:
        assert_type(dog, debug.Watchdog)
        assert_type(dog.stats(), debug.WatchdogStats)
    debug.watchdog(loop, 0.1, print)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def looking() -> None:
    info = debug.run_info()
    assert_type(info, debug.RunInfo)
    assert_type(info.loops[0].tasks[0].greens[0].wait, debug.Wait | None)
    assert_type(info.loops[0].tasks[0].stack, tuple[debug.Frame, ...])
    assert_type(info.json(), str)
    assert_type(info.as_dict(), dict[str, Any])
    debug.print_run_info(form="xml")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert_type(debug.deadlocks(), list[debug.Deadlock])
    with debug.record(parks=True, owners=False) as recorder:
        assert_type(recorder, debug.Recorder)


def from_outside() -> None:
    with debug.listen() as listener:
        assert_type(listener.path, str)
    assert_type(debug.inspect(1, "json"), str)
    assert_type(debug.dump_on_signal(signal.SIGUSR1), Callable[[], None])
