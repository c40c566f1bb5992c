"""The README keeps its word: its programs run, its tables name what there is, its links lead somewhere."""

from __future__ import annotations

import difflib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import greenio
from greenio import monkey

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PROGRAMS = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
COMMANDS = re.findall(r"^\$ (.+)$", README, re.MULTILINE)
PAGES = 20
PAGE = b"a page\n"


class Pages(ThreadingHTTPServer):
    """Serves pages; with `together`, none before that many have been asked for."""

    daemon_threads = True
    request_queue_size = 2 * PAGES

    def __init__(self, together: int) -> None:
        super().__init__(("127.0.0.1", 0), Page)
        self.barrier = threading.Barrier(together)


class Page(BaseHTTPRequestHandler):
    server: Pages

    def do_GET(self) -> None:
        try:
            self.server.barrier.wait(10)
        except threading.BrokenBarrierError:
            self.send_error(503, "the others did not come")
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(PAGE)))
        self.end_headers()
        self.wfile.write(PAGE)

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


@pytest.fixture
def pages(request: pytest.FixtureRequest) -> Iterator[str]:
    """Serve pages on loopback; the parameter is how many must be asked for together."""
    with Pages(request.param) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()
        thread.join()


def run(program: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    done = subprocess.run(
        [sys.executable, "-Werror", "-c", program],
        capture_output=True, text=True, timeout=50, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


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
    assert run(program) == f"{PAGES * len(PAGE)}\n"


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
    assert sorted(groups) == sorted(monkey._GROUPS)


def test_table_of_patches_names_what_is_patched():
    """Hold every name of the table against the names that the group replaces."""
    follow = {"asyncio.run", "create_connection", "getfqdn", "kqueue", "makefile", "os.fdopen", "os.popen", "selectors"}
    follow |= {"Barrier", "Event", "Future.result", "Lock", "Process.join", "Semaphore", "queue.Queue"}
    follow |= {"subprocess.Popen"}
    for group, parks, _ in table("What is patched"):
        targets = {patch.target for patch in monkey._GROUPS[group.strip("`")].loaded()}
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


def test_commands_exist():
    scripts = [command for command in COMMANDS if command.startswith("scripts/")]
    assert scripts
    for script in scripts:
        assert os.access(ROOT / script.split()[0], os.X_OK)


def test_local_links_lead_somewhere():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith("https://")]
    assert links
    anchors = {heading.lower().replace(" ", "-") for heading in re.findall(r"^#+ (.+)$", README, re.MULTILINE)}
    for link in links:
        assert link[1:] in anchors if link.startswith("#") else (ROOT / link).exists(), link
