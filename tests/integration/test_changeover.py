"""From one network to another while studies come in, beside another, and back over what one has read."""

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from sqlalchemy import select, update
from typer.testing import CliRunner

from console import cli
from db import findings, jobs, networks, readings, reports, studies
from db.session import transaction
from db.studies import Preparation
from db.tables import Alert, Finding, Job, JobState, NetworkState
from hilum import artefacts
from hilum.network import LABELS, STRANGENESS, WEIGHTS, load_artefact
from hilum.phantom import phantom
from hilum.queue import CLASSIFY, PREPARE, REPORT, SHADOW
from hilum.settings import settings
from hilum.store import INPUT_FILE, INSTANCES, PREPARED, Store
from hilum.strangeness import load
from tests.conftest import SettingsChange
from tests.integration.examples import an_object
from tests.peers.helpers import wait_for
from tests.peers.studies import RECEIVED, claim, job, receive
from tests.unit.artefacts import rewrite_manifest, untrained
from worker import classify, prepare, reader, report, shadow

pytest.importorskip("torch")
BIAS = "classifier.4.bias"
LITE = pytest.mark.parametrize("empty_database_url", ["sqlite"], indirect=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two networks by what each says of every image."""
    plain = untrained(tmp_path_factory.mktemp("plain"), "mobilenet_v3_small")
    return {label: _always(label, plain, tmp_path_factory.mktemp("always")) for label in LABELS[:2]}


def _always(label: str, plain: Path, folder: Path) -> Path:
    """A copy whose last bias drowns what the image says: of the weights, which the graph reads, too."""
    for file in plain.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    tensors = load_file(folder / WEIGHTS)
    tensors[BIAS][LABELS.index(label)] += 100.0
    save_file(tensors, folder / WEIGHTS)
    nothing_is_strange = replace(load(folder / STRANGENESS), reaches=np.full(2, 1e9, np.float32))
    (folder / STRANGENESS).write_bytes(nothing_is_strange.content())
    sha256 = {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in load_artefact(plain).manifest["sha256"]
    }
    rewrite_manifest(folder, version=f"always-{label.lower()}", sha256=sha256)
    return folder


@pytest.fixture
def first_and_second(
    database_url: str, hilum_env: SettingsChange, made: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, str]]:
    """Digests of a champion that says Normal, by the settings, and of a candidate that says Pneumonia."""
    hilum_env(device="cpu", network_dir=made["Normal"])
    fresh = reader.Readers()
    for module in (reader, classify, shadow):
        monkeypatch.setattr(module, "readers", fresh)
    networks.install()
    second = artefacts.keep(Store(settings().store), made["Pneumonia"])
    with transaction() as session:
        networks.bring(session, second, actor="anna")
        champion = networks.champion(session)
    assert champion is not None
    yield champion.digest, second.digest
    fresh.serve({})


def a_prepared_study(number: int) -> str:
    """A study of two images, ready to be read."""
    study = f"1.2.{number}"
    store, rng = Store(settings().store), np.random.default_rng(number)
    with transaction() as session:
        for uid in (f"{study}.1", f"{study}.2"):
            studies.record(session, an_object(uid=uid, study_uid=study, series_uid=f"{study}.0"), settle_s=0)
            folder = store.folder(PREPARED, uid)
            np.save(store.path(folder) / INPUT_FILE, rng.integers(0, 256, (224, 224), np.uint8))
            studies.save_preparations(session, [Preparation(uid, prepared_path=folder, pixel_hash=uid)])
        session.execute(update(Job).where(Job.kind == PREPARE).values(state=JobState.DONE))
        jobs.want(session, CLASSIFY, study, study_uid=study)
    return study


def act(what: str, *arguments: str) -> None:
    """What a person does at a terminal."""
    done = CliRunner().invoke(cli.app, ["networks", what, *arguments, "--because", "tried", "--yes"])
    assert done.exit_code == 0, done.output


def test_studies_in_flight_while_the_champion_changes_are_read_by_exactly_one_network(
    first_and_second: tuple[str, str],
) -> None:
    first, second = first_and_second
    uids = [a_prepared_study(number) for number in range(40)]
    with ThreadPoolExecutor(8) as threads:
        reading = [threads.submit(classify.classify_study.run, uid) for uid in uids[:16]]
        wait_for(lambda: reader.readers.champion() is not None, 60, "the champion")
        act("promote", "always-pneumonia")
        reading += [threads.submit(classify.classify_study.run, uid) for uid in uids[16:28]]
        wait_for(lambda: any(each.done() for each in reading[16:]), 60, "a study by the new one")
        act("rollback")
        reading += [threads.submit(classify.classify_study.run, uid) for uid in uids[28:]]
        for each in reading:
            each.result(120)
    read_by = {uid: _digests(uid) for uid in uids}
    assert all(len(found) == 2 and len(set(found)) == 1 for found in read_by.values()), read_by
    assert {found[0] for found in read_by.values()} == {first, second}
    assert read_by[uids[-1]][0] == first
    with transaction() as session:
        left = session.scalars(select(Job).where(Job.kind == CLASSIFY, Job.state != JobState.DONE)).all()
        labels = {each.label for each in session.scalars(select(Finding)) if each.network_digest == second}
    assert left == []
    assert labels == {"Pneumonia"}
    wait_for(lambda: set(reader.readers.about()["networks"]) <= {first}, what="the second to be let go")


def _digests(study: str) -> list[str]:
    with transaction() as session:
        found = session.scalars(select(Finding).where(Finding.uid.startswith(f"{study}.")))
        return [each.network_digest for each in found if not each.shadow]


@LITE
def test_a_study_whose_network_is_recalled_while_it_reads_is_read_by_its_successor(
    first_and_second: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = first_and_second
    study, read = a_prepared_study(1), classify.read

    def read_and_recall(*arguments: object, **how: object) -> object:
        said = read(*arguments, **how)  # type: ignore[arg-type]
        with transaction() as session:
            networks.recall(session, first, actor="anna", because="wrong", successor=second)
        return said

    monkeypatch.setattr(classify, "read", read_and_recall)
    classify.classify_study(study)
    assert _digests(study) == []
    assert "was recalled while it read" in (job(CLASSIFY, study).error or "")
    monkeypatch.setattr(classify, "read", read)
    with transaction() as session:
        jobs.hurry(session, CLASSIFY, [study])
    classify.classify_study(study)
    assert _digests(study) == [second, second]


@LITE
def test_a_champion_that_cannot_be_loaded_holds_studies_up_and_raises_an_alert(
    first_and_second: tuple[str, str], made: dict[str, Path]
) -> None:
    first, _ = first_and_second
    study, weights = a_prepared_study(1), Store(settings().store).path(artefacts.place(first)) / WEIGHTS
    weights.write_bytes(b"torn")
    classify.classify_study(study)
    assert job(CLASSIFY, study).state == JobState.WAITING
    assert WEIGHTS in (job(CLASSIFY, study).error or "")
    with transaction() as session:
        [alert] = session.scalars(select(Alert))
        assert (alert.kind, alert.subject, alert.ended_at) == ("network", first, None)
        jobs.hurry(session, CLASSIFY, [study])
    artefacts.keep(Store(settings().store), made["Normal"])
    classify.classify_study(study)
    assert _digests(study) == [first, first]
    with transaction() as session:
        [alert] = session.scalars(select(Alert))
        assert alert.ended_at is not None


@LITE
def test_a_shadow_reads_once_nothing_waits_for_the_champion_and_is_never_reported(
    first_and_second: tuple[str, str],
) -> None:
    act("promote", "always-pneumonia", "--to", "shadow")
    study = a_prepared_study(1)
    classify.classify_study(study)
    waiting = a_prepared_study(2)
    shadow.read_beside(study)
    assert job(SHADOW, study).error == "studies wait for the champion"
    classify.classify_study(waiting)
    with transaction() as session:
        jobs.hurry(session, SHADOW, [study])
    shadow.read_beside(study)
    with transaction() as session:
        assert {each.label for each in findings.of_study(session, study).values()} == {"Normal"}
        assert readings.agreement(session, first_and_second[1]).all == readings.Share(images=2, same=0)
    assert job(SHADOW, study).state == JobState.DONE
    [champion, beside] = json.loads(CliRunner().invoke(cli.app, ["networks", "list", "--json"]).output)
    assert (champion["state"], champion["studies"]) == ("champion", 2)
    assert (beside["state"], beside["studies"], beside["agreement"]["images"]) == ("shadow", 0, 2)
    shown = CliRunner().invoke(cli.app, ["networks", "show", beside["digest"][:8]]).output
    assert "as a shadow it agrees on 0.0% of 2 images" in shown


@LITE
def test_a_recall_reads_anew_and_reports_what_has_changed(
    first_and_second: tuple[str, str], tmp_path: Path
) -> None:
    ds = phantom(1, "Normal", rows=320, columns=262, study_uid=RECEIVED.study_uid)
    file = tmp_path / "sent.dcm"
    ds.save_as(file, enforce_file_format=True)
    receive(uid=ds.SOPInstanceUID, path=Store(settings().store).place(file, INSTANCES, ds.SOPInstanceUID))
    _work_through()
    act("promote", "always-pneumonia")
    asked = CliRunner().invoke(cli.app, ["networks", "recall", "always-normal", "--dry-run"])
    assert "it has read 1 study" in asked.output
    act("recall", "always-normal", "--csv", str(tmp_path / "studies.csv"))
    assert RECEIVED.study_uid in (tmp_path / "studies.csv").read_text()
    _work_through()
    with transaction() as session:
        assert [each.label for each in findings.of_study(session, RECEIVED.study_uid).values()] == [
            "Pneumonia"
        ]
        assert [each.revision for each in reports.of_study(session, RECEIVED.study_uid)] == [1, 2]
    told = CliRunner().invoke(cli.app, ["networks", "recall", "always-normal", "--status"])
    assert "read anew: 1 of 1 studies" in told.output
    assert "superseding reports: 1" in told.output
    refused = CliRunner().invoke(cli.app, ["networks", "promote", "always-normal", "--because", "x", "--yes"])
    assert "must not read again" in str(refused.exception)


def _work_through() -> None:
    for kind, steps in (
        (PREPARE, prepare._prepare),
        (CLASSIFY, classify._classify),
        (REPORT, report._report),
    ):
        held = claim(kind, RECEIVED.study_uid)
        assert held is not None, kind
        steps(held)


@LITE
def test_another_network_in_the_settings_takes_the_place_of_theirs_and_not_of_one_that_people_promoted(
    first_and_second: tuple[str, str], hilum_env: SettingsChange, made: dict[str, Path], tmp_path: Path
) -> None:
    first, second = first_and_second
    third = _another(made["Normal"], tmp_path / "third")
    hilum_env(network_dir=tmp_path / "third")
    networks.install()
    assert _states() == {first: "retired", second: "candidate", third: "champion"}
    act("promote", "always-pneumonia")
    fourth = _another(made["Normal"], tmp_path / "fourth")
    hilum_env(network_dir=tmp_path / "fourth")
    networks.install()
    networks.install()
    assert networks.in_use() == Store(settings().store).path(f"networks/{second}")
    assert _states() == {first: "retired", second: "champion", third: "retired", fourth: "candidate"}


def _another(folder: Path, to: Path) -> str:
    to.mkdir()
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    rewrite_manifest(to, version=to.name)
    return load_artefact(to).digest


def _states() -> dict[str, NetworkState]:
    with transaction() as session:
        return {each.digest: each.state for each in networks.known(session)}
