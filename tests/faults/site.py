"""The site: the system as `hilum up` runs it, two PACSs, a database, and a small disk for the store.

On SQLite the broker is the embedded one; on PostgreSQL both are servers of their own, as in a hospital.
"""

import errno
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import redis

from db.session import engine
from hilum.settings import settings
from tests.faults.archive import Archive
from tests.faults.failpoints import Failpoints
from tests.faults.machine import Machine
from tests.faults.silence import Way
from tests.peers.broker import Broker
from tests.peers.helpers import free_port, wait_for
from tests.peers.orthanc import Orthanc
from tests.peers.postgres import Postgres
from tests.peers.system import System, with_argument

LEASE_S, SWEEP_S = 6.0, 1.0
KEEP_FREE_MB = 8
COMMITMENT_TIMEOUT_S = 5
BLOCK_BYTES = 4096


class Site:
    """All that runs; `pid` finds one of our processes, for a fault to strike."""

    def __init__(self, folder: Path, rng: Random, *, database: str, store_mb: int) -> None:
        self._rng = rng
        for name in ("orthanc", "broker"):
            (folder / name).mkdir()
        self.orthanc, self.archive = Orthanc(folder / "orthanc"), Archive(rng)
        alone = database == "sqlite"
        self.postgres = None if alone else Postgres()
        self.broker = None if alone else Broker(folder / "broker")
        self.ways = {"Orthanc": Way(self.orthanc.port)}
        """What is spoken to over a network -> the way to it, which can fall silent."""
        self.disk = _small_disk(folder / "store", store_mb)
        """The store's own file system; None where we may not mount one."""
        self.machine = Machine(folder / "machine")
        self.failpoints = Failpoints(folder / "inside")
        url = self.postgres.fresh_database() if self.postgres else ""
        for name in [name for name in os.environ if name.startswith("HILUM_")]:
            del os.environ[name]
        os.environ |= {f"HILUM_{name.upper()}": value for name, value in self._settings(folder, url).items()}
        os.chdir(folder)  # where no hilum.toml lies
        self._folder = folder
        self._system: System | None = None

    def start(self) -> None:
        """Start the system; its peers are there already."""
        surroundings = self.machine.environment | self.failpoints.environment
        self._system = System(self._folder, surroundings | self._by_ways())

    @property
    def system(self) -> System:
        assert self._system is not None, "the site has not started"
        return self._system

    def keep_database(self) -> None:
        """Write PostgreSQL's database, which goes with its server, beside the logs; SQLite's lies there."""
        if self.postgres:
            self.postgres.dump(settings().database, self._folder / "database.sql")

    def stop(self) -> None:
        if self._system:
            self._system.stop()
        engine(settings().database).dispose()
        self.orthanc.stop()
        self.archive.stop()
        for peer in (*self.ways.values(), self.postgres, self.broker):
            if peer:
                peer.stop()
        if self.disk:
            subprocess.run(["umount", self.disk], check=True)

    def pid(self, name: str) -> int:
        """A process of this name, of several any: `listener`, `classify`, `prepare child`, `decoder`."""
        return self._rng.choice(wait_for(lambda: self._pids(name), 60, f"a process: {name}"))

    def _pids(self, name: str) -> list[int]:
        up = {self.system.pid}
        if name == "broker":
            return self._broker()
        if name == "listener":
            return with_argument("dicom_listener", parents=up)
        if name == "beat":
            return with_argument("beat", parents=up)
        worker, _, child = ("prepare child child" if name == "decoder" else name).partition(" ")
        workers = with_argument(f"{worker}@%h", parents=up)
        children = with_argument(f"{worker}@%h", parents=set(workers)) if child else workers
        return with_argument("worker.decoder_child", parents=set(children)) if name == "decoder" else children

    def empty_broker(self) -> None:
        """Lose every message that waits."""
        with self._redis() as client:
            client.flushall()

    def _broker(self) -> list[int]:
        """Asked of itself, since it writes its own words over its arguments."""
        try:
            with self._redis() as client:
                return [int(client.info("server")["process_id"])]
        except redis.ConnectionError:
            return []

    def _redis(self) -> redis.Redis:
        if self.broker:
            return redis.Redis.from_url(self.broker.url)
        return redis.Redis(unix_socket_path=str(settings().embedded_socket))

    def _by_ways(self) -> dict[str, str]:
        """Settings that take the system, but not the rig, to its servers by ways that can fall silent."""
        found = {}
        for name, server, url in (
            ("PostgreSQL", self.postgres, settings().database_url),
            ("broker", self.broker, settings().broker_url),
        ):
            if server:
                way = self.ways[name] = Way(server.port)
                setting = "HILUM_BROKER_URL" if name == "broker" else "HILUM_DATABASE_URL"
                found[setting] = url.replace(f":{server.port}/", f":{way.port}/")
        return found

    def _settings(self, folder: Path, database_url: str) -> dict[str, str]:
        pacs = {"name": "pacs", "ae_title": self.orthanc.ae_title, "port": self.ways["Orthanc"].port}
        archive = {"name": "archive", "ae_title": self.archive.ae_title, "port": self.archive.port}
        pacs["final_when"], archive["final_when"] = "c-find", "commitment"
        archive["commitment_timeout_s"] = COMMITMENT_TIMEOUT_S
        return {
            "data_dir": str(folder / "d"),
            "store_dir": str(folder / "store"),
            "database_url": database_url,
            "broker_url": self.broker.url if self.broker else "",
            "listener_port": str(free_port()),
            "listener_processes": "2",
            "destinations": json.dumps([{**each, "host": "127.0.0.1"} for each in (pacs, archive)]),
            "settle_s": "1",
            "sweep_s": str(SWEEP_S),
            "lease_s": str(LEASE_S),
            "longest_pause_s": "5",
            "keep_free_mb": str(KEEP_FREE_MB),
        }


@contextmanager
def full(disk: Path) -> Iterator[None]:
    """Leave nothing free on this file system for a while."""
    filler = disk / "filler"
    with filler.open("wb") as file:
        size = 1 << 32
        while size >= BLOCK_BYTES:  # in smaller and smaller pieces, since others take of it meanwhile
            try:
                os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, size)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                size //= 2
    yield
    filler.unlink()


def _small_disk(folder: Path, size_mb: int) -> Path | None:
    """A file system of this size in a file, mounted here; an ordinary folder and None when we may not."""
    folder.mkdir()
    image = folder.with_suffix(".ext4")
    with image.open("wb") as file:
        file.truncate(size_mb * 1_000_000)
    for command in (
        ["mkfs.ext4", "-q", "-m", "0", str(image)],
        ["mount", "-o", "loop", str(image), str(folder)],
    ):
        if subprocess.run(command, capture_output=True).returncode:
            return None
    return folder
