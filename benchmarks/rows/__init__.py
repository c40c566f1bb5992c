"""The rows, one file each: its contenders, and the targets.

A contender's imports stand inside its entry: peers are optional, and some must patch the interpreter first.
"""

from __future__ import annotations

from .._model import Row
from . import echo, http_get, lag, memory, mysql, native_cost, noop, park_once, redis_get, wake_order

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
)
