"""Report: render a study's findings as DICOM objects, once for each revision, and pass them on."""

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.filewriter import dcmwrite

from db import findings, jobs, reports, studies
from db.jobs import Claim
from db.reports import Rendered
from db.session import transaction
from db.tables import Finding, Instance, NetworkVersion, ObjectKind, Report, Study, StudyState
from hilum.queue import DELIVER, REPORT, app
from hilum.settings import settings
from hilum.store import REPORTS, Store
from worker.heat_map import heat_map_image
from worker.results import NetworkName, Predecessor, ReadImage, StudyResult
from worker.structured_report import structured_report
from worker.work import Bell, work_on

DISPLAY_FILE = "display.png"


@dataclass(frozen=True)
class _Facts:
    """What a report is made of, as it stands in the database."""

    study: Study
    images: Sequence[Instance]
    findings: dict[str, Finding]
    network: NetworkVersion | None
    former: Report | None
    former_objects: Sequence[Predecessor]


@app.task(name=REPORT)
def report_study(study_uid: str) -> None:
    """Make a new revision of a study's report if there is anything new to say, for all its destinations."""
    work_on(REPORT, study_uid, _report)


def _report(claim: Claim) -> Sequence[Bell]:
    facts = _facts(claim.subject)
    digest = _content_digest(facts)
    if facts.former is not None and facts.former.content_digest == digest:
        return _finish(claim, [])
    rendered = _render(facts)
    bells = []
    with transaction() as session:
        report = reports.add(
            session, claim.subject, revision=_revision(facts), content_digest=digest, objects=rendered
        )
        studies.reach(session, claim.subject, StudyState.REPORTED)
        for destination in settings().destinations_of(facts.study.sender_ae):
            delivery = reports.send_to(session, report, destination.name)
            jobs.want(session, DELIVER, str(delivery.id), study_uid=claim.study_uid, urgent=claim.urgent)
            bells.append(Bell(DELIVER, str(delivery.id), claim.urgent))
        if jobs.finish(session, claim):
            bells.append(Bell(REPORT, claim.subject, claim.urgent))
    return bells


def _finish(claim: Claim, bells: list[Bell]) -> list[Bell]:
    """End the work of a report that would say what the last one said."""
    with transaction() as session:
        deliveries = reports.deliveries(session, claim.subject)
        studies.reach(session, claim.subject, reports.reached(deliveries))
        if jobs.finish(session, claim):
            bells.append(Bell(REPORT, claim.subject, claim.urgent))
    return bells


def _facts(study_uid: str) -> _Facts:
    with transaction() as session:
        found = findings.of_study(session, study_uid)
        images = [image for image in studies.images(session, study_uid) if image.prepared]
        # an image prepared after the network read the others waits for the next revision
        images = [image for image in images if not image.prepared_path or image.uid in found]
        former = reports.latest(session, study_uid)
        newest = max(found.values(), key=lambda finding: finding.id, default=None)
        return _Facts(
            study=session.get_one(Study, study_uid),
            images=images,
            findings=found,
            network=None if newest is None else findings.network(session, newest.network_digest),
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
    """What makes a revision: the set of images, why some were not assessed, and the network."""
    content = [
        [image.uid, image.pixel_hash, image.not_assessed_because]
        for image in sorted(facts.images, key=lambda image: image.uid)
    ]
    network = facts.network.digest if facts.network else None
    return hashlib.sha256(json.dumps([content, network]).encode()).hexdigest()


def _revision(facts: _Facts) -> int:
    return 1 if facts.former is None else facts.former.revision + 1


def _render(facts: _Facts) -> list[Rendered]:
    store = Store(settings().store)
    created = datetime.now().astimezone()  # the clock of the place, as people there read it
    network = _network_name(facts.network)
    images = [_read_image(store, image, facts.findings.get(image.uid)) for image in facts.images]
    maps = [
        _heat_map(store, instance, facts.findings[instance.uid], image, _revision(facts), network, created)
        for instance, image in zip(facts.images, images, strict=True)
        if image.label is not None and network is not None
    ]
    result = StudyResult(
        study_uid=facts.study.study_uid,
        revision=_revision(facts),
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


def _read_image(store: Store, image: Instance, finding: Finding | None) -> ReadImage:
    header = dcmread(store.path(image.path), stop_before_pixels=True, force=True)
    if image.not_assessed_because is not None or finding is None:
        return ReadImage(header, image.view, image.not_assessed_because, None, None, None)
    return ReadImage(header, image.view, None, finding.label, finding.probabilities, finding.ood)


def _heat_map(
    store: Store,
    instance: Instance,
    finding: Finding,
    image: ReadImage,
    revision: int,
    network: NetworkName,
    created: datetime,
) -> Dataset:
    with Image.open(store.path(instance.prepared_path) / DISPLAY_FILE) as picture:
        display = np.asarray(picture.convert("L"))
    heat = np.asarray(finding.heat["rows"], dtype=np.float32)
    return heat_map_image(image, display, heat, revision=revision, network=network, created=created)


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
