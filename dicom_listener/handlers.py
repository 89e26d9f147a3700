"""What a caller asks for, checked and answered: an association, a C-ECHO, a C-STORE."""

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import cast

from pydicom import Dataset
from pynetdicom import AllStoragePresentationContexts
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.events import Event
from pynetdicom.pdu_primitives import A_ASSOCIATE
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from db import studies
from db.session import transaction
from db.studies import Received, Record, Recorded
from dicom_listener import rules, status
from dicom_listener.bells import Bells
from dicom_listener.commitment import only_reports, report_contexts
from dicom_listener.contents import Contents, read_contents
from dicom_listener.header import received, required_uid
from dicom_listener.rules import Pace
from dicom_listener.spool import Spool
from dicom_listener.status import Refused
from dicom_listener.upper_layer import caller, let_go, wire
from hilum.errors import StoreFull
from hilum.queue import VERDICT
from hilum.settings import Settings, settings
from hilum.store import INSTANCES, Store

log = logging.getLogger(__name__)

Rejection = tuple[int, int, int]
"""Result, source and reason of an A-ASSOCIATE-RJ, PS3.8 9.3.4."""
UNKNOWN_CALLER: Rejection = (1, 1, 3)
NOT_OUR_NAME: Rejection = (1, 1, 7)
TOO_MANY: Rejection = (2, 3, 2)
NO_ROOM: Rejection = (2, 3, 2)
_STORAGE = {each.abstract_syntax for each in AllStoragePresentationContexts}


def handle_request(event: Event, admit: Callable[[Association], bool]) -> None:
    """Reject an association that the settings do not allow; otherwise let it be negotiated."""
    assoc = event.assoc
    wire(assoc).is_waiting = False
    wire(assoc).begin_anew()
    wire(assoc).longest_pdu = settings().max_pdu_bytes
    try:
        rejection = _rejection(assoc, settings(), admit)
    except Exception:  # the border with whoever called: what cannot be checked is not let in
        log.exception("the association request of %s cannot be checked", assoc.requestor.address)
        rejection = (UNKNOWN_CALLER, "it cannot be checked")
    if rejection:
        log.warning("rejected %s: %s", _requestor(assoc), rejection[1])
        assoc.acse.send_reject(*rejection[0])
        assoc.kill()  # waits until the rejection has gone out
    elif only_reports(_calling(assoc), settings()):
        assoc.acceptor.supported_contexts = report_contexts()
    elif sender := settings().sender(_calling(assoc)):
        assoc.acceptor.supported_contexts = rules.allowed(assoc.acceptor.supported_contexts, sender)


def handle_echo(event: Event) -> int:
    """Answer a C-ECHO."""
    log.debug("C-ECHO from %s", caller(event.assoc))
    return status.SUCCESS


def handle_store(event: Event, store: Store, bells: Bells) -> int | Dataset:
    """Keep one object, then answer with a C-STORE status (PS3.4 B.2.3), a failure's with the reason.

    SUCCESS means: the file is on disk and its row is committed, so the sender may delete its copy.
    If the broker is away, the sweep finds the row later.
    """
    uid = cast(C_STORE, event.request).AffectedSOPInstanceUID
    try:
        return _keep(event, store, bells)
    except Refused as refusal:
        log.warning("refused %r of %s with 0x%04X: %s", uid, caller(event.assoc), refusal.status, refusal)
        return status.refusal(refusal.status, str(refusal))
    except (StoreFull, OSError, SQLAlchemyError, MemoryError) as error:
        log.error("cannot keep %r of %s: %s", uid, caller(event.assoc), _without_values(error))
        return status.refusal(status.OUT_OF_RESOURCES, f"{_what_fails(error)}: try again later")
    except Exception as error:  # the border with whoever sent it: their bytes can raise anything
        log.warning("refused %r of %s: %s", uid, caller(event.assoc), type(error).__name__)
        log.debug("the refused object of %s", caller(event.assoc), exc_info=True)
        return status.refusal(status.CANNOT_UNDERSTAND, "the data set cannot be read")


def handle_paced_store(event: Event, store: Store, bells: Bells, pace: Pace) -> int | Dataset:
    """Likewise, after the delay by which the sender's rule slows it down; 0xA700 when none would do."""
    sender = settings().sender(event.assoc.requestor.ae_title)
    delay_s = pace.delay_s(sender) if sender else 0.0
    if delay_s is None:
        log.warning("refused an object of %s: it is faster than its objects_per_minute", caller(event.assoc))
        return status.refusal(status.OUT_OF_RESOURCES, "you send too many a minute: try again later")
    time.sleep(delay_s)
    return handle_store(event, store, bells)


def handle_end(event: Event) -> None:
    """Log that an association is over."""
    how = event.event.name.removeprefix("EVT_").lower()
    log.info("association of %s %s", caller(event.assoc), how)


def handle_close(event: Event) -> None:
    """Remove what a sender left half sent, and wait no longer for one who never asked for anything."""
    let_go(event.assoc)


def _keep(event: Event, store: Store, bells: Bells) -> int | Dataset:
    limits = settings()
    spool = event.request._dataset_file
    if not isinstance(spool, Spool):
        raise Refused(status.CANNOT_UNDERSTAND, "the request has no data set")
    spool.require_whole()
    syntax = event.context.transfer_syntax
    contents = read_contents(spool.path, spool.starts_at, syntax, most_mb=limits.max_object_mb)
    _require_agreement(event, contents)
    described = received(
        contents,
        transfer_syntax_uid=syntax,
        sender_ae=_sender_ae(event.assoc),
        sender_is_urgent=_is_urgent(event.assoc, limits),
        size_bytes=spool.path.stat().st_size,
    )
    path = store.place(spool.path, INSTANCES, described.uid, syntax, contents.digest)
    instance = replace(described, path=path)
    # A file stays when its row's fate is unknown: the row may be there, and a second try writes it again.
    with transaction() as session:
        record = studies.record(session, instance, settle_s=limits.settle_s, holds=store.holds)
        store.require(record.path)  # it may have been removed because of its age before the row was locked
    if record.ring:
        bells.ring(instance.study_uid, urgent=record.urgent, settle_s=limits.settle_s)
    if record.may_speak:
        bells.ring_now(VERDICT, instance.uid)
    return _answer(event, store, instance, record)


def _answer(event: Event, store: Store, instance: Received, record: Record) -> int | Dataset:
    if record.path != instance.path:
        store.path(instance.path).unlink(missing_ok=True)
    if record.kind is Recorded.VARIANT:
        because = "the UID is taken by an object of other pixels or study"
        log.warning("%s of %s is kept aside: %s", instance.uid, caller(event.assoc), because)
        if settings().other_pixels == "refuse":
            return status.refusal(status.OTHER_PIXELS, because)
        return status.SUCCESS
    log.info(
        "%s of study %s from %s: %s, %d bytes",
        instance.uid,
        instance.study_uid,
        caller(event.assoc),
        record.kind,
        instance.size_bytes,
    )
    return status.SUCCESS


def _require_agreement(event: Event, contents: Contents) -> None:
    """Refuse a data set that is another object than its request says, or of a class not agreed upon."""
    header = contents.header
    if required_uid(header, "SOPInstanceUID") != cast(C_STORE, event.request).AffectedSOPInstanceUID:
        raise Refused(status.CANNOT_UNDERSTAND, "the data set has another SOP Instance UID than the request")
    if required_uid(header, "SOPClassUID") != event.context.abstract_syntax:
        raise Refused(status.NOT_ITS_CLASS, "the data set has another SOP Class UID than the request")


def _rejection(
    assoc: Association, limits: Settings, admit: Callable[[Association], bool]
) -> tuple[Rejection, str] | None:
    request = cast(A_ASSOCIATE, assoc.requestor.primitive)
    called, calling = request.called_ae_title.strip(), request.calling_ae_title.strip()
    name = _name_to_call(calling, limits)
    if name and called != name:
        return NOT_OUR_NAME, f"it calls {called!r}, and is to call {name!r}"
    if because := _objection(assoc, calling, limits):
        return UNKNOWN_CALLER, because
    if because := _why_no_room(request, limits):
        return NO_ROOM, because
    if not admit(assoc):
        return TOO_MANY, f"max_associations = {limits.max_associations} are open"
    return None


def _why_no_room(request: A_ASSOCIATE, limits: Settings) -> str | None:
    """Why a caller that would send objects is not let in, before the disk is full; None when there is room.

    Who asks something or brings a report needs no room.
    """
    if not any(each.abstract_syntax in _STORAGE for each in request.presentation_context_definition_list):
        return None
    try:
        Store(limits.store).require_free(limits.least_free_mb)
    except (StoreFull, OSError) as error:
        return str(error)
    return None


def _name_to_call(calling: str, limits: Settings) -> str:
    """The AE title by which a caller must call us; empty: any."""
    sender = limits.sender(calling)
    if sender is not None and sender.called_ae_title:
        return sender.called_ae_title
    return "" if limits.any_called_ae_title else limits.listener_ae_title


def _objection(assoc: Association, calling: str, limits: Settings) -> str | None:
    certificate = wire(assoc).certificate_sha256
    if only_reports(calling, limits):
        asked = limits.committing(calling)
        places = [place for place in limits.destinations if place.name in asked]
        return rules.objection_to_reports(places, certificate)
    if not limits.senders:
        return None
    return rules.objection(limits.sender(calling), str(assoc.requestor.address), certificate)


def _is_urgent(assoc: Association, limits: Settings) -> bool:
    sender = limits.sender(_sender_ae(assoc))
    return sender is not None and sender.urgent


def _sender_ae(assoc: Association) -> str:
    """Who sends: the caller, or the sender that we called ourselves for a C-GET."""
    if not assoc.is_requestor:
        return assoc.requestor.ae_title.strip()
    called = assoc.acceptor.ae_title.strip()
    return next((sender.ae_title for sender in settings().senders if sender.answers_to == called), called)


def _requestor(assoc: Association) -> str:
    return f"{cast(A_ASSOCIATE, assoc.requestor.primitive).calling_ae_title!r} at {assoc.requestor.address}"


def _calling(assoc: Association) -> str:
    return cast(A_ASSOCIATE, assoc.requestor.primitive).calling_ae_title.strip()


def _what_fails(error: Exception) -> str:
    """In words for a stranger, who learns nothing of our machine."""
    if isinstance(error, SQLAlchemyError):
        return "the database does not answer"
    return "there is no memory left" if isinstance(error, MemoryError) else "the store cannot take it"


def _without_values(error: Exception) -> str:
    """The error in words that name no patient: a statement's parameters are left out."""
    if isinstance(error, DBAPIError):
        return f"the database: {error.orig}"
    if isinstance(error, SQLAlchemyError):
        return f"the database: {type(error).__name__}"
    return str(error) or type(error).__name__
