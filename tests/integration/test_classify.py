"""Classifying a study: what the network takes for no frontal chest radiograph is kept, and not assessed."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from rich.console import Console

from console.record import study_report
from db import findings, reports, studies
from db.session import transaction
from db.tables import ObjectKind, Study
from hilum.engine import choose_engine
from hilum.errors import NotARadiograph, Undecodable
from hilum.network import load_artefact, shipped
from hilum.phantom import phantom
from hilum.queue import CLASSIFY, PREPARE, REPORT
from hilum.radiograph import network_input, to_display
from hilum.settings import settings
from hilum.store import INSTANCES, Store
from hilum.strangeness import LIMIT
from tests.conftest import SettingsChange
from tests.peers.studies import RECEIVED, claim, receive
from worker import classify, prepare, reader, report
from worker.appearance import SIGNS

# the SQL is tried on every database elsewhere; here it is the steps that matter
sqlite = pytest.mark.parametrize("empty_database_url", ["sqlite"], indirect=True)

STUDY = RECEIVED.study_uid
BECAUSE = "it does not look like a frontal chest radiograph to the network"


@pytest.fixture(autouse=True)
def _no_decoder_and_no_network_stays(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    fresh = reader.Readers()
    monkeypatch.setattr(reader, "readers", fresh)
    monkeypatch.setattr(classify, "readers", fresh)
    yield
    prepare.decoder(os.getpid()).close()
    prepare.decoder.cache_clear()


@sqlite
def test_a_radiograph_that_lies_upside_down_or_is_inverted_is_not_assessed(
    database_url: str, hilum_env: SettingsChange, tmp_path: Path
) -> None:
    hilum_env(device="cpu")
    chest, upside_down, inverted = (_receive(tmp_path, seed) for seed in (1, 2, 3))
    _work()
    assert _why() == {chest: None, upside_down: BECAUSE, inverted: BECAUSE}
    with transaction() as session:
        found = findings.of_study(session, STUDY)
        assert found.keys() == {chest, upside_down, inverted}
        assert all((each.statistics or {}).keys() == SIGNS.keys() for each in found.values())
        assert all(each.engine.startswith("openvino ") for each in found.values())
        newest = reports.latest(session, STUDY)
        assert newest is not None
        assert sorted(each.kind for each in newest.objects) == [ObjectKind.SC, ObjectKind.SR]
        told = Console(width=250)
        with told.capture() as shown:
            told.print(study_report(session, session.get_one(Study, STUDY)))
    assert shown.get().count(f"not assessed: {BECAUSE}") == 2


def _receive(folder: Path, seed: int) -> str:
    """A phantom, the second one upside down and the third one with bone black."""
    ds = phantom(seed, "Normal", rows=500, columns=420, study_uid=STUDY)
    if seed == 2:
        ds.PixelData = ds.pixel_array[::-1].tobytes()
    if seed == 3:
        ds.PhotometricInterpretation = "MONOCHROME1"
    file = folder / "sent.dcm"
    ds.save_as(file, enforce_file_format=True)
    receive(uid=ds.SOPInstanceUID, path=Store(settings().store).place(file, INSTANCES, ds.SOPInstanceUID))
    return str(ds.SOPInstanceUID)


def _work() -> None:
    """Do all there is to do for the study, as the workers would."""
    for kind, steps in (
        (PREPARE, prepare._prepare),
        (CLASSIFY, classify._classify),
        (REPORT, report._report),
    ):
        held = claim(kind, STUDY)
        assert held is not None
        steps(held)


def _why() -> dict[str, str | None]:
    """SOP Instance UID -> why the image is not assessed."""
    with transaction() as session:
        said = findings.of_study(session, STUDY)
        images = studies.images(session, STUDY)
        return {image.uid: findings.why_not_assessed(image, said.get(image.uid)) for image in images}


FRONTAL = ("covid-chest-imaging-database", "dicom-test-files__RG1", "pydicom-data__RG1")
"""How the names begin of the files that show a chest from the front."""


@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's remarks on broken values
def test_of_real_files_only_frontal_chest_radiographs_look_like_one(shared_data: Path) -> None:
    frontal: list[float] = []
    others: list[float] = []
    engine = choose_engine(load_artefact(shipped()), "cpu")
    for file in _real_files(shared_data / "dicom"):
        try:
            image = network_input(to_display(dcmread(file, force=True)))
        except (NotARadiograph, Undecodable):
            continue
        (frontal if file.name.startswith(FRONTAL) else others).append(float(engine.read(image[None]).ood[0]))
    assert len(frontal) == 3
    assert len(others) > 30  # of other modalities, teeth, and a dog from the side
    assert max(frontal) < min(others)
    assert np.mean(np.array(others) > LIMIT) > 0.95


def _real_files(folder: Path) -> list[Path]:
    return [*sorted((folder / "chest").glob("*.dcm")), *sorted((folder / "variety").glob("*.dcm"))]
