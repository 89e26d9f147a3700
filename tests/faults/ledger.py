"""The ledger: what senders were told, compared with files, rows, findings, reports and both PACSs."""

import hashlib
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread
from sqlalchemy.orm import Session

from db import jobs, reports, studies
from db.session import transaction
from db.tables import Finding, Instance, JobState, ObjectKind, Report, ReportObject, StudyState, Variant
from hilum.settings import settings
from hilum.store import Store
from tests.faults.senders import Image, Outgoing
from tests.faults.site import Site
from tests.peers.scu import parcel_of


class Ledger:
    """What was sent, and what was answered with Success."""

    def __init__(self) -> None:
        self._begun: dict[str, Outgoing] = {}
        self._acknowledged: list[Image] = []
        self._final: set[str] = set()
        self._lock = threading.Lock()

    def begin(self, study: Outgoing) -> None:
        """Write down that a sender has begun with this study."""
        with self._lock:
            self._begun[study.study_uid] = study

    def acknowledge(self, image: Image) -> None:
        """Write down that a sender was told Success."""
        with self._lock:
            self._acknowledged.append(image)

    def acknowledged_images(self) -> list[Image]:
        with self._lock:
            return list(self._acknowledged)

    def begun(self) -> dict[str, Outgoing]:
        """Study Instance UID -> study."""
        with self._lock:
            return dict(self._begun)

    def open(self) -> set[str]:
        """Studies that were begun and are not final: with all objects acknowledged, and all work done."""
        acknowledged = {image.uid for image in self.acknowledged_images()}
        begun = self.begun()
        asked = begun.keys() - self._final
        sent = [uid for uid in asked if all(image.uid in acknowledged for image in begun[uid].images)]
        self._final |= _final(sent)
        return asked - self._final


@dataclass(frozen=True)
class Comparison:
    """Study Instance UID -> what is wrong with it; nothing, as it should be."""

    lost: dict[str, list[str]]
    doubled: dict[str, list[str]]


def compare(ledger: Ledger, site: Site) -> Comparison:
    """Look at everything that was begun once the system has come to rest."""
    acknowledged: dict[str, list[Image]] = {}
    for image in ledger.acknowledged_images():
        acknowledged.setdefault(image.study_uid, []).append(image)
    lost, doubled = {}, {}
    for uid, study in ledger.begun().items():
        with transaction() as session:
            kept = _Kept(session, site, study)
            if missing := [*_missing_here(kept, acknowledged.get(uid, [])), *_missing_there(kept)]:
                lost[uid] = missing
            if twice := list(_twice(kept)):
                doubled[uid] = twice
    return Comparison(lost, doubled)


class _Kept:
    """What is known of one study at the end."""

    def __init__(self, session: Session, site: Site, study: Outgoing) -> None:
        self.study, self.session = study, session
        uids = [image.uid for image in study.images]
        self.state = studies.states(session, [study.study_uid]).get(study.study_uid)
        self.instances = {each.uid: each for each in studies.images(session, study.study_uid)}
        self.variants = list(session.query(Variant).where(Variant.uid.in_(uids)))
        self.findings = list(session.query(Finding).where(Finding.uid.in_(uids)))
        self.reports = reports.of_study(session, study.study_uid)
        self.objects = {each.uid: each for report in self.reports for each in report.objects}
        self.in_orthanc = {each["SOPInstanceUID"] for each in site.orthanc.instances(study.study_uid)}
        self.in_archive = {uid: site.archive.digests.get(uid, set()) for uid in self.objects}

    @property
    def frontal(self) -> set[str]:
        return {image.uid for image in self.study.images if image.is_frontal}

    def unfinished(self) -> list[str]:
        work = jobs.of_study(self.session, self.study.study_uid)
        return [f"{job.kind} is {job.state}: {job.error}" for job in work if job.state != JobState.DONE]


def _final(uids: Iterable[str]) -> set[str]:
    """Which of these studies are delivered and have no work left."""
    with transaction() as session:
        states = studies.states(session, list(uids))
        delivered = [uid for uid, state in states.items() if state == StudyState.DELIVERED]
        return {
            uid for uid in delivered if all(job.state == JobState.DONE for job in jobs.of_study(session, uid))
        }


def _missing_here(kept: _Kept, acknowledged: Iterable[Image]) -> Iterator[str]:
    told = list(acknowledged)
    for image in kept.study.images:
        if image.uid not in {each.uid for each in told}:
            yield f"{image.uid} was never answered with Success"
    for image in told:
        if image.digest not in _digests_on_disk(kept, image.uid):
            yield f"{image.uid} was answered with Success, and its pixels are in no file that a row names"
    if kept.state != StudyState.DELIVERED or kept.unfinished():
        yield f"it is {kept.state}; {'; '.join(kept.unfinished())}"
    found = {finding.uid for finding in kept.findings}
    for uid in kept.frontal - found:
        yield f"{uid} has no finding: {_reason(kept.instances.get(uid))}"
    if not kept.reports or _count(kept.reports[-1], ObjectKind.SC) < len(kept.frontal):
        yield "its newest report does not show every assessed image"


def _missing_there(kept: _Kept) -> Iterator[str]:
    for uid in kept.objects.keys() - kept.in_orthanc:
        yield f"report object {uid} is not in Orthanc"
    for uid, digests in kept.in_archive.items():
        if not digests:
            yield f"report object {uid} is not in the archive"


def _twice(kept: _Kept) -> Iterator[str]:
    if len(kept.findings) > len({finding.uid for finding in kept.findings}):
        yield f"{len(kept.findings)} findings for {len(kept.frontal)} images"
    if len(kept.reports) > len(kept.study.images):
        yield f"{len(kept.reports)} revisions for {len(kept.study.images)} images"
    for report in kept.reports:
        structured, captures = (_count(report, kind) for kind in (ObjectKind.SR, ObjectKind.SC))
        if structured != 1 or captures > len(kept.frontal):
            yield f"revision {report.revision} has {structured} SR and {captures} SC"
    for uid in kept.in_orthanc - kept.objects.keys():
        yield f"Orthanc has {uid}, which is in no report"
    for uid, digests in kept.in_archive.items():
        if digests - {_digest_of_file(kept.objects[uid])}:
            yield f"report object {uid} reached the archive with other bytes than are kept here"


def _digests_on_disk(kept: _Kept, uid: str) -> set[str]:
    """sha256 of the pixels of each file that a row names for this object."""
    rows: list[Instance | Variant] = [each for each in kept.variants if each.uid == uid]
    rows += [kept.instances[uid]] if uid in kept.instances else []
    files = [_file(row.path) for row in rows]
    return {hashlib.sha256(dcmread(file).PixelData).hexdigest() for file in files if file.exists()}


def _digest_of_file(row: ReportObject) -> str:
    return hashlib.sha256(parcel_of(_file(row.path)).content).hexdigest()


def _file(relative: str) -> Path:
    return Store(settings().store).path(relative)


def _reason(instance: Instance | None) -> str:
    return "it has no row" if instance is None else str(instance.not_assessed_because)


def _count(report: Report, kind: ObjectKind) -> int:
    return sum(each.kind == kind for each in report.objects)
