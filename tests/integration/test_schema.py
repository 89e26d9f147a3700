"""The migrations, from an empty database to the tables of this version."""

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from db import tables
from db.clock import from_now, now
from db.schema import _config, is_current, upgrade
from db.session import engine

FILLING = (
    "INSERT INTO studies (study_uid, state, sender_ae, urgent, phantom, patient_id, patient_name,"
    " patient_birth_date, patient_sex, accession_number, study_date, study_description)"
    " VALUES ('1.2', 'delivered', 'PACS', false, false, 'P', 'N', '', '', 'A', '20260101', '')",
    "INSERT INTO series (series_uid, study_uid, modality, series_description)"
    " VALUES ('1.2.3', '1.2', 'DX', '')",
    "INSERT INTO instances (uid, study_uid, series_uid, sop_class_uid, transfer_syntax_uid, role, sender_ae,"
    " path, size_bytes, pixel_digest, view, prepared, prepared_path, pixel_hash, broken) VALUES"
    " ('1.2.3.4', '1.2', '1.2.3', '1', '1', 'image', 'PACS', 'p', 9, 'd', 'PA', true, 'f', 'h', false)",
    "INSERT INTO reports (id, study_uid, revision, content_digest) VALUES (1, '1.2', 1, 'c')",
    "INSERT INTO deliveries (id, report_id, destination, state, tries) VALUES (1, 1, 'pacs', 'final', 0)",
    "INSERT INTO jobs (kind, subject, study_uid, state, urgent, generation, deaths, attempts)"
    " VALUES ('worker.prepare', '1.2', '1.2', 'done', false, 1, 0, 0)",
    "INSERT INTO network_versions (digest, version, manifest) VALUES ('n', 'first', '{}')",
    "INSERT INTO findings (uid, pixel_hash, network_digest, preprocessing, label, probabilities, ood, heat)"
    " VALUES ('1.2.3.4', 'h', 'n', 'p', 'Normal', '{}', 0.1, '{}')",
    "INSERT INTO verdicts (uid, label, author, source, comment) VALUES ('1.2.3.4', 'Other', 'a', 'b', '')",
    "INSERT INTO training_runs (recipe, data_digest, artefact, succeeded, error)"
    " VALUES ('{}', '', '', false, 'no images')",
)
"""A study that went all its way with the first version's tables."""


def test_an_empty_database_is_not_current_and_an_upgraded_one_is(empty_database_url: str) -> None:
    assert not is_current(empty_database_url)
    upgrade(empty_database_url)
    assert is_current(empty_database_url)


def test_upgrading_twice_changes_nothing(empty_database_url: str) -> None:
    upgrade(empty_database_url)
    with engine(empty_database_url).begin() as connection:
        connection.execute(text("INSERT INTO audit (actor, action, detail) VALUES ('a', 'b', '')"))
    upgrade(empty_database_url)
    with engine(empty_database_url).connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM audit")).scalar_one() == 1


def test_the_migrations_make_exactly_the_tables_of_the_code(empty_database_url: str) -> None:
    upgrade(empty_database_url)
    with engine(empty_database_url).connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, tables.Base.metadata) == []


def test_a_filled_database_of_the_first_version_keeps_its_rows(empty_database_url: str) -> None:
    with engine(empty_database_url).begin() as connection:
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        for statement in FILLING:
            connection.execute(text(statement))
    upgrade(empty_database_url)
    with Session(engine(empty_database_url)) as session:
        study = session.get_one(tables.Study, "1.2")
        assert [(each.uid, each.size_bytes) for each in study.instances] == [("1.2.3.4", 9)]
        [delivery] = session.scalars(select(tables.Delivery))
        assert (delivery.state, delivery.report.study_uid) == (tables.DeliveryState.FINAL, "1.2")
        [job] = session.scalars(select(tables.Job))
        assert (job.subject, job.state) == ("1.2", tables.JobState.DONE)
        [finding] = session.scalars(select(tables.Finding))
        assert not finding.shadow
        assert session.get_one(tables.NetworkVersion, "n").state == tables.NetworkState.RETIRED
        assert session.scalars(select(tables.TrainingRun.state)).all() == [tables.RunState.FAILED]


def test_the_databases_clock_counts_seconds_both_ways(empty_database_url: str) -> None:
    with engine(empty_database_url).connect() as connection:
        later, earlier, present = connection.execute(
            select(from_now(90.5).label("l"), from_now(-90.5).label("e"), now().label("n"))
        ).one()
    assert abs((later - present).total_seconds() - 90.5) < 0.1
    assert abs((present - earlier).total_seconds() - 90.5) < 0.1
    assert present.tzinfo is not None
