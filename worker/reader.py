"""The networks as this process has them loaded: each with its artefact, its engine and the batcher before it.

What is to be loaded the database says: the champion, and the shadow if there is one. Another stays only until
the last study that it is reading is read.
"""

import logging
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from db import alerts, networks
from db.session import transaction
from db.tables import NetworkState
from hilum import artefacts
from hilum.engine import Engine, choose_engine
from hilum.errors import HilumError, MachineAtFault, NetworkError
from hilum.network import Artefact, Head
from hilum.settings import settings
from hilum.store import Store
from worker.batcher import Batcher

log = logging.getLogger(__name__)

ALERT = "network"
"""The kind of the alert that a network in service cannot be loaded."""


@dataclass(frozen=True)
class Reader:
    """What reads images in this process."""

    artefact: Artefact
    head: Head
    """The last layers, which heat maps are made with."""
    batcher: Batcher

    @property
    def computed_by(self) -> str:
        """What computes: engine, precision and device."""
        engine = self.batcher.engine
        return f"{engine.name} {engine.precision} on {engine.device}"[:96]

    def about(self) -> dict[str, Any]:
        """Version, digest, engine, device and precision."""
        engine = self.batcher.engine
        return {
            "version": self.artefact.version,
            "digest": self.artefact.digest,
            "engine": engine.name,
            "device": engine.device,
            "precision": engine.precision,
        }


@dataclass
class _Loaded:
    users: int = 0
    reader: Future[Reader] = field(default_factory=Future)

    def get(self) -> Reader | None:
        """The reader once it is there; never waits."""
        is_there = self.reader.done() and self.reader.exception() is None
        return self.reader.result() if is_there else None


class Readers:
    """The networks that are loaded: those in service, and those that still read."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loaded: dict[str, _Loaded] = {}
        self._serving: dict[NetworkState, str] = {}
        self._broken: dict[str, str] = {}

    def serve(self, serving: Mapping[NetworkState, str]) -> None:
        """Keep these loaded once they are, and let go of others when nobody reads with them any more."""
        with self._lock:
            self._serving = dict(serving)
            self._let_go()

    @contextmanager
    def reading(self, digest: str) -> Iterator[Reader]:
        """The network of this digest, which stays loaded meanwhile; of who ask at once, one loads it.

        Raises NetworkError when the artefact is not in the store, or broken or altered there, and
        MachineAtFault when the engine does not start.
        """
        with self._lock:
            is_mine = digest not in self._loaded
            loaded = self._loaded.setdefault(digest, _Loaded())
            loaded.users += 1
        try:
            if is_mine:
                self._load(digest, loaded)
            yield loaded.reader.result()
        finally:
            with self._lock:
                loaded.users -= 1
                self._let_go()

    def champion(self) -> Reader | None:
        """The champion if it is loaded; never waits."""
        loaded = self._loaded.get(self._serving.get(NetworkState.CHAMPION, ""))
        return loaded.get() if loaded else None

    def about(self) -> dict[str, Any]:
        """Digest -> what it is to this process; and why some could not be loaded."""
        with self._lock:
            roles = {digest: state.value for state, digest in self._serving.items()}
            there = {digest: loaded.get() for digest, loaded in self._loaded.items()}
            told = {
                digest: {"role": roles.get(digest, "leaving"), **reader.about()}
                for digest, reader in there.items()
                if reader is not None
            }
            return {"networks": told, "broken": dict(self._broken)}

    def _load(self, digest: str, loaded: _Loaded) -> None:
        try:
            made = _made(digest)
        except BaseException as error:
            with self._lock:
                del self._loaded[digest]  # who asks next tries again
                self._broken[digest] = str(error)
            loaded.reader.set_exception(error)
            _tell_broken(digest, error)
            return
        with self._lock:
            was_broken = self._broken.pop(digest, None)
        loaded.reader.set_result(made)
        log.info("the network %s is loaded", made.artefact.version)
        if was_broken is not None:
            with transaction() as session:
                alerts.end(session, ALERT, digest)

    def _let_go(self) -> None:
        for digest, loaded in list(self._loaded.items()):
            reader = loaded.get()
            if reader is not None and loaded.users == 0 and digest not in self._serving.values():
                del self._loaded[digest]
                reader.batcher.close()
                log.info("the network %s reads no more, and is let go", reader.artefact.version)


readers = Readers()
"""Those of this process."""


def serving() -> dict[NetworkState, str]:
    """The digests of champion and shadow as the database says now, which are what stays loaded."""
    found = {state: each.digest for state, each in networks.serving().items()}
    readers.serve(found)
    return found


def load() -> None:
    """Load what is in service, so that no study waits for it; what cannot be loaded is told in the log."""
    for digest in serving().values():
        try:
            with readers.reading(digest):
                pass
        except (HilumError, OSError) as error:  # each study will say so, too
            log.error("cannot load the network: %s", error)


def _made(digest: str) -> Reader:
    artefact = artefacts.kept(Store(settings().store), digest)
    batcher = Batcher(
        _engine(artefact), batch_images=settings().batch_images, restart=lambda: _end_for(digest)
    )
    return Reader(artefact, artefact.head(), batcher)


def _engine(artefact: Artefact) -> Engine:
    try:
        return choose_engine(artefact, settings().device, settings().precision)
    except NetworkError:
        raise
    except Exception as error:  # the border with the engines' native libraries, which can raise anything
        raise MachineAtFault(f"the engine does not start: {type(error).__name__}: {error}") from error


def _tell_broken(digest: str, error: BaseException) -> None:
    if isinstance(error, NetworkError):
        with transaction() as session:
            alerts.note(session, ALERT, digest, f"cannot be loaded: {error}")


def _end_for(digest: str) -> None:
    """End this worker as its supervisor would: what is at work may end, and another process starts.

    Not for a network beside the champion: were it at fault itself, it would keep the champion from reading.
    """
    champion = readers.champion()
    if champion is None or champion.artefact.digest == digest:
        os.kill(os.getpid(), signal.SIGTERM)
