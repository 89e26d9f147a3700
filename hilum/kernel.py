"""What we ask of the operating system, beyond what Python's library has a function for."""

import ctypes
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # prctl(2)
_PR_SET_DUMPABLE = 4


def fsync(path: Path) -> None:
    """Return when a file, or a folder's names, are on disk. Raises OSError when they cannot be."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def silence_options(within_s: int) -> dict[int, int]:
    """Options of TCP by which a connection ends when for so long nothing comes back of what is sent on it.

    An idle one is asked every few seconds whether its peer is there. A peer whose buffer stays full for so
    long counts as away, too (tcp(7), TCP_USER_TIMEOUT). Where the system is not Linux there are none: who
    waits for an answer notices.
    """
    if sys.platform != "linux":
        return {}
    return {
        socket.TCP_KEEPIDLE: 5,
        socket.TCP_KEEPINTVL: 5,
        socket.TCP_USER_TIMEOUT: within_s * 1000,
    }


def notice_silence(connection: socket.socket, within_s: int) -> None:
    """Have a connection end as `silence_options` says; a slow answer may take its time."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in silence_options(within_s).items():
        connection.setsockopt(socket.IPPROTO_TCP, option, value)


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


def keep_from_others() -> None:
    """Hide this process's environment and memory from others of its user, root's excepted, until it execs.

    Nor does it leave a core dump, which would hold both. Where the system is not Linux it does nothing.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
