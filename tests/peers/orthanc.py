"""Orthanc as the hospital's PACS."""

import json
import subprocess
import urllib.error
import urllib.request
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread

from tests.peers.helpers import end, free_port, program, wait_for


class Orthanc:
    """A PACS that stores what anybody sends, answers C-ECHO and C-FIND, and can be away for a while."""

    ae_title = "ORTHANC"

    def __init__(self, folder: Path, **settings: object) -> None:
        self._folder = folder
        self._binary = program("Orthanc", debian="orthanc")
        self.port, self._http_port = free_port(), free_port()
        self._configuration = folder / "orthanc.json"
        self._configuration.write_text(json.dumps(self._settings() | settings))
        self.start()

    def start(self) -> None:
        with (self._folder / "orthanc.log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._binary, str(self._configuration)], stdout=log, stderr=subprocess.STDOUT
            )
        wait_for(self._is_up, what="Orthanc's start")

    def stop(self) -> None:
        end(self._process)

    def instances(self, study_uid: str, *, modality: str = "") -> list[dict[str, Any]]:
        """What Orthanc holds of a study: each with SOPInstanceUID, SOPClassUID, Modality and its `id`."""
        query = {"StudyInstanceUID": study_uid, "Modality": modality}
        found = self._ask("/tools/find", {"Level": "Instance", "Query": query, "Expand": False})
        return [self._describe(each) for each in found]

    def download(self, orthanc_id: str) -> bytes:
        """The file of an instance, as it was received."""
        with urllib.request.urlopen(f"{self._url}/instances/{orthanc_id}/file", timeout=30) as answer:
            return bytes(answer.read())

    def datasets(self, study_uid: str, *, modality: str = "") -> list[Dataset]:
        """The study's objects."""
        found = self.instances(study_uid, modality=modality)
        return [dcmread(BytesIO(self.download(each["id"]))) for each in found]

    def count(self) -> int:
        """How many instances it holds in all."""
        return int(self._ask("/statistics")["CountInstances"])

    def know(self, ae_title: str, port: int) -> None:
        """Be told where somebody on this machine listens, as a PACS is before it sends there."""
        self._ask(f"/modalities/{ae_title}", [ae_title, "127.0.0.1", port], method="PUT")

    def ask_commitment(self, ae_title: str, objects: dict[str, str]) -> str:
        """Ask for storage commitment to these objects, UID -> SOP class; the transaction comes back."""
        wanted = [{"SOPInstanceUID": uid, "SOPClassUID": class_uid} for uid, class_uid in objects.items()]
        asked = self._ask(f"/modalities/{ae_title}/storage-commitment", {"DicomInstances": wanted})
        return str(asked["ID"])

    def commitment(self, transaction_uid: str) -> dict[str, Any]:
        """What it was told of a transaction: Status (Pending, Success, Failure) and the objects."""
        return dict(self._ask(f"/storage-commitment/{transaction_uid}"))

    def push(self, study_uid: str, *, ae_title: str, port: int) -> None:
        """Send a whole study by C-STORE, as an auto-routing PACS does."""
        self.know(ae_title, port)
        ids = [each["id"] for each in self.instances(study_uid)]
        self._ask(f"/modalities/{ae_title}/store", {"Resources": ids, "Synchronous": True})

    @property
    def _url(self) -> str:
        return f"http://127.0.0.1:{self._http_port}"

    def _describe(self, orthanc_id: str) -> dict[str, Any]:
        ds = dcmread(BytesIO(self.download(orthanc_id)), stop_before_pixels=True)
        return {
            "id": orthanc_id,
            "SOPInstanceUID": str(ds.SOPInstanceUID),
            "SOPClassUID": str(ds.SOPClassUID),
            "Modality": str(ds.get("Modality", "")),
        }

    def _ask(self, path: str, body: object = None, *, method: str | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data=data, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            content = answer.read()
        return json.loads(content) if content else None

    def _is_up(self) -> bool:
        assert self._process.poll() is None, (self._folder / "orthanc.log").read_text()
        try:
            return bool(self._ask("/system"))
        except (urllib.error.URLError, ConnectionError):
            return False

    def _settings(self) -> dict[str, Any]:
        return {
            "Name": "A hospital's PACS",
            "StorageDirectory": str(self._folder / "storage"),
            "IndexDirectory": str(self._folder / "storage"),
            "Plugins": [],
            "HttpPort": self._http_port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomAet": self.ae_title,
            "DicomPort": self.port,
            "DicomCheckCalledAet": False,
            "DicomCheckModalityHost": False,
            "DicomAlwaysAllowEcho": True,
            "DicomAlwaysAllowStore": True,
            "DicomAlwaysAllowFind": True,
            "DicomAlwaysAllowGet": True,
            "DicomAlwaysAllowMove": True,
            "UnknownSopClassAccepted": True,
        }
