"""What a person should look at, as people and programs read it."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from rich.table import Table

from console.tables import add, table
from db.tables import Alert


def rendered(alerts: Sequence[Alert]) -> Table:
    """A line for each alert, for people."""
    made = table("Alerts", ("kind", "of", "since", "last seen", "over", "what"))
    for each in alerts:
        times = (_at(each.raised_at), _at(each.seen_at), _at(each.ended_at))
        add(made, each.kind, each.subject, *times, each.words, style=None if each.ended_at else "yellow")
    if not alerts:
        add(made, "none", "", "", "", "", "")
    return made


def told(alerts: Sequence[Alert]) -> list[dict[str, Any]]:
    """The same for programs; times in UTC."""
    return [
        {
            "kind": each.kind,
            "subject": each.subject,
            "words": each.words,
            "raised_at": each.raised_at.isoformat(),
            "seen_at": each.seen_at.isoformat(),
            "ended_at": each.ended_at.isoformat() if each.ended_at else None,
        }
        for each in alerts
    ]


def _at(moment: datetime | None) -> str:
    return f"{moment.astimezone():%Y-%m-%d %H:%M}" if moment else ""
