"""The rows, one file each: its contenders, and the targets.

A contender's imports stand inside its entry: peers are optional, and some must patch the interpreter first.
"""

from __future__ import annotations

from .._model import Row
from . import (
    echo,
    event,
    http_get,
    lag,
    locks,
    memory,
    mysql,
    native_cost,
    noop,
    park_once,
    queues,
    redis_get,
    subprocesses,
    tasks,
    wake_order,
)

__all__ = ["ROWS"]

ROWS: tuple[Row, ...] = (
    noop.ROW,
    park_once.ROW,
    echo.ROW,
    *redis_get.ROWS,
    http_get.ROW,
    mysql.ROW,
    memory.ROW,
    wake_order.ROW,
    *native_cost.ROWS,
    lag.ROW,
    *locks.ROWS,
    queues.ROW,
    event.ROW,
    subprocesses.ROW,
    *tasks.ROWS,
)
