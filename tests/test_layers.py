"""Who may import whom: the package's imports, parsed and held against the layers of docs/design.md."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

import greenio
from greenio._patches import _patching

LAYERS: Mapping[str, tuple[str, ...]] = {
    "_original": (),
    "_core": ("_original",),
    "_sync": ("_original", "_core"),
    "_async": ("_original", "_core", "_sync"),
    "_patches": ("_original", "_core", "_sync"),
    "monkey": ("_original", "_patches"),
    "": ("_core", "_sync", "_async"),
    "__main__": ("", "_original", "_patches", "_sync", "debug", "monkey"),
    "debug": ("_original", "_core", "_sync"),
    "_testing": ("_original", "_core", "", "monkey"),
    "testing": ("", "monkey", "_testing"),
    "_harness": ("_original", "_sync", ""),
    "pytest_plugin": ("", "monkey", "testing", "_harness"),
    "contrib": ("", "monkey"),
}
"""Each layer and the layers it may import; the empty name is the package itself, its public face."""

LATE_IMPORTS: Mapping[tuple[str, str], str] = {
    ("_harness._servers", "uvicorn"): "need not be installed",
    ("pytest_plugin", "greenio.monkey"): "most suites patch nothing, and to load the patches takes a while",
    ("_patches._libc", "ctypes"): "takes a millisecond, and few programs need it",
    ("_core._tracebacks", "ctypes"): "takes a millisecond, and only errors need it, on CPython 3.10",
}
"""Imports inside functions that are allowed: the module and what it imports, with the reason."""

NEVER_CALLED = ("select", "selectors", "threading", "time")
"""Modules whose functions only `_original` may take; of `os`, `socket` and `ssl` only what is patched is forbidden."""

EMPTY_NAMES = ("base", "common", "helper", "helpers", "misc", "util", "utils")

Sources = Mapping[str, str]
"""The text of each module, by its dotted name within the package ("" is the package itself)."""


@dataclass(frozen=True)
class Import:
    """One imported module: its full name, the name in it if any, and where the statement stands."""

    target: str
    name: str
    bound: str
    in_function: bool
    for_types: bool

    @property
    def full(self) -> str:
        return f"{self.target}.{self.name}" if self.name else self.target


def read_package() -> dict[str, str]:
    root = Path(greenio.__file__).parent
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text()
    return found


def is_package(module: str, sources: Sources) -> bool:
    return not module or any(name.startswith(module + ".") for name in sources)


def imports(module: str, sources: Sources) -> list[Import]:
    found: list[Import] = []

    def absolute(node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parts = ["greenio", *module.split(".")] if module else ["greenio"]
        base = parts[: len(parts) - node.level + is_package(module, sources)]
        return ".".join([*base, node.module] if node.module else base)

    def visit(node: ast.AST, in_function: bool, for_types: bool) -> None:
        if isinstance(node, ast.Import):
            for alias in node.names:
                found.append(Import(alias.name, "", alias.asname or alias.name, in_function, for_types))
        elif isinstance(node, ast.ImportFrom):
            target = absolute(node)
            for alias in node.names:
                found.append(Import(target, alias.name, alias.asname or alias.name, in_function, for_types))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            in_function = True
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for_types = True
        for child in ast.iter_child_nodes(node):
            visit(child, in_function, for_types)

    visit(ast.parse(sources[module]), False, False)
    return found


def inside(imported: Import, sources: Sources) -> str | None:
    """Name the module of the package that an import reaches; None for one outside."""
    if imported.target.partition(".")[0] != "greenio":
        return None
    full = imported.full.partition(".")[2]
    return full if full in sources else imported.target.partition(".")[2]


def layer(module: str) -> str:
    return module.partition(".")[0]


def wrong_layers(sources: Sources) -> Iterator[str]:
    for module in sources:
        own = layer(module)
        if own not in LAYERS:
            yield f"{module or 'greenio'} belongs to no layer"
            continue
        for imported in imports(module, sources):
            reached = inside(imported, sources)
            if reached is not None and layer(reached) != own and layer(reached) not in LAYERS[own]:
                yield f"{module or 'greenio'} imports {reached or 'greenio'}"


def greenlet_users(sources: Sources) -> Iterator[str]:
    for module in sources:
        used = {imported.target.partition(".")[0] for imported in imports(module, sources)}
        if layer(module) != "_core" and "greenlet" in used:
            yield f"{module} imports greenlet"


def late_imports(sources: Sources) -> Iterator[str]:
    for module in sources:
        for imported in imports(module, sources):
            if imported.in_function and (module, imported.full) not in LATE_IMPORTS:
                yield f"{module} imports {imported.full} inside a function"


def empty_names(sources: Sources) -> Iterator[str]:
    for module in sources:
        if module.rpartition(".")[2].strip("_") in EMPTY_NAMES:
            yield f"{module} does not say what it owns"


def cycles(sources: Sources) -> Iterator[str]:
    """Find cycles among the modules; imports for annotations alone do not run, and do not count."""
    reached: dict[str, set[str]] = {}
    for module in sources:
        found = {inside(imported, sources) for imported in imports(module, sources) if not imported.for_types}
        reached[module] = {name for name in found if name is not None and name != module}
    state: dict[str, str] = {}

    def visit(module: str, path: tuple[str, ...]) -> Iterator[str]:
        if state.get(module) == "under way":
            yield " -> ".join((*path[path.index(module) :], module))
        if module in state:
            return
        state[module] = "under way"
        for name in sorted(reached[module]):
            yield from visit(name, (*path, module))
        state[module] = "done"

    for module in sources:
        yield from visit(module, ())


def patchable_calls(sources: Sources) -> Iterator[str]:
    """Find calls of what may be patched, other than through `_original`."""
    patched = {patch.target for group in _patching.GROUPS.values() for patch in group.loaded()}
    for module in sources:
        if module == "_original":
            continue
        names = {found.bound: found.full for found in imports(module, sources)}
        for node in ast.walk(ast.parse(sources[module])):
            if not isinstance(node, ast.Call):
                continue
            head, _, rest = ast.unparse(node.func).partition(".")
            if head not in names:
                continue
            full = f"{names[head]}.{rest}" if rest else names[head]
            if full in patched or full.partition(".")[0] in NEVER_CALLED:
                yield f"{module} calls {full}"


RULES = [empty_names, wrong_layers, greenlet_users, late_imports, cycles, patchable_calls]


@pytest.mark.parametrize("rule", RULES)
def test_package_keeps_the_rule(rule):
    assert not list(rule(read_package()))


def test_whole_package_is_read():
    sources = read_package()
    assert {"", "_original", "_core", "_core._green", "_patches._socket", "monkey"} <= set(sources)
    reached = {inside(found, sources) for found in imports("_core._green", sources)}
    assert {"_original", "_core._asyncio"} <= reached


def test_every_late_import_still_exists():
    sources = read_package()
    found = {(module, late.full) for module in sources for late in imports(module, sources) if late.in_function}
    assert set(LATE_IMPORTS) <= found


BREACHES = {
    "empty name": (empty_names, {"_core": "", "_core._util": ""}),
    "up": (wrong_layers, {"_core": "", "_core._a": "from .. import monkey", "monkey": ""}),
    "up by full name": (wrong_layers, {"_core": "import greenio.monkey", "monkey": ""}),
    "original looks inside": (wrong_layers, {"_original": "from ._core import park", "_core": ""}),
    "adapter behind the face": (wrong_layers, {"contrib": "", "contrib.x": "from .._core import park", "_core": ""}),
    "unknown layer": (wrong_layers, {"util": ""}),
    "greenlet in a patch": (greenlet_users, {"_patches": "", "_patches._x": "from greenlet import getcurrent"}),
    "late": (late_imports, {"_core": "def f():\n    from . import _a", "_core._a": ""}),
    "cycle": (cycles, {"_core": "", "_core._a": "from ._b import x", "_core._b": "from . import _a"}),
    "cycle through the package": (cycles, {"_core": "from ._a import x", "_core._a": "from . import y"}),
    "patched function": (patchable_calls, {"debug": "import os\nos.close(1)"}),
    "patched function by name": (patchable_calls, {"debug": "from time import sleep\nsleep(1)"}),
    "under another name": (patchable_calls, {"debug": "import time as t\nt.sleep(1)"}),
    "clock": (patchable_calls, {"debug": "import time\ntime.monotonic()"}),
}


@pytest.mark.parametrize("name", BREACHES)
def test_breach_is_seen(name):
    rule, sources = BREACHES[name]
    assert list(rule({"": "", **sources}))


def test_imports_for_annotations_make_no_cycle():
    guarded = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ._b import B"
    assert not list(cycles({"": "", "_core": "", "_core._a": guarded, "_core._b": "from ._a import A"}))
