"""What a sender may rely on, and what stands in the database and in the store afterwards."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydicom import Dataset, FileMetaDataset, dcmread
from pydicom.uid import (
    Comprehensive3DSRStorage,
    ExplicitVRLittleEndian,
    JPEGLosslessSV1,
    KeyObjectSelectionDocumentStorage,
    SecondaryCaptureImageStorage,
)
from sqlalchemy import select

from db.schema import upgrade
from db.session import engine
from db.tables import Instance, Job, JobState, Role, Study, StudyState, Variant
from hilum.phantom import phantom
from hilum.queue import PREPARE
from tests.integration.conftest import StartListener
from tests.integration.radiographs import new_uid, radiograph
from tests.peers.broker import Broker
from tests.peers.dcmtk import dcmsend, echoscu, storescu
from tests.peers.helpers import wait_for
from tests.peers.listener import Listener
from tests.peers.postgres import Postgres
from tests.peers.scu import CANNOT_UNDERSTAND, SUCCESS, association, parcel, reply, send

NAMED_LIKE_US = {"Manufacturer": "Hilum", "ManufacturerModelName": "Hilum", "SoftwareVersions": "0.1.0"}


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def listener(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listener]:
    """One listener for many tests, once on each database; every test sends studies of its own."""
    folder = tmp_path_factory.mktemp("listener")
    url = f"sqlite:///{folder / 'hilum.sqlite'}"
    if request.param == "postgresql":
        server: Postgres = request.getfixturevalue("postgres_server")
        url = server.fresh_database()
    upgrade(url)
    running = Listener(folder, database_url=url)
    yield running
    running.stop()
    engine(url).dispose()
    if request.param == "postgresql":
        server.drop(url)


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"torn")])
def test_a_lost_or_torn_file_is_healed_by_sending_the_object_again_with_another_header(
    listener: Listener, damage: Callable[[Path], object]
) -> None:
    ds = radiograph()
    assert send(listener.port, parcel(ds)) == [SUCCESS]
    first = instance_of(listener, ds)
    assert first is not None
    damage(listener.store / first.path)
    ds.StudyDescription = "corrected by the PACS"
    assert send(listener.port, parcel(ds)) == [SUCCESS]
    healed = instance_of(listener, ds)
    assert healed is not None and healed.path != first.path
    assert dcmread(listener.store / healed.path).StudyDescription == "corrected by the PACS"


def instance_of(listener: Listener, ds: Dataset) -> Instance | None:
    with listener.session() as session:
        return session.get(Instance, ds.SOPInstanceUID)


def jobs_of(listener: Listener, ds: Dataset) -> list[Job]:
    with listener.session() as session:
        return list(session.scalars(select(Job).where(Job.subject == ds.StudyInstanceUID)))


def study_of(listener: Listener, ds: Dataset) -> Study:
    with listener.session() as session:
        return session.get_one(Study, ds.StudyInstanceUID)


def test_an_echo_is_answered(listener: Listener) -> None:
    assert echoscu(listener.port)


def test_success_means_that_file_row_and_job_are_there(listener: Listener) -> None:
    ds = radiograph(PixelData=bytes(range(256)) * 32)
    assert send(listener.port, parcel(ds)) == [SUCCESS]
    instance, [job] = instance_of(listener, ds), jobs_of(listener, ds)
    assert instance is not None and (instance.view, instance.sender_ae) == ("PA", "MODALITY")
    kept = listener.store / instance.path
    assert kept.stat().st_size == instance.size_bytes
    assert dcmread(kept).PixelData == ds.PixelData
    assert kept.read_bytes()[:128] == bytes(128)
    assert (job.kind, job.state, job.urgent) == (PREPARE, JobState.WAITING, False)
    assert listener.files("aside") == []


def test_the_header_says_whose_study_it_is(listener: Listener) -> None:
    ds = radiograph(
        SpecificCharacterSet="ISO_IR 100", PatientName="Müller^Jörg", PatientSex="M", AccessionNumber="A7"
    )
    assert send(listener.port, parcel(ds)) == [SUCCESS]
    study = study_of(listener, ds)
    assert (study.patient_name, study.patient_id) == ("Müller^Jörg", "4711")
    assert (study.patient_sex, study.accession_number, study.study_date) == ("M", "A7", "20260101")
    assert not study.phantom


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_dirty_header_is_no_reason_to_refuse(listener: Listener) -> None:
    ds = radiograph(
        PatientName="Doe\0^\x1bJohn",
        PatientID="7" * 300,
        StudyDescription="long " * 400,
        PatientSex="male, he says so",
    )
    assert send(listener.port, parcel(ds)) == [SUCCESS]
    study = study_of(listener, ds)
    assert study.patient_name == "Doe^John"
    assert study.patient_id == "7" * 64


def test_the_same_object_sent_again_is_one_instance(listener: Listener) -> None:
    ds = radiograph()
    again = radiograph(
        SOPInstanceUID=ds.SOPInstanceUID, StudyInstanceUID=ds.StudyInstanceUID, PatientID="4712"
    )
    before = len(listener.files("instances"))
    assert send(listener.port, parcel(ds), parcel(ds), parcel(again)) == [SUCCESS] * 3
    assert len(listener.files("instances")) == before + 1
    instance = instance_of(listener, ds)
    assert instance is not None and dcmread(listener.store / instance.path).PatientID == "4711"
    assert len(jobs_of(listener, ds)) == 1


def test_other_pixels_under_a_known_uid_are_kept_aside_and_flagged(listener: Listener) -> None:
    ds = radiograph()
    other = radiograph(SOPInstanceUID=ds.SOPInstanceUID, PixelData=b"\1" * 8192)
    assert send(listener.port, parcel(ds), parcel(other)) == [SUCCESS, SUCCESS]
    instance = instance_of(listener, ds)
    assert instance is not None and dcmread(listener.store / instance.path).PixelData == ds.PixelData
    with listener.session() as session:
        [variant] = session.scalars(select(Variant).where(Variant.uid == ds.SOPInstanceUID))
    assert dcmread(listener.store / variant.path).PixelData == other.PixelData
    assert "WARNING dicom_listener.handlers: " + ds.SOPInstanceUID in listener.log


def test_the_same_variant_with_another_header_leaves_no_file(listener: Listener) -> None:
    ds = radiograph()
    other = radiograph(SOPInstanceUID=ds.SOPInstanceUID, StudyInstanceUID=ds.StudyInstanceUID)
    other.PixelData = b"\1" * 8192
    assert send(listener.port, parcel(ds), parcel(other)) == [SUCCESS, SUCCESS]
    before = listener.files("instances")
    other.PatientID = "4712"
    assert send(listener.port, parcel(other)) == [SUCCESS]
    assert listener.files("instances") == before


def test_a_known_uid_in_another_study_is_kept_aside_and_flagged(listener: Listener) -> None:
    ds = radiograph()
    assert send(listener.port, parcel(ds)) == [SUCCESS]
    moved = parcel(radiograph(SOPInstanceUID=ds.SOPInstanceUID))
    assert send(listener.port, moved) == [SUCCESS]
    with listener.session() as session:
        [variant] = session.scalars(select(Variant).where(Variant.uid == ds.SOPInstanceUID))
        assert session.get(Study, variant.study_uid) is None
    assert (listener.store / variant.path).exists()


def test_a_refused_sender_is_told_why(listener: Listener, tmp_path: Path) -> None:
    ds = radiograph(PatientName="Secret^Name", SeriesInstanceUID=None)
    with association(listener.port, [parcel(ds)]) as assoc:
        answer = reply(assoc, parcel(ds))
    assert answer is not None and answer.Status == CANNOT_UNDERSTAND
    assert answer.ErrorComment == "SeriesInstanceUID is missing or not a UID"
    file = tmp_path / "refused.dcm"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.save_as(file, enforce_file_format=True)
    shown = storescu(listener.port, file, options=["-d"])
    assert "SeriesInstanceUID is missing or not a UID" in shown.stdout + shown.stderr


@pytest.mark.parametrize("sop_class_uid", [SecondaryCaptureImageStorage, Comprehensive3DSRStorage])
def test_objects_of_ours_that_come_back_are_not_read(listener: Listener, sop_class_uid: str) -> None:
    image = radiograph()
    ours = radiograph(StudyInstanceUID=image.StudyInstanceUID, SOPClassUID=sop_class_uid, **NAMED_LIKE_US)
    assert send(listener.port, parcel(ours)) == [SUCCESS]
    assert jobs_of(listener, image) == []
    assert send(listener.port, parcel(image)) == [SUCCESS]
    instance = instance_of(listener, ours)
    assert instance is not None and instance.role == Role.OURS
    assert len(jobs_of(listener, image)) == 1


def test_a_radiograph_is_read_whatever_its_maker_is_called(listener: Listener) -> None:
    ds = radiograph(**NAMED_LIKE_US)
    assert send(listener.port, parcel(ds)) == [SUCCESS]
    assert len(jobs_of(listener, ds)) == 1


def test_a_key_object_note_is_kept_and_starts_nothing(listener: Listener) -> None:
    note = radiograph(SOPClassUID=KeyObjectSelectionDocumentStorage, Modality="KO")
    del note.PixelData
    assert send(listener.port, parcel(note)) == [SUCCESS]
    instance = instance_of(listener, note)
    assert instance is not None and instance.role == Role.OTHER
    assert dcmread(listener.store / instance.path).Modality == "KO"
    assert (study_of(listener, note).state, jobs_of(listener, note)) == (StudyState.NOT_READ, [])


def test_a_phantom_is_known_as_one(listener: Listener) -> None:
    ds = phantom(1, "Normal", rows=250, columns=205)
    assert send(listener.port, parcel(ds)) == [SUCCESS]
    assert study_of(listener, ds).phantom


@pytest.mark.parametrize("priority", ["STAT", "HIGH"])
def test_an_urgent_request_makes_the_study_urgent(listener: Listener, priority: str) -> None:
    request = Dataset()
    request.RequestedProcedurePriority = priority
    nested, plain = radiograph(), radiograph(RequestedProcedurePriority=priority)
    nested.RequestAttributesSequence = [request]
    open_ended = radiograph(RequestAttributesSequence=[request])
    open_ended["RequestAttributesSequence"].is_undefined_length = True
    for ds in (nested, open_ended, plain):
        assert send(listener.port, parcel(ds)) == [SUCCESS]
        assert study_of(listener, ds).urgent
        assert [job.urgent for job in jobs_of(listener, ds)] == [True]


def test_eight_senders_of_one_study_at_once_are_all_answered_with_success(listener: Listener) -> None:
    study_uid = new_uid()
    images = [radiograph(StudyInstanceUID=study_uid) for _ in range(24)]
    shares = [[parcel(ds) for ds in images[start::8]] for start in range(8)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda share: send(listener.port, *share), shares))
    assert answers == [[SUCCESS] * 3] * 8
    with listener.session() as session:
        assert len(list(session.scalars(select(Instance).where(Instance.study_uid == study_uid)))) == 24
    assert len(jobs_of(listener, images[0])) == 1


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_real_radiographs_keep_the_encoding_they_came_in(listener: Listener, shared_data: Path) -> None:
    files = sorted((shared_data / "dicom" / "chest").glob("*.dcm"))
    sent = dcmsend(listener.port, *files)
    assert sent.returncode == 0, sent.stdout + sent.stderr
    with listener.session() as session:
        kept = {instance.uid: instance for instance in session.scalars(select(Instance))}
    for path in files:
        original = dcmread(path)
        instance = kept[str(original.SOPInstanceUID)]
        copy = dcmread(listener.store / instance.path)
        if original.file_meta.TransferSyntaxUID.is_compressed:
            assert copy.file_meta.TransferSyntaxUID == original.file_meta.TransferSyntaxUID
        assert copy.PixelData.rstrip(b"\0") == original.PixelData.rstrip(
            b"\0"
        )  # DCMTK makes odd lengths even


def test_storescu_sends_compressed_images_in_one_proposal(listener: Listener, shared_data: Path) -> None:
    lossless = next(
        path
        for path in sorted((shared_data / "dicom" / "chest").glob("*.dcm"))
        if dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID == JPEGLosslessSV1
    )
    sent = storescu(listener.port, lossless, options=["-xs"])
    assert sent.returncode == 0, sent.stdout + sent.stderr


def test_a_kill_right_after_success_loses_nothing(start_listener: StartListener) -> None:
    listener = start_listener()
    images = [radiograph() for _ in range(5)]
    assert send(listener.port, *map(parcel, images)) == [SUCCESS] * 5
    listener.kill()
    for ds in images:
        instance = instance_of(listener, ds)
        assert instance is not None
        assert dcmread(listener.store / instance.path).PixelData == ds.PixelData
        assert len(jobs_of(listener, ds)) == 1


def test_one_bell_is_rung_for_a_study_and_urgent_ones_have_a_queue_of_their_own(
    start_listener: StartListener, valkey: Broker
) -> None:
    senders = json.dumps([{"ae_title": "EMERGENCY", "urgent": True}, {"ae_title": "WARD"}])
    listener = start_listener(broker_url=valkey.url, senders=senders, settle_s=5)
    study_uid = new_uid()
    images = [parcel(radiograph(StudyInstanceUID=study_uid)) for _ in range(3)]
    assert send(listener.port, *images, calling="WARD") == [SUCCESS] * 3
    assert send(listener.port, parcel(radiograph()), calling="EMERGENCY") == [SUCCESS]
    wait_for(lambda: valkey.messages("prepare.urgent"), what="the bell of the urgent study")
    [message] = [json.loads(each) for each in valkey.messages("prepare")]
    assert message["headers"]["task"] == PREPARE
    assert message["headers"]["argsrepr"] == f"('{study_uid}',)"
    assert message["headers"]["eta"] is not None
