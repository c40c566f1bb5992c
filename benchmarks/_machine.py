"""What the figures were measured on, and which CPUs to use."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from importlib import metadata

__all__ = ["cpus", "describe"]

_DISTRIBUTIONS = {"greenio": "asyncio-greenio", "sqlalchemy": "SQLAlchemy", "pymysql": "PyMySQL"}


def cpus() -> tuple[int | None, int | None]:
    """Choose a CPU for what is measured and one for its client or server; None where there is no choice."""
    if not hasattr(os, "sched_setaffinity"):
        return None, None
    allowed = sorted(os.sched_getaffinity(0))
    return (allowed[0], allowed[1]) if len(allowed) > 1 else (None, None)


def describe(modules: Iterable[str]) -> dict[str, str]:
    """Tell the machine, the interpreter and the versions of what is measured."""
    described = {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "cpu": f"{_cpu_model()} x {os.cpu_count()}",
        "system": platform.platform(terse=True),
        "load": " ".join(f"{load:.2f}" for load in os.getloadavg()),
    }
    for module in ("greenio", "greenlet", *sorted(modules)):
        described[module] = _version(module)
    return described


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _version(module: str) -> str:
    try:
        return metadata.version(_DISTRIBUTIONS.get(module, module))
    except metadata.PackageNotFoundError:
        return "not installed"
