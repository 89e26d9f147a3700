"""Shadow: another network reads what the champion has read, for people to compare; it is never reported."""

import logging
from collections.abc import Sequence

from db import findings, jobs, networks
from db.jobs import Claim
from db.session import transaction
from db.work import Bell, work_on
from hilum.errors import MachineAtFault, NetworkError
from hilum.queue import CLASSIFY, SHADOW, app
from hilum.radiograph import PREPROCESSING
from worker.classify import read
from worker.reader import readers

log = logging.getLogger(__name__)

PAUSE_S = 30.0
"""Seconds after which it is tried again, where something waits for the champion."""


@app.task(name=SHADOW)
def read_beside(study_uid: str) -> None:
    """Read the images of a study that the shadow has not read yet, when the champion has nothing to do."""
    work_on(SHADOW, study_uid, _read_beside)


def _read_beside(claim: Claim) -> Sequence[Bell]:
    with transaction() as session:
        network = networks.shadow(session)
        if network is not None and jobs.due(session, [CLASSIFY]):
            jobs.put_off(session, claim, pause_s=PAUSE_S, because="studies wait for the champion")
            return ()
        images = (
            []
            if network is None
            else findings.unread(
                session, claim.subject, network_digest=network.digest, preprocessing=PREPROCESSING
            )
        )
    reads = []
    if network is not None and images:
        try:
            with readers.reading(network.digest) as reader:
                reads = read(reader, images, alone=claim.deaths > 0)
        except (NetworkError, MachineAtFault) as error:  # what a shadow has not read is no loss
            log.error("the shadow does not read: %s", error)
    with transaction() as session:
        if network is not None:
            findings.save(
                session, reads, network_digest=network.digest, preprocessing=PREPROCESSING, shadow=True
            )
        jobs.finish(session, claim)
    return ()
