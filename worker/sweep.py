"""Sweep: free the work of dead workers, ring again for what was forgotten, remove what crashes left."""

import logging
import time
from datetime import datetime

from kombu.exceptions import OperationalError

from db import jobs, setback, training_runs
from db.jobs import KILLED_ITS_WORKER
from db.session import transaction
from db.tables import JobState
from hilum.queue import CLASSIFY, NIGHT, QUEUES, RETENTION, SHADOW, SWEEP, TRAIN, app, depths, queue_of, ring
from hilum.settings import settings
from hilum.store import Store

log = logging.getLogger(__name__)

SET_BACK_S = 5.0
"""Seconds by which the database's clock must be set back to be noticed; it is read over a network."""


_SHADOWS_AT_ONCE = 20
"""Studies that are rung for a shadow at one look: what comes for the champion then waits for no more."""


class _Watch:
    """How far the database's clock is ahead of one that nobody sets, at the last look."""

    def __init__(self) -> None:
        self._ahead_s: float | None = None

    def set_back_by_s(self, present: datetime) -> float:
        """Seconds by which the clock was set back since the last look; negative when it was set forward."""
        before, self._ahead_s = self._ahead_s, present.timestamp() - time.monotonic()
        return 0.0 if before is None else before - self._ahead_s


_watch = _Watch()


@app.task(name=SWEEP)
def sweep() -> None:
    """Look once for work that its workers or the broker have forgotten."""
    _look_at_the_clock()
    with transaction() as session:
        freed = [(job.kind, job.subject, job.deaths, job.state) for job in jobs.free_expired(session)]
        for kind, subject, _, state in freed:
            if kind == TRAIN and state == JobState.QUARANTINED:
                training_runs.give_up(session, int(subject), error=KILLED_ITS_WORKER)
    for kind, subject, deaths, state in freed:
        quarantined = ", quarantined" if state == JobState.QUARANTINED else ""
        log.warning("a worker died at %s of %s: death %d%s", kind, subject, deaths, quarantined)
    _ring_again()
    Store(settings().store).sweep_aside()


def _look_at_the_clock() -> None:
    with transaction() as session:
        back_s = _watch.set_back_by_s(setback.present(session))
        if back_s < SET_BACK_S:
            return
        found = setback.make_up(session, back_s, lease_s=settings().lease_s)
    log.warning(
        "the database's clock was set back by %.0f s: %d pieces of work wait no longer", back_s, found
    )


def _ring_again() -> None:
    """Ring for due work, but only while the broker holds fewer messages than there is due work."""
    try:
        messages = depths()
    except (OperationalError, OSError) as error:
        log.warning("the broker does not answer: %s", error)
        return
    for queues, kinds in _kinds_by_queues().items():
        with transaction() as session:
            missing = jobs.due(session, kinds) - sum(messages[name] for name in queues)
            rung = jobs.ring_again(session, kinds, most=missing) if missing > 0 else []
        for kind, subject, urgent in rung:
            ring(kind, subject, urgent=urgent)
    _ring_for_the_shadow(messages[queue_of(SHADOW)])


def _ring_for_the_shadow(messages: int) -> None:
    """Ring for what a shadow is to read, where nothing waits for the champion."""
    with transaction() as session:
        if jobs.due(session, [CLASSIFY]) or messages >= _SHADOWS_AT_ONCE:
            return
        rung = jobs.ring_again(session, [SHADOW], most=_SHADOWS_AT_ONCE - messages)
    for kind, subject, urgent in rung:
        ring(kind, subject, urgent=urgent)


def _kinds_by_queues() -> dict[tuple[str, ...], list[str]]:
    grouped: dict[tuple[str, ...], list[str]] = {}
    for kind, queues in QUEUES.items():
        if kind not in (SHADOW, SWEEP, RETENTION, NIGHT):  # no jobs of a study, or none that are urgent
            grouped.setdefault(queues, []).append(kind)
    return grouped
