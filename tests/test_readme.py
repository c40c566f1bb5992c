"""The README keeps its word: its tables name what there is, its links lead somewhere, and its first programs differ."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator

import pytest

import greenio
from documents import ROOT, Pages, run
from greenio._patches import _patching

README = (ROOT / "README.md").read_text()
PROGRAMS = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
PAGES = 20


@pytest.fixture
def pages(request: pytest.FixtureRequest) -> Iterator[str]:
    """Serve pages on loopback; the parameter is how many must be asked for together."""
    with Pages.serving(request.param) as address:
        yield address


def test_there_are_programs():
    assert len(PROGRAMS) == 4


def test_two_lines_differ_between_the_first_two():
    before, after = (program.split("\n") for program in PROGRAMS[:2])
    added = [line for line in difflib.ndiff(before, after) if line.startswith("+ ")]
    assert len(added) == 2
    assert "monkey.patch_all()" in added[0]
    assert "to_greenlet(" in added[1]


@pytest.mark.parametrize(("number", "pages"), [(0, 1), (1, PAGES)], indirect=["pages"], ids=["blocking", "green"])
def test_first_programs_fetch_all_pages(number, pages):
    program = PROGRAMS[number].replace("https://example.org/", pages)
    assert pages in program
    assert run(program) == f"{PAGES * len(Pages.PAGE)}\n"


def test_program_of_patches():
    assert run(PROGRAMS[2]).startswith("patched: time\n")


def test_program_of_names():
    assert run(PROGRAMS[3]) == "9\n"


def table(heading: str) -> list[list[str]]:
    section = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [line for line in section.split("\n") if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows[2:]]


def test_table_of_patches_has_every_group():
    groups = [row[0].strip("`") for row in table("What is patched")]
    assert sorted(groups) == sorted(_patching.GROUPS)


def test_table_of_patches_names_what_is_patched():
    """Hold every name of the table against the names that the group replaces."""
    follow = {"asyncio.run", "create_connection", "getfqdn", "kqueue", "makefile", "os.fdopen", "selectors"}
    follow |= {
        "Barrier",
        "Event",
        "Future.result",
        "Lock",
        "Process.join",
        "Semaphore",
        "queue.Queue",
        "subprocess.Popen",
    }
    follow |= {"Popen.communicate", "Popen.wait", "call", "check_output", "os.popen", "os.spawn", "pty.spawn", "run"}
    follow.add("ssl.create_default_context")
    for group, parks, _ in table("What is patched"):
        targets = {patch.target for patch in _patching.GROUPS[group.strip("`")].loaded()}
        last = {target.rpartition(".")[2] for target in targets}
        owners = {target.rpartition(".")[0] for target in targets}
        for name in re.findall(r"`([\w.]+)[*()]*`", parks):
            starts = any(found.startswith(name) for found in last)  # `recv*`
            is_owner = name in owners or any(owner.endswith(f".{name}") for owner in owners)
            known = name in targets or is_owner or starts or name in follow
            assert known, f"{name} is not patched by {group}"


def test_every_public_name_is_mentioned():
    words = set(re.findall(r"\w+", README))
    missing = set(greenio.__all__) - words - {"Timeout"}
    assert not missing


def test_local_links_lead_somewhere():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith("https://")]
    assert links
    anchors = {heading.lower().replace(" ", "-") for heading in re.findall(r"^#+ (.+)$", README, re.MULTILINE)}
    for link in links:
        assert link[1:] in anchors if link.startswith("#") else (ROOT / link).exists(), link
