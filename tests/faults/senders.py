"""Senders that behave as a PACS does: they send each object again until they are told Success."""

import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from random import Random
from subprocess import CompletedProcess

from pydicom import FileDataset
from pydicom.uid import UID, DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian
from pynetdicom import AE

from hilum.phantom import LABELS, phantom
from hilum.settings import settings
from hilum.uids import derived_uid
from tests.peers.dcmtk import dcmsend, storescu

ROWS, COLUMNS = 300, 250
FRONTAL_PHANTOMS, LATERAL_PHANTOMS = 8, 2
TRY_AGAIN_AFTER_S = 0.5
LATE_BY_S = 4.0
"""Seconds after which the second image of some studies follows: the study has been read by then."""


@dataclass(frozen=True)
class Image:
    """One object to send."""

    study_uid: str
    uid: str
    path: Path
    digest: str
    """sha256 of its pixels."""
    is_frontal: bool


@dataclass(frozen=True)
class Outgoing:
    """One study to send: its images in turn, each after a pause."""

    study_uid: str
    images: Sequence[Image]
    pause_s: float = 0.0


class Drawer:
    """Makes studies: phantoms are drawn once, and each study gets UIDs of its own."""

    def __init__(self, folder: Path, rng: Random) -> None:
        folder.mkdir()
        self._folder, self._rng, self._made = folder, rng, 0
        self._frontal = [_drawn(seed, "PA") for seed in range(FRONTAL_PHANTOMS)]
        self._lateral = [_drawn(seed, "LL") for seed in range(LATERAL_PHANTOMS)]

    def study(self) -> Outgoing:
        """One frontal image mostly; sometimes a lateral one alone, two images, or a second one late."""
        self._made += 1
        study_uid = derived_uid("fault rig", str(self._made))
        views = self._rng.choices(["F", "L", "FL", "FF"], [6, 1, 2, 1])[0]
        pools = [self._frontal if view == "F" else self._lateral for view in views]
        images = [self._image(study_uid, self._rng.choice(pool), n) for n, pool in enumerate(pools)]
        return Outgoing(study_uid, images, self._rng.choice([0.0, LATE_BY_S]))

    def with_other_pixels(self, image: Image) -> Image:
        """Another object under the same UID."""
        others = [ds for ds in self._frontal if _digest(ds) != image.digest]
        return self._written(self._rng.choice(others), image.study_uid, image.uid, "other")

    def _image(self, study_uid: str, ds: FileDataset, number: int) -> Image:
        return self._written(ds, study_uid, derived_uid(study_uid, str(number)), str(number))

    def _written(self, ds: FileDataset, study_uid: str, uid: str, name: str) -> Image:
        ds.StudyInstanceUID = study_uid
        ds.SeriesInstanceUID = derived_uid(study_uid, "series", name)
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = UID(uid)
        path = self._folder / f"{study_uid}-{name}.dcm"
        ds.save_as(path, enforce_file_format=True)
        return Image(study_uid, uid, path, _digest(ds), ds.ViewPosition == "PA")


class Senders:
    """Some senders that share a queue of studies, each with a client of its own."""

    def __init__(self, acknowledged: Callable[[Image], None], begun: Callable[[Outgoing], None]) -> None:
        self._acknowledged, self._begun = acknowledged, begun
        self._waiting: Queue[Outgoing] = Queue()
        self._over = threading.Event()
        for client in CLIENTS:
            threading.Thread(target=self._send_for_ever, args=[client], daemon=True).start()

    def hand(self, study: Outgoing) -> None:
        """Have one of them send this study."""
        self._waiting.put(study)

    def send_at_once(self, study: Outgoing) -> None:
        """Have all of them send this study at the same time."""
        self._begun(study)
        for client in CLIENTS:
            threading.Thread(target=self._send, args=[client, study], daemon=True).start()

    def send_interleaved(self, studies: Sequence[Outgoing], rng: Random) -> None:
        """Have each of them send all images of these studies at the same time, each in its own order."""
        for study in studies:
            self._begun(study)
        images = [image for study in studies for image in study.images]
        for client in CLIENTS:
            mixed = rng.sample(images, len(images))
            threading.Thread(target=self._send_all, args=[client, mixed], daemon=True).start()

    def send_now(self, image: Image) -> None:
        """Send one object and return when it was answered with Success."""
        self._send_until_success(CLIENTS[0], image)

    def stop(self) -> None:
        self._over.set()

    def _send_for_ever(self, client: "Client") -> None:
        while True:
            study = self._waiting.get()
            self._begun(study)
            self._send(client, study)

    def _send(self, client: "Client", study: Outgoing) -> None:
        for number, image in enumerate(study.images):
            if number:
                self._over.wait(study.pause_s)
            self._send_until_success(client, image)

    def _send_all(self, client: "Client", images: Sequence[Image]) -> None:
        for image in images:
            self._send_until_success(client, image)

    def _send_until_success(self, client: "Client", image: Image) -> None:
        while not self._over.is_set():
            if client(settings().listener_port, image.path):
                self._acknowledged(image)
                return
            self._over.wait(TRY_AGAIN_AFTER_S)


Client = Callable[[int, Path], bool]
"""Sends a file to a port, and returns whether it was answered with Success."""


def _with_dcmsend(port: int, path: Path) -> bool:
    return _was_told_success(dcmsend(port, path))


def _with_storescu(port: int, path: Path) -> bool:
    return _was_told_success(storescu(port, path))


def _was_told_success(answer: CompletedProcess[str]) -> bool:
    """DCMTK's exit status does not tell: dcmsend ends with 0 when it was refused."""
    return " Response (Success)" in answer.stdout + answer.stderr


def _with_pynetdicom(port: int, path: Path) -> bool:
    ae = AE("PYNETDICOM")
    ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 60
    ae.add_requested_context(DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian)
    assoc = ae.associate("127.0.0.1", port, ae_title="HILUM")
    if not assoc.is_established:
        return False
    try:
        status = assoc.send_c_store(path)
    except RuntimeError:  # the association ended under its hands
        return False
    if assoc.is_established:
        assoc.release()
    return "Status" in status and status.Status == 0x0000


CLIENTS: tuple[Client, ...] = (_with_dcmsend, _with_storescu, _with_pynetdicom)


def _drawn(seed: int, view: str) -> FileDataset:
    label = LABELS[seed % len(LABELS)]
    return phantom(seed, label, rows=ROWS, columns=COLUMNS, view_position=view)


def _digest(ds: FileDataset) -> str:
    return hashlib.sha256(ds.PixelData).hexdigest()
