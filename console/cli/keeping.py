"""Commands about what is kept here, for how long, and who gets it."""

import getpass
import json
from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta
from typing import Annotated

import typer

from console.cli.terminal import NotThere, examples, out, require_a_site
from console.tables import plain
from db.ledger import Day, Gap
from hilum.settings import settings

app = typer.Typer()

DAY = "%Y-%m-%d"


@app.command(
    epilog=examples(
        "hilum ledger",
        "hilum ledger --from 2026-11-01 --to 2026-11-07 --source PACS --close",
        "hilum ledger --daily --from 2026-10-01 --to 2026-10-31 > october.csv",
    )
)
def ledger(
    first: Annotated[
        datetime | None,
        typer.Option("--from", formats=[DAY], metavar="DAY", help="first day; left out: yesterday"),
    ] = None,
    last: Annotated[
        datetime | None, typer.Option("--to", formats=[DAY], metavar="DAY", help="last day; left out: today")
    ] = None,
    source: Annotated[str, typer.Option(help="AE title of a sender; left out: all that may be asked")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
    close: Annotated[
        bool, typer.Option("--close", help="have what never came sent, and what stopped done again")
    ] = False,
    daily: Annotated[
        bool, typer.Option("--daily", help="print the sums kept of these days as CSV, and ask nobody")
    ] = False,
) -> None:
    """Ask the source PACS what they have, and show what of it lacks here.

    Days are Study Dates; each day's sum is kept. The exit status is 1 when
    there are gaps, or a source was not asked.
    """
    require_a_site()
    from console.ledger import daily_sums, rendered, told

    days = _days(first, last)
    if daily:
        print(daily_sums(days[0], days[-1], source), end="")  # noqa: T201 - for programs
        return
    taken = _taken(source, days)
    if not as_json:
        out.print(rendered(taken))
    closed = {}
    for gap, outcome in _closed(taken) if close else ():
        closed[gap] = outcome
        if not as_json:
            out.print(f"{gap.study_uid}: {plain(outcome)}", markup=False, highlight=False)
    if as_json:
        print(json.dumps(told(taken, closed), indent=1))  # noqa: T201 - not wrapped and not coloured
    if any(day.gaps or day.not_asked_because for day in taken):
        raise typer.Exit(1)


def _days(first: datetime | None, last: datetime | None) -> list[date]:
    today = datetime.now().astimezone().date()
    until = last.date() if last else today
    since = first.date() if first else min(until, today - timedelta(days=1))
    if since > until:
        raise typer.BadParameter("it is after --to", param_hint="--from")
    return [since + timedelta(days=number) for number in range((until - since).days + 1)]


def _taken(source: str, days: Sequence[date]) -> list[Day]:
    from worker.ledger import take

    sources = {each.ae_title: each for each in settings().sources}
    if not sources:
        raise NotThere("no sender may be asked: give one `host`, `port` and `retrieve` in the configuration")
    if source and source not in sources:
        raise NotThere(f"{source!r} is no sender that may be asked; there is {', '.join(sources)}")
    asked = [sources[source]] if source else sources.values()
    return [day for each in asked for day in take(each, days, settings())]


def _closed(taken: Sequence[Day]) -> Iterator[tuple[Gap, str]]:
    """Close gap after gap, and yield each with what came of it."""
    from dicom_listener.fetched import keeper
    from worker.ledger import close

    sources = {each.ae_title: each for each in settings().sources}
    with keeper() as keep:
        for gap in (gap for day in taken for gap in day.gaps):
            yield gap, close(gap, sources[gap.source], settings(), keep, actor=getpass.getuser())
