"""The `hilum` command."""

import signal
from typing import NoReturn

import typer
from rich.markup import escape
from sqlalchemy.exc import DBAPIError

from console.cli import accounts, keeping, learning, machine, networks, service, studies, training
from console.cli.terminal import err
from hilum.errors import HilumError, Interrupted, SettingsError
from hilum.log import keep_values_out

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
for each in (machine, studies, keeping, learning, training, service, networks, accounts):
    app.add_typer(each.app)

_INTERRUPTED = 128 + signal.SIGINT  # as a shell tells it


def main() -> None:
    """Run the command; what an operator can mend is said in words, without a traceback."""
    keep_values_out()
    try:
        app()
    except SettingsError as error:
        _fail(str(error), 2)
    except Interrupted as error:
        _fail(str(error), _INTERRUPTED)
    except HilumError as error:
        _fail("\n".join((str(error), *error.in_detail)), 1)
    except DBAPIError as error:
        _fail(f"the database does not answer: {_first_line(error)}; `hilum doctor` says what to do", 1)
    except OSError as error:
        _fail(" ".join(str(part) for part in (error.filename, error.strerror or error) if part), 1)
    except KeyboardInterrupt:
        raise SystemExit(_INTERRUPTED) from None


def _first_line(error: Exception) -> str:
    return str(getattr(error, "orig", error)).strip().partition("\n")[0]


def _fail(message: str, status: int) -> NoReturn:
    err.print(f"[bold red]hilum:[/] {escape(message)}", highlight=False, soft_wrap=True)
    raise SystemExit(status)
