"""Drift: once a day, each sender's latest images and findings against the first ones that came from there."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import chain
from typing import Any

from sqlalchemy.orm import Session

from db import alerts, drift, jobs, networks
from db.drift import OF_IMAGES, Group, Seen
from db.jobs import Claim
from db.session import transaction
from db.tables import DriftReference
from db.work import Bell, work_on
from hilum.queue import DRIFT, app
from hilum.settings import Settings, settings
from worker.appearance import SIGNS
from worker.distance import Distance, of_classes, of_numbers

log = logging.getLogger(__name__)

MOST_IMAGES = 2000
"""The latest images of a group that are compared: enough for any distance worth an alert."""
CHANCE = 0.001
"""The probability, of all distances of a look together, up to which chance does not explain one."""

Values = Mapping[str, Sequence[Any]]
"""Name -> what it was in each image: numbers, or classes."""
_FINDINGS = ("label", "confidence", "ood")
_WORDS = {
    "confidence": ("surer", "less sure"),
    "ood": ("stranger to the network", "less strange to the network"),
}


@app.task(name=DRIFT)
def look_for_drift(slot: str) -> None:
    """Compare each group's latest images with its first ones, and raise or end its alert."""
    work_on(DRIFT, slot, _look)


def _look(claim: Claim) -> Sequence[Bell]:
    ours = settings()
    with transaction() as session:
        champion = networks.champion(session)
        digest = champion.digest if champion else ""
        groups = drift.groups(session, digest, days=ours.drift_days)
    for group in groups:
        with transaction() as session:  # one for each, so that nobody waits long for them
            look_at(session, group, digest, ours)
    with transaction() as session:
        jobs.finish(session, claim)
    return []


def look_at(session: Session, group: Group, digest: str, ours: Settings) -> None:
    """Compare one group's images, and what the network of this digest finds in them."""
    looks = [
        _compared(session, group, OF_IMAGES, digest, _signs, ours),
        _compared(session, group, digest, digest, _found, ours),
    ]
    told = [each for each in looks if each is not None]
    beyond = list(chain.from_iterable(told))
    if beyond:
        words = f"images of {group}{',' if group.view else ''} {'; '.join(beyond)}"
        alerts.note(session, drift.KIND, str(group), words)
        if ours.drift_holds and drift.hold(session, group.sender_ae, words):
            log.warning("results of %s are held back: %s", group.sender_ae, words)
    elif len(told) == len(looks):
        alerts.end(session, drift.KIND, str(group))


def _signs(seen: Sequence[Seen]) -> Values:
    """What images look like; those of before this was kept are left out."""
    known = [each.statistics for each in seen if each.statistics.keys() >= SIGNS.keys()]
    return {name: [each[name] for each in known] for name in SIGNS}


def _found(seen: Sequence[Seen]) -> Values:
    return {name: [getattr(each, name) for each in seen] for name in _FINDINGS}


def _compared(
    session: Session,
    group: Group,
    reference_of: str,
    digest: str,
    values_of: Callable[[Sequence[Seen]], Values],
    ours: Settings,
) -> list[str] | None:
    """What is beyond the limits, in words; None when too little is there to be compared."""
    reference = drift.reference(session, group, reference_of)
    _complete(session, reference, group, digest, values_of, ours)
    latest = drift.latest(
        session, group, digest, after=reference.until_finding, days=ours.drift_days, most=MOST_IMAGES
    )
    now = values_of(latest)
    count = len(next(iter(now.values())))
    if reference.images < ours.drift_reference_images or count < ours.drift_least_images:
        return None
    distances = distances_of(reference.values, now)
    if reference_of != OF_IMAGES:
        distances |= _agreement(session, group, digest, ours)
    beyond = [name for name, each in distances.items() if is_beyond(each, len(distances), ours.drift_limit)]
    reference.compared = {
        "at": datetime.now(UTC).isoformat(),
        "images": count,
        "beyond": beyond,
        "distances": {name: asdict(each) for name, each in distances.items()},
    }
    session.flush()
    return [f"{_in_words(name, distances[name])} (n = {count})" for name in beyond]


def _complete(
    session: Session,
    reference: DriftReference,
    group: Group,
    digest: str,
    values_of: Callable[[Sequence[Seen]], Values],
    ours: Settings,
) -> None:
    """Take the group's next images into what it is compared with, while there are not enough in there."""
    lacking = ours.drift_reference_images - reference.images
    if lacking <= 0:
        return
    some = drift.first(
        session, group, digest, after=reference.until_finding, days=ours.drift_days, most=lacking
    )
    if not some:
        return
    new = values_of(some)
    reference.values = {name: [*reference.values.get(name, []), *values] for name, values in new.items()}
    reference.images += len(next(iter(new.values())))
    reference.until_finding = some[-1].finding_id
    session.flush()


def distances_of(before: Values, now: Values) -> dict[str, Distance]:
    """Name -> how far the second sample is from the first in it."""
    return {
        name: of_classes(before[name], values) if name == "label" else of_numbers(before[name], values)
        for name, values in now.items()
    }


def is_beyond(each: Distance, together: int, limit: float) -> bool:
    """Whether a distance, one of so many, is worth an alert: great, and not by chance."""
    return each.distance >= limit and each.chance * together < CHANCE


def _agreement(session: Session, group: Group, digest: str, ours: Settings) -> dict[str, Distance]:
    """How people's agreement with the network changed, where enough verdicts are there."""
    before, now = drift.agreement(session, group, digest, days=ours.drift_days)
    if min(sum(before.values()), sum(now.values())) < ours.drift_least_images:
        return {}
    return {"agreement": of_classes(_spelled(before), _spelled(now))}


def _spelled(counts: Mapping[bool, int]) -> list[str]:
    return ["agree"] * counts[True] + ["differ"] * counts[False]


def _in_words(name: str, each: Distance) -> str:
    now, before = f"{each.now:.2f}", f"{each.before:.2f}"
    if name in SIGNS:
        sign = SIGNS[name]
        return f"are {_way(each, sign.more, sign.less)}: {sign.meaning} {now} instead of {before}"
    if name in _WORDS:
        return f"are found {_way(each, *_WORDS[name])}: {now} instead of {before}"
    share = f"{each.now:.0%} instead of {each.before:.0%}"
    if name == "label":
        return f"are found to be {each.of} in {share}"
    return f"are read as people do in {share}" if each.of == "agree" else f"are read otherwise in {share}"


def _way(each: Distance, more: str, less: str) -> str:
    return more if each.now > each.before else less
