"""What a siege has left: looked at once all work is done, and told in words where it is wrong."""

import math
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.uid import UID, ExplicitVRLittleEndian
from sqlalchemy import func, select

from db.session import transaction
from db.tables import Finding, Instance, Job, JobState
from hilum.phantom import phantom
from hilum.settings import settings
from tests.hostile.objects import OUTSIDE
from tests.hostile.siege import send
from tests.peers.scu import parcel

FINAL_WITHIN_S = 600
_SHOWN = 2
"""Studies whose reason is looked for in `hilum show`."""
_POLL_S = 0.5


def complaints(folder: Path) -> list[str]:
    """What is not as it should be with the work, the store, and the folders around it."""
    read = _phantoms_that_are_not_read(folder)
    return [*_work_that_is_left(), *read, *_files_outside(folder), *_wrong_files(), *_reasons_not_shown()]


def _phantoms_that_are_not_read(folder: Path) -> Iterator[str]:
    """Genuine radiographs come last, and the network must still read them."""
    for seed in (1, 2):
        ds = phantom(seed, "Normal", rows=300, columns=250)
        if send(settings().listener_port, parcel(ds)) != "0x0000":
            yield f"a genuine radiograph is not taken: {ds.SOPInstanceUID}"
        elif not _wait_for(partial(_findings, ds.SOPInstanceUID), 120):
            yield f"a genuine radiograph is not read: {ds.SOPInstanceUID}"


def _work_that_is_left() -> Iterator[str]:
    if not _wait_for(lambda: not _jobs(JobState.WAITING), FINAL_WITHIN_S):
        yield f"{_jobs(JobState.WAITING)} pieces of work are not done"
    if failed := _jobs(JobState.FAILED):
        yield f"{failed} pieces of work failed"


def _files_outside(folder: Path) -> Iterator[str]:
    """Nothing lies where the UIDs' paths lead: above and beside the store, or under the root."""
    places = [folder, folder.parent, *folder.parents[1:8], Path.cwd(), Path.home(), Path("/tmp")]
    for place in places:
        yield from (f"{path} was written" for path in place.glob(f"*{OUTSIDE}*"))
    for path in settings().data_dir.rglob("*.dcm"):
        if not path.resolve().is_relative_to(settings().store):
            yield f"{path} was written outside the store"
    if left := list((settings().store / "aside").iterdir()):
        yield f"{len(left)} files are left aside"


def _wrong_files() -> Iterator[str]:
    """Every object that was acknowledged lies there, with a preamble of our own, and no pixel is missing."""
    store = settings().store.resolve()
    with transaction() as session:
        rows = session.execute(select(Instance.uid, Instance.path, Instance.size_bytes)).all()
    for uid, relative, size_bytes in rows:
        path = (store / relative).resolve()
        if not path.is_relative_to(store) or not path.is_file() or path.stat().st_size != size_bytes:
            yield f"the file of {uid} is not there, not whole, or not in the store"
        elif path.open("rb").read(132) != bytes(128) + b"DICM":
            yield f"the file of {uid} begins with the sender's own bytes"
        elif _lacks_pixels(path):
            yield f"{uid} was acknowledged and lacks pixels"


def _lacks_pixels(path: Path) -> bool:
    """Read by another reader than the listener's own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ds = dcmread(path)
            if ds.file_meta.TransferSyntaxUID != ExplicitVRLittleEndian or "PixelData" not in ds:
                return False
            return len(ds.PixelData) < _pixel_bytes(ds)
        except Exception:  # hostile files are made so that readers raise anything
            return False


def _pixel_bytes(ds: Dataset) -> int:
    numbers = [int(ds.get(word) or 1) for word in ("Rows", "Columns", "SamplesPerPixel", "NumberOfFrames")]
    subsampled = "_422" in str(ds.get("PhotometricInterpretation", ""))
    return int(math.prod(numbers) * int(ds.get("BitsAllocated") or 8) / 8 * (2 / 3 if subsampled else 1))


def _reasons_not_shown() -> Iterator[str]:
    """What broke the decoder is marked with its reason, and `hilum show` says it."""
    with transaction() as session:
        query = select(Instance.study_uid, Instance.not_assessed_because).where(Instance.broken)
        broken = [(UID(study_uid), str(because)) for study_uid, because in session.execute(query)]
    if not broken:
        yield "no image was marked as undecodable"
    for study_uid, because in broken[:_SHOWN]:
        shown = subprocess.run(
            [Path(sys.executable).with_name("hilum"), "show", study_uid],
            env=os.environ | {"COLUMNS": "400"},
            capture_output=True,
            text=True,
        ).stdout
        if because[:40] not in shown:
            yield f"hilum show {study_uid} does not say: {because}"


def _jobs(state: JobState) -> int:
    with transaction() as session:
        return session.scalar(select(func.count()).select_from(Job).where(Job.state == state)) or 0


def _findings(uid: str) -> int:
    with transaction() as session:
        return session.scalar(select(func.count()).select_from(Finding).where(Finding.uid == uid)) or 0


def _wait_for(condition: Callable[[], object], within_s: float) -> bool:
    until = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(_POLL_S)
    return True
