"""The benchmark runs: every row in tiny sizes, and the arithmetic of its ratios."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks._model import CPU, METRICS, RATE, Contender, Limit, Row, Target
from benchmarks._runner import Outcome, Plan, Verdict, run_row
from benchmarks._session import Session, UnavailableError, share
from benchmarks._table import as_json, table
from benchmarks.rows import ROWS
from benchmarks.servers import redis as redis_module

ROOT = Path(__file__).resolve().parent.parent
QUICK = Plan(rounds=2, seconds=0.01, quick=True, limit=20)


@pytest.fixture(autouse=True)
def children_find_this_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"))


def run_benchmarks(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=55, check=False)


# What the children run. They find this module by its name, as they find the rows.


def steady(*, pace: float = 1.0) -> Session:
    """Claims a pace, so that ratios are known."""
    return Session(lambda count: {"seconds": pace})


def absent() -> Session:
    raise UnavailableError("no such server")


def broken() -> Session:
    raise LookupError("as it should")


def breaks_later() -> Session:
    def round_(count: int) -> None:
        raise LookupError(f"in a round of {count}")

    return Session(round_)


def ends_early() -> Session:
    return Session(lambda _: os._exit(3))


def never_answers() -> Session:
    import signal

    return Session(lambda _: signal.pause())


def hooked() -> Session:
    calls: list[str] = []

    def round_(_: int) -> dict[str, float]:
        assert calls == ["before"]
        return {}

    return Session(round_, before=lambda: calls.append("before"), after=calls.clear)


def pids() -> Session:
    return Session(lambda _: {"seconds": float(os.getpid())})


def affinity() -> Session:
    return Session(lambda _: {"seconds": float(len(os.sched_getaffinity(0)))})


def row(*contenders: Contender, targets: tuple[Target, ...] = (), **options: Any) -> Row:
    return Row(9, "test", "a row of the tests", contenders, targets, **{"fixed": (10, 5), **options})


def outcomes(result: Any) -> dict[str, Outcome]:
    return {outcome.contender.name: outcome for outcome in result.outcomes}


@pytest.mark.parametrize("each", ROWS, ids=lambda each: each.name)
def test_every_row_runs(each: Row, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    done = run_benchmarks("--quick", "--rows", each.name, "--json", str(path))
    assert path.exists(), done.stderr
    (found,) = json.loads(path.read_text())["rows"]
    assert [contender["name"] for contender in found["contenders"]] == [c.name for c in each.contenders]
    for contender in found["contenders"]:
        assert contender["state"] in ("measured", "not installed", "not available"), contender
        if contender["state"] == "measured":
            assert len(contender["rounds"]) == 2
            assert contender["median"][CPU] > 0
            assert all(contender["median"].get(column) is not None for column in each.columns), contender
        else:
            assert contender["reason"]
        assert contender["name"] in done.stdout
    assert len(found["targets"]) == len(each.targets)
    assert len(found["limits"]) == len(each.limits)
    assert done.returncode == 0, done.stdout


def test_what_is_not_there_is_shown() -> None:
    result = run_row(
        row(
            Contender("here", steady),
            Contender("not installed", steady, needs=("no_such_module",)),
            Contender("absent", absent),
            Contender("broken", broken),
            Contender("breaks later", breaks_later),
            Contender("ends early", ends_early),
        ),
        QUICK,
        lambda _: None,
    )
    found = outcomes(result)
    assert {name: outcome.state for name, outcome in found.items()} == {
        "here": "measured",
        "not installed": "not installed",
        "absent": "not available",
        "broken": "failed",
        "breaks later": "failed",
        "ends early": "failed",
    }
    assert found["absent"].reason == "no such server"
    assert found["broken"].reason == "LookupError: as it should"
    assert found["breaks later"].reason == "LookupError: in a round of 5"
    assert "not installed: no_such_module" in table(result)
    assert "failed: LookupError: as it should" in table(result)


def test_a_contender_that_hangs_is_given_up() -> None:
    result = run_row(
        row(Contender("hangs", never_answers), Contender("here", steady)),
        Plan(rounds=1, quick=True, limit=2),
        lambda _: None,
    )
    found = outcomes(result)
    assert found["hangs"].state == "failed"
    assert "did not answer in 2 s" in found["hangs"].reason
    assert found["here"].state == "measured"


def test_ratios_are_above_one_where_the_first_is_better() -> None:
    targets = (Target("quick", "slow", 2.0, "seconds"), Target("slow", "quick", 1.0, "seconds"))
    result = run_row(
        row(
            Contender("quick", steady, {"pace": 1.0}),
            Contender("slow", steady, {"pace": 3.0}),
            targets=targets,
            columns=("seconds",),
        ),
        QUICK,
        lambda _: None,
    )
    better, worse = result.verdicts
    assert (better.reached, better.word) == (3.0, "ok")
    assert (worse.word, worse.decided_by) == ("short", "seconds")
    assert worse.reached == pytest.approx(1 / 3)
    assert "3.00 (3.00..3.00)" in table(result)
    written = json.loads(json.dumps(as_json({"python": "any"}, [result])))
    assert written["rows"][0]["targets"][0]["reached"] == 3.0


def test_limits() -> None:
    limits = tuple(Limit(name, 2.0, "seconds") for name in ("quick", "slow", "absent"))
    contenders = (Contender("quick", steady, {"pace": 1.0}), Contender("slow", steady, {"pace": 3.0}))
    result = run_row(
        row(*contenders, Contender("absent", absent), limits=limits, columns=("seconds",)), QUICK, lambda _: None
    )
    assert "quick: seconds at most 2.00: 1.00, ok" in table(result)
    assert "slow: seconds at most 2.00: 3.00, exceeded" in table(result)
    assert "absent: seconds at most 2.00: not measured" in table(result)
    written = as_json({}, [result])["rows"][0]["limits"]
    assert [limit["verdict"] for limit in written] == ["ok", "exceeded", "not measured"]


def verdict(*, client: float = 0.5, waited: float = 0.01) -> Verdict:
    """Judge a pair whose client was that busy, and whose first waited that long."""
    from benchmarks import _runner

    fast, slow = Contender("fast", steady), Contender("slow", steady)
    judged = row(fast, slow, columns=(RATE, CPU))
    samples = [
        Outcome(fast, samples=[{RATE: 110.0, CPU: 1.0, "client": client, "waited": waited}]),
        Outcome(slow, samples=[{RATE: 100.0, CPU: 2.0, "client": 0.5, "waited": 0.5}]),
    ]
    return _runner._judge(judged, Target("fast", "slow", 1.5), samples)


def test_cpu_time_decides_where_the_client_is_the_limit() -> None:
    assert (verdict().decided_by, verdict().word) == (RATE, "short")
    assert (verdict(client=0.99).decided_by, verdict(client=0.99).word) == (CPU, "ok")


def test_cpu_time_decides_where_other_programs_had_the_cpu() -> None:
    assert (verdict(waited=0.2).decided_by, verdict(waited=0.2).word) == (CPU, "ok")


def test_a_peer_that_was_not_measured_gives_no_verdict() -> None:
    result = run_row(
        row(
            Contender("here", steady),
            Contender("not installed", steady, needs=("no_such_module",)),
            targets=(Target("here", "not installed", 1.0),),
        ),
        QUICK,
        lambda _: None,
    )
    assert result.verdicts[0].word == "not measured"
    assert "not measured" in table(result)


def test_hooks_are_called_around_each_round() -> None:
    result = run_row(row(Contender("hooked", hooked)), QUICK, lambda _: None)
    assert outcomes(result)["hooked"].state == "measured"


def test_a_fresh_row_has_a_process_for_each_round() -> None:
    fresh = run_row(row(Contender("any", pids), fresh=True), QUICK, lambda _: None)
    kept = run_row(row(Contender("any", pids)), QUICK, lambda _: None)
    assert len(set(outcomes(fresh)["any"].values("seconds"))) == 2
    assert len(set(outcomes(kept)["any"].values("seconds"))) == 1


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one CPU only")
def test_what_is_measured_has_one_cpu() -> None:
    result = run_row(row(Contender("pinned", affinity), Contender("free", affinity, free=True)), QUICK, lambda _: None)
    found = outcomes(result)
    assert found["pinned"].median("seconds") == 1
    assert found["free"].median("seconds") == len(os.sched_getaffinity(0))


def test_rows_are_consistent() -> None:
    assert {each.number for each in ROWS} == set(range(1, 14))
    assert len({each.name for each in ROWS}) == len(ROWS)
    for each in ROWS:
        names = [contender.name for contender in each.contenders]
        assert len(set(names)) == len(names)
        assert set(each.columns) <= set(METRICS)
        for target in each.targets:
            assert {target.contender, target.than} <= set(names)
            assert target.metric in METRICS
        for limit in each.limits:
            assert limit.contender in names
            assert limit.metric in METRICS


def test_the_command_line_chooses() -> None:
    listed = run_benchmarks("--list", "--rows", "2,echo")
    assert listed.returncode == 0
    assert "2 park-once" in listed.stdout
    assert "3 echo" in listed.stdout
    assert "1 noop" not in listed.stdout
    unknown = run_benchmarks("--rows", "99")
    assert unknown.returncode == 2
    assert "no row '99'" in unknown.stderr


def test_the_command_on_the_page_of_comparisons() -> None:
    page = (ROOT / "docs" / "measured.md").read_text()
    (arguments,) = re.findall(r"^\$ python -m benchmarks (.*)$", page, re.MULTILINE)
    listed = run_benchmarks("--list", *arguments.split())
    assert (listed.returncode, listed.stderr) == (0, "")


def test_shares_add_up() -> None:
    assert share(10, 4) == [3, 3, 2, 2]
    assert share(2, 3) == [1, 1, 0]


def test_the_embedded_redis_answers() -> None:
    """As far as the protocol goes; that redis-py can use it is for row 4 to show where no server is."""
    answer = redis_module._Resp({})
    written: list[bytes] = []

    class Transport:
        def write(self, data: bytes) -> None:
            written.append(data)

    answer.connection_made(Transport())
    answer.data_received(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\nab\r\n*2\r\n$3\r\nGE")
    assert written == [b"+OK\r\n"]
    answer.data_received(b"T\r\n$1\r\nk\r\n*2\r\n$3\r\nGET\r\n$1\r\nx\r\n")
    assert written[1:] == [b"$2\r\nab\r\n", b"$-1\r\n"]
