"""Delivery: final when the destination's rule says so, tried for as long as the destination is away."""

import time
from collections.abc import Callable, Iterator

import pytest
from pydicom.uid import SecondaryCaptureImageStorage
from sqlalchemy import update

from db import jobs, reports
from db.clock import now
from db.session import transaction
from db.tables import Circuit, Delivery, DeliveryState, JobState
from hilum.queue import DELIVER
from tests.conftest import SettingsChange
from tests.faults.silence import Way
from tests.integration.captures import SERIES, capture
from tests.peers.broker import Broker
from tests.peers.orthanc import Orthanc
from tests.peers.pacs import AnsweringPacs
from tests.peers.studies import RECEIVED, deliverable, job, receive
from worker.deliver import deliver_report, release_associations

Send = Callable[[int], Delivery]

# the SQL is tried on every database elsewhere; here it is the PACS that matters
pytestmark = pytest.mark.parametrize("empty_database_url", ["sqlite"], indirect=True)


@pytest.fixture(params=["success", "c-find"])
def deliver(
    request: pytest.FixtureRequest,
    database_url: str,
    valkey: Broker,
    orthanc: Orthanc,
    hilum_env: SettingsChange,
) -> Iterator[Send]:
    """Make the delivery of a new revision and run its task once; the delivery comes back as it is then."""
    hilum_env(broker_url=valkey.url, destinations=[_place("ORTHANC", orthanc.port, request.param)])
    receive()
    yield _send
    release_associations()


@pytest.fixture
def pacs(database_url: str, valkey: Broker, hilum_env: SettingsChange) -> Iterator[AnsweringPacs]:
    """A PACS that answers as the test wants, as the only destination, final when it is found there."""
    answering = AnsweringPacs()
    hilum_env(broker_url=valkey.url, destinations=[_place("ANSWERS", answering.port, "c-find")])
    receive()
    yield answering
    release_associations()
    answering.stop()


def _place(ae_title: str, port: int, final_when: str) -> dict[str, object]:
    return {
        "name": "pacs",
        "ae_title": ae_title,
        "host": "127.0.0.1",
        "port": port,
        "final_when": final_when,
    }


def _send(number: int) -> Delivery:
    made = deliverable(
        capture(number),
        uid=f"1.2.826.0.1.3680043.10.9.{number}",
        sop_class_uid=SecondaryCaptureImageStorage,
        series_uid=SERIES,
        destination="pacs",
        kind=DELIVER,
    )
    deliver_report(str(made.id))
    return _delivery(made.id)


def _try_again(delivery: Delivery) -> Delivery:
    _let_pauses_end()
    with transaction() as session:
        jobs.hurry(session, DELIVER, [str(delivery.id)])
    deliver_report(str(delivery.id))
    return _delivery(delivery.id)


def _pause_s(delivery: Delivery) -> float:
    with transaction() as session:
        return jobs.too_early_by_s(session, DELIVER, str(delivery.id)) or 0.0


def _delivery(delivery_id: int) -> Delivery:
    with transaction() as session:
        return reports.delivery(session, delivery_id)


def _let_pauses_end() -> None:
    with transaction() as session:
        session.execute(update(Circuit).values(open_until=now()))


def test_a_report_is_final_when_the_pacs_has_it(deliver: Send, orthanc: Orthanc) -> None:
    assert deliver(1).state == DeliveryState.FINAL
    [found] = orthanc.instances(RECEIVED.study_uid)
    assert found["SOPInstanceUID"] == "1.2.826.0.1.3680043.10.9.1"


def test_an_object_arrives_byte_for_byte(deliver: Send, orthanc: Orthanc) -> None:
    deliver(1)
    [ds] = orthanc.datasets(RECEIVED.study_uid)
    assert ds.PixelData == bytes(64)
    assert ds.PatientID == "4711"


def test_a_pacs_that_is_away_gets_everything_once_it_is_back(deliver: Send, orthanc: Orthanc) -> None:
    orthanc.stop()
    first, second = deliver(1), deliver(2)
    assert [first.state, second.state] == [DeliveryState.WAITING, DeliveryState.WAITING]
    assert "does not answer" in str(first.error)
    assert job(DELIVER, str(second.id)).state == JobState.WAITING
    orthanc.start()
    _let_pauses_end()
    with transaction() as session:
        jobs.hurry(session, DELIVER, [str(first.id)])
    deliver_report(str(first.id))
    # the first success ends the pause of the others too
    deliver_report(str(second.id))
    assert [_delivery(each.id).state for each in (first, second)] == [DeliveryState.FINAL] * 2
    assert orthanc.count() == 2


def test_a_pacs_that_is_away_is_left_alone_for_growing_pauses(deliver: Send, orthanc: Orthanc) -> None:
    orthanc.stop()
    pauses_s = []
    for number in range(3):
        _let_pauses_end()
        deliver(number)
        with transaction() as session:
            pauses_s.append(round(reports.open_for_s(session, "pacs")))
    assert pauses_s == [5, 10, 20]
    with transaction() as session:
        assert reports.open_circuit(session, "pacs", error="", longest_pause_s=30) == 30


def test_one_association_is_kept_for_many_results(deliver: Send, orthanc: Orthanc) -> None:
    for number in range(3):
        assert deliver(number).state == DeliveryState.FINAL
    log = (orthanc._folder / "orthanc.log").read_text()
    assert log.count("Association Received from AET HILUM") <= 1


def test_a_pacs_that_fell_silent_is_away_long_before_its_answer_is_due(
    pacs: AnsweringPacs, hilum_env: SettingsChange, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.pacs.SILENCE_S", 5)
    way = Way(pacs.port)
    hilum_env(destinations=[_place("ANSWERS", way.port, "success")])
    assert _send(1).state == DeliveryState.FINAL
    with way.silent():
        began_at = time.monotonic()
        delivery = _send(2)
        assert time.monotonic() - began_at < 20
    assert delivery.state != DeliveryState.FINAL
    assert delivery.error and ("ended the association" in delivery.error or "not answer" in delivery.error)
    assert _try_again(delivery).state == DeliveryState.FINAL
    release_associations()
    way.stop()


def test_a_destination_that_is_gone_from_the_settings_is_shown_as_refused(
    deliver: Send, hilum_env: SettingsChange
) -> None:
    hilum_env(destinations=[])
    delivery = deliver(1)
    assert delivery.state == DeliveryState.REFUSED
    assert "no destination 'pacs' in the settings" in str(delivery.error)
    assert job(DELIVER, str(delivery.id)).state == JobState.FAILED


def test_a_long_outage_leaves_no_long_pause_behind(pacs: AnsweringPacs) -> None:
    pacs.statuses = [0xA700] * 12
    delivery = _send(1)
    for _ in range(11):
        delivery = _try_again(delivery)
    pacs.hides = True
    delivery = _try_again(delivery)
    assert delivery.state == DeliveryState.SENT
    assert 0 < _pause_s(delivery) <= 1


def test_one_unexpected_error_after_an_outage_is_not_the_end(
    pacs: AnsweringPacs, monkeypatch: pytest.MonkeyPatch
) -> None:
    pacs.statuses = [0xA700] * 6
    delivery = _send(1)
    for _ in range(5):
        _try_again(delivery)
    monkeypatch.setattr("worker.pacs.Pacs.store", lambda *_: 1 / 0)
    _try_again(delivery)
    assert job(DELIVER, str(delivery.id)).state == JobState.WAITING


def test_a_pacs_that_takes_an_object_is_no_longer_away_whatever_it_finds(pacs: AnsweringPacs) -> None:
    pacs.statuses = [0xA700]
    first, second = _send(1), _send(2)
    pacs.hides = True
    _try_again(first)
    with transaction() as session:
        assert reports.open_for_s(session, "pacs") == 0
    assert _pause_s(second) == 0, "it goes on at once"


def test_an_object_is_sent_once_even_if_the_pacs_cannot_search(pacs: AnsweringPacs) -> None:
    pacs.find_status = 0xA700
    delivery = _send(1)
    assert delivery.state == DeliveryState.SENT
    pacs.find_status = 0x0000
    assert _try_again(delivery).state == DeliveryState.FINAL
    assert len(pacs.sent) == 1


def test_an_object_that_is_not_found_is_sent_again_now_and_then(pacs: AnsweringPacs) -> None:
    pacs.hides = True
    delivery = _send(1)
    pauses_s = []
    for _ in range(5):
        pauses_s.append(_pause_s(delivery))
        delivery = _try_again(delivery)
    assert len(pacs.sent) == 2
    assert pauses_s == sorted(pauses_s)
    pacs.hides = False
    assert _try_again(delivery).state == DeliveryState.FINAL


def test_an_object_that_is_there_already_is_stored(pacs: AnsweringPacs) -> None:
    pacs.statuses = [0x0111]
    pacs.stored = [(RECEIVED.study_uid, SERIES, "1.2.826.0.1.3680043.10.9.1")]
    assert _send(1).state == DeliveryState.FINAL


def test_a_processing_failure_is_tried_again_and_holds_up_no_other(pacs: AnsweringPacs) -> None:
    pacs.statuses = [0x0110] * 13
    delivery = _send(1)
    for _ in range(12):
        delivery = _try_again(delivery)
    assert delivery.state == DeliveryState.WAITING
    assert "0x0110" in str(delivery.error)
    assert _send(2).state == DeliveryState.FINAL
    assert _try_again(delivery).state == DeliveryState.FINAL


def test_what_a_pacs_cannot_understand_is_tried_ten_times(pacs: AnsweringPacs) -> None:
    pacs.statuses = [0xC001] * 10
    delivery = _send(1)
    for _ in range(8):
        delivery = _try_again(delivery)
        assert delivery.state == DeliveryState.WAITING
    delivery = _try_again(delivery)
    assert (delivery.state, delivery.tries) == (DeliveryState.REFUSED, 0)
    assert len(pacs.sent) == 10


@pytest.mark.parametrize("status", [0xA900, 0x0122, 0x0124])
def test_what_a_pacs_refuses_is_not_sent_again(pacs: AnsweringPacs, status: int) -> None:
    pacs.statuses, pacs.comment = [status], "not\x07 like\nthis"
    delivery = _send(1)
    assert delivery.state == DeliveryState.REFUSED
    assert str(delivery.error).endswith(f"(0x{status:04X}) not  like this")


def test_each_series_is_asked_for_by_itself(pacs: AnsweringPacs) -> None:
    assert _send(1).state == DeliveryState.FINAL
    [query] = pacs.queries
    assert (query.QueryRetrieveLevel, query.SeriesInstanceUID) == ("IMAGE", SERIES)


def test_a_destination_whose_name_nobody_knows_is_away(
    pacs: AnsweringPacs, hilum_env: SettingsChange
) -> None:
    hilum_env(destinations=[_place("ANSWERS", 104, "success") | {"host": "no-such-host.invalid"}])
    delivery = _send(1)
    assert delivery.state == DeliveryState.WAITING
    with transaction() as session:
        assert reports.open_for_s(session, "pacs") > 0
