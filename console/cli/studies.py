"""Commands about studies and the work on them."""

import getpass
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from sqlalchemy.orm import Session

import db.audit
import db.jobs
import db.retention
import db.studies
import db.tables
import db.trouble
from console.cli.terminal import NotThere, err, examples, out, require_a_site
from console.tables import counted
from db.session import transaction
from db.tables import StudyState
from hilum.queue import ring
from hilum.settings import settings

if TYPE_CHECKING:
    from hilum.pacs import Peer

app = typer.Typer()
Study = Annotated[str, typer.Argument(help="Study Instance UID, accession number or patient id")]


@app.command(
    epilog=examples(
        "hilum send ~/studies",
        "hilum send ~/studies image.dcm --to pacs.example:104 --called PACS --calling ROOM1",
    )
)
def send(
    places: Annotated[list[Path], typer.Argument(exists=True, help="files and folders")],
    to: Annotated[str, typer.Option(metavar="HOST:PORT", help="whom; left out: our own listener")] = "",
    called: Annotated[str, typer.Option(help="AE title called; left out: ours")] = "",
    calling: Annotated[str, typer.Option(help="AE title we call by")] = "HILUM-SEND",
    tls: Annotated[
        bool, typer.Option("--tls", help="call by DICOM TLS, with the settings' certificate")
    ] = False,
) -> None:
    """Send DICOM files, and JPEG or PNG radiographs wrapped as DX, by C-STORE.

    Folders are searched to the bottom; what is neither is passed over.
    The exit status is 1 when a file did not arrive.
    """
    from console.sending import arrived, failures, send_places
    from hilum.pacs import Rejected

    try:
        outcome = send_places(places, _peer(to, called, calling, tls=tls), out)
    except Rejected as error:
        raise NotThere(f"{error} --called and --calling give other AE titles") from error
    if outcome.failed:
        err.print(failures(outcome.failed))
    out.print(arrived(outcome), highlight=False)
    if outcome.failed or not outcome.sent:
        raise typer.Exit(1)


@app.command(epilog=examples("hilum status", "hilum status --json | jq .studies"))
def status(
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
) -> None:
    """Show how things are going: studies, work, workers, destinations.

    A worker that does not answer is dead, stuck or slow: nothing is known
    of it, and it is not listed.
    """
    require_a_site()
    from console.overview import overview, rendered

    view = overview(settings())
    if as_json:
        print(json.dumps(view, indent=1))  # noqa: T201 - not wrapped and not coloured
    else:
        out.print(rendered(view))


@app.command(
    epilog=examples("hilum studies", "hilum studies --failed", "hilum studies --state received --most 200")
)
def studies(
    state: Annotated[StudyState | None, typer.Option(help="only those that have come so far")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="those with work that failed, and why")] = False,
    flagged: Annotated[
        bool, typer.Option("--flagged", help="those with an object whose UID came again for another")
    ] = False,
    held: Annotated[bool, typer.Option("--held", help="those on legal hold, and why")] = False,
    most: Annotated[int, typer.Option(min=1, help="how many")] = 50,
) -> None:
    """List the studies that were received last, or those that wait for a person."""
    require_a_site()
    from console import record

    if (state is not None) + failed + flagged + held > 1:
        raise typer.BadParameter("one at a time", param_hint="--state, --failed, --flagged, --held")
    with transaction() as session:
        if failed:
            table = record.failed_table(db.trouble.failed(session, most=most))
        elif flagged:
            table = record.flagged_table(db.trouble.variants(session, most=most))
        elif held:
            table = record.held_table(db.retention.held(session, most=most))
        else:
            table = record.studies_table(db.studies.latest(session, most=most, state=state))
    out.print(table if table.row_count else "no studies")


@app.command(epilog=examples("hilum show 2.25.1234", "hilum show A4711"))
def show(study: Study) -> None:
    """Show all about a study: images, findings, reports, deliveries, work and errors."""
    require_a_site()
    from console.record import study_report

    with transaction() as session:
        found = _found(session, study)
        told = [study_report(session, each) for each in found]
        for shown in found:
            note(session, "show", shown.study_uid)
    for each in told:  # after the transaction: a pager may hold this up, and on SQLite all others with it
        out.print(each)


@app.command(epilog=examples("hilum replay A4711", "hilum replay A4711 A4712", "hilum replay --failed"))
def replay(
    studies: Annotated[
        list[str] | None,
        typer.Argument(metavar="[STUDY]...", help="Study Instance UID, accession number or patient id"),
    ] = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="all work that `hilum studies --failed` lists")
    ] = False,
) -> None:
    """Do studies' failed, quarantined or cancelled work again, once its cause is mended."""
    require_a_site()
    if bool(studies) == failed:
        raise typer.BadParameter("name studies, or say --failed", param_hint="STUDY")
    with transaction() as session:
        study_uids: Sequence[str | None] = (
            db.trouble.failed_studies(session)
            if failed
            else [one_study(session, text) for text in studies or ()]
        )
    for study_uid in study_uids:
        name = study_uid or "work of no study"
        out.print(f"{name}: to be done again: {_replayed(study_uid) or 'nothing had failed'}")
    if not study_uids:
        out.print("nothing has failed")


@app.command(epilog=examples("hilum cancel A4711"))
def cancel(study: Study) -> None:
    """Stop a study's unfinished work; `hilum replay` takes it up again."""
    require_a_site()
    with transaction() as session:
        study_uid = one_study(session, study)
        count = db.jobs.cancel(session, study_uid)
        note(session, "cancel", study_uid, f"{count} jobs")
    out.print(f"cancelled: {counted(count, 'piece', 'pieces')} of work")


def _replayed(study_uid: str | None) -> str:
    """The kinds of work of a study, or of none, to be done again, told to the workers and the audit."""
    with transaction() as session:
        bells = db.jobs.replay(session, study_uid)
        detail = ", ".join(kind for kind, _, _ in bells)
        note(session, "replay", study_uid, detail)
    for kind, subject, urgent in bells:
        ring(kind, subject, urgent=urgent)
    return detail


def _found(session: Session, text: str) -> list[db.tables.Study]:
    found = db.studies.find(session, text)
    gone = None if found else db.retention.forgotten(session, text)
    if gone:
        raise NotThere(f"{text} was removed on {gone.removed_at:%Y-%m-%d} (UTC) because of its age")
    if not found:
        raise NotThere(f"no study has the Study Instance UID, accession number or patient id {text!r}")
    return found


def note(session: Session, action: str, study_uid: str | None, detail: str = "") -> None:
    """Write into the audit what the person at this terminal does, and to which study."""
    db.audit.note(session, actor=getpass.getuser(), action=action, study_uid=study_uid, detail=detail)


def one_study(session: Session, text: str) -> str:
    """The UID of the study that is meant; raises NotThere when it is none, or several."""
    found = _found(session, text)
    if len(found) > 1:
        uids = "\n".join(study.study_uid for study in found)
        raise NotThere(f"{text!r} names {len(found)} studies; give one Study Instance UID:\n{uids}")
    return found[0].study_uid


def _peer(to: str, called: str, calling: str, *, tls: bool) -> "Peer":
    from console.scu import listener
    from hilum.pacs import Peer
    from hilum.tls import files

    if not to:
        return listener(settings(), calling, called=called, tls=tls)

    host, _, port = to.rpartition(":")
    if not (host and port.isdigit()):
        raise typer.BadParameter(f"{to!r} is not HOST:PORT", param_hint="--to")
    secured = files(settings()) if tls else None
    return Peer(host, int(port), called or settings().listener_ae_title, calling, secured)
