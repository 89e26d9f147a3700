"""Storage commitment asked of destinations: a delivery is final when its destination has committed to it."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from io import StringIO

import pytest
from pydicom.uid import SecondaryCaptureImageStorage
from rich.console import Console
from sqlalchemy import select, update

from console.record import study_report
from db import jobs, reports
from db.clock import from_now
from db.reports import Rendered
from db.session import transaction
from db.tables import Commitment, Delivery, DeliveryState, Job, JobState, ObjectKind, Study
from hilum.commitment import CLASS_CONFLICT, NO_SUCH_OBJECT, Report
from hilum.queue import DELIVER
from hilum.settings import settings
from hilum.store import REPORTS, Store
from tests.conftest import ROOT, SettingsChange
from tests.integration.captures import SERIES, capture
from tests.integration.conftest import StartListener
from tests.peers.broker import Broker
from tests.peers.helpers import free_port, wait_for
from tests.peers.listener import Listener
from tests.peers.orthanc import Orthanc
from tests.peers.pacs import AnsweringPacs, kept, refused, report_on, report_to
from tests.peers.scu import Parcel, associate
from tests.peers.studies import RECEIVED, job, receive
from worker import deliver
from worker.commitment import Committing
from worker.deliver import deliver_report, release_associations
from worker.sweep import sweep

FIRST, SECOND = f"{SERIES}.1", f"{SERIES}.2"
INVALID_ARGUMENT, NO_SUCH_EVENT = 0x0115, 0x0113

# the SQL is tried on every database elsewhere; here it is the destination that matters
pytestmark = pytest.mark.parametrize("empty_database_url", ["sqlite"], indirect=True)

ListenFor = Callable[..., Listener]


@pytest.fixture
def pacs(database_url: str, valkey: Broker, hilum_env: SettingsChange) -> Iterator[AnsweringPacs]:
    """A PACS that answers as the test wants, and whose storage commitment makes deliveries final."""
    answering = AnsweringPacs()
    hilum_env(
        broker_url=valkey.url, listener_port=free_port(), destinations=[_place("ANSWERS", answering.port)]
    )
    receive()
    yield answering
    release_associations()
    answering.stop()


@pytest.fixture
def listener(start_listener: StartListener, pacs: AnsweringPacs) -> Listener:
    """Our listener, which knows the PACS and one sender."""
    return _listener(start_listener, senders='[{"ae_title": "MODALITY"}]')


def _listener(start: StartListener, **changes: str) -> Listener:
    ours = settings()
    places = json.dumps([place.model_dump() for place in ours.destinations])
    common = {"database_url": ours.database, "broker_url": ours.broker, "listener_port": ours.listener_port}
    return start(**{**common, "destinations": places, **changes})


def _place(ae_title: str, port: int, timeout_s: float = 600) -> dict[str, object]:
    return {
        "name": "pacs",
        "ae_title": ae_title,
        "host": "127.0.0.1",
        "port": port,
        "final_when": "commitment",
        "commitment_timeout_s": timeout_s,
    }


def _deliver() -> Delivery:
    """Make a report of two objects and run its delivery once."""
    store = Store(settings().store)
    objects = [
        Rendered(
            f"{SERIES}.{number}",
            ObjectKind.SC,
            SERIES,
            SecondaryCaptureImageStorage,
            store.write(capture(number), REPORTS, f"{SERIES}.{number}"),
        )
        for number in (1, 2)
    ]
    with transaction() as session:
        report = reports.add(
            session, RECEIVED.study_uid, revision=1, content_digest="c" * 64, objects=objects
        )
        delivery = reports.send_to(session, report, "pacs")
        jobs.want(session, DELIVER, str(delivery.id), study_uid=RECEIVED.study_uid)
    return _go_on(delivery)


def _go_on(delivery: Delivery) -> Delivery:
    """Run the delivery's task, which does nothing before it is due."""
    deliver_report(str(delivery.id))
    with transaction() as session:
        return reports.delivery(session, delivery.id)


def _shown() -> str:
    """What `hilum show` says of the study."""
    console = Console(file=StringIO(), width=400)
    with transaction() as session:
        console.print(study_report(session, session.get_one(Study, RECEIVED.study_uid)))
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def _is_due(delivery: Delivery) -> bool:
    with transaction() as session:
        return jobs.too_early_by_s(session, DELIVER, str(delivery.id)) == 0


def _transactions() -> list[Commitment]:
    with transaction() as session:
        return list(session.scalars(select(Commitment).order_by(Commitment.id)))


def _age(**seconds: float) -> None:
    """Have all transactions be older by so much, and all waiting work due."""
    with transaction() as session:
        session.execute(update(Commitment).values({name: from_now(-s) for name, s in seconds.items()}))
        session.execute(update(Job).values(due_at=from_now(0)))


def test_a_report_is_final_when_orthanc_has_committed_to_it_on_a_new_association(
    database_url: str,
    valkey: Broker,
    orthanc: Orthanc,
    hilum_env: SettingsChange,
    start_listener: StartListener,
) -> None:
    hilum_env(
        broker_url=valkey.url,
        listener_port=free_port(),
        destinations=[_place(orthanc.ae_title, orthanc.port)],
    )
    receive()
    orthanc.know("HILUM", settings().listener_port)
    listener = _listener(start_listener)
    delivery = _deliver()
    assert delivery.state == DeliveryState.SENT
    assert "pacs was asked to commit to 2 objects and has not reported yet" in _shown()
    wait_for(lambda: _is_due(delivery), what=f"Orthanc's report\n{listener.log}")
    assert _go_on(delivery).state == DeliveryState.FINAL
    [asked] = _transactions()
    assert asked.committed == [FIRST, SECOND]
    release_associations()


def test_a_report_may_come_on_our_association_before_our_request_is_answered(
    pacs: AnsweringPacs, valkey: Broker
) -> None:
    pacs.committing.reports_at_once = True
    delivery = _deliver()
    assert delivery.state == DeliveryState.SENT
    assert _is_due(delivery)
    assert len(valkey.messages("deliver")) == 1
    assert _go_on(delivery).state == DeliveryState.FINAL


def test_a_report_may_come_on_our_association_later(pacs: AnsweringPacs, valkey: Broker) -> None:
    delivery = _deliver()
    assert not _is_due(delivery)
    [request], [assoc] = pacs.committing.requests, pacs.committing.associations
    assert report_on(assoc, kept(request)) == 0x0000
    assert len(valkey.messages("deliver")) == 1
    assert _go_on(delivery).state == DeliveryState.FINAL


def test_a_report_that_comes_just_before_a_request_does_not_hold_it_up(pacs: AnsweringPacs) -> None:
    _deliver()
    [assoc] = [
        each._assoc
        for (_, place, kind), each in deliver._kept.items()
        if kind is Committing and place.port == pacs.port
    ]
    assert assoc is not None
    assoc._reactor_checkpoint.clear()  # as it begins to send a request
    wait_for(lambda: assoc._is_paused)
    before = threading.enumerate()
    assert report_on(pacs.committing.associations[0], kept(pacs.committing.requests[0])) == 0x0000
    for thread in set(threading.enumerate()) - set(before):
        thread.join(5)
    is_paused = assoc._is_paused
    assoc._reactor_checkpoint.set()
    assert is_paused


def test_a_lost_report_is_asked_for_again_and_an_old_one_still_counts(pacs: AnsweringPacs) -> None:
    delivery = _deliver()
    _age(kept_at=500, asked_at=500)
    _go_on(delivery)
    assert len(pacs.committing.requests) == 1, "its time was not up"
    _age(kept_at=700, asked_at=700)
    _go_on(delivery)
    first, second = pacs.committing.requests
    assert first.objects == second.objects and first.transaction_uid != second.transaction_uid
    assert len(pacs.sent) == 2, "nothing is sent again"
    assert report_on(pacs.committing.associations[-1], kept(first)) == 0x0000
    assert _go_on(delivery).state == DeliveryState.FINAL


def test_only_what_was_refused_is_sent_and_asked_for_again(pacs: AnsweringPacs) -> None:
    delivery = _deliver()
    [request], [assoc] = pacs.committing.requests, pacs.committing.associations
    assert report_on(assoc, refused(request, SECOND, reason=NO_SUCH_OBJECT)) == 0x0000
    assert _go_on(delivery).state == DeliveryState.SENT
    assert pacs.sent == [FIRST, SECOND, SECOND]
    assert list(pacs.committing.requests[1].objects) == [SECOND]
    report_on(pacs.committing.associations[1], kept(pacs.committing.requests[1]))
    assert _go_on(delivery).state == DeliveryState.FINAL


def test_an_object_that_is_in_neither_list_is_asked_for_again(pacs: AnsweringPacs) -> None:
    delivery = _deliver()
    [request] = pacs.committing.requests
    part = Report(request.transaction_uid, {FIRST: request.objects[FIRST]})
    assert report_on(pacs.committing.associations[0], part) == 0x0000
    assert _go_on(delivery).state == DeliveryState.SENT
    assert list(pacs.committing.requests[1].objects) == [SECOND]


def test_a_reason_that_cannot_heal_is_shown_to_people_who_may_replay(pacs: AnsweringPacs) -> None:
    delivery = _deliver()
    report_on(
        pacs.committing.associations[0],
        refused(pacs.committing.requests[0], SECOND, reason=CLASS_CONFLICT),
    )
    delivery = _go_on(delivery)
    assert delivery.state == DeliveryState.REFUSED
    assert str(delivery.error) == "pacs does not commit to 1 objects: 0x0119 class / instance conflict"
    assert job(DELIVER, str(delivery.id)).state == JobState.FAILED
    assert len(pacs.sent) == 2
    with transaction() as session:
        jobs.replay(session, RECEIVED.study_uid)
    assert _go_on(delivery).state == DeliveryState.SENT
    report_on(pacs.committing.associations[1], kept(pacs.committing.requests[1]))
    assert _go_on(delivery).state == DeliveryState.FINAL


@pytest.mark.parametrize(
    ("status", "state", "words"),
    [
        (0x0110, DeliveryState.SENT, "failed at the request for storage commitment"),
        (0x0213, DeliveryState.SENT, "out of resources for storage commitment"),
        (0x0124, DeliveryState.REFUSED, "refused the request for storage commitment (0x0124)"),
    ],
)
def test_a_request_that_fails_is_made_anew_or_shown(
    pacs: AnsweringPacs, status: int, state: DeliveryState, words: str
) -> None:
    pacs.committing.statuses = [status]
    delivery = _deliver()
    assert delivery.state == state
    assert words in str(delivery.error)


def test_a_transaction_is_on_record_before_it_is_asked_for_and_a_new_one_follows_a_crash(
    pacs: AnsweringPacs,
) -> None:
    script = (
        "import os, worker.deliver\n"
        "worker.deliver.Committing.ask = lambda *_: os.kill(os.getpid(), 9)\n"
        "worker.deliver.deliver_report('1')\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("db.work._do", lambda *_: ())  # leaves the work to the process that dies at it
        delivery = _deliver()
    with transaction() as session:
        session.execute(update(Job).values(lease_token=None, lease_until=None))
    died = subprocess.run([sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert died.returncode == -signal.SIGKILL
    [lost] = _transactions()
    assert lost.asked_at is None and pacs.committing.requests == []
    with transaction() as session:
        session.execute(update(Job).where(Job.kind == DELIVER).values(lease_until=from_now(-1)))
    sweep()
    assert _go_on(delivery).state == DeliveryState.SENT
    [request] = pacs.committing.requests
    assert request.transaction_uid != lost.transaction_uid
    assert pacs.sent == [FIRST, SECOND], "what is known to be sent is not sent again"
    report_on(pacs.committing.associations[0], Report(lost.transaction_uid, request.objects))
    assert _go_on(delivery).state == DeliveryState.FINAL


def test_a_destination_that_does_not_commit_is_shown_with_what_to_do(
    database_url: str, valkey: Broker, hilum_env: SettingsChange, pacs: AnsweringPacs
) -> None:
    pacs.stop()
    pacs.start(commits=False)
    delivery = _deliver()
    assert delivery.state == DeliveryState.REFUSED
    assert "set its final_when to c-find or success" in str(delivery.error)


def test_a_destination_that_is_away_after_its_report_need_not_be_called(pacs: AnsweringPacs) -> None:
    delivery = _deliver()
    report_on(pacs.committing.associations[0], kept(pacs.committing.requests[0]))
    with transaction() as session:
        reports.open_circuit(session, "pacs", error="", longest_pause_s=300)
    assert _go_on(delivery).state == DeliveryState.FINAL


def test_a_foreign_or_repeated_report_changes_nothing(pacs: AnsweringPacs, listener: Listener) -> None:
    delivery = _deliver()
    [request] = pacs.committing.requests
    port = listener.port
    assert report_to(port, Report("1.2.3.4", request.objects)) == INVALID_ARGUMENT
    assert report_to(port, kept(request), calling="MODALITY") == INVALID_ARGUMENT
    assert report_to(port, kept(request), event_type=3) == NO_SUCH_EVENT
    assert [each.answered_at for each in _transactions()] == [None]
    assert not _is_due(delivery)
    assert report_to(port, kept(request)) == 0x0000
    assert report_to(port, refused(request, FIRST, reason=NO_SUCH_OBJECT)) == 0x0000
    assert _go_on(delivery).state == DeliveryState.FINAL


def test_a_destination_that_is_no_sender_may_report_and_nothing_else(listener: Listener) -> None:
    parcels = [Parcel(SecondaryCaptureImageStorage, FIRST, b""), Parcel("1.2.840.10008.1.20.1", "", b"")]
    assoc = associate(listener.port, parcels, calling="ANSWERS")
    assert [cx.abstract_syntax for cx in assoc.accepted_contexts] == ["1.2.840.10008.1.20.1"]
    assoc.release()
    assert not associate(listener.port, parcels, calling="SOMEBODY").is_established
