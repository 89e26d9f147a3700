"""The ledger as people, programs and auditors read it."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from datetime import UTC, date, datetime, timedelta
from io import StringIO
from typing import Any

from rich.console import Group
from rich.table import Table

from console.tables import add, counted, plain, table
from db import ledger
from db.ledger import Counts, Day, Gap
from db.session import transaction
from db.tables import LedgerDay

LOOKS_BACK = timedelta(days=ledger.LOOKS_BACK_DAYS)
STALE = timedelta(hours=3)
"""Age of sums that are made each hour at which something must be wrong."""
_STEPS = tuple(each.name for each in fields(Counts))


def rendered(taken: Sequence[Day]) -> Group:
    """The days' sums and their gaps, for people."""
    gaps = [gap for day in taken for gap in day.gaps]
    return Group(_days(taken), _gaps(gaps)) if gaps else Group(_days(taken))


def told(taken: Sequence[Day], closed: Mapping[Gap, str]) -> list[dict[str, Any]]:
    """The same for programs; `closed` holds what came of closing a gap."""
    return [
        {
            "source": day.source,
            "day": day.day.isoformat(),
            "not_asked_because": day.not_asked_because,
            "counts": asdict(day.counts),
            "gaps": [_gap(gap, closed.get(gap)) for gap in day.gaps],
        }
        for day in taken
    ]


def daily_sums(first: date, last: date, source: str) -> str:
    """The sums kept of these days as CSV, of one source or of all, for an auditor; times in UTC."""
    with transaction() as session:
        return _csv(ledger.days(session, first, last, source=source or None))


def latest(source: str) -> tuple[str, str]:
    """What the last sums say of a source, in words, and what to do; empty when nothing is to be done."""
    clock = datetime.now(UTC)
    with transaction() as session:
        sums = ledger.days(session, clock.date() - LOOKS_BACK, date.max, source=source)
    if not sums:
        return "not counted yet: the next time is seven minutes past the hour", ""
    if because := sums[-1].not_asked_because:
        return f"not asked: {because}", "check its host, port and query_ae_title, and that it knows us"
    at = max(each.counted_at for each in sums if each.counted_at)
    if at < clock - STALE:
        return f"not counted since {_minute(at)}", "look whether beat and a deliver worker run"
    if gaps := sum(int(each.counts["gaps"]) for each in sums):
        remedy = f"`hilum ledger --from {sums[0].day}` lists them, and --close has them closed"
        return f"{counted(gaps, 'gap', 'gaps')} in the last {LOOKS_BACK.days} days", remedy
    return f"no gap in the last {LOOKS_BACK.days} days, counted {_minute(at)}", ""


def _csv(sums: Iterable[LedgerDay]) -> str:
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["source", "day", "counted_at", "not_asked_because", *_STEPS, "digest"])
    for each in sums:
        counted = each.counted_at.isoformat(timespec="seconds") if each.counted_at else ""
        because = plain(each.not_asked_because or "")
        counts = [each.counts[step] if each.counted_at else "" for step in _STEPS]
        writer.writerow([each.source, each.day.isoformat(), counted, because, *counts, each.digest])
    return text.getvalue()


def _days(taken: Sequence[Day]) -> Table:
    steps = {
        "studies": "listed_studies",
        "images": "listed_images",
        "missing": "missing_images",
        "held": "held_images",
        "readable": "eligible_images",
        "read": "read_images",
        "reported": "reported_studies",
        "final": "final_studies",
        "waiting": "waiting_studies",
        "gaps": "gaps",
    }
    made = table("Days", ["day", "source", *steps, ""], numbers=[*steps])
    for day in taken:
        numbers = [str(getattr(day.counts, step)) for step in steps.values()]
        cells = [""] * len(steps) if day.not_asked_because else numbers
        because = f"not asked: {day.not_asked_because}" if day.not_asked_because else ""
        style = "red" if because or day.counts.gaps else None
        add(made, day.day.isoformat(), day.source, *cells, because, style=style)
    return made


def _gaps(gaps: Sequence[Gap]) -> Table:
    made = table("Gaps", ["since", "source", "accession", "missing", "why"])
    made.add_column("study", no_wrap=True)
    for gap in gaps:
        add(
            made,
            _minute(gap.since),
            gap.source,
            gap.accession_number,
            gap.missing,
            gap.because,
            gap.study_uid,
        )
    return made


def _minute(moment: datetime) -> str:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M")


def _gap(gap: Gap, closed: str | None) -> dict[str, Any]:
    told = {
        "study_uid": gap.study_uid,
        "accession_number": gap.accession_number,
        "missing": gap.missing,
        "since": gap.since.isoformat(timespec="seconds"),
        "because": gap.because,
    }
    return told if closed is None else told | {"closed": closed}
