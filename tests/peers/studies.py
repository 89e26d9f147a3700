"""Studies as the listener would have recorded them."""

import dataclasses

from db import jobs, reports, studies
from db.jobs import Claim
from db.reports import Rendered
from db.session import transaction
from db.studies import Received, Record
from db.tables import Delivery, Job, ObjectKind
from hilum.settings import settings
from hilum.store import REPORTS, Store

RECEIVED = Received(
    uid="1.2.826.0.1.3680043.10.1.1",
    study_uid="1.2.826.0.1.3680043.10.1",
    series_uid="1.2.826.0.1.3680043.10.1.0",
    sop_class_uid="1.2.840.10008.5.1.4.1.1.1.1",
    transfer_syntax_uid="1.2.840.10008.1.2.1",
    sender_ae="MODALITY",
    path="instances/00/00/0000.dcm",
    size_bytes=1000,
    pixel_digest="a" * 64,
    view="PA",
    modality="DX",
    patient_id="4711",
)


def receive(*, settle_s: float = 0.0, **changes: object) -> Record:
    """Record an object and commit it."""
    received = dataclasses.replace(RECEIVED, **changes)  # type: ignore[arg-type]
    with transaction() as session:
        return studies.record(session, received, settle_s=settle_s)


def claim(kind: str, subject: str, *, lease_s: float = 30.0) -> Claim | None:
    with transaction() as session:
        return jobs.claim(session, kind, subject, lease_s=lease_s)


def job(kind: str, subject: str) -> Job:
    """The job as it stands now."""
    with transaction() as session:
        [found] = session.query(Job).where(Job.kind == kind, Job.subject == subject)
        return found


def deliverable(
    content: bytes, *, uid: str, sop_class_uid: str, series_uid: str, destination: str, kind: str
) -> Delivery:
    """A report of the received study with one object, on its way to a destination."""
    path = Store(settings().store).write(content, REPORTS, uid)
    with transaction() as session:
        former = reports.latest(session, RECEIVED.study_uid)
        report = reports.add(
            session,
            RECEIVED.study_uid,
            revision=1 if former is None else former.revision + 1,
            content_digest="c" * 64,
            objects=[Rendered(uid, ObjectKind.SC, series_uid, sop_class_uid, path)],
        )
        delivery = reports.send_to(session, report, destination)
        jobs.want(session, kind, str(delivery.id), study_uid=RECEIVED.study_uid)
        return delivery
