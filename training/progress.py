"""What a training tells while it runs: a bar, a line per epoch, its history as JSON and as a figure."""

import json
import math
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn, track

from training.recipe import Recipe

HISTORY, CURVES, PROGRESS = "history.json", "learning-curves.png", "progress.json"
_TELL_EVERY_S = 2.0


def shown(seeds: Sequence[int], doing: str, *, quiet: bool) -> Iterable[int]:
    """Yield what is given, and in a terminal show a bar meanwhile."""
    console = Console(quiet=quiet)
    return track(seeds, doing, console=console, transient=True, disable=not console.is_terminal)


class Bar:
    """A bar in a terminal, with the time left; elsewhere, one line per epoch and nothing else."""

    def __init__(self, recipe: Recipe, steps_per_epoch: int, folder: Path, *, quiet: bool) -> None:
        console = Console(quiet=quiet)
        self._recipe, self._steps = recipe, steps_per_epoch
        self._told = Told(None if quiet else folder)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[told]}"),
            console=console,
            disable=not console.is_terminal,
            speed_estimate_period=120,
        )
        self._total = steps_per_epoch * sum(stage.epochs * stage.size_px**2 for stage in recipe.stages)
        self._task = self._progress.add_task("", total=self._total, told="")
        self._console, self._stepped_at = console, time.monotonic()

    def __enter__(self) -> "Bar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        self._told.tell(doing="publishing")

    def show(self, epoch: int, step: int, loss: float) -> None:
        """Show that a step of an epoch, both counted from 0, has been done."""
        now, recipe = time.monotonic(), self._recipe
        speed = recipe.batch_size * recipe.batches_per_step / (now - self._stepped_at)
        self._stepped_at = now
        done = self._cost(epoch) + (step + 1) * recipe.stage_of(epoch).size_px ** 2
        told = f"loss {loss:.3f}  {speed:.0f} images/s"
        self._progress.update(
            self._task, completed=done, description=f"epoch {epoch + 1}/{recipe.epochs}", told=told
        )
        self._told.step(done / self._total, epoch + 1, recipe.epochs, loss, speed)

    def _cost(self, epochs: int) -> int:
        """What the first epochs take, in pixels of their images' area."""
        return self._steps * sum(self._recipe.stage_of(epoch).size_px ** 2 for epoch in range(epochs))

    def tell(self, entry: dict[str, float]) -> None:
        """Print a line about an epoch that is over."""
        said = [f"{name} {value:.4g}" for name, value in entry.items() if name != "epoch"]
        line = f"epoch {entry['epoch']}/{self._recipe.epochs}: {', '.join(said)}"
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)
        self._stepped_at = time.monotonic()


class Told:
    """What other processes are told of a training: a small file, written every few seconds."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._first: tuple[float, float] | None = None
        self._told_at = -math.inf

    def step(self, done: float, epoch: int, epochs: int, loss: float, images_per_s: float) -> None:
        """Tell of a step: which part of the training is done, in [0, 1], and how fast it goes."""
        now = time.monotonic()
        began_at, before = self._first = self._first or (now, done)
        if now - self._told_at < _TELL_EVERY_S:
            return
        self._told_at = now
        pace = (done - before) / (now - began_at) if now > began_at else 0.0
        self.tell(
            doing="learning",
            done=done,
            epoch=epoch,
            epochs=epochs,
            loss=loss,
            images_per_s=images_per_s,
            left_s=(1 - done) / pace if pace else None,
        )

    def tell(self, **said: Any) -> None:
        if self._folder is not None:
            aside = self._folder / f"{PROGRESS}.new"
            aside.write_text(json.dumps(said), encoding="utf-8")
            aside.replace(self._folder / PROGRESS)


def write(history: Sequence[dict[str, float]], folder: Path) -> None:
    """Write a history of epochs to a folder: as JSON and as the figure of its curves."""
    (folder / HISTORY).write_text(json.dumps(history, indent=1) + "\n", encoding="utf-8")
    curves(history).savefig(folder / CURVES, dpi=120)


def curves(history: Sequence[dict[str, float]]) -> Figure:
    """Return the figure of a history: losses on the left; accuracy and the learning rate on the right."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    losses, shares = figure.subplots(1, 2)
    epochs = [entry["epoch"] for entry in history]
    for axes, names in ((losses, ("training_loss", "loss")), (shares, ("accuracy", "macro_f1", "phantoms"))):
        for name in names:
            axes.plot(epochs, [entry.get(name, float("nan")) for entry in history], ".-", label=_NAMES[name])
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
        for epoch, entry in zip(epochs[1:], history[1:], strict=True):
            if entry["size_px"] != history[int(epoch) - 2]["size_px"]:
                axes.axvline(epoch - 0.5, color="gray", linewidth=0.8)
    losses.set_ylabel("loss")
    shares.set_ylim(0, 1)
    figure.suptitle("Learning curves (gray lines: another image size)", fontsize=10)
    return figure


_NAMES = {
    "training_loss": "training",
    "loss": "validation",
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "phantoms": "accuracy on phantoms",
}
