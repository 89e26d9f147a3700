"""Experiment tracking: copies of what trainings measured, for those who compare them with MLflow.

All of it is in a run's row and folder first. A copy is made after the training, by a process of its own
(`python -m training.tracking`), which may take `LONGEST_S`: MLflow may be missing, its server away or slow,
and no training fails or waits for that. What could not be copied is copied after the next training.

No image goes there, and no patient's name or number: recipe, figures, drawings without images, the model
card, the verdict's words with the senders' AE titles, and to a server also the network, without the list of
images that it learnt from.
"""

import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from db import training_runs
from db.session import transaction
from db.tables import TrainingRun
from hilum.process import begin
from hilum.settings import settings
from training.drawings import FOLDER, WORST
from training.progress import CURVES
from training.unseen import LEARNT

log = logging.getLogger(__name__)

EXPERIMENT = "hilum"
LONGEST_S = 300.0
_SAYS_NOTHING_OF_US = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
}
_AT_ONCE = 500
"""Metrics in a request; a server takes 1,000."""
_LONGEST_PARAM = 500
_SMALL = ("manifest.json", "MODEL_CARD.md")
"""Of an artefact what is copied on this machine: the whole of it lies in the store anyway."""


def catch_up() -> None:
    """Copy every run that ended and was not copied yet, as far as that can be done now; raises nothing."""
    if find_spec("mlflow") is None:
        if settings().tracking_uri:
            log.warning("tracking_uri is set, and MLflow is missing: pip install 'hilum[tracking]'")
        return
    argv = (sys.executable, "-P", "-m", "training.tracking")
    try:
        subprocess.run(  # noqa: S603 - our own program
            argv,
            env={**os.environ, **_SAYS_NOTHING_OF_US},
            timeout=LONGEST_S,
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    except subprocess.TimeoutExpired:
        log.warning(
            "MLflow took longer than %.0f s: what it lacks is copied after the next training", LONGEST_S
        )
    except (OSError, subprocess.CalledProcessError) as error:
        last = (
            (getattr(error, "output", None) or str(error).encode()).decode(errors="replace").splitlines()[-1:]
        )
        log.warning("not tracked, tried again after the next training: %s", _without_password(" ".join(last)))


def main() -> None:
    """Copy what was not copied yet, the oldest run first; raises what MLflow raises."""
    begin()
    with transaction() as session:
        runs = training_runs.untracked(session)
    if not runs:
        return
    tracker = Tracker()
    for run in runs:
        address = tracker.copy(run)
        with transaction() as session:
            training_runs.note_tracking(session, run.id, address)


class Tracker:
    """A place where MLflow keeps runs."""

    def __init__(self) -> None:
        from mlflow.tracking import MlflowClient

        folder = settings().data_dir.resolve() / "mlflow"
        self._is_local = not settings().tracking_uri
        if self._is_local:
            folder.mkdir(exist_ok=True)
        self._uri = settings().tracking_uri or f"sqlite:///{folder / 'mlflow.sqlite'}"
        self._client = MlflowClient(tracking_uri=self._uri)
        found = self._client.get_experiment_by_name(EXPERIMENT)
        place = (folder / "artifacts").as_uri() if self._is_local else None
        self._experiment = (
            found.experiment_id
            if found
            else self._client.create_experiment(EXPERIMENT, artifact_location=place)
        )

    def copy(self, run: TrainingRun) -> str:
        """Return the address of a run's copy; what an earlier try has left is completed."""
        began_ms, ended_ms = (
            int(at.timestamp() * 1000) for at in (run.started_at, run.ended_at or run.started_at)
        )
        to = self._there(run, began_ms)
        for key, value in _params(run.recipe):
            self._client.log_param(to, key, value)
        self._log_metrics(to, [*_metrics(run)], ended_ms)
        self._log_files(to, run)
        self._client.set_terminated(to, "FINISHED", ended_ms)
        return f"{_without_password(self._uri)}#/experiments/{self._experiment}/runs/{to}"

    def _there(self, run: TrainingRun, began_ms: int) -> str:
        """MLflow's name of a run; a place that several sites share knows ours by its number and time."""
        ours = f"tags.`hilum.run` = '{run.id}' and tags.`hilum.began_ms` = '{began_ms}'"
        for found in self._client.search_runs([self._experiment], ours):
            return str(found.info.run_id)
        made = self._client.create_run(
            self._experiment,
            start_time=began_ms,
            run_name=f"training {run.id}",
            tags=_tags(run, began_ms),
        )
        return str(made.info.run_id)

    def _log_metrics(self, to: str, metrics: Sequence[tuple[str, float, int]], at_ms: int) -> None:
        from mlflow.entities import Metric

        told = [Metric(key, value, at_ms, step) for key, value, step in metrics]
        for start in range(0, len(told), _AT_ONCE):
            self._client.log_batch(to, metrics=told[start : start + _AT_ONCE])

    def _log_files(self, to: str, run: TrainingRun) -> None:
        if run.gate is not None:
            self._client.log_text(to, json.dumps(run.gate, indent=1), "gate.json")
        folder, artefact = Path(run.folder), Path(run.artefact)
        for file in (*sorted((folder / FOLDER).glob("*.png")), folder / CURVES):
            if file.is_file() and file.name != WORST:
                self._client.log_artifact(to, str(file), "drawings")
        names = _SMALL if self._is_local else tuple(file.name for file in artefact.glob("*"))
        for name in names:
            if run.artefact and name != LEARNT and (artefact / name).is_file():
                self._client.log_artifact(to, str(artefact / name), "artefact")


def _tags(run: TrainingRun, began_ms: int) -> dict[str, str]:
    card = Path(run.artefact) / "MODEL_CARD.md"
    return {
        "hilum.run": str(run.id),
        "hilum.began_ms": str(began_ms),
        "hilum.state": run.state.value,
        "hilum.slot": run.slot or "",
        "hilum.snapshot": run.snapshot_digest or "",
        "hilum.data": run.data_digest,
        "hilum.network": run.network_digest,
        **({"mlflow.note.content": card.read_text(encoding="utf-8")} if card.is_file() else {}),
    }


def _params(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """A recipe's numbers by their place in it: optimizer.learning_rate, stages.0.epochs."""
    if isinstance(value, Mapping):
        for key, one in value.items():
            yield from _params(one, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list) and any(isinstance(one, Mapping) for one in value):
        for place, one in enumerate(value):
            yield from _params(one, f"{name}.{place}")
    else:
        yield _key(name), str(value)[:_LONGEST_PARAM]


def _metrics(run: TrainingRun) -> Iterator[tuple[str, float, int]]:
    """Name, value and epoch: of each epoch, then, at 0, of all slices, and of the gate's comparisons."""
    for entry in (run.progress or {}).get("history", []):
        for name, value in entry.items():
            if name != "epoch":
                yield _key(f"epoch/{name}"), float(value), int(entry["epoch"])
    for slice_, figures in (run.metrics or {}).items():
        for name in ("accuracy", "macro_f1", "macro_auroc"):
            value = (figures.get(name) or {}).get("value")
            if value is not None:
                yield _key(f"test/{slice_}/{name}"), float(value), 0
    for each in (run.gate or {}).get("comparisons", []):
        of = f"{each['slice']}/{each['figure']}"
        yield _key(f"gate/{of}"), float(each["challenger"]), 0
        yield _key(f"gate gain/{of}"), float(each["gain"]), 0


def _key(name: str) -> str:
    """A name as MLflow takes it."""
    return re.sub(r"[^A-Za-z0-9_\-. /]", "-", name)[:250]


def _without_password(text: str) -> str:
    """Words or an address without what tells who may come in."""
    return re.sub(r"://[^/@\s]*@", "://", text)


if __name__ == "__main__":
    main()
