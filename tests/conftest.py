"""What tests stand on: settings of their own, real brokers, real databases, a real PACS."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kombu import pools

from db.schema import upgrade
from db.session import engine
from hilum import queue
from hilum.settings import Settings, settings
from tests.peers.broker import Broker
from tests.peers.certificates import Authority
from tests.peers.helpers import free_port
from tests.peers.orthanc import Orthanc
from tests.peers.postgres import Postgres
from tests.peers.system import System

ROOT = Path(__file__).parents[1]

SettingsChange = Callable[..., Settings]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real radiographs, kept beside the project and never in it."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("there are no real radiographs at ../shared/data")
    return folder


@pytest.fixture
def hilum_env(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SettingsChange]:
    """Call it with settings (`hilum_env(settle_s=0.1)`): they are in force until the test ends.

    Nothing of the machine's own configuration is; `data_dir` is a folder of the test.
    """
    for name in [name for name in os.environ if name.startswith("HILUM_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def change(**values: object) -> Settings:
        for name, value in values.items():
            text = json.dumps(value) if isinstance(value, list | dict | bool) else str(value)
            monkeypatch.setenv(f"HILUM_{name.upper()}", text)
        _read_anew()
        urls.add(settings().database)
        return settings()

    urls: set[str] = set()
    # short, because the embedded broker's socket lies in it
    change(data_dir=tmp_path_factory.mktemp("d"))
    yield change
    for url in urls:
        engine(url).dispose()
    monkeypatch.undo()
    _read_anew()


def _read_anew() -> None:
    """Have settings and Celery's configuration read again when next they are needed."""
    settings.cache_clear()
    pools.reset()
    queue.app._after_fork()  # it keeps its pool of connections otherwise
    if queue.app.configured:
        queue.app.conf.update(queue._configuration())


@pytest.fixture
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker of the test's own."""
    broker = Broker(tmp_path_factory.mktemp("valkey"))
    yield broker
    broker.stop()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    server = Postgres()
    yield server
    server.stop()


@pytest.fixture
def postgres(postgres_server: Postgres) -> Iterator[str]:
    """The SQLAlchemy URL of an empty PostgreSQL database."""
    url = postgres_server.fresh_database()
    yield url
    engine(url).dispose()
    postgres_server.drop(url)


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database without tables, once on each kind that we run on."""
    if request.param == "postgresql":
        yield request.getfixturevalue("postgres")
        return
    url = f"sqlite:///{tmp_path / 'test.sqlite'}"
    yield url
    engine(url).dispose()


@pytest.fixture
def database_url(empty_database_url: str, hilum_env: SettingsChange) -> str:
    """The URL of a database with our tables, which `db.session.transaction` uses in this test."""
    upgrade(empty_database_url)
    hilum_env(database_url=empty_database_url)
    return empty_database_url


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A certificate authority of the test file's own."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """A PACS of the test's own, empty."""
    pacs = Orthanc(tmp_path_factory.mktemp("orthanc"))
    yield pacs
    pacs.stop()


@pytest.fixture
def start_system(
    hilum_env: SettingsChange, orthanc: Orthanc, tmp_path: Path
) -> Iterator[Callable[..., System]]:
    """Call it with settings to start the whole system, whose results go to `orthanc`.

    What the test asks of `db.session.transaction` is the system's own database.
    """
    started: list[System] = []

    def start(**changes: object) -> System:
        pacs = {"name": "pacs", "ae_title": orthanc.ae_title, "host": "127.0.0.1", "port": orthanc.port}
        quick = {"settle_s": 1.0, "sweep_s": 1.0, "lease_s": 6.0, "longest_pause_s": 5.0}
        hilum_env(**{"listener_port": free_port(), "destinations": [pacs], **quick, **changes})
        started.append(System(tmp_path))
        return started[-1]

    yield start
    for system in started:
        system.stop()


@pytest.fixture
def system(start_system: Callable[..., System]) -> System:
    """The whole system, whose results go to `orthanc`."""
    return start_system()
