"""The networks that a process has loaded: each once, no longer than needed, and none in place of another."""

import gc
import threading
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from db.tables import NetworkState
from hilum.engine import Engine, Reading
from hilum.errors import NetworkError
from hilum.network import Artefact
from tests.conftest import SettingsChange
from tests.peers.helpers import wait_for
from worker import reader
from worker.reader import Readers

A, B, C = "a" * 64, "b" * 64, "c" * 64
CHAMPION, SHADOW = NetworkState.CHAMPION, NetworkState.SHADOW
ONE = [np.zeros((224, 224), np.uint8)]


class EngineOf:
    """Answers with the first letter of its network's digest, as a number."""

    name, device, precision = "fake", "cpu", "fp32"

    def __init__(self, artefact: Artefact) -> None:
        self.artefact = artefact

    def read(self, images: NDArray[np.uint8]) -> Reading:
        rows = np.full((len(images), 4), ord(self.artefact.digest[0]), np.float32)
        return Reading(rows, rows, np.zeros((len(images), 8, 7, 7), np.float32), rows[:, 0])


@pytest.fixture
def loads(hilum_env: SettingsChange, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was loaded, in order: engines and artefacts are none."""
    loaded: list[str] = []

    def kept(store: object, digest: str) -> Any:
        loaded.append(digest)
        if digest == C:
            raise NetworkError("weights.safetensors is not the file that its manifest describes")
        return SimpleNamespace(version=f"version {digest[0]}", digest=digest, head=lambda: None)

    def choose(artefact: Artefact, *_: object) -> Engine:
        return EngineOf(artefact)

    hilum_env()
    monkeypatch.setattr("worker.reader.artefacts.kept", kept)
    monkeypatch.setattr("worker.reader.choose_engine", choose)
    monkeypatch.setattr("worker.reader._tell_broken", lambda *_: None)
    return loaded


def test_of_many_who_ask_at_once_one_loads_the_network(loads: list[str]) -> None:
    readers, said = Readers(), []
    readers.serve({CHAMPION: A})

    def ask() -> None:
        with readers.reading(A) as reading:
            said.append(reading.batcher.read(ONE)[0].ood[0])

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(30)
    assert said == [ord("a")] * 16
    assert loads == [A]


def test_a_former_champion_stays_until_its_last_reader_has_left_and_is_freed_then(loads: list[str]) -> None:
    readers = Readers()
    readers.serve({CHAMPION: A})
    with readers.reading(A) as reading:
        engine, before = weakref.ref(reading.batcher.engine), _batchers()
        readers.serve({CHAMPION: B})
        with readers.reading(B) as other:
            assert other.batcher.read(ONE)[0].ood[0] == ord("b")
        assert reading.batcher.read(ONE)[0].ood[0] == ord("a")
        assert readers.about()["networks"][A]["role"] == "leaving"
    del reading
    wait_for(lambda: _batchers() == before, what="the end of the former champion's thread")
    wait_for(lambda: _is_gone(engine), what="the end of the former champion's engine")
    assert set(readers.about()["networks"]) == {B}
    assert loads == [A, B]


def test_champion_and_shadow_stay_and_are_loaded_once(loads: list[str]) -> None:
    readers = Readers()
    for _ in range(3):
        readers.serve({CHAMPION: A, SHADOW: B})
        for digest in (A, B):
            with readers.reading(digest):
                pass
    assert loads == [A, B]
    champion = readers.champion()
    assert champion is not None
    assert champion.artefact.digest == A


def test_one_that_cannot_be_loaded_is_told_and_tried_again(loads: list[str]) -> None:
    readers = Readers()
    readers.serve({CHAMPION: C})
    for _ in range(2):
        with pytest.raises(NetworkError, match="not the file"), readers.reading(C):
            pass
    assert loads == [C, C]
    assert C in readers.about()["broken"]
    assert readers.champion() is None


def test_an_engine_that_fails_ends_the_process_only_for_the_champion(
    loads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[int] = []
    readers = Readers()
    monkeypatch.setattr(reader, "readers", readers)
    monkeypatch.setattr("worker.reader.os.kill", lambda pid, signal: ended.append(pid))
    readers.serve({CHAMPION: A, SHADOW: B})
    for digest in (A, B):
        with readers.reading(digest):
            pass
    reader._end_for(B)
    assert ended == []
    reader._end_for(A)
    assert len(ended) == 1


def _batchers() -> int:
    return sum(thread.name == "batcher" for thread in threading.enumerate())


def _is_gone(engine: "weakref.ref[Engine]") -> bool:
    gc.collect()
    return engine() is None


def test_an_artefact_lies_in_the_store_once_and_is_healed_when_it_is_brought_again(
    hilum_env: SettingsChange, tmp_path: Path
) -> None:
    from hilum import artefacts
    from hilum.settings import settings
    from hilum.store import Store
    from tests.unit.artefacts import untrained

    pytest.importorskip("torch")
    hilum_env()
    store, folder = Store(settings().store), untrained(tmp_path / "made", "mobilenet_v3_small")
    kept = artefacts.keep(store, folder)
    assert kept.folder == store.path(f"networks/{kept.digest}")
    weights = kept.folder / "weights.safetensors"
    made = weights.stat().st_ino
    artefacts.keep(store, folder)
    assert weights.stat().st_ino == made
    weights.write_bytes(b"torn")
    with pytest.raises(NetworkError, match="is not the file"):
        artefacts.kept(store, kept.digest)
    assert artefacts.keep(store, folder).digest == kept.digest
