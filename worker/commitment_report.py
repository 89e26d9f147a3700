"""Storage commitment asked of us: look at what we hold, and report it to the sender."""

import hashlib
import logging
import os
import struct
from collections.abc import Sequence

from pydicom.uid import AllTransferSyntaxes
from pynetdicom import build_context, build_role
from pynetdicom.association import Association

from db import commitments, jobs
from db.jobs import Claim
from db.session import transaction
from db.tables import CommitmentRequest, Instance
from db.work import Bell, work_on
from hilum import commitment, pacs
from hilum.commitment import CLASS_CONFLICT, NO_SUCH_OBJECT, PROCESSING_FAILURE, Report
from hilum.errors import PacsUnavailable, RefusedByPacs
from hilum.pacs import Peer
from hilum.queue import COMMIT, app
from hilum.settings import Sender, settings
from hilum.store import INSTANCES, Store

log = logging.getLogger(__name__)

GIVEN_UP_AFTER_S = 24 * 3600
"""A sender that takes no report for so long has to ask again."""
FORGOTTEN_AFTER_S = 30 * GIVEN_UP_AFTER_S
"""Requests older than that are removed; nobody asks with their transaction UIDs any more."""
_SHORTEST_PAUSE_S = 2.0


@app.task(name=COMMIT)
def report_commitment(request_id: str) -> None:
    """Look whether we hold what a sender asks for, and report it on a new association (PS3.4 J.3.3).

    A sender that is away is tried again with growing pauses, for a day.
    """
    work_on(COMMIT, request_id, _report)


def _report(claim: Claim) -> Sequence[Bell]:
    with transaction() as session:
        asked, age_s = commitments.requested(session, int(claim.subject))
        commitments.forget_requests(session, older_than_s=FORGOTTEN_AFTER_S)
    try:
        report = _tell(settings().sender(asked.sender_ae), asked)
    except PacsUnavailable as error:
        return _later(claim, age_s, str(error))
    except RefusedByPacs as error:
        return _given_up(claim, str(error))
    with transaction() as session:
        commitments.note_reported(session, asked.id)
        wanted_again = jobs.finish(session, claim)
    log.info(
        "reported to %s: %d objects committed, %d not",
        asked.sender_ae,
        len(report.committed),
        len(report.failed),
    )
    return [Bell(COMMIT, claim.subject)] if wanted_again else []


def _later(claim: Claim, age_s: float, because: str) -> list[Bell]:
    """Try again after as long as the request has waited already, within limits."""
    if age_s > GIVEN_UP_AFTER_S:
        return _given_up(claim, because)
    pause_s = min(max(_SHORTEST_PAUSE_S, age_s), settings().longest_pause_s)
    with transaction() as session:
        jobs.put_off(session, claim, pause_s=pause_s, because=because)
    return []


def _given_up(claim: Claim, because: str) -> list[Bell]:
    log.warning("a report on storage commitment is given up: %s", because)
    with transaction() as session:
        jobs.give_up(session, claim, because=because)
    return []


def _look(asked: CommitmentRequest) -> Report:
    """What we commit ourselves to: what has its row, and its whole file with it."""
    with transaction() as session:
        held = commitments.held(session, list(asked.objects))
        aside = commitments.aside(session, list(asked.objects))
    store = Store(settings().store)
    faults = {uid: _fault(store, class_uid, held.get(uid)) for uid, class_uid in asked.objects.items()}
    for uid, path in aside:  # the sender was told Success of these, too
        faults[uid] = faults[uid] or _file_fault(store, uid, path)
    return Report(
        asked.transaction_uid,
        {uid: asked.objects[uid] for uid, fault in faults.items() if fault is None},
        {uid: (asked.objects[uid], fault) for uid, fault in faults.items() if fault is not None},
    )


def _fault(store: Store, class_uid: str, instance: Instance | None) -> int | None:
    """The Failure Reason (PS3.3 C.14.1.1) for an object, None when we hold it."""
    if instance is None:
        return NO_SUCH_OBJECT
    if instance.sop_class_uid != class_uid:
        return CLASS_CONFLICT
    return _file_fault(store, instance.uid, instance.path)


def _file_fault(store: Store, uid: str, path: str) -> int | None:
    try:
        is_whole = _is_whole(store, uid, path)
    except FileNotFoundError:
        return NO_SUCH_OBJECT
    if not is_whole:
        log.error("the file of %s is damaged: %s", uid, path)
        return PROCESSING_FAILURE
    return None


def _is_whole(store: Store, uid: str, path: str) -> bool:
    """Whether the file has the bytes that were received: its name is made of their digest and syntax."""
    with store.path(path).open("rb") as file:
        file.seek(140)  # preamble, prefix, and the head of (0002,0000), which says how long its group is
        length = file.read(4)
        if len(length) < 4:
            return False
        file.seek(struct.unpack("<L", length)[0], os.SEEK_CUR)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return any(store.named(INSTANCES, uid, syntax, digest) == path for syntax in AllTransferSyntaxes)


def _tell(sender: Sender | None, asked: CommitmentRequest) -> Report:
    """Look and send the report, as SCP of the association that we open (PS3.4 J.3.3.1.2); return it.

    The association comes first: to look reads every file, for nothing when the sender is away.
    Raises PacsUnavailable or RefusedByPacs.
    """
    if sender is None or not sender.host:
        raise RefusedByPacs(
            "the settings have no such sender with a host any more; put it back, then ask again"
        )
    assoc = _associate(sender)
    try:
        report = _look(asked)
        if not assoc.is_established:  # the look took longer than an association may be silent
            assoc = _associate(sender)
        _send(assoc, sender, report)
    finally:
        if assoc.is_established:
            assoc.release()
    return report


def _send(assoc: Association, sender: Sender, report: Report) -> None:
    try:
        status, _ = assoc.send_n_event_report(
            commitment.report_information(report),
            report.event_type,
            commitment.PUSH_MODEL,
            commitment.WELL_KNOWN,
        )
    except ValueError as error:
        raise RefusedByPacs(f"{sender.ae_title} takes no reports on a new association") from error
    except RuntimeError as error:
        raise PacsUnavailable(f"{sender.ae_title} ended the association: {error}") from error
    if not status or status.Status in (pacs.PROCESSING_FAILURE, pacs.RESOURCE_LIMITATION):
        raise PacsUnavailable(f"{sender.ae_title} did not take the report")
    if not pacs.is_stored(status.Status):
        raise RefusedByPacs(f"{sender.ae_title} refuses the report (0x{status.Status:04X})")


def _associate(sender: Sender) -> Association:
    return pacs.associate(
        Peer.of(sender, settings()),
        [build_context(commitment.PUSH_MODEL, commitment.TRANSFER_SYNTAXES)],
        roles=[build_role(commitment.PUSH_MODEL, scp_role=True)],
    )
