"""The directive `patched-names`: the names that each group of `greenio.monkey` replaces, from its tables."""

from __future__ import annotations

import importlib
import inspect
import platform
import re
from typing import Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from greenio import monkey
from greenio._patches import _patching
from greenio._patches._table import Group

__all__ = ["setup"]


class PatchedNames(SphinxDirective):
    """One section a group: what it is, whether it is on by default, and its names by module or class."""

    def run(self) -> list[nodes.Node]:
        meanings = meanings_of_groups()
        built = (
            f"As the tables are on {platform.python_implementation()} {platform.python_version()}, {platform.system()}."
        )
        return [nodes.paragraph(text=built), *(self.section(group, meanings[group.name]) for group in groups())]

    def section(self, group: Group, meaning: str) -> nodes.Node:
        made = nodes.section(ids=[nodes.make_id(f"group-{group.name}")])
        made += nodes.title("", "", nodes.literal(text=group.name))
        made += self.parsed(meaning)
        made += nodes.paragraph(text=how(group))
        if names := names_by_owner(group):
            made += table(names)
        return made

    def parsed(self, text: str) -> list[nodes.Node]:
        """Read the line of a docstring, where single backticks are code."""
        found, _ = self.state.inline_text(re.sub(r"`+", "`", text), self.lineno)
        return [nodes.paragraph("", "", *found)]


def groups() -> list[Group]:
    """List all groups, with what they patch late loaded."""
    found = sorted(_patching.GROUPS.values(), key=lambda group: group.name)
    for group in found:
        for module in group.late:
            importlib.import_module(module)
    return found


def meanings_of_groups() -> dict[str, str]:
    """Take what the docstring of `patch_all` says of each group."""
    text = inspect.getdoc(monkey.patch_all) or ""
    found = re.findall(r"^    (\w+): (.+)$", text, re.MULTILINE)
    return {name: meaning for name, meaning in found if name in _patching.GROUPS}


def how(group: Group) -> str:
    if group.missing:
        return f"Not to be had here: {group.missing}."
    when = (
        "Part of patch_all()." if group.name in _patching.BY_DEFAULT else f"On request: patch_all({group.name}=True)."
    )
    late = " Each module is patched when it is imported." if group.late else ""
    needs = f" What it needs comes with it: {', '.join(group.needs)}." if group.needs else ""
    return when + late + needs


def names_by_owner(group: Group) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for patch in group.loaded():
        if patch.target.startswith("greenio."):
            continue  # a switch of its own
        owner = patch.target[: -len(patch.name) - 1]
        found.setdefault(owner, []).append(patch.name)
    return found


def table(names: dict[str, list[str]]) -> nodes.Node:
    body = nodes.tbody()
    for owner, each in names.items():
        body += row(nodes.literal(text=owner), *separated(sorted(each)))
    head = nodes.thead("", row(nodes.Text("module or class"), nodes.Text("names")))
    group = nodes.tgroup("", nodes.colspec(colwidth=30), nodes.colspec(colwidth=70), head, body, cols=2)
    return nodes.table("", group)


def row(first: nodes.Node, *rest: nodes.Node) -> nodes.Node:
    entries = (nodes.entry("", nodes.paragraph("", "", *cell)) for cell in ([first], rest))
    return nodes.row("", *entries)


def separated(names: list[str]) -> list[nodes.Node]:
    found: list[nodes.Node] = []
    for name in names:
        found += [nodes.literal(text=name), nodes.Text(", ")]
    return found[:-1]


def setup(app: Any) -> dict[str, Any]:
    """Register the directive with Sphinx."""
    app.add_directive("patched-names", PatchedNames)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
