"""A study comes in from a sender, is read, and its findings are back in the PACS."""

import csv
import io
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import KeyObjectSelectionDocumentStorage, SecondaryCaptureImageStorage, generate_uid

from console.overview import unheard
from console.wrap import wrap
from db import studies
from db.session import transaction
from db.tables import Instance, Role, StudyState
from hilum.settings import settings
from tests.acceptance.conftest import (
    SC,
    SR,
    MakeStudy,
    all_findings,
    by_modality,
    findings_of,
    jobs_of,
    reports_of,
    study,
    study_uid,
    wait_until_over,
)
from tests.peers.dcmtk import findscu
from tests.peers.helpers import program, wait_for
from tests.peers.orthanc import Orthanc
from tests.peers.system import System

PER_CLASS = 12


def test_real_radiographs_come_out_as_findings_report_and_heat_maps_in_the_pacs(
    system: System, orthanc: Orthanc, shared_data: Path, tmp_path: Path
) -> None:
    chest = sorted((shared_data / "dicom" / "chest").iterdir())
    wrapped = _wrapped(shared_data / "cxr", tmp_path / "cxr")
    headers = [dcmread(path, stop_before_pixels=True) for path in [*chest, *wrapped]]
    assert system.send(*chest, *wrapped).returncode == 0
    uids = sorted({str(ds.StudyInstanceUID) for ds in headers})
    wait_until_over(uids, 240)
    for uid in uids:
        _assert_all_is_in_the_pacs(uid, orthanc)
    read = [uid for uid in uids if findings_of(uid)]
    assert len(read) >= len(wrapped) - 10  # children and lateral views are among them


def _assert_all_is_in_the_pacs(uid: str, orthanc: Orthanc) -> None:
    found = findings_of(uid)
    objects = orthanc.datasets(uid)
    with transaction() as session:
        images = studies.images(session, uid)
    for image in images:
        assert (image.uid in found) != (image.not_assessed_because is not None)
    state = study(uid)
    if state is not None and state.state == StudyState.NOT_READ:
        assert objects == []
        return
    [report] = by_modality(objects, SR)
    assert report.StudyInstanceUID == uid
    referenced = [_source_of(ds) for ds in by_modality(objects, SC)]
    assessed = [uid for uid, finding in found.items() if finding.not_assessed_because is None]
    assert sorted(referenced) == sorted(assessed)


def _source_of(capture: Dataset) -> str:
    return str(capture.SourceImageSequence[0].ReferencedSOPInstanceUID)


def _wrapped(folder: Path, out: Path) -> list[Path]:
    """Radiographs of every class as DX files."""
    out.mkdir()
    with (folder / "manifest.csv").open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    paths = []
    for name in ("normal", "pneumonia", "covid19", "other"):
        for row in islice((row for row in rows if row["class"] == name), PER_CLASS):
            path = out / f"{Path(row['file']).stem}.dcm"
            wrap(folder / row["file"], row).save_as(path, enforce_file_format=True)
            paths.append(path)
    return paths


def test_every_strange_file_is_kept_or_refused_with_a_reason(system: System, shared_data: Path) -> None:
    files = sorted((shared_data / "dicom" / "variety").glob("*.dcm"))
    said = system.send(*files).stdout
    kept = {image.uid for image in _instances()}
    for uid in _uids_sent(said):
        assert uid in kept or f"refused {uid!r}" in system.log()
    assert len(kept) > 40
    wait_for(lambda: all(image.prepared for image in _images()), 120, "the preparation of all")
    wait_until_over(sorted({image.study_uid for image in _instances()}), 120)
    assert all(image.not_assessed_because for image in _images())
    assert {image.role for image in _instances()} == {Role.IMAGE, Role.OTHER}


def _uids_sent(said: str) -> set[str]:
    """The SOP Instance UIDs that dcmsend really sent: it keeps some files back itself."""
    return set(re.findall(r"SOP Instance UID: +([0-9.]+)", said))


def _images() -> list[Instance]:
    return [instance for instance in _instances() if instance.role == Role.IMAGE]


def _instances() -> list[Instance]:
    with transaction() as session:
        return list(session.query(Instance))


def test_a_study_sent_twice_gives_one_result(system: System, orthanc: Orthanc, make_study: MakeStudy) -> None:
    path = make_study(1, "Pneumonia")
    uid = study_uid(path)
    assert system.send(path).returncode == 0
    wait_until_over([uid])
    assert system.send(path, calling="ANOTHER").returncode == 0
    wait_until_over([uid])
    assert len(reports_of(uid)) == 1
    assert len(all_findings(uid)) == 1
    assert sorted(each["Modality"] for each in orthanc.instances(uid)) == [SC, SR]


def test_a_late_image_gives_a_new_revision_that_names_its_predecessor(
    system: System, orthanc: Orthanc, make_study: MakeStudy
) -> None:
    path = make_study(1)
    uid = study_uid(path)
    system.send(path)
    wait_until_over([uid])
    system.send(make_study(2, "Other", study_uid=uid))
    wait_for(lambda: len(reports_of(uid)) == 2, 60, "the second revision")
    wait_until_over([uid])
    first, second = sorted(
        by_modality(orthanc.datasets(uid), SR), key=lambda ds: "PredecessorDocumentsSequence" in ds
    )
    assert "PredecessorDocumentsSequence" not in first
    [predecessor] = _referenced(second.PredecessorDocumentsSequence)
    assert predecessor == first.SOPInstanceUID
    assert len(by_modality(orthanc.datasets(uid), SC)) == 3  # one in the first, two in the second


def _referenced(documents: list[Dataset]) -> list[str]:
    return [
        str(sop.ReferencedSOPInstanceUID)
        for document in documents
        for series in document.ReferencedSeriesSequence
        for sop in series.ReferencedSOPSequence
    ]


def test_what_others_add_to_a_study_is_not_answered(
    system: System, orthanc: Orthanc, make_study: MakeStudy
) -> None:
    path = make_study(1)
    uid = study_uid(path)
    system.send(path)
    wait_until_over([uid])
    note, capture = dcmread(path), dcmread(path)
    del note.PixelData
    for ds, sop_class_uid in (
        (note, KeyObjectSelectionDocumentStorage),
        (capture, SecondaryCaptureImageStorage),
    ):
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = sop_class_uid
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        file = path.with_name(f"{ds.SOPInstanceUID}.dcm")
        ds.save_as(file, enforce_file_format=True)
        assert system.send(file).returncode == 0
    wait_for(lambda: all(image.prepared for image in _images()), 60, "the preparation of the capture")
    wait_until_over([uid])
    assert [image.role for image in _instances()].count(Role.OTHER) == 1
    assert len(reports_of(uid)) == 1
    assert sorted(each["Modality"] for each in orthanc.instances(uid)) == [SC, SR]


def test_what_is_not_assessed_is_reported_so(
    system: System, orthanc: Orthanc, make_study: MakeStudy, tmp_path: Path
) -> None:
    path = make_study(1, view="LL")
    uid = study_uid(path)
    system.send(path)
    wait_until_over([uid])
    [report] = orthanc.datasets(uid)
    assert report.Modality == SR
    file = tmp_path / "report.dcm"
    report.save_as(file)
    dump = subprocess.run([program("dsrdump", debian="dcmtk"), "+Pl", file], capture_output=True, text=True)
    assert dump.returncode == 0
    assert "Not assessed, because the view is lateral" in dump.stdout


def test_what_is_in_the_pacs_is_without_errors_and_can_be_found(
    system: System, orthanc: Orthanc, make_study: MakeStudy, tmp_path: Path
) -> None:
    path = make_study(3, "COVID-19")
    uid = study_uid(path)
    system.send(path)
    wait_until_over([uid])
    objects = orthanc.datasets(uid)
    assert len(objects) == 2
    for ds in objects:
        file = tmp_path / f"{ds.Modality}.dcm"
        ds.save_as(file)
        checker = Path(sys.executable).with_name("dciodvfy")
        said = subprocess.run([checker, file], capture_output=True, text=True, errors="replace")
        assert "Error" not in said.stdout + said.stderr
    shown = findscu(orthanc.port, keys=[f"StudyInstanceUID={uid}"])
    assert sorted(shown) == sorted(str(ds.SOPInstanceUID) for ds in objects)


def test_our_own_objects_that_come_back_are_left(
    system: System, orthanc: Orthanc, make_study: MakeStudy
) -> None:
    path = make_study(4)
    uid = study_uid(path)
    system.send(path)
    wait_until_over([uid])
    files = [io.BytesIO(orthanc.download(each["id"])) for each in orthanc.instances(uid)]
    folder = path.parent / "back"
    folder.mkdir()
    for number, file in enumerate(files):
        (folder / f"{number}.dcm").write_bytes(file.getvalue())
    before = [(job.kind, job.generation) for job in jobs_of(uid)]
    assert system.send(folder).returncode == 0
    with transaction() as session:
        assert len(studies.images(session, uid)) == 1
    assert [(job.kind, job.generation) for job in jobs_of(uid)] == before


def test_inspect_answers_while_the_workers_are_busy(system: System, make_study: MakeStudy) -> None:
    paths = [make_study(seed) for seed in range(10)]
    system.send(*paths)
    for command in ("ping", "active", "registered", "stats", "active_queues"):
        answered = _inspect(command)
        for node in ("prepare", "classify", "deliver", "sweep"):
            assert f"{node}@" in answered
    wait_until_over([study_uid(path) for path in paths])
    assert '"loaded": true' in _inspect("network", "classify")
    assert "images_mean" in _inspect("batches", "classify")


def test_a_worker_that_does_not_answer_is_seen(system: System) -> None:
    wait_for(lambda: unheard() == [], 30, "an answer of every worker")
    with system.stopped("classify"):
        assert unheard() == ["classify.urgent", "classify"]
    wait_for(lambda: unheard() == [], 30, "its answer")


def _inspect(command: str, node: str = "") -> str:
    where = ["-d", f"{node}@{socket.gethostname()}"] if node else []
    celery = [sys.executable, "-m", "celery", "-A", "worker.app", "inspect", command, "-t", "3", *where]
    return subprocess.run(celery, capture_output=True, text=True, check=True, timeout=60).stdout


def test_results_go_where_the_rule_of_their_sender_says(
    start_system: Callable[..., System], orthanc: Orthanc, make_study: MakeStudy
) -> None:
    sending = [{"ae_title": "RESEARCH", "destinations": []}, {"ae_title": "MODALITY", "urgent": True}]
    system = start_system(senders=sending)
    quiet, urgent = make_study(1), make_study(2)
    assert system.send(quiet, calling="RESEARCH").returncode == 0
    assert system.send(urgent).returncode == 0
    assert system.send(urgent, calling="STRANGER").returncode != 0
    wait_until_over([study_uid(urgent)])
    wait_for(lambda: len(reports_of(study_uid(quiet))) == 1, 60, "the report that stays here")
    assert orthanc.instances(study_uid(quiet)) == []
    found = study(study_uid(urgent))
    assert found is not None
    assert found.urgent


@pytest.mark.parametrize("final_when", ["success", "c-find", "commitment"])
def test_a_pacs_that_is_away_for_a_while_gets_everything_once_it_is_back(
    start_system: Callable[..., System], orthanc: Orthanc, make_study: MakeStudy, final_when: str
) -> None:
    pacs = {"name": "pacs", "ae_title": "ORTHANC", "host": "127.0.0.1", "port": orthanc.port}
    system = start_system(destinations=[{**pacs, "final_when": final_when}])
    orthanc.stop()
    paths = [make_study(seed) for seed in range(4)]
    assert system.send(*paths).returncode == 0
    uids = [study_uid(path) for path in paths]
    wait_for(lambda: all(len(reports_of(uid)) == 1 for uid in uids), 90, "the reports")
    wait_for(lambda: any(job.error for job in jobs_of(uids[0])), 60, "a failed try")
    orthanc.start()
    orthanc.know("HILUM", settings().listener_port)  # where it reports on storage commitment
    wait_until_over(uids)
    assert orthanc.count() == 2 * len(uids)
