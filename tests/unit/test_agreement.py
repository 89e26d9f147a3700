from pathlib import Path

import numpy as np

from hilum.engine import OpenVinoEngine
from hilum.network import load_artefact
from tests.unit.artefacts import untrained
from training import agreement, data


def test_the_manifest_says_how_far_each_engine_is_from_torch(tmp_path: Path) -> None:
    artefact = load_artefact(untrained(tmp_path, "mobilenet_v3_small"))
    stated = agreement.state(artefact, data.phantoms(range(80_000, 80_003)).pixels)
    assert load_artefact(tmp_path).digest == stated.digest != artefact.digest
    told = stated.manifest["engines"]
    assert told["images"] == 3
    by_name = {(each["engine"], each["precision"]): each for each in told["from_torch_fp32"]}
    best = OpenVinoEngine(stated).precision
    assert by_name.keys() == {("openvino", "fp32"), ("onnxruntime", "fp32"), ("openvino", best)}
    for (_, precision), each in by_name.items():
        assert each["max_abs_difference_logits"] < (1e-4 if precision == "fp32" else 0.1)
        assert each["max_abs_difference_probabilities"] < (1e-5 if precision == "fp32" else 0.05)


def test_many_images_are_read_as_one_by_one(tmp_path: Path) -> None:
    engine = OpenVinoEngine(load_artefact(untrained(tmp_path, "mobilenet_v3_small")), "fp32")
    pixels = np.random.default_rng(0).integers(0, 256, (agreement._BATCH + 1, 224, 224), np.uint8)
    together = agreement.read(engine, pixels)
    assert together.logits.shape == (len(pixels), 4)
    np.testing.assert_allclose(together.logits[[-1]], engine.read(pixels[-1:]).logits, atol=1e-4)
    assert together.features.shape == (len(pixels),)
