"""Deliver: send a report to a destination until it is final there, for as long as that takes."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from celery.signals import worker_process_shutdown

from db import jobs, reports
from db.jobs import Claim
from db.session import transaction
from db.tables import DeliveryState
from hilum.errors import PacsUnavailable, RefusedByPacs
from hilum.queue import DELIVER, app
from hilum.settings import Destination, settings
from hilum.store import Store
from worker.pacs import Pacs, Sent
from worker.work import Bell, work_on

CHECKS_BEFORE_RESENDING = 4
"""How often C-FIND may miss an object that was answered with Success before it is sent again."""

_kept: dict[tuple[int, Destination], Pacs] = {}


@dataclass(frozen=True)
class _Parcel:
    """What goes where, and how far it has got."""

    id: int
    study_uid: str
    destination: str
    objects: Sequence[Sent]
    was_sent: bool
    left_alone_s: float


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
    if parcel.left_alone_s:
        return _put_off(claim, parcel.left_alone_s, f"{parcel.destination} is away; left alone for a while")
    try:
        missing = _send(destination, parcel, resend=claim.attempts >= CHECKS_BEFORE_RESENDING)
    except PacsUnavailable as error:
        return _is_away(claim, parcel, error)
    except RefusedByPacs as error:
        return _refused(claim, parcel, str(error))
    if missing:
        return _not_found_yet(claim, parcel, missing)
    return _final(claim, parcel)


def _parcel(delivery_id: int) -> _Parcel:
    store = Store(settings().store)
    with transaction() as session:
        delivery = reports.delivery(session, delivery_id)
        return _Parcel(
            id=delivery.id,
            study_uid=delivery.report.study_uid,
            destination=delivery.destination,
            objects=[
                Sent(each.uid, each.sop_class_uid, store.path(each.path)) for each in delivery.report.objects
            ],
            was_sent=delivery.state == DeliveryState.SENT,
            left_alone_s=reports.open_for_s(session, delivery.destination),
        )


def _send(destination: Destination, parcel: _Parcel, *, resend: bool) -> set[str]:
    """Send what is not sent, and return the UIDs that the destination's rule does not find there yet."""
    pacs = _pacs(destination)
    if resend or not parcel.was_sent:
        pacs.store(parcel.objects)
    if destination.final_when == "success":
        return set()
    return pacs.missing(parcel.study_uid, [each.uid for each in parcel.objects])


def _final(claim: Claim, parcel: _Parcel) -> list[Bell]:
    with transaction() as session:
        reports.note_final(session, parcel.id)
        was_away = reports.close_circuit(session, parcel.destination)
        waiting = [str(each) for each in reports.waiting_at(session, parcel.destination)] if was_away else []
        jobs.finish(session, claim)
        jobs.hurry(session, DELIVER, waiting)
    return [Bell(DELIVER, each) for each in waiting]


def _not_found_yet(claim: Claim, parcel: _Parcel, missing: set[str]) -> list[Bell]:
    because = f"{parcel.destination} answered Success, but C-FIND does not show {len(missing)} of the objects"
    pause_s = min(2.0 ** min(claim.attempts, 20), settings().longest_pause_s)
    with transaction() as session:
        reports.note_sent(session, parcel.id)
        reports.note_error(session, parcel.id, because)
        jobs.put_off(session, claim, pause_s=pause_s, because=because)
    return []


def _is_away(claim: Claim, parcel: _Parcel, error: PacsUnavailable) -> list[Bell]:
    with transaction() as session:
        pause_s = reports.open_circuit(
            session, parcel.destination, error=str(error), longest_pause_s=settings().longest_pause_s
        )
        reports.note_error(session, parcel.id, str(error))
        jobs.put_off(session, claim, pause_s=pause_s, because=str(error))
    return []


def _put_off(claim: Claim, pause_s: float, because: str) -> list[Bell]:
    with transaction() as session:
        jobs.put_off(session, claim, pause_s=pause_s, because=because)
    return []


def _refused(claim: Claim, parcel: _Parcel, because: str) -> list[Bell]:
    with transaction() as session:
        reports.note_error(session, parcel.id, because, refused=True)
        jobs.give_up(session, claim, because=because)
    return []


def _pacs(destination: Destination) -> Pacs:
    """The destination as this process knows it; after a fork it is another, which has no association yet."""
    key = (os.getpid(), destination)
    if key not in _kept:
        _kept[key] = Pacs(destination, settings().listener_ae_title)
    return _kept[key]


@worker_process_shutdown.connect
def release_associations(**_: Any) -> None:
    """Release the associations that this process keeps, so that no PACS waits for their end."""
    for (pid, _destination), pacs in _kept.items():
        if pid == os.getpid():
            pacs.close()
