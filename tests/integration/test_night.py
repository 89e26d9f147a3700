"""The night: when a training begins, what keeps it from beginning, and what it freezes."""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, update

from db import snapshots, training_runs, verdicts
from db.clock import from_now
from db.session import transaction
from db.tables import (
    Alert,
    Finding,
    Instance,
    Job,
    JobState,
    NetworkVersion,
    Part,
    RunState,
    Snapshot,
    Study,
    TrainingRun,
)
from hilum.network import LABELS
from hilum.pseudonyms import Pseudonyms
from hilum.queue import NIGHT, TRAIN, queue_of
from hilum.settings import Settings, settings
from hilum.store import Store
from tests.conftest import SettingsChange
from tests.integration.test_verdicts import add_image
from tests.peers.broker import Broker
from tests.peers.helpers import free_port
from tests.peers.studies import claim, job
from training import night, snapshot, tasks
from training.snapshot import WrongSnapshot
from worker.sweep import sweep

SHARES = (0.7, 0.15, 0.15)
KEY = Pseudonyms(b"k" * 32)
AUTHORS = ("Dr. R", "Dr. S")


@pytest.fixture
def site(database_url: str, valkey: Broker, hilum_env: SettingsChange) -> Settings:
    """A place where a training begins with four verdicts, at three in the morning."""
    return hilum_env(broker_url=valkey.url, training_hour=3, training_least_verdicts=4)


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Europe/Berlin")
        time.tzset()
        yield
    time.tzset()


def say(count: int, label: str = "Other", *, first: int = 0, authors: Sequence[str] = AUTHORS) -> list[str]:
    """New patients with an image each, on which people spoke in turn; the SOP Instance UIDs."""
    uids = []
    with transaction() as session:
        for number in range(first, first + count):
            study_uid = f"1.2.{LABELS.index(label)}.{number}"
            uid = add_image(session, study_uid, pixel_hash=f"{study_uid:0>64}")
            session.get_one(Study, study_uid).patient_id = f"P{study_uid}"
            verdicts.add(session, uid, label, authors[number % len(authors)], "csv")
            uids.append(uid)
    return uids


def at(text: str) -> datetime:
    """A moment by the clock on the wall."""
    return datetime.fromisoformat(text).astimezone()


def begin(moment: datetime) -> int | None:
    with transaction() as session:
        return night.begin(session, moment, settings())


def freeze() -> Snapshot:
    with transaction() as session:
        return snapshot.freeze(session, Store(settings().store), KEY, SHARES)


def runs() -> list[TrainingRun]:
    with transaction() as session:
        return training_runs.latest(session, 100)


def learn_from(frozen: Snapshot, run_id: int) -> None:
    """Have a run come to its end with this snapshot."""
    with transaction() as session:
        training_runs.settle(session, run_id, snapshot_digest=frozen.digest, recipe={})
        training_runs.succeed(session, run_id, artefact="", manifest={})


def test_a_training_begins_once_a_night_when_enough_is_new(site: Settings) -> None:
    assert begin(at("2026-11-24 03:05")) is None
    say(4)
    assert begin(at("2026-11-24 02:55")) is None
    assert begin(at("2026-11-24 05:05")) is None
    run_id = begin(at("2026-11-24 03:05"))
    assert run_id is not None
    assert job(TRAIN, str(run_id)).state == JobState.WAITING
    learn_from(freeze(), run_id)
    say(4, "Normal")
    assert begin(at("2026-11-24 03:10")) is None
    assert begin(at("2026-11-25 03:10")) is not None
    assert [run.slot for run in runs()] == ["2026-11-25", "2026-11-24"]


def test_what_was_learnt_is_no_longer_new_but_what_a_failed_training_saw_is(site: Settings) -> None:
    say(4)
    first = begin(at("2026-11-24 03:05"))
    assert first is not None
    with transaction() as session:
        frozen = snapshot.freeze(session, Store(settings().store), KEY, SHARES)
        training_runs.settle(session, first, snapshot_digest=frozen.digest, recipe={})
        assert night.new_verdicts(session) == 0
        training_runs.fail(session, first, error="no room")
        assert night.new_verdicts(session) == 4
    second = begin(at("2026-11-25 03:05"))
    assert second is not None
    learn_from(freeze(), second)
    say(3, "Normal")
    assert begin(at("2026-11-26 03:05")) is None


def test_no_training_begins_while_another_goes_on(site: Settings) -> None:
    say(4)
    with transaction() as session:
        assert night.begin_by_hand(session, settings()) is not None
        assert night.begin_by_hand(session, settings()) is None
    assert begin(at("2026-11-24 03:05")) is None


def test_with_no_least_number_none_begins_by_itself(site: Settings, hilum_env: SettingsChange) -> None:
    say(4)
    hilum_env(training_least_verdicts=0)
    assert begin(at("2026-11-24 03:05")) is None


def test_of_many_looks_at_once_one_begins_the_training(site: Settings) -> None:
    say(4)
    moment = at("2026-11-24 03:05")
    with ThreadPoolExecutor(8) as threads:
        begun = [run_id for run_id in threads.map(begin, [moment] * 16) if run_id is not None]
    assert len(begun) == len(runs()) == 1


@pytest.mark.usefixtures("berlin")
@pytest.mark.parametrize(
    ("hour", "moments"),
    [
        (2, ["2026-10-25T00:05+00:00", "2026-10-25T01:05+00:00"]),  # 02:05 twice: the clock is set back
        (2, ["2026-03-29T01:05+00:00", "2026-03-29T02:05+00:00"]),  # 02:05 never: it is set forward
        (3, ["2026-11-24T02:05+00:00", "2026-11-23T02:05+00:00", "2026-11-24T02:05+00:00"]),  # a day off
    ],
    ids=["autumn", "spring", "set by a day"],
)
def test_no_clock_makes_a_night_have_two_trainings(
    site: Settings, hilum_env: SettingsChange, hour: int, moments: list[str]
) -> None:
    hilum_env(training_hour=hour)
    say(4)
    for each in moments:
        run_id = begin(datetime.fromisoformat(each))
        if run_id is not None:
            with transaction() as session:
                training_runs.fail(session, run_id, error="whatever")
    assert len(runs()) == len({each[:10] for each in moments})


@pytest.mark.usefixtures("berlin")
@pytest.mark.parametrize(
    ("moment", "slot", "following"),
    [
        ("2026-11-24T02:05+00:00", "2026-11-24", "2026-11-25T02:00+00:00"),
        ("2026-11-24T01:55+00:00", "2026-11-23", "2026-11-24T02:00+00:00"),
        ("2026-03-28T12:00+00:00", "2026-03-28", "2026-03-29T01:00+00:00"),
    ],
)
def test_a_night_goes_by_the_clock_on_the_wall(
    site: Settings, moment: str, slot: str, following: str
) -> None:
    here = datetime.fromisoformat(moment)
    assert night.night_of(here, site).slot == slot
    assert night.next_night(here, site).begins == datetime.fromisoformat(following)


def test_two_snapshots_of_the_same_verdicts_are_equal(site: Settings) -> None:
    for label in LABELS:
        say(7, label)
    first, second = freeze(), freeze()
    assert (first.digest, first.path) == (second.digest, second.path)
    assert first.counts["test"]["Normal"] == {"MODALITY": 1}
    assert sum(each["MODALITY"] for part in first.counts.values() for each in part.values()) == 28
    listed = snapshot.rows(Store(settings().store), first)
    assert len(listed) == 28
    assert {row.part for row in listed} == {"train", "validation", "test"}


def test_a_snapshot_names_nobody(site: Settings) -> None:
    uids = say(6)
    content = Store(settings().store).path(freeze().path).read_text()
    assert not any(uid in content for uid in uids)
    assert "P1.2" not in content
    assert "MODALITY" not in content


def test_who_is_tested_on_stays_so_whatever_comes_after(site: Settings) -> None:
    say(8)
    freeze()
    with transaction() as session:
        before = snapshots.parts(session)
    for first in (8, 16, 24):
        say(8, first=first)
        freeze()
    with transaction() as session:
        after = snapshots.parts(session)
    assert len(after) == 32
    assert {patient: after[patient] for patient in before} == before
    assert list(after.values()).count(Part.TEST) == 5


def test_patients_who_share_an_image_come_into_one_part(site: Settings) -> None:
    uids = say(12)
    with transaction() as session:
        session.execute(update(Instance).where(Instance.uid.in_(uids[:6])).values(pixel_hash="a" * 64))
    listed = snapshot.rows(Store(settings().store), freeze())
    assert len({row.part for row in listed if row.instance in map(KEY.uid, uids[:6])}) == 1


def test_what_is_left_out_is_listed_with_its_reason(site: Settings) -> None:
    agreed, disputed, shared = say(3)
    with transaction() as session:
        verdicts.add(session, disputed, "Normal", "Dr. T", "csv")
        patients = [
            snapshot.patient_of(session.get_one(Study, session.get_one(Instance, uid).study_uid))
            for uid in (agreed, shared)
        ]
        snapshots.settle(session, dict(zip(patients, (Part.TEST, Part.TRAIN), strict=True)))
        session.execute(update(Instance).where(Instance.uid == shared).values(pixel_hash="b" * 64))
        session.execute(update(Instance).where(Instance.uid == agreed).values(pixel_hash="b" * 64))
    frozen = freeze()
    assert frozen.left_out == {"readers disagree": [disputed], snapshot.IN_ANOTHER_PART: [shared]}
    assert frozen.counts["train"] == {}


def test_a_list_that_was_altered_is_refused(site: Settings) -> None:
    say(4)
    frozen, store = freeze(), Store(settings().store)
    store.path(frozen.path).write_bytes(store.path(frozen.path).read_bytes().replace(b"train", b"test"))
    with pytest.raises(WrongSnapshot, match="is gone or was altered"):
        snapshot.rows(store, frozen)


def test_what_was_removed_since_is_no_longer_listed_and_another_key_knows_nobody(
    site: Settings, tmp_path: Path
) -> None:
    uids, frozen, store = say(6), freeze(), Store(settings().store)
    with transaction() as session:
        session.execute(update(Instance).where(Instance.uid == uids[0]).values(removed_at=from_now(0)))
    with transaction() as session:
        snapshot.list_files(session, store, KEY, frozen, tmp_path / "images.csv")
        with pytest.raises(WrongSnapshot, match="in data_dir the one that it was made with"):
            snapshot.list_files(session, store, Pseudonyms(b"x" * 32), frozen, tmp_path / "none.csv")
    parts = snapshot.parts_of(tmp_path / "images.csv")
    assert parts is not None
    assert len(parts) == 5
    assert {*parts.tolist()} <= {part.value for part in Part}


def test_two_snapshots_at_once_give_each_patient_one_part(site: Settings) -> None:
    say(20)
    with ThreadPoolExecutor(4) as threads:
        made = [each.result() for each in [threads.submit(freeze) for _ in range(8)]]
    assert len({each.digest for each in made}) == 1


def objections() -> list[str]:
    with transaction() as session:
        return night.objections(session, settings())


def find(uid: str, label: str, probability: float, *, shadow: bool = False) -> None:
    with transaction() as session:
        if session.get(NetworkVersion, "d" * 64) is None:
            session.add(NetworkVersion(digest="d" * 64, version="1", manifest={}))
            session.flush()
        session.add(
            Finding(
                uid=uid,
                pixel_hash="c" * 64,
                network_digest="d" * 64,
                preprocessing=f"of {shadow}",
                label=label,
                probabilities={label: probability},
                ood=0.5,
                heat={},
                shadow=shadow,
            )
        )


def test_verdicts_of_mostly_one_person_are_not_learnt_from(site: Settings) -> None:
    say(5, authors=["Dr. R"])
    assert objections() == [
        "Dr. R gave 5 of 5 new verdicts, more than 80%: have another person look at some of them, or raise "
        "training_largest_author_share"
    ]
    say(5, "Normal", authors=["Dr. S"])
    assert objections() == []


def test_verdicts_that_mostly_contradict_sure_findings_are_not_learnt_from(site: Settings) -> None:
    uids = say(10)
    for uid in uids[:3]:
        find(uid, "Normal", 0.95)
    find(uids[3], "Normal", 0.6)
    find(uids[4], "Other", 0.99)
    find(uids[5], "Normal", 0.99, shadow=True)
    assert objections() == []
    find(uids[6], "Normal", 0.9)
    assert objections()[0].startswith("4 of 10 new verdicts contradict a finding of 90% or more")


def test_a_training_that_may_not_begin_says_why_in_its_row_and_by_an_alert(
    site: Settings, hilum_env: SettingsChange
) -> None:
    hilum_env(training_recipe="phantoms")
    say(5, authors=["Dr. R"])
    run_id = begin(at("2026-11-24 03:05"))
    tasks.train(str(run_id))
    [run] = runs()
    assert (run.state, run.snapshot_digest) == (RunState.FAILED, None)
    assert str(run.error).startswith("not begun: Dr. R gave 5 of 5 new verdicts")
    assert job(TRAIN, str(run_id)).state == JobState.FAILED
    with transaction() as session:
        [alert] = session.scalars(select(Alert))
    assert (alert.kind, alert.ended_at) == ("training", None)
    assert str(run.error) in alert.words


def test_without_images_of_a_class_no_training_begins(site: Settings, hilum_env: SettingsChange) -> None:
    hilum_env(training_recipe="hilum")
    say(6)
    run_id = begin(at("2026-11-24 03:05"))
    tasks.train(str(run_id))
    assert "no image of COVID-19 is for train" in str(runs()[0].error)


def test_a_training_whose_worker_died_is_rung_again_and_fails_after_three_deaths(
    site: Settings, valkey: Broker
) -> None:
    say(4)
    run_id = begin(at("2026-11-24 03:05"))
    for death in range(1, 4):
        assert claim(TRAIN, str(run_id)) is not None
        with transaction() as session:
            session.execute(update(Job).values(lease_until=from_now(-1)))
        valkey.empty()
        sweep()
        assert len(valkey.messages("training")) == (death < 3)
    [run] = runs()
    assert (run.state, run.error) == (RunState.FAILED, "the worker died 3 times while at it")
    with transaction() as session:
        [alert] = session.scalars(select(Alert))
    assert alert.words == f"training {run_id}: the worker died 3 times while at it"


def test_a_run_that_failed_can_go_on(site: Settings) -> None:
    say(4)
    run_id = begin(at("2026-11-24 03:05"))
    assert run_id is not None
    with transaction() as session:
        assert not night.go_on(session, run_id)
        training_runs.fail(session, run_id, error="no room")
        assert night.go_on(session, run_id)
    assert (runs()[0].state, runs()[0].error) == (RunState.WAITING, None)
    assert job(TRAIN, str(run_id)).state == JobState.WAITING


def test_where_nobody_trains_one_message_waits_and_no_more(site: Settings, valkey: Broker) -> None:
    from hilum.queue import app

    every = app.conf.beat_schedule["night"]["schedule"]
    long_ago = datetime.now(UTC) - timedelta(days=1)
    assert every.is_due(long_ago)[0]
    app.send_task(NIGHT, queue=queue_of(NIGHT))
    assert not every.is_due(long_ago)[0]
    assert every.is_due(long_ago)[1] > 0


def test_while_the_broker_is_away_nothing_is_sent(site: Settings, hilum_env: SettingsChange) -> None:
    from hilum.queue import app

    hilum_env(broker_url=f"redis://127.0.0.1:{free_port()}/0")
    assert not app.conf.beat_schedule["night"]["schedule"].is_due(datetime.now(UTC) - timedelta(days=1))[0]
