"""A hospital's machine phones nobody: the kernel tells whom all of Hilum's processes talk to."""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

import pytest

from tests.conftest import ROOT, SettingsChange
from tests.peers.helpers import free_port, program

TALK = "connect,sendto,sendmsg,sendmmsg"
NAME_SERVICE_PORT = 53
ADDRESS = re.compile(
    r'sin6?_port=htons\((?P<port>\d+)\)[^}]*?(?:inet_addr\(|inet_pton\(AF_INET6, )"(?P<address>[^"]+)"'
)
RESOLVER = re.compile(r'sun_path="[^"]*resolve[^"]*"')
"""systemd's, which would ask for a name on our behalf."""


def listened_to(command: Sequence[str], folder: Path, **environment: str) -> tuple[str, list[str]]:
    """What a command and all its descendants print, and each line in which they address somebody."""
    trace = folder / "trace"
    strace = [program("strace", debian="strace"), "-f", "--seccomp-bpf", "-qq", "-e", f"trace={TALK}"]
    done = subprocess.run(
        [*strace, "-o", str(trace), "--", *command],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    if "PTRACE" in done.stderr and not trace.stat().st_size:
        pytest.skip(f"this system lets nobody be traced: {done.stderr}")
    return done.stdout + done.stderr, [line for line in trace.read_text().splitlines() if "sa_family" in line]


def is_strange(line: str) -> bool:
    """Whether somebody beyond this machine is addressed, or asked for a name."""
    found = ADDRESS.search(line)
    if found is None:
        return "AF_INET" in line or RESOLVER.search(line) is not None
    address = ip_address(found["address"])
    ours = address.is_loopback or address.is_unspecified  # the latter is how getaddrinfo tries out a bind
    return not ours or int(found["port"]) == NAME_SERVICE_PORT


@pytest.mark.parametrize(
    "talk",
    [
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(('192.0.2.1', 9))",
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'', ('127.0.0.53', 53))",
        "socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).connect_ex(('2001:db8::1', 9))",
        "os.fork() or socket.socket().connect_ex(('192.0.2.1', 0))",
    ],
    ids=["by address", "for a name", "IPv6", "by a child"],
)
def test_a_call_abroad_is_heard(talk: str, tmp_path: Path) -> None:
    _, lines = listened_to([sys.executable, "-c", f"import os, socket; {talk}"], tmp_path)
    assert [line for line in lines if is_strange(line)]


def test_all_of_hilum_talks_to_this_machine_alone(hilum_env: SettingsChange, tmp_path: Path) -> None:
    demo = [sys.executable, "-m", "console.cli", "demo", "--once", "--count", "1"]
    # without a PATH, the demo finds no Orthanc and takes pynetdicom's small PACS
    here = {"HILUM_LISTENER_PORT": str(free_port()), "PATH": ""}
    said, lines = listened_to(demo, tmp_path, **here)
    assert "demo: 1 study sent, 1 read, 2 objects in the PACS, 0 lost" in said, said
    assert sum(ADDRESS.search(line) is not None for line in lines) > 1, "nobody was heard"
    assert [line for line in lines if is_strange(line)] == []
