"""The faults: each strikes when it is entered, and is mended when it is left."""

import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from random import Random

from hilum.settings import settings
from tests.faults.archive import Mood
from tests.faults.failpoints import STEPS
from tests.faults.ledger import Ledger
from tests.faults.machine import CALLS
from tests.faults.senders import Drawer, Senders
from tests.faults.site import Site, full
from tests.peers.helpers import wait_for

HOUR_S = 3600
REACHED_WITHIN_S = 60
INTERLEAVED = 3


class Missed(Exception):
    """A fault could not be made: nothing came where it waited."""


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
    is_failpoint: bool = False


def faults(site: Site) -> list[Fault]:
    """All that can be made on this machine and this database."""
    victims = ["listener", "prepare", "prepare child", "decoder", "classify"]
    victims += ["deliver", "deliver child", "sweep", "beat", *([] if site.broker else ["broker"])]
    workers = ["prepare", "classify", "deliver"]
    frozen = ["listener", "prepare child", "classify", "deliver child", "sweep", "broker"]
    moods = [(f"PACS {mood}", mood) for mood in (Mood.SLOW, Mood.ABORTING, Mood.FULL)]
    moods += [(str(mood), mood) for mood in (Mood.LOSING_REPORTS, Mood.REPORTING_LATE, Mood.FAILING)]
    found = [
        *(Fault(f"kill -9 {name}", _signalled(name, signal.SIGKILL)) for name in victims),
        *(Fault(f"SIGTERM {name}", _signalled(name, signal.SIGTERM)) for name in workers),
        *(Fault(f"SIGSTOP {name}", _frozen(name), (2, 12)) for name in frozen),
        *(
            Fault(f"killed at {step}, {role}", _killed_at(role, step), is_failpoint=True)
            for role, steps in STEPS.items()
            for step in steps
        ),
        Fault("kill -9 everything", _everything_is_killed),
        Fault("broker emptied", _broker_is_emptied),
        *(Fault(f"half-open {name}", _half_open(name), (3, 12)) for name in site.ways),
        Fault("PACS away", _pacs_is_away, (3, 12)),
        *(Fault(name, _pacs_is(mood), (3, 10)) for name, mood in moods),
        Fault("sent thrice at once", _sent_thrice_at_once),
        Fault("sent thrice, interleaved", _sent_interleaved),
        Fault("same UID, other pixels", _sent_with_other_pixels),
    ]
    if site.postgres:
        found += [Fault("PostgreSQL away", _postgresql_is_away, (3, 10))]
    else:
        found += [Fault("SQLite locked", _sqlite_is_locked, (3, 10))]
    if site.broker:
        found += [Fault("kill -9 broker", _broker_is_killed, (0, 5))]
    if site.disk:
        found += [Fault("disk full", _disk_is_full, (3, 10))]
    if site.machine.has_disk:
        found += [Fault(f"{call} errors", _disk_fails(call), (3, 10)) for call in CALLS]
    if site.machine.has_clock:
        found += [
            Fault("clock an hour ahead", _clock_is_off_by(HOUR_S), (3, 12)),
            Fault("clock an hour behind", _clock_is_off_by(-HOUR_S), (3, 12)),
        ]
    return found


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


def _killed_at(role: str, step: str) -> Callable[[Scene], AbstractContextManager[None]]:
    @contextmanager
    def strike(scene: Scene) -> Iterator[None]:
        when = "amid" if step == "write" else scene.rng.choice(["before", "after"])
        scene.site.failpoints.arm(role, step, when, skip=scene.rng.randrange(4))
        try:
            _send_until(scene, scene.site.failpoints.place)
        finally:
            scene.site.failpoints.disarm()
        yield

    return strike


def _send_until(scene: Scene, happens: Callable[[], object]) -> None:
    """Send a study, after growing pauses another, until this happens. Raises Missed when it does not."""
    began_at = time.monotonic()
    next_after_s = 0.0
    while not happens():
        passed_s = time.monotonic() - began_at
        if passed_s > REACHED_WITHIN_S:
            raise Missed
        if passed_s >= next_after_s:
            scene.senders.hand(scene.drawer.study())
            next_after_s = 2 * passed_s + 1
        time.sleep(0.05)


@contextmanager
def _everything_is_killed(scene: Scene) -> Iterator[None]:
    scene.site.system.kill_everything()
    yield
    scene.site.system.start()


@contextmanager
def _broker_is_emptied(scene: Scene) -> Iterator[None]:
    scene.site.empty_broker()
    yield


@contextmanager
def _broker_is_killed(scene: Scene) -> Iterator[None]:
    assert scene.site.broker is not None
    os.kill(scene.site.pid("broker"), signal.SIGKILL)
    yield
    scene.site.broker.start()


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


def _half_open(name: str) -> Callable[[Scene], AbstractContextManager[None]]:
    return lambda scene: scene.site.ways[name].silent()


def _disk_fails(call: str) -> Callable[[Scene], AbstractContextManager[None]]:
    def strike(scene: Scene) -> AbstractContextManager[None]:
        victim = scene.rng.choice(["listener", "prepare child", "classify", "deliver child", "sweep"])
        return scene.site.machine.failing(scene.site.pid(victim), call, scene.rng)

    return strike


def _clock_is_off_by(seconds: int) -> Callable[[Scene], AbstractContextManager[None]]:
    return lambda scene: scene.site.machine.clock_off_by(seconds)


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
def _sent_interleaved(scene: Scene) -> Iterator[None]:
    scene.senders.send_interleaved([scene.drawer.study() for _ in range(INTERLEAVED)], scene.rng)
    yield


@contextmanager
def _sent_with_other_pixels(scene: Scene) -> Iterator[None]:
    images = wait_for(scene.ledger.acknowledged_images, 60, "the first Success")
    scene.senders.send_now(scene.drawer.with_other_pixels(scene.rng.choice(images)))
    yield


def _disk_is_full(scene: Scene) -> AbstractContextManager[None]:
    assert scene.site.disk is not None
    return full(scene.site.disk)
