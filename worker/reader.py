"""The network as this process has it loaded: its artefact, its engine and the batcher before it."""

import threading
from dataclasses import dataclass
from pathlib import Path

from hilum.engine import choose_engine
from hilum.network import Artefact, Head, load_artefact, shipped
from hilum.settings import settings
from worker.batcher import Batcher


@dataclass(frozen=True)
class Reader:
    """What reads images in this process."""

    artefact: Artefact
    head: Head
    """The last layers, which heat maps are made with."""
    batcher: Batcher


_lock = threading.Lock()
_loaded: Reader | None = None


def reader() -> Reader:
    """Return the reader, loading the network on first use.

    Raises NetworkError when the artefact is broken, altered or made for another version.
    """
    global _loaded
    with _lock:
        if _loaded is None:
            artefact = load_artefact(_folder())
            engine = choose_engine(artefact, settings().device)
            batcher = Batcher(engine, batch_images=settings().batch_images)
            _loaded = Reader(artefact, artefact.head(), batcher)
        return _loaded


def loaded() -> Reader | None:
    """The reader if this process has one; never waits for it to load."""
    return _loaded


def _folder() -> Path:
    return settings().network_dir or shipped()
