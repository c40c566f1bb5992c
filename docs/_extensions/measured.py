"""The page of measured comparisons: `_generated/benchmarks.md` and its plots, from `benchmarks/*.json`.

Sphinx calls this before it reads the pages; `scripts/plot-benchmarks` does without Sphinx. A JSON is what
`python -m benchmarks --json FILE` wrote.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib import rcParams
from matplotlib.figure import Figure

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "docs" / "benchmarks"
TARGET = ROOT / "docs" / "_generated"
sys.path.append(str(ROOT))

from benchmarks._model import CPU, METRICS, RATE  # noqa: E402

__all__ = ["setup", "write"]

FACTS = ("cpu", "system", "python", "load")
OURS, THEIRS = "#2a7f62", "#9aa5b1"
MOST_WAITED = 0.1
NOT_PLOTTED = ("waited", "client", "busy")
rcParams["svg.hashsalt"] = "greenio"  # the same file for the same figures
rcParams["svg.fonttype"] = "none"


def write(source: Path, target: Path) -> list[Path]:
    """Write the page and the plots of every JSON file of a directory.

    Returns:
        The files that were written.
    """
    target.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    parts: list[str] = []
    for path in sorted(source.glob("*.json")):
        run = json.loads(path.read_text())
        parts += heading(path, run)
        for row in run["rows"]:
            plot = target / f"{path.stem}-{row['name']}.svg"
            key = key_of(row)
            if key is not None and draw(row, key, plot):
                written.append(plot)
                parts += section(row, key, plot.name)
            else:
                parts += section(row, None, "")
    page = target / "benchmarks.md"
    page.write_text("\n".join(parts) + "\n")
    return [*written, page]


def heading(path: Path, run: dict[str, Any]) -> Iterator[str]:
    machine = run["machine"]
    versions = ", ".join(f"{name} {value}" for name, value in machine.items() if name not in FACTS)
    rounds = max((len(each["rounds"]) for row in run["rows"] for each in row["contenders"]), default=0)
    yield f"## {machine['python']}, {run['date']}\n"
    yield f"`docs/benchmarks/{path.name}`: measured on {run['date']} with {machine['python']} on {machine['cpu']}, "
    yield f"{machine['system']}; load at the start {machine['load']}; {rounds} rounds. {versions}.\n"


def key_of(row: dict[str, Any]) -> str | None:
    """Choose what is drawn: the first column that was measured, or CPU time where rates say little."""
    measured = {key for each in row["contenders"] for key in each["median"]}
    if CPU in measured and stood_in_line(row):
        return CPU
    return next((key for key in row["columns"] if key in measured and key not in NOT_PLOTTED), None)


def stood_in_line(row: dict[str, Any]) -> bool:
    """Tell whether other programs kept the contenders from their CPU so often that CPU time decides."""
    waits = [each["median"]["waited"] for each in row["contenders"] if "waited" in each["median"]]
    return RATE in row["columns"] and bool(waits) and median(waits) > MOST_WAITED


def draw(row: dict[str, Any], key: str, path: Path) -> bool:
    """Draw the medians as bars, with the least and the most of all rounds."""
    shown = [each for each in row["contenders"] if each["median"].get(key) is not None]
    if not shown:
        return False
    shown.reverse()
    middles = [each["median"][key] for each in shown]
    spread = [[value - min(values(each, key)) for value, each in zip(middles, shown, strict=True)],
              [max(values(each, key)) - value for value, each in zip(middles, shown, strict=True)]]  # fmt: skip
    figure = Figure(figsize=(8, 0.9 + 0.32 * len(shown)), layout="constrained")
    axes = figure.subplots()
    colours = [OURS if "greenio" in each["name"].replace("greenletio", "") else THEIRS for each in shown]
    axes.barh([each["name"] for each in shown], middles, xerr=spread, color=colours, ecolor="#444", height=0.7)
    metric = METRICS[key]
    axes.set_xlabel(f"{metric.title} ({'more' if metric.higher_is_better else 'less'} is better)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})
    return True


def values(contender: dict[str, Any], key: str) -> list[float]:
    return [sample[key] for sample in contender["rounds"] if key in sample] or [contender["median"][key]]


def section(row: dict[str, Any], key: str | None, plot: str) -> Iterator[str]:
    yield f"### {row['name']}: {row['title']}\n"
    if row["note"]:
        yield f"{row['note']}\n"
    if key is not None:
        if key == CPU and row["columns"][0] != CPU:
            yield "Other programs kept the processes waiting for their CPU, so CPU time is drawn and not the rate.\n"
        yield f"![{METRICS[key].title} of each contender]({plot})\n"
    keys = [each for each in row["columns"] if any(each in found["median"] for found in row["contenders"])]
    yield f"| contender | {' | '.join(METRICS[each].title for each in keys)} |"
    yield "| --- |" + " ---: |" * len(keys)
    for contender in row["contenders"]:
        cells = [cell(contender, each) for each in keys]
        if contender["state"] != "measured":
            cells = [contender["state"], *[""] * (len(keys) - 1)]
        yield f"| {contender['name']} | {' | '.join(cells)} |"
    yield ""
    yield from ratios(row)


def cell(contender: dict[str, Any], key: str) -> str:
    if contender["median"].get(key) is None:
        return ""
    form, found = METRICS[key].form, values(contender, key)
    middle = format(median(found), form)
    return middle if key in NOT_PLOTTED else f"{middle} ({min(found):{form}} to {max(found):{form}})"


def ratios(row: dict[str, Any]) -> Iterator[str]:
    measured = [each for each in row["targets"] if each["reached"] is not None]
    if not measured:
        return
    yield "| ratio | median | target | decided by |"
    yield "| --- | ---: | ---: | --- |"
    for each in measured:
        wanted = "" if each["target"] is None else f"{each['target']:.2f}, {each['verdict']}"
        decided = METRICS[each["decided_by"]].title
        yield f"| {each['contender']} : {each['than']} | {each['reached']:.2f} | {wanted} | {decided} |"
    yield ""


def setup(app: Any) -> dict[str, Any]:
    """Have Sphinx write the page before it reads the others."""
    app.connect("builder-inited", lambda _: write(SOURCE, TARGET))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


if __name__ == "__main__":
    for written in write(Path(sys.argv[1]) if sys.argv[1:] else SOURCE, Path(sys.argv[2]) if sys.argv[2:] else TARGET):
        print(written)  # noqa: T201
