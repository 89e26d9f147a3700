"""Storage commitment asked of us: a sender is told what we hold, whole, and what not."""

import json
import os
from collections.abc import Callable, Iterator

import pytest
from pydicom import Dataset
from sqlalchemy import select, update

from db.clock import from_now
from db.session import transaction
from db.tables import CommitmentRequest, Instance, Job, JobState, Variant
from hilum.commitment import CLASS_CONFLICT, NO_SUCH_OBJECT, PROCESSING_FAILURE, Request
from hilum.queue import COMMIT
from hilum.settings import settings
from hilum.store import Store
from tests.conftest import SettingsChange
from tests.integration.conftest import StartListener
from tests.integration.radiographs import new_uid, radiograph
from tests.peers.broker import Broker
from tests.peers.helpers import wait_for
from tests.peers.listener import Listener
from tests.peers.modality import Modality
from tests.peers.orthanc import Orthanc
from tests.peers.scu import SUCCESS, parcel, send
from tests.peers.studies import job
from worker.commitment_report import GIVEN_UP_AFTER_S, report_commitment

INVALID_ARGUMENT, NO_SUCH_ACTION, NOT_AUTHORIZED = 0x0115, 0x0123, 0x0124

pytestmark = pytest.mark.parametrize("empty_database_url", ["sqlite"], indirect=True)


@pytest.fixture
def modality() -> Iterator[Modality]:
    running = Modality()
    yield running
    running.stop()


@pytest.fixture
def listen(
    database_url: str, valkey: Broker, hilum_env: SettingsChange, start_listener: StartListener
) -> Callable[..., Listener]:
    """Call it with AE titles and ports of senders to start our listener, which knows them."""

    def start(**ports: int) -> Listener:
        senders: list[dict[str, object]] = [{"ae_title": "DEAF"}]
        senders += [{"ae_title": name, "host": "127.0.0.1", "port": port} for name, port in ports.items()]
        ours = hilum_env(broker_url=valkey.url, senders=senders)
        return start_listener(
            database_url=database_url,
            broker_url=valkey.url,
            senders=json.dumps(senders),
            store_dir=ours.store,
        )

    return start


@pytest.fixture
def listener(listen: Callable[..., Listener], modality: Modality) -> Listener:
    """Our listener, which knows where the modality takes reports."""
    return listen(MODALITY=modality.port)


def _request(*objects: Dataset) -> Request:
    return Request(new_uid(), {ds.SOPInstanceUID: ds.SOPClassUID for ds in objects})


def _kept(listener: Listener, count: int) -> list[Dataset]:
    """Objects that the listener has taken."""
    objects = [radiograph(PixelData=bytes([number]) * 8192) for number in range(count)]
    assert send(listener.port, *map(parcel, objects)) == [SUCCESS] * count
    return objects


def _path(ds: Dataset) -> str:
    with transaction() as session:
        return session.get_one(Instance, ds.SOPInstanceUID).path


def test_orthanc_is_told_that_we_keep_what_it_sent(listen: Callable[..., Listener], orthanc: Orthanc) -> None:
    listener = listen(ORTHANC=orthanc.port)
    ds, unknown = radiograph(), radiograph()
    assert send(orthanc.port, parcel(ds), called=orthanc.ae_title) == [SUCCESS]
    orthanc.push(ds.StudyInstanceUID, ae_title="HILUM", port=listener.port)
    first = orthanc.ask_commitment("HILUM", dict(_request(ds).objects))
    second = orthanc.ask_commitment("HILUM", dict(_request(ds, unknown).objects))
    report_commitment("1")
    report_commitment("2")
    wait_for(lambda: orthanc.commitment(first)["Status"] == "Success", what=listener.log)
    told = wait_for(lambda: (told := orthanc.commitment(second))["Status"] == "Failure" and told)
    assert [each["SOPInstanceUID"] for each in told["Success"]] == [ds.SOPInstanceUID]
    assert [each["SOPInstanceUID"] for each in told["Failures"]] == [unknown.SOPInstanceUID]


def test_only_what_is_here_and_whole_is_committed_to(listener: Listener, modality: Modality) -> None:
    whole, cut, altered, removed, of_another_class = _kept(listener, 5)
    never_sent = radiograph()
    store = Store(settings().store)
    content = store.path(_path(cut)).read_bytes()
    store.path(_path(cut)).write_bytes(content[:-1])
    content = store.path(_path(altered)).read_bytes()
    store.path(_path(altered)).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    store.path(_path(removed)).unlink()
    of_another_class.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    request = _request(whole, cut, altered, removed, of_another_class, never_sent)
    assert modality.ask(listener.port, request) == 0x0000
    report_commitment("1")
    [report] = modality.reports
    assert report.transaction_uid == request.transaction_uid
    assert list(report.committed) == [whole.SOPInstanceUID]
    assert {uid: reason for uid, (_, reason) in report.failed.items()} == {
        cut.SOPInstanceUID: PROCESSING_FAILURE,
        altered.SOPInstanceUID: PROCESSING_FAILURE,
        removed.SOPInstanceUID: NO_SUCH_OBJECT,
        of_another_class.SOPInstanceUID: CLASS_CONFLICT,
        never_sent.SOPInstanceUID: NO_SUCH_OBJECT,
    }
    assert modality.event_types == [2]


def test_both_files_of_a_uid_that_came_twice_count(listener: Listener, modality: Modality) -> None:
    [ds] = _kept(listener, 1)
    ds.PixelData = bytes([9]) * 8192
    assert send(listener.port, parcel(ds)) == [SUCCESS]
    assert modality.ask(listener.port, _request(ds)) == 0x0000
    report_commitment("1")
    with transaction() as session:
        [aside] = session.scalars(select(Variant.path))
    file = Store(settings().store).path(aside)
    file.write_bytes(file.read_bytes()[:-1])
    assert modality.ask(listener.port, _request(ds)) == 0x0000
    report_commitment("2")
    file.unlink()
    assert modality.ask(listener.port, _request(ds)) == 0x0000
    report_commitment("3")
    reasons = [[reason for _, reason in report.failed.values()] for report in modality.reports]
    assert reasons == [[], [PROCESSING_FAILURE], [NO_SUCH_OBJECT]]
    assert modality.event_types == [1, 2, 2]


def test_a_sender_is_called_by_the_ae_title_that_it_answers_to(
    listener: Listener, modality: Modality, hilum_env: SettingsChange
) -> None:
    assert modality.ask(listener.port, _request(*_kept(listener, 1))) == 0x0000
    hilum_env(
        senders=[
            {
                "ae_title": "MODALITY",
                "host": "127.0.0.1",
                "port": modality.port,
                "query_ae_title": "ARCHIVE",
            }
        ]
    )
    report_commitment("1")
    assert modality.called == "ARCHIVE"


def test_a_request_is_rung_for_and_answered_as_often_as_it_comes(
    listener: Listener, modality: Modality, valkey: Broker
) -> None:
    request = _request(*_kept(listener, 1))
    assert modality.ask(listener.port, request) == 0x0000
    wait_for(lambda: valkey.messages("deliver"), what="the bell")
    report_commitment("1")
    report_commitment("1")
    assert len(modality.reports) == 1, "a bell that rings twice makes no second report"
    assert modality.was_scu, "who reports is the SCP, though it opens the association"
    assert modality.ask(listener.port, request) == 0x0000
    report_commitment("1")
    assert len(modality.reports) == 2
    with transaction() as session:
        [row] = session.scalars(select(CommitmentRequest))
    assert row.reported_at is not None


def test_a_request_for_very_many_objects_is_answered(listener: Listener, modality: Modality) -> None:
    [kept] = _kept(listener, 1)
    longest = "2.25." + "1" * 54  # with its number 64 characters, as long as a UID may be
    objects = {f"{longest}{number:05}": "1.2.840.10008.5.1.4.1.1.1.1.1" for number in range(2_999)}
    request = Request(new_uid(), {**objects, kept.SOPInstanceUID: kept.SOPClassUID})
    assert modality.ask(listener.port, request) == 0x0000
    report_commitment("1")
    [report] = modality.reports
    assert (list(report.committed), len(report.failed)) == ([kept.SOPInstanceUID], 2_999)


def test_a_request_that_cannot_be_answered_is_refused(listener: Listener, modality: Modality) -> None:
    port, ds = listener.port, radiograph()
    request = _request(ds)
    assert modality.ask(port, request, calling="DEAF") == NOT_AUTHORIZED
    assert modality.ask(port, request, action=2) == NO_SUCH_ACTION
    assert modality.ask(port, Request(request.transaction_uid, {})) == INVALID_ARGUMENT
    assert modality.ask(port, request) == 0x0000
    assert modality.ask(port, Request(request.transaction_uid, _request(radiograph()).objects)) == (
        INVALID_ARGUMENT
    )
    with transaction() as session:
        assert len(session.scalars(select(CommitmentRequest)).all()) == 1


def test_a_sender_that_is_away_is_told_later_for_a_day(listener: Listener, modality: Modality) -> None:
    assert modality.ask(listener.port, _request(*_kept(listener, 1))) == 0x0000
    modality.stop()
    with transaction() as session:
        [path] = session.scalars(select(Instance.path))
    file = Store(settings().store).path(path)
    os.utime(file, (0, 0))  # so that its next reading moves the time of access, with relatime, too
    report_commitment("1")
    waiting = job(COMMIT, "1")
    assert file.stat().st_atime == 0, "a file was read for a sender that is not there"
    assert waiting.state == JobState.WAITING
    assert "MODALITY (MODALITY at 127.0.0.1:" in str(waiting.error)
    modality.start()
    _make_due(asked_s_ago=0)
    report_commitment("1")
    assert len(modality.reports) == 1
    assert job(COMMIT, "1").state == JobState.DONE


def test_a_sender_that_is_away_too_long_or_refuses_is_given_up(
    listener: Listener, modality: Modality
) -> None:
    modality.statuses = [0x0115]
    assert modality.ask(listener.port, _request(*_kept(listener, 1))) == 0x0000
    report_commitment("1")
    assert job(COMMIT, "1").state == JobState.FAILED
    assert str(job(COMMIT, "1").error) == "MODALITY refuses the report (0x0115)"
    assert modality.ask(listener.port, _request(radiograph())) == 0x0000
    modality.stop()
    _make_due(asked_s_ago=GIVEN_UP_AFTER_S + 1)
    report_commitment("2")
    assert job(COMMIT, "2").state == JobState.FAILED
    modality.start()


def _make_due(*, asked_s_ago: float) -> None:
    with transaction() as session:
        session.execute(update(CommitmentRequest).values(asked_at=from_now(-asked_s_ago)))
        session.execute(update(Job).values(due_at=from_now(0)))
