"""The graph that engines read, of backbones of every kind."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from db.tables import Instance
from hilum import export
from hilum.engine import OpenVinoEngine, Reading, TorchEngine, named_engine
from hilum.errors import NetworkError
from hilum.network import (
    GRAPH,
    WEIGHTS,
    Artefact,
    features,
    head_of,
    load_artefact,
    load_network,
    pooled,
    save_artefact,
)
from tests.unit.artefacts import known, random_network, untrained
from worker.classify import _as_found
from worker.reader import Reader

pytestmark = pytest.mark.timeout(900)  # a ViT takes its time to export where others want the processor too

FEATURES = {
    "resnet50": (2048, 7, 7),
    "resnet18": (512, 7, 7),
    "mobilenet_v3_small": (576, 7, 7),
    "vit_b_16": (768,),
}


@pytest.fixture(scope="module", params=FEATURES)
def artefact(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Artefact:
    return load_artefact(untrained(tmp_path_factory.mktemp(request.param), request.param))


@pytest.fixture(scope="module")
def reference(artefact: Artefact) -> Reading:
    return TorchEngine(artefact, "cpu").read(export.patterns())


def test_openvino_in_fp32_reads_as_torch_does(artefact: Artefact, reference: Reading) -> None:
    assert_alike(OpenVinoEngine(artefact, "fp32").read(export.patterns()), reference)
    assert reference.features.shape[1:] == FEATURES[artefact.backbone]


def test_onnx_runtime_reads_as_torch_does(artefact: Artefact, reference: Reading) -> None:
    assert_alike(named_engine(artefact, "onnxruntime").read(export.patterns()), reference)


def assert_alike(said: Reading, reference: Reading) -> None:
    np.testing.assert_allclose(said.logits, reference.logits, rtol=0, atol=1e-4 * spread(reference.logits))
    np.testing.assert_allclose(
        said.features, reference.features, rtol=0, atol=1e-4 * np.abs(reference.features).max()
    )


def spread(logits: NDArray[np.float32]) -> float:
    """What images make of logits: networks with random weights say much the same of all of them."""
    return float((logits.max(axis=0) - logits.min(axis=0)).max())


def test_the_graph_holds_no_weights_and_no_word_of_where_it_was_made(artefact: Artefact) -> None:
    content = artefact.graph.read_bytes()
    assert len(content) < 400_000
    assert b".py" not in content
    assert b"torch.onnx" not in content
    graph = onnx.load(artefact.graph, load_external_data=False).graph
    inside = [each for each in graph.initializer if not each.external_data]
    assert sum(int(np.prod(each.dims)) for each in inside) < 100
    assert len(graph.initializer) - len(inside) == len(export.tensors_of(artefact.weights))


def test_the_manifest_says_how_far_the_graph_is_from_torch(artefact: Artefact) -> None:
    moved = artefact.manifest["export"]
    assert 0 < moved["max_abs_difference"] < moved["max_abs_difference_by_rounding"] < 1e-2
    assert moved["images"] == len(export.patterns())


def test_only_a_network_with_a_map_gives_the_worker_a_heat_map(
    artefact: Artefact, reference: Reading
) -> None:
    reader = Reader(artefact, artefact.head(), None)  # type: ignore[arg-type]
    said = _as_found(reader, Instance(uid="1.2.3", pixel_hash="h"), reference)
    assert np.shape(said.heat) == (FEATURES[artefact.backbone][1:] or (0,))


def test_a_graph_that_says_something_else_is_refused(artefact: Artefact, tmp_path: Path) -> None:
    model = onnx.load(artefact.graph, load_external_data=False)
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "epsilon":
                attribute.f = 0.01
    (tmp_path / GRAPH).write_bytes(model.SerializeToString())
    (tmp_path / WEIGHTS).write_bytes(artefact.weights.read_bytes())
    network = load_network(artefact).eval()
    with pytest.raises(NetworkError, match="cannot export"):
        export.check(tmp_path / GRAPH, network, export.logits(network))


@pytest.mark.parametrize("value", [float("nan"), 1e6])
def test_a_network_whose_training_went_wrong_is_not_saved(tmp_path: Path, value: float) -> None:
    made = random_network("resnet18")
    made.state_dict()["layer1.0.conv1.weight"][0] = value
    with pytest.raises(NetworkError, match="training went wrong"):
        save_artefact(
            tmp_path,
            made,
            "resnet18",
            known(512),
            version="v",
            temperature=1.0,
            described={},
            created=datetime(2026, 1, 2, tzinfo=UTC),
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("backbone", ["densenet121", "efficientnet_b0", "mobilenet_v2", "resnext50_32x4d"])
def test_features_and_head_are_all_of_a_network(backbone: str) -> None:
    network = random_network(backbone).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        ours = head_of(network)(pooled(features(network, images)))
        torch.testing.assert_close(ours, network(images), rtol=0, atol=1e-5)
