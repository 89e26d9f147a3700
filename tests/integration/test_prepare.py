"""Preparing a study: what follows from its images, and what stays on disk of those that are not read."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.uid import SecondaryCaptureImageStorage

from db import jobs, studies
from db.session import transaction
from db.studies import Preparation
from db.tables import Instance, JobState, Study, StudyState
from hilum.phantom import phantom
from hilum.queue import PREPARE
from hilum.settings import settings
from hilum.store import INSTANCES, PREPARED, Store
from tests.peers.studies import RECEIVED, claim, job, receive
from worker import prepare

# the SQL is tried on every database elsewhere; here it is the steps that matter
pytestmark = pytest.mark.parametrize("empty_database_url", ["sqlite"], indirect=True)

STUDY = RECEIVED.study_uid


@pytest.fixture(autouse=True)
def _no_decoder_stays() -> Iterator[None]:
    yield
    prepare._decoder(os.getpid()).close()
    prepare._decoder.cache_clear()


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
