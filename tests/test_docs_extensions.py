"""What docs/ makes at build time: the page of measured comparisons, and the table of patched names."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from documents import ROOT

EXTENSIONS = ROOT / "docs" / "_extensions"
NEEDED = ("matplotlib", "sphinx")
pytestmark = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, NEEDED)), reason="the extra `docs` is not installed"
)


def run(*arguments: str | Path) -> str:
    """Run Python elsewhere: with matplotlib in this process, each of its collections would take twice as long."""
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=55, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def contender(name: str, rate: float, waited: float) -> dict[str, Any]:
    sample = {"rate": rate, "cpu": 1e6 / rate, "waited": waited}
    rounds = [sample, {**sample, "rate": 2 * rate}]
    return {"name": name, "state": "measured", "reason": "", "median": {**sample, "rate": 1.5 * rate}, "rounds": rounds}


def row(waited: float) -> dict[str, Any]:
    absent = {"name": "peer", "state": "not installed", "reason": "no peer", "median": {}, "rounds": []}
    ratio = {"contender": "greenio", "than": "gevent", "target": 1.5, "reached": 2.0, "decided_by": "rate"}
    return {
        "number": 1,
        "name": "echo",
        "title": "some work",
        "note": "Mind this.",
        "columns": ["rate", "cpu", "waited"],
        "contenders": [contender("greenio", 200.0, waited), contender("gevent", 100.0, waited), absent],
        "targets": [{**ratio, "verdict": "ok", "ratios": {}}],
        "limits": [],
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Have the page of three files written, as scripts/plot-benchmarks does."""
    source, target = tmp_path_factory.mktemp("json"), tmp_path_factory.mktemp("made")
    empty = row(waited=0.0)
    empty["contenders"] = empty["contenders"][2:]
    machine = {"python": "CPython 3.11.7", "cpu": "a CPU", "system": "Linux", "load": "0.1", "greenlet": "3.0"}
    for name, each in {"quiet": row(0.0), "quiet-again": row(0.0), "busy": row(0.4), "empty": empty}.items():
        measured = {"date": "2026-01-02", "machine": machine, "rows": [each]}
        (source / f"{name}.json").write_text(json.dumps(measured))
    written = run(EXTENSIONS / "measured.py", source, target).splitlines()
    assert sorted(written) == sorted(map(str, target.iterdir()))
    return target


def part_of(made: Path, name: str) -> str:
    (part,) = re.findall(rf"`docs/benchmarks/{name}\.json`.*?(?=^## |\Z)", text_of(made), re.MULTILINE | re.DOTALL)
    return part


def text_of(made: Path) -> str:
    return (made / "benchmarks.md").read_text()


def test_page_tells_what_was_measured(made):
    page = part_of(made, "quiet")
    assert "measured on 2026-01-02 with CPython 3.11.7" in page
    assert "2 rounds. greenlet 3.0." in page
    assert "| greenio | 300 (200 to 400) | 5,000.00 (5,000.00 to 5,000.00) | 0% |" in page
    assert "| peer | not installed |  |  |" in page
    assert "| greenio : gevent | 2.00 | 1.50, ok | ops/s |" in page
    assert "![ops/s of each contender](quiet-echo.svg)" in page
    assert "gevent" in (made / "quiet-echo.svg").read_text()


def test_cpu_time_is_drawn_where_the_machine_was_busy(made):
    page = part_of(made, "busy")
    assert "CPU time is drawn" in page
    assert "![CPU us/op of each contender](busy-echo.svg)" in page


def test_row_without_figures_has_no_plot(made):
    assert "![" not in part_of(made, "empty")
    assert not (made / "empty-echo.svg").exists()


def test_same_figures_make_the_same_plot(made):
    assert (made / "quiet-echo.svg").read_bytes() == (made / "quiet-again-echo.svg").read_bytes()


def test_measurements_are_small_and_dated():
    files = list((ROOT / "docs" / "benchmarks").glob("*.json"))
    assert files
    for path in files:
        assert path.stat().st_size < 250_000
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", json.loads(path.read_text())["date"])


def test_every_group_has_its_meaning_and_its_names():
    program = """
        import sys
        sys.path.insert(0, sys.argv[1])
        import patched_names
        from greenio import monkey
        from greenio._patches import _patching

        assert sorted(patched_names.meanings_of_groups()) == sorted(_patching.GROUPS)
        for group in patched_names.groups():
            names = patched_names.names_by_owner(group)
            assert names or group.name == "green_threads", group.name
            assert not any(owner.startswith("greenio") for owner in names)
        print(patched_names.how(_patching.GROUPS["files"]))
        """
    assert run("-c", textwrap.dedent(program), EXTENSIONS) == "On request: patch_all(files=True).\n"
