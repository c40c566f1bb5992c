"""`python -m greenio`: run an unmodified blocking program green, on a loop, patched before its first import.

The program is the green call of `greenio.run`. To itself it is what the interpreter would run: the module `__main__`,
in the main thread, with its own arguments, exit code and tracebacks.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import linecache
import os
import signal
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from types import CodeType, ModuleType, TracebackType
from typing import Any, NoReturn

from . import _original, debug, get_loop, monkey, run
from ._patches._handlers import hear
from ._patches._patching import GROUPS, group_choices
from ._sync import be_the_thread
from .debug._watchdog import checked_threshold

__all__ = ["main"]

_USAGE = """\
usage: python -m greenio [run] [options] (script.py | - | -m module | -c code) [arguments]
       python -m greenio report [--no-patch GROUP] [--green-threads]
       python -m greenio inspect PID

Runs a blocking program in a greenlet of an event loop, with the standard library patched before its first import.

options:
  --loop auto|asyncio|uvloop  the event loop; auto takes uvloop if it is installed
  --no-patch GROUP            leave a group unpatched; may be given several times
  --green-threads             threads that the program starts are greenlets of the loop
  --watchdog SECONDS          log what holds the loop for longer
  --debug                     asyncio's debug mode
  -h, --help                  show this

`report` prints what would be patched here, `inspect` what the greenlets of a process do that has opted in.
"""

_SHOWS_CODE = sys.version_info >= (3, 13)
"""Whether tracebacks show the lines of `-c code`."""

_Loop = Callable[[], Any]


class _UsageError(Exception):
    """What is wrong with the command line, in one line."""


@dataclass
class _Options:
    """What the command line says.

    Attributes:
        command: "run", "report" or "inspect".
        loop: The kind of loop.
        patches: What `patch_all` is to be given.
        watchdog: Seconds for which the loop may be held without a word; None for any time.
        debug: Whether the loop is to be in debug mode.
        kind: How the program is given: "script", "-m" or "-c".
        program: The script, the module or the code; or the process.
        arguments: The program's own.
    """

    command: str = "run"
    loop: str = "auto"
    patches: dict[str, bool] = field(default_factory=dict)
    watchdog: float | None = None
    debug: bool = False
    kind: str = "script"
    program: str | None = None
    arguments: list[str] = field(default_factory=list)


def _parse(words: list[str]) -> _Options:
    options = _Options()
    rest = list(words)
    if rest and rest[0] in ("run", "report", "inspect"):
        options.command = rest.pop(0)
    while rest and rest[0].startswith("-") and rest[0] not in ("-", "-c", "-m"):
        word = rest.pop(0)
        name, assigned, value = word.partition("=")
        if name in {*_SWITCHES, *_SETTINGS} and name not in _TAKES.get(options.command, (name,)):
            raise _UsageError(f"{options.command} takes no {name}; see python -m greenio --help")
        if name in _SWITCHES and not assigned:
            _SWITCHES[name](options)
        elif name in _SETTINGS:
            _SETTINGS[name](options, value if assigned else _take(rest, f"{name} takes a value"))
        else:
            raise _UsageError(f"unknown option {word!r}; see python -m greenio --help")
    if options.command == "report":
        if rest:
            raise _UsageError(f"report takes no argument, but there is {rest[0]!r}")
        return options
    what = "a process id" if options.command == "inspect" else "a script, -m module or -c code"
    options.program = _take(rest, f"{options.command} takes {what}; see python -m greenio --help")
    if options.program in ("-c", "-m") and options.command == "run":
        options.kind = options.program
        options.program = _take(rest, f"{options.kind} takes {'code' if options.kind == '-c' else 'a module'}")
    if options.command == "inspect" and rest:
        raise _UsageError(f"inspect takes one process id, but there is {rest[0]!r} besides")
    options.arguments = rest
    return options


def _take(words: list[str], complaint: str) -> str:
    if not words:
        raise _UsageError(complaint)
    return words.pop(0)


def _help(_: _Options) -> NoReturn:
    sys.stdout.write(_USAGE)
    raise SystemExit(0)


def _set_loop(options: _Options, value: str) -> None:
    if value not in ("auto", "asyncio", "uvloop"):
        raise _UsageError(f"--loop takes auto, asyncio or uvloop, not {value!r}")
    options.loop = value


def _leave_out(options: _Options, group: str) -> None:
    if group not in GROUPS:
        raise _UsageError(f"--no-patch: unknown group {group!r}; the groups are {group_choices()}")
    options.patches[group] = False


def _set_watchdog(options: _Options, value: str) -> None:
    try:
        seconds = float(value)
    except ValueError:
        raise _UsageError(f"--watchdog takes a number of seconds, not {value!r}") from None
    try:
        options.watchdog = checked_threshold(seconds)
    except ValueError as error:
        raise _UsageError(f"--watchdog: {error}") from None


_SWITCHES: dict[str, Callable[[_Options], object]] = {
    "-h": _help,
    "--help": _help,
    "--debug": lambda options: setattr(options, "debug", True),
    "--green-threads": lambda options: options.patches.update(green_threads=True),
}
_SETTINGS: dict[str, Callable[[_Options, str], object]] = {
    "--loop": _set_loop,
    "--no-patch": _leave_out,
    "--watchdog": _set_watchdog,
}
_TAKES = {"report": ("-h", "--help", "--green-threads", "--no-patch"), "inspect": ("-h", "--help")}
"""The options of commands that do not take all."""


# What is to be run


@dataclass
class _Program:
    """A program that has been found, and what its module `__main__` is to know of itself.

    Attributes:
        code: Makes its code.
        names: The names that are set in `__main__`.
        argument: What stands in `sys.argv[0]`.
        path: What stands in `sys.path[0]`; None leaves that alone.
    """

    code: Callable[[], CodeType]
    names: dict[str, Any]
    argument: str
    path: str | None


def _find(options: _Options) -> _Program:
    assert options.program is not None
    if options.kind == "-c":
        if _SHOWS_CODE:
            lines = [f"{line}\n" for line in options.program.splitlines()]
            linecache.cache["<string>"] = (len(options.program), None, lines, "<string>")
        return _unnamed(options.program, "<string>", "-c")
    if options.kind == "-m":
        if _may_set_path():
            sys.path[0] = os.getcwd()
        sys.argv[:] = ["-m", *options.arguments]  # as packages see it that are imported to find the module
        return _found_module(options.program)
    path = options.program
    if path == "-":
        return _unnamed(sys.stdin.buffer.read(), "<stdin>", "-", __file__="<stdin>", __cached__=None)
    if os.path.isdir(path) or zipfile.is_zipfile(path):
        sys.path[: _may_set_path()] = [os.path.abspath(path)]
        if _spec_of("__main__") is None:
            raise _UsageError(f"can't find '__main__' module in {path!r}")
        return replace(_found_module("__main__"), argument=path)
    return _found_script(path)


def _unnamed(source: str | bytes, name: str, argument: str, **names: Any) -> _Program:
    names["__loader__"] = importlib.machinery.BuiltinImporter
    return _Program(lambda: compile(source, name, "exec", dont_inherit=True), names, argument, "")


def _found_script(path: str) -> _Program:
    try:
        with open(path, "rb") as file:
            source = file.read()
    except OSError as error:
        raise _UsageError(f"can't open file {path!r}: [Errno {error.errno}] {error.strerror}") from None
    full = os.path.abspath(path)
    names: dict[str, Any] = {"__file__": full, "__cached__": None}
    directory = os.path.dirname(os.path.realpath(path))
    if path.endswith(".pyc") or source.startswith(importlib.util.MAGIC_NUMBER):
        names["__loader__"] = compiled = importlib.machinery.SourcelessFileLoader("__main__", full)
        return _Program(_code_of(compiled, path), names, path, directory)
    names["__loader__"] = importlib.machinery.SourceFileLoader("__main__", full)
    return _Program(lambda: compile(source, full, "exec", dont_inherit=True), names, path, directory)


def _code_of(compiled: importlib.machinery.SourcelessFileLoader, path: str) -> Callable[[], CodeType]:
    try:
        code = compiled.get_code("__main__")
    except (ImportError, EOFError) as error:
        raise _UsageError(f"can't run {path!r}: {error}") from None
    assert code is not None
    return lambda: code


def _found_module(name: str) -> _Program:
    spec = _spec_of(name)
    if spec is not None and spec.submodule_search_locations is not None:
        spec = _spec_of(f"{name}.__main__")
        if spec is None:
            raise _UsageError(f"No module named {name}.__main__; {name!r} is a package and cannot be directly executed")
    loader: Any = spec.loader if spec is not None else None
    code = loader.get_code(spec.name) if spec is not None and hasattr(loader, "get_code") else None
    if spec is None or code is None:
        raise _UsageError(f"No module named {name}" if spec is None else f"there is no code object for {name}")
    names = {
        "__file__": spec.origin,
        "__cached__": spec.cached,
        "__loader__": loader,
        "__package__": spec.parent,
        "__spec__": spec,
    }
    return _Program(lambda: code, names, str(spec.origin), None)


def _spec_of(name: str) -> importlib.machinery.ModuleSpec | None:
    if name == "__main__":
        sys.modules.pop(name, None)  # it is another one that is looked for
    package = name.rpartition(".")[0]
    try:
        if package:
            __import__(package)  # by `find_spec` its errors would show the frames of importlib
    except ImportError as error:
        if error.name is None or not f"{package}.".startswith(f"{error.name}."):
            raise
    try:
        return importlib.util.find_spec(name)
    except ModuleNotFoundError:
        return None
    except Exception as error:
        raise _UsageError(f"{name} could not be imported: {error}") from error


def _may_set_path() -> bool:
    return not getattr(sys.flags, "safe_path", sys.flags.isolated)


def _become_main(program: _Program, arguments: list[str]) -> dict[str, Any]:
    """Make the module `__main__` and what the interpreter sets beside it."""
    module = ModuleType("__main__")
    module.__dict__.update(program.names, __annotations__={})
    module.__dict__["__builtins__"] = sys.modules["builtins"]
    sys.modules["__main__"] = module
    sys.argv[:] = [program.argument, *arguments]
    if program.path is not None and _may_set_path():
        sys.path[0] = program.path
    return module.__dict__


# Running it


def _run(options: _Options) -> int:
    loop = _LOOPS[options.loop]()
    watch = _watchdog(options.watchdog)
    _patch(options)
    outcome = run(_execute, options, watch, loop_factory=loop, debug=options.debug or None)
    if outcome is None:
        return 0
    sys.excepthook = lambda *_: None  # it was told when it came
    if isinstance(outcome, KeyboardInterrupt | SystemExit):
        raise outcome.with_traceback(None)  # the interpreter knows how to end for these
    return 1


def _execute(options: _Options, watch: Callable[[Any], object]) -> BaseException | None:
    """Find the program and run it, in a green; return what it ended with, if it did not simply end."""
    be_the_thread()
    watch(get_loop())
    if _original.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        hear(signal.SIGINT, signal.default_int_handler)
    try:
        program = _find(options)
        exec(program.code(), _become_main(program, options.arguments))
    except _UsageError:
        raise
    except SystemExit as error:
        return error
    except BaseException as error:
        outcome = error
    else:
        return None
    _tell(outcome)
    return outcome


def _tell(error: BaseException) -> None:
    """Tell of an error as the interpreter does: by the program's hook, and without it if that fails."""
    _leave_program(error, set())
    sys.last_type, sys.last_value, sys.last_traceback = type(error), error, error.__traceback__
    if sys.version_info >= (3, 12):
        sys.last_exc = error
    try:
        sys.excepthook(type(error), error, error.__traceback__)
    except SystemExit:
        raise
    except BaseException as failure:
        _leave_program(failure, set())
        print("Error in sys.excepthook:", file=sys.stderr)
        sys.__excepthook__(type(failure), failure, failure.__traceback__)
        print("\nOriginal exception was:", file=sys.stderr)
        sys.__excepthook__(type(error), error, error.__traceback__)


def _leave_program(error: BaseException | None, seen: set[int]) -> None:
    """Leave only the program's frames in the tracebacks of an error and of those that it comes from."""
    if error is None or id(error) in seen:
        return
    seen.add(id(error))
    error.__traceback__ = _without_own(error.__traceback__)
    for other in (error.__cause__, error.__context__, *getattr(error, "exceptions", ())):
        _leave_program(other, seen)


def _without_own(traceback: TracebackType | None) -> TracebackType | None:
    """Leave out the frames of this package."""
    kept = []
    while traceback is not None:
        if str(traceback.tb_frame.f_globals.get("__package__")).partition(".")[0] != __package__:
            kept.append(traceback)
        traceback = traceback.tb_next
    for entry, following in zip_longest(kept, kept[1:]):
        entry.tb_next = following
    return kept[0] if kept else None


def _uvloop() -> _Loop:
    try:
        module = importlib.import_module("uvloop")
    except ImportError:
        raise _UsageError("uvloop is not installed; take --loop asyncio, or pip install uvloop") from None
    return module.new_event_loop  # type: ignore[no-any-return]


def _asyncio() -> _Loop:
    return _original.new_event_loop


def _any_loop() -> _Loop:
    return _uvloop() if importlib.util.find_spec("uvloop") else _asyncio()


_LOOPS: dict[str, Callable[[], _Loop]] = {"auto": _any_loop, "asyncio": _asyncio, "uvloop": _uvloop}


def _watchdog(seconds: float | None) -> Callable[[Any], object]:
    if seconds is None:
        return lambda loop: None
    return lambda loop: debug.watchdog(loop, threshold=seconds).start()


def _patch(options: _Options) -> None:
    try:
        monkey.patch_all(**options.patches)  # type: ignore[arg-type]
    except (RuntimeError, ValueError) as error:
        raise _UsageError(str(error)) from None


def _report(options: _Options) -> int:
    _patch(options)
    print(monkey.report())
    return 0


def _inspect(options: _Options) -> int:
    assert options.program is not None
    if not options.program.isdecimal():
        raise _UsageError(f"inspect takes a process id, not {options.program!r}")
    try:
        found = debug.inspect(int(options.program))
    except (OSError, RuntimeError, ValueError) as error:
        raise _UsageError(" ".join(str(error).split())) from None
    if found is not None:
        print(found)
    return 0


_COMMANDS: dict[str, Callable[[_Options], int]] = {"run": _run, "report": _report, "inspect": _inspect}


def main(words: list[str]) -> int:
    """Do what a command line says, and return the exit code."""
    try:
        options = _parse(words)
        return _COMMANDS[options.command](options)
    except _UsageError as error:
        print(f"python -m greenio: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
