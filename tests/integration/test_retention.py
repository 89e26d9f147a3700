"""Retention: what is old and over goes; nothing goes that anybody waits for, holds or has sent again."""

import os
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import event, select, text, update
from sqlalchemy.orm import Session

import worker.retention
from db import backups, jobs, reports, retention, studies, verdicts
from db.clock import from_now
from db.reports import Rendered
from db.retention import Rule
from db.session import engine, transaction
from db.studies import Preparation, Recorded
from db.tables import (
    Audit,
    Base,
    DeliveryState,
    Finding,
    Instance,
    Job,
    JobState,
    NetworkVersion,
    ObjectKind,
    Removal,
    Study,
    StudyState,
    Variant,
    Verdict,
)
from hilum.queue import DELIVER, PREPARE
from hilum.settings import Settings, settings
from hilum.store import FOLDERS, INSTANCES, PREPARED, REPORTS, Store
from tests.conftest import SettingsChange
from tests.integration.conftest import StartListener
from tests.integration.examples import STUDY, an_object
from tests.integration.radiographs import radiograph
from tests.peers.helpers import wait_for
from tests.peers.scu import OUT_OF_RESOURCES, SUCCESS, parcel, send
from worker.retention import discard_orphans, remove_some

OLD_S = 40 * 86_400
RULE = Rule(days=30, keep_labelled=True)
LITE = pytest.mark.parametrize("empty_database_url", ["sqlite"], indirect=True)


@pytest.fixture
def kept_for_30_days(database_url: str, hilum_env: SettingsChange) -> Settings:
    return hilum_env(keep_files_days=30)


def a_file(*names: str, kind: str = INSTANCES) -> str:
    return Store(settings().store).write(b"content", kind, *names)


def is_there(path: str) -> bool:
    return Store(settings().store).path(path).exists()


def a_study(study_uid: str = STUDY, *, age_s: float = OLD_S, state: StudyState = StudyState.NOT_READ) -> str:
    """A study with one image, whose work is done; its SOP Instance UID."""
    uid = f"{study_uid}.1.1"
    path = a_file(uid)
    received = an_object(study_uid=study_uid, series_uid=f"{study_uid}.1", uid=uid, path=path)
    with transaction() as session:
        studies.record(session, received, settle_s=0)
        session.execute(update(Job).where(Job.study_uid == study_uid).values(state=JobState.DONE))
        studies.reach(session, study_uid, state)
        make_old(session, study_uid, age_s)
    return uid


def make_old(session: Session, study_uid: str, age_s: float = OLD_S) -> None:
    at = from_now(-age_s)
    session.execute(update(Study).where(Study.study_uid == study_uid).values(last_received_at=at))
    session.execute(update(Instance).where(Instance.study_uid == study_uid).values(received_at=at))


def report_on(study_uid: str, *, destination: str | None = None) -> str:
    """A report of the study, delivered where a destination is named; the path of its object."""
    path = a_file(study_uid, "sr", kind=REPORTS)
    with transaction() as session:
        rendered = Rendered(f"{study_uid}.9", ObjectKind.SR, f"{study_uid}.8", "1.2", path)
        report = reports.add(session, study_uid, revision=1, content_digest="c" * 64, objects=[rendered])
        studies.reach(session, study_uid, StudyState.REPORTED)
        if destination:
            reports.note_final(session, reports.send_to(session, report, destination).id)
    return path


def prepare(uid: str) -> str:
    """What was prepared of an image; its folder."""
    store = Store(settings().store)
    folder = store.folder(PREPARED, uid)
    (store.path(folder) / "input.npy").write_bytes(b"input")
    with transaction() as session:
        studies.save_preparations(session, [Preparation(uid, "PA", folder, "hash")])
    return folder


def remove_all() -> None:
    while remove_some():
        pass


def study(study_uid: str = STUDY) -> Study | None:
    with transaction() as session:
        return session.get(Study, study_uid)


def instance(uid: str) -> Instance:
    with transaction() as session:
        return session.get_one(Instance, uid)


def told() -> list[tuple[str, str, str | None]]:
    with transaction() as session:
        return [(each.actor, each.action, each.study_uid) for each in session.scalars(select(Audit))]


def test_files_of_an_old_study_that_is_over_go_and_its_rows_stay(kept_for_30_days: Settings) -> None:
    uid = a_study()
    rendered, folder = report_on(STUDY, destination="pacs"), prepare(uid)
    path = instance(uid).path
    remove_all()
    assert not is_there(path) and not is_there(rendered) and not is_there(folder)
    assert instance(uid).removed_at is not None
    kept = study()
    assert kept is not None and kept.state == StudyState.DELIVERED and kept.files_removed_at is not None
    assert told() == [("retention", "remove files", STUDY)]
    with transaction() as session:
        assert list(session.scalars(select(Job))) == [], "done work tells nothing any more"


@LITE
def test_by_default_everything_is_kept(database_url: str) -> None:
    uid = a_study()
    remove_all()
    assert is_there(instance(uid).path)


@LITE
def test_what_a_younger_study_has_is_kept(kept_for_30_days: Settings) -> None:
    uid = a_study(age_s=20 * 86_400)
    remove_all()
    assert is_there(instance(uid).path)


@LITE
def test_an_old_study_that_got_an_object_lately_is_kept(kept_for_30_days: Settings) -> None:
    uid = a_study()
    note = an_object(uid="1.2.3.4.77", path=a_file("note"), has_pixels=False)
    with transaction() as session:
        studies.record(session, note, settle_s=0)
    remove_all()
    assert is_there(instance(uid).path) and is_there(note.path)


@LITE
@pytest.mark.parametrize("state", [StudyState.RECEIVED, StudyState.PREPARED, StudyState.READ])
def test_a_study_that_is_not_over_is_kept_whatever_its_age(
    kept_for_30_days: Settings, state: StudyState
) -> None:
    uid = a_study(state=state)
    remove_all()
    assert is_there(instance(uid).path)


@LITE
@pytest.mark.parametrize("state", [JobState.WAITING, JobState.FAILED, JobState.QUARANTINED])
def test_a_study_with_work_that_waits_or_failed_is_kept(kept_for_30_days: Settings, state: JobState) -> None:
    uid = a_study()
    with transaction() as session:
        session.execute(update(Job).where(Job.kind == PREPARE).values(state=state))
    remove_all()
    assert is_there(instance(uid).path)


def test_a_study_whose_report_is_not_final_everywhere_is_kept(kept_for_30_days: Settings) -> None:
    uid = a_study()
    rendered = report_on(STUDY, destination="pacs")
    with transaction() as session:
        newest = reports.latest(session, STUDY)
        assert newest is not None
        second = reports.send_to(session, newest, "second")
        studies.reach(session, STUDY, StudyState.REPORTED)
        second.state = DeliveryState.REFUSED
    remove_all()
    assert is_there(instance(uid).path) and is_there(rendered)


@LITE
def test_where_no_results_are_sent_a_reported_study_is_over(kept_for_30_days: Settings) -> None:
    uid = a_study()
    report_on(STUDY)
    remove_all()
    assert not is_there(instance(uid).path)


def test_a_study_with_a_flagged_object_is_kept(kept_for_30_days: Settings) -> None:
    uid = a_study()
    other = an_object(uid=uid, path=a_file("other"), pixel_digest="f" * 64)
    with transaction() as session:
        assert studies.record(session, other, settle_s=0).kind is Recorded.VARIANT
    remove_all()
    assert is_there(instance(uid).path) and is_there(other.path)


def test_a_labelled_study_is_kept_unless_the_settings_say_otherwise(
    kept_for_30_days: Settings, hilum_env: SettingsChange
) -> None:
    uid = a_study()
    prepare(uid)
    with transaction() as session:
        session.add(Verdict(uid=uid, label="Normal", author="Dr A", source="console"))
    remove_all()
    assert is_there(instance(uid).path)
    hilum_env(keep_labelled=False)
    with transaction() as session:
        assert len(verdicts.labelled_images(session)) == 1
    remove_all()
    assert not is_there(instance(uid).path)
    with transaction() as session:
        assert verdicts.labelled_images(session) == [], "there is nothing to train on any more"


def test_a_study_on_legal_hold_is_kept_until_it_is_released(kept_for_30_days: Settings) -> None:
    uid = a_study()
    with transaction() as session:
        retention.hold(session, STUDY, because="Az. 12/26")
        assert [each.study_uid for each in retention.held(session, most=5)] == [STUDY]
    remove_all()
    assert is_there(instance(uid).path)
    with transaction() as session:
        assert retention.release(session, STUDY)
        assert not retention.release(session, STUDY)
    remove_all()
    assert not is_there(instance(uid).path)


@LITE
def test_a_hold_that_comes_after_the_look_for_old_studies_is_in_time(kept_for_30_days: Settings) -> None:
    uid = a_study()
    with transaction() as session:
        assert retention.with_old_files(session, RULE, most=5) == [STUDY]
    with transaction() as session:
        retention.hold(session, STUDY, because="Az. 12/26")
    with transaction() as session:
        assert not retention.remove_files(session, STUDY, RULE)
    assert instance(uid).removed_at is None


def test_an_image_that_comes_again_after_its_removal_is_kept_anew_and_not_read_anew(
    kept_for_30_days: Settings,
) -> None:
    uid = a_study()
    remove_all()
    again = an_object(uid=uid, path=a_file(uid), pixel_digest=instance(uid).pixel_digest)
    with transaction() as session:
        record = studies.record(session, again, settle_s=0)
    assert record.kind is Recorded.AGAIN and not record.ring
    remove_all()
    assert is_there(again.path) and instance(uid).removed_at is None
    kept = study()
    assert kept is not None and kept.files_removed_at is None and kept.state == StudyState.NOT_READ
    with transaction() as session:
        make_old(session, STUDY)
    remove_all()
    assert not is_there(again.path), "its time begins anew, and ends"


def test_a_flagged_object_that_comes_again_after_it_was_let_go_stays(database_url: str) -> None:
    uid = a_study()
    other = an_object(uid=uid, path=a_file("other"), pixel_digest="f" * 64)
    with transaction() as session:
        studies.record(session, other, settle_s=0)
    with transaction() as session:
        assert retention.let_go_of_flagged(session, STUDY) == 1
    with transaction() as session:
        assert studies.record(session, other, settle_s=0).kind is Recorded.VARIANT
    remove_all()
    assert is_there(other.path)


@LITE
def test_other_pixels_under_a_removed_images_uid_are_known_for_others(kept_for_30_days: Settings) -> None:
    uid = a_study()
    remove_all()
    other = an_object(uid=uid, path=a_file("other"), pixel_digest="f" * 64)
    with transaction() as session:
        assert studies.record(session, other, settle_s=0).kind is Recorded.VARIANT
        assert session.scalars(select(Variant)).one().path == other.path


@pytest.mark.parametrize("setting", ["keep_files_days", "keep_rows_days"])
def test_a_file_that_came_again_before_it_was_removed_stays(
    database_url: str, hilum_env: SettingsChange, setting: str
) -> None:
    hilum_env(**{setting: 30})
    uid = a_study()
    received = an_object(uid=uid, path=instance(uid).path, pixel_digest=instance(uid).pixel_digest)
    remove = {"keep_files_days": retention.remove_files, "keep_rows_days": retention.remove_rows}[setting]
    with transaction() as session:
        assert remove(session, STUDY, RULE)  # and here the process dies: the file is there still
    with transaction() as session:
        studies.record(session, received, settle_s=0)
    remove_all()
    assert is_there(received.path)


def test_what_a_crash_left_of_a_removal_is_removed_by_the_next_run(kept_for_30_days: Settings) -> None:
    uid = a_study()
    with transaction() as session:
        assert retention.remove_files(session, STUDY, RULE)
        assert retention.to_be_removed(session) == 1
    assert is_there(instance(uid).path)
    remove_all()
    assert not is_there(instance(uid).path)
    with transaction() as session:
        assert retention.to_be_removed(session) == 0


@pytest.fixture
def nothing_put_off() -> Iterator[None]:
    yield
    worker.retention._put_off.clear()


@pytest.mark.usefixtures("nothing_put_off")
def test_a_file_that_cannot_be_removed_stays_written_down_and_holds_up_no_other(
    kept_for_30_days: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    store, stuck = Store(settings().store), "instances/is/a-file/below"
    store.path("instances/is").mkdir(parents=True)
    store.path("instances/is/a-file").write_bytes(b"")
    with transaction() as session:
        retention.discard(session, stuck)
    uid = a_study()
    remove_all()
    assert not is_there(instance(uid).path)
    assert f"{stuck} cannot be removed" in caplog.text
    with transaction() as session:
        assert [each.path for each in session.scalars(select(Removal))] == [stuck]
        assert retention.take_removals(session, most=5, but=[stuck]) == []
    store.path("instances/is/a-file").unlink()
    remove_all()
    with transaction() as session:
        assert retention.to_be_removed(session) == 1, "its turn comes in an hour"
    worker.retention._put_off[stuck] = time.monotonic()
    remove_all()
    with transaction() as session:
        assert retention.to_be_removed(session) == 0


@pytest.mark.usefixtures("nothing_put_off")
def test_a_study_that_the_database_does_not_let_go_holds_up_no_other(
    kept_for_30_days: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stuck, other = a_study(age_s=2 * OLD_S), a_study("1.2.3.5")
    forget = retention.remove_files

    def refuse_one(session: Session, study_uid: str, rule: Rule) -> bool:
        if study_uid == STUDY:
            session.execute(text("SELECT nothing FROM nowhere"))
        return forget(session, study_uid, rule)

    monkeypatch.setattr(retention, "remove_files", refuse_one)
    remove_all()
    remove_all()
    assert is_there(instance(stuck).path) and not is_there(instance(other).path)
    assert f"{STUDY} cannot be removed now" in caplog.text


def test_nothing_is_removed_while_a_backup_runs(kept_for_30_days: Settings) -> None:
    uid = a_study()
    with transaction() as session:
        number = backups.begin(session, "/backup", lease_s=60)
    remove_all()
    assert is_there(instance(uid).path)
    with transaction() as session:
        backups.give_up(session, number)
    remove_all()
    assert not is_there(instance(uid).path)


def test_what_was_prepared_goes_first_and_comes_back_with_a_late_image(
    database_url: str, hilum_env: SettingsChange
) -> None:
    hilum_env(keep_prepared_days=30)
    uid = a_study()
    folder = prepare(uid)
    remove_all()
    assert not is_there(folder) and is_there(instance(uid).path)
    assert not instance(uid).prepared and instance(uid).pixel_hash == "hash"
    with transaction() as session:
        assert retention.with_old_prepared(session, RULE, most=5) == []


@LITE
def test_what_is_prepared_anew_before_it_was_removed_stays(database_url: str) -> None:
    uid = a_study()
    folder = prepare(uid)
    with transaction() as session:
        assert retention.remove_prepared(session, STUDY, RULE)
    with transaction() as session:
        retention.spare(session, [folder])
    remove_all()
    assert is_there(folder)


def test_old_rows_go_with_all_that_refers_to_them(database_url: str, hilum_env: SettingsChange) -> None:
    hilum_env(keep_rows_days=30, keep_labelled=False)
    uid, other = a_study(), a_study("1.2.3.5", age_s=0)
    rendered, path = report_on(STUDY, destination="pacs"), instance(uid).path
    prepare(uid)
    with transaction() as session:
        session.add(NetworkVersion(digest="d" * 64, version="v", manifest={}))
        session.add(Verdict(uid=uid, label="Normal", author="Dr A", source="console"))
        session.flush()
        finding = {"label": "Normal", "probabilities": {}, "ood": 0.1, "heat": {"rows": []}}
        key = {"uid": uid, "pixel_hash": "hash", "network_digest": "d" * 64, "preprocessing": "p"}
        session.add(Finding(**key, **finding))
        jobs.want(session, DELIVER, "1", study_uid=STUDY)
        session.execute(update(Job).values(state=JobState.CANCELLED))
    remove_all()
    assert study() is None and study("1.2.3.5") is not None
    assert not is_there(path) and not is_there(rendered) and is_there(instance(other).path)
    assert told() == [("retention", "remove rows", STUDY)]
    with transaction() as session:
        gone = retention.forgotten(session, STUDY)
        assert gone is not None and gone.revision == 1
        assert retention.last_revision(session, "1.2.3.5") == 0


def test_every_table_that_hangs_on_a_study_is_emptied_with_it() -> None:
    emptied = {str(deletion.table) for deletion in retention._deletions(STUDY)}
    dependent = {
        table.name
        for table in Base.metadata.tables.values()
        for key in table.foreign_keys
        if key.column.table.name in emptied and key.ondelete != "CASCADE"
    }
    # a study with a variant is kept
    assert dependent - emptied == {"variants"}


@LITE
def test_a_study_whose_series_another_study_names_is_not_forgotten(
    database_url: str, hilum_env: SettingsChange
) -> None:
    hilum_env(keep_rows_days=30)
    a_study()
    borrowing = an_object(study_uid="1.2.3.5", series_uid=f"{STUDY}.1", path=a_file("b"))
    with transaction() as session:
        studies.record(session, borrowing, settle_s=0)
    remove_all()
    assert study() is not None
    with transaction() as session:
        assert not retention.remove_rows(session, STUDY, RULE), "nor when it was lent after the look for it"


def test_what_is_sent_again_while_it_is_removed_is_there_or_known_to_be_gone(
    database_url: str, hilum_env: SettingsChange, start_listener: StartListener
) -> None:
    hilum_env(keep_files_days=1e-9)
    listener = start_listener(database_url=database_url, store_dir=settings().store)
    parcels = [parcel(radiograph()) for _ in range(4)]
    assert send(listener.port, *parcels) == [SUCCESS] * 4
    with transaction() as session:
        session.execute(update(Job).values(state=JobState.DONE))
        session.execute(update(Study).values(state=StudyState.NOT_READ))
    over = threading.Event()
    remover = threading.Thread(target=_remove_until, args=[over])
    remover.start()
    answers = [send(listener.port, *parcels) for _ in range(8)]
    over.set()
    remover.join(60)
    assert {answer for each in answers for answer in each} <= {SUCCESS, OUT_OF_RESOURCES}
    assert "again" in listener.log, "some came when they were gone"
    while _clear():
        pass
    with transaction() as session:
        kept = {each.path: each.removed_at is None for each in session.scalars(select(Instance))}
    assert {path: is_there(path) for path in kept} == kept


def test_who_sends_again_what_is_being_removed_at_that_moment_keeps_its_copy(
    database_url: str, start_listener: StartListener
) -> None:
    listener = start_listener(database_url=database_url, store_dir=settings().store)
    ds = parcel(radiograph())
    assert send(listener.port, ds) == [SUCCESS]
    with transaction() as session:
        session.execute(update(Job).values(state=JobState.DONE))
        [each] = session.scalars(select(Study))
        each.state = StudyState.NOT_READ
        session.flush()
        assert retention.remove_files(session, each.study_uid, Rule(-1, keep_labelled=True))
    answers: list[int | None] = []
    sender = threading.Thread(target=lambda: answers.extend(send(listener.port, ds)))
    with transaction() as session:
        [removal] = retention.take_removals(session, most=10)
        path = removal.path
        session.delete(removal)
        Store(settings().store).remove(path)
        sender.start()
        wait_for(lambda: is_there(path), what="the file that is sent again")
        Store(settings().store).remove(path)
    sender.join(60)
    assert answers == [OUT_OF_RESOURCES], "no Success for what is not on disk"
    assert instance(ds.uid).removed_at is not None
    assert send(listener.port, ds) == [SUCCESS] and is_there(path)


def _remove_until(over: threading.Event) -> None:
    while not over.is_set():
        remove_some()


def _clear() -> bool:
    """Remove what is forgotten, and forget nothing more."""
    with transaction() as session:
        removals = retention.take_removals(session, most=10)
        for removal in removals:
            Store(settings().store).remove(removal.path)
            session.delete(removal)
    return bool(removals)


def make_file_old(path: str) -> None:
    os.utime(Store(settings().store).path(path), (1, 1))


def look_through_the_store() -> None:
    for turn in range(3 * FOLDERS):
        discard_orphans(turn)


def test_files_that_no_row_names_go_once_they_are_old(database_url: str) -> None:
    uid = a_study()
    other = an_object(uid=uid, path=a_file("variant"), pixel_digest="f" * 64)
    with transaction() as session:
        studies.record(session, other, settle_s=0)
    kept = [instance(uid).path, other.path, report_on(STUDY), prepare(uid)]
    young, store = a_file("young"), Store(settings().store)
    orphans = [a_file("orphan"), a_file("orphan", kind=REPORTS), store.folder(PREPARED, "orphan")]
    for path in [*kept, *orphans]:
        make_file_old(path)
    look_through_the_store()
    remove_all()
    assert [path for path in orphans if is_there(path)] == []
    assert [path for path in [*kept, young] if not is_there(path)] == []
    assert (store.lost / orphans[0]).read_bytes() == b"content", "what was received waits for a person"
    assert store.lost_files() == 1


@LITE
def test_an_orphan_that_is_written_anew_before_it_is_removed_stays(database_url: str) -> None:
    path = a_file("orphan")
    make_file_old(path)
    look_through_the_store()
    with transaction() as session:
        assert retention.to_be_removed(session) == 1
        studies.record(session, an_object(path=path), settle_s=0)
    remove_all()
    assert is_there(path)


@LITE
@pytest.mark.parametrize("kind", [INSTANCES, PREPARED, REPORTS])
def test_a_store_whose_rows_are_not_in_this_database_is_left_alone(
    database_url: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(settings().store)
    paths = [f"{kind}/00/00/{number:036x}" for number in range(20)]
    for path in paths:
        store.path(path).parent.mkdir(parents=True, exist_ok=True)
        store.path(path).write_bytes(b"content")
        make_file_old(path)
    for turn in (0, FOLDERS, 2 * FOLDERS):
        discard_orphans(turn)
    remove_all()
    assert [path for path in paths if not is_there(path)] == []
    assert "do store and database belong together?" in caplog.text


def test_an_orphan_that_was_recorded_before_its_removal_was_written_down_stays(database_url: str) -> None:
    uid = a_study()
    kept = [instance(uid).path, report_on(STUDY), prepare(uid)]
    with transaction() as session:
        for path in kept:
            make_file_old(path)
            retention.discard(session, path)
    remove_all()
    assert [path for path in kept if not is_there(path)] == []
    with transaction() as session:
        assert retention.to_be_removed(session) == 0


@LITE
def test_an_orphan_that_is_written_anew_and_not_yet_recorded_stays(database_url: str) -> None:
    written = [
        a_file("orphan"),
        a_file("orphan", kind=REPORTS),
        Store(settings().store).folder(PREPARED, "x"),
    ]
    with transaction() as session:
        for path in written:
            retention.discard(session, path)
    remove_all()
    assert [path for path in written if not is_there(path)] == []


def test_the_settings_do_not_let_files_outlast_their_rows(hilum_env: SettingsChange) -> None:
    with pytest.raises(Exception, match="keep_rows_days is less than keep_files_days"):
        hilum_env(keep_files_days=30, keep_rows_days=10)


@LITE
@pytest.mark.parametrize(
    ("find", "index"),
    [
        (retention.with_old_files, "ix_studies_with_files"),
        (retention.with_old_prepared, "ix_studies_with_prepared"),
        (retention.with_old_rows, "ix_studies_last_received_at"),
    ],
)
def test_the_look_for_old_studies_goes_by_age_and_passes_over_those_that_are_done(
    database_url: str, find: Callable[..., list[str]], index: str
) -> None:
    asked: list[tuple[str, tuple[object, ...]]] = []
    event.listen(
        engine(database_url), "before_cursor_execute", lambda *said: asked.append((said[2], said[3]))
    )
    with transaction() as session:
        find(session, RULE, most=5)
        statement, values = asked[-1]
        plan = session.connection().exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values).all()
    assert f"USING INDEX {index} " in str(plan[0])
    assert "TEMP B-TREE" not in str(plan)
