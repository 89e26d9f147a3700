"""Trainings as people and programs see them: those that were, the one that goes on, and the next."""

import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from sqlalchemy.orm import Session

from console.overview import age
from console.tables import add, table
from db import training_runs
from db.tables import Part, Snapshot, TrainingRun

SHOWN = 10
_LOOK_EVERY_S = 2.0
_BAR_WIDTH = 40


def view(session: Session, *, new: int, wanted: int, begins: datetime | None) -> dict[str, Any]:
    """Return what `hilum training status --json` prints.

    `new` verdicts are there of the `wanted` ones; `begins` is when the next night does, None when none will.
    """
    runs = training_runs.latest(session, SHOWN)
    return {
        "next": {
            "new_verdicts": new,
            "wanted_verdicts": wanted,
            "night_begins_at": begins.isoformat() if begins else None,
        },
        "runs": [_run(session, each) for each in runs],
    }


def _run(session: Session, run: TrainingRun) -> dict[str, Any]:
    is_on = run.state in training_runs.UNFINISHED
    frozen = session.get(Snapshot, run.snapshot_digest) if run.snapshot_digest else None
    return {
        "run": run.id,
        "night": run.slot,
        "state": run.state.value,
        "recipe": run.recipe.get("name"),
        "begun_at": run.started_at.isoformat(),
        "ended_at": run.ended_at.isoformat() if run.ended_at else None,
        "images": None if frozen is None else {part.value: _count(frozen.counts[part]) for part in Part},
        "left_out": None if frozen is None else {why: len(uids) for why, uids in frozen.left_out.items()},
        "progress": run.progress,
        "network": run.network_digest,
        "error": training_runs.held_up_because(session, run.id) if is_on else run.error,
        "folder": run.folder,
    }


def _count(of_part: dict[str, dict[str, int]]) -> int:
    return sum(count for sources in of_part.values() for count in sources.values())


def rendered(said: dict[str, Any]) -> Group:
    """The same for people."""
    made = table(
        "Trainings", ("run", "of", "state", "learnt from", "tested on", "epochs", "told"), numbers=("run",)
    )
    for each in said["runs"]:
        images = each["images"] or {}
        history = (each["progress"] or {}).get("history") or []
        add(
            made,
            str(each["run"]),
            f"the night of {each['night']}" if each["night"] else "a person's wish",
            each["state"],
            f"{images['train']} images" if images else "",
            f"{images['test']} images" if images else "",
            str(len(history)),
            each["error"] or "",
            style="red" if each["state"] == "failed" else None,
        )
    if not said["runs"]:
        add(made, "", "none yet", "", "", "", "", "")
    running = [_bar(each) for each in said["runs"] if each["state"] == "running"]
    return Group(made, *running, Text(_next(said["next"])))


def _bar(run: dict[str, Any]) -> RenderableType:
    """The training that goes on: how far it is, its loss, and the time left."""
    progress = run["progress"] or {}
    done = float(progress.get("done") or 0.0) if progress.get("doing") == "learning" else None
    line = Table.grid(padding=(0, 1))
    bar = ProgressBar(total=1.0, completed=done or 0.0, width=_BAR_WIDTH, pulse=done is None)
    line.add_row(Text(f"training {run['run']}"), bar, Text(_told(progress)))
    return line


def _told(progress: dict[str, Any]) -> str:
    if progress.get("doing") != "learning":
        return str(progress.get("doing") or "about to begin")
    left = "" if progress["left_s"] is None else f", {age(progress['left_s'])} left"
    epoch = f"epoch {progress['epoch']} of {progress['epochs']}"
    return f"{epoch}, loss {progress['loss']:.3f}, {progress['images_per_s']:.0f} images/s{left}"


def _next(said: dict[str, Any]) -> str:
    new, wanted = said["new_verdicts"], said["wanted_verdicts"]
    if not wanted:
        return f"new verdicts: {new}; none begins by itself (training_least_verdicts is 0)"
    begins = datetime.fromisoformat(said["night_begins_at"])
    return f"new verdicts: {new} of {wanted} wanted; next night: {begins:%Y-%m-%d %H:%M}"


def follow(look: Callable[[], dict[str, Any]], terminal: Console) -> None:
    """Show it anew every two seconds until no training is unfinished, or Ctrl-C."""
    said = look()
    with Live(rendered(said), console=terminal, auto_refresh=False) as live:
        while any(each["state"] in training_runs.UNFINISHED for each in said["runs"]):
            time.sleep(_LOOK_EVERY_S)
            said = look()
            live.update(rendered(said), refresh=True)
