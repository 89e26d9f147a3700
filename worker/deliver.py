"""Deliver: send a report to a destination until it is final there, for as long as that takes."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from celery.signals import worker_process_shutdown
from sqlalchemy.orm import Session

from db import commitments, drift, jobs, reports
from db.commitments import Standing
from db.jobs import Claim
from db.session import transaction
from db.tables import DeliveryState
from db.work import Bell, work_on
from hilum.commitment import Request
from hilum.errors import FailedAtPacs, NotUnderstoodByPacs, PacsUnavailable, RefusedByPacs
from hilum.pacs import Peer
from hilum.queue import DELIVER, app
from hilum.settings import Destination, settings
from hilum.store import Store
from worker import commitment
from worker.commitment import Committing
from worker.pacs import Pacs, Sent

log = logging.getLogger(__name__)

TRIES_BETWEEN_SENDINGS = 4
"""What was answered with Success, but C-FIND does not show, is sent again at each fourth try."""
MOST_TRIES = 10
"""How often a destination may say that it cannot understand us: about a quarter of an hour, by the pauses."""
HELD_BACK_S = 1800
"""Seconds between two looks at what is held back; who ends the hold lets it go at once."""

_kept: dict[tuple[int, Destination, type[Pacs]], Pacs] = {}
_P = TypeVar("_P", bound=Pacs)


@dataclass(frozen=True)
class _Parcel:
    """What goes where, and how far it has got."""

    id: int
    study_uid: str
    destination: str
    objects: Sequence[Sent]
    was_sent: bool
    tries: int
    left_alone_s: float
    standing: Standing | None
    """How far the destination has committed itself, where that is its rule."""
    held_because: str | None
    """Why it must not be sent before a person allows it."""

    @property
    def is_committed(self) -> bool:
        return self.was_sent and self.standing is not None and not self.standing.outstanding

    @property
    def to_send(self) -> Sequence[Sent]:
        if not self.was_sent:
            return self.objects
        if self.standing is not None:
            refused = () if self.standing.answered_for_s is None else self.standing.outstanding
            return [each for each in self.objects if each.uid in refused]
        return self.objects if self.tries > 0 and self.tries % TRIES_BETWEEN_SENDINGS == 0 else ()


@app.task(name=DELIVER)
def deliver_report(delivery_id: str) -> None:
    """Send one report to one destination, and end when the destination's rule calls it final.

    A destination that is away is left alone for growing pauses and tried again for ever.
    """
    work_on(DELIVER, delivery_id, _deliver)


def _deliver(claim: Claim) -> Sequence[Bell]:
    parcel = _parcel(int(claim.subject))
    destination = settings().destination(parcel.destination)
    if destination is None:
        because = f"there is no destination {parcel.destination!r} in the settings; put it back, then replay"
        return _refused(claim, parcel, because)
    if parcel.is_committed:
        return _final(claim, parcel)
    if parcel.held_because and not parcel.was_sent:
        return _held_back(claim, parcel, parcel.held_because)
    if parcel.left_alone_s:
        return _left_alone(claim, parcel)
    if parcel.was_sent and parcel.standing and _pause_s(parcel.standing, destination):
        return _awaited(claim, parcel, destination)
    bells: list[Bell] = []
    try:
        if parcel.was_sent and parcel.standing:
            commitment.require_hope(parcel.standing, destination)
        if parcel.to_send:
            _pacs(destination, Pacs).store(parcel.to_send)
            bells += _sent(parcel)
        bells += _settled(claim, parcel, destination)
    except PacsUnavailable as error:
        bells += _is_away(claim, parcel, error)
    except FailedAtPacs as error:
        bells += _failed_there(claim, parcel, error)
    except RefusedByPacs as error:
        bells += _refused(claim, parcel, str(error))
    return bells


def _parcel(delivery_id: int) -> _Parcel:
    store = Store(settings().store)
    with transaction() as session:
        delivery = reports.delivery(session, delivery_id)
        return _Parcel(
            id=delivery.id,
            study_uid=delivery.report.study_uid,
            destination=delivery.destination,
            objects=[
                Sent(each.uid, each.series_uid, each.sop_class_uid, store.path(each.path))
                for each in delivery.report.objects
            ],
            was_sent=delivery.state == DeliveryState.SENT,
            tries=delivery.tries,
            left_alone_s=reports.open_for_s(session, delivery.destination),
            standing=commitments.standing(session, delivery) if _commits(delivery.destination) else None,
            held_because=drift.held_because(session, delivery.report.study_uid),
        )


def _commits(name: str) -> bool:
    destination = settings().destination(name)
    return destination is not None and destination.final_when == "commitment"


def _settled(claim: Claim, parcel: _Parcel, destination: Destination) -> list[Bell]:
    """What the destination's rule makes of a report that was sent."""
    if parcel.standing is not None:
        if not parcel.standing.outstanding:
            return _final(claim, parcel)
        return _asked(parcel, parcel.standing, destination) + _awaited(claim, parcel, destination)
    missing = _missing(destination, parcel)
    return _not_found_yet(claim, parcel, missing) if missing else _final(claim, parcel)


def _asked(parcel: _Parcel, standing: Standing, destination: Destination) -> list[Bell]:
    """Ask for storage commitment to what lacks it, in a new transaction that is on record before."""
    classes = {each.uid: each.sop_class_uid for each in parcel.objects if each.uid in standing.outstanding}
    with transaction() as session:
        transaction_uid = commitments.keep(session, parcel.id)
    _pacs(destination, Committing).ask(Request(transaction_uid, classes))
    with transaction() as session:
        commitments.note_asked(session, transaction_uid)
        return _it_answers(session, parcel)


def _awaited(claim: Claim, parcel: _Parcel, destination: Destination) -> list[Bell]:
    """Wait for the destination's report; not at all when it has come while the destination was asked."""
    with transaction() as session:
        jobs.lock_study(session, parcel.study_uid)
        standing = commitments.standing(session, reports.delivery(session, parcel.id))
        pause_s = _pause_s(standing, destination)
        because = commitment.in_words(standing, destination.name)
        jobs.put_off(session, claim, pause_s=pause_s, because=because)
    return [] if pause_s else [Bell(DELIVER, claim.subject, claim.urgent)]


def _pause_s(standing: Standing, destination: Destination) -> float:
    return commitment.pause_s(standing, destination, longest_pause_s=settings().longest_pause_s)


def _missing(destination: Destination, parcel: _Parcel) -> set[str]:
    """The UIDs that the destination's rule does not find there yet."""
    return (
        set()
        if destination.final_when == "success"
        else _pacs(destination, Pacs).missing(parcel.study_uid, parcel.objects)
    )


def _sent(parcel: _Parcel) -> list[Bell]:
    """Keep at once that it was sent, so that it is not sent again should anything fail after this."""
    with transaction() as session:
        reports.note_sent(session, parcel.id)
        return _it_answers(session, parcel)


def _final(claim: Claim, parcel: _Parcel) -> list[Bell]:
    with transaction() as session:
        reports.note_final(session, parcel.id)
        bells = _it_answers(session, parcel)
        if jobs.finish(session, claim):
            bells.append(Bell(DELIVER, claim.subject, claim.urgent))
    log.info("the report of study %s is final at %s", parcel.study_uid, parcel.destination)
    return bells


def _not_found_yet(claim: Claim, parcel: _Parcel, missing: set[str]) -> list[Bell]:
    because = f"{parcel.destination} answered Success, but C-FIND does not show {len(missing)} of the objects"
    return _tried_again(claim, parcel, because)


def _failed_there(claim: Claim, parcel: _Parcel, error: FailedAtPacs) -> list[Bell]:
    if isinstance(error, NotUnderstoodByPacs) and parcel.tries + 1 >= MOST_TRIES:
        return _refused(claim, parcel, str(error))
    return _tried_again(claim, parcel, str(error))


def _tried_again(claim: Claim, parcel: _Parcel, because: str) -> list[Bell]:
    """Try again after a pause that grows with the tries at this report, not with the outages before them."""
    pause_s = min(2.0 ** min(parcel.tries, 20), settings().longest_pause_s)
    with transaction() as session:
        reports.note_try(session, parcel.id, because)
        bells = _it_answers(session, parcel)
        jobs.put_off(session, claim, pause_s=pause_s, because=because)
    return bells


def _is_away(claim: Claim, parcel: _Parcel, error: PacsUnavailable) -> list[Bell]:
    with transaction() as session:
        pause_s = reports.open_circuit(
            session, parcel.destination, error=str(error), longest_pause_s=settings().longest_pause_s
        )
        reports.note_error(session, parcel.id, str(error))
        jobs.put_off(session, claim, pause_s=pause_s, because=str(error))
    log.warning("%s is away, tried again in %.0f s: %s", parcel.destination, pause_s, error)
    return []


def _left_alone(claim: Claim, parcel: _Parcel) -> list[Bell]:
    because = f"{parcel.destination} is away; left alone for a while"
    with transaction() as session:
        jobs.put_off(session, claim, pause_s=parcel.left_alone_s, because=because)
    return []


def _held_back(claim: Claim, parcel: _Parcel, because: str) -> list[Bell]:
    with transaction() as session:
        reports.note_error(session, parcel.id, because)
        jobs.put_off(session, claim, pause_s=HELD_BACK_S, because=because)
    return []


def _refused(claim: Claim, parcel: _Parcel, because: str) -> list[Bell]:
    with transaction() as session:
        reports.note_error(session, parcel.id, because, refused=True)
        bells = _it_answers(session, parcel)
        jobs.give_up(session, claim, because=because)
    return bells


def _it_answers(session: Session, parcel: _Parcel) -> list[Bell]:
    """When the destination was away until now, let all that waits for it go on at once."""
    if not reports.close_circuit(session, parcel.destination):
        return []
    log.warning("%s answers again", parcel.destination)
    hurried = jobs.hurry(session, DELIVER, reports.waiting_at(parcel.destination))
    return [Bell(kind, subject, urgent) for kind, subject, urgent in hurried]


def _pacs(destination: Destination, kind: type[_P]) -> _P:
    """The destination as this process knows it; after a fork it is another, which has no association yet."""
    key = (os.getpid(), destination, kind)
    if key not in _kept:
        _kept[key] = kind(Peer.of(destination, settings()))
    return cast(_P, _kept[key])


@worker_process_shutdown.connect
def release_associations(**_: Any) -> None:
    """Release the associations that this process keeps, so that no PACS waits for their end."""
    for (pid, _destination, _kind), pacs in _kept.items():
        if pid == os.getpid():
            pacs.close()
