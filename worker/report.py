"""Report: render a study's findings as DICOM objects, once for each revision, and pass them on."""

import hashlib
import io
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.filewriter import dcmwrite
from sqlalchemy.orm import Session

from db import findings, jobs, reports, retention, studies
from db.jobs import Claim
from db.reports import Rendered
from db.session import transaction
from db.tables import Finding, Instance, NetworkVersion, ObjectKind, Report, Study
from db.work import Bell, work_on
from hilum.queue import DELIVER, REPORT, app
from hilum.settings import settings
from hilum.store import DISPLAY_FILE, REPORTS, Store
from worker.heat_map import heat_map_image
from worker.results import NetworkName, Predecessor, ReadImage, StudyResult
from worker.structured_report import structured_report

_REMOVED = "its file was removed here because of its age"


@dataclass(frozen=True)
class _Facts:
    """What a report is made of, as it stands in the database."""

    study: Study
    images: Sequence[Instance]
    senders: Collection[str]
    findings: dict[str, Finding]
    network: NetworkVersion | None
    """The one that read images, whether it assessed or refused them; None when it read none."""
    revision: int
    """The number of the next report."""
    former: Report | None
    former_objects: Sequence[Predecessor]


@app.task(name=REPORT)
def report_study(study_uid: str) -> None:
    """Make a new revision of a study's report if there is anything new to say, for all its destinations."""
    work_on(REPORT, study_uid, _report)


def _report(claim: Claim) -> Sequence[Bell]:
    facts = _facts(claim.subject)
    digest, former = _content_digest(facts), facts.former
    if former is not None and former.content_digest in (digest, _digest_of_before(facts)):
        with transaction() as session:
            jobs.lock_study(session, claim.subject)
            return _pass_on(session, claim, former, facts)
    store, rendered = Store(settings().store), _render(facts)
    with transaction() as session:
        jobs.lock_study(session, claim.subject)
        retention.spare(session, [each.path for each in rendered])
        for each in rendered:  # one that lay there since a crash may have been removed before it was spared
            store.require(each.path)
        report = reports.add(
            session, claim.subject, revision=facts.revision, content_digest=digest, objects=rendered
        )
        return _pass_on(session, claim, report, facts)


def _pass_on(session: Session, claim: Claim, report: Report, facts: _Facts) -> list[Bell]:
    """End the work: the report is on its way to all of its destinations."""
    sent = reports.deliveries(session, claim.subject)
    known = {each.destination for each in sent if each.report_id == report.id}
    bells = []
    for name in _destinations(facts.senders):
        if name not in known and report.removed_at is None:
            delivery = reports.send_to(session, report, name)
            jobs.want(session, DELIVER, str(delivery.id), study_uid=claim.study_uid, urgent=claim.urgent)
            bells.append(Bell(DELIVER, str(delivery.id), claim.urgent))
    studies.reach(session, claim.subject, reports.reached(session, report))
    if jobs.finish(session, claim):
        bells.append(Bell(REPORT, claim.subject, claim.urgent))
    return bells


def _destinations(senders: Collection[str]) -> list[str]:
    """Where the results of images of these senders go: wherever the rule of one of them says."""
    allowed = {place.name for sender in senders for place in settings().destinations_of(sender)}
    return [place.name for place in settings().destinations if place.name in allowed]


def _facts(study_uid: str) -> _Facts:
    with transaction() as session:
        found = findings.of_study(session, study_uid)
        # what is still here goes first: patient and study are copied from a whole header if there is one
        images = sorted(studies.images(session, study_uid), key=lambda image: image.removed_at is not None)
        former = reports.latest(session, study_uid)
        newest = max(found.values(), key=lambda finding: finding.id, default=None)
        return _Facts(
            study=session.get_one(Study, study_uid),
            # an image prepared after the network read the others waits for the next revision
            images=[each for each in images if each.uid in found or _why_not_assessed(each) is not None],
            senders={each.sender_ae for each in images},
            findings=found,
            network=None if newest is None else findings.network(session, newest.network_digest),
            revision=1 + (former.revision if former else retention.last_revision(session, study_uid)),
            former=former,
            former_objects=_predecessors(former),
        )


def _predecessors(former: Report | None) -> list[Predecessor]:
    if former is None:
        return []
    return [
        Predecessor(former.study_uid, each.series_uid, each.sop_class_uid, each.uid)
        for each in former.objects
        if each.kind == ObjectKind.SR
    ]


def _content_digest(facts: _Facts) -> str:
    """What makes a revision: the set of assessed images, and what is found of each.

    An image that is not assessed makes none: two systems that answer each other would never end. Nor does
    another network that finds the same: where one was recalled, destinations get what has changed.
    """
    found = [[each.uid, each.pixel_hash, facts.findings[each.uid].label] for each in _assessed(facts)]
    return hashlib.sha256(json.dumps(sorted(found)).encode()).hexdigest()


def _digest_of_before(facts: _Facts) -> str:
    """The same as in reports of before networks could be exchanged: of the network, not of what it found."""
    images = sorted([each.uid, each.pixel_hash] for each in _assessed(facts))
    network = facts.network.digest if facts.network and images else None
    return hashlib.sha256(json.dumps([images, network]).encode()).hexdigest()


def _assessed(facts: _Facts) -> list[Instance]:
    return [each for each in facts.images if _why_not_assessed(each, facts.findings.get(each.uid)) is None]


def _edition(facts: _Facts) -> str:
    """The revision and all that it says, also of images that make none.

    After a restore the same number may stand for another set of images, or be another network's, while
    destinations still have the report that it stood for before.
    """
    said = sorted(
        [each.uid, each.pixel_hash, _why_not_assessed(each, facts.findings.get(each.uid))]
        for each in facts.images
    )
    network = facts.network.digest if facts.network else None
    return f"{facts.revision}/{hashlib.sha256(json.dumps([said, network]).encode()).hexdigest()}"


def _render(facts: _Facts) -> list[Rendered]:
    edition = _edition(facts)
    store = Store(settings().store)
    created = datetime.now().astimezone()  # the clock of the place, as people there read it
    network = _network_name(facts.network)
    images = [_read_image(store, facts.study, image, facts.findings.get(image.uid)) for image in facts.images]
    maps = [
        _heat_map(store, instance, facts.findings[instance.uid], image, edition, network, created)
        for instance, image in zip(facts.images, images, strict=True)
        if image.label is not None and network is not None and _has_map(instance, facts)
    ]
    result = StudyResult(
        study_uid=facts.study.study_uid,
        revision=facts.revision,
        edition=edition,
        network=network,
        images=images,
        created=created,
        predecessors=facts.former_objects,
        heat_maps=maps,
    )
    return [
        _kept(store, structured_report(result), ObjectKind.SR),
        *(_kept(store, each, ObjectKind.SC) for each in maps),
    ]


def _network_name(network: NetworkVersion | None) -> NetworkName | None:
    return None if network is None else NetworkName(network.version, network.digest)


def _has_map(instance: Instance, facts: _Facts) -> bool:
    """Whether a heat map can be drawn: by a network that has one, over an image that is still here."""
    return instance.prepared and bool(facts.findings[instance.uid].heat["rows"])


def _why_not_assessed(image: Instance, finding: Finding | None = None) -> str | None:
    """As `findings.why_not_assessed`; what is gone will not be read by a network that has not read it."""
    is_lost = finding is None and image.removed_at is not None
    return findings.why_not_assessed(image, finding) or (_REMOVED if is_lost else None)


def _read_image(store: Store, study: Study, image: Instance, finding: Finding | None) -> ReadImage:
    header = _header(store, study, image)
    because = _why_not_assessed(image, finding)
    if because is not None or finding is None:
        refused = finding is not None and finding.not_assessed_because == because
        return ReadImage(
            header, image.view, because, None, None, finding.ood if finding and refused else None
        )
    return ReadImage(header, image.view, None, finding.label, finding.probabilities, finding.ood)


def _header(store: Store, study: Study, image: Instance) -> Dataset:
    """The image's header; of one whose file was removed, what the rows still know of it."""
    if image.removed_at is None:
        return dcmread(store.path(image.path), stop_before_pixels=True, force=True)
    known = Dataset()
    known.PatientID, known.PatientName = study.patient_id, study.patient_name
    known.PatientBirthDate, known.PatientSex = study.patient_birth_date, study.patient_sex
    known.StudyInstanceUID, known.SeriesInstanceUID = study.study_uid, image.series_uid
    known.SOPClassUID, known.SOPInstanceUID = image.sop_class_uid, image.uid
    known.AccessionNumber, known.StudyDate = study.accession_number, study.study_date
    known.StudyDescription = study.study_description
    return known


def _heat_map(
    store: Store,
    instance: Instance,
    finding: Finding,
    image: ReadImage,
    edition: str,
    network: NetworkName,
    created: datetime,
) -> Dataset:
    with Image.open(store.path(instance.prepared_path) / DISPLAY_FILE) as picture:
        display = np.asarray(picture.convert("L"))
    heat = np.asarray(finding.heat["rows"], dtype=np.float32)
    return heat_map_image(image, display, heat, edition=edition, network=network, created=created)


def _kept(store: Store, ds: Dataset, kind: ObjectKind) -> Rendered:
    """Write an object to the store, from where it is sent byte for byte.

    The name holds the content's digest: another worker at the same report, at another time, must not
    change what was committed and perhaps sent.
    """
    buffer = io.BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    content = buffer.getvalue()
    path = store.write(content, REPORTS, ds.SOPInstanceUID, hashlib.sha256(content).hexdigest())
    return Rendered(ds.SOPInstanceUID, kind, ds.SeriesInstanceUID, ds.SOPClassUID, path)
