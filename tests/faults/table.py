"""What a run has found: tables to look at, and the same as Markdown in a document."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table

WIDTH = 110
_LEFT = 1
"""How many columns of each table are words."""

Rows = Sequence[Sequence[str]]
"""A heading, and what stands under it."""


@dataclass
class Findings:
    """A run in words: what was run, tables, and the sentence that sums it up."""

    name: str
    """Of two runs of the same name, the document holds the later one."""
    run: str
    last_line: str = ""
    tables: list[Rows] = field(default_factory=list)

    def print_to(self, console: Console) -> None:
        """Show everything, the last line last."""
        for rows in self.tables:
            console.print(_table(rows, box.SIMPLE))
        console.print(self.last_line, soft_wrap=True)

    def write_into(self, document: Path) -> None:
        """Put it into a Markdown file in place of the same run's older findings, or behind all others."""
        begin, end = f"<!-- run: {self.name} -->", f"<!-- end of run: {self.name} -->"
        text = document.read_text(encoding="utf-8") if document.exists() else ""
        before, found, rest = text.partition(begin)
        after = rest.partition(end)[2] if found else "\n"
        if not found:
            before = before.rstrip("\n") + "\n\n"
        document.write_text(f"{before}{begin}\n{self._markdown()}{end}{after}", encoding="utf-8")

    def _markdown(self) -> str:
        parts = [f"### {self.name}", self.run, *map(_as_markdown, self.tables), f"`{self.last_line}`"]
        return "\n\n".join(parts) + "\n"


def counted(heading: str, places: Counter[str]) -> Rows:
    """How often something happened at each place."""
    return [[heading, "times"], *([place, str(times)] for place, times in sorted(places.items()))]


def _table(rows: Rows, style: box.Box) -> RenderableType:
    table = Table(box=style)
    for number, heading in enumerate(rows[0]):
        table.add_column(heading, justify="left" if number < _LEFT else "right")
    for row in rows[1:]:
        table.add_row(*row)
    return table


def _as_markdown(rows: Rows) -> str:
    rule = ["---" if number < _LEFT else "---:" for number in range(len(rows[0]))]
    return "\n".join("| " + " | ".join(row) + " |" for row in (rows[0], rule, *rows[1:]))
