"""Storage commitment, both ways: senders ask it of us, and destinations answer what we asked of them."""

import logging
from collections.abc import Callable

from pydicom import Dataset
from pynetdicom import build_context
from pynetdicom.events import Event
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]
from sqlalchemy.exc import SQLAlchemyError

from db import commitments
from db.session import transaction
from dicom_listener import status
from dicom_listener.bells import Bells
from dicom_listener.status import Refused, refusal
from dicom_listener.upper_layer import caller
from hilum import commitment
from hilum.commitment import Malformed
from hilum.queue import COMMIT
from hilum.settings import Settings, settings

log = logging.getLogger(__name__)

Answer = tuple[int | Dataset, None]
"""A status, and no Action or Event Reply."""


def handle_action(event: Event, bells: Bells) -> Answer:
    """Keep a sender's request for storage commitment; a worker answers it (PS3.4 J.3.2).

    0x0000 means that the request and the work of answering it are committed.
    """
    return _answered(event, lambda: _ask(event, bells))


def handle_report(event: Event, bells: Bells) -> Answer:
    """Keep a destination's report on what we asked of it, and have the delivery go on (PS3.4 J.3.3)."""
    return _answered(event, lambda: _take(event, bells))


def only_reports(calling: str, limits: Settings) -> bool:
    """Whether a caller is no sender, but a destination whose reports on storage commitment are awaited."""
    is_sender = not limits.senders or limits.sender(calling) is not None
    return not is_sender and bool(limits.committing(calling))


def report_contexts() -> list[PresentationContext]:
    """What is negotiated with a caller that may only report."""
    return [commitment.context(), build_context(Verification)]


def _answered(event: Event, step: Callable[[], None]) -> Answer:
    """0x0000 when the step succeeds; otherwise a failure of PS3.7 annex C, and nothing has changed."""
    try:
        step()
        return status.SUCCESS, None
    except Refused as error:
        refused = error
    except SQLAlchemyError as error:
        log.error("storage commitment with %s: the database: %s", caller(event.assoc), type(error).__name__)
        refused = Refused(status.RESOURCE_LIMITATION, "the database does not answer: try again later")
    except Exception as error:  # the border with whoever called: their bytes can raise anything
        words = str(error) if isinstance(error, Malformed) else "it cannot be read"
        refused = Refused(status.INVALID_ARGUMENT, words)
    log.warning(
        "storage commitment with %s: refused with 0x%04X: %s", caller(event.assoc), refused.status, refused
    )
    return refusal(refused.status, str(refused)), None


def _ask(event: Event, bells: Bells) -> None:
    sender_ae = event.assoc.requestor.ae_title.strip()
    sender = settings().sender(sender_ae)
    if event.action_type != commitment.REQUEST:
        raise Refused(status.NO_SUCH_ACTION, "the action is not a request for storage commitment")
    if sender is None or not sender.host:
        raise Refused(status.NOT_AUTHORIZED, "no host is set to which this sender gets its reports")
    asked = commitment.read_request(event.action_information)
    with transaction() as session:
        subject = commitments.request(session, sender_ae, asked)
    if subject is None:
        raise Refused(status.INVALID_ARGUMENT, "the transaction UID is in use for other objects")
    bells.ring_now(COMMIT, subject)
    log.info("%s asks for storage commitment of %d objects", caller(event.assoc), len(asked.objects))


def _take(event: Event, bells: Bells) -> None:
    if event.event_type not in (commitment.ALL_COMMITTED, commitment.SOME_FAILED):
        raise Refused(status.NO_SUCH_EVENT, "the event is no report on storage commitment")
    destinations = settings().committing(event.assoc.requestor.ae_title)
    hurried = None
    if destinations:  # of others a report is not even read: it may be long
        report = commitment.read_report(event.event_information)
        with transaction() as session:
            hurried = commitments.answer(session, report, destinations=destinations)
    if hurried is None:
        raise Refused(status.INVALID_ARGUMENT, "the transaction is none that we asked of this caller")
    for kind, subject, urgent in hurried:
        bells.ring_now(kind, subject, urgent=urgent)
    log.info(
        "%s reports on storage commitment: %d objects committed, %d failed",
        caller(event.assoc),
        len(report.committed),
        len(report.failed),
    )
