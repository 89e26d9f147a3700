"""Phantoms go through the whole chain, and a difference, or their absence, is an alert."""

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
from sqlalchemy import update
from typer.testing import CliRunner

from console.cli import app
from console.constancy import last_said
from db import alerts, constancy, jobs, networks, retention, studies
from db.clock import from_now
from db.drift import groups
from db.session import transaction
from db.tables import ConstancyRecord, ConstancyRun, Job, JobState, Study, StudyState
from hilum.queue import CONSTANCY, DRIFT
from tests.conftest import SettingsChange
from tests.peers.broker import Broker
from tests.peers.helpers import free_port, wait_for
from tests.peers.orthanc import Orthanc
from tests.peers.studies import claim, job
from tests.peers.system import System
from worker import daily
from worker.constancy import SAME, SHOTS, _listener, _step, differences
from worker.retention import remove_some

AE = "HILUM-CONSTANCY"
FOUND = {
    "network": "n" * 64,
    "engine": "e",
    "label": "Normal",
    "probabilities": {"Normal": 0.7, "Pneumonia": 0.3},
    "ood": 0.4,
    "heat": [[0.0, 1.0], [0.5, 0.5]],
    "not_assessed_because": None,
}


def _latest() -> ConstancyRun | None:
    with transaction() as session:
        return next(iter(constancy.latest(session)), None)


def _ended(slot: str) -> ConstancyRun | None:
    with transaction() as session:
        run = session.get(ConstancyRun, slot)
        return run if run is not None and run.ended_at is not None else None


def _words() -> list[str]:
    with transaction() as session:
        return [each.words for each in alerts.open(session, constancy.KIND)]


def _run_now() -> ConstancyRun:
    """The phantoms of this moment, once they are judged."""
    before = _latest()
    assert CliRunner().invoke(app, ["constancy", "run"]).exit_code == 0
    wait_for(lambda: (now := _latest()) is not None and (before is None or now.slot != before.slot), 30)
    run = _latest()
    assert run is not None
    wait_for(lambda: _ended(run.slot) is not None, 150, "the phantoms")
    ended = _ended(run.slot)
    assert ended is not None
    return ended


def test_phantoms_come_back_as_ever_until_something_differs(
    start_system: Callable[..., System], orthanc: Orthanc
) -> None:
    start_system(senders=[{"ae_title": AE}, {"ae_title": "ROOM1"}])
    first = _run_now()
    assert first.passed, first.words
    assert first.words.startswith("recorded for the first time: ")
    for study_uid in first.studies.values():
        assert len(orthanc.instances(study_uid, modality="SR")) == 1
    with transaction() as session:
        record = session.query(ConstancyRecord).where(ConstancyRecord.phantom == SHOTS[0].name).one()
        record.found = record.found | {"ood": record.found["ood"] + 0.5}
        assert session.query(Study).where(~Study.phantom).count() == 0
        champion = networks.champion(session)
        assert champion is not None and groups(session, champion.digest, days=1) == []
    second = _run_now()
    assert second.passed is False and set(second.studies.values()).isdisjoint(first.studies.values())
    [words] = _words()
    assert f"{SHOTS[0].name}: strangeness" in words and words.count("instead of") == 1
    assert CliRunner().invoke(app, ["constancy"]).exit_code == 1
    assert CliRunner().invoke(app, ["constancy", "accept", "--because", "a test"]).exit_code == 0
    assert _words() == []
    assert _run_now().passed
    assert CliRunner().invoke(app, ["constancy"]).exit_code == 0


def test_phantoms_that_cannot_be_sent_are_an_alert_once_it_is_too_late(
    database_url: str, hilum_env: SettingsChange
) -> None:
    hilum_env(listener_port=free_port())
    with transaction() as session:
        assert jobs.want_once(session, CONSTANCY, "2026-11-24")
    for begun_ago_s, state in ((0, JobState.WAITING), (3600, JobState.DONE)):
        with transaction() as session:
            session.execute(update(ConstancyRun).values(began_at=from_now(-begun_ago_s)))
            session.execute(update(Job).values(due_at=from_now(0)))
        held = claim(CONSTANCY, "2026-11-24")
        assert held is not None
        _step(held)
        assert job(CONSTANCY, "2026-11-24").state is state
    [words] = _words()
    assert words.startswith("2026-11-24: the phantoms cannot be sent: HILUM at 127.0.0.1")
    with transaction() as session:
        assert "differs, the phantoms cannot be sent" in last_said(session)[0] and last_said(session)[1]
        session.execute(update(ConstancyRun).values(passed=True))
        assert last_said(session)[1] == ""
        session.execute(update(ConstancyRun).values(began_at=from_now(-2 * 86_400)))
        assert "beat" in last_said(session)[1]
        session.execute(update(ConstancyRun).values(passed=False))
    [shown] = json.loads(CliRunner().invoke(app, ["constancy", "--json"]).output)
    assert shown["passed"] is False and shown["sent_at"] is None


def test_phantoms_are_not_sent_where_nobody_would_let_them_in(
    database_url: str, hilum_env: SettingsChange
) -> None:
    hilum_env(senders=[{"ae_title": "ROOM1"}])
    refused = CliRunner().invoke(app, ["constancy", "run"])
    assert refused.exit_code == 1 and f"phantoms are sent as {AE}" in str(refused.exception)


def test_a_day_has_one_run_however_many_clocks_ask(
    database_url: str, hilum_env: SettingsChange, valkey: Broker
) -> None:
    hilum_env(broker_url=valkey.url, constancy_hour=0)
    for _ in range(2):
        daily.begin_the_day()
    with transaction() as session:
        wanted = {(each.kind, each.subject) for each in session.query(Job)}
        today = daily.day_of(datetime.now(), 0)
        assert len(wanted) == 2 and (CONSTANCY, today) in wanted
        session.query(Job).update({"state": JobState.DONE})
        assert jobs.want_once(session, CONSTANCY, "2999-01-01")
        assert not jobs.want_once(session, CONSTANCY, "2999-01-01")
        kinds = [each.kind for each in session.query(Job).order_by(Job.kind)]
        assert kinds == [CONSTANCY, DRIFT], "what is over of former days is forgotten"


def test_phantoms_call_as_their_senders_rule_says(hilum_env: SettingsChange, tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("tls_certificate", "tls_key", "tls_ca")}
    for rule, port in (({}, 4001), ({"tls": True, "called_ae_title": "SECURED"}, 4002)):
        ours = hilum_env(
            listener_port=4001,
            listener_tls_port=4002,
            constancy_host="listener",
            senders=[{"ae_title": AE, **rule}],
            **files,
        )
        peer = _listener(ours)
        assert (peer.host, peer.port, peer.calling_ae_title) == ("listener", port, AE)
        assert (peer.secured is not None, peer.called_ae_title == "SECURED") == (bool(rule), bool(rule))


@pytest.mark.parametrize(
    ("clock", "day"),
    [
        ("2026-11-24 05:59", "2026-11-23"),
        ("2026-11-24 06:00", "2026-11-24"),
        ("2026-11-25 00:10", "2026-11-24"),
    ],
)
def test_a_day_begins_at_its_hour(clock: str, day: str) -> None:
    assert daily.day_of(datetime.fromisoformat(clock), 6) == day


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, []),
        ({"probabilities": {"Normal": 0.705, "Pneumonia": 0.295}, "ood": 0.41}, []),
        ({"label": "Other"}, ["label 'Other' instead of 'Normal'"]),
        (
            {"probabilities": {"Normal": 0.68, "Pneumonia": 0.3}},
            ["probability of Normal 0.680 instead of 0.700"],
        ),
        ({"ood": float("nan")}, ["strangeness nan instead of 0.400"]),
        ({"heat": []}, ["another heat map"]),
        ({"heat": [[0.0, 0.9], [0.5, 0.5]]}, ["another heat map"]),
    ],
)
def test_what_differs_by_more_than_the_tolerance_is_named(
    changes: dict[str, object], words: list[str]
) -> None:
    assert list(differences(FOUND, FOUND | changes, SAME)) == words


def test_old_phantoms_go(database_url: str) -> None:
    with transaction() as session:
        for age_days, study_uid in ((1, "1.2.1"), (9, "1.2.9")):
            session.add(
                Study(
                    study_uid=study_uid,
                    sender_ae=AE,
                    phantom=True,
                    state=StudyState.DELIVERED,
                    last_received_at=from_now(-age_days * 86_400),
                )
            )
            constancy.begin(session, f"{age_days} ago", {SHOTS[0].name: study_uid})
            constancy.end(session, f"{age_days} ago", passed=True, words="", found={})
            past = update(ConstancyRun).where(ConstancyRun.slot == f"{age_days} ago")
            session.execute(past.values(began_at=from_now(-age_days * 86_400)))
    assert remove_some() and not remove_some()
    with transaction() as session:
        assert studies.states(session, ["1.2.1", "1.2.9"]) == {"1.2.1": StudyState.DELIVERED}
        assert retention.forgotten(session, "1.2.9") is not None
        assert {each.slot: len(each.studies) for each in constancy.latest(session)} == {
            "1 ago": 1,
            "9 ago": 0,
        }
