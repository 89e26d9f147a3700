"""Drift: images that change are told of, others are not, and what is held back waits for a person."""

import json
from collections.abc import Sequence
from itertools import count
from typing import Any

import numpy as np
import pytest
from numpy.random import Generator
from sqlalchemy import insert, update
from typer.testing import CliRunner

import db.verdicts
from console.cli import app
from db import alerts, drift, jobs
from db.clock import from_now
from db.drift import Group
from db.session import transaction
from db.tables import (
    Finding,
    Instance,
    JobState,
    NetworkState,
    NetworkVersion,
    Role,
    Series,
    Study,
    StudyState,
    Verdict,
)
from hilum.labels import REJECTED
from hilum.network import LABELS
from hilum.queue import DELIVER, DRIFT
from tests.conftest import SettingsChange
from tests.peers.orthanc import Orthanc
from tests.peers.studies import RECEIVED, claim, deliverable, job, receive
from worker import deliver
from worker.appearance import SIGNS
from worker.drift import _look

CHAMPION = "c" * 64
ROOM1 = Group("ROOM1", "PA")
USUAL = {"brightness": 0.44, "contrast": 0.25, "black": 0.1, "white": 0.1, "sharpness": 0.02, "middle": 0.1}
SHARES = (0.5, 0.3, 0.15, 0.05)
_numbers = count(1)

sqlite = pytest.mark.parametrize("empty_database_url", ["sqlite"], indirect=True)


@pytest.fixture
def database(database_url: str, hilum_env: SettingsChange) -> str:
    """A database with a champion, where 300 images are compared with."""
    hilum_env(drift_reference_images=300, drift_least_images=100)
    _serve(CHAMPION)
    return database_url


def _serve(digest: str) -> None:
    with transaction() as session:
        session.execute(update(NetworkVersion).values(state=NetworkState.RETIRED))
        session.add(
            NetworkVersion(digest=digest, version=digest[:4], manifest={}, state=NetworkState.CHAMPION)
        )


def _read(
    images: int,
    *,
    of: Group = ROOM1,
    by: str = CHAMPION,
    seed: int = 0,
    shares: Sequence[float] = SHARES,
    phantom: bool = False,
    shadow: bool = False,
    **moved: float,
) -> list[str]:
    """So many images as a network read them, with signs moved by so much; return their UIDs."""
    rng = np.random.default_rng([seed, next(_numbers)])
    made = [_an_image(rng, of, by, shares, phantom, shadow, moved) for _ in range(images)]
    with transaction() as session:
        for table in (Study, Series, Instance, Finding):
            session.execute(insert(table), [row[table] for row in made])
    return [row[Instance]["uid"] for row in made]


def _an_image(
    rng: Generator,
    of: Group,
    by: str,
    shares: Sequence[float],
    phantom: bool,
    shadow: bool,
    moved: dict[str, float],
) -> dict[Any, dict[str, Any]]:
    study = f"1.2.{next(_numbers)}"
    signs = {name: usual * (1 + 0.15 * rng.standard_normal()) for name, usual in USUAL.items()}
    label = LABELS[int(rng.choice(4, p=shares))]
    return {
        Study: {
            "study_uid": study,
            "sender_ae": of.sender_ae,
            "phantom": phantom,
            "state": StudyState.DELIVERED,
        },
        Series: {"series_uid": f"{study}.1", "study_uid": study},
        Instance: {
            "uid": f"{study}.1.1",
            "study_uid": study,
            "series_uid": f"{study}.1",
            "sop_class_uid": "1",
            "transfer_syntax_uid": "1",
            "role": Role.IMAGE,
            "sender_ae": of.sender_ae,
            "path": "",
            "size_bytes": 1,
            "pixel_digest": "d",
            "view": of.view,
            "prepared": True,
            "prepared_path": "p",
            "pixel_hash": "h",
        },
        Finding: {
            "uid": f"{study}.1.1",
            "pixel_hash": "h",
            "network_digest": by,
            "preprocessing": "p",
            "label": label,
            "probabilities": {label: float(rng.uniform(0.4, 0.99))},
            "ood": float(rng.uniform()),
            "heat": {},
            "shadow": shadow,
            "statistics": {name: value + moved.get(name, 0) for name, value in signs.items()},
        },
    }


def _look_now(day: str = "2026-11-24") -> None:
    """The day's look, as a worker takes it."""
    with transaction() as session:
        jobs.want(session, DRIFT, day, study_uid=None)
    held = claim(DRIFT, day)
    assert held is not None
    _look(held)
    assert job(DRIFT, day).state is JobState.DONE


def _open() -> dict[str, str]:
    with transaction() as session:
        return {each.subject: each.words for each in alerts.open(session, drift.KIND)}


def test_darker_images_of_one_room_are_an_alert_that_says_so(database: str) -> None:
    _read(400)
    _read(400, of=Group("ROOM2", "PA"))
    _look_now()
    assert _open() == {}
    _read(150, brightness=-0.13)
    _read(150, of=Group("ROOM2", "PA"))
    _look_now()
    [(subject, words)] = _open().items()
    assert subject == "ROOM1, PA"
    assert words.startswith("images of ROOM1, PA, are darker: mean gray value 0.3")
    assert words.endswith("instead of 0.44 (n = 250)")


def test_a_room_that_finds_its_way_back_ends_its_alert(database: str) -> None:
    _read(300)
    changed = _read(150, sharpness=0.01)
    _look_now()
    assert "sharper or noisier" in _open()["ROOM1, PA"]
    with transaction() as session:
        session.query(Finding).where(Finding.uid.in_(changed)).delete()
    _look_now()
    assert _open() != {}, "without images nothing is known"
    _read(150)
    _look_now()
    assert _open() == {}


def test_other_findings_are_an_alert_too(database: str) -> None:
    _read(300)
    _read(200, shares=(0.2, 0.6, 0.15, 0.05))
    _look_now()
    assert "are found to be " in _open()["ROOM1, PA"] and " instead of " in _open()["ROOM1, PA"]


def test_phantoms_shadows_and_few_images_never_count(database: str) -> None:
    _read(300)
    _read(150, phantom=True, brightness=-0.2)
    _read(150, shadow=True, brightness=-0.2)
    _read(60, brightness=-0.2)
    _look_now()
    assert _open() == {}


def test_a_new_champion_is_compared_with_what_it_found_first_and_images_with_what_they_were(
    database: str,
) -> None:
    _read(300)
    _look_now()
    _serve("d" * 64)
    _read(250, by="d" * 64, shares=(0.1, 0.8, 0.05, 0.05))
    _look_now()
    assert _open() == {}, "its first findings are the beginning of what it is compared with"
    _read(150, by="d" * 64, shares=(0.1, 0.8, 0.05, 0.05), brightness=0.2)
    _look_now()
    assert "are brighter" in _open()["ROOM1, PA"] and "found to be" not in _open()["ROOM1, PA"]


def test_people_who_agree_less_with_the_network_are_an_alert(database: str) -> None:
    early, late = _read(300), _read(150)
    rng = np.random.default_rng(3)
    with transaction() as session:
        found = {each.uid: each.label for each in session.query(Finding)}
        for uids, agree in ((early, 0.9), (late, 0.5)):
            for uid in uids:
                other = next(label for label in LABELS if label != found[uid])
                label = found[uid] if rng.random() < agree else other
                db.verdicts.add(session, uid, label, "Dr. R", "test")
        for uid in early[:5]:  # which says nothing of what the network found
            db.verdicts.add(session, uid, REJECTED, "Dr. R", "test")
    with transaction() as session:
        past = update(Verdict).where(Verdict.uid.in_(early)).values(created_at=from_now(-30 * 86_400))
        session.execute(past)
    _look_now()
    assert "are read as people do in 5" in _open()["ROOM1, PA"]
    with transaction() as session:
        before, now = drift.agreement(session, ROOM1, CHAMPION, days=7)
    assert (sum(before.values()), sum(now.values())) == (295, 150)


@sqlite
def test_images_that_stay_the_same_raise_no_alert_in_twenty_places(database: str) -> None:
    for seed in range(20):
        _read(400, of=Group(f"ROOM{seed}", "AP"), seed=seed)
    _look_now()
    assert _open() == {}


def test_an_accepted_change_is_what_later_images_are_compared_with(database: str) -> None:
    _read(300)
    _read(150, brightness=-0.13)
    _look_now()
    assert CliRunner().invoke(app, ["drift", "accept", "ROOM1", "--because", "new tube"]).exit_code == 0
    assert _open() == {}
    _read(300, brightness=-0.13)
    _read(150, brightness=-0.13)
    _look_now()
    assert _open() == {}
    _read(150)
    _look_now()
    assert "are brighter" in _open()["ROOM1, PA"]


def test_the_terminal_shows_each_group(database: str) -> None:
    _read(300)
    _read(150, brightness=-0.13)
    _read(20, of=Group("ROOM2", ""))
    _look_now()
    shown = json.loads(CliRunner().invoke(app, ["drift", "--json"]).output)
    lines = {(each["sender_ae"], each["of"]): each for each in shown["groups"]}
    assert lines["ROOM1", "images"]["compared"]["beyond"] == ["brightness"]
    assert lines["ROOM1", "images"]["compared"]["distances"].keys() == SIGNS.keys()
    assert lines["ROOM2", CHAMPION]["first_images"] == 20 and lines["ROOM2", CHAMPION]["compared"] is None
    assert "ROOM1" in CliRunner().invoke(app, ["drift"]).output
    refused = CliRunner().invoke(app, ["drift", "accept", "ROOM9", "--because", "?"])
    assert refused.exit_code == 1


@sqlite
def test_results_of_a_sender_on_hold_wait_for_a_person_and_go_out_then(
    database: str, hilum_env: SettingsChange, orthanc: Orthanc
) -> None:
    pacs = {"name": "pacs", "ae_title": orthanc.ae_title, "host": "127.0.0.1", "port": orthanc.port}
    hilum_env(drift_holds=True, destinations=[pacs])
    _read(300)
    _read(150, brightness=-0.13)
    _look_now()
    with transaction() as session:
        assert [each.sender_ae for each in drift.holds(session)] == ["ROOM1"]
    receive(sender_ae="ROOM1")
    parcel = deliverable(
        b"?", uid="1.2.9", sop_class_uid="1.2", series_uid="1.2.8", destination="pacs", kind=DELIVER
    )
    deliver.deliver_report(str(parcel.id))
    waiting = job(DELIVER, str(parcel.id))
    assert waiting.state is JobState.WAITING and "hilum drift accept ROOM1" in (waiting.error or "")
    assert orthanc.count() == 0
    shown = CliRunner().invoke(app, ["show", RECEIVED.study_uid]).output
    assert "held back since" in shown and "are darker" in shown
    assert "results of ROOM1 are held back" in CliRunner().invoke(app, ["status"]).output
    with transaction() as session:
        assert drift.held_studies(session) == {"ROOM1": 1}
    accepted = CliRunner().invoke(app, ["drift", "accept", "ROOM1", "--because", "seen"])
    assert "1 report goes out" in accepted.output
    with transaction() as session:
        assert jobs.due(session, [DELIVER]) == 1 and drift.holds(session) == []
