"""README.md and docs/ as programs: their code blocks, and the processes and servers that these run in.

A page's `python` blocks run one after another in one process, in one namespace. A comment before a block says
otherwise, and a `text` block after one is what it prints (figures with a point in them are measured, and need only be
near; `...` is anything; a page may break a line at a blank):

    <!-- test: alone -->            in a process of its own
    <!-- test: program=before -->   in the process of that name
    <!-- test: needs=gevent -->     skipped where there is no such module, or no such server
    <!-- test: pytest -->           tests, run by pytest, each block of a page in a file of its own
    <!-- test: file=service.py -->  written to a scratch directory, where commands find it
    <!-- test: run -->              (console) executed in that directory; what follows a command is what it prints
    <!-- test: serve -->            (console) executed and left running until the page's commands are through
    <!-- test: ports=8000,9000 -->  (anywhere) those numbers stand for free ports
    <!-- shown only: reason -->     not executed
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

__all__ = [
    "PAGES",
    "ROOT",
    "SERVERS",
    "Block",
    "Pages",
    "Workshop",
    "blocks_of",
    "compare",
    "missing",
    "ports_of",
    "run",
    "run_blocks",
    "run_pytest",
]

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SERVERS = {"redis": 6379, "mariadb": 3306, "postgres": 5432, "rabbitmq": 5672}
WORKER = Path(__file__).with_name("documents_worker.py")
BLOCK = re.compile(
    r"^(?P<fence>```+)(?P<language>[\w{}-]*)[^\n]*\n(?P<text>.*?)^(?P=fence)[ ]*$", re.MULTILINE | re.DOTALL
)
MARK = re.compile(r"<!-- (test|shown only): ((?:(?!-->).)*) -->\s*\Z", re.DOTALL)


@dataclass
class Block:
    """One code block of a page.

    Attributes:
        page: The page's path, from the root of the checkout.
        line: The number of its first line.
        language: What the fence says.
        text: What stands in it.
        marks: What the comment before it says.
        shown: Why it is not executed, if it is not.
        prints: What it prints, if the page tells.
    """

    page: str
    line: int
    language: str
    text: str
    marks: dict[str, str] = field(default_factory=dict)
    shown: str = ""
    prints: str | None = None

    @property
    def name(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def program(self) -> str:
        return self.name if "alone" in self.marks else self.marks.get("program", "")

    @property
    def needs(self) -> list[str]:
        return [need for need in self.marks.get("needs", "").split(",") if need]


def blocks_of(path: Path) -> list[Block]:
    """Read the code blocks of a page."""
    whole = path.read_text()
    page = str(path.relative_to(ROOT))
    found: list[Block] = []
    end = 0
    for match in BLOCK.finditer(whole):
        between, end_before, end = whole[end : match.start()], end, match.end()
        block = Block(page, whole[: match.start()].count("\n") + 2, match["language"], match["text"])
        if mark := MARK.search(between):
            block.shown = mark[2] if mark[1] == "shown only" else ""
            block.marks = {} if block.shown else marks(mark[2])
        if block.language == "text" and end_before and not between.strip() and found[-1].language == "python":
            found[-1].prints = block.text
            continue
        found.append(block)
    return found


def marks(text: str) -> dict[str, str]:
    return {name: value for name, _, value in (word.partition("=") for word in text.split())}


def missing(needs: list[str]) -> list[str]:
    """List what is needed and not here: modules that are not installed, servers that do not answer."""
    return [
        need
        for need in dict.fromkeys(needs)
        if not (answers(SERVERS[need]) if need in SERVERS else importlib.util.find_spec(need))
    ]


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=2).close()
    except OSError:
        return False
    return True


def environment() -> dict[str, str]:
    """Make an environment without proxies, where this interpreter's programs are found first."""
    found = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    found["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), found.get("PATH", "")])
    return {**found, "PYTHONUNBUFFERED": "1"}


def run(program: str) -> str:
    """Run a program in an interpreter of its own; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-Werror", "-c", program],
        capture_output=True, text=True, timeout=50, check=False, env=environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_blocks(blocks: list[Block], replaced: dict[str, str], directory: Path) -> None:
    """Run blocks in one process, and hold what each prints against what its page says."""
    given = [{"name": block.name, "line": block.line, "text": replace(block.text, replaced)} for block in blocks]
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", str(WORKER)],
        input=json.dumps(given), capture_output=True, text=True, timeout=55, check=False,
        env=environment(), cwd=directory,
    )  # fmt: skip
    assert done.returncode == 0, f"{blocks[0].page}\n{done.stderr}\n{done.stdout}"
    printed = dict(json.loads(line) for line in done.stdout.splitlines())
    for block in blocks:
        if block.prints is not None:
            compare(block.name, replace(block.prints, replaced), printed[block.name])


def run_pytest(blocks: list[Block], directory: Path) -> None:
    """Run blocks as test files; all have to pass, and none may be skipped."""
    for block in blocks:
        source = "\n" * (block.line - 1) + block.text
        (directory / f"test_line_{block.line}.py").write_text(source)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        capture_output=True, text=True, timeout=55, check=False, env=environment(), cwd=directory,
    )  # fmt: skip
    assert done.returncode == 0, f"{blocks[0].page}\n{done.stdout}{done.stderr}"
    assert "skipped" not in done.stdout, done.stdout


def replace(text: str, replaced: dict[str, str]) -> str:
    for old, new in replaced.items():
        text = text.replace(old, new)
    return text


def compare(name: str, expected: str, printed: str) -> None:
    """Compare what is printed with what a page says is printed."""
    pattern = re.escape(expected.strip()).replace(r"\.\.\.", ".*?")
    pattern = pattern.replace("\\\n", r"\s")
    pattern = re.sub(r"\d+\\\.\d+", r"(\\d+\\.\\d+)", pattern)
    found = re.fullmatch(pattern, printed.strip(), re.DOTALL)
    assert found, f"{name} prints\n{printed}\nand not\n{expected}"
    for wanted, figure in zip(re.findall(r"\d+\.\d+", expected), found.groups(), strict=True):
        assert is_near(float(wanted), float(figure)), f"{name} prints {figure}, not about {wanted}"


def is_near(wanted: float, figure: float) -> bool:
    """Tell whether a figure that was measured bears out what a page says, on a machine that may be busy.

    Pages wait for so long that a wait which blocks is further off than this.
    """
    return wanted / 4 - 0.05 <= figure <= wanted * 4 + 1


class Pages(ThreadingHTTPServer):
    """Serves pages; with `together`, none before that many have been asked for."""

    daemon_threads = True
    request_queue_size = 128
    PAGE = b"a page\n"

    def __init__(self, together: int = 1) -> None:
        super().__init__(("127.0.0.1", 0), Page)
        self.barrier = threading.Barrier(together)

    @classmethod
    @contextlib.contextmanager
    def serving(cls, together: int = 1) -> Iterator[str]:
        """Serve from a thread; the value is the address."""
        with cls(together) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            try:
                yield f"http://127.0.0.1:{server.server_address[1]}/"
            finally:
                server.shutdown()
                thread.join()


class Page(BaseHTTPRequestHandler):
    server: Pages

    def do_GET(self) -> None:
        if self.server.barrier.parties > 1:
            try:
                self.server.barrier.wait(10)
            except threading.BrokenBarrierError:
                self.send_error(503, "the others did not come")
                return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.PAGE)))
        self.end_headers()
        self.wfile.write(self.server.PAGE)

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


class Workshop:
    """A scratch directory in which the files of a page are written, and its commands executed."""

    def __init__(self, directory: Path, replaced: dict[str, str]) -> None:
        self.directory = directory
        self.replaced = replaced
        self.running: dict[str, subprocess.Popen[str]] = {}

    def __enter__(self) -> Workshop:
        return self

    def __exit__(self, *error: object) -> None:
        for name in tuple(self.running):
            self.stop(name)

    def do(self, block: Block) -> None:
        text = replace(block.text, self.replaced)
        if "file" in block.marks:
            (self.directory / block.marks["file"]).write_text(text)
        elif "serve" in block.marks:
            self.serve(block, text)
        elif "run" in block.marks:
            for command, expected in commands(text):
                compare(block.name, expected, self.output(command))

    def output(self, command: str) -> str:
        done = subprocess.run(
            command, shell=True, cwd=self.directory, env=environment(), capture_output=True, text=True, timeout=30,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}{self.told()}"
        return done.stdout

    def serve(self, block: Block, text: str) -> None:
        """Start a server, instead of the one that the same program was before, and wait until it listens."""
        ((command, _),) = commands(text)
        program, port = shlex.split(command)[0], block.marks["serve"]
        self.stop(port)
        output = (self.directory / f"{port}.log").open("a")
        self.running[port] = subprocess.Popen(
            ["/bin/sh", "-c", f"exec {command}"], cwd=self.directory, env=environment(), text=True,
            stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
        output.close()
        limit = time.monotonic() + 20
        while not answers(int(self.replaced.get(port, port))):
            assert self.running[port].poll() is None, f"{program} ended: {self.told()}"
            assert time.monotonic() < limit, f"{program} does not answer: {self.told()}"
            time.sleep(0.02)

    def stop(self, port: str) -> None:
        if process := self.running.pop(port, None):
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()

    def told(self) -> str:
        return "".join(path.read_text() for path in self.directory.glob("*.log"))


def commands(text: str) -> list[tuple[str, str]]:
    """Part a console block into commands and what each prints."""
    found: list[tuple[str, str]] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], ""))
        elif found:
            found[-1] = (found[-1][0], f"{found[-1][1]}{line}\n")
    return found


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in socks:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in socks]


def ports_of(path: Path) -> dict[str, str]:
    """Choose free ports for those that a page names."""
    names: list[str] = re.findall(r"<!-- test: ports=([\d,]+) -->", path.read_text())
    ports = [port for each in names for port in each.split(",")]
    return dict(zip(ports, map(str, free_ports(len(ports))), strict=True))
