"""Delivery: final when the destination's rule says so, tried for as long as the destination is away."""

import io
from collections.abc import Callable, Iterator

import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage
from sqlalchemy import update

from db import jobs, reports
from db.clock import now
from db.session import transaction
from db.tables import Circuit, Delivery, DeliveryState, JobState
from hilum.queue import DELIVER
from tests.conftest import SettingsChange
from tests.peers.broker import Broker
from tests.peers.orthanc import Orthanc
from tests.peers.studies import RECEIVED, deliverable, job, receive
from worker.deliver import deliver_report, release_associations

Send = Callable[[int], Delivery]

# the SQL is tried on every database elsewhere; here it is the PACS that matters
pytestmark = pytest.mark.parametrize("empty_database_url", ["sqlite"], indirect=True)


def _capture(number: int) -> bytes:
    ds = Dataset()
    ds.SOPClassUID = SecondaryCaptureImageStorage
    ds.SOPInstanceUID = f"1.2.826.0.1.3680043.10.9.{number}"
    ds.StudyInstanceUID = RECEIVED.study_uid
    ds.SeriesInstanceUID = "1.2.826.0.1.3680043.10.9"
    ds.PatientID = "4711"
    ds.Modality = "OT"
    ds.Rows = ds.Columns = 8
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.PixelRepresentation = 7, 0
    ds.PixelData = bytes(64)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    content = io.BytesIO()
    dcmwrite(content, ds, enforce_file_format=True)
    return content.getvalue()


@pytest.fixture(params=["success", "c-find"])
def deliver(
    request: pytest.FixtureRequest,
    database_url: str,
    valkey: Broker,
    orthanc: Orthanc,
    hilum_env: SettingsChange,
) -> Iterator[Send]:
    """Make the delivery of a new revision and run its task once; the delivery comes back as it is then."""
    place = {
        "name": "pacs",
        "ae_title": "ORTHANC",
        "host": "127.0.0.1",
        "port": orthanc.port,
        "final_when": request.param,
    }
    hilum_env(broker_url=valkey.url, destinations=[place])
    receive()

    def send(number: int) -> Delivery:
        uid = f"1.2.826.0.1.3680043.10.9.{number}"
        made = deliverable(
            _capture(number),
            uid=uid,
            sop_class_uid=SecondaryCaptureImageStorage,
            destination="pacs",
            kind=DELIVER,
        )
        deliver_report(str(made.id))
        return _delivery(made.id)

    yield send
    release_associations()


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


def test_a_destination_that_is_gone_from_the_settings_is_shown_as_refused(
    deliver: Send, hilum_env: SettingsChange
) -> None:
    hilum_env(destinations=[])
    delivery = deliver(1)
    assert delivery.state == DeliveryState.REFUSED
    assert "no destination 'pacs' in the settings" in str(delivery.error)
    assert job(DELIVER, str(delivery.id)).state == JobState.FAILED
