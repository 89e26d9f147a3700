"""Verdict: take a person's word on images from a note or report that a reading workstation sent."""

import logging
import os
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from pydicom import Dataset, dcmread
from sqlalchemy.orm import Session

from db import audit, images, jobs, verdicts
from db.images import Image
from db.jobs import Claim
from db.session import transaction
from db.tables import Instance
from db.verdicts import NAMES_UNKNOWN, Said
from db.work import Bell, work_on
from hilum.errors import Undecodable
from hilum.header import text
from hilum.queue import VERDICT, app
from hilum.settings import settings
from hilum.store import Store
from worker.decoder import Spoken
from worker.prepare import decoder

log = logging.getLogger(__name__)

_OUTDATED = "its author has said something else since"


@app.task(name=VERDICT)
def take_verdict(uid: str) -> None:
    """Write down what an object without pixels says of images; when it says nothing, write down why."""
    work_on(VERDICT, uid, _take)


def _take(claim: Claim) -> Sequence[Bell]:
    with transaction() as session:
        instance = session.get_one(Instance, claim.subject)
    said = _heard(instance)
    reports = _our_reports(said.labels)
    with transaction() as session:
        because = _written_down(session, instance, said, reports)
        session.get_one(Instance, claim.subject).no_verdict_because = because
        again = jobs.finish(session, claim)
    log.info("%s of %s brought %s", instance.uid, instance.sender_ae, because or "verdicts")
    return [Bell(VERDICT, claim.subject)] if again else []


def _heard(instance: Instance) -> Spoken:
    sender = settings().sender(instance.sender_ae)
    if sender is not None and not sender.verdicts:
        return Spoken("", "", {}, "its sender's settings say verdicts = false")
    if instance.removed_at is not None:
        return Spoken("", "", {}, "its file was removed because of its age")
    store = Store(settings().store)
    try:
        return decoder(os.getpid()).spoken(store.path(instance.path))
    except Undecodable as error:
        return Spoken("", "", {}, str(error))
    except FileNotFoundError:
        if not store.lacks(instance.path):
            raise
        return Spoken("", "", {}, "its file is missing in the store: once it is sent again, it is heard")


def _written_down(
    session: Session, instance: Instance, said: Spoken, reports: Mapping[str, Collection[str]]
) -> str | None:
    """Add the verdicts and return why there are none, or not all that the object speaks of."""
    named = set(said.labels).union(*reports.values())
    known = {image.uid: image for image in images.known(session, named)}
    labels, because = _of_images(said.labels, known, reports)
    author, moment = said.author or instance.sender_ae, _moment(said.said_at)
    source = f"dicom {instance.sender_ae}"
    before = verdicts.brought(session, labels, instance.uid)
    added = verdicts.add_all(
        session,
        [
            Said(uid, label, author, source, origin=instance.uid, said_at=moment)
            for uid, label in sorted(labels.items())
        ],
    )
    for verdict in added:
        if verdict.origin == instance.uid and verdict.uid not in before:
            study_uid, detail = known[verdict.uid].study_uid, f"{verdict.label} of {verdict.uid}, by {source}"
            audit.note(session, actor=author, action="verdict", study_uid=study_uid, detail=detail)
    outdated = any(verdict.origin != instance.uid for verdict in added)
    return said.because or because or (_OUTDATED if outdated else None)


def _of_images(
    said: Mapping[str, str], known: Mapping[str, Image], reports: Mapping[str, Collection[str]]
) -> tuple[dict[str, str], str | None]:
    """SOP Instance UID of each image that is meant -> its label, and what stands against others.

    Of our own reports the images in them are meant, of those the assessed ones.
    """
    meant: dict[str, set[str]] = defaultdict(set)
    is_unknown = False
    for uid, label in said.items():
        inside = [each for each in reports.get(uid, ()) if each in known and known[each].is_assessed]
        uids = [uid] if uid in known else inside
        is_unknown = is_unknown or not uids
        for each in uids:
            meant[each].add(label)
    labels = {uid: next(iter(each)) for uid, each in meant.items() if len(each) == 1}
    if len(labels) < len(meant):
        return labels, "it says different things of one image"
    return labels, NAMES_UNKNOWN if is_unknown else None


def _our_reports(uids: Collection[str]) -> dict[str, list[str]]:
    """Of these UIDs, those of our own reports and heat maps whose files are here -> what each refers to."""
    with transaction() as session:
        paths = verdicts.report_files(session, uids)
    store = Store(settings().store)
    return {uid: _sources(dcmread(store.path(path), stop_before_pixels=True)) for uid, path in paths.items()}


def _sources(ours: Dataset) -> list[str]:
    """What an object of ours refers to: the evidence of a report, the source image of a heat map."""
    series = [
        each
        for study in ours.get("CurrentRequestedProcedureEvidenceSequence") or ()
        for each in study.ReferencedSeriesSequence
    ]
    evidence = [each for one in series for each in one.ReferencedSOPSequence]
    return [
        text(each, "ReferencedSOPInstanceUID")
        for each in (*evidence, *(ours.get("SourceImageSequence") or ()))
    ]


def _moment(written: str) -> datetime | None:
    return datetime.fromisoformat(written) if written else None
