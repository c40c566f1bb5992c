"""README.md and docs/ keep their word: blocks run, commands exist, and so do the names that are mentioned."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

import greenio
from documents import (
    PAGES,
    ROOT,
    SERVERS,
    Block,
    Pages,
    Workshop,
    blocks_of,
    compare,
    missing,
    ports_of,
    run_blocks,
    run_pytest,
)
from greenio import monkey

BLOCKS = {str(path.relative_to(ROOT)): blocks_of(path) for path in PAGES}
ALL = [block for blocks in BLOCKS.values() for block in blocks]
NOT_CODE = {"", "text", "toml", "{toctree}", "{include}", "{patched-names}", "{eval-rst}"}
MOST_SHOWN_ONLY = 12
NEWER = {"greenio.eager_task_factory"} if sys.version_info < (3, 12) else set()
"""Names that there are on later versions of Python only."""


def is_executed(block: Block) -> bool:
    return block.language == "python" and not block.shown and {"file", "pytest"}.isdisjoint(block.marks)


def programs() -> dict[str, list[Block]]:
    """Gather the blocks that share a process."""
    found: dict[str, list[Block]] = {}
    for block in filter(is_executed, ALL):
        name = block.program if block.program.startswith(block.page) else f"{block.page} {block.program}".strip()
        found.setdefault(name, []).append(block)
    return found


PROGRAMS = programs()
WORKSHOPS = [page for page, blocks in BLOCKS.items() if any("file" in block.marks for block in blocks)]


def require(blocks: list[Block]) -> None:
    """Skip a test for which something is missing; servers must be there with CI=true, as in tests/integration."""
    lacking = missing([need for block in blocks for need in block.needs])
    if not lacking:
        return
    message = f"not here: {', '.join(lacking)}"
    if os.environ.get("CI", "").lower() in ("1", "true") and not {*lacking}.isdisjoint(SERVERS):
        pytest.fail(message)
    pytest.skip(message)


@pytest.mark.parametrize("name", PROGRAMS)
def test_program(name, tmp_path):
    blocks = PROGRAMS[name]
    require(blocks)
    with Pages.serving() as pages:
        replaced = {"https://example.org/": pages, **ports_of(ROOT / blocks[0].page)}
        run_blocks(blocks, replaced, tmp_path)


@pytest.mark.timeout(180)  # it starts some ten interpreters, perhaps beside other work
@pytest.mark.parametrize("page", WORKSHOPS)
def test_commands_do_as_the_page_says(page, tmp_path):
    blocks = BLOCKS[page]
    require(blocks)
    with Workshop(tmp_path, ports_of(ROOT / page)) as workshop:
        for block in blocks:
            workshop.do(block)


@pytest.mark.parametrize(
    "page", [page for page, blocks in BLOCKS.items() if any("pytest" in each.marks for each in blocks)]
)
def test_tests_of_a_page_pass(page, tmp_path):
    blocks = [block for block in BLOCKS[page] if "pytest" in block.marks]
    require(blocks)
    run_pytest(blocks, tmp_path)


def test_blocks_that_are_shown_only_are_few_and_have_a_reason():
    shown = [block for block in ALL if block.shown]
    assert len(shown) <= MOST_SHOWN_ONLY
    for block in shown:
        assert len(block.shown) > 10, block.name
        if block.language == "python":
            compile(block.text, block.name, "exec")


def test_every_block_is_of_a_known_kind():
    known = NOT_CODE | {"python", "console"}
    assert not [(block.name, block.language) for block in ALL if block.language not in known]
    marks = {"alone", "program", "needs", "file", "pytest", "run", "serve", "ports"}
    assert not [(block.name, block.marks) for block in ALL if not marks.issuperset(block.marks)]


@pytest.mark.parametrize("page", ["docs/command-line.md", "docs/debugging.md"])
def test_commands_of_a_page_are_all_run(page):
    commands = [block for block in BLOCKS[page] if block.language == "console"]
    assert commands
    assert not [block.name for block in commands if {"run", "serve"}.isdisjoint(block.marks)]


def command_exists(words: list[str]) -> bool:
    program = words[0]
    if program == "pip":
        return all(extras_exist(word) for word in words[2:])
    if program.startswith("python") and words[1:2] == ["-m"]:
        return module_exists(words[2])
    if program.startswith(("scripts/", ".ci/")):
        return os.access(ROOT / program, os.X_OK)
    if program == "nox":
        return words[1:2] != ["-s"] or f"def {words[2]}(" in (ROOT / "noxfile.py").read_text()
    return (
        program in {"cd", "curl", "docker", "kill", "python", "ulimit", "uvicorn"} or shutil.which(program) is not None
    )


def module_exists(name: str) -> bool:
    if (ROOT / name).is_dir():
        return True
    return importlib.util.find_spec(name) is not None


def extras_exist(requirement: str) -> bool:
    match = re.fullmatch(r"asyncio-greenio\[([\w,]+)\]", requirement.strip("'\""))
    project = (ROOT / "pyproject.toml").read_text()
    return match is None or all(f"\n{extra} = [" in project for extra in match[1].split(","))


COMMANDS = [
    pytest.param(line[2:], id=f"{block.page} {line}")
    for block in ALL
    if block.language == "console"
    for line in block.text.splitlines()
    if line.startswith("$ ")
]


@pytest.mark.parametrize("command", COMMANDS)
def test_command_exists(command):
    words = [word for word in shlex.split(command, comments=True) if "=" not in word.partition("/")[0]]
    assert command_exists(words)


def names_in(text: str) -> set[str]:
    """Find the names of greenio's that stand in code, in running text as in tables."""
    spans = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)
    return {name for span in spans for name in re.findall(r"(?<![\w.])((?:greenio|monkey)\.[\w.]+)", span)}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_names_that_are_mentioned_exist(path):
    for name in names_in(path.read_text()) - NEWER:
        assert exists(name), name


def exists(name: str) -> bool:
    found: object = {"greenio": greenio, "monkey": monkey}[name.partition(".")[0]]
    for part in name.split(".")[1:]:
        if part.startswith("_") or not hasattr(found, part):
            return found is greenio and importlib.util.find_spec(f"greenio.{part}") is not None
        found = getattr(found, part)
    return True


@pytest.mark.parametrize(
    ("expected", "printed"),
    [("0.31 s\n", "0.52 s"), ("a\n...\nb", "a\nx\ny\nb"), ("twice\n", "twice\n"), ("a\nb", "a b")],
)
def test_what_is_printed_may_differ_in_figures(expected, printed):
    compare("page", expected, printed)


@pytest.mark.parametrize(
    ("expected", "printed"),
    [("31 s", "32 s"), ("a ... b", "a b c"), ("a b", "a\nb"), ("a\nb", "ab"), ("", "more"), ("0.31 s", "12.5 s")],
)
def test_what_is_printed_differs(expected, printed):
    with pytest.raises(AssertionError, match="prints"):
        compare("page", expected, printed)


def test_blocks_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr("documents.ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text(
        "# A page\n\n<!-- test: alone needs=gevent,redis -->\n```python\nprint(1)\n```\n\n```text\n1\n```\n\n"
        "<!-- shown only: for the sake\nof this test -->\n```python\nx\n```\n\n```text\nno output\n```\nwords\n"
        "```console\n$ true\n```\n"
    )
    first, second, third = blocks_of(page)
    assert (first.line, first.text, first.prints, first.needs) == (5, "print(1)\n", "1\n", ["gevent", "redis"])
    assert first.program == "page.md:5"
    assert (second.shown, second.prints) == ("for the sake\nof this test", "no output\n")
    assert third.language == "console"


@pytest.mark.parametrize(
    ("body", "error"), [("assert True", None), ("assert False", "1 failed"), ("pytest.skip('no')", "1 skipped")]
)
def test_blocks_are_run_by_pytest(tmp_path, body, error):
    block = Block("page.md", 3, "python", f"import pytest\n\n\ndef test_it():\n    {body}\n")
    told = pytest.raises(AssertionError, match=error) if error else contextlib.nullcontext()
    with told:
        run_pytest([block], tmp_path)


def test_pages_are_found():
    assert {Path("README.md"), Path("docs/design.md")} <= {path.relative_to(ROOT) for path in PAGES}


def public_modules() -> list[str]:
    package = Path(greenio.__file__).parent
    return ["greenio", *(f"greenio.{path.stem}" for path in package.glob("[a-z]*.py"))]


@pytest.mark.parametrize("module", public_modules())
def test_every_public_module_has_a_page(module):
    directive = rf"^\.\. automodule:: {re.escape(module)}$"
    found = [path.name for path in PAGES if re.search(directive, path.read_text(), re.MULTILINE)]
    assert len(found) == 1
    assert f"({found[0]})" in (ROOT / "docs" / "reference.md").read_text()
