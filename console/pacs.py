"""The demo's PACS, on loopback: Orthanc where it is installed, else pynetdicom's qrscp."""

import json
import shutil
import sys
from collections.abc import Sequence
from configparser import ConfigParser
from pathlib import Path

from hilum.settings import Destination

NAME = "demo-pacs"


def command(
    folder: Path, destination: Destination, *, callers: Sequence[str], browser_port: int
) -> tuple[str, ...]:
    """Return the command of a PACS that keeps what it gets in a folder and answers as this destination.

    Orthanc takes calls of these AE titles alone, and shows its studies to a browser of this
    machine on `browser_port`.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    orthanc = shutil.which("Orthanc")
    if orthanc is None:
        return _qrscp(folder, destination)
    file = folder / "orthanc.json"
    file.write_text(json.dumps(_orthanc(folder, destination, callers, browser_port), indent=1))
    return (orthanc, str(file))


def is_orthanc() -> bool:
    return shutil.which("Orthanc") is not None


def _orthanc(
    folder: Path, destination: Destination, callers: Sequence[str], browser_port: int
) -> dict[str, object]:
    return {
        "Name": "Demo PACS",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "Plugins": [],
        "HttpPort": browser_port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,  # nobody but this machine gets there
        "DicomAet": destination.ae_title,
        "DicomPort": destination.port,
        "DicomCheckCalledAet": True,
        # it listens for DICOM on every address, so only callers it knows, from this machine, may do anything
        "DicomCheckModalityHost": True,
        "DicomAlwaysAllowEcho": False,
        "DicomAlwaysAllowStore": False,
        "DicomModalities": {name: [name, "127.0.0.1", 104] for name in callers},
    }


def _qrscp(folder: Path, destination: Destination) -> tuple[str, ...]:
    configuration = ConfigParser()
    configuration["DEFAULT"] = {
        "ae_title": destination.ae_title,
        "port": str(destination.port),
        "bind_address": "127.0.0.1",
        "max_pdu": "131072",
        "acse_timeout": "30",
        "dimse_timeout": "60",
        "network_timeout": "60",
        "instance_location": str(folder.resolve() / "instances"),
        "database_location": str(folder.resolve() / "instances.sqlite"),
        "log_identifier": "False",
    }
    file = folder / "qrscp.ini"
    with file.open("w") as text:
        configuration.write(text)
    return (sys.executable, "-P", "-m", "pynetdicom", "qrscp", "--config", str(file))
