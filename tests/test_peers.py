"""The peers themselves, so that a failing test does not send anybody looking in the wrong place."""

from pathlib import Path

import redis
from sqlalchemy import inspect, text

from db.session import engine, transaction
from hilum.settings import settings
from tests.peers.broker import Broker
from tests.peers.dcmtk import dcmsend, echoscu, findscu
from tests.peers.helpers import wait_for
from tests.peers.orthanc import Orthanc
from tests.peers.system import System


def test_the_database_has_our_tables_and_is_the_one_in_force(database_url: str) -> None:
    assert settings().database == database_url
    assert "jobs" in inspect(engine(database_url)).get_table_names()
    with transaction() as session:
        assert session.execute(text("SELECT count(*) FROM jobs")).scalar_one() == 0


def test_the_broker_keeps_its_messages_over_a_restart(valkey: Broker) -> None:
    with redis.Redis.from_url(valkey.url) as client:
        client.lpush("prepare", "a message")
    valkey.stop()
    valkey.start()
    assert valkey.messages("prepare") == [b"a message"]


def test_the_pacs_stores_finds_and_comes_back_after_a_stop(orthanc: Orthanc, shared_data: Path) -> None:
    assert echoscu(orthanc.port, called=orthanc.ae_title)
    path = sorted((shared_data / "dicom" / "chest").iterdir())[0]
    sent = dcmsend(orthanc.port, path)
    assert sent.returncode == 0, sent.stderr
    [uid] = findscu(orthanc.port, keys=["StudyInstanceUID"])
    orthanc.stop()
    assert not echoscu(orthanc.port)
    orthanc.start()
    assert orthanc.count() == 1
    assert findscu(orthanc.port, keys=["StudyInstanceUID"]) == [uid]


def test_the_system_starts_answers_and_stops(system: System) -> None:
    wait_for(lambda: echoscu(settings().listener_port), 30, "an answer of the listener")
    assert len(wait_for(lambda: system.pids("prepare")[1:], 30, "children of the prepare worker")) >= 1
    before = system.pids("classify")
    system.kill("classify")
    wait_for(lambda: _again(system, "classify", before), 60, "another classify worker")
    assert system.stop() == 0


def _again(system: System, name: str, before: list[int]) -> bool:
    try:
        return system.pids(name)[0] not in before
    except ValueError:
        return False  # none at this moment
