"""What programs watch: whether the console lives, what is missing, and counts for Prometheus."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence

from fastapi import APIRouter
from kombu.exceptions import OperationalError
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from starlette.responses import JSONResponse, Response

from console.web.access import needs
from db import jobs, reports, schema, studies
from db.accounts import Scope
from db.clock import now
from db.session import transaction
from db.tables import JobState, StudyState
from hilum.queue import depths
from hilum.settings import settings

router = APIRouter(include_in_schema=False)


@router.get("/healthz")
async def lives() -> dict[str, str]:
    """The console answers; of what it needs, /readyz tells."""
    return {"console": "lives"}


@router.get("/readyz", dependencies=[needs(Scope.METRICS)])
def ready() -> Response:
    """503 with what is missing, by name, when anything is."""
    missing = {name: because for name, look in _NEEDED.items() if (because := look())}
    return JSONResponse({"ready": not missing, "missing": missing}, 503 if missing else 200)


@router.get("/metrics", dependencies=[needs(Scope.METRICS)])
def metrics() -> Response:
    """Counts in Prometheus' text form; those of a database or broker that is away are left out."""
    registry = CollectorRegistry()
    registry.register(_Counts())
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


def _database() -> str | None:
    try:
        is_current = schema.is_current(settings().database)
    except DBAPIError:
        return "it does not answer"
    return None if is_current else "it has the tables of another version: `hilum database upgrade`"


def _broker() -> str | None:
    return None if _depths() is not None else "it does not answer"


def _store() -> str | None:
    folder = settings().store
    return (
        None if folder.is_dir() and os.access(folder, os.R_OK) else f"{folder} is not there, or not readable"
    )


_NEEDED: dict[str, Callable[[], str | None]] = {"database": _database, "broker": _broker, "store": _store}


def _depths() -> dict[str, int] | None:
    """Queue -> messages that wait in it; None when the broker is away."""
    try:
        return depths()
    except (OperationalError, OSError):
        return None


class _Counts(Collector):
    """What is counted anew at each look."""

    def collect(self) -> Iterator[Metric]:
        """The broker's counts, asked before the transaction begins, and the database's."""
        queued = _depths()
        yield _gauge("broker_up", "Whether the broker answers", (), [((), queued is not None)])
        if queued is not None:
            each = [((name,), count) for name, count in queued.items()]
            yield _gauge("queue_messages", "Messages that wait in the broker", ("queue",), each)
        try:
            with transaction() as session:
                found = list(_recorded(session))
        except DBAPIError:
            found = []
        yield _gauge("database_up", "Whether the database answers", (), [((), bool(found))])
        yield from found


def _recorded(session: Session) -> Iterator[Metric]:
    at = session.scalars(select(now())).one()
    work = jobs.depths(session)
    yield _gauge(
        "jobs",
        "Pieces of work that are not done",
        ("kind", "state"),
        [((kind, state.value), count) for kind, state, count, _ in work],
    )
    yield _gauge(
        "oldest_due_seconds",
        "For how long the oldest waiting piece of work has been due",
        ("kind",),
        [
            ((kind,), max(0.0, (at - since).total_seconds()))
            for kind, state, _, since in work
            if state is JobState.WAITING
        ],
    )
    by_state = studies.counts(session)
    yield _gauge(
        "studies", "Studies", ("state",), [((state.value,), by_state.get(state, 0)) for state in StudyState]
    )
    yield _gauge(
        "deliveries",
        "Reports sent, or to be sent",
        ("destination", "state"),
        [((place, state.value), count) for place, state, count in reports.counts(session)],
    )


def _gauge(
    name: str, meaning: str, labels: Sequence[str], counts: Iterable[tuple[Sequence[str], float]]
) -> Metric:
    made = GaugeMetricFamily(f"hilum_{name}", meaning, labels=labels)
    for values, count in counts:
        made.add_metric(values, count)
    return made
