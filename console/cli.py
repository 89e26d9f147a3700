"""The `hilum` command."""

import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from sqlalchemy.exc import DBAPIError

from console.scu import Peer
from hilum.errors import HilumError, SettingsError
from hilum.settings import settings

app = typer.Typer(
    name="hilum",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Reads chest radiographs pushed by a PACS and sends its findings back into the same study.\n\n"
    "Begin with [bold]hilum demo[/]; for a PACS of your own: [bold]hilum init[/], "
    "[bold]hilum doctor[/], [bold]hilum up[/].",
)
database = typer.Typer(no_args_is_help=True, help="Look after the database.")
app.add_typer(database, name="database")

out = Console()
err = Console(stderr=True)


def main() -> None:
    """Run the command; what an operator can mend is said in words, without a traceback."""
    try:
        app()
    except SettingsError as error:
        _fail(str(error), 2)
    except HilumError as error:
        _fail(str(error), 1)
    except DBAPIError as error:
        _fail(f"the database does not answer: {_first_line(error)}; `hilum doctor` says what to do", 1)


def _examples(*lines: str) -> str:
    return "\n\n".join(["[dim]Examples[/]", *(f"[cyan]{escape(line)}[/]" for line in lines)])


@app.command(epilog=_examples("hilum up", "HILUM_LISTENER_PORT=11113 HILUM_DATA_DIR=/srv/hilum hilum up"))
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
    os.execv(sys.executable, [sys.executable, "-m", "dicom_listener"])  # noqa: S606 - our own program


@app.command(
    epilog=_examples(
        "hilum send ~/studies",
        "hilum send ~/studies image.dcm --to pacs.example:104 --called PACS --calling ROOM1",
    )
)
def send(
    places: Annotated[list[Path], typer.Argument(exists=True, help="files and folders")],
    to: Annotated[str, typer.Option(metavar="HOST:PORT", help="whom; left out: our own listener")] = "",
    called: Annotated[str, typer.Option(help="AE title called; left out: ours")] = "",
    calling: Annotated[str, typer.Option(help="AE title we call by")] = "HILUM-SEND",
) -> None:
    """Send DICOM files, and JPEG or PNG radiographs wrapped as DX, by C-STORE.

    Folders are searched to the bottom; what is neither is passed over.
    The exit status is 1 when a file did not arrive.
    """
    from console.sending import failures, send_places

    outcome = send_places(places, _peer(to, called, calling), out)
    if outcome.failed:
        err.print(failures(outcome.failed))
    out.print(f"{len(outcome.sent)} objects of {len(outcome.study_uids)} studies arrived")
    if outcome.failed or not outcome.sent:
        raise typer.Exit(1)


@app.command(
    epilog=_examples("hilum demo", "hilum demo --studies ~/radiographs", "hilum demo --count 48 --once")
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


@database.command()
def upgrade() -> None:
    """Bring the database's tables to this version of Hilum; nothing happens when they are."""
    from db import schema

    schema.upgrade(settings().database)
    out.print("the database is up to date")


def _peer(to: str, called: str, calling: str) -> Peer:
    host, _, port = to.rpartition(":")
    if to and not (host and port.isdigit()):
        raise typer.BadParameter(f"{to!r} is not HOST:PORT", param_hint="--to")
    if not to:
        host, port = _own_address()
    return Peer(host, int(port), called or settings().listener_ae_title, calling)


def _own_address() -> tuple[str, str]:
    host = settings().listener_host
    return "127.0.0.1" if host in ("0.0.0.0", "::") else host, str(settings().listener_port)  # noqa: S104


def _first_line(error: Exception) -> str:
    return str(getattr(error, "orig", error)).strip().partition("\n")[0]


def _fail(message: str, status: int) -> NoReturn:
    err.print(f"[bold red]hilum:[/] {escape(message)}", highlight=False, soft_wrap=True)
    raise SystemExit(status)


if __name__ == "__main__":
    main()
