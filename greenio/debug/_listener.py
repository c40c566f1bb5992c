"""A process that lets itself be looked at: on a signal, or by `python -m greenio inspect PID`, over a Unix socket.

The socket stands in a directory that only the user may enter, and each side asks the kernel who the other is. A thread
of its own answers, so that a process whose loop is held, or deadlocked, answers too.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import socket
import stat
import struct
import sys
import tempfile
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Literal, TextIO

from .. import _original
from ._deadlocks import deadlocks
from ._run_info import check_form, remember_loop, render

__all__ = ["Listener", "dump_on_signal", "inspect", "listen"]

_PATIENCE = 10.0
"""Seconds that either side waits for the other."""

_LONGEST_REQUEST = 16
_CREDENTIALS = struct.Struct("3i")


def _directory() -> str:
    """Tell where the sockets of this user are."""
    base = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    return os.path.join(base, f"greenio-{os.getuid()}")


def _path(pid: int) -> str:
    return os.path.join(_directory(), f"{pid}.sock")


def _make_directory(path: str) -> None:
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(f"{path} must be a directory of user {os.getuid()} with mode 0700; remove it")


def _check_peer(sock: socket.socket) -> None:
    """Make sure that the other side belongs to the same user, or to root."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return  # not Linux: the mode of the directory has to do
    _, user, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, option, _CREDENTIALS.size))
    if user not in (os.getuid(), 0):
        raise PermissionError(f"the other side of {sock!r} belongs to user {user}")


def _answer(request: str) -> str:
    if request == "deadlocks":
        return "\n".join(map(str, deadlocks())) + "\n"
    found = deadlocks() if request == "text" else []
    return render(request) + "".join(f"\n{deadlock}\n" for deadlock in found)  # type: ignore[arg-type]


class Listener:
    """What answers `inspect`. Made by `listen`; ends with `close`, with its `with` block, or with the process.

    Attributes:
        path: Where its socket is.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        self.path: str = _path(self._pid)
        _make_directory(os.path.dirname(self.path))
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)  # of a process that had the same number
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._inode: int | None = None
        try:
            self._socket.bind(self.path)
            self._inode = os.lstat(self.path).st_ino
            self._socket.listen(4)
            self._socket.settimeout(None)
            atexit.register(self.close)
            thread = _original.Thread(target=self._serve, name="greenio listener", daemon=True)
            _original.start_thread(thread)  # not a green one, whatever is patched
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Answer no more, and remove the socket. Closing twice is harmless. Never parks."""
        atexit.unregister(self.close)
        if os.getpid() == self._pid:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread, which a mere close would not
            with contextlib.suppress(FileNotFoundError):
                if os.lstat(self.path).st_ino == self._inode:  # else that of a later listener
                    os.unlink(self.path)
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.settimeout(_PATIENCE)
                self._serve_one(connection)

    def _serve_one(self, connection: socket.socket) -> None:
        _check_peer(connection)
        request = connection.recv(_LONGEST_REQUEST).decode("ascii", "replace").strip()
        try:
            text = _answer(request)
        except Exception as error:  # what changes while it is looked at
            text = f"{type(error).__name__}: {error}\n"
        connection.sendall(text.encode())

    def __enter__(self) -> Listener:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def listen() -> Listener:
    """Let this process be looked at by its user: `python -m greenio inspect PID`, or `inspect(pid)`. Never parks.

    Makes a Unix socket in a directory of mode 0700, below XDG_RUNTIME_DIR or the directory for temporary files, with
    the process's number for a name, and removes it at the end, if that is not by `os._exit` or by a signal. A thread
    answers. A forked child does not listen. A later listener takes the place of an earlier one.

    Returns:
        The listener; close it, use it in a `with` block, or forget it.

    Raises:
        PermissionError: The directory is there and is not this user's alone.
        OSError: The socket cannot be made.
    """
    remember_loop()
    return Listener()


def inspect(pid: int, form: Literal["text", "json", "tree", "deadlocks"] = "text") -> str:
    """Ask a process that called `listen` what it does. Parks in green code.

    Args:
        pid: Its number.
        form: "text" for stacks with their source lines, and deadlocks; "tree"; "json"; or "deadlocks" alone.

    Returns:
        The answer, as `print_run_info` would print it.

    Raises:
        ProcessLookupError: There is no such process, or it does not listen.
        PermissionError: It belongs to somebody else.
        TimeoutError: It did not answer in time.
    """
    if form not in ("text", "json", "tree", "deadlocks"):
        raise ValueError(f'form must be "text", "json", "tree" or "deadlocks", not {form!r}')
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(_PATIENCE)
        try:
            sock.connect(_path(pid))
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise ProcessLookupError(
                f"process {pid} does not listen; call greenio.debug.listen() in it, as the same user"
            ) from error
        _check_peer(sock)
        sock.sendall(form.encode())
        parts = []
        while part := sock.recv(65536):
            parts.append(part)
    return b"".join(parts).decode()


def dump_on_signal(
    signum: int, *, file: TextIO | None = None, form: Literal["text", "json", "tree"] = "text"
) -> Callable[[], None]:
    """Print `run_info` whenever a signal comes, as with `kill -USR1`. From the main thread. Never parks.

    The handler runs in the main thread as soon as that runs Python code. For a process whose main thread is stuck in C
    there is `listen`, and `faulthandler.register`.

    Args:
        signum: The signal, as `signal.SIGUSR1`.
        file: Where to; None for the standard error stream's descriptor.
        form: "text" for stacks with their source lines, "tree" for a line each, or "json".

    Returns:
        What puts the former handler back.

    Raises:
        ValueError: There is no such form, or this is not the main thread.
    """
    check_form(form)
    remember_loop()
    before = _original.getsignal(signum)

    def handle(number: int, frame: FrameType | None) -> None:
        text = render(form)
        if file is not None:
            file.write(text)
            file.flush()
            return
        _write(sys.__stderr__.fileno() if sys.__stderr__ is not None else 2, text.encode())

    def restore() -> None:
        if _original.getsignal(signum) is handle:
            _original.signal(signum, before)

    _original.signal(signum, handle)
    return restore


def _write(fd: int, data: bytes) -> None:
    """Write past the buffer of the stream, which the signal may have found in the midst of another write."""
    while data:
        data = data[_original.write(fd, data) :]
