"""The faults: each strikes when it is entered, and is mended when it is left."""

import os
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from random import Random

from hilum.settings import settings
from tests.faults.archive import Mood
from tests.faults.ledger import Ledger
from tests.faults.senders import Drawer, Senders
from tests.faults.site import Site, full
from tests.peers.helpers import wait_for


@dataclass(frozen=True)
class Scene:
    """What faults strike at: the site and those who send to it."""

    site: Site
    drawer: Drawer
    senders: Senders
    ledger: Ledger
    rng: Random


@dataclass(frozen=True)
class Fault:
    """One kind of fault."""

    name: str
    strikes: Callable[[Scene], AbstractContextManager[None]]
    lasts_s: tuple[float, float] = (0.0, 0.0)
    """Shortest and longest time until it is mended."""


def faults(site: Site) -> list[Fault]:
    """All that can be made on this machine and this database."""
    victims = ["listener", "prepare", "prepare child", "decoder", "classify"]
    victims += ["deliver", "deliver child", "sweep", "beat", "broker"]
    workers = ["prepare", "classify", "deliver"]
    frozen = ["listener", "prepare child", "classify", "deliver child", "sweep", "broker"]
    database = Fault("PostgreSQL away", _postgresql_is_away, (3, 10))
    return [
        *(Fault(f"kill -9 {name}", _signalled(name, signal.SIGKILL)) for name in victims),
        *(Fault(f"SIGTERM {name}", _signalled(name, signal.SIGTERM)) for name in workers),
        *(Fault(f"SIGSTOP {name}", _frozen(name), (2, 12)) for name in frozen),
        Fault("kill -9 everything", _everything_is_killed),
        Fault("broker emptied", _broker_is_emptied),
        database if site.postgres else Fault("SQLite locked", _sqlite_is_locked, (3, 10)),
        Fault("PACS away", _pacs_is_away, (3, 12)),
        *(Fault(f"PACS {mood}", _pacs_is(mood), (3, 10)) for mood in (Mood.SLOW, Mood.ABORTING, Mood.FULL)),
        Fault("sent thrice at once", _sent_thrice_at_once),
        Fault("same UID, other pixels", _sent_with_other_pixels),
        *([Fault("disk full", _disk_is_full, (3, 10))] if site.disk else []),
    ]


def _signalled(name: str, number: signal.Signals) -> Callable[[Scene], AbstractContextManager[None]]:
    @contextmanager
    def strike(scene: Scene) -> Iterator[None]:
        os.kill(scene.site.pid(name), number)
        yield

    return strike


def _frozen(name: str) -> Callable[[Scene], AbstractContextManager[None]]:
    @contextmanager
    def strike(scene: Scene) -> Iterator[None]:
        pid = scene.site.pid(name)
        os.kill(pid, signal.SIGSTOP)
        yield
        os.kill(pid, signal.SIGCONT)

    return strike


@contextmanager
def _everything_is_killed(scene: Scene) -> Iterator[None]:
    scene.site.system.kill_everything()
    yield
    scene.site.system.start()


@contextmanager
def _broker_is_emptied(scene: Scene) -> Iterator[None]:
    scene.site.system.empty_broker()
    yield


@contextmanager
def _postgresql_is_away(scene: Scene) -> Iterator[None]:
    assert scene.site.postgres is not None
    scene.site.postgres.crash()
    yield
    scene.site.postgres.start()


@contextmanager
def _sqlite_is_locked(scene: Scene) -> Iterator[None]:
    path = settings().database.removeprefix("sqlite:///")
    connection = sqlite3.connect(path, timeout=60, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    yield
    connection.execute("ROLLBACK")
    connection.close()


@contextmanager
def _pacs_is_away(scene: Scene) -> Iterator[None]:
    scene.site.orthanc.stop()
    yield
    scene.site.orthanc.start()


def _pacs_is(mood: Mood) -> Callable[[Scene], AbstractContextManager[None]]:
    return lambda scene: scene.site.archive.being(mood)


@contextmanager
def _sent_thrice_at_once(scene: Scene) -> Iterator[None]:
    scene.senders.send_at_once(scene.drawer.study())
    yield


@contextmanager
def _sent_with_other_pixels(scene: Scene) -> Iterator[None]:
    images = wait_for(scene.ledger.acknowledged_images, 60, "the first Success")
    scene.senders.send_now(scene.drawer.with_other_pixels(scene.rng.choice(images)))
    yield


def _disk_is_full(scene: Scene) -> AbstractContextManager[None]:
    assert scene.site.disk is not None
    return full(scene.site.disk)
