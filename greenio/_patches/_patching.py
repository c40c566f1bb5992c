"""The engine of patching: which groups there are, how they are put on and taken off, all or nothing.

Theory of operation
===================
A group that is patched is an `AppliedGroup`, which knows what stood under each name and who wants the group. Groups
that patch the same names lie over one another in layers, in the order of `GROUPS`; what lies over others is lifted for
as long as anything below it changes. So are the guards of `on_blocking`, which lie over everything. All of this happens
under one lock, and whatever fails is undone.
"""

from __future__ import annotations

import contextlib
import os
import sys
import types
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from typing import Any

from .. import _original
from . import (
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
from ._blocking import Policy
from ._bound_methods import exchange_attributes, swaps_of_bound
from ._late import await_module, stop_awaiting
from ._old_objects import Look
from ._references import Exchange, Swap, exchange
from ._table import Group, Patch
from ._would_block import guards

__all__ = [
    "ABSENT",
    "BY_DEFAULT",
    "GROUPS",
    "PINNED",
    "Applied",
    "AppliedGroup",
    "applied_groups",
    "current_policy",
    "each_applied",
    "each_guard",
    "group_choices",
    "has_references",
    "home_classes",
    "let_go",
    "native_bound_methods",
    "native_of",
    "own_classes",
    "patching_lock",
    "put_on",
    "set_policy",
    "take_off",
]

try:
    from ._ssl import GROUP as _SSL
except ModuleNotFoundError as _error:  # a CPython that was built without OpenSSL
    if (_error.name or "").startswith("greenio"):
        raise
    _SSL = Group("ssl", (), missing=f"this Python has no module {_error.name!r}")

GROUPS: dict[str, Group] = {
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

PINNED = ("asyncio", "concurrent.futures", "greenio", "uvloop")
"""Packages that keep the native objects they imported by name."""

BY_DEFAULT = frozenset(GROUPS) - {"files", "green_threads"}
"""Groups that are patched unless they are named."""

ABSENT = object()

patching_lock = _original.RLock()
"""Held while anything is patched or unpatched. A fork waits for it, so that the child never finds half of it done."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=patching_lock.acquire, after_in_parent=patching_lock.release, after_in_child=patching_lock.release
    )


@dataclass(frozen=True, eq=False)
class Applied:
    """One replaced name, and what it takes to put the native one back."""

    patch: Patch
    own: Any
    native: Any

    def undo(self) -> None:
        owner, name = self.patch.owner, self.patch.name
        if vars(owner).get(name, ABSENT) is not self.patch.green:
            return  # somebody has set the name since; what is theirs is not ours to take away
        if self.own is ABSENT:
            delattr(owner, name)
        else:
            setattr(owner, name, self.own)


@dataclass(eq=False)
class AppliedGroup:
    """A group that is patched now, and who wants it so.

    Attributes:
        group: The group.
        names: What was replaced, in order.
        exchanged: The early references that were exchanged.
        wanted: Whether `patch_all` or the like asked for it; then it stays until `unpatch_all`.
        blocks: How many `patched` blocks that are open asked for it.
    """

    group: Group
    names: list[Applied] = field(default_factory=list)
    exchanged: list[Exchange] = field(default_factory=list)
    wanted: bool = False
    blocks: int = 0


applied_groups: dict[str, AppliedGroup] = {}
"""The groups that are patched now, in the order in which they were."""


_policy: Policy | None = None
"""What is done about native code that would hold a loop; None for nothing."""

_guards: AppliedGroup | None = None
"""What stands over everything that is patched, if there is a policy."""


def group_choices() -> str:
    return ", ".join(sorted(GROUPS))


def each_applied() -> Iterator[Applied]:
    for applied in tuple(applied_groups.values()):
        yield from applied.names


def each_guard() -> Iterator[Applied]:
    yield from () if _guards is None else _guards.names


def current_policy() -> Policy | None:
    """Tell what is done about native code that would hold a loop."""
    return _policy


def set_policy(policy: Policy | None) -> None:
    """Do something else about native code that would hold a loop: guards come, go or change."""
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
        if _policy is not None and applied_groups:
            made = guards({item.patch.target: item.patch for item in each_applied()}, _policy)
            _guards = AppliedGroup(Group("on_blocking", made))
            _put_on_now([_guards])


def native_of(target: str) -> Any:
    return next((item.native for item in each_applied() if item.patch.target == target), ABSENT)


def own_classes() -> set[int]:
    """Look up the ids of classes that are patched, or stand in for others: their group knows what they may hold."""
    patches = [patch for group in GROUPS.values() for patch in group.loaded()]
    return {id(value) for patch in patches for value in (patch.owner, patch.green) if isinstance(value, type)}


def home_classes() -> set[int]:
    """Look up the ids of classes in which methods that are patched are at home."""
    patches = [patch for group in GROUPS.values() for patch in group.loaded()]
    return {id(base) for patch in patches if isinstance(patch.owner, type) for base in patch.owner.__mro__[:-1]}


def has_references(item: Applied) -> bool:
    """Tell whether early references have to be looked for: those to functions, and to methods that would block."""
    patch = item.patch
    if isinstance(patch.owner, types.ModuleType):
        return True
    is_method = type(item.native) in (types.FunctionType, types.MethodDescriptorType)
    return (
        is_method
        and type(patch.green) is types.FunctionType
        and not patch.cooperates
        and not patch.name.startswith("__")
    )


def put_on(names: list[str], for_block: bool = False) -> list[AppliedGroup]:
    """Patch what is not patched yet, all or nothing, and note who asked for it.

    Returns:
        All groups of that name.
    """
    needed = {need for name in names for need in GROUPS[name].needs}
    names = [name for name in GROUPS if name in needed or name in names]
    for name in names:
        if GROUPS[name].missing:
            raise RuntimeError(
                f"cannot patch {name!r}: {GROUPS[name].missing}; leave it out, as in patch_all({name}=False), "
                f"or choose among {group_choices()}"
            )
    with patching_lock:
        fresh = [AppliedGroup(GROUPS[name]) for name in names if name not in applied_groups]
        with _unguarded() if fresh else contextlib.nullcontext(), _lifted(fresh):
            try:
                for applied in fresh:
                    _await_modules(applied)
                for layer in _layers(fresh):
                    _put_on_now(layer)
            except BaseException:
                _restore_layers(fresh)
                raise
            applied_groups.update((applied.group.name, applied) for applied in fresh)
        held = [applied_groups[name] for name in names]
        for applied in held:
            applied.blocks += for_block
            applied.wanted |= not for_block
        return held


def _shares_names(one: AppliedGroup, other: AppliedGroup) -> bool:
    """Tell whether one group lies over the other; they may also have a patch in common, which then is put on once."""
    patches = {patch.target: patch for patch in one.group.loaded()}
    return any(patches.get(patch.target, patch) != patch for patch in other.group.loaded())


def _layers(groups: list[AppliedGroup]) -> list[list[AppliedGroup]]:
    """Part groups so that those which patch what others have patched come after them."""
    layers: list[list[AppliedGroup]] = [[]]
    for applied in groups:
        if any(_shares_names(applied, other) for other in layers[-1]):
            layers.append([])
        layers[-1].append(applied)
    return layers


@contextlib.contextmanager
def _lifted(groups: list[AppliedGroup]) -> Iterator[None]:
    """Take off what lies over groups, for as long as they are put on or taken off themselves."""
    order = list(GROUPS)
    above = [
        applied
        for applied in applied_groups.values()
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
            _put_on_now(above)


def _put_on_now(groups: list[AppliedGroup], are_new: bool = False) -> None:
    """Replace names, and exchange what others have of the natives; of a module that is new nobody has bound methods."""
    look = Look()
    for applied in groups:
        for patch in applied.group.loaded():
            own = vars(patch.owner).get(patch.name, ABSENT)
            if own is patch.green:
                continue  # another group has it too
            native = getattr(patch.owner, patch.name)
            applied.names.append(Applied(patch, own, native))
            patch.below(native)
            setattr(patch.owner, patch.name, patch.green)
    targets = {item.patch.target: applied for applied in groups for item in applied.names}
    swaps = [_swap_for(item) for applied in groups for item in applied.names if has_references(item)]
    bound = [] if are_new else _swaps_of_bound(swaps, look)
    kept = own_classes() | home_classes()
    for done in chain(exchange([*swaps, *bound], PINNED, kept), exchange_attributes(bound, look)):
        targets[done.reference.native].exchanged.append(done)
    for applied in groups:
        applied.group.do(look)


def _await_modules(applied: AppliedGroup) -> None:
    """Have what is imported later patched then."""
    for name, make in applied.group.late.items():
        if name not in sys.modules:
            await_module(name, partial(_put_on_late, applied, make))


def _put_on_late(applied: AppliedGroup, make: Callable[[Any], tuple[Patch, ...]], module: types.ModuleType) -> None:
    with patching_lock:
        if applied_groups.get(applied.group.name) is not applied:
            return
        stop_awaiting([module.__name__])
        part = AppliedGroup(replace(applied.group, patches=make(module), late={}, undo=lambda: None))
        with _unguarded():
            try:
                _put_on_now([part], are_new=True)
            except BaseException:
                _restore([part])
                raise
            applied.names += part.names
            applied.exchanged += part.exchanged


def _swap_for(item: Applied) -> Swap:
    patch = item.patch
    owner = patch.owner if isinstance(patch.owner, type) else None
    homes = {patch.owner.__name__ if owner is None else owner.__module__, str(getattr(item.native, "__module__", ""))}
    return Swap(item.native, patch.green, patch.target, frozenset(homes), owner)


def _swaps_of_bound(swaps: list[Swap], look: Look) -> list[Swap]:
    methods = [swap for swap in swaps if swap.owner is not None]
    return [*swaps_of_bound(look.methods, methods)] if methods else []


def native_bound_methods() -> list[tuple[str, Any]]:
    """Find bound methods that are native while those of their class are patched, with the full names of the latter."""
    swaps = [_swap_for(item) for item in each_applied() if has_references(item)]
    return [(swap.target, swap.old) for swap in _swaps_of_bound(swaps, Look())]


def let_go(held: list[AppliedGroup]) -> None:
    """Leave a `patched` block: take off what nobody else wants."""
    with patching_lock:
        for applied in held:
            applied.blocks -= 1
        left = [applied for applied in held if not applied.blocks and not applied.wanted]
        take_off([name for name, applied in applied_groups.items() if applied in left])


def take_off(names: Collection[str]) -> None:
    groups = [applied_groups[name] for name in names]
    with _unguarded() if groups else contextlib.nullcontext():
        for name in names:
            del applied_groups[name]
        with _lifted(groups):
            _restore_layers(groups)


def _restore_layers(groups: list[AppliedGroup]) -> None:
    with contextlib.ExitStack() as undone:
        for layer in _layers(sorted(groups, key=lambda applied: list(GROUPS).index(applied.group.name))):
            undone.callback(_restore, layer)


def _restore(groups: list[AppliedGroup]) -> None:
    """Put the native objects back in reverse order: the names, the early references, the later ones, live objects."""
    with contextlib.ExitStack() as undone:  # every step is tried, whatever happens in the others
        for applied in groups:
            for other in applied_groups.values():
                if other not in groups:
                    _hand_over(applied, other)
            undone.callback(applied.group.undo)
            undone.callback(stop_awaiting, applied.group.late)
        items = [item for applied in groups for item in applied.names]
        undone.callback(_exchange_back, [item for item in items if has_references(item)])
        for item in items:
            undone.callback(item.undo)
        for done in (done for applied in groups for done in applied.exchanged):
            undone.callback(done.undo)


def _hand_over(applied: AppliedGroup, heir: AppliedGroup) -> None:
    """Leave to another group what that has in common with one that goes."""
    patches = heir.group.loaded()
    shared = [item for item in applied.names if item.patch in patches]
    natives = [item.patch.target for item in shared]
    heir.names += shared
    applied.names = [item for item in applied.names if item not in shared]
    heir.exchanged += [done for done in applied.exchanged if done.reference.native in natives]
    applied.exchanged = [done for done in applied.exchanged if done.reference.native not in natives]


def _exchange_back(items: list[Applied]) -> None:
    """Modules that were imported after the patch took the green objects by name: give them the native ones."""
    swaps = [Swap(item.patch.green, item.native, item.patch.target, frozenset()) for item in items]
    for _ in exchange(swaps, ["greenio"]):
        pass
