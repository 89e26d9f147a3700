import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray

from hilum import phantom
from hilum.engine import (
    ENGINES,
    Engine,
    OnnxRuntimeEngine,
    OpenVinoEngine,
    Reading,
    choose_engine,
    named_engine,
)
from hilum.errors import NetworkError
from hilum.network import LABELS, Artefact, load_artefact, shipped
from hilum.radiograph import network_input

pytest.importorskip("torch")


@pytest.fixture(scope="module")
def artefact() -> Artefact:
    return load_artefact(shipped())


@pytest.fixture(scope="module")
def engine(artefact: Artefact) -> Engine:
    return choose_engine(artefact, "cpu")


@pytest.fixture(scope="module")
def images() -> NDArray[np.uint8]:
    drawn = [phantom.draw(seed, LABELS[seed % 4], rows=320, columns=262) for seed in range(90_000, 90_006)]
    return np.stack([network_input((display * 255).round().astype(np.uint8)) for display in drawn])


@pytest.fixture(scope="module")
def reference(artefact: Artefact, images: NDArray[np.uint8]) -> Reading:
    return named_engine(artefact, "torch").read(images)


@pytest.mark.parametrize("engine_type", [OpenVinoEngine, OnnxRuntimeEngine])
def test_in_fp32_an_engine_equals_torch(
    artefact: Artefact,
    images: NDArray[np.uint8],
    reference: Reading,
    engine_type: type[OpenVinoEngine | OnnxRuntimeEngine],
) -> None:
    ours = engine_type(artefact, "fp32").read(images)
    np.testing.assert_allclose(ours.logits, reference.logits, atol=1e-4)
    np.testing.assert_allclose(ours.probabilities, reference.probabilities, atol=1e-5)
    np.testing.assert_allclose(ours.features, reference.features, atol=1e-4 * reference.features.max())
    np.testing.assert_allclose(ours.ood, reference.ood, rtol=1e-3, atol=1e-3)


def test_what_the_cpu_is_given_is_close_to_torch(
    engine: Engine, images: NDArray[np.uint8], reference: Reading
) -> None:
    ours = engine.read(images)
    np.testing.assert_allclose(ours.logits, reference.logits, atol=0.1)
    np.testing.assert_allclose(ours.probabilities, reference.probabilities, atol=0.02)


def test_a_reading_has_the_shapes_it_promises(engine: Engine, images: NDArray[np.uint8]) -> None:
    reading = engine.read(images)
    assert reading.logits.shape == reading.probabilities.shape == (6, 4)
    assert reading.features.shape == (6, 2048, 7, 7)
    assert reading.ood.shape == (6,)
    assert {part.dtype for part in vars(reading).values()} == {np.dtype(np.float32)}
    np.testing.assert_allclose(reading.probabilities.sum(axis=1), 1, atol=1e-5)


def test_an_image_reads_the_same_in_any_company(engine: Engine, images: NDArray[np.uint8]) -> None:
    alone, together = engine.read(images[:1]), engine.read(images)
    np.testing.assert_allclose(alone.probabilities[0], together.probabilities[0], atol=0.02)


def test_a_reading_is_not_written_over_by_the_next(engine: Engine, images: NDArray[np.uint8]) -> None:
    reading = engine.read(images[:2])
    kept = reading.features.copy()
    engine.read(images[2:4])
    np.testing.assert_array_equal(reading.features, kept)


def test_threads_may_read_at_once(engine: Engine, images: NDArray[np.uint8]) -> None:
    expected = [engine.read(images[[index]]).probabilities for index in range(6)]
    with ThreadPoolExecutor(6) as pool:
        said = list(pool.map(lambda index: engine.read(images[[index]]).probabilities, range(6)))
    np.testing.assert_allclose(said, expected, atol=1e-6)


def test_noise_is_stranger_than_a_phantom(engine: Engine, images: NDArray[np.uint8]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (2, 224, 224), dtype=np.uint8)
    assert engine.read(noise).ood.min() > engine.read(images).ood.max()


def test_an_engine_says_what_it_runs_on(engine: Engine, artefact: Artefact) -> None:
    assert engine.name == "openvino"
    assert engine.precision in {"bf16", "fp32"}
    assert engine.device
    assert engine.artefact is artefact


def test_an_unknown_device_is_refused_with_those_there_are(artefact: Artefact) -> None:
    with pytest.raises(NetworkError, match="auto, cuda or cpu"):
        choose_engine(artefact, "tpu")


def test_cuda_is_refused_where_there_is_none(artefact: Artefact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hilum.engine._cuda_is_there", lambda: False)
    with pytest.raises(NetworkError, match="no CUDA device"):
        choose_engine(artefact, "cuda")


def test_every_engine_says_its_own_name(artefact: Artefact) -> None:
    assert [named_engine(artefact, name).name for name in ENGINES] == list(ENGINES)


def test_without_openvino_the_processor_is_read_on_by_onnx_runtime(
    artefact: Artefact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hilum.engine._is_installed", lambda name: name == "onnxruntime")
    assert choose_engine(artefact, "cpu").name == "onnxruntime"


def test_an_engine_that_is_not_installed_is_refused_with_what_to_install(
    artefact: Artefact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hilum.engine._is_installed", lambda name: False)
    with pytest.raises(NetworkError, match=r"pip install 'hilum\[edge\]'"):
        choose_engine(artefact, "cpu")


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_int8_is_refused_of_an_artefact_without_it(
    artefact: Artefact, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hilum.engine.INT8_GRAPH", "not-there.onnx")
    with pytest.raises(NetworkError, match="no int8 graph"):
        named_engine(artefact, name, "int8")


def test_int8_is_refused_where_it_cannot_run(artefact: Artefact) -> None:
    with pytest.raises(NetworkError, match="int8 is for the processor"):
        choose_engine(artefact, "cuda", "int8")
    with pytest.raises(NetworkError, match="torch does not read in int8"):
        named_engine(artefact, "torch", "int8")


def test_openvino_is_kept_from_reporting_its_use() -> None:
    code = """
import sys
from hilum.engine import choose_engine
from hilum.network import load_artefact, shipped
import numpy
choose_engine(load_artefact(shipped()), "cpu").read(numpy.zeros((1, 224, 224), numpy.uint8))
assert sys.modules["openvino_telemetry"] is None
import threading
assert threading.enumerate() == [threading.main_thread()]
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_a_signal_finds_its_stack_when_networks_have_come_and_gone() -> None:
    code = """
import signal
from hilum.engine import named_engine
from hilum.network import load_artefact, shipped

first, second = (named_engine(load_artefact(shipped()), "openvino") for _ in range(2))
del first
del second
signal.signal(signal.SIGTERM, lambda *_: print("asked to stop"))
signal.raise_signal(signal.SIGTERM)
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "asked to stop\n"), done.stderr
