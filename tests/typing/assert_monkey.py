"""What type checkers must make of greenio.monkey. Checked by mypy and pyright, never run."""

from __future__ import annotations

from typing import Any

from typing_extensions import assert_type

from greenio import monkey


def patching() -> None:
    monkey.patch_all()
    monkey.patch_all(socket=True, ssl=False)
    monkey.patch_all(True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    monkey.patch_all(sockets=True)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    for patch in (monkey.patch_socket, monkey.patch_ssl, monkey.patch_dns, monkey.patch_select, monkey.patch_selectors):
        patch()
    monkey.patch_fcntl()
    monkey.patch_files()
    monkey.patch_multiprocessing()
    monkey.patch_os()
    monkey.patch_signal()
    monkey.patch_subprocess()
    monkey.patch_threading()
    monkey.patch_time()
    monkey.unpatch_all()
    with monkey.patched("socket", "time"):
        pass
    with monkey.patched(ssl=False):
        pass
    monkey.patch_all(on_blocking="warn", allow_blocking=["package.module"])
    monkey.patch_all(on_blocking="complain")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with monkey.patched("time", on_blocking="raise"):
        pass


def catching(error: monkey.BlockingCallError) -> None:
    assert_type(error.call, str)
    assert_type(error.task, str | None)
    assert_type(error.filename, str)
    assert_type(error.lineno, int)


def asking() -> None:
    assert_type(monkey.is_patched("socket"), bool)
    assert_type(monkey.original("time", "sleep"), Any)
    report = monkey.report()
    assert_type(report, monkey.Report)
    assert_type(report.patched, dict[str, tuple[str, ...]])
    assert_type(report.rebound, tuple[monkey.Reference, ...])
    assert_type(report.unreachable, tuple[monkey.Reference, ...])
    assert_type(report.as_dict(), dict[str, Any])
