"""Trainings, written down from their recipe to their artefact."""

from collections.abc import Iterator

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from db import training_runs
from db.session import transaction
from db.tables import TrainingRun
from hilum.network import load_artefact, shipped

RECIPE = {"name": "first", "batch_size": 32}


@pytest.fixture
def session(database_url: str) -> Iterator[Session]:
    with transaction() as session:
        yield session


def runs(session: Session) -> list[TrainingRun]:
    """All runs, the newest first."""
    session.expire_all()
    return list(session.scalars(select(TrainingRun).order_by(TrainingRun.id.desc())))


def test_a_run_that_began_has_not_succeeded(session: Session) -> None:
    training_runs.begin(session, RECIPE)
    [run] = runs(session)
    assert (run.recipe, run.succeeded, run.ended_at) == (RECIPE, False, None)


def test_a_run_that_succeeded_says_what_came_of_which_data(session: Session) -> None:
    manifest = load_artefact(shipped()).manifest
    training_runs.succeed(session, training_runs.begin(session, RECIPE), artefact="runs/1", manifest=manifest)
    [run] = runs(session)
    assert (run.succeeded, run.artefact, run.data_digest) == (True, "runs/1", manifest["data"]["digest"])
    assert run.metrics == manifest["metrics"]
    assert run.ended_at is not None


def test_a_run_that_failed_says_why(session: Session) -> None:
    first = training_runs.begin(session, RECIPE)
    training_runs.begin(session, RECIPE)
    training_runs.fail(session, first, error="no images")
    newest, run = runs(session)
    assert (run.id, run.succeeded, run.error) == (first, False, "no images")
    assert newest.error is None
