"""Preparing a study: what follows from its images, and what stays on disk of those that are not read."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.uid import SecondaryCaptureImageStorage

from console import doctor
from db import jobs, ledger, retention, studies
from db.session import transaction
from db.studies import FILE_LOST, Preparation, Recorded
from db.tables import Instance, JobState, Study, StudyState
from hilum.phantom import phantom
from hilum.queue import CLASSIFY, PREPARE
from hilum.settings import settings
from hilum.store import INPUT_FILE, INSTANCES, PREPARED, Store
from tests.peers.studies import RECEIVED, claim, job, receive
from worker import prepare
from worker.retention import _remove_files

# the SQL is tried on every database elsewhere; here it is the steps that matter
pytestmark = pytest.mark.parametrize("empty_database_url", ["sqlite"], indirect=True)

STUDY = RECEIVED.study_uid


@pytest.fixture(autouse=True)
def _no_decoder_stays() -> Iterator[None]:
    yield
    prepare.decoder(os.getpid()).close()
    prepare.decoder.cache_clear()


def test_a_radiograph_that_comes_meanwhile_has_its_turn_afterwards(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    receive(sop_class_uid=str(SecondaryCaptureImageStorage))

    def interrupted(image: Instance) -> Preparation:
        receive(uid="1.2.3")
        return Preparation(image.uid, not_assessed_because="it is a secondary capture")

    monkeypatch.setattr(prepare, "_prepared", interrupted)
    held = claim(PREPARE, STUDY)
    assert held is not None
    [bell] = prepare._prepare(held)
    assert (bell.kind, job(PREPARE, STUDY).state) == (PREPARE, JobState.WAITING)
    with transaction() as session:
        assert session.get_one(Study, STUDY).state == StudyState.NOT_READ
        assert [each.kind for each in jobs.of_study(session, STUDY)] == [PREPARE]


@pytest.mark.parametrize("content", [b"no radiograph", b""])
def test_of_an_image_that_is_not_read_nothing_prepared_stays(
    database_url: str, tmp_path: Path, content: bytes
) -> None:
    store, file = Store(settings().store), tmp_path / "sent.dcm"
    ds = phantom(1, "Normal", rows=60, columns=50, study_uid=STUDY, view_position="LL")
    if content:
        file.write_bytes(content)
    else:
        ds.save_as(file, enforce_file_format=True)
    receive(uid=ds.SOPInstanceUID, path=store.place(file, INSTANCES, ds.SOPInstanceUID))
    folder = store.path(store.folder(PREPARED, ds.SOPInstanceUID))
    (folder / "input.npy.aside").write_bytes(b"what a decoder left that was killed")
    held = claim(PREPARE, STUDY)
    assert held is not None
    prepare._prepare(held)
    with transaction() as session:
        [image] = studies.images(session, STUDY)
    assert image.not_assessed_because
    assert not folder.exists()


def test_an_image_whose_file_is_lost_holds_up_no_other_and_is_read_once_it_comes_again(
    database_url: str, tmp_path: Path
) -> None:
    store = Store(settings().store)
    paths = {}
    for number in (1, 2):
        ds = phantom(number, "Normal", rows=300, columns=280, study_uid=STUDY)
        ds.save_as(tmp_path / "sent.dcm", enforce_file_format=True)
        paths[ds.SOPInstanceUID] = store.place(tmp_path / "sent.dcm", INSTANCES, ds.SOPInstanceUID)
        receive(uid=ds.SOPInstanceUID, path=paths[ds.SOPInstanceUID])
    lost, path = next(iter(paths.items()))
    content = store.path(path).read_bytes()
    store.path(path).unlink()
    store.root.rename(tmp_path / "away")
    prepare.prepare_study(STUDY)
    assert (job(PREPARE, STUDY).state, job(PREPARE, STUDY).attempts) == (JobState.WAITING, 0)
    shutil.rmtree(store.root)  # what was made in the place of a store that is not mounted
    (tmp_path / "away").rename(store.root)
    _prepare_now()
    with transaction() as session:
        told = {image.uid: image.not_assessed_because for image in studies.images(session, STUDY)}
        assert ledger.known(session, paths) == paths.keys() - {lost}
    [check] = doctor._missing(settings())
    assert check.found == f"the files of 1 image are missing: of study {STUDY}"
    assert told == dict.fromkeys(paths) | {lost: FILE_LOST}
    assert job(PREPARE, STUDY).state == JobState.DONE
    assert job(CLASSIFY, STUDY).state == JobState.WAITING
    store.path(path).write_bytes(content)
    record = receive(uid=lost, path=path)
    assert (record.kind, record.ring) == (Recorded.AGAIN, True)
    _prepare_now()
    with transaction() as session:
        assert all(image.prepared_path for image in studies.images(session, STUDY))


def _prepare_now() -> None:
    with transaction() as session:
        jobs.hurry(session, PREPARE, [STUDY])
    prepare.prepare_study(STUDY)
    assert job(PREPARE, STUDY).error is None


def test_a_lost_file_that_comes_again_just_then_is_not_taken_for_lost(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Store(settings().store).write(b"a radiograph", INSTANCES, "1.2.3")
    receive(uid="1.2.3", path=path)
    lost = Preparation("1.2.3", not_assessed_because=FILE_LOST, broken=True)
    monkeypatch.setattr(prepare, "_prepared", lambda image: lost)
    prepare.prepare_study(STUDY)
    assert job(PREPARE, STUDY).state == JobState.WAITING
    with transaction() as session:
        assert not session.get_one(Instance, "1.2.3").broken


@pytest.mark.parametrize("when", ["before it is spared", "after it"])
def test_what_is_prepared_where_a_crash_left_something_is_not_taken_away_with_it(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    store, file = Store(settings().store), tmp_path / "sent.dcm"
    ds = phantom(1, "Normal", rows=300, columns=280, study_uid=STUDY)
    ds.save_as(file, enforce_file_format=True)
    receive(uid=ds.SOPInstanceUID, path=store.place(file, INSTANCES, ds.SOPInstanceUID))
    folder, really = store.folder(PREPARED, ds.SOPInstanceUID), prepare._prepared

    def while_orphans_are_looked_for(image: Instance) -> Preparation:
        with transaction() as session:
            retention.discard(session, folder)
        made = really(image)
        if when == "before it is spared":
            os.utime(store.path(folder), (1, 1))  # as old as it was when the sweep looked
            _remove_files()
        return made

    monkeypatch.setattr(prepare, "_prepared", while_orphans_are_looked_for)
    prepare.prepare_study(STUDY)
    _remove_files()
    if when == "after it":
        assert job(PREPARE, STUDY).state == JobState.DONE and store.path(folder).exists()
    else:
        assert (job(PREPARE, STUDY).state, job(PREPARE, STUDY).attempts) == (JobState.WAITING, 0)
        monkeypatch.setattr(prepare, "_prepared", really)
        _prepare_now()
        assert (store.path(folder) / INPUT_FILE).exists()
