"""Classify: the network reads the prepared images of a study, together with those of others."""

import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from celery.signals import worker_ready
from numpy.typing import NDArray

from db import findings, jobs, studies
from db.findings import Read
from db.jobs import Claim
from db.session import transaction
from db.tables import Instance, StudyState
from db.work import Bell, work_on
from hilum.engine import Reading
from hilum.errors import HilumError, Undecodable
from hilum.gradcam import heat_map
from hilum.queue import CLASSIFY, QUEUES, REPORT, app
from hilum.radiograph import INPUT_SIZE
from hilum.settings import settings
from hilum.store import Store
from worker.reader import Reader, reader

log = logging.getLogger(__name__)

INPUT_FILE = "input.npy"


@app.task(name=CLASSIFY)
def classify_study(study_uid: str) -> None:
    """Read the images of a study that this network has not read yet, and keep its findings."""
    work_on(CLASSIFY, study_uid, _classify)


def _classify(claim: Claim) -> Sequence[Bell]:
    with_network = reader()
    artefact = with_network.artefact
    with transaction() as session:
        findings.note_network(
            session, digest=artefact.digest, version=artefact.version, manifest=artefact.manifest
        )
        images = findings.unread(
            session, claim.subject, network_digest=artefact.digest, preprocessing=artefact.preprocessing
        )
    reads = _read(with_network, images, alone=claim.deaths > 0)
    with transaction() as session:
        findings.save(session, reads, network_digest=artefact.digest, preprocessing=artefact.preprocessing)
        studies.reach(session, claim.subject, StudyState.READ)
        jobs.want(session, REPORT, claim.subject, study_uid=claim.study_uid, urgent=claim.urgent)
        again = jobs.finish(session, claim)
    bells = [Bell(REPORT, claim.subject, claim.urgent)]
    return [*bells, Bell(CLASSIFY, claim.subject, claim.urgent)] if again else bells


def _read(with_network: Reader, images: Sequence[Instance], *, alone: bool) -> list[Read]:
    store = Store(settings().store)
    inputs = [_network_input(store.path(image.prepared_path)) for image in images]
    readings = with_network.batcher.read(inputs, alone=alone)
    return [_as_found(with_network, image, reading) for image, reading in zip(images, readings, strict=True)]


def _network_input(folder: Path) -> NDArray[np.uint8]:
    """The prepared (224, 224) uint8 input; checked, since it comes from a file."""
    image: NDArray[np.uint8] = np.load(folder / INPUT_FILE, allow_pickle=False)
    if image.shape != (INPUT_SIZE, INPUT_SIZE) or image.dtype != np.uint8:
        raise Undecodable(f"{folder / INPUT_FILE} is not a network input: {image.shape} {image.dtype}")
    return image


def _as_found(with_network: Reader, image: Instance, reading: Reading) -> Read:
    labels = with_network.artefact.labels
    probabilities = reading.probabilities[0]
    best = int(probabilities.argmax())
    return Read(
        uid=image.uid,
        pixel_hash=image.pixel_hash,
        label=labels[best],
        probabilities={label: round(float(p), 6) for label, p in zip(labels, probabilities, strict=True)},
        ood=round(float(reading.ood[0]), 6),
        heat=_heat(with_network, reading.features[0], best),
    )


def _heat(with_network: Reader, features: NDArray[np.float32], class_index: int) -> list[list[float]]:
    """Return the rows of the heat map; none of a network that has no map."""
    if not with_network.artefact.has_map:
        return []
    heat = heat_map(with_network.head, features, class_index)
    return [[round(float(value), 4) for value in row] for row in heat]


@worker_ready.connect
def _load_early(sender: Any, **_: Any) -> None:
    """Load the network when a classify worker starts, so that the first study does not wait for it."""
    if not set(QUEUES[CLASSIFY]).isdisjoint(sender.app.amqp.queues.consume_from):
        threading.Thread(target=_load, name="load network", daemon=True).start()


def _load() -> None:
    try:
        log.info("the network is loaded: %s", reader().artefact.version)
    except (HilumError, OSError) as error:  # each study will say so, too
        log.error("cannot load the network: %s", error)
