"""Make the virtual environment that the other scripts run in, and print its directory.

    python3 scripts/environment.py EXTRA...

Builds the wheel of this checkout and installs it, with the extras, into `.venv-3.X`, one for each version of Python.
What is there already is used again: extras for as long as pyproject.toml stays as it is, the wheel for as long as the
sources do. uv does the installing if it is on the PATH, pip otherwise. Only the standard library is used, and only
syntax that an old Python can read, so that it can look for a newer one.
"""

import glob
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
OLDEST = (3, 10)
NEWEST_MINOR = 13


def main():
    # type: () -> None
    """Print the directory of an environment with the extras that the command line names."""
    if sys.version_info < OLDEST:
        python = find_newer()
        os.execv(python, [python, *sys.argv])
    directory = os.path.join(ROOT, ".venv-{}.{}".format(*sys.version_info))
    make(directory)
    install(directory, sys.argv[1:])
    sys.stdout.write(directory + "\n")


def find_newer():
    # type: () -> str
    """Find a Python that is new enough, on the PATH or among pyenv's."""
    pyenv = os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv"))
    for minor in range(NEWEST_MINOR, OLDEST[1] - 1, -1):
        name = "python3.{}".format(minor)
        found = [shutil.which(name)]
        found += glob.glob(os.path.join(pyenv, "versions", "3.{}.*".format(minor), "bin", name))
        for python in found:
            if python and subprocess.call([python, "-c", ""], stderr=subprocess.DEVNULL) == 0:
                return python
    sys.exit("greenio needs Python {}.{} or later; set PYTHON to one".format(*OLDEST))


def make(directory):
    # type: (str) -> None
    """Make the environment anew unless this very Python made the one that is there."""
    stamp = os.path.join(directory, "greenio-python")
    identity = sys.version + sys.base_prefix
    if read(stamp) == identity:
        return
    say("making {}".format(os.path.basename(directory)))
    call([sys.executable, "-m", "venv", "--clear", directory])
    write(stamp, identity)


def install(directory, extras):
    # type: (str, list[str]) -> None
    """Install the extras that are not there yet, and the wheel if the sources have changed."""
    project = digest(["pyproject.toml"])
    missing = [extra for extra in extras if read(stamp_of(directory, extra)) != project]
    source = digest([*sorted(glob.glob("greenio/**/*", root_dir=ROOT, recursive=True)), "pyproject.toml", "README.md"])
    wheel_stamp = stamp_of(directory, "wheel")
    if not missing and read(wheel_stamp) == source:
        return
    with tempfile.TemporaryDirectory() as scratch:
        wheel = build_wheel(directory, scratch)
        if missing:
            say("installing {} into {}".format(", ".join(missing), os.path.basename(directory)))
            install_packages(directory, ["{}[{}]".format(wheel, ",".join(missing))])
        install_packages(directory, ["--force-reinstall", "--no-deps", wheel])
    for extra in missing:
        write(stamp_of(directory, extra), project)
    write(wheel_stamp, source)


def build_wheel(directory, target):
    # type: (str, str) -> str
    python = os.path.join(directory, "bin", "python")
    uv = shutil.which("uv")
    with_uv = [uv, "build", "-q", "--wheel", "--python", python, "--out-dir", target, ROOT]
    with_pip = [python, "-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", target, ROOT]
    call_first([with_uv, with_pip] if uv else [with_pip])
    return glob.glob(os.path.join(target, "*.whl"))[0]


def install_packages(directory, what):
    # type: (str, list[str]) -> None
    python = os.path.join(directory, "bin", "python")
    uv = shutil.which("uv")
    with_uv = [uv, "pip", "install", "-q", "--python", python, *what]
    with_pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *what]
    call_first([with_uv, with_pip] if uv else [with_pip])


def call_first(commands):
    # type: (list[list[str]]) -> None
    """Run commands until one succeeds; what they print is shown only if none does."""
    outputs = []
    for command in commands:
        done = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=ROOT)
        if done.returncode == 0:
            return
        outputs.append("{}\n{}".format(" ".join(command), done.stdout.decode(errors="replace")))
    sys.exit("\n".join(outputs))


def call(command):
    # type: (list[str]) -> None
    call_first([command])


def digest(paths):
    # type: (list[str]) -> str
    """Hash files, named relative to the root."""
    found = hashlib.sha256()
    for path in paths:
        full = os.path.join(ROOT, path)
        if os.path.isfile(full) and not path.endswith(".pyc"):
            with open(full, "rb") as file:
                found.update(path.encode() + b"\0" + file.read())
    return found.hexdigest()


def stamp_of(directory, name):
    # type: (str, str) -> str
    return os.path.join(directory, "greenio-{}".format(name))


def read(path):
    # type: (str) -> str
    if not os.path.exists(path):
        return ""
    with open(path) as file:
        return file.read()


def write(path, text):
    # type: (str, str) -> None
    with open(path, "w") as file:
        file.write(text)


def say(text):
    # type: (str) -> None
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    main()
