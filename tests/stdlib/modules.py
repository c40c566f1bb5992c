"""Which of CPython's test modules are run, and in which modes."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.util import find_spec

__all__ = ["MODULES", "Module", "chosen"]

DEFAULT = (3, 11)
"""The version whose CI run is the full one. The others run the core."""

NEWEST = (3, 13)
"""The version whose CI run has, beside the core, what builds of the default one lack."""


@dataclass(frozen=True)
class Module:
    """One module of `test`.

    Attributes:
        name: Its name.
        green: Whether its suite is run in a greenlet, too.
        core: Whether CI runs it on every version.
        lacked: Whether builds of the default version lack it, so that CI runs it on the newest.
        whole: Whether all of it is run unpatched too, to compare with; if that is too slow, just what did not pass.
        limit: Seconds for one run, on a loaded machine.
        test_limit: Seconds for one test, before it is cancelled if it is green.
        weight: Seconds that one run takes about, on a quiet machine; the slow ones are started first.
        package: Where it is found.
    """

    name: str
    green: bool = True
    core: bool = False
    lacked: bool = False
    whole: bool = True
    limit: float = 600.0
    test_limit: float = 60.0
    weight: float = 3.0
    package: str = "test"

    @property
    def full_name(self) -> str:
        """The name by which it is imported."""
        return f"{self.package}.{self.name}"

    def exists(self) -> bool:
        """Tell whether this interpreter ships it."""
        return find_spec(self.full_name) is not None


MODULES = (
    Module("test_socket", core=True, weight=40),
    Module("test_ssl", core=True, weight=40),
    Module("test_select", core=True),
    Module("test_poll", core=True),
    Module("test_epoll", core=True),
    Module("test_selectors", core=True, weight=17),
    Module("test_threading", core=True, weight=35),
    Module("test_thread", core=True),
    Module("test_threading_local", core=True),
    Module("test_queue", core=True, weight=12),
    Module("test_subprocess", core=True, weight=35),
    Module("test_signal", weight=28),
    Module("test_threadsignals", weight=9),
    Module("test_os", weight=8),
    Module("test_posix"),
    Module("test_fork1", weight=7),
    Module("test_wait3", weight=7),
    Module("test_wait4", weight=7),
    Module("test_pty"),
    Module("test_popen"),
    Module("test_io"),
    Module("test_file"),
    Module("test_builtin"),
    Module("test_time"),
    Module("test_timeout"),
    Module("test_socketserver"),
    Module("test_httplib"),
    Module("test_httpservers"),
    Module("test_urllib2_localnet"),
    Module("test_xmlrpc"),
    Module("test_docxmlrpc"),
    Module("test_wsgiref"),
    Module("test_ftplib", weight=14),
    Module("test_smtplib"),
    Module("test_poplib", weight=9),
    Module("test_imaplib", weight=13),
    Module("test_nntplib"),
    Module("test_telnetlib"),
    Module("test_asyncore"),
    Module("test_asynchat"),
    Module("test_smtpd"),
    Module("test_logging", weight=18),
    Module("test_concurrent_futures", lacked=True, whole=False, limit=1200, weight=170),
    Module("test_context"),
    Module("test_sched"),
    Module("test_contextlib"),
    Module("test_weakref", weight=17),
    Module("test_functools"),
    Module("test_tempfile"),
    Module("test_threadedtempfile"),
    Module("test_faulthandler", weight=16),
    Module("test_asyncio", green=False, limit=1200, weight=200),
    Module("test_multiprocessing_fork", green=False, lacked=True, whole=False, limit=1200, weight=65),
    Module("test_multiprocessing_spawn", green=False, lacked=True, whole=False, limit=1200, weight=120),
    Module("test_multiprocessing_forkserver", green=False, lacked=True, whole=False, limit=1200, weight=125),
)


def chosen(ci: bool) -> list[Module]:
    """List the modules that this interpreter is to run, if it has them."""
    version = sys.version_info[:2]
    if not ci or version == DEFAULT:
        return list(MODULES)
    return [module for module in MODULES if module.core or (module.lacked and version == NEWEST)]
