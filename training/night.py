"""The night: when a training begins by itself, and what keeps it from beginning."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta

from sqlalchemy.orm import Session

from db import jobs, snapshots, training_runs, verdicts
from db.tables import Verdict
from hilum.labels import REJECTED
from hilum.queue import TRAIN
from hilum.settings import Settings

CONFIDENT = 0.9
"""Probability from which on a finding that a verdict contradicts counts as flipped."""


@dataclass(frozen=True)
class Night:
    """The training hour of one day, by the clock on the wall, and the time after it."""

    slot: str
    """The day, as 2026-11-24: no night has two trainings, whatever clocks do."""
    begins: datetime
    ends: datetime
    """Until when a training may begin: one that begins later would last into the day."""

    def holds(self, moment: datetime) -> bool:
        return self.begins <= moment < self.ends


def night_of(moment: datetime, ours: Settings) -> Night:
    """Return the night that began last before a moment, by this machine's time zone."""
    here = moment.astimezone()
    today = here.date() if here.hour >= ours.training_hour else here.date() - timedelta(days=1)
    return _night(datetime.combine(today, time(ours.training_hour)), ours)


def next_night(moment: datetime, ours: Settings) -> Night:
    """Return the first night that begins after a moment."""
    day = moment.astimezone().date()
    nights = (
        _night(datetime.combine(day + timedelta(days=n), time(ours.training_hour)), ours) for n in range(3)
    )
    return next(night for night in nights if night.begins > moment)


def _night(wall: datetime, ours: Settings) -> Night:
    """The hour may come twice on a day, and then the first counts, or not at all, and then the one after."""
    begins = wall.astimezone()
    return Night(f"{wall:%Y-%m-%d}", begins, begins + timedelta(seconds=ours.training_budget_s / 2))


def begin(session: Session, moment: datetime, ours: Settings) -> int | None:
    """Return the number of the training that is to begin now; None when none is.

    One begins in the first half of its time after the training hour, once a night, when enough new verdicts
    are there and no other training is unfinished.
    """
    night = night_of(moment, ours)
    if not ours.training_least_verdicts or not night.holds(moment) or training_runs.unfinished(session):
        return None
    if new_verdicts(session) < ours.training_least_verdicts:
        return None
    return _wanted(session, training_runs.want(session, ours.training_recipe, slot=night.slot))


def begin_by_hand(session: Session, ours: Settings) -> int | None:
    """Return the number of a training that is to begin now; None while another one is unfinished."""
    if training_runs.unfinished(session):
        return None
    return _wanted(session, training_runs.want(session, ours.training_recipe))


def go_on(session: Session, run_id: int) -> bool:
    """Have a run that failed or was stopped go on from its checkpoint; False when it is no such one."""
    if not training_runs.resume(session, run_id):
        return False
    _wanted(session, run_id)
    return True


def stop(session: Session, run_id: int, actor: str) -> bool:
    """Stop a training, which keeps what it has learnt and can go on; False when it is over."""
    if not jobs.stop(session, TRAIN, str(run_id)):
        return False
    training_runs.fail(session, run_id, error=f"stopped by {actor}")
    return True


def _wanted(session: Session, run_id: int | None) -> int | None:
    if run_id is not None:
        jobs.want(session, TRAIN, str(run_id), study_uid=None)
    return run_id


def new_verdicts(session: Session) -> int:
    """On how many images there are verdicts of which no training has learnt."""
    return verdicts.count_new_since(session, snapshots.last_learnt_at(session))


def objections(session: Session, ours: Settings) -> list[str]:
    """Why the new verdicts are not to be learnt from before a person has looked, in words; none: they may be.

    One person, or one account in the wrong hands, must not turn a network alone.
    """
    new = verdicts.new_since(session, snapshots.last_learnt_at(session))
    if not new:
        return []
    return [*_of_one_author(new, ours), *_flipping(session, new, ours)]


def _of_one_author(new: Sequence[Verdict], ours: Settings) -> list[str]:
    [(author, count)] = Counter(verdict.author for verdict in new).most_common(1)
    if count <= ours.training_largest_author_share * len(new):
        return []
    return [
        f"{author} gave {count} of {len(new)} new verdicts, more than "
        f"{ours.training_largest_author_share:.0%}: "
        "have another person look at some of them, or raise training_largest_author_share"
    ]


def _flipping(session: Session, new: Sequence[Verdict], ours: Settings) -> list[str]:
    said = snapshots.said_by_networks(session, [verdict.uid for verdict in new])
    flips = sum(_flips(verdict, said.get(verdict.uid)) for verdict in new)
    if flips <= ours.training_largest_flip_share * len(new):
        return []
    return [
        f"{flips} of {len(new)} new verdicts contradict a finding of {CONFIDENT:.0%} or more, more than "
        f"{ours.training_largest_flip_share:.0%}: look whether labels were mixed up, or raise "
        "training_largest_flip_share"
    ]


def _flips(verdict: Verdict, said: tuple[str, float] | None) -> bool:
    if said is None or verdict.label == REJECTED:
        return False
    label, probability = said
    return label != verdict.label and probability >= CONFIDENT
