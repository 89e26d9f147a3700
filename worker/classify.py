"""Classify: the network reads the prepared images of a study, together with those of others."""

import logging
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from celery.signals import worker_ready
from numpy.typing import NDArray
from sqlalchemy.exc import SQLAlchemyError

from db import findings, jobs, networks, studies
from db.findings import Read
from db.jobs import Claim
from db.session import transaction
from db.tables import Instance, NetworkState, StudyState
from db.work import Bell, work_on
from hilum.engine import Reading
from hilum.errors import HilumError, Undecodable
from hilum.gradcam import heat_map
from hilum.queue import CLASSIFY, QUEUES, REPORT, SHADOW, app
from hilum.radiograph import INPUT_SIZE, PREPROCESSING
from hilum.settings import settings
from hilum.store import INPUT_FILE, Store
from worker.appearance import appearance
from worker.reader import Reader, load, readers, serving

log = logging.getLogger(__name__)


@app.task(name=CLASSIFY)
def classify_study(study_uid: str) -> None:
    """Read the images of a study that the champion has not read yet, and keep its findings."""
    work_on(CLASSIFY, study_uid, _classify)


def _classify(claim: Claim) -> Sequence[Bell]:
    """All images of one pass are read by the one network that was champion when it began."""
    in_service = serving()
    digest = in_service[NetworkState.CHAMPION]
    with transaction() as session:
        images = findings.unread(session, claim.subject, network_digest=digest, preprocessing=PREPROCESSING)
    with readers.reading(digest) as reader:
        reads = read(reader, images, alone=claim.deaths > 0)
    with transaction() as session:
        networks.require_not_recalled(session, digest)
        findings.save(session, reads, network_digest=digest, preprocessing=PREPROCESSING)
        findings.take_up(session, claim.subject, network_digest=digest, preprocessing=PREPROCESSING)
        studies.reach(session, claim.subject, StudyState.READ)
        jobs.want(session, REPORT, claim.subject, study_uid=claim.study_uid, urgent=claim.urgent)
        if NetworkState.SHADOW in in_service:  # the sweep rings for it, once nothing waits for the champion
            jobs.want(session, SHADOW, claim.subject, study_uid=claim.study_uid)
        again = jobs.finish(session, claim)
    bells = [Bell(REPORT, claim.subject, claim.urgent)]
    return [*bells, Bell(CLASSIFY, claim.subject, claim.urgent)] if again else bells


def read(reader: Reader, images: Sequence[Instance], *, alone: bool) -> list[Read]:
    """What a network says of prepared images; `alone` keeps them out of the batches of others."""
    store = Store(settings().store)
    inputs = [_network_input(store.path(image.prepared_path)) for image in images]
    readings = reader.batcher.read(inputs, alone=alone)
    return [
        replace(_as_found(reader, image, reading), statistics=appearance(seen), engine=reader.computed_by)
        for image, reading, seen in zip(images, readings, inputs, strict=True)
    ]


def _network_input(folder: Path) -> NDArray[np.uint8]:
    """The prepared (224, 224) uint8 input; checked, since it comes from a file."""
    image: NDArray[np.uint8] = np.load(folder / INPUT_FILE, allow_pickle=False)
    if image.shape != (INPUT_SIZE, INPUT_SIZE) or image.dtype != np.uint8:
        raise Undecodable(f"{folder / INPUT_FILE} is not a network input: {image.shape} {image.dtype}")
    return image


def _as_found(reader: Reader, image: Instance, reading: Reading) -> Read:
    labels = reader.artefact.labels
    probabilities = reading.probabilities[0]
    best = int(probabilities.argmax())
    return Read(
        uid=image.uid,
        pixel_hash=image.pixel_hash,
        label=labels[best],
        probabilities={label: round(float(p), 6) for label, p in zip(labels, probabilities, strict=True)},
        ood=round(float(reading.ood[0]), 6),
        heat=_heat(reader, reading.features[0], best),
    )


def _heat(reader: Reader, features: NDArray[np.float32], class_index: int) -> list[list[float]]:
    """Return the rows of the heat map; none of a network that has no map."""
    if not reader.artefact.has_map:
        return []
    heat = heat_map(reader.head, features, class_index)
    return [[round(float(value), 4) for value in row] for row in heat]


@worker_ready.connect
def _load_early(sender: Any, **_: Any) -> None:
    """Load the networks when a classify worker starts, so that the first study does not wait for them."""
    if reads(sender.app):
        threading.Thread(target=_begin, name="load network", daemon=True).start()


def reads(its: Any) -> bool:
    """Whether the worker of this Celery app is one that reads images."""
    return not set(QUEUES[CLASSIFY]).isdisjoint(its.amqp.queues.consume_from)


def _begin() -> None:
    for step in (networks.install, load):  # another network in the settings takes its place first
        try:
            step()
        except (HilumError, SQLAlchemyError, OSError) as error:  # each study will say so, too
            log.error("cannot load the network: %s", error)
