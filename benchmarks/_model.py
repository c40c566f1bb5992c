"""What a row of the benchmark is made of. Rows are data; `_runner` runs them and `_table` prints them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ._session import Session

__all__ = ["CPU", "METRICS", "RATE", "Contender", "Limit", "Metric", "Row", "Target", "each_loop", "to_thread_twice"]

Entry = Callable[..., Session]


@dataclass(frozen=True)
class Metric:
    """One number that a round yields.

    Attributes:
        key: Its name in samples and in the JSON.
        title: Its column's heading.
        form: The format of one value.
        higher_is_better: Which way a ratio of two contenders is taken, so that above 1 is always better.
    """

    key: str
    title: str
    form: str
    higher_is_better: bool = False


METRICS = {
    metric.key: metric
    for metric in (
        Metric("rate", "ops/s", ",.0f", higher_is_better=True),
        Metric("cpu", "CPU us/op", ",.2f"),
        Metric("busy", "busy", ".0%"),
        Metric("waited", "waited", ".0%"),
        Metric("client", "client", ".0%"),
        Metric("memory", "bytes each", ",.0f"),
        Metric("seconds", "seconds", ".2f"),
        Metric("misplaced", "out of order", ",.0f"),
        Metric("late_max", "worst late ms", ",.0f"),
        Metric("lag_p50", "lag p50 ms", ".2f"),
        Metric("lag_p99", "lag p99 ms", ".2f"),
        Metric("lag_max", "lag max ms", ".2f"),
    )
}
RATE, CPU = "rate", "cpu"


@dataclass(frozen=True)
class Contender:
    """One way to do the work of a row.

    Attributes:
        name: Unique in its row.
        entry: Makes the session, in the contender's own process.
        options: Keyword arguments for `entry`.
        needs: Modules without which it is shown as "not installed".
        free: Whether it may use every CPU. Threads can, and pay for it when they hand each other the GIL.
    """

    name: str
    entry: Entry
    options: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    free: bool = False


def each_loop(name: str, entry: Entry, *needs: str, free: bool = False, **options: Any) -> tuple[Contender, Contender]:
    """Make a contender on uvloop and the same on asyncio's own loop."""
    return (
        Contender(f"{name} / uvloop", entry, {**options, "loop": "uvloop"}, ("uvloop", *needs), free),
        Contender(f"{name} / asyncio", entry, {**options, "loop": "asyncio"}, needs, free),
    )


def to_thread_twice(entry: Entry, *needs: str, **options: Any) -> tuple[Contender, ...]:
    """Make `asyncio.to_thread` free to use every CPU, as it is in users' programs, and on the one that others have."""
    return (
        *each_loop("asyncio.to_thread", entry, *needs, free=True, **options),
        *each_loop("asyncio.to_thread, one CPU", entry, *needs, **options),
    )


@dataclass(frozen=True)
class Target:
    """A ratio to reach: `contender` against `than`, above 1 being better.

    Attributes:
        at_least: The ratio; None shows it without a verdict.
        metric: What decides.
    """

    contender: str
    than: str
    at_least: float | None = None
    metric: str = RATE


@dataclass(frozen=True)
class Limit:
    """A value that a contender is not to exceed, by itself.

    Attributes:
        at_most: The value, in the metric's own unit.
        metric: What is limited.
    """

    contender: str
    at_most: float
    metric: str = CPU


@dataclass(frozen=True)
class Row:
    """Contenders side by side.

    Attributes:
        number: The row's number; several rows may share one.
        name: A word to choose it by.
        title: What is done.
        contenders: Who does it.
        targets: What is to be reached.
        limits: What is not to be exceeded.
        columns: The metrics to show.
        first: Operations of the first round, which warms up. Later rounds are sized to last as long as was asked.
        fixed: Operations of every round, and of a round of `--quick`, where the number belongs to the question.
        fresh: Whether each round needs a new process, because the first round changes it for good.
        load: A client that drives the measured process from the other CPU, told of each round.
        server: A server for all contenders, on the other CPU.
        stretch: How many times as long as others a round lasts.
        note: What a reader must know.
    """

    number: int
    name: str
    title: str
    contenders: tuple[Contender, ...]
    targets: tuple[Target, ...] = ()
    limits: tuple[Limit, ...] = ()
    columns: tuple[str, ...] = (RATE, CPU, "busy", "waited")
    first: int = 100
    fixed: tuple[int, int] | None = None
    fresh: bool = False
    load: Entry | None = None
    load_options: Mapping[str, Any] = field(default_factory=dict)
    server: Entry | None = None
    stretch: float = 1.0
    note: str = ""
