"""Trainings: each from its recipe to its artefact."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import update
from sqlalchemy.orm import Session

from db.clock import now
from db.tables import RunState, TrainingRun


def begin(session: Session, recipe: Mapping[str, Any]) -> int:
    """Write down that a training began, and return the run's number."""
    run = TrainingRun(recipe=dict(recipe))
    session.add(run)
    session.flush()
    return run.id


def succeed(session: Session, run_id: int, *, artefact: str, manifest: Mapping[str, Any]) -> None:
    """Write down where the run's network lies, and what its manifest says of it."""
    _end(
        session,
        run_id,
        succeeded=True,
        state=RunState.TRAINED,
        artefact=artefact,
        data_digest=str(manifest.get("data", {}).get("digest", "")),
        metrics=dict(manifest.get("metrics", {})),
    )


def judge(session: Session, run_id: int, *, passed: bool, gate: Mapping[str, Any]) -> None:
    """Write down what the gate says of a run's network, and all that it rests on."""
    state = RunState.PASSED if passed else RunState.REFUSED
    judged = update(TrainingRun).where(TrainingRun.id == run_id)
    session.execute(judged.values(state=state, gate=dict(gate)))


def fail(session: Session, run_id: int, *, error: str) -> None:
    """Write down why the run gave no network."""
    _end(session, run_id, succeeded=False, state=RunState.FAILED, error=error)


def _end(session: Session, run_id: int, **values: object) -> None:
    statement = update(TrainingRun).where(TrainingRun.id == run_id)
    session.execute(statement.values(ended_at=now(), **values))
