"""What experiment tracking gets to see of a training, and that no training hangs on it."""

import json
import logging
import shutil
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sklearn")
mlflow = pytest.importorskip("mlflow.tracking")

from db import training_runs  # noqa: E402 - they are of no use without it
from db.schema import upgrade  # noqa: E402
from db.session import transaction  # noqa: E402
from db.tables import RunState, TrainingRun  # noqa: E402
from hilum.settings import settings  # noqa: E402
from tests.conftest import SettingsChange  # noqa: E402
from tests.integration.test_nobody_is_phoned import is_strange, listened_to  # noqa: E402
from tests.peers.helpers import free_port  # noqa: E402
from training import tracking  # noqa: E402
from training.drawings import FOLDER, WORST  # noqa: E402
from training.unseen import LEARNT  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")  # MLflow's own

GATE = {
    "passed": False,
    "sentences": ["Refused."],
    "comparisons": [
        {"slice": "source ROOM1, ä", "figure": "accuracy", "challenger": 0.8, "champion": 0.7, "gain": 0.1}
    ],
}


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's database when it is new: making one takes it long."""
    file = tmp_path_factory.mktemp("mlflow") / "mlflow.sqlite"
    mlflow.MlflowClient(tracking_uri=f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def run(hilum_env: SettingsChange, tmp_path: Path, ready: Path) -> int:
    """A judged run, with all that it leaves in its folder."""
    url = f"sqlite:///{tmp_path / 'hilum.sqlite'}"
    upgrade(url)
    hilum_env(database_url=url)
    (settings().data_dir / "mlflow").mkdir()
    shutil.copy(ready, settings().data_dir / "mlflow")
    folder = tmp_path / "run-1"
    for name in (FOLDER, "artefact"):
        (folder / name).mkdir(parents=True)
    for name in ("roc.png", WORST):
        (folder / FOLDER / name).write_bytes(b"picture")
    for name in ("manifest.json", "MODEL_CARD.md", "weights.safetensors", LEARNT):
        (folder / "artefact" / name).write_text(f"# {name}")
    now = datetime.now(UTC)
    values: dict[str, Any] = {
        "recipe": {"name": "tiny", "optimizer": {"learning_rate": 0.1}, "stages": [{"epochs": 2}]},
        "progress": {"history": [{"epoch": 1, "loss": 0.9}, {"epoch": 2, "loss": 0.4}]},
        "metrics": {"radiographs": {"accuracy": {"value": 0.8}}, "phantoms": {"too_few": "none"}},
        "snapshot_digest": None,
        "data_digest": "d" * 64,
    }
    with transaction() as session:
        added = TrainingRun(
            state=RunState.REFUSED,
            slot="2026-11-24",
            folder=str(folder),
            artefact=str(folder / "artefact"),
            gate=GATE,
            succeeded=True,
            started_at=now,
            ended_at=now,
            **values,
        )
        session.add(added)
        session.flush()
        return added.id


def address(run: int) -> str:
    with transaction() as session:
        return session.get_one(TrainingRun, run).tracking


def artifacts(client: Any, run_id: str, folder: str) -> set[str]:
    return {Path(each.path).name for each in client.list_artifacts(run_id, folder)}


def test_mlflow_gets_recipe_figures_drawings_and_card_but_no_image(run: int) -> None:
    tracking.catch_up()
    uri, _, rest = address(run).partition("#")
    assert uri == f"sqlite:///{settings().data_dir.resolve() / 'mlflow' / 'mlflow.sqlite'}"
    client = mlflow.MlflowClient(tracking_uri=uri)
    run_id = rest.rpartition("/")[2]
    data = client.get_run(run_id).data
    assert data.params == {"name": "tiny", "optimizer.learning_rate": "0.1", "stages.0.epochs": "2"}
    assert [each.value for each in client.get_metric_history(run_id, "epoch/loss")] == [0.9, 0.4]
    assert data.metrics["test/radiographs/accuracy"] == 0.8
    assert data.metrics["gate/source ROOM1- -/accuracy"] == 0.8
    assert data.tags["hilum.state"] == "refused"
    assert data.tags["hilum.slot"] == "2026-11-24"
    assert data.tags["hilum.data"] == "d" * 64
    assert data.tags["mlflow.note.content"] == "# MODEL_CARD.md"
    assert artifacts(client, run_id, "drawings") == {"roc.png"}
    assert artifacts(client, run_id, "artefact") == {"manifest.json", "MODEL_CARD.md"}
    kept = settings().data_dir / "mlflow" / "artifacts" / run_id / "artifacts" / "gate.json"
    assert json.loads(kept.read_text()) == GATE


def test_a_place_of_the_operators_gets_the_network_too_and_a_copy_half_made_is_completed(
    run: int, ready: Path, hilum_env: SettingsChange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"sqlite:///{shutil.copy(ready, tmp_path / 'theirs.sqlite')}"
    hilum_env(tracking_uri=uri)
    tracker = tracking.Tracker()
    with transaction() as session:
        found = session.get_one(TrainingRun, run)
    with monkeypatch.context() as patch:
        patch.setattr(tracker._client, "set_terminated", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            tracker.copy(found)
    said = tracker.copy(found)
    client = mlflow.MlflowClient(tracking_uri=uri)
    [made] = client.search_runs([tracker._experiment])
    assert said.endswith(f"/runs/{made.info.run_id}")
    assert made.info.status == "FINISHED"
    assert len(client.get_metric_history(made.info.run_id, "epoch/loss")) == 2
    small = {"manifest.json", "MODEL_CARD.md"}
    assert artifacts(client, made.info.run_id, "artefact") == {"weights.safetensors", *small}


def test_a_server_that_is_away_costs_no_training_and_gets_the_copy_later(
    run: int, hilum_env: SettingsChange, caplog: pytest.LogCaptureFixture
) -> None:
    hilum_env(tracking_uri=f"http://anna:secret@127.0.0.1:{free_port()}")
    with caplog.at_level(logging.WARNING):
        tracking.catch_up()
    assert "tried again after the next training" in caplog.text
    assert "secret" not in caplog.text
    assert address(run) == ""
    hilum_env(tracking_uri="")
    tracking.catch_up()
    assert address(run) != ""


def test_a_server_that_takes_for_ever_is_left(
    run: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tracking, "LONGEST_S", 0.2)
    began = time.monotonic()
    with caplog.at_level(logging.WARNING):
        tracking.catch_up()
    assert "took longer" in caplog.text
    assert time.monotonic() - began < 30
    assert address(run) == ""


def test_nothing_is_tracked_where_mlflow_is_missing(
    run: int, hilum_env: SettingsChange, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda _: None)
    tracking.catch_up()
    assert (address(run), caplog.text) == ("", "")
    hilum_env(tracking_uri="http://127.0.0.1:9")
    tracking.catch_up()
    assert "pip install 'hilum[tracking]'" in caplog.text


def test_mlflow_phones_nobody(run: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in tracking._SAYS_NOTHING_OF_US.items():
        monkeypatch.setenv(name, value)
    printed, talk = listened_to([sys.executable, "-P", "-m", "training.tracking"], tmp_path)
    assert address(run) != "", printed
    assert [line for line in talk if is_strange(line)] == []


def test_a_password_stands_in_no_row() -> None:
    assert tracking._without_password("https://anna:pw@mlflow.example/x") == "https://mlflow.example/x"


def test_only_judged_runs_are_copied(run: int) -> None:
    with transaction() as session:
        training_runs.begin(session, {"name": "still running"})
        assert [each.id for each in training_runs.untracked(session)] == [run]
        training_runs.note_tracking(session, run, "somewhere")
        assert training_runs.untracked(session) == []
