"""The micro-batcher: it batches what has gathered, and tells each asker its own answer."""

import threading
from contextlib import suppress

import numpy as np
import pytest
from numpy.typing import NDArray

from hilum.engine import Engine, Reading
from hilum.errors import MachineAtFault
from hilum.network import Artefact
from tests.conftest import SettingsChange
from tests.peers.helpers import wait_for
from worker.batcher import Batcher
from worker.reader import Readers

Images = NDArray[np.uint8]


class SlowEngine:
    """Answers with each image's own first pixel, when it is let."""

    name, device, precision = "slow", "cpu", "fp32"
    artefact: Artefact

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.may_go = threading.Semaphore(0)

    def read(self, images: Images) -> Reading:
        self.sizes.append(len(images))
        assert self.may_go.acquire(timeout=10)
        if images[0, 0, 0] == 255:
            raise RuntimeError("this image cannot be read")
        values = images[:, 0, 0].astype(np.float32)
        rows = np.stack([values] * 4, axis=1)
        return Reading(rows, rows, np.zeros((len(images), 2048, 7, 7), np.float32), values)


@pytest.fixture
def engine() -> SlowEngine:
    return SlowEngine()


@pytest.fixture
def restarts() -> list[str]:
    return []


@pytest.fixture
def batcher(engine: SlowEngine, restarts: list[str]) -> Batcher:
    return Batcher(engine, batch_images=4, restart=lambda: restarts.append("asked"))


def _image(value: int) -> Images:
    return np.full((224, 224), value, np.uint8)


def _asking(
    batcher: Batcher, value: int, answers: dict[int, float], *, alone: bool = False
) -> threading.Thread:
    def ask() -> None:
        [reading] = batcher.read([_image(value)], alone=alone)
        answers[value] = float(reading.ood[0])

    thread = threading.Thread(target=ask)
    thread.start()
    return thread


def _let_go(engine: SlowEngine, threads: list[threading.Thread]) -> None:
    engine.may_go.release(100)
    for thread in threads:
        thread.join(10)


def test_what_gathers_while_the_engine_works_is_read_together(batcher: Batcher, engine: SlowEngine) -> None:
    answers: dict[int, float] = {}
    threads = [_asking(batcher, 1, answers)]
    wait_for(lambda: engine.sizes == [1], what="the first image at the engine")
    threads += [_asking(batcher, value, answers) for value in range(2, 8)]
    wait_for(lambda: batcher._asked.qsize() == 6, what="six images waiting")
    _let_go(engine, threads)
    assert engine.sizes == [1, 4, 2]
    assert answers == {value: float(value) for value in range(1, 8)}


def test_a_study_that_killed_a_worker_is_read_without_neighbours(
    batcher: Batcher, engine: SlowEngine
) -> None:
    answers: dict[int, float] = {}
    threads = [_asking(batcher, 1, answers)]
    wait_for(lambda: engine.sizes == [1], what="the first image at the engine")
    threads.append(_asking(batcher, 2, answers))
    wait_for(lambda: batcher._asked.qsize() == 1, what="an image waiting")
    threads.append(_asking(batcher, 3, answers, alone=True))
    wait_for(lambda: batcher._asked.qsize() == 2, what="two images waiting")
    threads.append(_asking(batcher, 4, answers))
    wait_for(lambda: batcher._asked.qsize() == 3, what="three images waiting")
    _let_go(engine, threads)
    assert engine.sizes == [1, 1, 1, 1]
    assert answers == {value: float(value) for value in range(1, 5)}


def test_what_the_engine_raises_is_the_machines_fault_and_the_next_is_read(
    batcher: Batcher, engine: SlowEngine
) -> None:
    engine.may_go.release(2)
    with pytest.raises(MachineAtFault, match="RuntimeError: this image cannot be read"):
        batcher.read([_image(255)])
    [reading] = batcher.read([_image(7)])
    assert reading.ood[0] == 7


def test_an_engine_that_fails_time_and_again_has_its_process_started_anew(
    batcher: Batcher, engine: SlowEngine, restarts: list[str]
) -> None:
    engine.may_go.release(100)
    for value in [255] * 4 + [1] + [255] * 4:
        with suppress(MachineAtFault):
            batcher.read([_image(value)])
    assert restarts == []
    with suppress(MachineAtFault):
        batcher.read([_image(255)])
    wait_for(lambda: restarts == ["asked"], what="the end of the process")


def test_statistics_tell_batch_sizes_and_latencies(batcher: Batcher, engine: SlowEngine) -> None:
    engine.may_go.release(10)
    batcher.read([_image(1), _image(2), _image(3)])
    told = batcher.statistics()
    assert told["images_max"] in (1, 2, 3)
    assert told["latency_p50_s"] > 0


def test_an_engine_that_does_not_start_is_the_machines_fault(
    hilum_env: SettingsChange, monkeypatch: pytest.MonkeyPatch
) -> None:
    def choose(*_: object) -> Engine:
        raise RuntimeError("CUDA error: out of memory")

    hilum_env()
    monkeypatch.setattr("worker.reader.choose_engine", choose)
    monkeypatch.setattr("worker.reader.artefacts.kept", lambda store, digest: None)
    with pytest.raises(MachineAtFault, match="out of memory"), Readers().reading("a" * 64):
        pass
