"""Constancy as people and programs read it."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from rich.table import Table
from sqlalchemy.orm import Session

from console.tables import add, table
from db import constancy
from db.tables import ConstancyRun

STALE = timedelta(hours=26)
"""Age of the last run at which there should have been another."""


def rendered(runs: Sequence[ConstancyRun]) -> Table:
    """A line for each run, for people."""
    made = table("Constancy", ("of", "began", "phantoms", "outcome", "what"), numbers=("phantoms",))
    for each in runs:
        began = f"{each.began_at.astimezone():%Y-%m-%d %H:%M}"
        count = str(len(each.found or each.studies))
        style = "red" if each.passed is False else None
        add(made, each.slot, began, count, _outcome(each), each.words, style=style)
    if not runs:
        add(made, "none yet", "", "", "", "")
    return made


def told(runs: Sequence[ConstancyRun]) -> list[dict[str, Any]]:
    """The same for programs, with all that was found; times in UTC."""
    return [
        {
            "slot": each.slot,
            "began_at": each.began_at.isoformat(),
            "sent_at": each.sent_at.isoformat() if each.sent_at else None,
            "ended_at": each.ended_at.isoformat() if each.ended_at else None,
            "passed": each.passed,
            "words": each.words,
            "studies": each.studies,
            "found": each.found,
        }
        for each in runs
    ]


def last_said(session: Session) -> tuple[str, str]:
    """How the last phantoms came back, in words, and what to do; empty when nothing is to be done."""
    runs = constancy.latest(session, most=2)
    if not runs:
        return "no phantoms were sent yet: they are, once beat and a deliver worker run", ""
    last = next((each for each in runs if each.passed is not None), runs[0])
    said = f"{last.slot}: {_outcome(last)}{f', {last.words}' if last.words else ''}"
    if datetime.now(UTC) - runs[0].began_at > STALE:
        return said, "look why none were sent since: beat and a deliver worker do it"
    return said, "" if last.passed is not False else "`hilum constancy --json` has all that was found"


def _outcome(run: ConstancyRun) -> str:
    if run.passed is None:
        return "on their way" if run.sent_at else "to be sent"
    return "as ever" if run.passed else "differs"
