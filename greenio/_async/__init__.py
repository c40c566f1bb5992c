"""What stands on the kernel and the locks, for programs that are half async: executors, sync faces, installation."""

from ._executor import GreenletPoolExecutor
from ._faces import autosync, enter, iterate
from ._install import install, uninstall

__all__ = ["GreenletPoolExecutor", "autosync", "enter", "install", "iterate", "uninstall"]
