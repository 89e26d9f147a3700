"""Tables for people, whose cells are shown as they are: a stranger's text is neither markup nor control."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text


def table(title: str, headers: Sequence[str], *, numbers: Sequence[str] = (), min_width: int = 0) -> Table:
    """An empty table; the columns of `numbers` are flush right."""
    made = Table(
        title=title or None,
        box=SIMPLE_HEAD,
        title_justify="left",
        title_style="bold",
        pad_edge=False,
        min_width=min_width or None,
    )
    for header in headers:
        justify: Literal["left", "right"] = "right" if header in numbers else "left"
        made.add_column(header, justify=justify, overflow="fold")
    return made


def add(to: Table, *cells: str, style: str | None = None) -> None:
    """Add a row of plain texts."""
    to.add_row(*(Text(plain(cell)) for cell in cells), style=style)


def counted(count: int, one: str, many: str) -> str:
    """A number and what it is of: 1 study, 2 studies."""
    return f"{count} {one if count == 1 else many}"


def moment(at: datetime) -> str:
    """A point in time as people here say it."""
    return at.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def plain(text: str) -> str:
    """The text without what steers a terminal; lines stay lines."""
    return "".join(_shown(text))


def _shown(text: str) -> Iterator[str]:
    for character in text:
        yield character if character.isprintable() or character == "\n" else "\ufffd"
