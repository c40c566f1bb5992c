"""Patching: make the blocking calls of the standard library park when green code makes them.

Patching changes how a call waits, never what it means. Outside a greenlet a patched function is the native one. Every
class keeps its identity: methods are set on it, and taken off again by `unpatch_all()`. What is written in C and takes
no methods is replaced in its module, and in every module that imported it by name before.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal, NoReturn

from ._patches._blocking import BlockingCallError, BlockingCallWarning, Policy
from ._patches._patching import (
    ABSENT,
    BY_DEFAULT,
    GROUPS,
    PINNED,
    applied_groups,
    current_policy,
    each_applied,
    each_guard,
    group_choices,
    has_references,
    home_classes,
    let_go,
    native_bound_methods,
    native_of,
    own_classes,
    patching_lock,
    put_on,
    set_policy,
    take_off,
)
from ._patches._references import Reference, Sought, find_holders, find_instances

__all__ = [
    "BlockingCallError",
    "BlockingCallWarning",
    "Reference",
    "Report",
    "is_patched",
    "original",
    "patch_all",
    "patch_dns",
    "patch_fcntl",
    "patch_files",
    "patch_green_threads",
    "patch_local",
    "patch_multiprocessing",
    "patch_os",
    "patch_select",
    "patch_selectors",
    "patch_signal",
    "patch_socket",
    "patch_ssl",
    "patch_subprocess",
    "patch_threading",
    "patch_time",
    "patched",
    "report",
    "unpatch_all",
]

_AS_THEY_SHOULD_BE = (*PINNED, "_frozen_importlib", "importlib", "logging", "threading")
"""Packages whose old objects are no news."""


@dataclass(frozen=True)
class Report:
    """What `report()` found. `str()` of it is for people, `as_dict()` for programs.

    Attributes:
        patched: The full names that are replaced now, by group.
        rebound: References in other modules that held a native object and now hold the green one.
        unreachable: References that still hold a native one, so that calls through them block.
    """

    patched: dict[str, tuple[str, ...]]
    rebound: tuple[Reference, ...]
    unreachable: tuple[Reference, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain dicts and lists, fit for JSON."""
        return {
            "patched": {group: list(names) for group, names in self.patched.items()},
            "rebound": [asdict(reference) for reference in self.rebound],
            "unreachable": [asdict(reference) for reference in self.unreachable],
        }

    def __str__(self) -> str:
        lines = [f"patched: {', '.join(self.patched) or 'nothing'}"]
        for group, names in self.patched.items():
            lines += [f"  {group}:", *(f"    {name}" for name in names)]
        lines += [f"rebound early references: {len(self.rebound)}"]
        lines += [f"  {reference} = {reference.native}" for reference in self.rebound]
        lines += [f"out of reach: {len(self.unreachable)}"]
        lines += [f"  {reference} = {reference.native}" for reference in self.unreachable]
        return "\n".join(lines)


def patch_all(
    *,
    socket: bool = True,
    ssl: bool = True,
    dns: bool = True,
    fcntl: bool = True,
    files: bool = False,
    green_threads: bool = False,
    local: bool = True,
    multiprocessing: bool = True,
    os: bool = True,
    select: bool = True,
    selectors: bool = True,
    signal: bool = True,
    subprocess: bool = True,
    threading: bool = True,
    time: bool = True,
    on_blocking: Literal["ignore", "warn", "raise"] | None = None,
    allow_blocking: Iterable[str] = (),
    **unknown: NoReturn,
) -> None:
    """Patch the standard library, now, in place, all or nothing. Calling it twice is harmless. Never parks.

    With `on_blocking`, a patched call of native code that would hold the thread of a running loop (a `time.sleep(1)`
    in a coroutine) warns by BlockingCallWarning, once for each place, or raises BlockingCallError in place of blocking.
    What cannot block does not count, nor does what asyncio does for itself. "ignore" costs nothing.

    Args:
        socket: `socket.socket` and its methods.
        ssl: `ssl.SSLSocket` and its methods.
        dns: The name look-ups of `socket`.
        fcntl: `fcntl.flock`, `lockf`, and `fcntl` where it waits for a lock; `os.lockf`.
        files: Large reads and writes of regular files, and `os.fsync`; only if asked for.
        green_threads: Whether a `threading.Thread` that green code starts is a greenlet of its loop; only if asked for.
        local: `threading.local`.
        multiprocessing: Processes, connections and semaphores of `multiprocessing`, as soon as it is imported.
        os: `os.read`, `os.write` and the like, named pipes, file objects of pipes and terminals, `input`; `os.wait` and
            its like, `os.system`.
        select: `select.select`, `poll`, `epoll`.
        selectors: Every class of `selectors`; `subprocess` brings it in any case.
        signal: `signal.sigwait` and the like, and `signal.pause`.
        subprocess: The waits of `subprocess.Popen`.
        threading: Locks, conditions and queues of `threading` and `queue`, `Thread.join`, `current_thread`.
        time: `time.sleep`.
        on_blocking: "ignore", "warn" or "raise"; None leaves it as it is, which is "ignore" at first.
        allow_blocking: Modules ("package.module"), and functions ("package.module.function", or "time.sleep" itself),
            that may block all the same, with all that they call.
        **unknown: There are no others.

    Raises:
        RuntimeError: A group that was asked for is not to be had on this platform. Nothing was patched.
        TypeError: Something in `allow_blocking` is no name. Nothing was patched.
        ValueError: A group is unknown, or `on_blocking` is. Nothing was patched.
    """
    _check_names(unknown)
    policy = _make_policy(on_blocking, allow_blocking)
    chosen = {
        "socket": socket,
        "ssl": ssl,
        "dns": dns,
        "fcntl": fcntl,
        "files": files,
        "green_threads": green_threads,
        "local": local,
        "multiprocessing": multiprocessing,
        "os": os,
        "select": select,
        "selectors": selectors,
        "signal": signal,
        "subprocess": subprocess,
        "threading": threading,
        "time": time,
    }
    with patching_lock:
        put_on([name for name in GROUPS if chosen[name]])
        if on_blocking is not None:
            set_policy(policy)


def patch_socket() -> None:
    """Patch `socket.socket`: the group "socket". Never parks."""
    put_on(["socket"])


def patch_ssl() -> None:
    """Patch `ssl.SSLSocket`: the group "ssl". Never parks.

    Raises:
        RuntimeError: This Python was built without OpenSSL. Nothing was patched.
    """
    put_on(["ssl"])


def patch_dns() -> None:
    """Patch the name look-ups of `socket`: the group "dns". Never parks."""
    put_on(["dns"])


def patch_fcntl() -> None:
    """Patch the file locks of `fcntl`, and `os.lockf`: the group "fcntl". Never parks."""
    put_on(["fcntl"])


def patch_files() -> None:
    """Take large operations on regular files to threads: the group "files". Never parks."""
    put_on(["files"])


def patch_multiprocessing() -> None:
    """Patch what waits in `multiprocessing`, as soon as it is imported: the group "multiprocessing". Never parks."""
    put_on(["multiprocessing"])


def patch_os() -> None:
    """Patch what waits for pipes, terminals and children in `os`, `open` and `input`: the group "os". Never parks."""
    put_on(["os"])


def patch_select() -> None:
    """Patch `select.select`, `poll` and `epoll`: the group "select". Never parks."""
    put_on(["select"])


def patch_selectors() -> None:
    """Patch the classes of `selectors`: the group "selectors". Never parks."""
    put_on(["selectors"])


def patch_signal() -> None:
    """Patch `signal.sigwait`, `sigwaitinfo`, `sigtimedwait` and `pause`: the group "signal". Never parks."""
    put_on(["signal"])


def patch_subprocess() -> None:
    """Patch the waits of `subprocess.Popen`: the group "subprocess", with "selectors". Never parks."""
    put_on(["subprocess"])


def patch_threading(*, local: bool = True, green_threads: bool = False) -> None:
    """Patch the locks of `threading`, `_thread` and `queue`, and what waits: the group "threading". Never parks.

    Args:
        local: Patch `threading.local` too.
        green_threads: Make threads that green code starts greenlets, too.
    """
    chosen = {"local": local, "threading": True, "green_threads": green_threads}
    put_on([name for name in GROUPS if chosen.get(name)])


def patch_local() -> None:
    """Patch `threading.local`: the group "local". Never parks."""
    put_on(["local"])


def patch_green_threads() -> None:
    """Make threads that green code starts greenlets: the group "green_threads", with "threading". Never parks.

    A `threading.Thread` that green code starts is then a greenlet of its loop, in a task of its own, and
    `greenio.run` waits for those that are no daemons. Threads that asyncio, `concurrent.futures` and
    `multiprocessing` start stay real ones.
    """
    put_on(["green_threads"])


def patch_time() -> None:
    """Patch `time.sleep`: the group "time". Never parks."""
    put_on(["time"])


def unpatch_all() -> None:
    """Put every native object back. Sockets that green code used block again as their timeouts say. Never parks.

    Greenlets that are parked finish their wait. A condition that one of them waits for, say in a queue, keeps a `wait`
    that parks until the next patch. What other code set over a patched name since is left alone.
    """
    with patching_lock:
        set_policy(None)
        take_off(tuple(applied_groups))


@contextlib.contextmanager
def patched(
    *groups: str,
    on_blocking: Literal["ignore", "warn", "raise"] | None = None,
    allow_blocking: Iterable[str] = (),
    **choices: bool,
) -> Iterator[None]:
    """Patch for the time of a `with` block. Blocks may be nested, and may overlap in several threads. Never parks.

    What is patched already stays so afterwards, and so does what `patch_all()` and its like ask for meanwhile: a
    program that patches itself is not unpatched because a block ends.

    Args:
        *groups: The groups to patch; none for all but `files` and `green_threads`.
        on_blocking: What to do in the block about native code that holds a loop, as in `patch_all`. This is one switch
            for the process: the end of the block puts it back to what it was at its beginning.
        allow_blocking: What may block all the same, as in `patch_all`.
        **choices: Groups by keyword, as in `patch_all`: `patched(ssl=False)` is all but ssl.

    Raises:
        RuntimeError: A group that was asked for is not to be had on this platform. Nothing was patched.
        TypeError: A group, or something in `allow_blocking`, is no name. Nothing was patched.
        ValueError: A group is unknown, or `on_blocking` is. Nothing was patched.
    """
    _check_are_names('patched() takes the names of groups, as in patched("socket", "ssl")', groups)
    _check_names([*groups, *choices])
    policy = _make_policy(on_blocking, allow_blocking)
    chosen = groups or BY_DEFAULT
    names = [name for name in GROUPS if choices.get(name, name in chosen)]
    with patching_lock:
        held = put_on(names, for_block=True)
        before = current_policy()
        if on_blocking is not None:
            set_policy(policy)
    try:
        yield
    finally:
        with patching_lock:
            if on_blocking is not None and current_policy() is policy:
                set_policy(before)
            let_go(held)


def is_patched(name: str) -> bool:
    """Tell whether a group ("socket") or a name ("time.sleep", "socket.socket.recv") is patched now. Never parks.

    Raises:
        TypeError: It is no name.
        ValueError: Nothing of that name is ever patched.
    """
    _check_are_names('is_patched() takes a name, as in is_patched("time.sleep")', (name,))
    if name in GROUPS:
        return name in applied_groups
    found = [group.name for group in GROUPS.values() if any(patch.target == name for patch in group.loaded())]
    if found:
        return not applied_groups.keys().isdisjoint(found)
    below = [
        patch.target for group in GROUPS.values() for patch in group.loaded() if patch.target.startswith(name + ".")
    ]
    what = f"nothing named {name!r} is ever patched"
    if below:
        what = f"{name!r} itself is never patched, but what is in it is, as {below[0]!r}"
    raise ValueError(f"{what}; the groups are {group_choices()}, and report() lists names")


def original(module: str, name: str) -> Any:
    """Look up the native object behind a name, patched or not. Never parks.

    Args:
        module: The module's name, as in "time".
        name: The name in it, as in "sleep" or "socket.recv".

    Raises:
        AttributeError: The module has no such name.
        ModuleNotFoundError: There is no such module.
        TypeError: One of the two is no name.
    """
    _check_are_names('original() takes names, as in original("time", "sleep")', (module, name))
    value: Any = importlib.import_module(module)
    target = module
    for part in name.split("."):
        target += f".{part}"
        native = native_of(target)
        value = getattr(value, part) if native is ABSENT else native
    below = {id(item.patch.green): item.native for item in (*each_applied(), *each_guard())}
    while id(value) in below:
        value = below[id(value)]
    return value


def report() -> Report:
    """Tell what is patched, which early references were rebound, and what could not be reached. Never parks.

    Looks at every object that the garbage collector knows: for start-up and for debugging, not for a hot path. The
    local variables of functions that are running are not looked at.
    """
    with patching_lock:
        groups = dict(applied_groups)
        natives = {item.patch.target: item.native for item in each_applied() if has_references(item)}
        hidden = [entry for applied in groups.values() for entry in applied.group.hidden.items()]
        ours = {id(natives), *own_classes(), *home_classes()}
        ours.update(id(item.patch.green) for item in (*each_applied(), *each_guard()))
        ours.update(id(green) for _, (_, green) in hidden)
        doubts = {name: found.group.is_out_of_reach for found in groups.values() for name in found.group.hidden}
        live = find_instances({**natives, **{target: native for target, (native, _) in hidden}})
        bound = native_bound_methods()
        sought = [Sought(target, native) for target, native in (*natives.items(), *bound)]
        ours.update(map(id, (bound, *bound)))
        sought += [item for item in live if item.target not in doubts or doubts[item.target](item.value)]
        return Report(
            patched={name: tuple(item.patch.target for item in found.names) for name, found in groups.items()},
            rebound=tuple(sorted(done.reference for found in groups.values() for done in found.exchanged)),
            unreachable=tuple(sorted(set(find_holders(sought, _AS_THEY_SHOULD_BE, ours)))),
        )


def _check_names(names: Iterable[str]) -> None:
    unknown = [name for name in names if name not in GROUPS]
    if unknown:
        raise ValueError(f"unknown group {unknown[0]!r}; the groups are {group_choices()}")


def _check_are_names(taken: str, given: Iterable[object]) -> None:
    for name in given:
        if not isinstance(name, str):
            raise TypeError(f"{taken}, not {name!r}")


def _make_policy(action: str | None, allowed: Iterable[str]) -> Policy | None:
    """Check what was asked for; None is for ignoring."""
    if action not in (None, "ignore", "warn", "raise"):
        raise ValueError(f'on_blocking must be "ignore", "warn" or "raise", not {action!r}')
    if isinstance(allowed, str):
        raise ValueError(f"allow_blocking takes several names: write allow_blocking=[{allowed!r}]")
    names = tuple(allowed) if isinstance(allowed, Iterable) else (allowed,)
    _check_are_names('allow_blocking takes names, as in allow_blocking=["package.module"]', names)
    return Policy(action, names) if action in ("warn", "raise") else None
