"""The network as this process has it loaded: its artefact, its engine and the batcher before it."""

import os
import signal
import threading
from dataclasses import dataclass
from pathlib import Path

from hilum.engine import Engine, choose_engine
from hilum.errors import MachineAtFault, NetworkError
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

    Raises NetworkError when the artefact is broken, altered or made for another version, and MachineAtFault
    when the engine does not start.
    """
    global _loaded
    with _lock:
        if _loaded is None:
            artefact = load_artefact(_folder())
            batcher = Batcher(_engine(artefact), batch_images=settings().batch_images, restart=_end)
            _loaded = Reader(artefact, artefact.head(), batcher)
        return _loaded


def loaded() -> Reader | None:
    """The reader if this process has one; never waits for it to load."""
    return _loaded


def _engine(artefact: Artefact) -> Engine:
    try:
        return choose_engine(artefact, settings().device, settings().precision)
    except NetworkError:
        raise
    except Exception as error:  # the border with the engines' native libraries, which can raise anything
        raise MachineAtFault(f"the engine does not start: {type(error).__name__}: {error}") from error


def _end() -> None:
    """End this worker as its supervisor would: what is at work may end, and another process starts."""
    os.kill(os.getpid(), signal.SIGTERM)


def _folder() -> Path:
    return settings().network_dir or shipped()
