"""Networks in service: which one reads, which reads beside it, which did before, and who decided so.

Each change of state is one transaction of the caller's. Whoever changes anything locks all rows first, and a
unique index holds that there is one champion and one shadow at most.
"""

import logging
from collections.abc import Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

from sqlalchemy import make_url, select
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session

from db import audit, findings
from db.session import transaction
from db.tables import NetworkChange, NetworkState, NetworkVersion
from hilum import artefacts
from hilum.engine import INT8_GRAPH
from hilum.errors import HilumError, NetworkError
from hilum.network import Artefact, shipped
from hilum.settings import settings
from hilum.store import Store

log = logging.getLogger(__name__)

SETTINGS = "settings"
"""The actor of what follows from the configuration alone."""
GATE = "gate"
"""The actor of what follows from a training and the rule it is judged by."""


class NotPossible(HilumError):
    """A person must choose another network or do something else first: the text says what."""


class Action(StrEnum):
    """What was done with a network, or said of it."""

    BROUGHT = "brought"
    APPROVED = "approved"
    """One person's word for it; another's is wanted before it reads."""
    SHADOW = "shadow"
    PROMOTED = "promoted"
    RETIRED = "retired"
    ROLLED_BACK = "rolled back"
    """It is champion again, since the one after it was not as good as was thought."""
    RECALLED = "recalled"
    REFUSED = "refused"


def champion(session: Session) -> NetworkVersion | None:
    """The network that reads, and whose findings are reported; None before one was ever installed."""
    return in_service(session).get(NetworkState.CHAMPION)


def shadow(session: Session) -> NetworkVersion | None:
    """The network that reads beside the champion, if there is one."""
    return in_service(session).get(NetworkState.SHADOW)


def in_service(session: Session) -> dict[NetworkState, NetworkVersion]:
    """Champion and shadow, as far as there are such."""
    serving = NetworkVersion.state.in_([NetworkState.CHAMPION, NetworkState.SHADOW])
    return {each.state: each for each in session.scalars(select(NetworkVersion).where(serving))}


def known(session: Session) -> list[NetworkVersion]:
    """All networks of this place, what came last first."""
    return list(session.scalars(select(NetworkVersion).order_by(NetworkVersion.first_loaded_at.desc())))


def find(session: Session, text: str) -> NetworkVersion:
    """The network of this version, or whose digest begins so; NotPossible when none or several are."""
    found = [
        each for each in known(session) if text and (each.version == text or each.digest.startswith(text))
    ]
    if len(found) != 1:
        several = ", ".join(f"{each.digest[:12]} ({each.state})" for each in found)
        raise NotPossible(
            f"there are several networks {text}: name one by its digest: {several}"
            if found
            else f"there is no network {text}: `hilum networks list` shows those that are"
        )
    return found[0]


def changes(session: Session, digest: str | None = None) -> list[NetworkChange]:
    """What was done with a network, or with all, the oldest first."""
    query = select(NetworkChange).order_by(NetworkChange.id)
    return list(session.scalars(query if digest is None else query.where(NetworkChange.digest == digest)))


def in_use() -> Path:
    """The folder of the network that reads here; of the settings' one where no database is, or answers."""
    ours = settings()
    if ours.database_url or Path(str(make_url(ours.database).database)).is_file():
        with suppress(DBAPIError), transaction() as session:
            reading = champion(session)
            if reading is not None:
                return Store(ours.store).path(reading.path)
    return ours.network_dir or shipped()


def serving() -> dict[NetworkState, NetworkVersion]:
    """The champion, and the shadow if there is one; the settings' network is installed where none ever read.

    Raises NetworkError as `install` does.
    """
    while True:
        with transaction() as session:
            found = in_service(session)
        if NetworkState.CHAMPION in found:
            return found
        install()


def install() -> None:
    """Bring the network that the settings name, and let it read unless people have decided on another.

    It takes the place of another one of the settings, and is a candidate beside one that people promoted.
    One that was here before stays what it is. Raises NetworkError when it is broken or was recalled.
    """
    artefact = artefacts.keep(Store(settings().store), settings().network_dir or shipped())
    try:
        with transaction() as session:
            _settle(session, artefact)
    except IntegrityError:  # another process has installed the first champion at this moment
        with transaction() as session:
            _settle(session, artefact)


def bring(
    session: Session, artefact: Artefact, *, actor: str, because: str = "", run_id: int | None = None
) -> NetworkVersion:
    """Write down a network that lies in the store (`hilum.artefacts.keep`): a candidate, which reads nothing.

    One that was brought before stays what it is.
    """
    findings.note_network(
        session, digest=artefact.digest, version=artefact.version, manifest=artefact.manifest
    )
    network = _locked(session)[artefact.digest]
    if not network.path:
        network.path = artefacts.place(artefact.digest)
        network.run_id = run_id
        _note(session, network, Action.BROUGHT, actor, because)
    return network


def promote(
    session: Session,
    digest: str,
    *,
    actor: str,
    because: str,
    to: NetworkState = NetworkState.CHAMPION,
) -> bool:
    """Make a network the champion or the shadow, whose place the former one leaves.

    False when it is one person's word so far, and the settings ask for two before a network reads.
    Raises NotPossible when it is one that must not be.
    """
    network = _locked(session)[digest]
    _require_fit(network, to)
    if to is NetworkState.CHAMPION and not _is_agreed(session, network, actor):
        _note(session, network, Action.APPROVED, actor, because)
        return False
    action = Action.PROMOTED if to is NetworkState.CHAMPION else Action.SHADOW
    _put(session, network, to, action, actor, because)
    return True


def retire(session: Session, digest: str, *, actor: str, because: str) -> None:
    """Have a shadow read no more; NotPossible when it is none."""
    network = _locked(session)[digest]
    if network.state is not NetworkState.SHADOW:
        raise NotPossible(
            f"{network.version} is {network.state}: only a shadow can be retired without a successor"
        )
    _leave(session, network, actor, because)


def former(session: Session) -> NetworkVersion | None:
    """The network that read before the champion did and may read again; None when there is none."""
    line: list[str] = []
    for each in changes(session):
        if each.action == Action.ROLLED_BACK and each.digest in line:
            while line[-1] != each.digest:
                line.pop()
        elif each.action in (Action.PROMOTED, Action.ROLLED_BACK):
            line.append(each.digest)
    before = (session.get_one(NetworkVersion, digest) for digest in reversed(line[:-1]))
    return next((each for each in before if each.state is NetworkState.RETIRED), None)


def roll_back(session: Session, *, actor: str, because: str) -> NetworkVersion:
    """Let the former champion read again, and return it; NotPossible when there is none."""
    _locked(session)
    network = former(session)
    if network is None:
        raise NotPossible("no network read here before this one: promote another")
    _put(session, network, NetworkState.CHAMPION, Action.ROLLED_BACK, actor, because)
    return network


def recall(
    session: Session, digest: str, *, actor: str, because: str, successor: str | None = None
) -> NetworkVersion:
    """Have a network never read again, and return the champion, which reads its studies anew.

    Where it is the champion itself, the successor takes its place, or else the former champion. Nothing
    happens when it was recalled before. Raises NotPossible when nobody can take its place.
    """
    network = _locked(session)[digest]
    if network.state is not NetworkState.RECALLED:
        if network.state is NetworkState.CHAMPION:
            _replace(session, network, actor, because, successor)
        elif successor is not None:
            raise NotPossible(f"{network.version} does not read: its studies are read anew by the champion")
        network.state = NetworkState.RECALLED
        _note(session, network, Action.RECALLED, actor, because)
        session.flush()
    reading = champion(session)
    if reading is None:
        raise NotPossible("no network reads here: promote one, then recall again")
    return reading


def after_gate(session: Session, digest: str, *, passed: bool, because: str) -> None:
    """Do with a candidate what the gate's verdict and the settings say; `because` are the verdict's words."""
    network = _locked(session)[digest]
    if network.state is not NetworkState.CANDIDATE:
        return
    if not passed:
        network.state = NetworkState.REFUSED
        _note(session, network, Action.REFUSED, GATE, because)
    elif settings().precision == "int8" and INT8_GRAPH not in network.manifest.get("sha256", ()):
        log.warning("%s stays a candidate: precision is int8, which it has not", network.version)
    elif settings().promote == "shadow":
        _put(session, network, NetworkState.SHADOW, Action.SHADOW, GATE, because)
    elif settings().promote == "champion":
        _put(session, network, NetworkState.CHAMPION, Action.PROMOTED, GATE, because)


def require_not_recalled(session: Session, digest: str) -> None:
    """Raise NetworkError when this network was recalled; it cannot be until this transaction ends."""
    query = select(NetworkVersion).where(NetworkVersion.digest == digest).with_for_update(read=True)
    network = session.scalars(query.execution_options(populate_existing=True)).one()
    if network.state is NetworkState.RECALLED:
        raise NetworkError(f"{network.version} was recalled while it read: its successor reads this anew")


def _settle(session: Session, artefact: Artefact) -> None:
    is_new = session.get(NetworkVersion, artefact.digest) is None
    network, reading = bring(session, artefact, actor=SETTINGS), champion(session)
    if reading is None and network.state is NetworkState.RECALLED:
        raise NetworkError(f"{network.version} was recalled: name another in network_dir, or promote one")
    if reading is None or (is_new and reading.is_settings):
        _put(session, network, NetworkState.CHAMPION, Action.PROMOTED, SETTINGS, "")
        network.is_settings = True


def _locked(session: Session) -> dict[str, NetworkVersion]:
    """All networks by digest, which nobody else changes until this transaction ends."""
    query = select(NetworkVersion).order_by(NetworkVersion.digest).with_for_update(key_share=True)
    rows = session.scalars(query.execution_options(populate_existing=True))
    return {each.digest: each for each in rows}


def _require_fit(network: NetworkVersion, to: NetworkState) -> None:
    refusals = {
        NetworkState.CHAMPION: "it reads already; promote another in its place",
        NetworkState.REFUSED: "it did not pass the gate",
        NetworkState.RECALLED: "it was recalled, and must not read again",
    }
    because = refusals.get(network.state)
    if network.state is to:
        because = f"it is {to} already"
    if because is None and not network.path:
        because = "its artefact is not here: `hilum networks bring` it"
    if because is not None:
        raise NotPossible(f"{network.version} ({network.digest[:12]}) cannot be {to}: {because}")


def _is_agreed(session: Session, network: NetworkVersion, actor: str) -> bool:
    """Whether enough people are for it, this one included; NotPossible when this one has said so before."""
    if not settings().promote_two_people:
        return True
    standing: list[str] = []
    for each in changes(session, network.digest):
        standing = [*standing, each.actor] if each.action == Action.APPROVED else []
    if standing and actor in standing:
        raise NotPossible(f"{actor} has approved {network.version} already: another person must promote it")
    return bool(standing)


def _replace(
    session: Session, network: NetworkVersion, actor: str, because: str, successor: str | None
) -> None:
    if successor is None:
        before = former(session)
        if before is None:
            raise NotPossible(f"{network.version} reads, and none read before it: name a successor by --with")
        _put(session, before, NetworkState.CHAMPION, Action.ROLLED_BACK, actor, because)
    elif not promote(session, successor, actor=actor, because=because):
        raise NotPossible("two people must promote it before it reads: roll back to the former one meanwhile")


def _put(
    session: Session,
    network: NetworkVersion,
    to: NetworkState,
    action: Action,
    actor: str,
    because: str,
) -> None:
    for each in in_service(session).values():
        if each.state is to:
            _leave(session, each, actor, because)
    session.flush()  # the place is empty before another takes it: the index counts after each statement
    network.state = to
    network.is_settings = False
    _note(session, network, action, actor, because)
    session.flush()


def _leave(session: Session, network: NetworkVersion, actor: str, because: str) -> None:
    read = {Action.PROMOTED, Action.ROLLED_BACK}
    was_champion = any(each.action in read for each in changes(session, network.digest))
    network.state = NetworkState.RETIRED if was_champion else NetworkState.CANDIDATE
    _note(session, network, Action.RETIRED, actor, because)


def _note(session: Session, network: NetworkVersion, action: Action, actor: str, because: str) -> None:
    session.add(NetworkChange(digest=network.digest, action=action.value, actor=actor, because=because))
    told = (
        f"{network.version} {network.digest}: {because}" if because else f"{network.version} {network.digest}"
    )
    audit.note(session, actor=actor, action=f"network {action}", detail=told)
    session.flush()


def served(changes: Sequence[NetworkChange], state: NetworkState) -> NetworkChange | None:
    """The change by which a network came to its present place, of all its changes."""
    ways = {
        NetworkState.CHAMPION: {Action.PROMOTED, Action.ROLLED_BACK},
        NetworkState.SHADOW: {Action.SHADOW},
        NetworkState.RECALLED: {Action.RECALLED},
        NetworkState.REFUSED: {Action.REFUSED},
        NetworkState.RETIRED: {Action.RETIRED},
        NetworkState.CANDIDATE: {Action.BROUGHT, Action.RETIRED},
    }[state]
    return next((each for each in reversed(changes) if each.action in ways), None)
