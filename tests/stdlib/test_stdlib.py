"""CPython's own tests, patched and not green (N), and in one greenlet of a running loop (G): one item for a module."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from .conftest import EVERYTHING
from .modules import Module, chosen
from .runner import MODES, Report

CASES = [
    pytest.param(module, mode, id=f"{module.name}-{mode}")
    for module in chosen(ci=not EVERYTHING)
    if module.exists()
    for mode in MODES
    if mode == "N" or module.green
]


@pytest.mark.stdlib
@pytest.mark.timeout(3600)  # it waits for its turn; each process has a limit of its own
@pytest.mark.parametrize(("stdlib_module", "mode"), CASES)
def test_module(stdlib_module: Module, mode: str, reports: Callable[[Module, str], Report]) -> None:
    report = reports(stdlib_module, mode)
    print(report)
    assert not report.problems, "\n".join(f"{test}: {problem}" for test, problem in report.problems.items())
