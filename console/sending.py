"""Sending with a progress bar."""

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from console import scu
from console.scu import Found, Outgoing, Unusable
from console.tables import add, counted
from hilum.pacs import Peer

_MB = 1_000_000
_MOST_SHOWN = 20


@dataclass
class Outcome:
    """What became of files that were to be sent."""

    sent: list[Outgoing] = field(default_factory=list)
    failed: list[Unusable] = field(default_factory=list)
    passed_over: int = 0
    """Files in folders that are neither DICOM nor a picture."""

    @property
    def study_uids(self) -> list[str]:
        """Studies of which at least one object arrived, in the order of sending."""
        return list(dict.fromkeys(each.study_uid for each in self.sent))

    def sendable(self, found: Iterable[Found]) -> list[Outgoing]:
        """The files that can be sent, once what cannot has been noted."""
        files: list[Outgoing] = []
        for each in found:
            if isinstance(each, Outgoing):
                files.append(each)
            elif isinstance(each, Unusable):
                self.failed.append(each)
            else:
                self.passed_over += 1
        return files


def progress(console: Console) -> Progress:
    """Bars that count, with the rate in a field of its own."""
    return Progress(
        SpinnerColumn(finished_text="[green]✓"),
        TextColumn("{task.description}"),
        BarColumn(bar_width=32),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[rate]}"),
        console=console,
    )


def send_places(places: Sequence[Path], peer: Peer, console: Console) -> Outcome:
    """Send every DICOM file and picture in these files and folders to a peer.

    Raises PacsUnavailable when the peer does not take our association.
    """
    with tempfile.TemporaryDirectory(prefix="hilum-") as wrapped_in:
        with console.status("looking for DICOM files and pictures"):
            found = list(scu.find(places, wrapped_in=Path(wrapped_in)))
        outcome = Outcome()
        files = outcome.sendable(found)
        with progress(console) as bars:
            send_files(files, peer, bars, outcome)
    return outcome


def send_files(files: Sequence[Outgoing], peer: Peer, bars: Progress, outcome: Outcome) -> None:
    """Send files under a bar of their own and note what became of each."""
    task = bars.add_task("sent", total=len(files), rate="")
    sent_bytes = 0
    for each, because in scu.send(files, peer):
        if because is None:
            outcome.sent.append(each)
            sent_bytes += each.size_bytes
        else:
            outcome.failed.append(Unusable(each.source, because))
        elapsed_s = bars.tasks[task].elapsed or 0.0
        bars.update(task, advance=1, rate=_rate(len(outcome.sent), sent_bytes, elapsed_s))


def _rate(count: int, size_bytes: int, elapsed_s: float) -> str:
    if elapsed_s <= 0:
        return ""
    return f"{count / elapsed_s:.1f} images/s, {size_bytes / _MB / elapsed_s:.0f} MB/s"


def arrived(outcome: Outcome) -> str:
    """How much of it arrived, in a line."""
    objects = counted(len(outcome.sent), "object", "objects")
    studies = counted(len(outcome.study_uids), "study", "studies")
    others = counted(outcome.passed_over, "other file", "other files")
    return f"{objects} of {studies} arrived" + (f"; {others} passed over" if outcome.passed_over else "")


def failures(failed: Sequence[Unusable]) -> Table:
    """What did not arrive, and why."""
    table = Table("file", "why it did not arrive", title=f"{len(failed)} not sent", title_style="bold red")
    for each in failed[:_MOST_SHOWN]:
        add(table, str(each.source), each.because)
    if len(failed) > _MOST_SHOWN:
        add(table, "...", f"and {len(failed) - _MOST_SHOWN} more")
    return table
