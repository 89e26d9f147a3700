"""`hilum networks`: what reads here, what did, and the change from one network to another."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text
from sqlalchemy.orm import Session

from console.tables import add, counted, plain, table
from db import networks, readings
from db.readings import Agreement, Progress, Share, StudyRead
from db.session import transaction
from db.tables import NetworkChange, NetworkState, NetworkVersion
from hilum import artefacts, queue
from hilum.engine import choose_engine
from hilum.errors import NetworkError
from hilum.network import Artefact
from hilum.radiograph import INPUT_SIZE
from hilum.settings import settings
from hilum.store import Store

READ_ANEW_PER_S = 5.0
_AT_ONCE = 50
_SHOWN = 20
_COLUMNS = ("study", "accession", "study date", "sender", "read at", "found", "read by another since")


@dataclass(frozen=True)
class Reach:
    """What a network has read: how many studies, and from when to when."""

    studies: int = 0
    first: datetime | None = None
    last: datetime | None = None

    def words(self) -> str:
        if self.first is None or self.last is None:
            return "it has read no study"
        period = f"from {_moment(self.first)} to {_moment(self.last)}"
        return f"it has read {counted(self.studies, 'study', 'studies')}, {period}"


def bring(folder: Path, *, actor: str, because: str) -> NetworkVersion:
    """Copy an artefact into the store and write it down as a candidate."""
    artefact = artefacts.keep(Store(settings().store), folder)
    _require_reading(artefact)
    with transaction() as session:
        return networks.bring(session, artefact, actor=actor, because=because)


def promote(digest: str, *, to: NetworkState, actor: str, because: str) -> bool:
    """Check a network and give it its place; False when another person's word for it is wanted first."""
    _require_reading(_kept(digest))
    with transaction() as session:
        promoted = networks.promote(session, digest, actor=actor, because=because, to=to)
    if promoted:
        queue.have_networks_loaded()
    return promoted


def roll_back(*, actor: str, because: str) -> NetworkVersion:
    """Let the former champion read again, and return it."""
    with transaction() as session:
        former = networks.former(session)
        if former is not None:
            _kept(former.digest)
        network = networks.roll_back(session, actor=actor, because=because)
    queue.have_networks_loaded()
    return network


def retire(digest: str, *, actor: str, because: str) -> None:
    """Have a shadow read no more."""
    with transaction() as session:
        networks.retire(session, digest, actor=actor, because=because)
    queue.have_networks_loaded()


def recall(digest: str, *, successor: str | None, actor: str, because: str) -> NetworkVersion:
    """Have a network never read again, and return the one that reads its studies anew."""
    if successor is not None:
        _require_reading(_kept(successor))
    with transaction() as session:
        reading = networks.recall(session, digest, actor=actor, because=because, successor=successor)
        _kept(reading.digest)
    queue.have_networks_loaded()
    return reading


def read_anew(digest: str, *, per_s: float = READ_ANEW_PER_S) -> Iterator[int]:
    """Have what a network read, and no other since, read again; yields how many studies, a chunk at a time.

    Each chunk is a transaction; called again, it goes on with what is left.
    """
    after, wanted = "", 0
    while True:
        with transaction() as session:
            chunk = readings.want_anew(
                session, digest, after=after, most=_AT_ONCE, due_in_s=wanted / per_s, per_s=per_s
            )
        if not chunk:
            return
        after, wanted = chunk[-1], wanted + len(chunk)
        yield len(chunk)


def reach(digest: str, file: Path | None) -> tuple[Reach, Table]:
    """What a network has read, and a table of its first studies; all go to a CSV file, if one is named."""
    made = table("", _COLUMNS)
    if file is None:
        return _told(_read_by(digest), made), made
    with file.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.writer(lines)
        writer.writerow(_COLUMNS)
        return _told(_written(_read_by(digest), writer), made), made


def _read_by(digest: str) -> Iterator[StudyRead]:
    after = ""
    while True:
        with transaction() as session:
            found = readings.of_network(session, digest, after=after)
        if not found:
            return
        yield from found
        after = found[-1].study.study_uid


def _written(found: Iterator[StudyRead], writer: Any) -> Iterator[StudyRead]:
    for each in found:
        writer.writerow(_cells(each))
        yield each


def _told(found: Iterator[StudyRead], made: Table) -> Reach:
    told = Reach()
    for each in found:
        if told.studies < _SHOWN:
            add(made, *_cells(each))
        times = [time for time in (told.first, told.last, each.read_at) if time is not None]
        told = Reach(told.studies + 1, min(times), max(times))
    if told.studies > _SHOWN:
        made.caption = f"... and {told.studies - _SHOWN} more: --csv writes all"
    return told


def _cells(each: StudyRead) -> tuple[str, ...]:
    study = each.study
    found = ", ".join(each.labels)
    since = "no" if each.stands else "yes"
    when = _moment(each.read_at)
    return study.study_uid, study.accession_number, study.study_date, study.sender_ae, when, found, since


def listed() -> list[dict[str, Any]]:
    """All networks of this place, for programs: what reads first."""
    with transaction() as session:
        known, read = networks.known(session), readings.counts(session)
        return [_about(session, each, read) for each in sorted(known, key=_order)]


def _order(network: NetworkVersion) -> int:
    return {NetworkState.CHAMPION: 0, NetworkState.SHADOW: 1}.get(network.state, 2)


def _about(session: Session, network: NetworkVersion, read: dict[str, int]) -> dict[str, Any]:
    came = networks.served(networks.changes(session, network.digest), network.state)
    is_shadow = network.state is NetworkState.SHADOW
    return {
        "version": network.version,
        "digest": network.digest,
        "state": network.state.value,
        "since": (came.at if came else network.first_loaded_at).isoformat(),
        "by": came.actor if came else "",
        "because": came.because if came else "",
        "studies": read.get(network.digest, 0),
        "agreement": _for_programs(readings.agreement(session, network.digest)) if is_shadow else None,
    }


def _for_programs(agreement: Agreement) -> dict[str, Any]:
    def shares(found: dict[str, Share]) -> dict[str, Any]:
        return {name: vars(share) for name, share in sorted(found.items())}

    return {
        **vars(agreement.all),
        "by_label": shares(agreement.by_label),
        "by_sender": shares(agreement.by_sender),
        "pairs": [[*says, count] for says, count in sorted(agreement.pairs.items())],
    }


def rendered(found: list[dict[str, Any]]) -> Table:
    """The list for people."""
    headers = ("state", "version", "digest", "since", "by", "studies", "agrees with the champion")
    made = table("", headers, numbers=("studies",))
    for each in found:
        share = each["agreement"]
        add(
            made,
            each["state"],
            each["version"],
            each["digest"][:12],
            _moment(datetime.fromisoformat(each["since"])),
            each["by"],
            str(each["studies"]),
            _share(share["same"], share["images"]) if share else "",
            style="bold" if each["state"] == "champion" else None,
        )
    return made


def shown(session: Session, network: NetworkVersion) -> Group:
    """All that is known of a network, for people."""
    parts: list[Text | Table] = [
        Text(plain(f"{network.version}  {network.state}"), style="bold"),
        Text(network.digest),
        Text(f"artefact: {Store(settings().store).path(network.path) if network.path else 'not here'}"),
        Text(f"made by training {network.run_id}" if network.run_id else "brought, not trained here"),
        _changes(networks.changes(session, network.digest)),
    ]
    agreement = readings.agreement(session, network.digest)
    if agreement.all.images:
        parts.append(Text(f"as a shadow it agrees on {_share(agreement.all.same, agreement.all.images)}"))
        parts.append(_shares("by what the champion says", agreement.by_label))
        parts.append(_shares("by sender", agreement.by_sender))
    return Group(*parts)


def _changes(found: list[NetworkChange]) -> Table:
    made = table("Changes", ["when", "what", "by", "because"])
    for each in found:
        add(made, _moment(each.at), each.action, each.actor, each.because)
    return made


def _shares(title: str, found: dict[str, Share]) -> Table:
    made = table("", [title, "images", "same"], numbers=("images", "same"))
    for name, share in sorted(found.items()):
        add(made, name, str(share.images), f"{share.same / share.images:.1%}")
    return made


def progress_in_words(found: Progress) -> list[str]:
    """How far a recall has come."""
    lost = f"; {found.lost} cannot be, since their files were removed because of their age"
    return [
        f"read anew: {found.read_anew} of {found.studies} studies{lost if found.lost else ''}",
        f"of these another finding: {found.changed}",
        f"superseding reports: {found.superseding}, of which deliveries are final: {found.delivered}",
    ]


def _share(same: int, images: int) -> str:
    return f"{same / images:.1%} of {counted(images, 'image', 'images')}" if images else "no image yet"


def _moment(moment: datetime) -> str:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M")


def _kept(digest: str) -> Artefact:
    return artefacts.kept(Store(settings().store), digest)


def _require_reading(artefact: Artefact) -> None:
    """Raise NetworkError when it does not read an image on a processor in the precision that is set."""
    engine = choose_engine(artefact, "cpu", settings().precision)
    reading = engine.read(np.zeros((1, INPUT_SIZE, INPUT_SIZE), np.uint8))
    if not np.isfinite(reading.probabilities).all():
        raise NetworkError(f"{artefact.version} does not say numbers of an image: it cannot be used")
