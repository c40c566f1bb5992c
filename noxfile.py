"""Sessions over Pythons and versions: every CPython that is here, and the oldest dependencies that are allowed.

scripts/test and scripts/check serve one Python each; `nox` runs them all. Pythons that are not installed are skipped.
"""

from __future__ import annotations

import glob
import os
import re
import shutil
from pathlib import Path

import nox

nox.options.default_venv_backend = "uv|virtualenv"
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False
nox.options.sessions = ["tests", "floors"]

PYTHONS = ["3.10", "3.11", "3.12", "3.13"]
PYENV = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")

# A shim of pyenv's stands on the PATH for each version, but answers only for those that are chosen.
if found := sorted(path.name for version in PYTHONS for path in PYENV.glob(f"{version}.*")):
    os.environ.setdefault("PYENV_VERSION", ":".join(found))


def install_wheel(session: nox.Session, *constraints: str, extras: str = "test,examples") -> None:
    """Build the wheel and install it with what the tests need, or with other extras."""
    target = session.create_tmp()
    if session.venv_backend == "uv":
        session.run("uv", "build", "-q", "--wheel", "--clear", "--out-dir", target, external=True)
    else:
        shutil.rmtree(target)
        session.run("python", "-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", target, ".")
    (wheel,) = Path(target).glob("*.whl")
    session.install(f"{wheel}[{extras}]", *constraints)


def floors() -> list[str]:
    """Pin what the package itself needs to the oldest release that pyproject.toml allows, marker by marker."""
    project = nox.project.load_toml("pyproject.toml")["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["uvloop"]]
    return [re.sub(r">=", "==", requirement, count=1) for requirement in needed]


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the tests with the newest of everything."""
    install_wheel(session)
    session.run("pytest", *session.posargs)


@nox.session(python=PYTHONS, name="floors")
def test_floors(session: nox.Session) -> None:
    """Run the tests with the oldest greenlet and uvloop that are allowed."""
    install_wheel(session, *floors())
    session.run("pytest", *session.posargs)


@nox.session(python=PYTHONS)
@nox.parametrize("asyncio_plugin", ["0.26.*", "1.0.*", ">=1.1"])
@nox.parametrize("pytest", ["8.*", "9.*"])
def plugin(session: nox.Session, pytest: str, asyncio_plugin: str) -> None:
    """Run the tests of the pytest plugin with each pytest and pytest-asyncio that it knows."""
    versions = asyncio_plugin if asyncio_plugin.startswith(">") else f"=={asyncio_plugin}"
    if pytest == "9.*" and not versions.startswith(">"):
        session.skip("these versions of pytest-asyncio ask for pytest 8")
    install_wheel(session, f"pytest=={pytest}", f"pytest-asyncio{versions}")
    session.run("pytest", *(session.posargs or sorted(glob.glob("tests/test_*plugin*.py"))))


@nox.session(python=PYTHONS)
def check(session: nox.Session) -> None:
    """Run scripts/check, without the tests, on this Python."""
    session.run("scripts/check", "--no-tests", external=True, env={"PYTHON": str(Path(session.bin, "python"))})


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documents into docs/_build; a warning is an error."""
    install_wheel(session, extras="docs")
    session.run("sphinx-build", "-n", "-W", "--keep-going", "-q", "docs", "docs/_build", *session.posargs)


@nox.session(python=PYTHONS)
def stdlib(session: nox.Session) -> None:
    """Run CPython's own tests, all of them, and each whole module unpatched to compare with: some 20 minutes each."""
    install_wheel(session)
    session.run("python", "-m", "tests.stdlib.runner", *(session.posargs or ["--full"]))
