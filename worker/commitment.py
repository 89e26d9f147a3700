"""Storage commitment asked of a destination: what is asked when, and on what association."""

import logging
import time
from functools import partial

from pynetdicom import build_context, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import N_EVENT_REPORT, DimseServiceType
from pynetdicom.events import Event, EventHandlerType
from pynetdicom.presentation import PresentationContext
from pynetdicom.service_class_n import StorageCommitmentServiceClass
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]
from sqlalchemy.exc import SQLAlchemyError

from db import commitments
from db.commitments import Standing
from db.session import transaction
from hilum import commitment, pacs
from hilum.commitment import Request
from hilum.errors import FailedAtPacs, HilumError, PacsUnavailable, RefusedByPacs
from hilum.queue import ring
from hilum.settings import Destination
from worker.pacs import Pacs

log = logging.getLogger(__name__)

LONGEST_TIMEOUT_S = 24 * 3600
_INVALID_ARGUMENT = 0x0115
_DUPLICATE_INVOCATION = 0x0210
_PASSING = (pacs.PROCESSING_FAILURE, _DUPLICATE_INVOCATION)
"""N-ACTION and N-EVENT-REPORT statuses, PS3.7 annex C."""


def pause_s(standing: Standing, destination: Destination, *, longest_pause_s: float) -> float:
    """Seconds until the destination is to be sent or asked something again; 0 when it is now.

    What it has not answered is asked again after its timeout, and then after one twice as long each time, up
    to a day. What it has refused is sent again at once, and after growing pauses when it refuses it again.
    """
    if not standing.outstanding:
        return 0.0
    if standing.answered_for_s is not None:
        pause_s = min(2.0 ** min(standing.answers, 20) - 2, longest_pause_s)
        return _left_s(pause_s, standing.answered_for_s)
    if standing.asked_for_s is not None:
        timeout_s = destination.commitment_timeout_s * 2.0 ** min(standing.unanswered - 1, 20)
        return _left_s(min(timeout_s, LONGEST_TIMEOUT_S), standing.asked_for_s)
    return 0.0


def _left_s(pause_s: float, passed_s: float) -> float:
    """What is left of a pause; nothing when it began in the future, because the clock was set back since."""
    return max(0.0, pause_s - passed_s) if passed_s >= 0 else 0.0


def require_hope(standing: Standing, destination: Destination) -> None:
    """Raise RefusedByPacs when an object was refused for a reason that sending it again cannot heal."""
    if commitment.HOPELESS.intersection(standing.failed.values()):
        raise RefusedByPacs(in_words(standing, destination.name))


def in_words(standing: Standing, name: str) -> str:
    """What a delivery waits for, for people."""
    if standing.answered_for_s is None:
        return f"{name} was asked to commit to {len(standing.outstanding)} objects and has not reported yet"
    reasons = ", ".join(sorted({commitment.in_words(reason) for reason in standing.failed.values()}))
    return f"{name} does not commit to {len(standing.outstanding)} objects: {reasons or 'it names none'}"


class Committing(Pacs):
    """A destination as it is asked for storage commitment.

    On an association of its own, which carries nothing else: its report may come on it, at any moment, and
    pynetdicom answers it from another thread, whose answer must not get between the pieces of an object.
    """

    def ask(self, request: Request) -> None:
        """Ask for storage commitment (PS3.4 J.3.2); the transaction must be on record by now.

        Raises
        ------
        PacsUnavailable
            When the destination is away or out of resources.
        FailedAtPacs
            When it fails at the request.
        RefusedByPacs
            When it does not do storage commitment, or will not take the request.
        """
        with self._lock:
            status = self._send(request)
            self._used_at = time.monotonic()
        if not pacs.is_stored(status):
            raise self._fault(status)

    def _send(self, request: Request) -> int:
        try:
            status, _ = self._established().send_n_action(
                commitment.request_information(request),
                commitment.REQUEST,
                commitment.PUSH_MODEL,
                commitment.WELL_KNOWN,
            )
        except ValueError as error:  # no presentation context was accepted for it
            raise RefusedByPacs(
                f"{self._peer} does not do storage commitment; set its final_when to c-find or success"
            ) from error
        except RuntimeError as error:  # the association ended under our hands
            self._drop()
            raise PacsUnavailable(f"{self._peer} ended the association: {error}") from error
        if not status:
            self._drop()
            raise PacsUnavailable(f"{self._peer} did not answer the request for storage commitment")
        return int(status.Status)

    def _fault(self, status: int) -> HilumError:
        if status == pacs.RESOURCE_LIMITATION:
            return PacsUnavailable(
                f"{self._peer} is out of resources for storage commitment (0x{status:04X})"
            )
        if status in _PASSING:
            return FailedAtPacs(f"{self._peer} failed at the request for storage commitment (0x{status:04X})")
        return RefusedByPacs(f"{self._peer} refused the request for storage commitment (0x{status:04X})")

    def _contexts(self) -> list[PresentationContext]:
        # Verification, which everybody takes, tells one that does not commit from one that is away
        asked = build_context(commitment.PUSH_MODEL, commitment.TRANSFER_SYNTAXES)
        return [asked, build_context(Verification)]

    def _handlers(self) -> list[EventHandlerType]:
        return [(evt.EVT_CONN_OPEN, _serve_reports), (evt.EVT_N_EVENT_REPORT, self._take)]

    def _take(self, event: Event) -> tuple[int, None]:
        """Keep a report that came on our own association (PS3.4 J.3.3), and have its delivery go on."""
        try:
            report = commitment.read_report(event.event_information)
            with transaction() as session:
                hurried = commitments.answer(session, report, destinations=[self._peer.name])
        except SQLAlchemyError:
            log.exception("cannot keep what %s reports on storage commitment", self._peer)
            return pacs.RESOURCE_LIMITATION, None
        except Exception as error:  # the border with the destination: its bytes can raise anything
            log.warning("cannot read what %s reports on storage commitment: %s", self._peer, error)
            return _INVALID_ARGUMENT, None
        if hurried is None:
            log.warning("%s reports on a transaction that it was not asked for", self._peer)
            return _INVALID_ARGUMENT, None
        for kind, subject, urgent in hurried:
            ring(kind, subject, urgent=urgent)
        return pacs.SUCCESS, None


def _serve_reports(event: Event) -> None:
    event.assoc._serve_request = partial(_serve, event.assoc)  # type: ignore[method-assign]


def _serve(assoc: Association, message: DimseServiceType, context_id: int) -> None:
    """Serve a report, in the thread that pynetdicom gives it.

    Its own way of serving ends with `_is_paused = False`, and whoever waits just then for the reactor's
    pause, to send a request, would wait for ever.
    """
    context = assoc._accepted_cx.get(context_id)
    if context is None or not isinstance(message, N_EVENT_REPORT):
        assoc.abort()
        return
    StorageCommitmentServiceClass(assoc).SCP(message, context)
