"""`hilum predict`: files read here and now; nothing is kept or sent."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.markup import escape

from db import networks
from hilum.engine import ENGINES, Engine, choose_engine, named_engine
from hilum.errors import NetworkError, NotARadiograph, Undecodable
from hilum.gradcam import heat_map
from hilum.network import Artefact, load_artefact
from hilum.settings import settings
from hilum.store import DISPLAY_FILE, INPUT_FILE
from hilum.strangeness import why_refused

USE = "For research only. Not a medical device."
_IN_MEMORY = ("display", "features")
_BAR = 24  # characters of a bar that says 100 %

Prepare = Callable[[Path, Path], str | None]
"""Looks at a file, DICOM, JPEG or PNG, and keeps display.png and input.npy in a folder, or returns the end of
"Not assessed, because ..."; raises Undecodable in words, or OSError. Decoders crash on hostile bytes: they
had better run in another process."""


@dataclass(frozen=True)
class Answer:
    """What is said of one file: a finding, or why it is not assessed, or what is wrong with the file."""

    file: Path
    label: str | None = None
    probabilities: Mapping[str, float] | None = None
    ood: float | None = None
    """See `hilum.strangeness`; beyond 1 the image is not assessed."""
    not_assessed_because: str | None = None
    wrong: str | None = None
    display: NDArray[np.uint8] | None = None
    """(H, W), bone white, of what was read."""
    features: NDArray[np.float32] | None = None
    """Of what was read, see `hilum.engine.Reading`."""

    def for_programs(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in _IN_MEMORY} | {
            "file": str(self.file)
        }


def engine_for(network: Path | None, name: str) -> Engine:
    """Return the engine of this name, or as the settings choose one, for a network, or the one in use here.

    Raises NetworkError or SettingsError when there is no such network or engine.
    """
    ours = settings()
    artefact = load_artefact(network or networks.in_use())
    if not name:
        return choose_engine(artefact, ours.device, ours.precision)
    if name not in ENGINES:
        raise NetworkError(f"there is no engine {name!r}: use {', '.join(ENGINES)}")
    return named_engine(artefact, name, ours.precision)


def answer(file: Path, engine: Engine, prepare: Prepare) -> Answer:
    """Return what is said of a file; never raises for what is wrong with the file."""
    with TemporaryDirectory(prefix="hilum-") as folder:
        try:
            because = prepare(file, Path(folder))
        except Undecodable as error:
            return Answer(file, wrong=str(error))
        except OSError as error:
            return Answer(file, wrong=os.strerror(error.errno or 0))
        if because is not None:
            return Answer(file, not_assessed_because=because)
        pixels = np.load(Path(folder, INPUT_FILE), allow_pickle=False)
        with Image.open(Path(folder, DISPLAY_FILE)) as picture:
            display = np.asarray(picture.convert("L"))
    return _read(file, engine, pixels, display)


def _read(file: Path, engine: Engine, pixels: NDArray[np.uint8], display: NDArray[np.uint8]) -> Answer:
    reading = engine.read(pixels[None])
    ood = round(float(reading.ood[0]), 4)
    because = why_refused(ood)
    if because is not None:
        return Answer(file, ood=ood, not_assessed_because=because)
    probabilities = dict(zip(engine.artefact.labels, reading.probabilities[0].tolist(), strict=True))
    return Answer(
        file,
        label=max(probabilities, key=probabilities.__getitem__),
        probabilities={label: round(p, 4) for label, p in probabilities.items()},
        ood=ood,
        display=display,
        features=reading.features[0],
    )


def heat_of(said: Answer, artefact: Artefact) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return an answer's display image, and `hilum.gradcam.heat_map` of its label.

    Raises NotARadiograph when the file was not read.
    """
    if said.display is None or said.features is None or said.label is None:
        raise NotARadiograph(f"{said.file} was not read, so there is no heat map of it")
    return said.display, heat_map(artefact.head(), said.features, artefact.labels.index(said.label))


def rendered(said: Answer) -> str:
    """Return an answer in lines for a terminal, with rich's markup."""
    name = f"[bold]{escape(str(said.file))}[/]"
    if said.wrong is not None:
        return f"{name}: [red]{escape(said.wrong)}[/]"
    strangeness = [] if said.ood is None else [f"  [dim]strangeness {said.ood:.2f}[/]"]
    if said.probabilities is None:
        return "\n".join(
            [f"{name}: not assessed, because {escape(said.not_assessed_because or '')}", *strangeness]
        )
    bars = (_bar(*each) for each in said.probabilities.items())
    return "\n".join([f"{name}: [bold]{said.label}[/]", *bars, *strangeness])


def _bar(label: str, probability: float) -> str:
    filled = round(_BAR * probability)
    return f"  {label:<10} [cyan]{'━' * filled}[/][dim]{'─' * (_BAR - filled)}[/] {probability:6.1%}"


def by(engine: Engine) -> str:
    """Return in a line what read, and what that is worth."""
    return f"{engine.artefact.version}, {engine.name} {engine.precision}. {USE}"


def about(engine: Engine) -> dict[str, Any]:
    """Return the same for programs."""
    return {
        "network": engine.artefact.version,
        "digest": engine.artefact.digest,
        "engine": engine.name,
        "precision": engine.precision,
        "use": USE,
    }
