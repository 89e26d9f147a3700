"""Commands about networks in service: which reads, which is to read, and which must not read again."""

import getpass
import json
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.markup import escape
from rich.progress import Progress

from console.cli.terminal import err, examples, out, require_a_site
from console.tables import counted
from db import networks, readings
from db.session import transaction
from db.tables import NetworkState

app = typer.Typer()
group = typer.Typer(no_args_is_help=True, help="See and decide which network reads.")
app.add_typer(group, name="networks")

Named = Annotated[str, typer.Argument(metavar="NETWORK", help="version, or how its digest begins")]
Because = Annotated[str, typer.Option(help="why, for those who look later")]
Yes = Annotated[bool, typer.Option("--yes", help="do not ask")]


@group.command("list", epilog=examples("hilum networks list", "hilum networks list --json"))
def list_networks(as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False) -> None:
    """List the networks of this place: what each may do, since when, and how much it has read."""
    from console.networks import listed, rendered

    require_a_site()
    found = listed()
    if as_json:
        print(json.dumps(found, indent=1))  # noqa: T201 - for programs
        return
    out.print(rendered(found))


@group.command(epilog=examples("hilum networks show 3f9a"))
def show(network: Named) -> None:
    """Show all that is known of a network: who decided what and why, and how it did as a shadow."""
    from console.networks import shown

    require_a_site()
    with transaction() as session:
        out.print(shown(session, networks.find(session, network)))


@group.command(epilog=examples("hilum networks bring run1/artefact --because 'trained on our own data'"))
def bring(
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="an artefact's folder")],
    because: Because = "",
) -> None:
    """Copy a network into this place, as a candidate: it reads nothing until it is promoted."""
    from console import networks as body

    require_a_site()
    brought = body.bring(folder, actor=getpass.getuser(), because=because)
    out.print(f"{escape(brought.version)} ({brought.digest[:12]}) is here: {brought.state}", highlight=False)


@group.command(
    epilog=examples(
        "hilum networks promote 3f9a --to shadow --because 'to be looked at for a week'",
        "hilum networks promote 3f9a --because 'agrees in 98 %, better on COVID-19'",
    )
)
def promote(
    network: Named,
    because: Because,
    to: Annotated[
        Literal["champion", "shadow"], typer.Option(help="shadow: it reads beside, and is never reported")
    ] = "champion",
    yes: Yes = False,
) -> None:
    """Have a network read in the champion's place, or beside it as a shadow.

    It is checked first. Workers change over with their next study, and no
    study is read by two. Where the settings ask for two people, the first
    call approves and another person's promotes.
    """
    from console import networks as body

    require_a_site()
    with transaction() as session:
        found = networks.find(session, network)
        reading = networks.in_service(session).get(NetworkState(to))
    instead = f" instead of {reading.version}" if reading else ""
    _confirm(f"{found.version} ({found.digest[:12]}) is to be {to}{instead}?", yes)
    who = getpass.getuser()
    if body.promote(found.digest, to=NetworkState(to), actor=who, because=because):
        out.print(f"{escape(found.version)} is {to}", highlight=False)
    else:
        out.print(f"approved by {escape(who)}: another person must promote it, too", highlight=False)


@group.command(epilog=examples("hilum networks rollback --because 'refuses half of ROOM2'"))
def rollback(because: Because, yes: Yes = False) -> None:
    """Have the former champion read again, at once.

    What the other has read stays as it is; `hilum networks recall` has it
    read anew.
    """
    from console import networks as body

    require_a_site()
    with transaction() as session:
        former, reading = networks.former(session), networks.champion(session)
    if former and reading:
        _confirm(f"{former.version} is to read again instead of {reading.version}?", yes)
    back = body.roll_back(actor=getpass.getuser(), because=because)
    out.print(f"{escape(back.version)} ({back.digest[:12]}) reads again", highlight=False)


@group.command(epilog=examples("hilum networks retire 3f9a --because 'seen enough'"))
def retire(network: Named, because: Because) -> None:
    """Have a shadow read no more."""
    from console import networks as body

    require_a_site()
    with transaction() as session:
        found = networks.find(session, network)
    body.retire(found.digest, actor=getpass.getuser(), because=because)
    out.print(f"{escape(found.version)} reads no more", highlight=False)


@group.command(
    epilog=examples(
        "hilum networks recall 3f9a --dry-run --csv studies.csv",
        "hilum networks recall 3f9a --because 'trained on wrong labels'",
        "hilum networks recall 3f9a --status",
    )
)
def recall(
    network: Named,
    because: Annotated[str, typer.Option(help="why, for those who look later; required")] = "",
    successor: Annotated[
        str, typer.Option("--with", help="who reads in its place; left out: the former champion")
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only list what it has read")] = False,
    status: Annotated[bool, typer.Option("--status", help="only say how far a recall has come")] = False,
    csv_file: Annotated[
        Path | None, typer.Option("--csv", dir_okay=False, help="a file to list all its studies in")
    ] = None,
    per_minute: Annotated[
        int, typer.Option(min=1, help="studies that are read anew in a minute, beside new ones")
    ] = 300,
    yes: Yes = False,
) -> None:
    """Have a network never read again, and all that it has read be read anew by another.

    If it is the champion, another takes its place at once. Destinations
    get a superseding report where a finding changes. Called again, it goes
    on with what is left.
    """
    from console import networks as body

    require_a_site()
    with transaction() as session:
        found = networks.find(session, network)
        by = networks.find(session, successor).digest if successor else None
        if status:
            out.print(*body.progress_in_words(readings.progress(session, found.digest)), sep="\n")
            return
    told, studies = body.reach(found.digest, csv_file)
    out.print(
        f"{escape(found.version)} ({found.digest[:12]}), {found.state}: {told.words()}", highlight=False
    )
    if told.studies:
        out.print(studies)
    if dry_run:
        return
    if not because:
        raise typer.BadParameter("say why", param_hint="--because")
    _confirm(f"{found.version} is to be recalled, for good?", yes)
    reading = body.recall(found.digest, successor=by, actor=getpass.getuser(), because=because)
    out.print(f"recalled; {escape(reading.version)} ({reading.digest[:12]}) reads", highlight=False)
    wanted = 0
    with Progress(console=err, transient=True) as bar:
        task = bar.add_task("to be read anew", total=told.studies)
        for count in body.read_anew(found.digest, per_s=per_minute / 60):
            wanted += count
            bar.advance(task, count)
    out.print(f"{counted(wanted, 'study is', 'studies are')} to be read anew; --status tells how far that is")


def _confirm(question: str, yes: bool) -> None:
    if not yes:
        typer.confirm(question, abort=True, err=True)
