"""Retention: what is old and over goes, a little at a time, so that nothing waits for it."""

import logging
import time
from collections.abc import Callable, Iterator
from functools import partial

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from db import constancy, retention
from db.retention import Rule
from db.session import transaction
from db.tables import Removal
from hilum.queue import RETENTION, app
from hilum.settings import Settings, settings
from hilum.store import FOLDERS, INSTANCES, PREPARED, REPORTS, Store

log = logging.getLogger(__name__)

WORK_FOR_S = 1.0
"""Seconds that one run takes, once in a minute: the sweep stands behind it in the queue."""
KEEP_PHANTOMS_DAYS = 3
"""Days for which phantoms that were sent for constancy are kept, to be looked at when they differ."""
_KINDS = (INSTANCES, PREPARED, REPORTS)
_STUDIES_AT_ONCE = 20
_PATHS_AT_ONCE = 10

_PUT_OFF_S = 3600
_put_off: dict[str, float] = {}
"""Paths and studies that could not go, and the time.monotonic() of their next turn, in this process."""

_ORPHANS_AT_MIN = 37
"""Minute of each hour at which one folder of the store is looked through; all of them take a month."""
_ORPHAN_AFTER_S = 86_400
"""What is being written now has no row yet."""
_MOST_ORPHANS = 3
"""In one folder: crashes leave a file here and there, another database's store is nothing but orphans."""
_STRANGE_STORE = (
    "%d of %d in a folder of %s have no row: do store and database belong together? Nothing is taken away. "
    "Correct database_url or store_dir; where the database alone was restored, `hilum send` the store's %s"
)

Find = Callable[..., list[str]]
Remove = Callable[[Session, str, Rule], bool]


@app.task(name=RETENTION)
def remove_what_is_old() -> None:
    """Remove what the settings keep no longer, for a second; the rest is for the next run.

    Once in an hour a part of the store is looked through for files that no row names.
    """
    if time.time() // 60 % 60 == _ORPHANS_AT_MIN:
        discard_orphans(int(time.time() // 3600))
    until = time.monotonic() + WORK_FOR_S
    while remove_some() and time.monotonic() < until:
        pass


def remove_some() -> bool:
    """Forget some studies or what they hold, and remove some files; False when nothing was left to do."""
    forgotten = [_forget(*step) for step in _steps(settings())]
    return bool(_remove_files() + sum(forgotten) + _forget_phantoms())


def discard_orphans(turn: int) -> None:
    """Have taken away what a crash left in one of the store's folders between a file and its row.

    Nothing, when it is more than crashes leave: that store has lost its database, and needs a person.
    """
    kind = _KINDS[turn % len(_KINDS)]  # 3 kinds and 256 folders have no divisor in common: each meets each
    old = Store(settings().store).old(kind, turn % FOLDERS, older_than_s=_ORPHAN_AFTER_S)
    with transaction() as session:
        orphans = retention.unnamed(session, old)
        for path in orphans if len(orphans) <= _MOST_ORPHANS else []:
            retention.discard(session, path)
    if len(orphans) > _MOST_ORPHANS:
        log.error(_STRANGE_STORE, len(orphans), len(old), kind, INSTANCES)
    elif orphans:
        log.warning("%d files of %s have no row, and are taken away", len(orphans), kind)


def _steps(ours: Settings) -> Iterator[tuple[Find, Remove, Rule]]:
    rule = partial(Rule, keep_labelled=ours.keep_labelled)
    if ours.keep_rows_days is not None:
        yield retention.with_old_rows, retention.remove_rows, rule(ours.keep_rows_days)
    if ours.keep_files_days is not None:
        yield retention.with_old_files, retention.remove_files, rule(ours.keep_files_days)
    if ours.keep_prepared_days is not None:
        yield retention.with_old_prepared, retention.remove_prepared, Rule(ours.keep_prepared_days, False)


def _forget(find: Find, remove: Remove, rule: Rule) -> int:
    """How many studies were forgotten, each in a transaction of its own; one that fails waits for an hour."""
    waiting = _waiting()
    with transaction() as session:
        found = find(session, rule, most=_STUDIES_AT_ONCE + len(waiting))
    count = 0
    for study_uid in [each for each in found if each not in waiting][:_STUDIES_AT_ONCE]:
        try:
            with transaction() as session:
                count += remove(session, study_uid, rule)
        except SQLAlchemyError:
            log.exception("%s: %s cannot be removed now; tried again in an hour", remove.__name__, study_uid)
            _put_off[study_uid] = time.monotonic() + _PUT_OFF_S
            break  # were it the database that is away, each of the others would wait for it
    if count:
        log.info("%s: %d studies", remove.__name__, count)
    return count


def _forget_phantoms() -> int:
    """Forget studies of old phantoms that were sent for constancy, and are over; how many."""
    rule = Rule(KEEP_PHANTOMS_DAYS, False)
    with transaction() as session:
        old = constancy.old_studies(session, days=rule.days)
    return sum(_forget_phantom(slot, study_uid, rule) for slot, study_uid in old[:_STUDIES_AT_ONCE])


def _forget_phantom(slot: str, study_uid: str, rule: Rule) -> bool:
    with transaction() as session:
        if not retention.remove_rows(session, study_uid, rule):
            return False
        constancy.forget_study(session, slot, study_uid)
        return True


def _remove_files() -> int:
    """Remove files and folders that no row names; their rows go only when they are gone. How many went."""
    store = Store(settings().store)
    with transaction() as session:
        removals = retention.take_removals(session, most=_PATHS_AT_ONCE, but=_waiting())
        return sum(_remove(session, store, each) for each in removals)


def _remove(session: Session, store: Store, removal: Removal) -> bool:
    """Whether it could be removed: its row stays otherwise, for a later turn."""
    try:
        if removal.study_uid is not None:
            store.remove(removal.path)
        elif _is_orphan(session, store, removal.path):
            _take_away(store, removal.path)
    except OSError as error:
        log.error("%s cannot be removed: %s; tried again in an hour", removal.path, error)
        _put_off[removal.path] = time.monotonic() + _PUT_OFF_S
        return False
    session.delete(removal)
    return True


def _waiting() -> set[str]:
    """Paths and studies whose next turn has not come."""
    for each in [each for each, until in _put_off.items() if until <= time.monotonic()]:
        del _put_off[each]
    return set(_put_off)


def _is_orphan(session: Session, store: Store, path: str) -> bool:
    """Whether it is one still: who wrote it anew may have looked for the removal before there was one.

    Then either the row can be seen by now, or the file is young. Who writes it from here on waits for us.
    """
    is_unnamed = bool(retention.unnamed(session, [path]))
    return is_unnamed and store.is_old(path, older_than_s=_ORPHAN_AFTER_S)


def _take_away(store: Store, path: str) -> None:
    """Remove what can be made anew; what was received may be the only copy, and waits for a person."""
    if not path.startswith(f"{INSTANCES}/"):
        store.remove(path)
        return
    store.lose(path)
    log.error("%s was received and has no row: it lies in %s; `hilum send` it", path, store.lost)
