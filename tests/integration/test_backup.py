"""Backup and restore: to one moment, while everything runs, and nothing else than what was taken."""

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import make_url, select
from typer.testing import CliRunner

from console import backup, cli
from console.backup import BackupError, back_up, damages, keep_newest, restore
from db import audit, backups, jobs, retention, schema
from db.backups import DumpFailed
from db.schema import is_current, upgrade
from db.session import engine, transaction
from db.tables import Audit, Backup, DeliveryState, Instance, Job, Study, StudyState
from dicom_listener.status import SUCCESS
from hilum.errors import SettingsError
from hilum.queue import DELIVER, PREPARE
from hilum.settings import Settings, settings
from hilum.store import INSTANCES, PREPARED, Store
from tests.conftest import SettingsChange
from tests.integration.captures import capture
from tests.integration.conftest import StartListener
from tests.integration.radiographs import radiograph
from tests.peers.helpers import wait_for
from tests.peers.orthanc import Orthanc
from tests.peers.postgres import Postgres
from tests.peers.scu import association, parcel, reply
from tests.peers.studies import RECEIVED, claim, deliverable, job, receive
from worker.deliver import deliver_report, release_associations

Elsewhere = Callable[[], Settings]
LITE = pytest.mark.parametrize("empty_database_url", ["sqlite"], indirect=True)


@pytest.fixture
def elsewhere(
    tmp_path: Path, hilum_env: SettingsChange, request: pytest.FixtureRequest
) -> Iterator[Elsewhere]:
    """Call it to be on another machine, whose store is empty, and its database, which is of the same kind."""
    urls: list[str] = []

    def move() -> Settings:
        if backups.kind(settings().database) == "sqlite":
            return hilum_env(data_dir=tmp_path / "elsewhere", database_url="")
        server: Postgres = request.getfixturevalue("postgres_server")
        urls.append(server.fresh_database())
        return hilum_env(data_dir=tmp_path / "elsewhere", database_url=urls[-1])

    yield move
    for url in urls:
        engine(url).dispose()
        request.getfixturevalue("postgres_server").drop(url)


def a_kept_image(number: int, content: bytes = b"pixels") -> str:
    """An image that is received and lies in the store; its path."""
    path = Store(settings().store).write(content, INSTANCES, str(number))
    receive(study_uid=f"1.2.{number}", series_uid=f"1.3.{number}", uid=f"1.4.{number}", path=path)
    return path


def named() -> dict[str, bool]:
    """Path -> whether the file is there, of every instance."""
    with transaction() as session:
        paths = list(session.scalars(select(Instance.path)))
    return {path: Store(settings().store).path(path).exists() for path in paths}


def files_in(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "files").rglob("*") if path.is_file())


def test_what_is_restored_is_what_was_there(database_url: str, elsewhere: Elsewhere, tmp_path: Path) -> None:
    path = a_kept_image(1)
    store = Store(settings().store)
    folder = store.folder(PREPARED, "1.4.1")
    (store.path(folder) / "input.npy").write_bytes(b"input")
    with transaction() as session:
        image = session.get_one(Instance, "1.4.1")
        image.prepared, image.prepared_path = True, folder
    made = back_up(settings(), tmp_path / "backup")
    assert (made.files, made.copied, made.missing) == (2, 2, [])
    assert damages(tmp_path / "backup") == []
    there = restore(elsewhere(), tmp_path / "backup")
    assert there.files == 2
    assert Store(settings().store).path(path).read_bytes() == b"pixels"
    assert (Store(settings().store).path(folder) / "input.npy").read_bytes() == b"input"
    assert is_current(settings().database)
    with transaction() as session:
        assert session.get_one(Study, "1.2.1").state == StudyState.RECEIVED
        assert [each.action for each in session.scalars(select(Audit))] == ["restore"]


def test_work_that_was_going_on_goes_on_at_once_and_counts_no_death(
    database_url: str, elsewhere: Elsewhere, tmp_path: Path
) -> None:
    a_kept_image(1)
    assert claim(PREPARE, "1.2.1", lease_s=3600) is not None
    back_up(settings(), tmp_path / "backup")
    ours = elsewhere()
    upgrade(ours.database)  # as docker-compose does at each start: tables in which nothing is
    restore(ours, tmp_path / "backup")
    taken = claim(PREPARE, "1.2.1")
    assert taken is not None and taken.deaths == 0


@LITE
def test_restoring_says_where_the_key_of_earlier_exports_belongs(
    database_url: str, elsewhere: Elsewhere, tmp_path: Path
) -> None:
    a_kept_image(1)
    with transaction() as session:
        audit.note(session, actor="ann", action="export", study_uid="1.2.1")
    back_up(settings(), tmp_path / "backup")
    ours = elsewhere()
    said = CliRunner().invoke(cli.app, ["restore", str(tmp_path / "backup")]).output
    last = said.split("`hilum doctor`")[1].replace("\n", "")
    assert last.startswith(f"{ours.data_dir / 'pseudonyms.key'}, the key of earlier exports, is in no backup")


@LITE
def test_only_what_is_new_is_copied(database_url: str, tmp_path: Path) -> None:
    folder = tmp_path / "backup"
    a_kept_image(1)
    assert back_up(settings(), folder).copied == 1
    a_kept_image(2, b"other pixels")
    second = back_up(settings(), folder)
    assert (second.files, second.copied, second.copied_bytes) == (2, 1, len(b"other pixels"))
    assert len(files_in(folder)) == 2
    with transaction() as session:
        last = backups.latest(session)
        assert last is not None and (last.files, last.folder) == (2, str(folder))


@LITE
def test_a_file_that_was_replaced_is_copied_anew(database_url: str, tmp_path: Path) -> None:
    path = a_kept_image(1, b"first")
    back_up(settings(), tmp_path / "backup")
    Store(settings().store).path(path).write_bytes(b"other")
    os.utime(Store(settings().store).path(path), (1, 1))
    assert back_up(settings(), tmp_path / "backup").copied == 1
    assert damages(tmp_path / "backup") == []


@LITE
def test_a_file_that_the_last_backup_lost_is_copied_anew(database_url: str, tmp_path: Path) -> None:
    a_kept_image(1)
    back_up(settings(), tmp_path / "backup")
    files_in(tmp_path / "backup")[0].unlink()
    assert back_up(settings(), tmp_path / "backup").copied == 1
    assert damages(tmp_path / "backup") == []


@LITE
def test_an_older_point_can_be_restored_and_old_ones_go(
    database_url: str, elsewhere: Elsewhere, tmp_path: Path
) -> None:
    folder = tmp_path / "backup"
    a_kept_image(1)
    first = back_up(settings(), folder).point
    with transaction() as session:
        rule = retention.Rule(-1, keep_labelled=True)
        jobs.cancel(session, "1.2.1")
        session.get_one(Study, "1.2.1").state = StudyState.NOT_READ
        session.flush()
        assert retention.remove_files(session, "1.2.1", rule)
    a_kept_image(2, b"other pixels")
    back_up(settings(), folder)
    assert keep_newest(folder, 2) == 0
    restore(elsewhere(), first)
    assert len(named()) == 1 and all(named().values())
    assert keep_newest(folder, 1) == 1
    assert [file.read_bytes() for file in files_in(folder)] == [b"other pixels"]
    assert damages(folder) == []


@pytest.mark.parametrize("harm", ["changed", "gone"])
@LITE
def test_a_damaged_file_is_named_and_nothing_is_restored(
    database_url: str, elsewhere: Elsewhere, tmp_path: Path, harm: str
) -> None:
    path = a_kept_image(1)
    a_kept_image(2, b"other pixels")
    back_up(settings(), tmp_path / "backup")
    [file] = [each for each in files_in(tmp_path / "backup") if each.read_bytes() == b"pixels"]
    file.write_bytes(b"pixelz") if harm == "changed" else file.unlink()
    ours = elsewhere()
    with pytest.raises(BackupError, match=file.name):
        restore(ours, tmp_path / "backup")
    [said] = damages(tmp_path / "backup")
    assert str(file) in said and path in said
    assert [each for each in ours.store.rglob("*") if each.is_file()] == []
    assert backups.is_empty(ours.database)


@LITE
def test_a_file_that_is_found_damaged_is_copied_anew_by_the_next_backup(
    database_url: str, tmp_path: Path
) -> None:
    a_kept_image(1)
    back_up(settings(), tmp_path / "backup")
    [file] = files_in(tmp_path / "backup")
    file.write_bytes(b"pixelz")
    with backup._alone(tmp_path / "backup"):
        assert "another backup" in damages(tmp_path / "backup")[0], "which may be about to name this file"
    assert "copies it anew" in damages(tmp_path / "backup")[0]
    assert back_up(settings(), tmp_path / "backup").copied == 1
    assert damages(tmp_path / "backup") == []
    assert file.read_bytes() == b"pixels"


@pytest.mark.parametrize("name", ["manifest.json", "files.csv", "database.sqlite"])
@LITE
def test_a_damaged_list_or_database_is_named(
    database_url: str, elsewhere: Elsewhere, tmp_path: Path, name: str
) -> None:
    a_kept_image(1)
    point = back_up(settings(), tmp_path / "backup").point
    content = (point / name).read_bytes()
    (point / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(BackupError, match=name):
        restore(elsewhere(), tmp_path / "backup")


@pytest.mark.parametrize("name", ["manifest.json", "files.csv"])
@LITE
def test_a_backup_after_a_damaged_one_says_so_and_goes_by_the_one_before(
    database_url: str, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "backup"
    a_kept_image(1)
    back_up(settings(), folder)
    damaged = back_up(settings(), folder).point / name
    damaged.write_text("path,size")
    made = back_up(settings(), folder)
    assert made.copied == 0 and len(made.damaged) == 1 and str(damaged) in made.damaged[0]
    with pytest.raises(BackupError, match=name):
        keep_newest(folder, 2)
    assert len(list((folder / "points").iterdir())) == 3, "what a damaged list names is not known"
    assert keep_newest(folder, 1) == 2 and damages(folder) == []


@LITE
def test_received_files_that_wait_for_a_person_are_in_it(
    database_url: str, elsewhere: Elsewhere, tmp_path: Path
) -> None:
    a_kept_image(1)
    Store(settings().store).lose(Store(settings().store).write(b"the only copy", INSTANCES, "9"))
    assert back_up(settings(), tmp_path / "backup").files == 2
    assert back_up(settings(), tmp_path / "backup").copied == 0
    restore(elsewhere(), tmp_path / "backup")
    assert Store(settings().store).lost_files() == 1


@LITE
def test_a_backup_goes_into_no_place_that_holds_anything(
    database_url: str, elsewhere: Elsewhere, tmp_path: Path
) -> None:
    a_kept_image(1)
    back_up(settings(), tmp_path / "backup")
    ours = elsewhere()
    with pytest.raises(BackupError, match="holds no backup"):
        restore(ours, tmp_path)
    left = Store(ours.store).write(b"", INSTANCES, "left")
    with pytest.raises(BackupError, match="is not empty"):
        restore(ours, tmp_path / "backup")
    Store(ours.store).path(left).unlink()
    upgrade(ours.database)
    with transaction() as session:
        audit.note(session, actor="ann", action="show")
    with pytest.raises(BackupError, match="database is not empty"):
        restore(ours, tmp_path / "backup")


@LITE
def test_a_backup_of_another_kind_or_of_a_newer_version_is_refused_in_words(
    database_url: str,
    elsewhere: Elsewhere,
    tmp_path: Path,
    hilum_env: SettingsChange,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    back_up(settings(), tmp_path / "backup")
    with monkeypatch.context() as changed:
        changed.setattr(schema, "revision", lambda connection: "9999")
        newer = back_up(settings(), tmp_path / "newer").point
    with pytest.raises(BackupError, match="newer version"):
        restore(elsewhere(), newer)
    ours = hilum_env(database_url="postgresql+psycopg://nobody@127.0.0.1:1/none")
    with pytest.raises(BackupError, match="is a backup of sqlite"):
        restore(ours, tmp_path / "backup")


@LITE
def test_files_that_are_missing_are_told_and_the_rest_is_kept(
    database_url: str, elsewhere: Elsewhere, tmp_path: Path
) -> None:
    path = a_kept_image(1)
    a_kept_image(2, b"other pixels")
    Store(settings().store).path(path).unlink()
    made = back_up(settings(), tmp_path / "backup")
    assert (made.files, made.missing) == (1, [path])
    [said] = damages(tmp_path / "backup")
    assert path in said
    assert restore(elsewhere(), tmp_path / "backup").missing == [path]


@LITE
def test_a_store_that_is_away_is_not_backed_up(database_url: str, tmp_path: Path) -> None:
    a_kept_image(1)
    good = back_up(settings(), tmp_path / "backup").point
    settings().store.rename(tmp_path / "away")
    with pytest.raises(BackupError, match="is its disk mounted"):
        back_up(settings(), tmp_path / "backup")
    assert [point.name for point in (tmp_path / "backup" / "points").glob("*Z")] == [good.name]


@LITE
def test_a_backup_that_lost_its_lease_is_none(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_kept_image(1)
    monkeypatch.setattr(backup, "LEASE_S", -1.0)
    with pytest.raises(BackupError, match="back up again"):
        back_up(settings(), tmp_path / "backup")
    with pytest.raises(BackupError, match="holds no backup"):
        damages(tmp_path / "backup")


@LITE
def test_a_backup_does_not_lie_in_what_it_backs_up(database_url: str) -> None:
    with pytest.raises(BackupError, match="lies in the file store"):
        back_up(settings(), settings().store / "backup")


@LITE
def test_what_a_killed_backup_left_is_removed_by_the_next(database_url: str, tmp_path: Path) -> None:
    left = tmp_path / "backup" / "points" / "2026-01-01T000000.000000Z.part"
    left.mkdir(parents=True)
    a_kept_image(1)
    made = back_up(settings(), tmp_path / "backup")
    assert not left.exists() and made.point.exists()


@LITE
def test_a_backup_is_for_its_owner_alone(database_url: str, tmp_path: Path) -> None:
    a_kept_image(1)
    back_up(settings(), tmp_path / "backup")
    modes = {path.stat().st_mode & 0o077 for path in (tmp_path / "backup").rglob("*")}
    assert modes == {0}


def test_without_postgresqls_programs_it_says_what_to_install(
    postgres: str, hilum_env: SettingsChange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upgrade(postgres)
    hilum_env(database_url=postgres)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(SettingsError, match="pg_dump is not installed"):
        back_up(settings(), tmp_path / "backup")
    with transaction() as session:
        assert session.scalars(select(Backup)).one().lease_until is None, "files may go again"


@pytest.mark.parametrize("empty_database_url", ["postgresql"], indirect=True)
def test_a_restore_that_the_database_refuses_can_be_tried_again(
    database_url: str, elsewhere: Elsewhere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_kept_image(1)
    back_up(settings(), tmp_path / "backup")
    ours = elsewhere()
    with monkeypatch.context() as changed:
        replace_program(changed, tmp_path, "pg_restore", "echo no space left >&2; exit 1")
        with pytest.raises(DumpFailed, match="no space left"):
            restore(ours, tmp_path / "backup")
    assert restore(ours, tmp_path / "backup").files == 1
    assert all(named().values())


def test_a_pg_dump_older_than_its_server_is_said_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "pg_dump: error: aborting because of server version mismatch"
    replace_program(monkeypatch, tmp_path, "pg_dump", f"echo '{said}' >&2; exit 1")
    with pytest.raises(DumpFailed, match=r"postgresql-client\) of the server's version"):
        backups._run("pg_dump", make_url("postgresql://127.0.0.1/hilum"))


def replace_program(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, script: str) -> None:
    """Put a shell script before one of PostgreSQL's programs."""
    program = folder / "programs" / name
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o700)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)


def test_a_dump_may_take_longer_than_other_transactions_may_be_silent(
    postgres: str, hilum_env: SettingsChange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("db.session.LONGEST_SILENCE_S", 1)
    upgrade(postgres)
    hilum_env(database_url=postgres)
    a_kept_image(1)
    replace_program(monkeypatch, tmp_path, "pg_dump", f'sleep 3\nexec {shutil.which("pg_dump")} "$@"')
    made = back_up(settings(), tmp_path / "backup")
    assert (made.files, made.missing) == (1, [])


def test_reports_that_went_out_after_the_backup_go_out_again_as_the_same_objects(
    database_url: str, elsewhere: Elsewhere, orthanc: Orthanc, hilum_env: SettingsChange, tmp_path: Path
) -> None:
    place = {"name": "pacs", "ae_title": orthanc.ae_title, "host": "127.0.0.1", "port": orthanc.port}
    hilum_env(destinations=[place])
    path = Store(settings().store).write(b"pixels", INSTANCES, "1")
    receive(path=path)
    said = capture(1)
    delivery = deliverable(
        said,
        uid="1.2.826.0.1.3680043.10.9.1",
        sop_class_uid="1.2.840.10008.5.1.4.1.1.7",
        series_uid="1.2.826.0.1.3680043.10.9",
        destination="pacs",
        kind=DELIVER,
    )
    back_up(settings(), tmp_path / "backup")
    deliver_report(str(delivery.id))
    before = orthanc.instances(RECEIVED.study_uid)
    restore(elsewhere(), tmp_path / "backup")
    assert job(DELIVER, str(delivery.id)).state == "waiting"
    deliver_report(str(delivery.id))
    release_associations()
    with transaction() as session:
        again = session.get_one(type(delivery), delivery.id)
        assert again.state == DeliveryState.FINAL
        [sent] = again.report.objects
        assert Store(settings().store).path(sent.path).read_bytes() == said
    assert orthanc.instances(RECEIVED.study_uid) == before, "one object, as it was"


class Sender(threading.Thread):
    """Sends one study after another until it is told to stop, and remembers those answered with Success."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.acknowledged: list[str] = []
        self.stopped = threading.Event()
        self._port = port

    def run(self) -> None:
        while not self.stopped.is_set():
            self._send()

    def _send(self) -> None:
        studies = [radiograph() for _ in range(20)]
        with association(self._port, [parcel(studies[0])]) as assoc:
            for ds in studies:
                answer = reply(assoc, parcel(ds)) if assoc.is_established else None
                if answer is None:
                    return
                if answer.Status == SUCCESS:
                    self.acknowledged.append(ds.SOPInstanceUID)


def has_more(sender: Sender, than: int) -> bool:
    return len(sender.acknowledged) > than + 10


def test_every_study_acknowledged_before_a_backup_is_in_it_while_others_arrive(
    database_url: str, start_listener: StartListener, elsewhere: Elsewhere, tmp_path: Path
) -> None:
    listener = start_listener(database_url=database_url, store_dir=settings().store)
    sender = Sender(listener.port)
    sender.start()
    for _ in range(2):
        wait_for(partial(has_more, sender, len(sender.acknowledged)), 60, "studies that arrive")
        before = list(sender.acknowledged)
        made = back_up(settings(), tmp_path / "backup")
    wait_for(partial(has_more, sender, len(before)), 60, "studies that arrive after it")
    listener.kill()
    sender.stopped.set()
    sender.join(30)
    shutil.rmtree(settings().store)
    restore(elsewhere(), tmp_path / "backup")
    with transaction() as session:
        there = {each.uid: each.path for each in session.scalars(select(Instance))}
        waiting = set(session.scalars(select(Job.subject).where(Job.kind == PREPARE)))
        studies = set(session.scalars(select(Study.study_uid)))
    assert set(before) <= there.keys() and made.missing == []
    assert len(there) == made.files and all(named().values())
    assert studies == waiting, "each of them is still to be prepared"
