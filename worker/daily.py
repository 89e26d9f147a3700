"""Daily: what is to be done once a day is wanted once a day, whoever asks and however often."""

from datetime import datetime, timedelta

from db import jobs
from db.session import transaction
from hilum.queue import CONSTANCY, DAILY, DRIFT, app, ring
from hilum.settings import settings

DRIFT_HOUR = 5
"""By the clock on the wall: what came yesterday is read, and nobody waits for the database."""


@app.task(name=DAILY)
def begin_the_day() -> None:
    """Have done what is due since its hour of the day, unless it is: a job of that day's name decides."""
    clock = datetime.now()
    _want(DRIFT, day_of(clock, DRIFT_HOUR))
    if (hour := settings().constancy_hour) is not None:
        _want(CONSTANCY, day_of(clock, hour))


def day_of(clock: datetime, hour: int) -> str:
    """The day whose hour has come last, as 2026-11-24."""
    return (clock - timedelta(hours=hour)).date().isoformat()


def _want(kind: str, day: str) -> None:
    with transaction() as session:
        is_new = jobs.want_once(session, kind, day)
    if is_new:
        ring(kind, day)
