"""How the system does at this moment: queues, workers, studies, destinations."""

from datetime import datetime
from itertools import chain
from typing import Any

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError
from rich.console import Group
from rich.table import Table
from rich.text import Text
from sqlalchemy import select
from sqlalchemy.orm import Session

from console.alerts import told as alerts_told
from console.disk import disk
from console.tables import add, counted, plain, table
from db import alerts, backups, drift, jobs, reports, studies
from db.clock import now
from db.session import transaction
from db.tables import Circuit
from hilum.queue import QUEUES, TRAIN, app, depths
from hilum.settings import Settings

ANSWER_WITHIN_S = 1.0

Replies = dict[str, Any]


def overview(settings: Settings) -> dict[str, Any]:
    """Return what `hilum status --json` prints; `broker` and `workers` are None where nobody answers.

    `unheard` names the queues that no worker which answers takes work from.

    That a worker does not answer says that it is dead, stuck or slow: nothing is known of it.
    """
    # asked before the transaction begins, which on SQLite has everybody else's commits wait
    heard = {"broker": broker_depths(), "workers": workers(), "unheard": unheard()}
    with transaction() as session:
        clock = session.scalars(select(now())).one()
        return {
            "work": _work(session, clock),
            **heard,
            "studies": {state.value: count for state, count in studies.counts(session).items()},
            "flagged": studies.flagged(session),
            "alerts": alerts_told(alerts.open(session)),
            "held_back": {each.sender_ae: each.because for each in drift.holds(session)},
            "disk": _disk(session, settings),
            "backup": _backup(session, clock),
            "destinations": _destinations(session, settings, clock),
        }


def _disk(session: Session, settings: Settings) -> dict[str, Any] | None:
    """The store's disk, and the line that tells of it; None when it cannot be asked."""
    try:
        found = disk(session, settings)
    except OSError:
        return None
    return {
        "free_mb": round(found.free_mb),
        "used": round(found.used, 3),
        "senders_kept_out_below_mb": found.least_free_mb,
        "added_last_day_mb": round(found.added_mb),
        "days_left": None if found.days_left is None else round(found.days_left, 1),
        "words": found.words(),
    }


def _backup(session: Session, clock: datetime) -> dict[str, Any] | None:
    """The last backup that is whole, and how long ago it began."""
    last = backups.latest(session)
    if last is None:
        return None
    return {
        "folder": last.folder,
        "files": last.files,
        "age_s": round((clock - last.began_at).total_seconds()),
    }


def broker_depths() -> dict[str, int] | None:
    """Messages in each queue, or None when the broker does not answer."""
    try:
        return depths()
    except (OperationalError, OSError):
        return None


def workers() -> dict[str, Replies] | None:
    """Worker -> what it is at, and the network it has loaded; None when none answers."""
    active = ask("active")
    if active is None:
        return None
    networks = ask("network") or {}
    return {
        name: {"at work on": len(tasks), "network": networks.get(name)}
        for name, tasks in sorted(active.items())
    }


def unheard() -> list[str]:
    """The queues of a study's way that no worker which answers takes work from."""
    taken = {queue["name"] for queues in (ask("active_queues") or {}).values() for queue in queues}
    return [name for name in dict.fromkeys(chain(*QUEUES.values())) if name not in {*taken, *QUEUES[TRAIN]}]


def ask(command: str) -> Replies | None:
    """Worker -> its answer to an inspect command; None when none answers in time or the broker is away."""
    try:
        answers = app.control.broadcast(command, reply=True, timeout=ANSWER_WITHIN_S)
    except (OperationalError, RedisError, OSError):
        return None
    merged = {name: answer for each in answers or [] for name, answer in each.items()}
    return merged or None


def _work(session: Session, clock: datetime) -> list[dict[str, Any]]:
    return [
        {
            "kind": kind,
            "state": state.value,
            "count": count,
            "oldest_s": round(max(0.0, (clock - due_at).total_seconds()), 1),
        }
        for kind, state, count, due_at in jobs.depths(session)
    ]


def _destinations(session: Session, settings: Settings, clock: datetime) -> list[dict[str, Any]]:
    circuits = {circuit.destination: circuit for circuit in reports.circuits(session)}
    counts: dict[str, dict[str, int]] = {}
    for name, state, count in reports.counts(session):
        counts.setdefault(name, {})[state.value] = count
    return [
        {
            "name": place.name,
            "peer": f"{place.ae_title} at {place.host}:{place.port}",
            **_circuit(circuits.get(place.name), clock),
            "deliveries": counts.get(place.name, {}),
        }
        for place in settings.destinations
    ]


def _circuit(circuit: Circuit | None, clock: datetime) -> dict[str, Any]:
    """Whether a destination is in use or left alone because it was away."""
    if circuit is None or not circuit.failures:
        return {"state": "in use", "tried_again_in_s": None, "error": None}
    pause_s = (circuit.open_until - clock).total_seconds() if circuit.open_until else 0.0
    return {"state": "away", "tried_again_in_s": max(0.0, round(pause_s, 1)), "error": circuit.error}


def rendered(view: dict[str, Any]) -> Group:
    """The overview for people."""
    parts: list[Table | Text] = [
        _studies_table(view),
        _work_table(view),
        _workers_table(view),
        _destinations_table(view),
    ]
    parts.append(Text(f"store: {view['disk']['words'] if view['disk'] else 'cannot be asked'}"))
    parts.append(Text(f"last backup: {_last_backup(view['backup'])}"))
    if view["flagged"]:
        said = f"{view['flagged']} objects came under a known UID: `hilum studies --flagged` lists them"
        parts.append(Text(said, style="yellow"))
    for sender, because in view["held_back"].items():
        said = f"results of {sender} are held back: {because}: `hilum drift` tells more"
        parts.append(Text(plain(said), style="yellow"))
    if view["alerts"]:
        kinds = ", ".join(dict.fromkeys(each["kind"] for each in view["alerts"]))
        said = f"{counted(len(view['alerts']), 'alert', 'alerts')} ({kinds}): `hilum alerts` lists them"
        parts.append(Text(said, style="yellow"))
    return Group(*parts)


def _last_backup(last: dict[str, Any] | None) -> str:
    if last is None:
        return "none by `hilum backup`"
    return f"{age(last['age_s'])} ago, {counted(last['files'], 'file', 'files')}, in {last['folder']}"


def _table(title: str, *headers: str) -> Table:
    numbers = ("studies", "due or waiting", "oldest", "at work on", "messages")
    return table(title, headers, numbers=numbers, min_width=60)


def _studies_table(view: dict[str, Any]) -> Table:
    made = _table("Studies", "state", "studies")
    for state, count in view["studies"].items():
        add(made, state, str(count))
    if not view["studies"]:
        add(made, "none received yet", "0")
    return made


def _work_table(view: dict[str, Any]) -> Table:
    made = _table("Work", "kind", "state", "due or waiting", "oldest")
    for each in view["work"]:
        style = None if each["state"] == "waiting" else "red"
        add(made, each["kind"], each["state"], str(each["count"]), age(each["oldest_s"]), style=style)
    if not view["work"]:
        add(made, "none", "", "0", "")
    broker = view["broker"]
    said = "the broker does not answer" if broker is None else _messages(broker)
    made.caption, made.caption_justify = said, "left"
    return made


def _messages(broker: dict[str, int]) -> str:
    full = ", ".join(f"{name} {count}" for name, count in broker.items() if count)
    return f"messages in the broker: {full or 'none'}"


def _workers_table(view: dict[str, Any]) -> Table:
    made = _table("Workers", "name", "at work on", "network")
    if view["workers"] is None:
        add(made, "unknown: none answers", "", "", style="yellow")
    for name, each in (view["workers"] or {}).items():
        network = each["network"] or {}
        parts = (network.get("version"), network.get("engine"), network.get("precision"))
        add(made, name, str(each["at work on"]), ", ".join(part for part in parts if part))
    if view["unheard"]:
        said = f"nobody who answers takes from {', '.join(view['unheard'])}: dead, stuck, drained or slow"
        made.caption, made.caption_justify = Text(said, style="red"), "left"
    return made


def _destinations_table(view: dict[str, Any]) -> Table:
    made = _table("Destinations", "name", "peer", "state", "deliveries")
    for each in view["destinations"]:
        counts = ", ".join(f"{count} {state}" for state, count in each["deliveries"].items())
        state = each["state"]
        if each["error"]:
            state = f"away, tried again in {age(each['tried_again_in_s'])}: {each['error']}"
        add(made, each["name"], each["peer"], state, counts, style="red" if each["error"] else None)
    if not view["destinations"]:
        add(made, "none configured: results stay here", "", "", "")
    return made


def age(seconds: float) -> str:
    """A span of time as people say it: 8 s, 3 min, 2 h, 5 d."""
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
