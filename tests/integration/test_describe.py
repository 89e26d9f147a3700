"""What `hilum data describe` shows of phantoms with shortcuts and copies among them."""

import csv
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")

from hilum import phantom
from hilum.network import LABELS
from tests.conftest import ROOT
from training import pictures

PATIENT = "patient-of-whom-nobody-may-read"
CLASSES = {"Normal": "normal", "Pneumonia": "pneumonia", "COVID-19": "covid19", "Other": "other"}
HOSTILE = "<img src=x>.png"


@dataclass(frozen=True)
class Described:
    page: str
    folder: Path


def draw(seed: int, label: str) -> Image.Image:
    return Image.fromarray((phantom.draw(seed, label, rows=160, columns=131) * 255).astype(np.uint8))


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Described:
    """48 phantoms: every COVID-19 comes from the source `dark`, whose images all have a black corner."""
    images, out = tmp_path_factory.mktemp("images"), tmp_path_factory.mktemp("page")
    rows = []
    for seed in range(48):
        label = LABELS[seed % 4]
        source = "dark" if label == "COVID-19" or seed % 8 == 1 else "bright"
        picture = draw(seed, label)
        if source == "dark":
            picture.paste(0, (0, 30, 60, 60))
        picture.save(images / f"{seed}.png")
        rows.append([f"{seed}.png", CLASSES[label], source, f"{PATIENT}-{seed}", "PA", "F", str(seed + 10)])
    draw(0, "Normal").save(images / HOSTILE)  # the same file under another patient and class
    rows.append([HOSTILE, "other", "bright", f"{PATIENT}-copy", "AP", "", ""])
    draw(3, "Other").resize((262, 320)).save(images / "larger.jpg", quality=80)
    rows.append(["larger.jpg", "other", "bright", f"{PATIENT}-larger", "", "M", "61"])
    with (images / "manifest.csv").open("w", newline="") as lines:
        header = ["file", "class", "source_dataset", "patient_id", "view", "sex", "age"]
        csv.writer(lines).writerows([header, *rows])
    done = subprocess.run(
        [sys.executable, "-m", "console.cli", "data", "describe", "--data", images, "--out", out / "new"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "index.html" in done.stdout
    return Described((out / "new" / "index.html").read_text(encoding="utf-8"), out / "new")


def words(page: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", page).split())


def test_the_page_opens_offline_with_all_its_pictures_beside_it(described: Described) -> None:
    pictures = re.findall(r'<img src="([^"]+)"', described.page)
    assert len(pictures) >= 8
    for name in pictures:
        with Image.open(described.folder / name) as picture:
            assert min(picture.size) > 100
    assert "http" not in described.page
    assert "<script" not in described.page


def test_classes_are_counted_by_source_view_sex_and_age(described: Described) -> None:
    text = words(described.page)
    assert "dark 0 6 12 0 18" in text
    assert "unknown 0 0 0 1 1" in text
    assert "10-19 3 3 2 2 10" in text


def test_the_shortcuts_are_named_in_words(described: Described) -> None:
    text = words(described.page)
    assert "The source can nearly always be told from the image" in text
    assert re.search(r"The class can \w+ be told from the source, COVID-19 best \(AUROC 0\.[89]\d\)", text)
    assert "Hold a network" in text


def test_copies_are_listed_by_their_files_and_across_patients(described: Described) -> None:
    text = words(described.page)
    assert "Files that occur more than once: 1; under several patients: 1; in several classes: 1" in text
    assert "0.png , &lt;img src=x&gt;.png" in text
    assert re.search(r"3\.png larger\.jpg (1\.000|0\.9\d\d)", text)


def test_a_file_s_name_cannot_become_part_of_the_page(described: Described) -> None:
    assert "<img src=x>" not in described.page


def test_no_patient_is_named(described: Described) -> None:
    assert PATIENT not in described.page
    assert not [path for path in described.folder.iterdir() if PATIENT in path.name]


def test_children_and_unknown_ages_are_told(described: Described) -> None:
    assert "Of patients below 16, whom Hilum does not read: 6 images" in words(described.page)
    assert "Unknown, of so many images: view (1), sex (1), age (1)" in words(described.page)


def test_data_of_one_source_and_few_patients_have_a_page_too(tmp_path: Path) -> None:
    from training import describe, reader

    (tmp_path / "$images$" / "normal").mkdir(parents=True)
    draw(1, "Normal").save(tmp_path / "$images$" / "normal" / "a.png")
    collection = reader.collect(tmp_path / "$images$", cache=tmp_path)
    page = words(describe.describe(collection, "small", tmp_path / "page").read_text())
    assert (tmp_path / "page").stat().st_mode & 0o077 == 0  # it shows patients' images
    assert "Images: 1, of patients: 1" in page
    assert "too few patients" in page
    assert "COVID-19 is rare (0 images)" in page


def test_a_page_is_not_written_among_the_classes(tmp_path: Path) -> None:
    from training import describe, reader

    (tmp_path / "normal").mkdir()
    draw(1, "Normal").save(tmp_path / "normal" / "a.png")
    collection = reader.collect(tmp_path, cache=tmp_path / ".hilum-cache")
    with pytest.raises(reader.UnusableData, match="write elsewhere"):
        describe.describe(collection, "small", tmp_path / "page")
    assert not (tmp_path / "page").exists()


def test_more_sources_than_colours_are_drawn_as_one() -> None:
    rows = {f"source {number}": [number, 0, 0, 1] for number in range(9)}
    most = pictures._most(rows)
    assert list(most) == [*(f"source {number}" for number in range(3, 9)), "3 others"]
    assert most["3 others"].tolist() == [3, 0, 0, 3]
