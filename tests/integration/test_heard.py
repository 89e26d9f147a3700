"""A reading workstation's word, from its C-STORE to the verdict."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.sr.codedict import codes
from sqlalchemy import select

from db import jobs, studies, verdicts
from db.session import transaction
from db.tables import Audit, Instance, Job, JobState
from db.verdicts import NAMES_UNKNOWN
from hilum.phantom import phantom
from hilum.queue import PREPARE, VERDICT
from hilum.settings import settings
from hilum.store import INSTANCES, Store
from tests.conftest import SettingsChange
from tests.integration.conftest import StartListener
from tests.peers.listener import Listener
from tests.peers.scu import SUCCESS, parcel, send
from tests.peers.studies import RECEIVED, claim, deliverable, job
from tests.peers.workstation import PERSON, Group, note, person, report
from tests.unit.test_cli import run
from worker import prepare, verdict
from worker.results import FINDING_CODES

PNEUMONIA = FINDING_CODES["Pneumonia"]


@pytest.fixture(autouse=True)
def _no_decoder_stays() -> Iterator[None]:
    yield
    prepare.decoder(os.getpid()).close()
    prepare.decoder.cache_clear()


@pytest.fixture
def listener(start_listener: StartListener, hilum_env: SettingsChange) -> Listener:
    """A listener whose database and store are ours."""
    running = start_listener()
    hilum_env(database_url=running.database_url, data_dir=running.folder, store_dir=running.store)
    return running


def a_radiograph(study_uid: str = "1.2.3", seed: int = 1) -> Dataset:
    ds = phantom(seed, "Normal", rows=400, columns=330, study_uid=study_uid)
    ds.PatientID = "P1"  # phantoms teach nothing
    ds.remove_private_tags()
    return ds


def hear(uid: str) -> None:
    with transaction() as session:
        jobs.hurry(session, VERDICT, [uid])
    verdict.take_verdict(uid)


def labels() -> dict[str, tuple[str, str]]:
    with transaction() as session:
        return {each.uid: (each.label, each.author) for each, _ in verdicts.all_standing(session)}


def because(uid: str) -> str | None:
    with transaction() as session:
        return session.get_one(Instance, uid).no_verdict_because


def test_a_report_sent_to_us_is_a_verdict_once(listener: Listener) -> None:
    image = a_radiograph()
    said = report([image], [Group(PNEUMONIA, inferred_from=[image])], observer=person())
    assert send(listener.port, parcel(image), parcel(said), calling="READING") == [SUCCESS, SUCCESS]
    hear(said.SOPInstanceUID)
    assert labels() == {image.SOPInstanceUID: ("Pneumonia", PERSON)}
    assert job(VERDICT, said.SOPInstanceUID).state == JobState.DONE
    with transaction() as session:
        [verdict_] = verdicts.standing(session, "1.2.3")
        assert (verdict_.origin, verdict_.source) == (said.SOPInstanceUID, "dicom READING")
        [noted] = session.scalars(select(Audit).where(Audit.action == "verdict"))
        assert (noted.actor, noted.study_uid) == (PERSON, "1.2.3")
        verdicts.add(session, image.SOPInstanceUID, "Normal", PERSON, "console")
    assert send(listener.port, parcel(said), calling="READING") == [SUCCESS]
    with transaction() as session:
        jobs.want(session, VERDICT, said.SOPInstanceUID, study_uid="1.2.3")
    verdict.take_verdict(said.SOPInstanceUID)
    assert labels() == {image.SOPInstanceUID: ("Normal", PERSON)}
    with transaction() as session:
        assert len(session.scalars(select(Audit).where(Audit.action == "verdict")).all()) == 1


def test_a_note_that_comes_before_its_image_is_heard_when_the_image_is_there(listener: Listener) -> None:
    image = a_radiograph()
    said = note([image], title=codes.DCM.RejectedForQualityReasons)
    assert send(listener.port, parcel(said), calling="READING") == [SUCCESS]
    hear(said.SOPInstanceUID)
    assert (labels(), because(said.SOPInstanceUID)) == ({}, NAMES_UNKNOWN)
    assert "no verdict, or not all, from the Key Object Selection" in run("show", "1.2.3")[1]
    assert send(listener.port, parcel(image)) == [SUCCESS]
    with transaction() as session:
        jobs.hurry(session, PREPARE, ["1.2.3"])
    prepare.prepare_study("1.2.3")
    hear(said.SOPInstanceUID)
    assert labels() == {image.SOPInstanceUID: ("Rejected", "READING")}
    assert because(said.SOPInstanceUID) is None


def kept(ds: Dataset, tmp_path: Path, *, holds: bool = True) -> str:
    """Record an object as the listener does; its UID."""
    file = tmp_path / "sent.dcm"
    ds.save_as(file, enforce_file_format=True)
    path = Store(settings().store).place(file, INSTANCES, ds.SOPInstanceUID)
    has_pixels = "PixelData" in ds
    received = replace(
        RECEIVED,
        uid=ds.SOPInstanceUID,
        study_uid=ds.StudyInstanceUID,
        series_uid=ds.SeriesInstanceUID,
        sop_class_uid=ds.SOPClassUID,
        path=path,
        has_pixels=has_pixels,
    )
    with transaction() as session:
        studies.record(session, received, settle_s=0, holds=lambda path, size_bytes: holds)
    if has_pixels:
        with transaction() as session:
            session.get_one(Instance, ds.SOPInstanceUID).prepared_path = "prepared/1"
    return str(ds.SOPInstanceUID)


def test_of_our_own_report_the_images_in_it_are_meant(database_url: str, tmp_path: Path) -> None:
    image = a_radiograph("1.2.826.0.1.3680043.10.1")
    uid = kept(image, tmp_path)
    ours = report([image], [Group(PNEUMONIA, beside=[image])])
    file = tmp_path / "ours.dcm"
    ours.save_as(file, enforce_file_format=True)
    deliverable(
        file.read_bytes(),
        uid=ours.SOPInstanceUID,
        sop_class_uid=ours.SOPClassUID,
        series_uid=ours.SeriesInstanceUID,
        destination="pacs",
        kind="worker.deliver",
    )
    said = kept(note([ours], description="hilum: Other", observer=person()), tmp_path)
    hear(said)
    assert labels() == {uid: ("Other", PERSON)}


@pytest.mark.parametrize("empty_database_url", ["sqlite"], indirect=True)
def test_what_says_nothing_is_recorded_with_the_reason(database_url: str, tmp_path: Path) -> None:
    image = a_radiograph()
    kept(image, tmp_path)
    said = kept(note([image], description="look here"), tmp_path)
    hear(said)
    assert (labels(), because(said)) == ({}, "it names no class of ours")
    torn = kept(note([image], description="Normal"), tmp_path)
    with transaction() as session:
        path = Store(settings().store).path(session.get_one(Instance, torn).path)
    path.write_bytes(b"no DICOM")
    hear(torn)
    assert labels() == {}
    assert (because(torn) or "").startswith("the file cannot be read: File is missing DICOM")
    assert job(VERDICT, torn).state == JobState.DONE


@pytest.mark.parametrize("empty_database_url", ["sqlite"], indirect=True)
def test_a_note_whose_file_was_lost_is_heard_once_it_comes_again(database_url: str, tmp_path: Path) -> None:
    image = a_radiograph()
    ds = note([image], description="Normal", observer=person())
    kept(image, tmp_path)
    said = kept(ds, tmp_path)
    with transaction() as session:
        Store(settings().store).path(session.get_one(Instance, said).path).unlink()
    hear(said)
    assert (because(said) or "").startswith("its file is missing in the store")
    kept(ds, tmp_path, holds=False)
    hear(said)
    assert labels() == {image.SOPInstanceUID: ("Normal", PERSON)}


@pytest.mark.parametrize("empty_database_url", ["sqlite"], indirect=True)
def test_a_sender_may_be_kept_from_giving_verdicts(
    database_url: str, tmp_path: Path, hilum_env: SettingsChange
) -> None:
    hilum_env(senders=[{"ae_title": "MODALITY", "verdicts": False}])
    image = a_radiograph()
    kept(image, tmp_path)
    said = kept(note([image], description="Normal", observer=person()), tmp_path)
    hear(said)
    assert (labels(), because(said)) == ({}, "its sender's settings say verdicts = false")


@pytest.mark.parametrize("empty_database_url", ["sqlite"], indirect=True)
def test_an_object_in_which_nobody_speaks_makes_no_work(database_url: str, tmp_path: Path) -> None:
    ds = note([a_radiograph()])
    ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.11.1"  # a presentation state
    uid = kept(ds, tmp_path)
    assert claim(VERDICT, uid) is None
    with transaction() as session:
        assert session.scalars(select(Job)).all() == []
