import json
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from hilum.errors import NetworkError
from hilum.network import (
    LABELS,
    add_file,
    head_of,
    load_artefact,
    load_network,
    normalise,
    shipped,
)
from tests.unit.artefacts import random_network, rewrite_manifest, untrained

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained(tmp_path_factory.mktemp("original"), "resnet18")


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "artefact"))


def test_what_is_saved_comes_back(folder: Path) -> None:
    artefact = load_artefact(folder)
    assert (artefact.version, artefact.labels, artefact.temperature) == ("untrained", LABELS, 1.5)
    assert artefact.manifest["metrics"] == {"accuracy": 0.25}
    assert artefact.manifest["created"] == "2026-01-02T00:00:00+00:00"


def test_the_weights_come_back_as_float16_keeps_them(folder: Path) -> None:
    kept = load_network(load_artefact(folder)).state_dict()
    made = random_network("resnet18").state_dict()
    assert torch.equal(kept["conv1.weight"], made["conv1.weight"].half().float())
    assert torch.equal(kept["bn1.running_var"], made["bn1.running_var"])


def test_the_head_is_the_network_s_own(folder: Path) -> None:
    artefact = load_artefact(folder)
    network, head = head_of(load_network(artefact)).state_dict(), artefact.head()
    np.testing.assert_array_equal(head.first_weight, network["1.weight"])
    np.testing.assert_array_equal(head.second_bias, network["4.bias"])


@pytest.mark.parametrize("name", ["weights.safetensors", "graph.onnx"])
def test_a_file_with_one_changed_byte_is_refused(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(NetworkError, match=f"{name} is not the file"):
        load_artefact(folder)


def test_a_tampered_manifest_is_refused(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["metrics"]["accuracy"] = 0.99
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(NetworkError, match="altered"):
        load_artefact(folder)


@pytest.mark.parametrize(
    ("name", "value"),
    [("architecture", "resnet18-256-4"), ("labels", ["Normal", "Other"]), ("preprocessing", "square-512-v7")],
)
def test_a_network_made_for_something_else_is_refused(folder: Path, name: str, value: object) -> None:
    rewrite_manifest(folder, **{name: value})
    with pytest.raises(NetworkError, match=name):
        load_artefact(folder)


@pytest.mark.parametrize(
    ("architecture", "told"), [("resnet34-512-4", "layer1"), ("resnet51-512-4", "'resnet51'")]
)
def test_weights_of_another_backbone_than_the_manifest_says_are_refused(
    folder: Path, architecture: str, told: str
) -> None:
    rewrite_manifest(folder, architecture=architecture)
    with pytest.raises(NetworkError, match=told):
        load_network(load_artefact(folder))


def test_a_manifest_cannot_name_a_file_elsewhere(folder: Path) -> None:
    digests = json.loads((folder / "manifest.json").read_text())["sha256"]
    elsewhere = folder.parent / "elsewhere"
    elsewhere.write_text("text")
    rewrite_manifest(folder, sha256={**digests, "../elsewhere": sha256(b"text").hexdigest()})
    with pytest.raises(NetworkError, match="elsewhere is not the file"):
        load_artefact(folder)


def test_an_added_file_makes_another_artefact_and_is_held_to_its_digest(folder: Path) -> None:
    before = load_artefact(folder)
    after = add_file(before, "graph-int8.onnx", b"graph", {"int8": {"images": 3}})
    assert after == load_artefact(folder)
    assert after.manifest["int8"] == {"images": 3}
    assert after.digest != before.digest
    (folder / "graph-int8.onnx").write_bytes(b"other")
    with pytest.raises(NetworkError, match="int8"):
        load_artefact(folder)


@pytest.mark.parametrize(
    "changes",
    [{"sha256": {}}, {"sha256": None}, {"temperature": None}, {"temperature": -1}, {"features": 512}],
)
def test_a_manifest_that_lacks_something_is_refused(folder: Path, changes: dict[str, object]) -> None:
    rewrite_manifest(folder, **changes)
    with pytest.raises(NetworkError, match="hilum train"):
        load_artefact(folder)


@pytest.mark.parametrize("change", ["missing", "of another shape"])
def test_a_network_without_one_of_its_weights_is_refused(folder: Path, change: str) -> None:
    tensors = load_file(folder / "weights.safetensors")
    weights = tensors.pop("layer4.0.conv1.weight")
    if change != "missing":
        tensors["layer4.0.conv1.weight"] = weights[:1]
    save_file(tensors, folder / "weights.safetensors")
    digests = json.loads((folder / "manifest.json").read_text())["sha256"]
    digests["weights.safetensors"] = sha256((folder / "weights.safetensors").read_bytes()).hexdigest()
    rewrite_manifest(folder, sha256=digests)
    with pytest.raises(NetworkError, match=r"layer4\.0\.conv1\.weight"):
        load_network(load_artefact(folder))


@pytest.mark.parametrize("content", ["", "[]", "{", '"text"'])
def test_what_is_no_manifest_is_refused_with_what_to_do(folder: Path, content: str) -> None:
    (folder / "manifest.json").write_text(content)
    with pytest.raises(NetworkError, match="hilum train"):
        load_artefact(folder)


def test_an_empty_folder_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="hilum train"):
        load_artefact(tmp_path)


def test_missing_weights_are_refused(folder: Path) -> None:
    (folder / "weights.safetensors").unlink()
    with pytest.raises(NetworkError, match="cannot be read"):
        load_artefact(folder)


def test_the_network_that_hilum_ships_can_be_loaded() -> None:
    artefact = load_artefact(shipped())
    assert artefact.manifest["licence"] == "CC-BY-NC-SA-4.0"
    assert artefact.manifest["metrics"]["radiographs"]
    assert artefact.has_map


def test_gray_is_normalised_as_imagenet_was() -> None:
    gray = torch.tensor([0.0, 255.0]).view(2, 1, 1, 1)
    expected = [
        [-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225],
        [0.515 / 0.229, 0.544 / 0.224, 0.594 / 0.225],
    ]
    np.testing.assert_allclose(normalise(gray)[:, :, 0, 0], expected, rtol=1e-5)


def test_reading_needs_no_torch() -> None:
    code = (
        "import sys\n"
        "from hilum.engine import choose_engine\n"
        "from hilum.network import load_artefact, shipped\n"
        "import hilum.gradcam, numpy\n"
        "choose_engine(load_artefact(shipped()), 'cpu').read(numpy.zeros((1, 224, 224), numpy.uint8))\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
