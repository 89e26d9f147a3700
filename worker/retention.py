"""Retention: what is old and over goes, a little at a time, so that nothing waits for it."""

import logging
import time
from collections.abc import Callable, Iterator
from functools import partial

from sqlalchemy.orm import Session

from db import retention
from db.retention import Rule
from db.session import transaction
from hilum.queue import RETENTION, app
from hilum.settings import Settings, settings
from hilum.store import Store

log = logging.getLogger(__name__)

WORK_FOR_S = 1.0
"""Seconds that one run takes: the sweep stands behind it in the queue. Every minute, that is 1,000 studies a day
on a slow disk and 50,000 on a fast one."""
_STUDIES_AT_ONCE = 20
_PATHS_AT_ONCE = 10

Find = Callable[..., list[str]]
Remove = Callable[[Session, str, Rule], bool]


@app.task(name=RETENTION)
def remove_what_is_old() -> None:
    """Remove what the settings keep no longer, for a second; the rest is for the next run."""
    until = time.monotonic() + WORK_FOR_S
    while remove_some() and time.monotonic() < until:
        pass


def remove_some() -> bool:
    """Forget some studies or what they hold, and remove some files; False when nothing was left to be done."""
    forgotten = [_forget(*step) for step in _steps(settings())]
    return bool(_remove_files() + sum(forgotten))


def _steps(ours: Settings) -> Iterator[tuple[Find, Remove, Rule]]:
    rule = partial(Rule, keep_labelled=ours.keep_labelled)
    if ours.keep_rows_days is not None:
        yield retention.with_old_rows, retention.remove_rows, rule(ours.keep_rows_days)
    if ours.keep_files_days is not None:
        yield retention.with_old_files, retention.remove_files, rule(ours.keep_files_days)
    if ours.keep_prepared_days is not None:
        yield retention.with_old_prepared, retention.remove_prepared, Rule(ours.keep_prepared_days, False)


def _forget(find: Find, remove: Remove, rule: Rule) -> int:
    """How many studies were forgotten, each in a transaction of its own."""
    with transaction() as session:
        study_uids = find(session, rule, most=_STUDIES_AT_ONCE)
    count = 0
    for study_uid in study_uids:
        with transaction() as session:
            count += remove(session, study_uid, rule)
    if count:
        log.info("%s: %d studies", remove.__name__, count)
    return count


def _remove_files() -> int:
    """Remove files and folders that no row names; their rows go only when they are gone."""
    store = Store(settings().store)
    with transaction() as session:
        paths = retention.take_removals(session, most=_PATHS_AT_ONCE)
        for path in paths:
            store.remove(path)
    return len(paths)
