"""Patching: make the blocking calls of the standard library park when green code makes them.

Patching changes how a call waits, never what it means. Outside a greenlet a patched function is the native one. Every
class keeps its identity: methods are set on it, and taken off again by `unpatch_all()`. What is written in C and takes
no methods is replaced in its module, and in every module that imported it by name before.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import types
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, Literal, NoReturn

from . import _original
from ._patches import (
    _dns,
    _fcntl,
    _files,
    _green_threads,
    _local,
    _multiprocessing,
    _os,
    _select,
    _selectors,
    _signal,
    _socket,
    _subprocess,
    _threading,
    _time,
)
from ._patches._blocking import BlockingCallError, BlockingCallWarning, Policy
from ._patches._late import await_module, stop_awaiting
from ._patches._references import Exchange, Reference, Sought, Swap, exchange, find_holders, find_instances
from ._patches._table import Group, Patch
from ._patches._would_block import guards

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

try:
    from ._patches._ssl import GROUP as _SSL
except ModuleNotFoundError as _error:  # a CPython that was built without OpenSSL
    if (_error.name or "").startswith("greenio"):
        raise
    _SSL = Group("ssl", (), missing=f"this Python has no module {_error.name!r}")

_GROUPS: dict[str, Group] = {
    group.name: group
    for group in (
        _time.GROUP,
        _local.GROUP,
        _threading.GROUP,
        _green_threads.GROUP,
        _dns.GROUP,
        _socket.GROUP,
        _SSL,
        _select.GROUP,
        _selectors.GROUP,
        _fcntl.GROUP,
        _signal.GROUP,
        _os.GROUP,
        _subprocess.GROUP,
        _multiprocessing.GROUP,
        _files.GROUP,
    )
}

_PINNED = ("asyncio", "concurrent.futures", "greenio", "uvloop")
"""Packages that keep the native objects they imported by name."""

_AS_THEY_SHOULD_BE = (*_PINNED, "_frozen_importlib", "importlib", "logging", "threading")
"""Packages whose old objects are no news."""

_BY_DEFAULT = frozenset(_GROUPS) - {"files", "green_threads"}
"""Groups that are patched unless they are named."""

_ABSENT = object()

_lock = _original.RLock()
"""Held while anything is patched or unpatched. A fork waits for it, so that the child never finds half of it done."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


@dataclass(frozen=True, eq=False)
class _Applied:
    """One replaced name, and what it takes to put the native one back."""

    patch: Patch
    own: Any
    native: Any

    def undo(self) -> None:
        owner, name = self.patch.owner, self.patch.name
        if vars(owner).get(name, _ABSENT) is not self.patch.green:
            return  # somebody has set the name since; what is theirs is not ours to take away
        if self.own is _ABSENT:
            delattr(owner, name)
        else:
            setattr(owner, name, self.own)


@dataclass(eq=False)
class _AppliedGroup:
    """A group that is patched now, and who wants it so.

    Attributes:
        group: The group.
        names: What was replaced, in order.
        exchanged: The early references that were exchanged.
        wanted: Whether `patch_all` or the like asked for it; then it stays until `unpatch_all`.
        blocks: How many `patched` blocks that are open asked for it.
    """

    group: Group
    names: list[_Applied] = field(default_factory=list)
    exchanged: list[Exchange] = field(default_factory=list)
    wanted: bool = False
    blocks: int = 0


_applied: dict[str, _AppliedGroup] = {}
"""The groups that are patched now, in the order in which they were."""


_policy: Policy | None = None
"""What is done about native code that would hold a loop; None for nothing."""

_guards: _AppliedGroup | None = None
"""What stands over everything that is patched, if there is a policy."""


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
    in a coroutine) warns by BlockingCallWarning, once for each line, or raises BlockingCallError in place of blocking.
    What cannot block does not count, nor does what asyncio does for itself. "ignore" costs nothing.

    Args:
        socket: `socket.socket` and its methods.
        ssl: `ssl.SSLSocket` and its methods.
        dns: The name look-ups of `socket`.
        fcntl: `fcntl.flock`, `lockf`, and `fcntl` where it waits for a lock.
        files: Large reads and writes of regular files, and `os.fsync`; only if asked for.
        green_threads: Whether a `threading.Thread` that green code starts is a greenlet of its loop; only if asked for.
        local: `threading.local`.
        multiprocessing: Processes, connections and semaphores of `multiprocessing`, as soon as it is imported.
        os: `os.read`, `os.write` and the like, named pipes, file objects of pipes and terminals, `input`; `os.wait` and
            its like, `os.system`.
        select: `select.select`, `poll`, `epoll`.
        selectors: Every class of `selectors`.
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
    with _lock:
        _patch([name for name in _GROUPS if chosen[name]])
        if on_blocking is not None:
            _set_policy(policy)


def patch_socket() -> None:
    """Patch `socket.socket`: the group "socket". Never parks."""
    _patch(["socket"])


def patch_ssl() -> None:
    """Patch `ssl.SSLSocket`: the group "ssl". Never parks."""
    _patch(["ssl"])


def patch_dns() -> None:
    """Patch the name look-ups of `socket`: the group "dns". Never parks."""
    _patch(["dns"])


def patch_fcntl() -> None:
    """Patch the file locks of `fcntl`: the group "fcntl". Never parks."""
    _patch(["fcntl"])


def patch_files() -> None:
    """Take large operations on regular files to threads: the group "files". Never parks."""
    _patch(["files"])


def patch_multiprocessing() -> None:
    """Patch what waits in `multiprocessing`, as soon as it is imported: the group "multiprocessing". Never parks."""
    _patch(["multiprocessing"])


def patch_os() -> None:
    """Patch what waits for pipes, terminals and children in `os`, `open` and `input`: the group "os". Never parks."""
    _patch(["os"])


def patch_select() -> None:
    """Patch `select.select`, `poll` and `epoll`: the group "select". Never parks."""
    _patch(["select"])


def patch_selectors() -> None:
    """Patch the classes of `selectors`: the group "selectors". Never parks."""
    _patch(["selectors"])


def patch_signal() -> None:
    """Patch `signal.sigwait`, `sigwaitinfo`, `sigtimedwait` and `pause`: the group "signal". Never parks."""
    _patch(["signal"])


def patch_subprocess() -> None:
    """Patch the waits of `subprocess.Popen`: the group "subprocess". Never parks."""
    _patch(["subprocess"])


def patch_threading(*, local: bool = True, green_threads: bool = False) -> None:
    """Patch the locks of `threading`, `_thread` and `queue`, and what waits: the group "threading". Never parks.

    Args:
        local: Patch `threading.local` too.
        green_threads: Make threads that green code starts greenlets, too.
    """
    chosen = {"local": local, "threading": True, "green_threads": green_threads}
    _patch([name for name in _GROUPS if chosen.get(name)])


def patch_local() -> None:
    """Patch `threading.local`: the group "local". Never parks."""
    _patch(["local"])


def patch_green_threads() -> None:
    """Make threads that green code starts greenlets: the group "green_threads", with "threading". Never parks.

    A `threading.Thread` that green code starts is then a greenlet of its loop, in a task of its own, and
    `greenio.run` waits for those that are no daemons. Threads that asyncio, `concurrent.futures` and
    `multiprocessing` start stay real ones.
    """
    _patch(["green_threads"])


def patch_time() -> None:
    """Patch `time.sleep`: the group "time". Never parks."""
    _patch(["time"])


def unpatch_all() -> None:
    """Put every native object back. Sockets that green code used block again as their timeouts say. Never parks.

    Greenlets that are parked finish their wait. What other code set over a patched name since is left alone.
    """
    with _lock:
        _set_policy(None)
        _take_off(tuple(_applied))


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
        ValueError: A group is unknown, or `on_blocking` is. Nothing was patched.
    """
    _check_names([*groups, *choices])
    policy = _make_policy(on_blocking, allow_blocking)
    chosen = groups or _BY_DEFAULT
    names = [name for name in _GROUPS if choices.get(name, name in chosen)]
    with _lock:
        held = _patch(names, for_block=True)
        before = _policy
        if on_blocking is not None:
            _set_policy(policy)
    try:
        yield
    finally:
        with _lock:
            if on_blocking is not None and _policy is policy:
                _set_policy(before)
            _let_go(held)


def is_patched(name: str) -> bool:
    """Tell whether a group ("socket") or a name ("time.sleep", "socket.socket.recv") is patched now. Never parks.

    Raises:
        ValueError: Nothing of that name is ever patched.
    """
    if name in _GROUPS:
        return name in _applied
    for group in _GROUPS.values():
        if any(patch.target == name for patch in group.loaded()):
            return group.name in _applied
    raise ValueError(f"nothing named {name!r} is ever patched; the groups are {_choices()}, and report() lists names")


def original(module: str, name: str) -> Any:
    """Look up the native object behind a name, patched or not. Never parks.

    Args:
        module: The module's name, as in "time".
        name: The name in it, as in "sleep" or "socket.recv".

    Raises:
        AttributeError: The module has no such name.
        ModuleNotFoundError: There is no such module.
    """
    value: Any = importlib.import_module(module)
    target = module
    for part in name.split("."):
        target += f".{part}"
        native = _native_of(target)
        value = getattr(value, part) if native is _ABSENT else native
    below = {id(item.patch.green): item.native for item in (*_each_applied(), *_each_guard())}
    while id(value) in below:
        value = below[id(value)]
    return value


def report() -> Report:
    """Tell what is patched, which early references were rebound, and what could not be reached. Never parks.

    Looks at every object that the garbage collector knows: for start-up and for debugging, not for a hot path. The
    local variables of functions that are running are not looked at.
    """
    with _lock:
        groups = dict(_applied)
        natives = {item.patch.target: item.native for item in _each_applied() if _has_references(item)}
        hidden = [entry for applied in groups.values() for entry in applied.group.hidden.items()]
        ours = {id(natives), *_own_classes()}
        ours.update(id(item.patch.green) for item in (*_each_applied(), *_each_guard()))
        ours.update(id(green) for _, (_, green) in hidden)
        live = find_instances({**natives, **{target: native for target, (native, _) in hidden}})
        sought = [*(Sought(target, native) for target, native in natives.items()), *live]
        return Report(
            patched={name: tuple(item.patch.target for item in found.names) for name, found in groups.items()},
            rebound=tuple(sorted(done.reference for found in groups.values() for done in found.exchanged)),
            unreachable=tuple(sorted(set(find_holders(sought, _AS_THEY_SHOULD_BE, ours)))),
        )


def _choices() -> str:
    return ", ".join(sorted(_GROUPS))


def _check_names(names: Iterable[str]) -> None:
    unknown = [name for name in names if name not in _GROUPS]
    if unknown:
        raise ValueError(f"unknown group {unknown[0]!r}; the groups are {_choices()}")


def _each_applied() -> Iterator[_Applied]:
    for applied in tuple(_applied.values()):
        yield from applied.names


def _each_guard() -> Iterator[_Applied]:
    yield from () if _guards is None else _guards.names


def _make_policy(action: str | None, allowed: Iterable[str]) -> Policy | None:
    """Check what was asked for; None is for ignoring."""
    if action not in (None, "ignore", "warn", "raise"):
        raise ValueError(f'on_blocking must be "ignore", "warn" or "raise", not {action!r}')
    if isinstance(allowed, str):
        raise ValueError(f"allow_blocking takes several names: write allow_blocking=[{allowed!r}]")
    return Policy(action, allowed) if action in ("warn", "raise") else None


def _set_policy(policy: Policy | None) -> None:
    global _policy
    with _unguarded():
        _policy = policy


@contextlib.contextmanager
def _unguarded() -> Iterator[None]:
    """Take the guards off for as long as anything is patched or unpatched below them, and put them over what is then.

    They are no group of their own, since what they stand over, and so what they are, changes with the groups.
    """
    global _guards
    found, _guards = _guards, None
    if found is not None:
        _restore([found])
    try:
        yield
    finally:
        if _policy is not None and _applied:
            made = guards({item.patch.target: item.patch for item in _each_applied()}, _policy)
            _guards = _AppliedGroup(Group("on_blocking", made))
            _put_on([_guards])


def _native_of(target: str) -> Any:
    return next((item.native for item in _each_applied() if item.patch.target == target), _ABSENT)


def _own_classes() -> set[int]:
    """Look up the ids of classes that are patched, or stand in for others: their group knows what they may hold."""
    patches = [patch for group in _GROUPS.values() for patch in group.loaded()]
    return {id(value) for patch in patches for value in (patch.owner, patch.green) if isinstance(value, type)}


def _has_references(item: _Applied) -> bool:
    """Tell whether early references have to be looked for: a method is found anew at every call, a function is not."""
    return isinstance(item.patch.owner, types.ModuleType)


def _patch(names: list[str], for_block: bool = False) -> list[_AppliedGroup]:
    """Patch what is not patched yet, all or nothing, and note who asked for it.

    Returns:
        All groups of that name.
    """
    needed = {need for name in names for need in _GROUPS[name].needs}
    names = [name for name in _GROUPS if name in needed or name in names]
    for name in names:
        if _GROUPS[name].missing:
            raise RuntimeError(
                f"cannot patch {name!r}: {_GROUPS[name].missing}; leave it out, as in patch_all({name}=False), "
                f"or choose among {_choices()}"
            )
    with _lock:
        fresh = [_AppliedGroup(_GROUPS[name]) for name in names if name not in _applied]
        with _unguarded() if fresh else contextlib.nullcontext(), _lifted(fresh):
            try:
                for applied in fresh:
                    _await_modules(applied)
                for layer in _layers(fresh):
                    _put_on(layer)
            except BaseException:
                _restore_layers(fresh)
                raise
            _applied.update((applied.group.name, applied) for applied in fresh)
        held = [_applied[name] for name in names]
        for applied in held:
            applied.blocks += for_block
            applied.wanted |= not for_block
        return held


def _shares_names(one: _AppliedGroup, other: _AppliedGroup) -> bool:
    targets = {patch.target for patch in one.group.loaded()}
    return any(patch.target in targets for patch in other.group.loaded())


def _layers(groups: list[_AppliedGroup]) -> list[list[_AppliedGroup]]:
    """Part groups so that those which patch what others have patched come after them."""
    layers: list[list[_AppliedGroup]] = [[]]
    for applied in groups:
        if any(_shares_names(applied, other) for other in layers[-1]):
            layers.append([])
        layers[-1].append(applied)
    return layers


@contextlib.contextmanager
def _lifted(groups: list[_AppliedGroup]) -> Iterator[None]:
    """Take off what lies over groups, for as long as they are put on or taken off themselves."""
    order = list(_GROUPS)
    above = [
        applied
        for applied in _applied.values()
        if applied not in groups
        and any(
            order.index(applied.group.name) > order.index(other.group.name) and _shares_names(applied, other)
            for other in groups
        )
    ]
    _restore(above)
    for applied in above:
        applied.names, applied.exchanged = [], []
    try:
        yield
    finally:
        if above:
            _put_on(above)


def _put_on(groups: list[_AppliedGroup]) -> None:
    for applied in groups:
        for patch in applied.group.loaded():
            own = vars(patch.owner).get(patch.name, _ABSENT)
            native = getattr(patch.owner, patch.name)
            applied.names.append(_Applied(patch, own, native))
            patch.below(native)
            setattr(patch.owner, patch.name, patch.green)
    targets = {item.patch.target: applied for applied in groups for item in applied.names}
    swaps = [_swap_for(item) for applied in groups for item in applied.names if _has_references(item)]
    for done in exchange(swaps, _PINNED, _own_classes()):
        targets[done.reference.native].exchanged.append(done)
    for applied in groups:
        applied.group.do()


def _await_modules(applied: _AppliedGroup) -> None:
    """Have what is imported later patched then."""
    for name, make in applied.group.late.items():
        if name not in sys.modules:
            await_module(name, partial(_put_on_late, applied, make))


def _put_on_late(applied: _AppliedGroup, make: Callable[[Any], tuple[Patch, ...]], module: types.ModuleType) -> None:
    with _lock:
        if _applied.get(applied.group.name) is not applied:
            return
        stop_awaiting([module.__name__])
        part = _AppliedGroup(replace(applied.group, patches=make(module), late={}, undo=lambda: None))
        with _unguarded():
            try:
                _put_on([part])
            except BaseException:
                _restore([part])
                raise
            applied.names += part.names
            applied.exchanged += part.exchanged


def _swap_for(item: _Applied) -> Swap:
    homes = {item.patch.owner.__name__, str(getattr(item.native, "__module__", ""))}
    return Swap(item.native, item.patch.green, item.patch.target, frozenset(homes))


def _let_go(held: list[_AppliedGroup]) -> None:
    """Leave a `patched` block: take off what nobody else wants."""
    with _lock:
        for applied in held:
            applied.blocks -= 1
        left = [applied for applied in held if not applied.blocks and not applied.wanted]
        _take_off([name for name, applied in _applied.items() if applied in left])


def _take_off(names: Collection[str]) -> None:
    groups = [_applied[name] for name in names]
    with _unguarded() if groups else contextlib.nullcontext():
        for name in names:
            del _applied[name]
        with _lifted(groups):
            _restore_layers(groups)


def _restore_layers(groups: list[_AppliedGroup]) -> None:
    with contextlib.ExitStack() as undone:
        for layer in _layers(sorted(groups, key=lambda applied: list(_GROUPS).index(applied.group.name))):
            undone.callback(_restore, layer)


def _restore(groups: list[_AppliedGroup]) -> None:
    """Put the native objects back in reverse order: the names, the early references, the later ones, live objects."""
    with contextlib.ExitStack() as undone:  # every step is tried, whatever happens in the others
        for applied in groups:
            undone.callback(applied.group.undo)
            undone.callback(stop_awaiting, applied.group.late)
        items = [item for applied in groups for item in applied.names]
        undone.callback(_exchange_back, [item for item in items if _has_references(item)])
        for item in items:
            undone.callback(item.undo)
        for done in (done for applied in groups for done in applied.exchanged):
            undone.callback(done.undo)


def _exchange_back(items: list[_Applied]) -> None:
    """Modules that were imported after the patch took the green objects by name: give them the native ones."""
    swaps = [Swap(item.patch.green, item.native, item.patch.target, frozenset()) for item in items]
    for _ in exchange(swaps, ["greenio"]):
        pass
