import csv
import hashlib
import logging
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hilum import phantom
from hilum.network import LABELS
from hilum.radiograph import network_input, to_display
from tests.unit import recipes
from tests.unit.images import radiograph, save
from training import reader
from training.reader import UnusableData

CLASSES = {"Normal": "normal", "Pneumonia": "pneumonia", "COVID-19": "covid19", "Other": "other"}


def picture(file: Path, seed: int = 0) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(20, 230, (120, 100), dtype=np.uint8)
    Image.fromarray(noise).save(file)
    return file


def manifest(folder: Path, *rows: dict[str, str], name: str = "manifest.csv") -> Path:
    with (folder / name).open("w", newline="", encoding="utf-8") as lines:
        writer = csv.DictWriter(lines, sorted({column for row in rows for column in row}))
        writer.writeheader()
        writer.writerows(rows)
    return folder / name


def test_a_manifest_says_what_is_known_of_each_image(tmp_path: Path) -> None:
    files = [picture(tmp_path / f"{seed}.png", seed) for seed in range(2)]
    known = {"patient_id": "P1", "source_dataset": "NIH", "view": "AP Supine", "sex": "m", "age": "47"}
    unknown = {"view": "lateral", "sex": "X", "age": ""}
    manifest(
        tmp_path,
        {"file": "0.png", "class": "covid19"} | known,
        {"file": "1.png", "class": "Other", "patient_id": "P2"} | unknown,
    )
    images = reader.read(tmp_path, cache=tmp_path / "cache")
    assert [LABELS[label] for label in images.labels] == ["COVID-19", "Other"]
    assert images.sources.tolist() == ["NIH", tmp_path.name]
    assert images.patients.tolist() == ["P1", "P2"]
    assert images.views.tolist() == ["AP", ""]
    assert images.sexes.tolist() == ["M", ""]
    np.testing.assert_array_equal(images.ages_years, [47, np.nan])
    assert images.digests.tolist() == [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]


def test_another_manifest_and_its_short_column_names_do_too(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png")
    rows = {"file": "a.png", "class": "normal", "patient": "P1", "source": "ours"}
    listed = manifest(tmp_path, rows, name="some.csv")
    listed.write_text("\ufeff" + listed.read_text(), encoding="utf-8")  # as spreadsheets do
    images = reader.read(tmp_path / "images", manifest=listed, cache=tmp_path / "cache")
    assert (images.patients.tolist(), images.sources.tolist()) == (["P1"], ["ours"])


@pytest.mark.parametrize("names", [tuple(CLASSES), tuple(CLASSES.values()), ("NORMAL", "Covid_19")])
def test_a_folder_s_name_is_the_class_however_it_is_written(tmp_path: Path, names: tuple[str, ...]) -> None:
    for seed, name in enumerate(names):
        picture(tmp_path / name / "deeper" / f"{seed}.png", seed)
    collection = reader.collect(tmp_path, cache=tmp_path / ".hilum-cache")
    said = {
        Path(name).parts[0]: int(label)
        for name, label in zip(collection.names, collection.images.labels, strict=True)
    }
    plain = [name.lower().replace("-", "").replace("_", "") for name in names]
    assert {name: LABELS[label] for name, label in said.items()} == {
        name: {short: label for label, short in CLASSES.items()}[short]
        for name, short in zip(names, plain, strict=True)
    }


def test_what_dicom_files_say_is_taken_from_them_and_they_are_seen_as_at_work(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    ds = phantom.phantom(7, "Other", rows=320, columns=262)
    save(ds, tmp_path / "other" / "1.2.3.4")
    images = reader.read(tmp_path, cache=tmp_path / ".hilum-cache")
    assert images.patients.tolist() == [ds.PatientID]
    assert images.views.tolist() == ["PA"]
    assert images.sexes.tolist() == [ds.PatientSex]
    assert images.ages_years.tolist() == [int(ds.PatientAge[:3])]
    np.testing.assert_array_equal(images.pixels[0], network_input(to_display(ds)))


def test_a_manifest_knows_better_than_a_dicom_file(tmp_path: Path) -> None:
    save(radiograph(PatientID="in the file", PatientSex="F"), tmp_path / "a.dcm")
    manifest(tmp_path, {"file": "a.dcm", "class": "normal", "patient_id": "P1", "sex": "M", "view": ""})
    images = reader.read(tmp_path, cache=tmp_path / "cache")
    assert (images.patients.tolist(), images.sexes.tolist()) == (["P1"], ["M"])
    assert images.views.tolist() == ["PA"]  # the file's: the manifest does not say


def test_images_of_nobody_known_are_patients_of_their_own_and_the_risk_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for seed in range(3):
        picture(tmp_path / "normal" / f"{seed}.png", seed % 2)
    with caplog.at_level(logging.WARNING):
        images = reader.read(tmp_path, cache=tmp_path / ".hilum-cache")
    assert "3 of 3 images do not say whose they are" in caplog.text
    assert len(set(images.patients)) == 2  # copies of one image are one patient's
    assert images.patients[0] == images.patients[2]


def test_one_error_names_all_that_cannot_be_used(tmp_path: Path) -> None:
    picture(tmp_path / "good.png")
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    manifest(
        tmp_path,
        {"file": "good.png", "class": "normal"},
        {"file": "broken.jpg", "class": "normal"},
        {"file": "missing.png", "class": "normal"},
        {"file": "good.png", "class": "pneunomia"},
        {"file": "good.png", "class": "normal", "age": "old"},
        {"file": "good.png", "class": "normal", "sha256": "0" * 64},
        {"file": "", "class": "normal"},
    )
    with pytest.raises(UnusableData) as refused:
        reader.read(tmp_path, cache=tmp_path / "cache")
    for words in (
        "cannot be used (5)",
        "broken.jpg: it is no picture",
        "missing.png: No such file",
        "'pneunomia' is no class",
        "'old' is no age",
        "a row without a file",
    ):
        assert words in str(refused.value)


def test_a_file_that_is_not_the_manifest_s_is_refused(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    manifest(tmp_path, {"file": "a.png", "class": "normal", "sha256": "0" * 64})
    with pytest.raises(UnusableData, match=r"a\.png: its sha256"):
        reader.read(tmp_path, cache=tmp_path / "cache")


def test_of_many_the_first_ten_are_named(tmp_path: Path) -> None:
    manifest(tmp_path, *({"file": f"{number}.png", "class": "normal"} for number in range(12)))
    with pytest.raises(UnusableData, match=r"cannot be used .12.(.*\n)+.*9\.png.*\n\.\.\. and 2 more"):
        reader.read(tmp_path, cache=tmp_path / "cache")


def test_a_folder_that_is_no_class_is_refused_and_other_files_are_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    picture(tmp_path / "normal" / "a.png")
    (tmp_path / "normal" / "notes.txt").write_text("mine")
    (tmp_path / "normal" / ".DS_Store").touch()
    with caplog.at_level(logging.WARNING):
        assert len(reader.read(tmp_path, cache=tmp_path / ".hilum-cache")) == 1
    assert "1 files are passed over" in caplog.text
    picture(tmp_path / "pneunomia" / "a.png")
    with pytest.raises(UnusableData, match="pneunomia/: the folder's name is no class"):
        reader.read(tmp_path, cache=tmp_path / ".hilum-cache")


@pytest.mark.parametrize("has", ["nothing", "a manifest without columns"])
def test_data_without_labels_say_how_to_give_them(tmp_path: Path, has: str) -> None:
    if has != "nothing":
        manifest(tmp_path, {"path": "a.png", "class": "normal"})
    with pytest.raises(UnusableData, match="columns file and class"):
        reader.read(tmp_path, cache=tmp_path / ".hilum-cache")


def test_the_cache_lies_beside_the_images_unless_they_cannot_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert reader.default_cache(tmp_path) == tmp_path / ".hilum-cache"
    (tmp_path / ".hilum-cache" / "theirs").mkdir(parents=True)
    assert reader.default_cache(tmp_path) == tmp_path / ".hilum-cache"
    with monkeypatch.context() as other_user:
        other_user.setattr("os.geteuid", lambda: 12345)
        assert reader.default_cache(tmp_path) == tmp_path / "xdg" / "hilum"
    monkeypatch.setattr("os.access", lambda *_: False)
    assert reader.default_cache(tmp_path) == tmp_path / "xdg" / "hilum"


def test_real_radiographs_come_from_their_manifest(shared_data: Path, tmp_path: Path) -> None:
    everything = (shared_data / "cxr" / "manifest.csv").read_text().splitlines()
    (tmp_path / "some.csv").write_text("\n".join(everything[:1] + everything[1::200]))
    images = reader.read(shared_data / "cxr", manifest=tmp_path / "some.csv", cache=tmp_path)
    assert images.pixels.shape == (10, 224, 224)
    assert images.pixels.std(axis=(1, 2)).min() > 20
    assert {"M", "F"} >= set(images.sexes)


def test_real_dicom_radiographs_come_too(shared_data: Path, tmp_path: Path) -> None:
    (tmp_path / "normal").symlink_to(shared_data / "dicom" / "chest")
    images = reader.read(tmp_path, cache=tmp_path / ".hilum-cache")
    assert len(images) == 5
    assert not [patient for patient in images.patients if patient.startswith("image-")]


def test_a_manifest_without_its_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnusableData, match="name that folder too"):
        reader.read(None, manifest=manifest(tmp_path, {"file": "a.png", "class": "normal"}))


def test_a_manifest_does_not_reach_outside_its_folder(tmp_path: Path) -> None:
    picture(tmp_path / "secret.png")
    names = ("../secret.png", str(tmp_path / "secret.png"), "deeper/../../secret.png", "a\x00.png")
    (tmp_path / "images").mkdir()
    lines = ["file,class", *(f"{name},normal" for name in names)]
    (tmp_path / "images" / "manifest.csv").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(UnusableData, match=r"cannot be used .4") as refused:
        reader.read(tmp_path / "images", cache=tmp_path / "cache")
    assert str(refused.value).count("is no path below the folder") == 4


@pytest.mark.parametrize(
    "content", ["file,class\nä.png,normal".encode("latin-1"), b"file,class\n" + b"a" * 200_000 + b",normal"]
)
def test_a_manifest_that_is_no_csv_file_in_utf_8_is_refused_in_words(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manifest.csv").write_bytes(content)
    with pytest.raises(UnusableData, match="no CSV file in UTF-8"):
        reader.read(tmp_path, cache=tmp_path / "cache")


def test_files_whose_names_are_no_text_are_images_too(tmp_path: Path) -> None:
    picture(tmp_path / "normal" / "a.png").rename(
        Path(os.fsdecode(os.fsencode(tmp_path / "normal") + b"/\xff.png"))
    )
    assert len(reader.read(tmp_path, cache=tmp_path / ".hilum-cache")) == 1
    assert len(reader.read(tmp_path, cache=tmp_path / ".hilum-cache")) == 1


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "endless.dcm")
    manifest(tmp_path, {"file": "endless.dcm", "class": "normal"})
    with pytest.raises(UnusableData, match=r"endless\.dcm: it is no file"):
        reader.read(tmp_path, cache=tmp_path / "cache")


def test_images_that_would_not_be_assessed_at_work_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "other").mkdir()
    save(radiograph(PatientID="A"), tmp_path / "other" / "a.dcm")
    save(radiograph(PatientID="B", ViewPosition="LL"), tmp_path / "other" / "lateral.dcm")
    Image.new("L", (10, 10), 7).save(tmp_path / "other" / "tiny.png")
    for _ in range(2):  # the second time out of the cache
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert len(reader.read(tmp_path, cache=tmp_path / ".hilum-cache")) == 3
        assert "2 of 3 images would not be assessed at work" in caplog.text
        assert "the view is lateral (1); the image is only 10 pixels wide or high (1)" in caplog.text


def test_training_keeps_decoded_images_where_it_is_told(tmp_path: Path) -> None:
    train = pytest.importorskip("training.train")
    picture(tmp_path / "images" / "normal" / "a.png")
    train.gather(recipes.tiny(phantom_share=0.5), tmp_path / "images", None, cache=tmp_path / "cache")
    assert list((tmp_path / "cache").rglob("*.npy"))
    assert not (tmp_path / "images" / ".hilum-cache").exists()
