"""How long studies are kept: legal holds, and the removal of what is old and over.

Rows go first: the transaction that forgets a file writes its path into `removals`, and the file goes with
that row. A crash between the two leaves a row, which the next run finds. Who writes the same file anew
takes the row away before (`spare`), so that nothing is removed that came again meanwhile.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from os.path import commonpath

from sqlalchemy import ColumnElement, Delete, String, and_, cast, delete, func, or_, select, union_all, update
from sqlalchemy.orm import Session, aliased

from db import audit, jobs
from db.clock import from_now, now
from db.tables import (
    Backup,
    Delivery,
    Finding,
    Instance,
    Job,
    JobState,
    Removal,
    RemovedStudy,
    Report,
    ReportObject,
    Series,
    Study,
    StudyState,
    Variant,
    Verdict,
)
from db.upsert import insert

ACTOR = "retention"
_DAY_S = 86_400
_MB = 1_000_000


@dataclass(frozen=True)
class Rule:
    """Which studies are old enough, and whether those stay all the same that have a verdict."""

    days: float
    """Since the last object was received."""
    keep_labelled: bool


def hold(session: Session, study_uid: str, *, because: str) -> None:
    """Keep all of a study, whatever its age, until it is released."""
    jobs.lock_study(session, study_uid)
    session.execute(update(Study).where(Study.study_uid == study_uid).values(held_because=because))


def release(session: Session, study_uid: str) -> bool:
    """End a study's hold; False when it had none."""
    held = update(Study).where(Study.study_uid == study_uid, Study.held_because.is_not(None))
    return bool(session.execute(held.values(held_because=None)).rowcount)  # type: ignore[attr-defined]


def let_go_of_flagged(session: Session, study_uid: str) -> int:
    """Forget the objects that were kept aside because a UID of this study was known; how many that were.

    None of a study on legal hold.
    """
    jobs.lock_study(session, study_uid)
    mine = select(Instance.uid).join(Study).where(Study.study_uid == study_uid, Study.held_because.is_(None))
    flagged = delete(Variant).where(Variant.uid.in_(mine)).returning(Variant.path)
    paths = list(session.scalars(flagged.execution_options(synchronize_session=False)))
    _discard(session, study_uid, paths)
    return len(paths)


def with_old_prepared(session: Session, rule: Rule, *, most: int) -> list[str]:
    """Studies whose prepared images may go, the oldest first."""
    return _old(session, rule, Study.prepared_removed_at.is_(None), most=most)


def with_old_files(session: Session, rule: Rule, *, most: int) -> list[str]:
    """Studies whose files may go, the oldest first."""
    return _old(session, rule, Study.files_removed_at.is_(None), most=most)


def with_old_rows(session: Session, rule: Rule, *, most: int) -> list[str]:
    """Studies that may be forgotten, the oldest first."""
    return _old(session, rule, ~_lends_a_series(), most=most)


def remove_prepared(session: Session, study_uid: str, rule: Rule) -> bool:
    """Forget what was prepared of a study's images, to be made again when it is needed; True when it was."""
    if not _may_go(session, study_uid, rule):
        return False
    _discard(session, study_uid, _prepared_paths(session, study_uid))
    _forget_prepared(session, study_uid)
    return True


def remove_files(session: Session, study_uid: str, rule: Rule) -> bool:
    """Forget a study's files, and the work that is done; True when it was.

    The rows stay: findings, verdicts, reports, deliveries, and the digests by which an image is known.
    """
    if not _may_go(session, study_uid, rule):
        return False
    paths, size_bytes = _paths(session, study_uid)
    _discard(session, study_uid, paths)
    _forget_prepared(session, study_uid)
    here = (Instance.study_uid == study_uid, Instance.removed_at.is_(None))
    session.execute(update(Instance).where(*here).values(removed_at=now()))
    session.execute(update(Report).where(Report.study_uid == study_uid).values(removed_at=now()))
    session.execute(update(Study).where(Study.study_uid == study_uid).values(files_removed_at=now()))
    session.execute(delete(Job).where(Job.study_uid == study_uid, Job.state == JobState.DONE))
    _tell(session, "remove files", study_uid, paths, size_bytes)
    return True


def remove_rows(session: Session, study_uid: str, rule: Rule) -> bool:
    """Forget a study with its files, but for the number of its last report; True when it was.

    That number stays, since UIDs of reports follow from it: what is said of the study, should it come
    again, must be no report that was there before. So do the rows of the audit.
    """
    if not _may_go(session, study_uid, rule, ~_lends_a_series()):
        return False
    paths, size_bytes = _paths(session, study_uid)
    _discard(session, study_uid, paths)
    _remember(session, study_uid)
    for deletion in _deletions(study_uid):
        session.execute(deletion)
    _tell(session, "remove rows", study_uid, paths, size_bytes)
    return True


def last_revision(session: Session, study_uid: str) -> int:
    """The number of the last report of a study that was forgotten; 0 when there was none."""
    former = session.get(RemovedStudy, study_uid)
    return 0 if former is None else former.revision


def forgotten(session: Session, study_uid: str) -> RemovedStudy | None:
    """What is left of a study whose rows were removed."""
    return session.get(RemovedStudy, study_uid)


def held(session: Session, *, most: int) -> list[Study]:
    """Studies on legal hold, what was received last first."""
    query = select(Study).where(Study.held_because.is_not(None))
    return list(session.scalars(query.order_by(Study.last_received_at.desc()).limit(most)))


def take_removals(session: Session, *, most: int, but: Collection[str] = ()) -> list[Removal]:
    """What nothing names any more, locked: the caller removes it, and then its row, before it commits.

    A row stays until its file is gone, so that who writes the file anew (`spare`) waits, and finds either.
    None while a backup runs: it copies what rows named when it began. (One statement looks for both, so
    that what it takes was forgotten before a backup that it does not see.)
    """
    is_backed_up = select(Backup.id).where(Backup.lease_until > now()).exists()
    wanted = (~is_backed_up, Removal.path.not_in(but))
    some = select(Removal).where(*wanted).limit(most).with_for_update(skip_locked=True)
    return list(session.scalars(some))


def discard(session: Session, path: str) -> None:
    """Have a file of the store taken away that no row names: it belongs to no study."""
    _discard(session, None, [path])


def spare(session: Session, paths: Iterable[str]) -> None:
    """Keep these paths, which are written anew; waits for one who is removing them at this moment."""
    wanted = list(paths)
    if wanted:
        session.execute(delete(Removal).where(Removal.path.in_(wanted)))


def unnamed(session: Session, paths: Collection[str]) -> list[str]:
    """Those of these paths of one folder that no row names."""
    if not paths:
        return []
    start = commonpath(list(paths))
    here, sent = Instance.removed_at.is_(None), Report.removed_at.is_(None)
    named = union_all(
        select(Instance.path).where(here, Instance.path.startswith(start)),
        select(Instance.prepared_path).where(Instance.prepared, Instance.prepared_path.startswith(start)),
        select(Variant.path).where(Variant.path.startswith(start)),
        select(ReportObject.path).join(Report).where(sent, ReportObject.path.startswith(start)),
    )
    return sorted(set(paths).difference(session.scalars(named)))


def to_be_removed(session: Session) -> int:
    """How many files and folders are forgotten and not removed yet."""
    return session.scalar(select(func.count()).select_from(Removal)) or 0


def _old(session: Session, rule: Rule, condition: ColumnElement[bool], *, most: int) -> list[str]:
    query = select(Study.study_uid).where(condition, *_is_over(rule))
    return list(session.scalars(query.order_by(Study.last_received_at).limit(most)))


def _may_go(session: Session, study_uid: str, rule: Rule, *conditions: ColumnElement[bool]) -> bool:
    """Whether the study is still over, now that nobody else can change it."""
    jobs.lock_study(session, study_uid)
    query = select(Study.study_uid).where(Study.study_uid == study_uid, *conditions, *_is_over(rule))
    return session.scalar(query) is not None


def _is_over(rule: Rule) -> list[ColumnElement[bool]]:
    """Old, on no hold, and nothing waits for anybody: no work, no result on its way, no flagged object."""
    mine, before = Instance.study_uid == Study.study_uid, from_now(-rule.days * _DAY_S)
    unfinished = select(Job.id).where(
        Job.study_uid == Study.study_uid, Job.state.not_in([JobState.DONE, JobState.CANCELLED])
    )
    sent = select(Delivery.id).join(Report).where(Report.study_uid == Study.study_uid)
    flagged = select(Variant.id).join(Instance, Variant.uid == Instance.uid).where(mine)
    labelled = select(Verdict.id).join(Instance, Verdict.uid == Instance.uid).where(mine)
    # cast, so that SQLite goes by age: its index of states would have it read every study that was delivered
    state = cast(Study.state, String)
    stays_here = and_(state == StudyState.REPORTED.value, ~sent.exists())
    return [
        Study.last_received_at < before,
        ~select(Instance.uid).where(mine, Instance.received_at >= before).exists(),
        Study.held_because.is_(None),
        or_(state.in_([StudyState.DELIVERED.value, StudyState.NOT_READ.value]), stays_here),
        ~unfinished.exists(),
        ~flagged.exists(),
        *([~labelled.exists()] if rule.keep_labelled else []),
    ]


def _lends_a_series() -> ColumnElement[bool]:
    """Whether an object of another study names a series of this one, as broken senders have it."""
    other = aliased(Instance)
    borrowed = select(other.uid).join(Series, Series.series_uid == other.series_uid)
    return borrowed.where(Series.study_uid == Study.study_uid, other.study_uid != Study.study_uid).exists()


def _prepared_paths(session: Session, study_uid: str) -> list[str]:
    made = (Instance.study_uid == study_uid, Instance.prepared, Instance.prepared_path != "")
    return list(session.scalars(select(Instance.prepared_path).where(*made)))


def _paths(session: Session, study_uid: str) -> tuple[list[str], int]:
    """All files and folders of a study that are there, and the size of what was received, in bytes."""
    here = select(Instance.path, Instance.size_bytes).where(
        Instance.study_uid == study_uid, Instance.removed_at.is_(None)
    )
    received = session.execute(here).all()
    rendered = (
        select(ReportObject.path)
        .join(Report)
        .where(Report.study_uid == study_uid, Report.removed_at.is_(None))
    )
    paths = [row.path for row in received]
    paths += [*session.scalars(rendered), *_prepared_paths(session, study_uid)]
    return paths, sum(row.size_bytes for row in received)


def _forget_prepared(session: Session, study_uid: str) -> None:
    """Say that nothing is prepared; where it was, and its pixels' hash, stay for when it is again."""
    made = (Instance.study_uid == study_uid, Instance.prepared_path != "")
    session.execute(update(Instance).where(*made).values(prepared=False))
    session.execute(update(Study).where(Study.study_uid == study_uid).values(prepared_removed_at=now()))


def _discard(session: Session, study_uid: str | None, paths: Iterable[str]) -> None:
    for path in paths:
        statement = insert(session, Removal).values(path=path, study_uid=study_uid)
        session.execute(statement.on_conflict_do_nothing())


def _remember(session: Session, study_uid: str) -> None:
    newest = session.scalar(select(func.max(Report.revision)).where(Report.study_uid == study_uid)) or 0
    revision = max(newest, last_revision(session, study_uid))
    statement = insert(session, RemovedStudy).values(study_uid=study_uid, revision=revision)
    session.execute(
        statement.on_conflict_do_update(
            index_elements=["study_uid"], set_={"revision": revision, "removed_at": now()}
        )
    )


def _deletions(study_uid: str) -> list[Delete]:
    """What forgets a study, in an order in which no row names another that is gone."""
    images = select(Instance.uid).where(Instance.study_uid == study_uid)
    revisions = select(Report.id).where(Report.study_uid == study_uid)
    return [
        delete(Verdict).where(Verdict.uid.in_(images)),
        delete(Finding).where(Finding.uid.in_(images)),
        delete(Delivery).where(Delivery.report_id.in_(revisions)),
        delete(ReportObject).where(ReportObject.report_id.in_(revisions)),
        delete(Report).where(Report.study_uid == study_uid),
        delete(Job).where(Job.study_uid == study_uid),
        delete(Instance).where(Instance.study_uid == study_uid),
        delete(Series).where(Series.study_uid == study_uid),
        delete(Study).where(Study.study_uid == study_uid),
    ]


def _tell(session: Session, action: str, study_uid: str, paths: list[str], size_bytes: int) -> None:
    detail = f"{len(paths)} files and folders, {size_bytes / _MB:.1f} MB of them received"
    audit.note(session, actor=ACTOR, action=action, study_uid=study_uid, detail=detail)
