"""Commands about what is learnt here, and what must be watched for it."""

import getpass
import json
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

import db.alerts
import db.audit
import db.constancy
import db.drift
import db.jobs
import db.verdicts
from console.cli.studies import Study, one_study
from console.cli.terminal import NotThere, examples, out, require_a_site
from console.tables import counted, plain
from db.session import transaction
from hilum.queue import CONSTANCY, ring
from hilum.settings import settings

app = typer.Typer()


@app.command(epilog=examples("hilum alerts", "hilum alerts --over", "hilum alerts --json"))
def alerts(
    over: Annotated[bool, typer.Option("--over", help="those that are over, too")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
) -> None:
    """List what a person should look at: drift, constancy, trainings that did not start, and the like."""
    require_a_site()
    from console.alerts import rendered, told

    with transaction() as session:
        found = db.alerts.all(session) if over else db.alerts.open(session)
    if as_json:
        print(json.dumps(told(found), indent=1))  # noqa: T201 - not wrapped and not coloured
    else:
        out.print(rendered(found))


labels = typer.Typer(no_args_is_help=True, help="What people said of images: lists of labels in and out.")
app.add_typer(labels, name="labels")


@labels.command(
    "import",
    epilog=examples(
        "hilum labels import labels.csv --dry-run", "hilum labels import labels.csv --author 'Dr. R'"
    ),
)
def import_(
    file: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="CSV, as a spreadsheet writes it")
    ],
    author: Annotated[str, typer.Option(help="who said what names nobody; left out: you")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only show what would change")] = False,
) -> None:
    """Take a list of labels, all of it or nothing.

    A line names an image (sop_instance_uid) or a study (study_uid,
    accession_number), whose assessed images are all meant, and has a label:
    Normal, Pneumonia, COVID-19, Other, or Rejected for an image that nobody
    shall learn from; author, comment and time may be there. The exit status
    is 1 when a line cannot be taken.
    """
    require_a_site()
    from console.label_file import read_labels
    from console.labels import changes, changes_table, summary, take

    listed = read_labels(file, author or getpass.getuser())
    with transaction() as session:
        found = changes(session, file, listed)
        if not dry_run:
            take(session, file, found, actor=getpass.getuser())
    out.print(changes_table(found))
    if listed.passed_over:
        out.print(f"columns passed over: {plain(', '.join(listed.passed_over))}", markup=False)
    out.print(f"{'would be taken' if dry_run else 'taken'}: {summary(found) or 'nothing'}", highlight=False)


@labels.command("export", epilog=examples("hilum labels export labels.csv"))
def export(
    file: Annotated[Path, typer.Argument(dir_okay=False, help="a file that is not there yet")],
) -> None:
    """Write all that people say of images now, as `hilum labels import` takes it."""
    require_a_site()
    from console.labels import export as write

    with transaction() as session:
        count = write(session, file, actor=getpass.getuser())
    out.print(f"{counted(count, 'verdict', 'verdicts')} in {file}", markup=False, highlight=False)


@labels.command("list", epilog=examples("hilum labels list A4711"))
def list_(study: Study) -> None:
    """List all that was ever said of a study's images, and what of it stands."""
    require_a_site()
    from console.record import verdicts_table

    with transaction() as session:
        study_uid = one_study(session, study)
        said = db.verdicts.history(session, study_uid)
        db.audit.note(session, actor=getpass.getuser(), action="labels list", study_uid=study_uid)
    out.print(verdicts_table(said) if said else "nobody has said anything of it")


drift = typer.Typer(
    invoke_without_command=True,
    help="Each sender's latest images and findings against the first ones that came from there.",
)
app.add_typer(drift, name="drift")


@drift.callback(epilog=examples("hilum drift", "hilum drift --json"))
def drift_(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
) -> None:
    """Show, of each sender and view, how far its latest images are from its first ones.

    Distances go from 0, alike, to 1, nothing in common; they are measured
    once a day. What is beyond the limit is an alert, too (`hilum alerts`).
    """
    if context.invoked_subcommand is not None:
        return
    require_a_site()
    from console.drift import rendered, told, view

    with transaction() as session:
        found = view(session, settings())
    if as_json:
        print(json.dumps(told(found), indent=1))  # noqa: T201 - not wrapped and not coloured
    else:
        out.print(rendered(found))


@drift.command(
    "accept",
    epilog=examples(
        "hilum drift accept ROOM1 --because 'new detector since Monday'",
        "hilum drift accept ROOM1 --as-before --because 'the grid was missing, and is back'",
    ),
)
def accept_drift(
    sender: Annotated[str, typer.Argument(metavar="AE", help="the sender's AE title")],
    because: Annotated[str, typer.Option(help="what was found, for those who look later")],
    as_before: Annotated[
        bool,
        typer.Option("--as-before", help="its images are as they were: compare with the first ones still"),
    ] = False,
) -> None:
    """End a sender's alerts; what was held back of its studies' results goes out.

    What comes from now on is what later images are compared with, unless
    they are as before. `hilum cancel` keeps a study's results from going out.
    """
    require_a_site()
    with transaction() as session:
        if sender not in {each.sender_ae for each in db.drift.references(session)}:
            raise NotThere(f"nothing is known of images of {sender!r}: `hilum drift` lists the senders")
        bells = db.drift.accept(
            session, sender, actor=getpass.getuser(), because=because, as_before=as_before
        )
    for kind, subject, urgent in bells:
        ring(kind, subject, urgent=urgent)
    gone = f"; {counted(len(bells), 'report goes', 'reports go')} out" if bells else ""
    out.print(f"accepted: {sender}{gone}", markup=False, highlight=False)


constancy = typer.Typer(
    invoke_without_command=True,
    help="Phantoms that go through the whole chain, and must come back as ever.",
)
app.add_typer(constancy, name="constancy")


@constancy.callback(epilog=examples("hilum constancy", "hilum constancy --json"))
def constancy_(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
) -> None:
    """Show how phantoms came back that were sent through the whole chain.

    The exit status is 1 when the last ones that came back differ, or did
    not come back in time.
    """
    if context.invoked_subcommand is not None:
        return
    require_a_site()
    from console.constancy import rendered, told

    with transaction() as session:
        runs = db.constancy.latest(session)
    if as_json:
        print(json.dumps(told(runs), indent=1))  # noqa: T201 - not wrapped and not coloured
    else:
        out.print(rendered(runs))
    if next((each.passed for each in runs if each.passed is not None), True) is False:
        raise typer.Exit(1)


@constancy.command("run", epilog=examples("hilum constancy run"))
def run_constancy() -> None:
    """Send the phantoms now, whatever the hour; `hilum constancy` shows how they came back."""
    require_a_site()
    ours = settings()
    if ours.senders and ours.sender(ours.constancy_ae_title) is None:
        raise NotThere(
            f"phantoms are sent as {ours.constancy_ae_title}, which is no sender: add it to senders"
        )
    slot = f"{datetime.now():%Y-%m-%d %H:%M:%S}"
    with transaction() as session:
        db.jobs.want_once(session, CONSTANCY, slot)
        db.audit.note(session, actor=getpass.getuser(), action="constancy run", detail=slot)
    ring(CONSTANCY, slot)
    out.print(f"the phantoms of {slot} are on their way: `hilum constancy`", markup=False, highlight=False)


@constancy.command(
    "accept", epilog=examples("hilum constancy accept --because 'version 0.2 prepares images otherwise'")
)
def accept_constancy(
    because: Annotated[str, typer.Option(help="what was found, for those who look later")],
) -> None:
    """Take what phantoms come back as the next time for what they come back as ever after."""
    require_a_site()
    with transaction() as session:
        count = db.constancy.forget_records(session, actor=getpass.getuser(), because=because)
    out.print(f"{counted(count, 'record', 'records')} forgotten; the next run records anew", highlight=False)
