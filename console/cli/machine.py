"""Commands that set a machine up and run Hilum on it."""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from console.cli.terminal import examples, out, require_a_site
from hilum.errors import SettingsError
from hilum.settings import settings

app = typer.Typer()
database = typer.Typer(no_args_is_help=True, help="Look after the database.")
app.add_typer(database, name="database")


@app.command(
    epilog=examples("hilum demo", "hilum demo --studies ~/radiographs", "hilum demo --count 48 --once")
)
def demo(
    studies: Annotated[
        list[Path], typer.Option(exists=True, help="DICOM files, or JPEG or PNG radiographs, to send")
    ] = [],  # noqa: B006 - typer reads the default and hands out a copy
    count: Annotated[int, typer.Option(min=1, help="how many phantom radiographs to send")] = 12,
    keep_serving: Annotated[
        bool | None,
        typer.Option("--keep-serving/--once", help="go on until Ctrl-C afterwards; default: in a terminal"),
    ] = None,
) -> None:
    """Show the whole way on this machine: send, read, report, and find the results in a PACS.

    Everything runs from one folder (hilum-data) on embedded defaults, with
    a demo PACS. Without studies of yours, phantom radiographs are sent.
    """
    from console.demo import demo

    in_a_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    serves = in_a_terminal if keep_serving is None else keep_serving
    if not demo(studies, count=count, keep_serving=serves, console=out):
        raise typer.Exit(1)


@app.command(epilog=examples("hilum init", "hilum init /etc/hilum/hilum.toml", "hilum init - | less"))
def init(
    file: Annotated[Path, typer.Argument(help="what to write; -: the terminal")] = Path("hilum.toml"),
    force: Annotated[bool, typer.Option("--force", help="replace the file when it is there")] = False,
) -> None:
    """Write a hilum.toml with every setting, its meaning, unit and default, all commented out.

    `-` prints it instead.
    """
    from console.configuration import commented

    if str(file) == "-":
        print(commented(), end="")  # noqa: T201 - not wrapped and not coloured
        return
    if file.exists() and not force:
        raise SettingsError(
            f"{file} is there already: `hilum init -` prints every setting, --force replaces the file"
        )
    file.write_text(commented())
    out.print(f"{escape(str(file))}: name your senders and destinations in it, then [bold]hilum doctor[/]")


@app.command(epilog=examples("hilum doctor", "hilum doctor --json"))
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
) -> None:
    """Look for what is wrong on this machine, and say what to do about it.

    Configuration, database, broker, file store, decoders, network,
    listener, and each destination by C-ECHO. The exit status is 1 when
    something is wrong (✗); what stands open to others and may be meant
    so (!) is none of that.
    """
    from console.doctor import examine

    checks = []
    for check in examine():
        checks.append(check)
        if not as_json:
            mark = "[red]✗" if check.remedy else "[yellow]!" if check.is_risk else "[green]✓"
            out.print(f"{mark}[/] [bold]{escape(check.name)}[/]: {escape(check.found)}", highlight=False)
            if check.remedy:
                out.print(f"  [yellow]→ {escape(check.remedy)}[/]", highlight=False)
    if as_json:
        print(json.dumps([asdict(check) for check in checks], indent=1))  # noqa: T201 - for programs
    if any(check.remedy for check in checks):
        raise typer.Exit(1)


@app.command(epilog=examples("hilum up", "HILUM_LISTENER_PORT=11113 HILUM_DATA_DIR=/srv/hilum hilum up"))
def up() -> None:
    """Run everything on this machine until Ctrl-C: broker, listener, workers, clock.

    What dies is started again. The log has the lines of all, each after
    its process's name. SIGHUP has the settings read anew.
    """
    from console.up import up

    up(settings(), sys.stdout)


@app.command()
def listener() -> None:
    """Run one listener alone: the door where a PACS pushes its images (C-STORE, C-ECHO)."""
    settings()
    os.execv(sys.executable, [sys.executable, "-P", "-m", "dicom_listener"])  # noqa: S606 - our own program


@app.command(epilog=examples("hilum console", "HILUM_CONSOLE_PORT=8443 hilum console"))
def console() -> None:
    """Run the console: what people see in the browser, and what programs call.

    As long as nobody has a password, it prints a link by which the first
    administrator chooses one.
    """
    from console.web.serve import serve

    require_a_site()
    serve(settings())


@database.command()
def upgrade() -> None:
    """Bring the database's tables to this version of Hilum; nothing happens when they are."""
    from db import schema

    schema.upgrade(settings().database)
    out.print("the database is up to date")
