"""What networks say of images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from db.tables import Finding, Instance, NetworkVersion, Role
from db.upsert import insert


@dataclass(frozen=True)
class Read:
    """One image as a network read it."""

    uid: str
    pixel_hash: str
    label: str
    probabilities: Mapping[str, float]
    ood: float
    heat: Sequence[Sequence[float]]
    """(h, w), in [0, 1]; empty of a network that has no map."""
    statistics: Mapping[str, float] = field(default_factory=dict)
    """Name -> number of the network's input, `worker.appearance`."""
    engine: str = ""
    """What computed it, in which precision and on what."""


def note_network(session: Session, *, digest: str, version: str, manifest: Mapping[str, Any]) -> None:
    """Write down that there is this network, if nobody has yet."""
    statement = insert(session, NetworkVersion).values(
        digest=digest, version=version, manifest=dict(manifest)
    )
    session.execute(statement.on_conflict_do_nothing())


def save(
    session: Session,
    reads: Sequence[Read],
    *,
    network_digest: str,
    preprocessing: str,
    shadow: bool = False,
) -> None:
    """Keep findings; one that is there already, from the same network and pixels, stands."""
    for read in reads:
        statement = insert(session, Finding).values(
            uid=read.uid,
            pixel_hash=read.pixel_hash,
            network_digest=network_digest,
            preprocessing=preprocessing,
            label=read.label,
            probabilities=dict(read.probabilities),
            ood=read.ood,
            heat={"rows": [list(row) for row in read.heat]},
            shadow=shadow,
            statistics=dict(read.statistics),
            engine=read.engine,
        )
        session.execute(statement.on_conflict_do_nothing())


def unread(session: Session, study_uid: str, *, network_digest: str, preprocessing: str) -> list[Instance]:
    """The study's prepared images that this network has not read yet."""
    read = select(Finding.uid).where(
        Finding.network_digest == network_digest,
        Finding.preprocessing == preprocessing,
        Finding.uid == Instance.uid,
        Finding.pixel_hash == Instance.pixel_hash,
    )
    query = select(Instance).where(
        Instance.study_uid == study_uid,
        Instance.role == Role.IMAGE,
        Instance.prepared,
        Instance.prepared_path != "",
        ~read.exists(),
    )
    return list(session.scalars(query.order_by(Instance.uid)))


def take_up(session: Session, study_uid: str, *, network_digest: str, preprocessing: str) -> None:
    """Let what this network found of a study stand for it again: as a shadow, or before another read it.

    What was found last stands, so these findings are written down anew, as they are.
    """
    found = list(session.scalars(_current(study_uid)))
    last = max((each.id for each in found if not _is_of(each, network_digest) and not each.shadow), default=0)
    again = [
        each
        for each in found
        if _is_of(each, network_digest)
        and each.preprocessing == preprocessing
        and (each.shadow or each.id < last)
    ]
    for each in again:
        session.delete(each)
    session.flush()
    for each in again:
        kept = {column.key: getattr(each, column.key) for column in Finding.__table__.columns}
        told = {name: value for name, value in kept.items() if value is not None and name != "id"}
        session.add(Finding(**(told | {"shadow": False})))
    session.flush()


def of_study(session: Session, study_uid: str) -> dict[str, Finding]:
    """SOP Instance UID -> its finding, all of one network: the one that found something last.

    What a shadow finds is none of it.
    """
    current = _current(study_uid).where(Finding.shadow.is_(False))
    latest = session.scalar(current.order_by(Finding.id.desc()).limit(1))
    if latest is None:
        return {}
    of_network = current.where(Finding.network_digest == latest.network_digest).order_by(Finding.id)
    return {finding.uid: finding for finding in session.scalars(of_network)}


def _current(study_uid: str) -> Select[Finding]:
    """The findings of a study's images as they are now."""
    return (
        select(Finding)
        .join(Instance, Instance.uid == Finding.uid)
        .where(Instance.study_uid == study_uid, Instance.pixel_hash == Finding.pixel_hash)
    )


def _is_of(finding: Finding, network_digest: str) -> bool:
    return finding.network_digest == network_digest


def why_not_assessed(image: Instance, finding: Finding | None) -> str | None:
    """Why an image is not assessed: its header, its pixels or the network; None when it is, or waits."""
    return image.not_assessed_because or (finding.not_assessed_because if finding else None)


def network(session: Session, digest: str) -> NetworkVersion:
    """The network of this digest, which a finding names."""
    return session.get_one(NetworkVersion, digest)
