"""References to native objects that other code took before the patch: exchange those with a name, list the rest.

What is written in C and takes no methods is replaced in its module; `from time import sleep` has a reference of its
own by then, and so has `receive = socket.socket.recv`. Global names of modules and attributes of classes are exchanged.
A default argument, a closure, an instance or a container is left as it is, since it may be meant so, and is found for
`monkey.report()`.

Nothing that is looked at here may run code of its owner: lazy modules load themselves at the first attribute, proxies
resolve at `isinstance`, metaclasses have `__setattr__`. So modules and classes are read through the descriptors of
`ModuleType` and `type`, and values are compared by identity alone.
"""

from __future__ import annotations

import gc
import sys
import types
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

__all__ = [
    "Exchange",
    "Reference",
    "Slots",
    "Sought",
    "Swap",
    "class_name",
    "class_vars",
    "classes",
    "exchange",
    "find_holders",
    "find_instances",
    "instance_vars",
    "namespaces",
]

_module_vars: Callable[[object], dict[str, Any] | None] = vars(types.ModuleType)["__dict__"].__get__
class_vars: Callable[[type], Mapping[str, Any]] = vars(type)["__dict__"].__get__
_mro_of: Callable[[type], tuple[type, ...]] = vars(type)["__mro__"].__get__
_class_module: Callable[[type], Any] = vars(type)["__module__"].__get__
_class_name: Callable[[type], str] = vars(type)["__qualname__"].__get__
_subclasses: Callable[[type], list[type]] = vars(type)["__subclasses__"]

_DEPTH = 6
"""How many containers within one another are followed up to something that has a name."""

_PASSED_THROUGH = frozenset({"_io", "builtins", "collections", "functools", "types"})
"""Where the types come from that say nothing about who holds them: dict, cell, partial, deque, layers of a file ..."""


@dataclass(frozen=True, order=True)
class Reference:
    """One place outside greenio that holds, or held, a native object.

    Attributes:
        native: The full name of the native object, as in "time.sleep".
        module: The module of the place.
        name: Its qualified name in that module.
        kind: "name", "class attribute", "default", "closure", "instance", "container", "attribute" (of a function), or
            "live object": not the native itself is held, but an object of that type.
    """

    native: str
    module: str
    name: str
    kind: str = "name"

    def __str__(self) -> str:
        suffix = "" if self.kind == "name" else f" ({self.kind})"
        return f"{self.module}.{self.name}{suffix}"


@dataclass(frozen=True)
class Swap:
    """One object that takes another's place wherever that one has a name.

    Attributes:
        old: The object that is looked for.
        new: What takes its place.
        target: The full name of what is patched.
        homes: The modules that keep `old`, since it is theirs.
        owner: The class, if it is a method of one.
        bound_of: The native method, if `old` is that bound to an object.
    """

    old: Any
    new: Any
    target: str
    homes: frozenset[str]
    owner: type | None = None
    bound_of: Any = None

    def noted(self, reference: Reference, holder: dict[str, Any] | weakref.ref[Any], key: str, before: Any) -> Exchange:
        """Note that this was done in one place, without keeping alive what a method is bound to."""
        if self.bound_of is None:
            return Exchange(reference, holder, key, before, self.new)
        return Exchange(reference, holder, key, self.bound_of, weakref.ref(self.new))


@dataclass(frozen=True)
class Exchange:
    """One reference that was exchanged, and how to take that back.

    Attributes:
        reference: Which one it is.
        holder: The global names, or the class or instance that has the attribute.
        key: The name.
        before: What was there; for a bound method, the native method that it was bound of.
        after: What is there now; for a bound method, a weak reference.
    """

    reference: Reference
    holder: dict[str, Any] | weakref.ref[Any]
    key: str
    before: Any
    after: Any

    def undo(self) -> None:
        """Put the old object back, unless somebody has set the name since."""
        owner: Any = self.holder if isinstance(self.holder, dict) else self.holder()
        before, after = self.before, self.after
        if type(after) is weakref.ref:
            after = after()
            before = None if after is None else before.__get__(after.__self__)
        if owner is None or after is None:
            return
        if issubclass(type(owner), type):
            if class_vars(owner).get(self.key) is after:
                type.__setattr__(owner, self.key, before)
            return
        namespace: Any = owner if owner is self.holder else instance_vars(owner)
        if namespace is not None and namespace.get(self.key) is after:
            namespace[self.key] = before


def exchange(swaps: Iterable[Swap], pinned: Collection[str], owners: Collection[int] = ()) -> Iterator[Exchange]:
    """Exchange objects in the global names of all modules and in the attributes of all classes.

    Args:
        swaps: What to exchange by what.
        pinned: Packages that keep what they have.
        owners: The ids of classes that keep what they have.

    Yields:
        What was exchanged, each right after it was, so that a failure leaves nothing unknown.
    """
    by_id = {id(swap.old): swap for swap in swaps}
    if not by_id:
        return
    for name, namespace in namespaces():
        if not by_id.keys().isdisjoint(map(id, tuple(namespace.values()))) and not _is_in(name, pinned):
            yield from _exchange_names(by_id, name, namespace)
    for owner in classes():
        if id(owner) not in owners and _may_hold(owner, by_id):
            yield from _exchange_attributes(by_id, owner, pinned)


def _may_hold(owner: type, by_id: dict[int, Swap]) -> bool:
    """Tell quickly that a class has no attribute in question. A static method hides its function, and so may be one."""
    values = tuple(class_vars(owner).values())
    return not by_id.keys().isdisjoint(map(id, values)) or id(staticmethod) in map(id, map(type, values))


def _exchange_names(by_id: dict[int, Swap], module: str, namespace: dict[str, Any]) -> Iterator[Exchange]:
    for key, value in tuple(namespace.items()):
        swap = by_id.get(id(value))
        if swap is not None and module not in swap.homes:
            namespace[key] = swap.new
            yield swap.noted(Reference(swap.target, module, key), namespace, key, value)


def _exchange_attributes(by_id: dict[int, Swap], owner: type, pinned: Collection[str]) -> Iterator[Exchange]:
    for key, value in tuple(class_vars(owner).items()):
        is_static = type(value) is staticmethod
        swap = by_id.get(id(value.__func__ if is_static else value))
        if swap is None or _is_in(module := str(_class_module(owner)), pinned):
            continue
        new = staticmethod(swap.new) if is_static else swap.new
        try:
            type.__setattr__(owner, key, new)  # not the metaclass's, which may forbid it or react to it
        except TypeError:
            continue  # a type written in C
        reference = Reference(swap.target, module, f"{_class_name(owner)}.{key}", "class attribute")
        yield replace(swap, new=new).noted(reference, weakref.ref(owner), key, value)


@dataclass(frozen=True)
class Sought:
    """An object whose holders are looked for.

    Attributes:
        target: The full name of the native that it is, or is made by.
        value: The object.
        kind: What a reference is called that is just a name.
        key: The name of its attribute, if it is an attribute's only container that is looked for.
    """

    target: str
    value: Any
    kind: str = "name"
    key: str = ""


def find_instances(natives: Mapping[str, Any]) -> Iterator[Sought]:
    """Find objects of native types by what holds them: such as `select.epoll` are unknown to the garbage collector.

    Args:
        natives: The types by their full names; what is no type has no instances.
    """
    targets = {id(native): target for target, native in natives.items() if isinstance(native, type)}
    if not targets:
        return
    seen: set[int] = set()
    for holder in gc.get_objects():
        for held in _referents(holder):
            # A dict or tuple of nothing but such objects is unknown as well, so that it stands for what is in it.
            is_untracked = (type(held) is dict or type(held) is tuple) and not gc.is_tracked(held)
            inside = gc.get_referents(held) if is_untracked else [held]
            for value in inside:
                if id(type(value)) in targets and id(held) not in seen:
                    seen.add(id(held))
                    key = _key_of(held, value) if type(held) is dict else ""
                    yield Sought(targets[id(type(value))], held, "live object", key)


def find_holders(sought: Iterable[Sought], pinned: Collection[str], ignored: Collection[int]) -> Iterator[Reference]:
    """Find what holds objects, by what the garbage collector knows; running functions are not looked at.

    Args:
        sought: The objects.
        pinned: Packages whose references are as they should be.
        ignored: The ids of holders that are as they should be, and of classes whose instances are.
    """
    modules = {id(namespace): name for name, namespace in namespaces()}
    first = tuple(sought)
    found = [item.value for item in first]
    trails: _Trails = {
        id(item.value): {(item.target, item.key): _Trail(item.target, item.kind, item.key)} for item in first
    }
    ours = {*ignored, *(id(own) for item in first for own in (item, vars(item), item.value))}
    been: set[tuple[int, str, str]] = set()
    for _ in range(_DEPTH):
        above: dict[int, Any] = {}
        steps: _Trails = {}
        for step, holder in _steps(found, trails, modules, ours | {id(found)}):
            if isinstance(step, Reference):
                if not _is_in(step.module, pinned):
                    yield step
            elif (id(holder), step.target, step.key) not in been:
                been.add((id(holder), step.target, step.key))
                above[id(holder)] = holder
                steps.setdefault(id(holder), {})[step.target, step.key] = step
        found, trails = list(above.values()), steps
        if not found:
            return


def _steps(
    found: list[Any], trails: _Trails, modules: dict[int, str], ours: set[int]
) -> Iterator[tuple[_Trail | Reference, Any]]:
    """Take one step up, from objects to what holds them."""
    for holder in _referrers(found):
        if id(holder) in ours or not ours.isdisjoint(map(id, type(holder).__mro__)):
            continue
        for child in _referents(holder):
            for trail in trails.get(id(child), {}).values():
                step = _step(holder, child, trail, modules)
                if step is not None:
                    yield step, holder


def _referrers(found: list[Any]) -> list[Any]:
    """Do what `gc.get_referrers` does, which compares every reference there is with every object in question."""
    if len(found) <= _FEW:
        return gc.get_referrers(*found)
    wanted = set(map(id, found))
    return [holder for holder in gc.get_objects() if not wanted.isdisjoint(map(id, _referents(holder)))]


def _referents(holder: Any) -> list[Any]:
    """Do what `gc.get_referents` does, but leave modules alone.

    `_asyncio` of 3.12 shows the collector its list of freed objects. Whoever takes those into a list frees them again
    with it, after which the list of the freed is a ring that every later search walks for ever.
    """
    return [] if issubclass(type(holder), types.ModuleType) else gc.get_referents(holder)


_FEW = 30
"""So many objects `gc.get_referrers` looks for faster than a search by their ids."""


@dataclass(frozen=True)
class _Trail:
    """The way from a native object up to one of its holders."""

    target: str
    kind: str = "name"
    key: str = ""

    def through(self, kind: str, key: str = "") -> _Trail:
        """Go one container up; its key is the nearer one to the attribute that will be named."""
        return _Trail(self.target, kind if self.kind == "name" else self.kind, key or self.key)

    def end(self, module: Any, name: str, kind: str = "") -> Reference:
        return Reference(self.target, str(module), name, kind or self.kind)


_Trails: TypeAlias = dict[int, dict[tuple[str, str], _Trail]]
"""The ways to objects, by their ids, and by the natives at the other end and the name of the attribute on the way."""


def _step(holder: Any, child: Any, trail: _Trail, modules: dict[int, str]) -> _Trail | Reference | None:
    """Tell where a holder stands, or that what holds the holder has to be looked at; None where it does not matter."""
    kind = type(holder)
    if kind is dict:
        return _step_through_dict(holder, child, trail, modules)
    if kind is types.FunctionType:
        module = holder.__globals__.get("__name__")  # not __module__, which the green functions borrow
        return trail.end(module, holder.__qualname__, _kind_in_function(holder, child))
    if kind is types.CellType:
        return trail.through("closure")
    if issubclass(kind, type):
        suffix = f".{trail.key}" if trail.key else ""
        return trail.end(_class_module(holder), _class_name(holder) + suffix, "class attribute")
    if issubclass(kind, types.FrameType | types.ModuleType):
        return None
    module = _class_module(kind)
    if module in _PASSED_THROUGH:
        return trail.through("container")
    attribute = _attribute(holder, child, trail)
    return trail.end(module, _class_name(kind) + (f".{attribute}" if attribute else ""), "instance")


def _attribute(holder: Any, child: Any, trail: _Trail) -> str:
    """Name the attribute of an instance; from 3.11 on an instance may hold its attributes without a dict."""
    namespace = instance_vars(holder)
    if child is namespace:
        return trail.key
    return (_key_of(namespace, child) if namespace is not None else "") or _key_of(Slots(holder), child)


def class_name(kind: type) -> tuple[str, str]:
    """Look up the module of a class, and its name in it."""
    return str(_class_module(kind)), _class_name(kind)


def instance_vars(instance: Any) -> dict[str, Any] | None:
    """Look up the dict of an instance without running its code; None if it has none."""
    for base in type(instance).__mro__:
        descriptor = class_vars(base).get("__dict__")
        if type(descriptor) is types.GetSetDescriptorType:
            found: dict[str, Any] | None = descriptor.__get__(instance)
            return found
    return None


class Slots:
    """The slots of an instance, used as the dict of one that has that, without running its code."""

    __slots__ = ("_instance", "_members")

    def __init__(self, instance: Any) -> None:
        self._instance = instance
        self._members: dict[str, types.MemberDescriptorType] = {}
        for base in reversed(_mro_of(type(instance))):
            for name, found in tuple(class_vars(base).items()):
                if type(found) is types.MemberDescriptorType and found.__objclass__ is base:
                    self._members[name] = found

    def get(self, name: str) -> Any:
        """Look up what is in a slot; None if there is nothing in it, or no such slot."""
        member = self._members.get(name)
        try:
            return None if member is None else member.__get__(self._instance)
        except Exception:
            return None  # it is empty, or what a type in C shows cannot be read

    def items(self) -> list[tuple[str, Any]]:
        """List the slots by name, with None in those that are empty."""
        return [(name, self.get(name)) for name in self._members]

    def values(self) -> list[Any]:
        """List what is in the slots."""
        return [self.get(name) for name in self._members]

    def __setitem__(self, name: str, value: Any) -> None:
        self._members[name].__set__(self._instance, value)


def _key_of(holder: dict[Any, Any] | Slots, child: Any) -> str:
    return next((key for key, value in tuple(holder.items()) if value is child and type(key) is str), "")


def _step_through_dict(
    holder: dict[Any, Any], child: Any, trail: _Trail, modules: dict[int, str]
) -> _Trail | Reference | None:
    key = _key_of(holder, child)
    module = modules.get(id(holder))
    if module is None and "__builtins__" in holder:
        module = holder.get("__name__")  # a module that was run without an entry in sys.modules
        return trail.end(module, key)
    if module is None:
        return trail.through("container", key)
    # What modules hold by name was exchanged; where it was not, it is the defining module's own.
    return None if trail.kind == "name" else trail.end(module, key)


def _kind_in_function(function: types.FunctionType, child: Any) -> str:
    if child is function.__defaults__ or child is function.__kwdefaults__:
        return "default"
    return "closure" if child is function.__closure__ else "attribute"


def namespaces() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, module in tuple(sys.modules.items()):
        if issubclass(type(module), types.ModuleType) and (namespace := _module_vars(module)) is not None:
            yield name, namespace


def classes() -> Iterator[type]:
    seen: dict[int, type] = {}  # by id: a metaclass may make its classes unhashable
    left: list[type] = [object]
    while left:
        for found in _subclasses(left.pop()):
            if id(found) not in seen:
                seen[id(found)] = found
                left.append(found)
                yield found


def _is_in(module: str, packages: Collection[str]) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)
