"""`hilum predict`: files read here and now."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hilum import phantom
from hilum.errors import NetworkError
from hilum.network import LABELS
from tests.conftest import SettingsChange
from tests.unit.images import radiograph, save
from tests.unit.test_cli import run


@pytest.fixture(autouse=True)
def _defaults(hilum_env: SettingsChange) -> None:
    hilum_env()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One phantom as DICOM and as a picture, a lateral one, and what is neither."""
    folder = tmp_path_factory.mktemp("files")
    for name, view in (("chest.dcm", "PA"), ("lateral.dcm", "LL")):
        ds = phantom.phantom(7, "Pneumonia", rows=600, columns=500, view_position=view)
        ds.save_as(folder / name, enforce_file_format=True)
    drawn = phantom.draw(7, "Pneumonia", rows=600, columns=500)
    Image.fromarray((255 * drawn).round().astype(np.uint8)).save(folder / "chest.png")
    (folder / "letter.txt").write_text("neither")
    (folder / "broken.png").write_bytes(b"not a picture")
    return folder


def told(*arguments: str) -> tuple[int, dict[str, object], list[dict[str, object]]]:
    code, text = run("predict", "--json", *arguments)
    answer = json.loads(text)
    return code, answer, answer.pop("images")


def test_a_dicom_file_gets_a_finding_and_the_warning(folder: Path) -> None:
    code, text = run("predict", str(folder / "chest.dcm"))
    assert code == 0
    assert all(label in text for label in LABELS)
    assert "strangeness" in text
    assert "For research only. Not a medical device." in text


def test_programs_get_probabilities_and_what_read_them(folder: Path) -> None:
    code, about, [image] = told(str(folder / "chest.dcm"))
    assert code == 0
    assert about["engine"] == "openvino"
    assert about["use"] == "For research only. Not a medical device."
    probabilities = image["probabilities"]
    assert isinstance(probabilities, dict)
    assert image["label"] == max(probabilities, key=lambda label: probabilities[label])
    assert sum(probabilities.values()) == pytest.approx(1, abs=1e-3)
    assert image["not_assessed_because"] is image["wrong"] is None


@pytest.mark.parametrize("engine", ["onnxruntime", "torch"])
def test_every_engine_says_the_same(folder: Path, engine: str) -> None:
    if engine == "torch":
        pytest.importorskip("torch")
    _, _, [ours] = told(str(folder / "chest.dcm"))
    _, about, [theirs] = told(str(folder / "chest.dcm"), "--engine", engine)
    assert about["engine"] == engine
    assert theirs["probabilities"] == pytest.approx(ours["probabilities"], abs=0.02)


def test_a_picture_is_read_as_its_dicom_file_is(folder: Path) -> None:
    _, _, [ds, picture] = told(str(folder / "chest.dcm"), str(folder / "chest.png"))
    assert picture["probabilities"] == pytest.approx(ds["probabilities"], abs=0.05)


def test_what_is_not_assessed_is_no_failure_and_says_why(folder: Path) -> None:
    code, text = run("predict", str(folder / "lateral.dcm"))
    assert code == 0
    assert "not assessed, because the view is lateral" in text
    assert "strangeness" not in text


def test_what_is_strange_to_the_network_is_not_assessed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hilum.strangeness.LIMIT", -1.0)
    code, _, [image] = told(str(folder / "chest.dcm"))
    assert code == 0
    assert image["label"] is image["probabilities"] is None
    assert image["not_assessed_because"] == "it does not look like a frontal chest radiograph to the network"
    assert "strangeness" in run("predict", str(folder / "chest.dcm"))[1]


def test_a_bad_file_gets_words_and_the_others_go_on(folder: Path) -> None:
    names = ("letter.txt", "broken.png", "absent.dcm", "chest.dcm")
    code, _, images = told(*(str(folder / name) for name in names))
    assert code == 1
    assert [image["wrong"] is None for image in images] == [False, False, False, True]
    assert images[0]["wrong"] == "it is neither DICOM nor a JPEG or PNG picture"
    assert images[2]["wrong"] == "No such file or directory"
    assert images[3]["label"] in LABELS


def test_a_file_that_takes_all_memory_or_time_costs_no_other(
    folder: Path, tmp_path: Path, hilum_env: SettingsChange
) -> None:
    hilum_env(decode_memory_mb=256, decode_timeout_s=10)
    os.mkfifo(tmp_path / "endless.dcm")
    Image.fromarray(np.zeros((6000, 6000), np.uint16)).save(tmp_path / "huge.png", compress_level=1)
    files = (tmp_path / "endless.dcm", tmp_path / "huge.png", folder / "chest.dcm")
    code, _, images = told(*map(str, files))
    assert code == 1
    assert images[0]["wrong"] == "decoding took longer than 10 s"
    assert images[1]["wrong"] == "decoding needs more than 256 MB of memory"
    assert images[2]["label"] in LABELS


def test_a_file_is_known_by_what_it_holds_whatever_its_name(folder: Path, tmp_path: Path) -> None:
    for name, other in (("chest.png", "picture.dcm"), ("chest.png", "picture"), ("chest.dcm", "object.png")):
        (tmp_path / other).write_bytes((folder / name).read_bytes())
    code, _, images = told(*map(str, sorted(tmp_path.iterdir())))
    assert code == 0
    assert [image["label"] in LABELS for image in images] == [True] * 3


def test_words_that_quote_a_file_do_not_command_the_terminal(tmp_path: Path) -> None:
    file = save(radiograph(), tmp_path / "escape.dcm")
    file.write_bytes(file.read_bytes().replace(b"1.2.840.10008.1.2.1", b"1.2.3\x1b[2J1.2.3.4.5."))
    _, _, [image] = told(str(file))
    assert "'1.2.3 [2J1.2.3.4.5.' is not supported" in str(image["wrong"])


def test_hostile_files_get_words(shared_data: Path) -> None:
    files = sorted(file for file in (shared_data / "dicom" / "hostile").rglob("*.dcm"))[::8]
    code, _, images = told(*map(str, files))
    assert code == 1
    assert len(images) == len(files)
    assert all(image["wrong"] or image["not_assessed_because"] for image in images)


def test_a_heat_map_is_written_with_the_warning_in_it(folder: Path, tmp_path: Path) -> None:
    assert run("predict", str(folder / "chest.dcm"), "--heat-map", str(tmp_path / "heat.png"))[0] == 0
    with Image.open(tmp_path / "heat.png") as picture:
        assert max(picture.size) == 1024
        colours = np.asarray(picture.convert("RGB")).astype(int)
    assert ((colours[..., 0] - colours[..., 2]) > 60).mean() > 0.01, "nothing is coloured"
    assert (colours[-60:] == (255, 179, 64)).all(axis=-1).sum() > 100, "the warning's colour is missing"


def test_what_was_not_read_is_told_of_without_a_heat_map(folder: Path, tmp_path: Path) -> None:
    heat = tmp_path / "heat.png"
    code, text = run("predict", str(folder / "lateral.dcm"), "--json", "--heat-map", str(heat))
    assert code == 0
    assert "so there is no heat map of it" in text
    assert '"not_assessed_because": "the view is lateral"' in text
    assert not heat.exists()


@pytest.mark.parametrize("name", ["heat.xyz", "heat"])
def test_a_heat_map_of_no_known_kind_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    code, text = run("predict", str(folder / "chest.dcm"), "--heat-map", str(tmp_path / name))
    assert code == 2
    assert "png" in text


def test_a_heat_map_does_not_replace_what_it_is_of(folder: Path) -> None:
    content = (folder / "chest.png").read_bytes()
    code, text = run("predict", str(folder / "chest.png"), "--heat-map", str(folder / "." / "chest.png"))
    assert code == 2
    assert "it would replace" in text
    assert (folder / "chest.png").read_bytes() == content


def test_a_heat_map_is_of_one_file(folder: Path) -> None:
    code, text = run("predict", str(folder / "chest.dcm"), str(folder / "chest.png"), "--heat-map", "h.png")
    assert code == 2
    assert "of one file" in text


def test_an_unknown_engine_and_a_missing_network_are_said_in_words(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="openvino, onnxruntime, torch"):
        run("predict", str(folder / "chest.dcm"), "--engine", "tflite")
    with pytest.raises(NetworkError, match="There is no network in"):
        run("predict", str(folder / "chest.dcm"), "--network", str(tmp_path))
