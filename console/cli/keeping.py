"""Commands about what is kept here, for how long, and who gets it."""

import getpass
import json
from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

import db.retention
from console.cli.studies import note, one_study
from console.cli.terminal import NotThere, err, examples, out, require_a_site
from console.tables import counted, plain
from db.exports import Choice
from db.ledger import Day, Gap
from db.session import transaction
from db.tables import Study
from hilum.settings import settings

app = typer.Typer()
Named = Annotated[
    str, typer.Argument(metavar="STUDY", help="Study Instance UID, accession number or patient id")
]
Backup = Annotated[
    Path, typer.Argument(metavar="FOLDER", file_okay=False, help="folder of the backup, on another disk")
]

DAY = "%Y-%m-%d"


@app.command(epilog=examples("hilum hold A4711 --reason 'court order 12/26'"))
def hold(study: Named, reason: Annotated[str, typer.Option(help="why, for those who look later")]) -> None:
    """Keep all of a study, whatever its age, until it is released."""
    require_a_site()
    with transaction() as session:
        study_uid = one_study(session, study)
        db.retention.hold(session, study_uid, because=reason)
        gone = session.get_one(Study, study_uid).files_removed_at
        note(session, "hold", study_uid, reason)
    out.print(f"on hold: {study_uid}")
    if gone:
        out.print(f"its files are gone: they were removed on {gone:%Y-%m-%d} (UTC) because of their age")


@app.command(epilog=examples("hilum release A4711"))
def release(study: Named) -> None:
    """End a study's hold; from then on its age counts again."""
    require_a_site()
    with transaction() as session:
        study_uid = one_study(session, study)
        was_held = db.retention.release(session, study_uid)
        if was_held:
            note(session, "release", study_uid)
    out.print(f"released: {study_uid}" if was_held else f"it was not on hold: {study_uid}")


@app.command(epilog=examples("hilum settle A4711 --reason 'sent twice by ROOM1, the first is right'"))
def settle(
    study: Named, reason: Annotated[str, typer.Option(help="what was found, for those who look later")]
) -> None:
    """Let go of a study's flagged objects, which a person has looked at.

    They came under known UIDs (`hilum studies --flagged`) and were kept
    aside; what came first stays. Of a study on hold they stay, too.
    """
    require_a_site()
    with transaction() as session:
        study_uid = one_study(session, study)
        count = db.retention.let_go_of_flagged(session, study_uid)
        if count:
            note(session, "settle", study_uid, reason)
    out.print(f"let go of {counted(count, 'object', 'objects')} of {study_uid}", highlight=False)


@app.command(
    epilog=examples(
        "hilum backup /mnt/backup", "hilum backup /mnt/backup --keep 14", "hilum backup /mnt/backup --verify"
    )
)
def backup(
    folder: Backup,
    keep: Annotated[
        int | None, typer.Option(min=1, help="how many points in time to keep; left out: all")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="back up nothing: read the newest point and compare its digests")
    ] = False,
) -> None:
    """Back up the database and the file store as of one moment, while everything runs.

    A folder takes many points in time; what has not changed is not copied
    again. The exit status is 1 when files are missing or damaged.
    """
    from console.backup import back_up, damages, keep_newest

    if verify:
        wrong = damages(folder)
        out.print("\n".join(wrong) or "the backup is whole", markup=False, highlight=False)
        raise typer.Exit(1 if wrong else 0)
    require_a_site()
    made = back_up(settings(), folder)
    out.print(f"{made.point}: {made.words()}", markup=False, highlight=False)
    for damaged in made.damaged:
        out.print(damaged, markup=False, highlight=False)
    if keep and not made.missing:
        out.print(f"older points removed: {keep_newest(folder, keep)}")
    for path in made.missing:
        out.print(f"a row names {path}, which is not in the store", markup=False, highlight=False)
    if made.missing:
        out.print("no older point was removed: they may hold what the store has lost")
    if made.missing or made.damaged:
        raise typer.Exit(1)


@app.command(
    epilog=examples("hilum restore /mnt/backup", "hilum restore /mnt/backup/points/2026-11-24T030000.000000Z")
)
def restore(folder: Backup) -> None:
    """Put the newest point of a backup, or the point named, into an empty place.

    The configuration says where: the database and the file store have to be
    empty, and nothing of Hilum may run. Then start as usual.
    """
    from console.backup import first, restore
    from console.export import lost_key

    made = restore(settings(), folder)
    out.print(f"restored {made.point.name}: {made.words()}; start, and run `hilum doctor`", markup=False)
    for line in first([f"{path} was not in the store when the backup was made" for path in made.missing]):
        out.print(line, markup=False, highlight=False)
    if file := lost_key(settings().data_dir):
        said = f"{file}, the key of earlier exports, is in no backup: put back your copy"
        out.print(said, markup=False, highlight=False)


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


@app.command(
    epilog=examples(
        "hilum export --out chests --labelled",
        "hilum export --out november --from 2026-11-01 --to 2026-11-30",
        "hilum export --out again --looked-at chests.stayed-behind.csv",
        "hilum train --data chests --out run1   [dim]there[/]",
    )
)
def export(
    into: Annotated[Path, typer.Option("--out", help="the folder, which is made")],
    studies: Annotated[
        list[str] | None,
        typer.Argument(help="Study Instance UIDs, accession numbers or patient ids; left out: all studies"),
    ] = None,
    first: Annotated[
        datetime | None, typer.Option("--from", formats=[DAY], metavar="DAY", help="first Study Date")
    ] = None,
    last: Annotated[
        datetime | None, typer.Option("--to", formats=[DAY], metavar="DAY", help="last Study Date")
    ] = None,
    labelled: Annotated[bool, typer.Option("--labelled", help="only images that people labelled")] = False,
    new_key: Annotated[
        bool, typer.Option("--new-key", help="where the key of earlier exports is lost: have another made")
    ] = False,
    looked_at: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="SOP Instance UIDs, one a line: their text is harmless"
        ),
    ] = None,
) -> None:
    """Write radiographs under pseudonyms, with a manifest, to train elsewhere.

    What shows text, or would not be assessed, stays behind and is listed
    beside the folder. The key that undoes pseudonyms stays in the data folder.
    """
    require_a_site()
    from console.export import Means, export, pseudonyms, read_uids, rendered
    from worker.decoder import Decoder

    ours = settings()
    chosen = Choice(_chosen(studies or []), _as_dicom(first), _as_dicom(last), labelled)
    seen = read_uids(looked_at) if looked_at else frozenset()
    with Decoder(memory_mb=ours.decode_memory_mb, timeout_s=ours.decode_timeout_s) as decoder:
        means = Means(ours.store, pseudonyms(ours.data_dir, anew=new_key), decoder.deidentify, seen)
        outcome = export(chosen, into, means, actor=getpass.getuser(), terminal=err)
    out.print(rendered(outcome), markup=False, highlight=False)


def _as_dicom(day: datetime | None) -> str:
    return day.strftime("%Y%m%d") if day else ""


def _chosen(named: Sequence[str]) -> list[str]:
    """The UIDs of the studies that are named; raises NotThere when there are none."""
    with transaction() as session:
        study_uids = [study.study_uid for text in named for study in db.studies.find(session, text)]
    if named and not study_uids:
        raise NotThere("no study has this Study Instance UID, accession number or patient id")
    return study_uids
