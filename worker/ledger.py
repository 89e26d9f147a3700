"""The ledger: what source PACS have of a day against what we received, read, reported and delivered."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta

from sqlalchemy.orm import Session

from db import audit, jobs, ledger
from db.ledger import Counts, Day, Gap, Held
from db.session import transaction
from db.tables import JobState, LedgerDay, StudyState
from hilum.errors import PacsUnavailable, RefusedByPacs
from hilum.queue import LEDGER, PREPARE, app, ring
from hilum.settings import Sender, Settings, settings
from worker.source import Keep, Listed, fetch, listed

log = logging.getLogger(__name__)

_STOPPED = frozenset((JobState.FAILED, JobState.QUARANTINED))


@app.task(name=LEDGER)
def take_stock() -> None:
    """Ask each source once for its latest days, keep their sums, and log what lacks."""
    ours = settings()
    for source in ours.sources:
        with transaction() as session:
            days = days_to_take(session, source.ae_title, date.today())
        for each in take(source, days, ours):
            _tell(each)


def days_to_take(session: Session, source: str, today: date) -> list[date]:
    """Today, yesterday, and of the days before, since the first sum, those with gaps or not told of."""
    first = ledger.first_day(session, source) or today
    back = max(first, today - timedelta(days=ledger.LOOKS_BACK_DAYS))
    known = {each.day: each for each in ledger.days(session, back, today, source=source)}
    every = [back + timedelta(days=number) for number in range((today - back).days + 1)]
    return [day for day in every if day >= today - timedelta(days=1) or _is_open(known.get(day))]


def take(source: Sender, days: Sequence[date], ours: Settings) -> Iterator[Day]:
    """Ask a source for these days, and yield each as it is kept in the database.

    A source that does not answer is not asked for the days that follow.
    """
    away: str | None = None
    for day in days:
        studies, away = ([], away) if away else _asked(source, day, ours)
        yield _not_asked(source, day, away) if away else _counted(source, day, studies, ours)


def close(gap: Gap, source: Sender, ours: Settings, keep: Keep, *, actor: str) -> str:
    """Have what lacks done: images asked for, stopped work done again. Return in words what came of it."""
    told = []
    if gap.series_uids:
        told.append(_fetched(gap, source, ours, keep))
    if gap.is_idle:
        told.append(_done_again(gap))
    with transaction() as session:
        detail = "; ".join(told) or "it waits for its turn"
        audit.note(session, actor=actor, action="close a gap", study_uid=gap.study_uid, detail=detail)
    return detail


@dataclass(frozen=True)
class _Line:
    """One study of a day: what the source lists of it, and what we hold."""

    study_uid: str
    listed: Listed | None
    uids: frozenset[str]
    """SOP Instance UIDs that are listed."""
    missing: frozenset[str]
    """Those of them that never came."""
    held: Held | None
    was_removed: bool
    """Whether it was final once, and its rows were removed because of its age."""

    @property
    def lacks(self) -> str:
        """What keeps it from being final, in words; empty when nothing does."""
        if self.missing:
            return f"{len(self.missing)} of {len(self.uids)} images"
        if self.held:
            return self.held.lacks
        return "" if self.was_removed else "the study: its images came in another one"

    @property
    def accession_number(self) -> str:
        """As we hold it, else as the source lists it."""
        said = [each.accession_number for each in (self.held, self.listed) if each]
        return next(filter(None, said), "")

    @property
    def is_idle(self) -> bool:
        """Whether a step lacks, and nothing will do it unless somebody has it done."""
        if self.held is None or not self.held.lacks or JobState.CANCELLED in self.held.work:
            return False
        return not self.held.work or not self.held.work.isdisjoint(_STOPPED)

    @property
    def because(self) -> str:
        if self.missing:
            return "never received, or lost here: `hilum show` tells" if self.held else "never received"
        if self.held is None:
            return "`hilum studies --flagged` names it"
        if JobState.CANCELLED in self.held.work:
            return "cancelled by a person: `hilum replay` takes it up"
        return self.held.error or ("its turn has not come" if self.held.work else "no work is left for it")

    def moments(self, day: date) -> list[datetime]:
        """When the study was made, as far as that is known, and when its last image came."""
        made = [moment(day, self.listed.study_time)] if self.listed else []
        return made + ([self.held.last_received_at] if self.held else [])


def moment(day: date, study_time: str) -> datetime:
    """When a study was made, by this machine's time zone, since a Study Time names none.

    Of an hour that comes twice when the clocks go back, the second is meant; without a time that can be
    read, the day's end: so nothing counts as a gap too early.
    """
    digits = study_time.partition(".")[0].replace(":", "").ljust(6, "0")
    try:
        clock = time(int(digits[:2]), int(digits[2:4]), min(int(digits[4:6]), 59))
    except ValueError:
        clock = time.max
    return datetime.combine(day, clock if study_time else time.max, tzinfo=None).replace(fold=1).astimezone()


def _asked(source: Sender, day: date, ours: Settings) -> tuple[list[Listed], str | None]:
    """What the source lists, or why it tells nothing."""
    try:
        return listed(source, ours, day), None
    except (PacsUnavailable, RefusedByPacs) as error:
        return [], str(error)
    except Exception as error:  # the border with the source: to read its answers can raise anything
        log.exception("the answers of %s cannot be read", source.ae_title)
        return [], f"its answers cannot be read: {type(error).__name__}"


def _not_asked(source: Sender, day: date, because: str) -> Day:
    with transaction() as session:
        ledger.note_not_asked(session, source.ae_title, day, because)
    return Day(source.ae_title, day, Counts(), not_asked_because=because)


def _counted(source: Sender, day: date, studies: Sequence[Listed], ours: Settings) -> Day:
    lines = _lines(source, day, studies)
    due = datetime.now().astimezone() - timedelta(seconds=ours.ledger_grace_s)
    late = [line for line in lines if line.lacks and max(line.moments(day)) <= due]
    counts = replace(
        _summed(lines),
        gaps=len(late),
        waiting_studies=sum(bool(line.lacks) for line in lines) - len(late),
    )
    with transaction() as session:
        uids = frozenset[str]().union(*(study.uids for study in studies))
        ledger.keep(session, source.ae_title, day, counts, uids)
    return Day(source.ae_title, day, counts, [_gap(source, day, line) for line in late])


def _lines(source: Sender, day: date, studies: Sequence[Listed]) -> list[_Line]:
    by_uid = {study.study_uid: study for study in studies}
    with transaction() as session:
        held = ledger.held(session, by_uid.keys() | ledger.sent_by(session, source.ae_title, day))
        known = ledger.known(session, {uid for study in studies for uid in study.uids})
        removed = ledger.removed(session, by_uid.keys())
    ours = {uid for uid, each in held.items() if each.images and uid not in by_uid}
    return [
        _line(by_uid.get(uid), held.get(uid), known=known, was_removed=uid in removed)
        for uid in sorted(by_uid.keys() | ours)
    ]


def _line(listed: Listed | None, held: Held | None, *, known: set[str], was_removed: bool) -> _Line:
    uids = listed.uids if listed else frozenset[str]()
    missing = frozenset[str]() if was_removed else uids - known  # of a removed study all had come
    study_uid = listed.study_uid if listed else held.study_uid if held else ""
    return _Line(study_uid, listed, uids, missing, held, was_removed)


def _summed(lines: Sequence[_Line]) -> Counts:
    told = [line.listed for line in lines if line.listed]
    held = [line.held for line in lines if line.held]
    return Counts(
        listed_studies=len(told),
        listed_images=sum(len(study.uids) for study in told),
        missing_images=sum(len(line.missing) for line in lines),
        unlisted_studies=len(lines) - len(told),
        held_images=sum(each.images for each in held),
        eligible_images=sum(each.eligible for each in held),
        read_images=sum(each.read for each in held),
        reported_studies=sum(each.state in (StudyState.REPORTED, StudyState.DELIVERED) for each in held),
        final_studies=sum(not line.lacks for line in lines),
    )


def _gap(source: Sender, day: date, line: _Line) -> Gap:
    series = line.listed.series if line.listed else {}
    return Gap(
        source=source.ae_title,
        day=day,
        study_uid=line.study_uid,
        accession_number=line.accession_number,
        missing=line.lacks,
        since=line.moments(day)[0 if line.missing else -1],
        because=line.because,
        uids=line.missing,
        series_uids=tuple(sorted(uid for uid, uids in series.items() if uids & line.missing)),
        is_idle=line.is_idle,
    )


def _is_open(day: LedgerDay | None) -> bool:
    """Whether a day was never told of, or not to its end."""
    if day is None or day.not_asked_because:
        return True
    return bool(day.counts["gaps"] or day.counts["waiting_studies"])


def _tell(taken: Day) -> None:
    if taken.not_asked_because:
        log.warning(
            "the ledger of %s for %s: not asked: %s", taken.source, taken.day, taken.not_asked_because
        )
    for gap in taken.gaps:
        log.warning("study %s of %s lacks %s: %s", gap.study_uid, gap.source, gap.missing, gap.because)


def _fetched(gap: Gap, source: Sender, ours: Settings, keep: Keep) -> str:
    said = ""
    try:
        fetch(source, ours, gap.study_uid, gap.series_uids, keep)
    except (PacsUnavailable, RefusedByPacs) as error:
        said = f": {error}"
    with transaction() as session:
        came = len(ledger.known(session, gap.uids))
    return f"{came} of {len(gap.uids)} images came{said}"


def _done_again(gap: Gap) -> str:
    with transaction() as session:
        bells = jobs.replay(session, gap.study_uid)
        if not bells:  # no row of work is left: to begin anew does again only what lacks
            jobs.want(session, PREPARE, gap.study_uid, study_uid=gap.study_uid)
            bells = [(PREPARE, gap.study_uid, False)]
    for kind, subject, urgent in bells:
        ring(kind, subject, urgent=urgent)
    return f"to be done again: {', '.join(kind for kind, _, _ in bells)}"
