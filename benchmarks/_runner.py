"""Run the rows: the contenders of a row take turns, round by round."""

from __future__ import annotations

import importlib.util
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ._machine import cpus
from ._model import CPU, METRICS, RATE, Contender, Row, Target
from ._worker import FailedError, NotThereError, Worker

__all__ = ["Outcome", "Plan", "Result", "Verdict", "run_row"]

_SATURATED = 0.9
"""A client that is busier than this may be what limits the rate: then CPU time decides."""

_DISTURBED = 0.1
"""If the first of a pair waited longer than this for its CPU, other programs had it: then CPU time decides too."""

_SIZINGS = 4
"""Rounds of warm-up at most; each is sized after the one before."""

Sample = Mapping[str, float]


@dataclass(frozen=True)
class Plan:
    """How long to measure.

    Attributes:
        rounds: Rounds of each contender, after the warm-up.
        seconds: How long a round is to last.
        quick: Whether to use the small sizes, and not to size rounds after the time they took.
        limit: Seconds after which a contender that does not answer is given up.
    """

    rounds: int = 5
    seconds: float = 0.5
    quick: bool = False
    limit: float = 60.0


@dataclass
class Outcome:
    """What one contender did: its samples, or why there are none.

    Attributes:
        state: "measured", "not installed", "not available" or "failed".
        reason: What there is to say about it.
    """

    contender: Contender
    state: str = "measured"
    reason: str = ""
    samples: list[Sample] = field(default_factory=list)

    def values(self, metric: str) -> list[float]:
        """List the values of one metric, a round each."""
        return [sample[metric] for sample in self.samples if metric in sample]

    def median(self, metric: str) -> float | None:
        """Tell the median of a metric; None if there is no value."""
        values = self.values(metric)
        return statistics.median(values) if values else None


@dataclass(frozen=True)
class Verdict:
    """A target and what was reached: by the metric that decides, and by the others."""

    target: Target
    decided_by: str
    ratios: Mapping[str, list[float]]

    @property
    def reached(self) -> float | None:
        """The median ratio of the deciding metric; None if one of the two was not measured."""
        values = self.ratios.get(self.decided_by)
        return statistics.median(values) if values else None

    @property
    def word(self) -> str:
        """`ok`, `short`, or why there is no verdict."""
        if self.reached is None:
            return "not measured"
        if self.target.at_least is None:
            return "-"
        return "ok" if self.reached >= self.target.at_least else "short"


@dataclass(frozen=True)
class Result:
    """A row that was run."""

    row: Row
    outcomes: list[Outcome]
    verdicts: list[Verdict]


class _Lane:
    """A contender's processes during a row."""

    def __init__(self, row: Row, outcome: Outcome, plan: Plan, shared: Mapping[str, Any]) -> None:
        self.outcome = outcome
        self._row = row
        self._plan = plan
        self._shared = shared
        self._measured: Worker | None = None
        self._load: Worker | None = None
        self._is_open = False
        fixed = row.fixed
        self.count = row.first if fixed is None else fixed[plan.quick]

    def launch(self) -> None:
        """Start the measured process, without waiting for it to be set up."""
        contender, cpu = self.outcome.contender, None if self.outcome.contender.free else cpus()[0]
        self._measured = Worker(contender.entry, {**contender.options, **self._shared}, cpu, self._plan.limit)

    def open(self) -> Worker:
        """Wait for the measured process, and start its client."""
        if self._measured is None:
            self.launch()
        assert self._measured is not None
        if not self._is_open:
            info = self._measured.ready()
            if self._row.load is not None:
                self._load = Worker(self._row.load, {**self._row.load_options, **info}, cpus()[1], self._plan.limit)
                self._load.ready()
            self._is_open = True
        return self._measured

    def close(self) -> None:
        for worker in (self._load, self._measured):
            if worker is not None:
                worker.close()
        self._load = self._measured = None
        self._is_open = False

    def warm_up(self) -> None:
        """Run a first round, and size the others after it."""
        if self._row.fixed is not None:
            return  # a fresh process knows no warmth, and a fixed size is not to be found
        wanted = self._plan.seconds * self._row.stretch
        for _ in range(_SIZINGS):
            lasted = self.count / self.round()[RATE]
            if self._plan.quick:
                return
            self.count = max(self._row.first, int(self.count * min(50.0, wanted / lasted)))
            if lasted > wanted / 4:
                return

    def round(self) -> Sample:
        measured = self.open()
        load = self._load
        measured.start_round(self.count)
        if load is None:
            answer = measured.answer()
            sample = _sample(self.count, answer, answer["wall"])
        else:
            load.start_round(self.count)
            driven = load.answer()
            wall = driven["extra"]["wall"]
            sample = {**_sample(self.count, measured.answer(), wall), "client": driven["extra"]["cpu"] / wall}
        if self._row.fresh:
            self.close()
        return sample


def _sample(count: int, answer: Mapping[str, Any], wall: float) -> dict[str, float]:
    cpu = answer["cpu"]
    waited = answer["waited"] / wall
    return {RATE: count / wall, CPU: cpu / count * 1e6, "busy": cpu / wall, "waited": waited, **answer["extra"]}


def run_row(row: Row, plan: Plan, say: Callable[[str], None]) -> Result:
    """Run every contender of a row.

    Args:
        row: The row.
        plan: How long.
        say: Told what is going on.
    """
    outcomes = [Outcome(contender) for contender in row.contenders]
    server = Worker(row.server, {}, cpus()[1], plan.limit) if row.server is not None else None
    lanes: list[_Lane] = []
    try:
        shared = server.ready() if server is not None else {}
        lanes += [_Lane(row, outcome, plan, shared) for outcome in outcomes if _is_installed(outcome)]
        for lane in lanes:
            lane.launch()  # all at once: imports take longer than anything here
        for lane in lanes:
            _attempt(lane, lane.open)
        for lane in lanes:
            say(f"{lane.outcome.contender.name}: warm-up")
            _attempt(lane, lane.warm_up)
        for number in range(plan.rounds):
            say(f"round {number + 1} of {plan.rounds}")
            # Each starts in turn, so that nobody always comes after the same neighbour.
            for lane in lanes[number % len(lanes) :] + lanes[: number % len(lanes)] if lanes else ():
                _attempt(lane, lambda lane=lane: lane.outcome.samples.append(lane.round()))  # type: ignore[misc]
    finally:
        for lane in lanes:
            lane.close()
        if server is not None:
            server.close()
    return Result(row, outcomes, [_judge(row, target, outcomes) for target in row.targets])


def _is_installed(outcome: Outcome) -> bool:
    missing = [name for name in outcome.contender.needs if importlib.util.find_spec(name) is None]
    if missing:
        outcome.state, outcome.reason = "not installed", ", ".join(missing)
    return not missing


def _attempt(lane: _Lane, step: Callable[[], object]) -> None:
    outcome = lane.outcome
    if outcome.state != "measured":
        return
    try:
        step()
    except (NotThereError, FailedError) as error:
        outcome.state = "failed" if isinstance(error, FailedError) else "not available"
        outcome.reason = str(error)
        outcome.samples.clear()
        lane.close()


def _judge(row: Row, target: Target, outcomes: list[Outcome]) -> Verdict:
    by_name = {outcome.contender.name: outcome for outcome in outcomes}
    ours, theirs = by_name[target.contender], by_name[target.than]
    metrics = dict.fromkeys((target.metric, *(metric for metric in (RATE, CPU) if metric in row.columns)))
    ratios = {metric: _ratios(metric, ours, theirs) for metric in metrics}
    saturated = any((outcome.median("client") or 0.0) > _SATURATED for outcome in (ours, theirs))
    disturbed = (ours.median("waited") or 0.0) > _DISTURBED
    decides = CPU if target.metric == RATE and CPU in ratios and (saturated or disturbed) else target.metric
    return Verdict(target, decides, ratios)


def _ratios(metric: str, ours: Outcome, theirs: Outcome) -> list[float]:
    pairs = zip(ours.values(metric), theirs.values(metric), strict=False)
    if METRICS[metric].higher_is_better:
        return [mine / other for mine, other in pairs if other]
    return [other / mine for mine, other in pairs if mine]
