"""What `hilum export` gives away, what it keeps, and that others can train on it."""

import csv
import hashlib
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from pydicom import Dataset, dcmread
from pydicom.uid import UID
from sqlalchemy import select
from typer.testing import CliRunner

from console import cli
from console.cli.terminal import NotThere
from console.export import CannotExport, _chosen
from db import audit, exports, studies
from db.exports import Candidate, Choice
from db.schema import upgrade
from db.session import transaction
from db.studies import Preparation, Received
from db.tables import Audit, Instance, Role, Verdict
from hilum.eligibility import View
from hilum.errors import SettingsError
from hilum.phantom import phantom
from hilum.radiograph import pixel_hash
from hilum.settings import settings
from hilum.store import INSTANCES, Store
from tests.conftest import SettingsChange
from tests.integration.examples import an_object
from training import reader

Kept = Callable[..., Dataset]


@pytest.fixture
def kept(tmp_path: Path, hilum_env: SettingsChange) -> Kept:
    """Call it with attributes: such a chest is in the store and the database, assessed, maybe labelled."""
    upgrade(settings().database)
    return lambda seed, label="", **attributes: _keep(
        _chest(seed, **attributes), label, tmp_path / "sent.dcm"
    )


@cache
def _drawn() -> Dataset:
    return phantom(1, "Normal", rows=400, columns=330)


def _chest(seed: int, words: str = "", **attributes: Any) -> Dataset:
    ds = deepcopy(_drawn())
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = UID(f"1.2.3.{seed}.1")
    ds.StudyInstanceUID, ds.SeriesInstanceUID = f"1.2.3.{seed}", f"1.2.3.{seed}.0"
    usual = {
        "PatientID": f"ZQ{seed}",
        "PatientName": "ZQ^Eva",
        "StudyDate": "20261103",
        "StudyTime": "091500",
    }
    for keyword, value in (usual | attributes).items():
        setattr(ds, keyword, value)
    if words:
        picture = Image.fromarray(ds.pixel_array.astype(np.int32))
        ImageDraw.Draw(picture).text((30, 370), words, fill=4000, font=ImageFont.load_default(20))
        ds.PixelData = np.asarray(picture).astype("<u2").tobytes()
    return ds


def _keep(ds: Dataset, label: str, sent: Path) -> Dataset:
    ds.save_as(sent, enforce_file_format=True)
    received = Received(
        uid=ds.SOPInstanceUID,
        study_uid=ds.StudyInstanceUID,
        series_uid=ds.SeriesInstanceUID,
        sop_class_uid=ds.SOPClassUID,
        transfer_syntax_uid=ds.file_meta.TransferSyntaxUID,
        sender_ae="ZQROOM",
        path=Store(settings().store).write(sent.read_bytes(), INSTANCES, ds.SOPInstanceUID),
        size_bytes=sent.stat().st_size,
        pixel_digest="",
        patient_id=ds.PatientID,
        accession_number=ds.AccessionNumber,
        study_date=ds.StudyDate,
    )
    with transaction() as session:
        studies.record(session, received, settle_s=0)
        studies.save_preparations(session, [Preparation(ds.SOPInstanceUID, View.PA, "somewhere")])
        if label:
            session.add(Verdict(uid=ds.SOPInstanceUID, label=label, author="ann", source="console"))
    return ds


def export(*arguments: str) -> str:
    result = CliRunner().invoke(cli.app, ["export", *arguments])
    if result.exception:
        raise result.exception
    return result.output


def lines_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_an_export_can_be_trained_on_and_names_nobody(kept: Kept, tmp_path: Path) -> None:
    first = kept(1, "COVID-19", PatientSex="F", PatientAge="093Y")
    kept(2, "Normal", PatientID="ZQ1"), kept(3)
    said = export("--out", str(tmp_path / "out"))
    assert "3 images of 2 patients" in said and "2 of them labelled" in said

    labelled = lines_of(tmp_path / "out" / "manifest.csv")
    assert sorted(line["class"] for line in labelled) == ["COVID-19", "Normal"]
    assert len({line["patient_id"] for line in labelled}) == 1  # the same patient's
    assert [line["class"] for line in lines_of(tmp_path / "out" / "unlabelled.csv")] == [""]
    [one] = [line for line in labelled if line["class"] == "COVID-19"]
    assert (one["view"], one["sex"], one["age"]) == (first.ViewPosition, "F", "90")
    content = (tmp_path / "out" / one["file"]).read_bytes()
    assert hashlib.sha256(content).hexdigest() == one["sha256"]
    assert pixel_hash(dcmread(tmp_path / "out" / one["file"])) == pixel_hash(first)

    images = reader.read(tmp_path / "out", cache=tmp_path / "cache")
    assert len(images) == 2 and np.isfinite(images.ages_years).any()
    for file in (tmp_path / "out").rglob("*"):
        assert b"ZQ" not in str(file).encode()
        content = file.read_bytes() if file.is_file() else b""
        assert b"ZQ" not in content and b"20261103" not in content


def test_what_shows_text_stays_until_a_person_has_looked(kept: Kept, tmp_path: Path) -> None:
    kept(1), (written := kept(2, words="ZQ^EVA 12.03.1961")), (said := kept(3, BurnedInAnnotation="YES"))
    assert "2 objects stayed behind" in export("--out", str(tmp_path / "out"))
    stayed = lines_of(tmp_path / "out.stayed-behind.csv")
    reasons = {line["sop_instance_uid"]: line["because"] for line in stayed}
    assert reasons.keys() == {written.SOPInstanceUID, said.SOPInstanceUID}
    assert "seem to show text (rows 3" in reasons[written.SOPInstanceUID]
    assert (tmp_path / "out.stayed-behind.csv").stat().st_mode & 0o777 == 0o600

    looked = tmp_path / "looked.txt"
    looked.write_text(f"{said.SOPInstanceUID}\n")
    assert "1 object stayed behind" in export("--out", str(tmp_path / "two"), "--looked-at", str(looked))
    export("--out", str(tmp_path / "three"), "--looked-at", str(tmp_path / "out.stayed-behind.csv"))
    assert len(lines_of(tmp_path / "three" / "unlabelled.csv")) == 3


def test_what_cannot_leave_is_listed_with_its_reason(kept: Kept, tmp_path: Path) -> None:
    kept(1)
    ours, other, gone, broken, lateral = (kept(seed) for seed in range(2, 7))
    store = Store(settings().store)
    with transaction() as session:
        session.get_one(Instance, ours.SOPInstanceUID).role = Role.OURS
        session.get_one(Instance, other.SOPInstanceUID).role = Role.OTHER
        store.path(session.get_one(Instance, gone.SOPInstanceUID).path).unlink()
        store.path(session.get_one(Instance, broken.SOPInstanceUID).path).write_bytes(b"no DICOM" * 99)
        session.get_one(Instance, lateral.SOPInstanceUID).not_assessed_because = "the view is lateral"
    export("--out", str(tmp_path / "out"))
    stayed = {
        line["sop_instance_uid"]: line["because"] for line in lines_of(tmp_path / "out.stayed-behind.csv")
    }
    assert stayed[ours.SOPInstanceUID] == "it is a report or heat map of ours"
    assert stayed[other.SOPInstanceUID] == "it is no image"
    assert stayed[gone.SOPInstanceUID] == "its file is not there"
    assert "cannot be read" in stayed[broken.SOPInstanceUID]
    assert stayed[lateral.SOPInstanceUID] == "the view is lateral"
    assert len(stayed) == 5 and len(list((tmp_path / "out" / "images").iterdir())) == 1


def test_studies_are_chosen_by_day_label_and_name(database_url: str) -> None:
    studies_of = {"1.1": "20250101", "1.2": "20261103", "1.3": "", "1.4": "20261103"}
    with transaction() as session:
        for study_uid, day in studies_of.items():
            received = an_object(
                study_uid=study_uid, series_uid=study_uid, study_date=day, phantom=study_uid == "1.4"
            )
            studies.record(session, received, settle_s=0)
            studies.save_preparations(session, [Preparation(received.uid, View.PA, "somewhere")])
            if study_uid in ("1.1", "1.2"):
                session.add(Verdict(uid=received.uid, label="Other", author="ann", source="console"))
            if study_uid == "1.1":  # they do not agree
                session.add(Verdict(uid=received.uid, label="Normal", author="bob", source="console"))

    def chosen(study_uids: Sequence[str] = (), **how: Any) -> list[str]:
        with transaction() as session:
            choice = Choice(study_uids, **how)
            page = exports.page(session, choice, after="", most=9)
            assert exports.count(session, choice) == len(page)
            return sorted(each.study.study_uid for each in page)

    assert chosen() == ["1.1", "1.2", "1.3"]
    assert chosen(last_day="20251231") == ["1.1"]
    assert chosen(first_day="20250101", last_day="20261231") == ["1.1", "1.2"]
    assert chosen(first_day="20261103", last_day="20261103") == ["1.2"]
    assert chosen(labelled=True) == ["1.2"]
    assert chosen(["1.3", "1.1"]) == ["1.1", "1.3"]


def test_nobody_is_kept_from_writing_while_an_export_goes_through_studies(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("db.session.BUSY_TIMEOUT_S", 1)
    monkeypatch.setattr("console.export._PAGE", 2)
    with transaction() as session:
        for _ in range(5):
            studies.record(session, an_object(), settle_s=0)
    chosen = list[Candidate]()
    for each in _chosen(Choice()):
        chosen.append(each)
        with transaction() as session:  # as the listener does
            audit.note(session, actor="ann", action="write")
    assert len(chosen) == 5


def test_what_is_not_there_is_told(kept: Kept, tmp_path: Path) -> None:
    ds = kept(1)
    with pytest.raises(CannotExport, match="no such studies"):
        export("--out", str(tmp_path / "out"), "--labelled", ds.PatientID)
    with pytest.raises(NotThere, match="no study has"):
        export("--out", str(tmp_path / "out"), "unheard of")


def test_each_study_that_leaves_is_in_the_audit_and_none_that_stays(kept: Kept, tmp_path: Path) -> None:
    went = kept(1)
    kept(2, BurnedInAnnotation="YES")
    export("--out", str(tmp_path / "out"))
    (tmp_path / "looked.txt").write_text("1.2.3.2.1\n")
    export("--out", str(tmp_path / "two"), "--looked-at", str(tmp_path / "looked.txt"), "1.2.3.2")
    with transaction() as session:
        first, second = session.scalars(select(Audit).where(Audit.action == "export").order_by(Audit.id))
        assert (first.study_uid, first.detail, bool(first.actor)) == (went.StudyInstanceUID, "to out", True)
        assert (second.study_uid, second.detail) == ("1.2.3.2", "to two, after a look at its text")


def test_the_same_key_gives_the_same_names_and_another_is_made_only_when_asked_for(
    kept: Kept, tmp_path: Path
) -> None:
    kept(1, "Normal")
    for name in ("one", "two"):
        export("--out", str(tmp_path / name))
    assert lines_of(tmp_path / "one" / "manifest.csv") == lines_of(tmp_path / "two" / "manifest.csv")
    (settings().data_dir / "pseudonyms.key").unlink()
    with pytest.raises(SettingsError, match="the key of earlier exports is gone"):
        export("--out", str(tmp_path / "three"))
    export("--out", str(tmp_path / "three"), "--new-key")
    [one], [three] = (lines_of(tmp_path / name / "manifest.csv") for name in ("one", "three"))
    assert not set(one.values()) & set(three.values()) - {"Normal", one["view"], one["sex"], one["age"], ""}


def test_a_folder_that_is_there_is_left_as_it_is(kept: Kept, tmp_path: Path) -> None:
    kept(1)
    (tmp_path / "out").mkdir()
    with pytest.raises(CannotExport, match="is there already"):
        export("--out", str(tmp_path / "out"))
    assert list((tmp_path / "out").iterdir()) == []


def test_an_export_that_fails_leaves_no_folder_and_no_audit(kept: Kept, tmp_path: Path) -> None:
    kept(1, BurnedInAnnotation="YES")
    with pytest.raises(CannotExport, match="nothing of this may leave"):
        export("--out", str(tmp_path / "out"))
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == ["out.stayed-behind.csv"]
    with transaction() as session:
        assert session.scalars(select(Audit)).all() == []
