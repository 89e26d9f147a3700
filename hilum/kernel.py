"""What we ask of the operating system, beyond what Python's library has a function for."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # prctl(2)


def fsync(path: Path) -> None:
    """Return when a file, or a folder's names, are on disk. Raises OSError when they cannot be."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def dying_with(parent: int) -> Callable[[], None]:
    """Return what a child calls so that it is killed when this parent dies in any way.

    It may be called between fork and exec. Where the system is not Linux it does nothing.
    """
    if sys.platform != "linux":
        return lambda: None
    prctl = ctypes.CDLL(None).prctl

    def ask_the_kernel() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died in between
            os.kill(os.getpid(), signal.SIGKILL)

    return ask_the_kernel
