"""`python -m benchmarks`: run the rows and print the table."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from ._machine import cpus, describe
from ._model import Row
from ._runner import Plan, Result, run_row
from ._table import as_json, heading, table
from .rows import ROWS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for.

    Returns:
        1 if a contender failed, else 0. A target that was missed is a result, and no failure.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    rows = _choose(options.rows, parser)
    if options.list:
        _list(rows)
        return 0
    plan = Plan(options.rounds or 2, quick=True) if options.quick else Plan(options.rounds or 5, options.seconds or 0.5)
    machine = describe({name for row in rows for contender in row.contenders for name in contender.needs})
    print(heading(machine))
    if cpus()[0] is None:
        print("One CPU only: server and client share it, and rates mean little; compare CPU time.")
    results: list[Result] = []
    for row in rows:
        results.append(run_row(row, plan, _say if sys.stderr.isatty() else lambda _: None))
        _say("")
        print(table(results[-1]), flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(as_json(machine, results)))
    return int(any(outcome.state == "failed" for result in results for outcome in result.outcomes))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="greenio against its peers")
    parser.add_argument("--rows", metavar="1,echo,...", help="rows to run, by number or name; default: all")
    parser.add_argument("--rounds", type=int, help="rounds of each contender (default 5)")
    parser.add_argument("--seconds", type=float, help="how long a round lasts (default 0.5)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that everything runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every round of every contender to FILE")
    parser.add_argument("--list", action="store_true", help="list rows, contenders and targets, and run nothing")
    return parser


def _choose(chosen: str | None, parser: argparse.ArgumentParser) -> list[Row]:
    if chosen is None:
        return list(ROWS)
    words = [word.strip() for word in chosen.split(",")]
    known = {str(row.number) for row in ROWS} | {row.name for row in ROWS}
    unknown = [word for word in words if word not in known]
    if unknown:
        parser.error(f"no row {unknown[0]!r}; there are {', '.join(f'{row.number} ({row.name})' for row in ROWS)}")
    return [row for row in ROWS if str(row.number) in words or row.name in words]


def _list(rows: Sequence[Row]) -> None:
    for row in rows:
        print(f"{row.number} {row.name}: {row.title}")
        for contender in row.contenders:
            print(f"    {contender.name}")
        for target in row.targets:
            print(f"    target: {target.contender} >= {target.at_least or 'any'} x {target.than} ({target.metric})")
        for limit in row.limits:
            print(f"    limit: {limit.contender} <= {limit.at_most:g} ({limit.metric})")


def _say(what: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{what}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
