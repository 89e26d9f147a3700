"""A network evaluated as people do it: by the command, on files."""

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")
pytest.importorskip("sklearn")

from console.cli.terminal import NotThere
from hilum.network import LABELS, load_artefact
from tests.conftest import SettingsChange
from tests.unit.artefacts import rewrite_manifest, untrained
from tests.unit.test_cli import run
from training import data, reader, report, split
from training.report import NotMeasured
from training.unseen import LEARNT, NothingUnseen, remembering, unseen

PATIENTS, HELD_OUT_PHANTOMS = 80, 24
COLUMNS = ("file", "class", "patient_id", "source", "view", "sex", "age")


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures with a manifest, as collections of radiographs come: two images a patient."""
    folder = tmp_path_factory.mktemp("collection")
    rng = np.random.default_rng(0)
    with (folder / "manifest.csv").open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(COLUMNS)
        for index in range(2 * PATIENTS):
            patient, name = index // 2, f"{index}.png"
            Image.fromarray(rng.integers(0, 255, (40, 40), np.uint8)).save(folder / name)
            known = (f"source-{patient % 3}", ("PA", "AP")[index % 2], ("F", "M")[patient % 2], 10 + patient)
            lines.writerow([name, LABELS[patient % 4], f"SECRET-{patient}", *known])
    return folder


@pytest.fixture(scope="module")
def network(collection: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that tells whom it learnt from and has its figures; beside it, the split."""
    folder = tmp_path_factory.mktemp("run") / "artefact"
    images = reader.read(collection, cache=folder.parent / "cache")
    parts = split.parts(images, (0.4, 0.2, 0.4), seed=1)
    split.write(folder.parent / "split.csv", images, parts)
    everything = data.together([images, data.phantoms(range(5, 5 + HELD_OUT_PHANTOMS))])
    parts = np.concatenate([parts, np.full(HELD_OUT_PHANTOMS, "test")])
    untrained(folder, "resnet18")
    about = {"digest": data.digest(everything, parts), **data.counts(everything, parts)}
    recipe = {"training_phantoms": 5 - HELD_OUT_PHANTOMS, "held_out_phantoms": HELD_OUT_PHANTOMS}
    rewrite_manifest(folder, recipe=recipe, data=about)
    report.measure(remembering(load_artefact(folder), everything, parts), everything, parts)
    return folder


@pytest.fixture
def evaluate(collection: Path, network: Path, hilum_env: SettingsChange, tmp_path: Path) -> "Evaluate":
    return Evaluate(collection, network, tmp_path)


class Evaluate:
    """Call it with arguments of the command: its status, what it printed, and its JSON file."""

    def __init__(self, collection: Path, network: Path, folder: Path) -> None:
        self.page = folder / "page.html"
        self._json = folder / "figures.json"
        self._always = ["evaluate", "--images", str(collection), "--cache", str(network.parent / "cache")]
        self._always += ["--json", str(self._json), "--network"]
        self.network = network

    def __call__(self, *arguments: str) -> tuple[int, str, dict[str, Any]]:
        status, text = run(*self._always, str(self.network), *arguments)
        return status, text, json.loads(self._json.read_text())


def test_only_patients_that_the_network_has_not_learnt_from_are_evaluated(
    evaluate: Evaluate, network: Path
) -> None:
    status, text, told = evaluate()
    assert status == 0
    learnt = (network / LEARNT).read_text().split()
    assert told["images"] == {
        "count": 2 * PATIENTS - len(learnt),
        "patients": PATIENTS - len(learnt) // 2,
        "part": "test",
        "learnt_from": 0,
    }
    assert "learnt from" not in text
    assert "radiographs" in text


def test_the_figures_are_those_of_the_card(evaluate: Evaluate) -> None:
    status, text, told = evaluate("--as-in-card")
    assert (status, told["differences"]) == (0, [])
    assert "as in the card" in text
    assert told["slices"]["phantoms"]["images"] == HELD_OUT_PHANTOMS


def test_a_card_that_says_more_than_is_so_is_found_out(
    evaluate: Evaluate, network: Path, tmp_path: Path
) -> None:
    flattered = tmp_path / "flattered"
    flattered.mkdir()
    for file in network.iterdir():
        (flattered / file.name).hardlink_to(file)
    metrics = json.loads((network / "manifest.json").read_text())["metrics"]
    metrics["view PA"]["accuracy"]["value"] += 0.2
    (flattered / "manifest.json").unlink()
    (flattered / "manifest.json").write_text((network / "manifest.json").read_text())
    rewrite_manifest(flattered, metrics=metrics)
    evaluate.network = flattered
    status, text, told = evaluate("--as-in-card")
    assert status == 1
    assert re.fullmatch(r"\['view PA: accuracy .*'\]", str(told["differences"]))
    assert "not as in the card" in text


def test_all_images_are_taken_when_asked_for_and_the_report_says_what_that_means(evaluate: Evaluate) -> None:
    status, text, told = evaluate("--part", "all", "--html", str(evaluate.page))
    assert status == 0
    assert told["images"]["count"] == 2 * PATIENTS
    assert told["images"]["learnt_from"] > 0
    assert "of patients it learnt from" in text
    assert "of patients whom the network learnt from" in evaluate.page.read_text()


def test_a_network_is_never_measured_on_patients_whom_it_knows(
    collection: Path, network: Path, tmp_path: Path
) -> None:
    images = reader.read(collection, cache=network.parent / "cache")
    other = load_artefact(shutil.copytree(network, tmp_path / "other"))
    is_new = unseen(other, images)
    swapped = np.where(np.arange(len(images)) < PATIENTS, "test", "validation")
    measured = report.measure(other, images, swapped)
    assert measured.manifest["metrics"]["radiographs"]["images"] == np.count_nonzero(is_new[:PATIENTS])
    assert len((other.folder / LEARNT).read_text().split()) == 2 * PATIENTS - np.count_nonzero(
        is_new[:PATIENTS]
    )


def test_a_split_s_test_part_is_taken_for_a_network_that_does_not_tell(
    evaluate: Evaluate, network: Path, tmp_path: Path
) -> None:
    evaluate.network = untrained(tmp_path / "silent", "resnet18")
    with pytest.raises(NothingUnseen):
        evaluate()
    with pytest.raises(NotMeasured):
        evaluate("--split", str(network.parent / "split.csv"), "--as-in-card")
    status, text, told = evaluate("--split", str(network.parent / "split.csv"))
    learnt = (network / LEARNT).read_text().split()
    assert (status, told["images"]["count"]) == (0, 2 * PATIENTS - len(learnt))
    assert "does not tell whom it learnt from" in text


def test_a_split_without_a_test_part_is_told(
    evaluate: Evaluate, collection: Path, network: Path, tmp_path: Path
) -> None:
    images = reader.read(collection, cache=network.parent / "cache")
    split.write(tmp_path / "split.csv", images, np.full(len(images), "train"))
    with pytest.raises(NothingUnseen, match="test part"):
        evaluate("--split", str(tmp_path / "split.csv"))


def test_a_folder_that_is_missing_is_told_before_anything_is_read(evaluate: Evaluate, tmp_path: Path) -> None:
    with pytest.raises(NotThere, match="no folder"):
        evaluate("--html", str(tmp_path / "nowhere" / "page.html"))


def test_the_page_needs_nothing_else_and_names_no_patient(evaluate: Evaluate) -> None:
    evaluate("--html", str(evaluate.page))
    page = evaluate.page.read_text()
    assert re.findall(r'(?:src|href)="(?!data:)', page) == []
    assert "<script" not in page
    assert "SECRET" not in page
    assert page.count("<img") > 20
    for text in ("Wrong, and sure of it", "Operating points", "view AP", "age 16-39", "source source-2"):
        assert text in page


def test_the_card_that_comes_with_it_has_the_same_figures(network: Path) -> None:
    card = (network / "MODEL_CARD.md").read_text()
    metrics = load_artefact(network).manifest["metrics"]
    assert f"| radiographs | {metrics['radiographs']['images']} |" in card
    assert "Class by class" in card


@pytest.mark.timeout(900)  # it reads 500 images, on a machine that may be busy
def test_the_shipped_network_is_as_good_as_its_card_says(
    shared_data: Path, hilum_env: SettingsChange, tmp_path: Path
) -> None:
    images, figures = shared_data / "cxr", tmp_path / "figures.json"
    always = ("evaluate", "--images", str(images), "--cache", str(tmp_path / "cache"), "--json", str(figures))
    status, text = run(*always, "--as-in-card")
    told = json.loads(figures.read_text())
    assert (status, told["differences"], told["images"]["learnt_from"]) == (0, [], 0)
    assert told["slices"]["radiographs"]["images"] > 100
    assert "as in the card" in text
