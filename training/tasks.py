"""Training as a task: run on the training queue, written down in `training_runs`."""

import os
import tomllib
from pathlib import Path

from db import training_runs
from db.session import transaction
from hilum.network import load_artefact
from hilum.queue import TRAIN, app

NICENESS = 10
"""Of a process that trains: studies that are waiting come first."""


@app.task(name=TRAIN)
def train_network(recipe: str, images: str, manifest: str, out: str) -> None:
    """Train by a recipe file on the images that a manifest lists, into the folder `out`.

    The run and its outcome are rows of `training_runs`. Called again with the same folder it
    goes on from the last checkpoint there. The network that serves is not touched.
    """
    os.nice(max(0, NICENESS - os.nice(0)))
    with transaction() as session:
        run = training_runs.begin(session, tomllib.loads(Path(recipe).read_text(encoding="utf-8")))
    try:
        from training.train import train  # torch takes seconds and a gigabyte: only the run's process has it

        artefact = train(Path(recipe), Path(out), images=Path(images), manifest=Path(manifest))
        made = load_artefact(artefact).manifest
    except BaseException as error:  # a shutdown too ends the run, and its row must say so
        with transaction() as session:
            training_runs.fail(session, run, error=f"{type(error).__name__}: {error}"[:2000])
        raise
    with transaction() as session:
        training_runs.succeed(session, run, artefact=str(artefact), manifest=made)
