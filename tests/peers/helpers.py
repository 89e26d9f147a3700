"""What every peer needs: its program, a free port, and patience with a deadline."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from typing import NoReturn, TypeVar

import pytest

T = TypeVar("T")

GRACE_S = 10


def missing(what: str) -> NoReturn:
    """Skip the test on a laptop; fail it on CI, where every peer has to be there."""
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(what, pytrace=False)
    pytest.skip(what)


def program(name: str, *, debian: str) -> str:
    """The path of a program of this Debian package."""
    found = shutil.which(name)
    if found is None:
        missing(f"{name} is not installed (apt-get install {debian})")
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    """Whether somebody listens on this port of this machine."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_for(condition: Callable[[], T], timeout_s: float = 30, what: str = "") -> T:
    """Ask again and again until the answer is true, and return it; fail after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not (answer := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"not within {timeout_s:g} s: {what or condition}; the last answer was {answer!r}")
        time.sleep(0.05)
    return answer


def end(process: subprocess.Popen[bytes], *, grace_s: float = GRACE_S) -> int:
    """Ask a process to end, kill it when it does not, and return its exit status."""
    process.terminate()
    try:
        return process.wait(grace_s)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
