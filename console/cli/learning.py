"""Commands about what is learnt here, and what must be watched for it."""

import getpass
import json
from pathlib import Path
from typing import Annotated

import typer

import db.alerts
import db.audit
import db.verdicts
from console.cli.studies import Study, one_study
from console.cli.terminal import examples, out, require_a_site
from console.tables import counted, plain
from db.session import transaction

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
    from console.labels import changes, changes_table, summary, take

    with transaction() as session:
        found, passed_over = changes(session, file, author or getpass.getuser())
        if not dry_run:
            take(session, file, found, actor=getpass.getuser())
    out.print(changes_table(found))
    if passed_over:
        out.print(f"columns passed over: {plain(', '.join(passed_over))}", markup=False)
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
