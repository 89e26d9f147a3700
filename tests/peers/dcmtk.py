"""DCMTK's clients, as a modality or a PACS would call us."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.peers.helpers import program

TIMEOUT_S = 240


def dcmsend(
    port: int, *paths: Path, calling: str = "DCMSEND", called: str = "HILUM", options: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Send files and folders as they are encoded; returncode 0 when all were answered with Success."""
    # one file that a peer refuses must not keep the rest at home
    wide = ["--scan-directories", "--recurse", "--no-halt", "--no-uid-checks", "--decompress-never"]
    return _call("dcmsend", port, calling, called, [*wide, *options], paths)


def storescu(
    port: int, *paths: Path, calling: str = "STORESCU", called: str = "HILUM", options: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Send files on one association, with the transfer syntaxes that the options propose (`-xs`, `-xv`)."""
    return _call("storescu", port, calling, called, options, paths)


def echoscu(port: int, *, calling: str = "ECHOSCU", called: str = "HILUM") -> bool:
    """Whether a C-ECHO was answered with Success."""
    return _call("echoscu", port, calling, called, [], []).returncode == 0


def findscu(port: int, *, keys: Sequence[str], called: str = "ORTHANC") -> list[str]:
    """The SOP Instance UIDs that a Study Root C-FIND at the IMAGE level returns."""
    wanted = ["-k", "QueryRetrieveLevel=IMAGE", "-k", "SOPInstanceUID"]
    for key in keys:
        wanted += ["-k", key]
    answer = _call("findscu", port, "FINDSCU", called, ["-S", "-v", *wanted], [])
    answer.check_returncode()
    said = (answer.stdout + answer.stderr).splitlines()
    # the query itself is echoed with an empty UID; a UID of odd length is padded with a null (PS3.5 9.1)
    return [line.split("[")[1].split("]")[0].strip("\0") for line in said if "(0008,0018) UI [" in line]


def _call(
    name: str, port: int, calling: str, called: str, options: Sequence[str], paths: Sequence[Path]
) -> subprocess.CompletedProcess[str]:
    command = [program(name, debian="dcmtk"), "-v", "-aet", calling, "-aec", called]
    command += [*options, "127.0.0.1", str(port), *map(str, paths)]
    return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S)
