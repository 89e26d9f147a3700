import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hilum import artefacts
from hilum.engine import INT8_GRAPH, OpenVinoEngine, choose_engine, named_engine, openvino_core
from hilum.errors import NetworkError
from hilum.network import Artefact, features, head_of, load_artefact, normalise, pooled
from hilum.settings import settings
from hilum.store import Store
from tests.conftest import SettingsChange
from tests.unit.artefacts import random_network, saved, untrained
from training import data, quantise
from training.data import Images

CONVOLUTIONS = 20  # of ResNet18


def pattern(rng: np.random.Generator, side: int, brightest: int) -> NDArray[np.uint8]:
    """Patches of gray, `side` by `side` of them."""
    return np.kron(rng.integers(0, brightest, (side, side)), np.ones([224 // side] * 2)).astype(np.uint8)


@pytest.fixture(scope="module")
def drawn() -> NDArray[np.uint8]:
    """Pictures that even an untrained network tells apart."""
    rng = np.random.default_rng(0)
    sides, brightest = (1, 2, 7, 28, 56, 112, 224), (64, 128, 256)
    return np.stack([pattern(rng, sides[at % 7], brightest[at % 3]) for at in range(42)])


@pytest.fixture(scope="module")
def plain(drawn: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory) -> Artefact:
    """A small network without int8, untrained, but with answers of every label."""
    made = random_network("resnet18").eval()
    last = head_of(made)[4]
    assert isinstance(last, torch.nn.Linear)
    with torch.inference_mode():
        gray = torch.from_numpy(drawn)[:, None].float()
        logits = head_of(made)(pooled(features(made, normalise(gray))))
        last.bias.copy_((last.bias - logits.mean(0)) / logits.std(0))
        last.weight.copy_(last.weight / logits.std(0)[:, None])
    return load_artefact(saved(tmp_path_factory.mktemp("plain"), made, "resnet18"))


@pytest.fixture(scope="module")
def images(plain: Artefact, drawn: NDArray[np.uint8]) -> Images:
    """The pictures of whose label the network is sure, with that label."""
    logits = named_engine(plain, "torch").read(drawn).logits
    margin = np.diff(np.sort(logits, axis=1)[:, -2:], axis=1)[:, 0]
    known = data.phantoms(range(len(drawn)))
    return replace(known, pixels=drawn, labels=logits.argmax(axis=1)).where(margin > 0.4)


@pytest.fixture(scope="module")
def int8(plain: Artefact, images: Images, tmp_path_factory: pytest.TempPathFactory) -> Artefact:
    """The same network with int8."""
    return quantise.add_int8(copied(plain, tmp_path_factory.mktemp("int8")), images, images)


def copied(artefact: Artefact, folder: Path) -> Artefact:
    shutil.copytree(artefact.folder, folder, dirs_exist_ok=True)
    return load_artefact(folder)


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_int8_reads_nearly_as_float32_does(
    plain: Artefact, int8: Artefact, images: Images, engine: str
) -> None:
    expected = named_engine(plain, "torch").read(images.pixels)
    reader = named_engine(int8, engine, "int8")
    assert reader.precision == "int8"
    said = reader.read(images.pixels)
    assert np.abs(said.logits - expected.logits).mean() < 0.2 * expected.logits.std()
    assert said.features.shape == expected.features.shape


def test_the_manifest_says_what_int8_costs(int8: Artefact, images: Images) -> None:
    measured = int8.manifest["int8"]
    assert measured["kept"] is True
    assert measured["accuracy_fp32"] == 1.0, "the labels are what float32 says"
    assert measured["accuracy_lost_points"] <= quantise.MOST_LOST_POINTS
    assert measured["images"] == measured["calibration_images"] == len(images)
    assert [each["engine"] for each in measured["engines"]] == ["openvino", "onnxruntime"]
    assert all(0 < each["max_abs_difference_logits"] < 1 for each in measured["engines"])


def test_weights_are_kept_once(int8: Artefact) -> None:
    assert (int8.folder / INT8_GRAPH).stat().st_size < int8.weights.stat().st_size / 50


def test_openvino_computes_convolutions_in_int8(int8: Artefact) -> None:
    core = openvino_core()
    compiled = core.compile_model(core.read_model(int8.folder / INT8_GRAPH), "CPU")
    kinds = [
        str(operation.get_rt_info()["runtimePrecision"].astype(str))
        for operation in compiled.get_runtime_model().get_ops()
        if operation.get_rt_info()["layerType"].astype(str) == "Convolution"
    ]
    assert len(kinds) == CONVOLUTIONS
    assert set(kinds) <= {"u8", "i8"}


def test_a_graph_that_costs_too_much_is_not_added_but_told_of(
    plain: Artefact, images: Images, tmp_path: Path
) -> None:
    wrong = replace(images, pixels=np.zeros_like(images.pixels))  # ranges of nothing: all is clipped
    artefact = quantise.add_int8(copied(plain, tmp_path), wrong, images)
    assert artefact.manifest["int8"]["kept"] is False
    assert artefact.manifest["int8"]["accuracy_lost_points"] > quantise.MOST_LOST_POINTS
    assert not (artefact.folder / INT8_GRAPH).exists()
    with pytest.raises(NetworkError, match="no int8 graph"):
        choose_engine(artefact, "cpu", "int8")


def test_what_phantoms_gain_makes_up_for_no_radiograph(
    plain: Artefact, images: Images, tmp_path: Path
) -> None:
    wrong = replace(images, pixels=np.zeros_like(images.pixels))
    (tmp_path / "tried").mkdir()
    tried = quantise._copied(plain, tmp_path / "tried", quantise.int8_graph(plain.graph, wrong.pixels))
    says = OpenVinoEngine(tried, "int8").read(images.pixels).logits.argmax(axis=1)
    as_int8_says = replace(images, labels=says)
    real = replace(images, sources=np.full(len(images), "somewhere"))
    (tmp_path / "copy").mkdir()
    mixed = data.together([real, as_int8_says, as_int8_says])
    measured = quantise.add_int8(copied(plain, tmp_path / "copy"), wrong, mixed).manifest["int8"]
    assert measured["kept"] is False
    assert measured["images"] == len(images)
    assert measured["lost_points_on_phantoms"] < 0 < measured["accuracy_lost_points"]


def test_an_altered_int8_graph_is_refused(int8: Artefact, tmp_path: Path) -> None:
    artefact = copied(int8, tmp_path)
    content = bytearray((artefact.folder / INT8_GRAPH).read_bytes())
    content[-1] ^= 1
    (artefact.folder / INT8_GRAPH).write_bytes(content)
    with pytest.raises(NetworkError, match=INT8_GRAPH):
        load_artefact(artefact.folder)


def test_the_setting_has_the_worker_read_in_int8(int8: Artefact, hilum_env: SettingsChange) -> None:
    from worker import reader

    hilum_env(device="cpu", precision="int8")
    artefacts.keep(Store(settings().store), int8.folder)
    with reader.Readers().reading(int8.digest) as reading:
        assert isinstance(reading.batcher.engine, OpenVinoEngine)
        assert reading.about()["precision"] == "int8"


def test_a_backbone_with_depthwise_convolutions_can_be_quantised(
    drawn: NDArray[np.uint8], tmp_path: Path
) -> None:
    artefact = load_artefact(untrained(tmp_path, "mobilenet_v3_small"))
    (tmp_path / INT8_GRAPH).write_bytes(quantise.int8_graph(artefact.graph, drawn[:4]))
    core = openvino_core()
    compiled = core.compile_model(core.read_model(tmp_path / INT8_GRAPH), "CPU")
    assert compiled([drawn[:4]])["logits"].shape == (4, 4)
