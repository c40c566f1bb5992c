"""Live objects that are older than the patch and written in C: locks, queues, thread-local data.

They cannot be given methods. But where one is an attribute of an object or a class, or a global name, another that has
the old one inside can take that place: in a slot of an object too. Both are the same lock, or hold the same values of
threads, so that it does not matter who has found which. What is held in another way (a container, a closure, a list) is
left to `monkey.report()`.

The standard library is left alone but for conditions, queues and `cached_property`, which has a lock up to CPython
3.11, and `concurrent.futures` altogether; nothing that is looked at here runs any code.
"""

from __future__ import annotations

import gc
import queue
import sys
import threading
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from weakref import ref

from .. import _original
from ._executors import PARTS_OF_EXECUTORS, natives_of_executors
from ._references import Slots, class_vars, classes, instance_vars, namespaces

__all__ = ["Adoption", "Look"]

_LEFT_ALONE = frozenset({*sys.stdlib_module_names, "eventlet", "gevent", "greenio", "greenlet", "uvloop"})
_OF_THE_LIBRARY = (threading.Condition, queue.Queue, cached_property, *PARTS_OF_EXECUTORS)
"""Classes whose instances are dealt with all the same: green code may park while it has their lock, or must not."""

_BOUND: tuple[type, ...] = (types.BuiltinMethodType, type(_original.SimpleQueue().get))
"""The types of methods in C that are bound to an object; the second is of those that are told their class."""


@dataclass(frozen=True)
class _Place:
    """One place that was given another object, and what was there before."""

    owner: ref[Any] | dict[str, Any] | None
    key: str
    old: Any
    new: Any

    def undo(
        self, is_in_use: Callable[[Any], bool], has_waiters: Callable[[Any], bool], holders: Mapping[int, list[Any]]
    ) -> bool:
        """Put the old object back, unless somebody has set the name since; False if the new one is in use and stays."""
        if is_in_use(getattr(self.new, "__self__", self.new)):
            return False
        is_back = True
        for owner in holders.get(id(self.new), []) if self.owner is None else self._owners():
            if issubclass(type(owner), type):
                if class_vars(owner).get(self.key) is self.new:
                    type.__setattr__(owner, self.key, self.old)
                continue
            for namespace in _namespaces_of(owner):
                if not _same(namespace.get(self.key), self.new):
                    continue
                if has_waiters(owner):
                    is_back = False
                else:
                    namespace[self.key] = self.old
        return is_back

    def _owners(self) -> list[Any]:
        owner = self.owner() if isinstance(self.owner, ref) else self.owner
        return [] if owner is None else [owner]


def _holders_of(places: list[_Place]) -> dict[int, list[Any]]:
    """Find, by the ids of the new objects, what holds those whose owners have no slot for weak references."""
    found: dict[int, list[Any]] = {id(place.new): [] for place in places if place.owner is None}
    if found:
        for holder in gc.get_referrers(*(place.new for place in places if place.owner is None)):
            for held in gc.get_referents(holder):
                if id(held) in found:
                    found[id(held)].append(holder)
    return found


def _namespaces_of(owner: Any) -> list[Any]:
    """List what has the attributes of an instance; global names are a namespace themselves."""
    if type(owner) is dict:
        return [owner]
    namespace, slots = instance_vars(owner), Slots(owner)
    return [slots] if namespace is None else [namespace, slots]


def _same(found: Any, new: Any) -> bool:
    return found is new or (type(found) is type(new) is types.MethodType and found == new)


def _has_waiters(owner: Any) -> bool:
    """Tell whether somebody waits for a condition, who will take its lock again by what it is now."""
    return isinstance(owner, threading.Condition) and bool(owner._waiters)  # type: ignore[attr-defined]


def _asked_once(ask: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Make a question that has one answer for each object."""
    answers: dict[int, tuple[Any, bool]] = {}

    def answer(of: Any) -> bool:
        if id(of) not in answers:
            answers[id(of)] = of, ask(of)
        return answers[id(of)][1]

    return answer


class Adoption:
    """The objects of some native types that were given a place in others, and how to take that back.

    Args:
        makers: For each native type what makes another object around one.
        is_in_use: Tells of such another whether it has to stay for now.
        leave: What is told such another when that is taken back, whether it lost its place or had to stay.
    """

    def __init__(
        self,
        makers: Mapping[type, Callable[[Any], Any]],
        is_in_use: Callable[[Any], bool] = lambda _: False,
        leave: Callable[[Any], object] = lambda _: None,
    ) -> None:
        self._makers = {id(kind): maker for kind, maker in makers.items()}  # by id: not every type can be hashed
        self._kinds = {*self._makers, *map(id, _BOUND)}
        self._is_in_use = is_in_use
        self._leave = leave
        self._places: list[_Place] = []

    def do(self, look: Look) -> None:
        """Find old objects, and give others their places."""
        made: dict[int, tuple[Any, Any]] = {}
        instances = self._instances(look, made)
        for name, namespace in namespaces():
            if not _is_left_alone(name):
                self._exchange_in(namespace, namespace, made)
        for owner in classes():
            if not _is_left_alone(_module_of(owner)):
                self._exchange_in_class(owner, made)
        for instance, namespace in instances:
            self._exchange_in(instance, namespace, made)

    def undo(self) -> None:
        """Put the old objects back, but for those that are in use: they stay until the next time."""
        holders = _holders_of(self._places)
        # Both are asked once: a condition has its lock, and the methods of that, in several places.
        is_in_use, has_waiters = _asked_once(self._is_in_use), _asked_once(_has_waiters)
        kept: list[_Place] = []
        while self._places:
            place = self._places.pop()
            if not place.undo(is_in_use, has_waiters, holders):
                kept.append(place)
            self._leave(getattr(place.new, "__self__", place.new))
        self._places = kept[::-1]

    def _exchange_in(self, owner: Any, namespace: Any, made: dict[int, tuple[Any, Any]]) -> None:
        if owner is not namespace:
            try:
                owner = ref(owner)
            except TypeError:
                owner = None
        for key, value in self._candidates(namespace):
            new = self._other(value, made)
            if new is None or type(key) is not str:
                continue
            try:
                namespace[key] = new
            except (AttributeError, TypeError):
                continue  # a member of a type written in C
            self._places.append(_Place(owner, key, value, new))

    def _exchange_in_class(self, owner: type, made: dict[int, tuple[Any, Any]]) -> None:
        for key, value in self._candidates(class_vars(owner)):
            new = self._other(value, made)
            if new is None:
                continue
            try:
                type.__setattr__(owner, key, new)
            except TypeError:
                continue  # a type written in C
            self._places.append(_Place(ref(owner), key, value, new))

    def _candidates(self, namespace: Mapping[str, Any] | Slots) -> tuple[tuple[str, Any], ...]:
        """List the items of a namespace if any may be what is sought: quickly, since there are thousands of them."""
        values = tuple(namespace.values())
        return () if self._kinds.isdisjoint(map(id, map(type, values))) else tuple(namespace.items())

    def _other(self, value: Any, made: dict[int, tuple[Any, Any]]) -> Any:
        """Look up what takes the place of a value, if it is an old object or one of its methods."""
        if issubclass(type(value), types.BuiltinMethodType) and id(type(value.__self__)) in self._makers:
            return getattr(self._other(value.__self__, made), value.__name__, None)
        maker = self._makers.get(id(type(value)))
        if maker is None:
            return None
        if id(value) not in made:
            made[id(value)] = (value, maker(value))
        return made[id(value)][1]

    def _instances(self, look: Look, made: dict[int, tuple[Any, Any]]) -> list[tuple[Any, Any]]:
        """Find instances that have old objects as attributes, with what has those; note what none is made for."""
        found: list[tuple[Any, Any]] = []
        for instance in look.instances:
            if issubclass(type(instance), PARTS_OF_EXECUTORS):
                made.update((id(kept), (kept, None)) for kept in natives_of_executors(instance))
            if self._holds_any(instance):
                found += [(instance, namespace) for namespace in _namespaces_of(instance)]
        return [(instance, namespace) for instance, namespace in found if id(instance) not in made]

    def _holds_any(self, instance: Any) -> bool:
        """Tell quickly whether an instance has an old object as an attribute."""
        held = gc.get_referents(instance)  # with the dict, or from CPython 3.11 on the values themselves
        kinds = {*map(id, map(type, held))}
        for namespace in held if id(dict) in kinds else ():
            if type(namespace) is dict:
                kinds.update(map(id, map(type, tuple(namespace.values()))))
        return not kinds.isdisjoint(self._kinds)


class Look:
    """A look at all that the garbage collector knows, taken when it is needed, and once for all who need it."""

    @property
    def instances(self) -> list[Any]:
        """What may have attributes that are to be exchanged."""
        return self._lists[0]

    @property
    def methods(self) -> list[Any]:
        """Methods that are bound to an object, in Python or in C."""
        return self._lists[1]

    @cached_property
    def _lists(self) -> tuple[list[Any], list[Any]]:
        instances: list[Any] = []
        methods: list[Any] = []
        lists: dict[int, list[Any] | None] = {id(kind): methods for kind in (types.MethodType, *_BOUND)}
        for each in gc.get_objects():
            kind = type(each)
            if id(kind) not in lists:
                lists[id(kind)] = instances if _may_have_attributes(kind) else None
            found = lists[id(kind)]
            if found is not None:
                found.append(each)
        return instances, methods


def _module_of(owner: type) -> str:
    return str(class_vars(owner).get("__module__", ""))


def _may_have_attributes(kind: type) -> bool:
    if issubclass(kind, type | types.ModuleType) or not getattr(kind, "__flags__", 0) & _HEAP_TYPE:
        return False
    return not _is_left_alone(_module_of(kind)) or issubclass(kind, _OF_THE_LIBRARY)


def _is_left_alone(module: str) -> bool:
    return module.partition(".")[0] in _LEFT_ALONE


_HEAP_TYPE = 1 << 9
"""Py_TPFLAGS_HEAPTYPE: made by a class statement, or at least able to be."""
