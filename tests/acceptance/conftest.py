"""Studies to send, and what to ask of the system and its PACS afterwards."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.uid import generate_uid

from db import findings, jobs, reports, studies
from db.session import transaction
from db.tables import Finding, Job, JobState, Report, Study, StudyState
from hilum.phantom import phantom
from tests.peers.helpers import wait_for

SR, SC = "SR", "OT"
ENDED = (StudyState.DELIVERED, StudyState.NOT_READ)

MakeStudy = Callable[..., Path]


@pytest.fixture
def make_study(tmp_path: Path) -> MakeStudy:
    """Call it to draw a phantom into a file of `folder`; the Study Instance UID is the file's name."""

    def make(
        seed: int,
        label: str = "Normal",
        *,
        study_uid: str | None = None,
        view: str = "PA",
        folder: str = "out",
    ) -> Path:
        study_uid = study_uid or generate_uid()
        ds = phantom(seed, label, rows=600, columns=500, study_uid=study_uid, view_position=view)
        path = tmp_path / "studies" / f"{study_uid}-{seed}.dcm"
        path.parent.mkdir(exist_ok=True)
        ds.save_as(path, enforce_file_format=True)
        return path

    return make


def study_uid(path: Path) -> str:
    return path.stem.rpartition("-")[0]


def study(uid: str) -> Study | None:
    with transaction() as session:
        return session.get(Study, uid)


def wait_until_over(study_uids: Sequence[str], timeout_s: float = 120) -> None:
    """Wait until all these studies are where they end."""
    wait_for(lambda: _open(study_uids) == [], timeout_s, f"the end of {len(study_uids)} studies")


def _open(study_uids: Sequence[str]) -> list[str]:
    """Studies that are not over, or still have work waiting."""
    with transaction() as session:
        over = [session.get(Study, uid) for uid in study_uids]
        waiting = [
            uid
            for uid in study_uids
            if any(job.state == JobState.WAITING for job in jobs.of_study(session, uid))
        ]
    missing = [
        uid for uid, found in zip(study_uids, over, strict=True) if found is None or found.state not in ENDED
    ]
    return missing + waiting


def findings_of(uid: str) -> dict[str, Finding]:
    with transaction() as session:
        return findings.of_study(session, uid)


def all_findings(uid: str) -> list[Finding]:
    """Every finding of a study's images, superseded ones too."""
    with transaction() as session:
        images = [image.uid for image in studies.images(session, uid)]
        return list(session.query(Finding).where(Finding.uid.in_(images)))


def reports_of(uid: str) -> list[Report]:
    with transaction() as session:
        return reports.of_study(session, uid)


def jobs_of(uid: str) -> list[Job]:
    with transaction() as session:
        return jobs.of_study(session, uid)


def by_modality(objects: Sequence[Dataset], modality: str) -> list[Dataset]:
    return [ds for ds in objects if ds.Modality == modality]
