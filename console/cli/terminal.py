"""What all commands share: the terminal, and how things are said there."""

import sys

from rich.console import Console
from rich.markup import escape

from hilum.errors import HilumError, SettingsError
from hilum.settings import CONFIG_VARIABLE, settings

_WIDE = 160  # columns of a pipe or file: nobody's window is too narrow there
out = Console(width=None if sys.stdout.isatty() else _WIDE)
err = Console(stderr=True)


class NotThere(HilumError):
    """The person at the terminal must name something else."""


def examples(*lines: str) -> str:
    """Return the end of a command's help."""
    return "\n\n".join(["[dim]Examples[/]", *(f"[cyan]{escape(line)}[/]" for line in lines)])


def require_a_site() -> None:
    """Raise SettingsError where no Hilum is: with SQLite, to look into such a folder would make one."""
    ours = settings()
    if not ours.database_url and not ours.data_dir.is_dir():
        raise SettingsError(
            f"there is no Hilum in {ours.data_dir.absolute()}: go where its hilum.toml is, or set "
            f"{CONFIG_VARIABLE} to it; if this is the place, `hilum up` makes one"
        )
