"""Results as text and as JSON."""

from __future__ import annotations

import datetime
import statistics
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ._model import CPU, METRICS, RATE, Limit
from ._runner import Outcome, Result, Verdict

__all__ = ["as_json", "heading", "table"]

_WIDTH = 136
_NAME = 42
_CELL = 27
_PLAIN = frozenset({"busy", "client", "waited"})
"""Columns without a spread."""


_LEGEND = (
    "Values are medians over interleaved rounds, with (least..most). Ratios are medians of the rounds' own ratios; "
    "above 1 the first is better. 'busy' is the share of a CPU that the measured process used, 'client' that of "
    "the process driving it; 'waited' is how long the measured process stood in line for its CPU. The rate decides, "
    "unless the first of a pair waited more than 10 % of the time (other programs were running) or the client was "
    "busier than 90 %: then CPU time does."
)


def heading(machine: Mapping[str, str]) -> str:
    """Describe what the figures were measured on, and how to read them."""
    facts = ("cpu", "system", "python", "load")
    paragraphs = (
        ", ".join([*(machine[fact] for fact in facts[:3]), f"load {machine['load']}"]),
        ", ".join(f"{name} {version}" for name, version in machine.items() if name not in facts),
        _LEGEND,
    )
    return "\n".join(textwrap.fill(paragraph, _WIDTH) for paragraph in paragraphs)


def table(result: Result) -> str:
    """Lay out one row: its contenders, and under them its targets."""
    return "\n".join([*_contenders(result), *_targets(result.verdicts), *_limits(result)])


def _contenders(result: Result) -> Iterator[str]:
    row = result.row
    title = f"{row.number} {row.name}: {row.title}"
    yield "=" * _WIDTH
    yield title
    if row.note:
        yield textwrap.fill(row.note, _WIDTH)
    yield f"{'contender':{_NAME}}" + "".join(f"{METRICS[key].title:>{_width(key)}}" for key in row.columns)
    for outcome in result.outcomes:
        yield f"{outcome.contender.name:{_NAME}}" + _cells(outcome, row.columns)


def _width(key: str) -> int:
    return 8 if key in _PLAIN else _CELL


def _cells(outcome: Outcome, columns: Sequence[str]) -> str:
    if outcome.state != "measured":
        return f"  {outcome.state}: {outcome.reason}"
    return "".join(f"{_cell(key, outcome.values(key)):>{_width(key)}}" for key in columns)


def _cell(key: str, values: list[float]) -> str:
    if not values:
        return "-"
    return _spread(METRICS[key].form, values, plain=key in _PLAIN)


def _spread(form: str, values: Sequence[float], *, plain: bool = False) -> str:
    middle = format(statistics.median(values), form)
    return middle if plain else f"{middle} ({min(values):{form}}..{max(values):{form}})"


def _targets(verdicts: Sequence[Verdict]) -> Iterator[str]:
    if not verdicts:
        return
    shown = list(dict.fromkeys(key for verdict in verdicts for key in verdict.ratios))
    yield "-" * _WIDTH
    yield f"{'ratio':{_NAME + 32}}{'target':>8}" + "".join(f"{_ratio_title(key):>21}" for key in shown) + "  verdict"
    for verdict in verdicts:
        yield _target(verdict, shown)


def _ratio_title(key: str) -> str:
    return {RATE: "by rate", CPU: "by CPU time"}.get(key, f"by {METRICS[key].title}")


def _target(verdict: Verdict, shown: Sequence[str]) -> str:
    target = verdict.target
    wanted = "-" if target.at_least is None else f"{target.at_least:.2f}"
    cells = "".join(f"{_spread('.2f', verdict.ratios[key]) if verdict.ratios.get(key) else '-':>21}" for key in shown)
    note = f" (by {METRICS[verdict.decided_by].title})" if verdict.decided_by != RATE else ""
    return f"{f'{target.contender} : {target.than}':{_NAME + 32}}{wanted:>8}{cells}  {verdict.word}{note}"


def _limits(result: Result) -> Iterator[str]:
    for limit in result.row.limits:
        metric, value = METRICS[limit.metric], _reached(result, limit)
        said = "not measured" if value is None else f"{value:{metric.form}}, {_word(value, limit)}"
        yield f"{limit.contender}: {metric.title} at most {limit.at_most:{metric.form}}: {said}"


def _reached(result: Result, limit: Limit) -> float | None:
    (outcome,) = (outcome for outcome in result.outcomes if outcome.contender.name == limit.contender)
    return outcome.median(limit.metric)


def _word(value: float | None, limit: Limit) -> str:
    return "not measured" if value is None else "ok" if value <= limit.at_most else "exceeded"


def as_json(machine: Mapping[str, str], results: Sequence[Result]) -> dict[str, Any]:
    """Give everything that was measured, every round of it."""
    date = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    return {"date": date, "machine": dict(machine), "rows": [_rounded(_row_json(result)) for result in results]}


def _rounded(value: Any) -> Any:
    """Keep five digits of each figure: more than was measured, and half the size."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list) else value


def _row_json(result: Result) -> dict[str, Any]:
    row = result.row
    return {
        "number": row.number,
        "name": row.name,
        "title": row.title,
        "note": row.note,
        "columns": list(row.columns),
        "contenders": [_outcome_json(outcome) for outcome in result.outcomes],
        "targets": [_verdict_json(verdict) for verdict in result.verdicts],
        "limits": [_limit_json(result, limit) for limit in row.limits],
    }


def _outcome_json(outcome: Outcome) -> dict[str, Any]:
    keys = dict.fromkeys(key for sample in outcome.samples for key in sample)
    return {
        "name": outcome.contender.name,
        "state": outcome.state,
        "reason": outcome.reason,
        "median": {key: outcome.median(key) for key in keys},
        "rounds": [dict(sample) for sample in outcome.samples],
    }


def _limit_json(result: Result, limit: Limit) -> dict[str, Any]:
    value = _reached(result, limit)
    return {
        "contender": limit.contender,
        "metric": limit.metric,
        "at_most": limit.at_most,
        "reached": value,
        "verdict": _word(value, limit),
    }


def _verdict_json(verdict: Verdict) -> dict[str, Any]:
    return {
        "contender": verdict.target.contender,
        "than": verdict.target.than,
        "target": verdict.target.at_least,
        "reached": verdict.reached,
        "decided_by": verdict.decided_by,
        "verdict": verdict.word,
        "ratios": {key: list(values) for key, values in verdict.ratios.items()},
    }
