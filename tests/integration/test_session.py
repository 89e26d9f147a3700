"""Transactions: all or nothing, and many processes at one SQLite file."""

import multiprocessing
import os
import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import func, insert, select, text
from sqlalchemy.exc import IntegrityError, OperationalError

from db import jobs, studies
from db.schema import upgrade
from db.session import engine, transaction
from db.tables import Audit, Instance, Study
from tests.conftest import SettingsChange
from tests.faults.silence import Way
from tests.integration.examples import STUDY, an_object
from tests.peers.postgres import Postgres

PROCESSES, OBJECTS = 8, 12


class Stop(Exception):
    """Raised to leave a transaction."""


def test_what_a_transaction_did_is_kept_together_or_not_at_all(database_url: str) -> None:
    with pytest.raises(Stop), transaction() as session:
        studies.record(session, an_object(), settle_s=0)
        raise Stop
    with transaction() as session:
        assert session.scalar(select(func.count()).select_from(Instance)) == 0
        session.add(Audit(actor="a", action="b"))
    with transaction() as session:
        assert session.scalar(select(func.count()).select_from(Audit)) == 1


def test_rows_can_be_read_after_their_transaction(database_url: str) -> None:
    with transaction() as session:
        studies.record(session, an_object(view="PA"), settle_s=0)
        [image] = studies.images(session, STUDY)
    assert image.view == "PA"


def test_a_forked_process_gets_connections_of_its_own(database_url: str) -> None:
    with transaction() as session:
        session.execute(text("SELECT 1"))
    assert engine(database_url) is engine(database_url)
    reading, writing = os.pipe()
    ours = id(engine(database_url))
    child = os.fork()
    if child == 0:
        os.write(writing, b"own" if id(engine(database_url)) != ours else b"shared")
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reading, 10) == b"own"
    os.close(reading)
    os.close(writing)


@pytest.fixture
def lite(tmp_path: Path, hilum_env: SettingsChange) -> Path:
    """A SQLite database with our tables."""
    path = tmp_path / "hilum.sqlite"
    hilum_env(database_url=f"sqlite:///{path}")
    upgrade(f"sqlite:///{path}")
    return path


def test_sqlite_keeps_what_was_committed_even_when_the_power_fails(lite: Path) -> None:
    full = 2
    with transaction() as session:
        assert session.execute(text("PRAGMA journal_mode")).scalar_one() == "wal"
        assert session.execute(text("PRAGMA synchronous")).scalar_one() == full
        assert session.execute(text("PRAGMA foreign_keys")).scalar_one() == 1


def test_a_sqlite_database_is_for_its_owner_alone(lite: Path) -> None:
    with transaction() as session:
        session.execute(text("SELECT 1"))
        modes = {path.name: path.stat().st_mode & 0o777 for path in lite.parent.glob("hilum.sqlite*")}
    assert set(modes) > {"hilum.sqlite"}
    assert set(modes.values()) == {0o600}


def test_an_error_of_the_database_does_not_quote_what_was_to_be_written(database_url: str) -> None:
    with pytest.raises(IntegrityError) as caught, transaction() as session:
        session.execute(insert(Study).values(study_uid="1.2", sender_ae=None, patient_name="DOE^JOHN"))
    assert "[parameters:" not in str(caught.value)


def test_a_transaction_holds_the_write_lock_from_its_beginning(lite: Path) -> None:
    with transaction() as session:
        session.execute(text("SELECT 1"))
        other = sqlite3.connect(lite, timeout=0, isolation_level=None)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
        other.close()


def write_objects(process: int) -> int:
    """Record objects of one study, as a listener process does; run in a process of its own."""
    for number in range(OBJECTS):
        received = an_object(uid=f"1.2.{process}.{number}", pixel_digest=f"{process}-{number}")
        with transaction() as session:
            studies.record(session, received, settle_s=0)
    return OBJECTS


def test_eight_processes_writing_at_once_all_succeed(database_url: str) -> None:
    with multiprocessing.get_context("fork").Pool(PROCESSES) as pool:  # as a prefork worker does
        written = pool.map(write_objects, range(PROCESSES), chunksize=1)
        pool.close()
        pool.join()
    assert sum(written) == PROCESSES * OBJECTS
    with transaction() as session:
        assert session.scalar(select(func.count()).select_from(Instance)) == PROCESSES * OBJECTS


def test_a_connection_to_postgresql_that_fell_silent_is_given_up_and_holds_nothing_for_long(
    postgres: str, postgres_server: Postgres, hilum_env: SettingsChange, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("db.session.LONGEST_SILENCE_S", 2)
    upgrade(postgres)
    way = Way(postgres_server.port)
    hilum_env(database_url=postgres.replace(f":{postgres_server.port}/", f":{way.port}/"))
    with transaction() as session:
        studies.record(session, an_object(), settle_s=0)
    with pytest.raises(OperationalError), transaction() as session:
        jobs.lock_study(session, STUDY)
        with way.silent():
            jobs.lock_study(session, STUDY)
    with transaction() as session:
        jobs.lock_study(session, STUDY)
    way.stop()
