"""Trainings: each from its recipe to its artefact."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from db import alerts
from db.clock import now
from db.jobs import Claim
from db.tables import Job, RunState, TrainingRun
from db.upsert import insert
from hilum.errors import LeaseLost
from hilum.queue import TRAIN

ALERT, ALERT_OF = "training", "training"
"""Kind and subject of the alert that the last training did not come to its end."""
UNFINISHED = (RunState.WAITING, RunState.RUNNING)


def begin(session: Session, recipe: Mapping[str, Any]) -> int:
    """Write down that a training began, and return the run's number."""
    run = TrainingRun(recipe=dict(recipe))
    session.add(run)
    session.flush()
    return run.id


def want(session: Session, recipe: str, *, slot: str | None = None) -> int | None:
    """Write down that a training is wanted, and return its number; None when its slot has one already."""
    values = {"slot": slot, "state": RunState.WAITING, "recipe": {"name": recipe}, "succeeded": False}
    statement = insert(session, TrainingRun).values(**values, folder="", artefact="")
    made = statement.on_conflict_do_nothing(index_elements=["slot"]).returning(TrainingRun.id)
    run_id: int | None = session.execute(made).scalar_one_or_none()
    return run_id


def latest(session: Session, most: int) -> list[TrainingRun]:
    """The trainings that were wanted last, the last one first."""
    return list(session.scalars(select(TrainingRun).order_by(TrainingRun.id.desc()).limit(most)))


def unfinished(session: Session) -> TrainingRun | None:
    """The training that waits or goes on, the first one where there are several."""
    query = select(TrainingRun).where(TrainingRun.state.in_(UNFINISHED)).order_by(TrainingRun.id)
    return session.scalar(query.limit(1))


def held_up_because(session: Session, run_id: int) -> str | None:
    """Why an unfinished run does not go on at this moment; None when it does."""
    return session.scalar(select(Job.error).where(Job.kind == TRAIN, Job.subject == str(run_id)))


def set_out(session: Session, run_id: int, *, folder: str) -> TrainingRun:
    """Write down that a worker is at it; when it began counts from the first time."""
    run = session.get_one(TrainingRun, run_id, populate_existing=True)
    if run.state is not RunState.RUNNING:
        begun = {"started_at": now(), "ended_at": None, "error": None, "progress": None}
        _set(session, run_id, state=RunState.RUNNING, folder=folder, **begun)
    return session.get_one(TrainingRun, run_id, populate_existing=True)


def settle(session: Session, run_id: int, *, snapshot_digest: str, recipe: Mapping[str, Any]) -> None:
    """Write down what a run learns from, and by which recipe: they stay as they are."""
    _set(session, run_id, snapshot_digest=snapshot_digest, recipe=dict(recipe))


def since_begun_s(session: Session, run_id: int) -> float:
    """Seconds since a worker first set out on a run, by the database's clock."""
    row = session.execute(select(TrainingRun.started_at, now().label("now")).where(TrainingRun.id == run_id))
    began, present = row.one()
    return float((present - began).total_seconds())


def note_progress(session: Session, held: Claim, run_id: int, progress: Mapping[str, Any]) -> None:
    """Write down how far a run has come.

    Raises LeaseLost when the run was stopped, or taken over: the caller's transaction must not be committed.
    """
    token = session.scalar(select(Job.lease_token).where(Job.id == held.id))
    if token != held.token:
        raise LeaseLost(f"training {run_id} was stopped, or taken over by another worker")
    _set(session, run_id, progress=dict(progress))


def resume(session: Session, run_id: int) -> bool:
    """Have a run that failed or was stopped go on; False when it is no such one."""
    again = update(TrainingRun).where(TrainingRun.id == run_id, TrainingRun.state == RunState.FAILED)
    values = {"state": RunState.WAITING, "error": None, "ended_at": None}
    return bool(session.execute(again.values(**values)).rowcount)  # type: ignore[attr-defined]


def succeed(session: Session, run_id: int, *, artefact: str, manifest: Mapping[str, Any]) -> None:
    """Write down where the run's network lies, and what its manifest says of it."""
    _end(
        session,
        run_id,
        succeeded=True,
        state=RunState.TRAINED,
        artefact=artefact,
        network_digest=str(manifest.get("digest", "")),
        data_digest=str(manifest.get("data", {}).get("digest", "")),
        metrics=dict(manifest.get("metrics", {})),
    )
    alerts.end(session, ALERT, ALERT_OF)


def judge(session: Session, run_id: int, *, passed: bool, gate: Mapping[str, Any]) -> None:
    """Write down what the gate says of a run's network, and all that it rests on."""
    state = RunState.PASSED if passed else RunState.REFUSED
    judged = update(TrainingRun).where(TrainingRun.id == run_id)
    session.execute(judged.values(state=state, gate=dict(gate)))


def fail(session: Session, run_id: int, *, error: str) -> None:
    """Write down why the run gave no network."""
    _end(session, run_id, succeeded=False, state=RunState.FAILED, error=error)


def give_up(session: Session, run_id: int, *, error: str) -> None:
    """Write down that a run failed, and raise the alert that says so."""
    fail(session, run_id, error=error)
    alerts.note(session, ALERT, ALERT_OF, f"training {run_id}: {error}")


def untracked(session: Session, most: int = 20) -> list[TrainingRun]:
    """The judged runs that experiment tracking does not have yet, the first one first."""
    is_judged = TrainingRun.state.in_((RunState.PASSED, RunState.REFUSED))
    query = select(TrainingRun).where(is_judged, TrainingRun.tracking == "")
    return list(session.scalars(query.order_by(TrainingRun.id).limit(most)))


def note_tracking(session: Session, run_id: int, address: str) -> None:
    """Write down where experiment tracking has a run."""
    _set(session, run_id, tracking=address)


def _end(session: Session, run_id: int, **values: object) -> None:
    _set(session, run_id, ended_at=now(), **values)


def _set(session: Session, run_id: int, **values: object) -> None:
    session.execute(update(TrainingRun).where(TrainingRun.id == run_id).values(**values))
