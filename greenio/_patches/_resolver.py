"""Name look-ups for green code: numeric hosts at once, the rest by the host loop's own resolver.

`loop.getaddrinfo` and `loop.getnameinfo` may call `socket`'s functions in their turn, and an executor that the user
gave the loop may run them green: they would come back here for ever. `Asked` flags break that circle.
"""

from __future__ import annotations

import _socket
from collections.abc import Callable
from typing import Any

from .. import _original
from .._core import Green, NativeWork, drive

__all__ = ["Asked", "ask_executor", "is_numeric", "name_of", "numeric_address", "resolve"]

_NUMERIC_NAME = _socket.NI_NUMERICHOST | _socket.NI_NUMERICSERV
_LONG = 2**63
_LENGTHS: dict[int, tuple[int, ...]] = {_socket.AF_INET: (2,), _socket.AF_INET6: (2, 3, 4)}
"""How long addresses are that have a host."""


class Asked(int):
    """The flags of a look-up that the host loop was asked for: whoever gets them must answer natively."""

    __slots__ = ()


def is_numeric(host: Any) -> bool:
    """Tell whether a host needs no look-up: an address in figures, or none at all."""
    if host is None or host in ("", b"", "<broadcast>", b"<broadcast>"):
        return True
    text = host.decode("ascii", "replace") if isinstance(host, bytes | bytearray) else host
    if not isinstance(text, str):
        return True  # let the native call say what is wrong with it
    return _is_address(_socket.AF_INET, text) or _is_address(_socket.AF_INET6, text.partition("%")[0])


def _is_address(family: int, text: str) -> bool:
    try:
        _socket.inet_pton(family, text)
    except (OSError, ValueError):
        return False
    return True


def _is_plain_port(port: Any) -> bool:
    """Tell whether a port needs no look-up; one that is wrong does not, since the native call says so at once."""
    if isinstance(port, int):
        return True
    if not isinstance(port, str | bytes):
        return True
    return not port or port.isdigit()


def _is_valid_port(port: Any) -> bool:
    # uvloop words these errors in a way of its own.
    return port is None or isinstance(port, str | bytes) or (isinstance(port, int) and -_LONG <= port < _LONG)


def resolve(green: Green, host: Any, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0) -> Any:
    """Do what `socket.getaddrinfo` does. Parks, unless there is nothing to look up."""
    hints = (family, type, proto, flags)
    if _is_answered_at_once(host, port, hints):
        return _original.getaddrinfo(host, port, *hints)
    loop = green.host.loop
    found = drive(green, loop.getaddrinfo(host, port, family=family, type=type, proto=proto, flags=Asked(flags)))
    return [
        (_member(_original.AddressFamily, family), _member(_original.SocketKind, type), *rest)
        for family, type, *rest in found
    ]


def _is_answered_at_once(host: Any, port: Any, hints: tuple[Any, ...]) -> bool:
    """Tell whether the native call looks nothing up, be it that it raises, or must not be asked for once more."""
    if hints[-1].__class__ is Asked or not all(isinstance(hint, int) for hint in hints) or not _is_valid_port(port):
        return True
    if isinstance(host, bytearray):
        return True  # good enough for an address, but not here
    return is_numeric(host) and (_is_plain_port(port) or bool(hints[-1] & _socket.AI_NUMERICSERV))


def _member(kind: Callable[[int], Any], value: int) -> Any:
    """Make an enum of a number that uvloop left plain; a number that has no name stays one."""
    try:
        return kind(value)
    except ValueError:
        return value


def name_of(green: Green, address: Any, flags: int) -> Any:
    """Do what `socket.getnameinfo` does. Parks, unless there is nothing to look up."""
    if flags.__class__ is Asked or not isinstance(flags, int) or flags & _NUMERIC_NAME == _NUMERIC_NAME:
        return _original.getnameinfo(address, flags)
    figures = flags & ~_socket.NI_NAMEREQD | _NUMERIC_NAME  # no look-up, but the native errors for a bad address
    _original.getnameinfo(address, figures)
    return drive(green, green.host.loop.getnameinfo(address, Asked(flags)))


def ask_executor(green: Green, native: Callable[..., Any], *args: Any) -> Any:
    """Make a native call for which event loops have no method in a thread of the host loop's executor. Parks.

    Where that is shut down already, at the end of a loop or of the program, the call is made here, and blocks.
    """
    try:
        future = green.host.loop.run_in_executor(None, NativeWork(native, *args))
    except RuntimeError:
        return native(*args)
    return drive(green, future)


def numeric_address(green: Green, family: int, address: Any) -> Any:
    """Return a socket address whose host needs no look-up, since the C code would block for it. May park."""
    if not isinstance(address, tuple) or len(address) not in _LENGTHS.get(family, ()):
        return address
    host, *numbers = address
    if is_numeric(host) or _has_null(host) or not all(hasattr(number, "__index__") for number in numbers):
        return address
    name = _name_in_c(host)
    if name is None:
        return address
    found = resolve(green, name, None, family)
    return (found[0][4][0], *numbers)


def _name_in_c(host: str | bytes | bytearray) -> str | bytes | None:
    """Return what the C code would look up: IDNA has a say only where a text is not ASCII; None if that refuses it."""
    if not isinstance(host, str):
        return bytes(host)
    try:
        host.encode("idna")
    except UnicodeError:
        return host.encode() if host.isascii() else None
    return host


def _has_null(host: str | bytes | bytearray) -> bool:
    # A resolver would end the name there, and so find another host; the native call refuses it.
    return ("\0" if isinstance(host, str) else b"\0") in host  # type: ignore[operator]
