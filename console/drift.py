"""Drift as people and programs read it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group as Parts
from rich.table import Table
from rich.text import Text
from sqlalchemy.orm import Session

from console.tables import add, counted, plain, table
from db import drift, networks
from db.drift import OF_IMAGES
from db.tables import DriftHold, DriftReference
from hilum.settings import Settings


@dataclass(frozen=True)
class View:
    """All that is known of drift."""

    references: Sequence[DriftReference]
    champion: str
    """The digest of the network that reads; references of others are history."""
    wanted: int
    """Images that a reference is made of."""
    holds: Sequence[DriftHold]
    held: Mapping[str, int]
    """Sender on hold -> how many of its studies' reports wait."""

    def current(self) -> Iterator[DriftReference]:
        """The references of images themselves, and of what the champion finds in them."""
        for each in self.references:
            if each.network_digest in (OF_IMAGES, self.champion):
                yield each


def view(session: Session, settings: Settings) -> View:
    """What is known now."""
    champion = networks.champion(session)
    return View(
        references=drift.references(session),
        champion=champion.digest if champion else "",
        wanted=settings.drift_reference_images,
        holds=drift.holds(session),
        held=drift.held_studies(session),
    )


def rendered(view: View) -> Parts:
    """A line for each sender, view and kind of comparison, for people."""
    made = table(
        "Drift", ("sender", "view", "of", "first images", "compared", "distances"), numbers=("compared",)
    )
    for each in view.current():
        done = each.compared or {}
        kind = "images" if each.network_digest == OF_IMAGES else "findings"
        first = f"{each.images} of {view.wanted}"
        compared = str(done.get("images", "not yet"))
        style = "yellow" if done.get("beyond") else None
        add(made, each.sender_ae, each.view, kind, first, compared, _distances(done), style=style)
    if not view.references:
        add(made, "nothing compared yet", "", "", "", "", "")
    return Parts(made, *_holds(view))


def told(view: View) -> dict[str, Any]:
    """The same for programs."""
    return {
        "groups": [
            {
                "sender_ae": each.sender_ae,
                "view": each.view,
                "of": "images" if each.network_digest == OF_IMAGES else each.network_digest,
                "first_images": each.images,
                "first_images_wanted": view.wanted,
                "compared": each.compared,
            }
            for each in view.current()
        ],
        "holds": [
            {
                "sender_ae": each.sender_ae,
                "since": each.since.isoformat(),
                "because": each.because,
                "studies": view.held.get(each.sender_ae, 0),
            }
            for each in view.holds
        ],
    }


def _holds(view: View) -> Iterator[Table | Text]:
    for each in view.holds:
        studies = counted(view.held.get(each.sender_ae, 0), "study", "studies")
        since = f"{each.since.astimezone():%Y-%m-%d %H:%M}"
        said = f"{each.sender_ae} is held back since {since}, {studies} so far: {each.because}"
        yield Text(plain(said), style="yellow")


def _distances(compared: Mapping[str, Any]) -> str:
    """Each name with its distance, those beyond the limits first and with what changed."""
    beyond = compared.get("beyond", [])
    distances: Mapping[str, Mapping[str, Any]] = compared.get("distances", {})
    changed = [_changed(name, distances[name]) for name in beyond]
    others = [f"{name} {each['distance']:.2f}" for name, each in distances.items() if name not in beyond]
    return ", ".join([*changed, *others])


def _changed(name: str, each: Mapping[str, Any]) -> str:
    of = f" {each['of']}" if each["of"] else ""
    return f"{name} {each['distance']:.2f} ({each['now']:.2f} instead of {each['before']:.2f}{of})"
