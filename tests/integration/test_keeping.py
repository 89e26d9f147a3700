"""The commands about what is kept, and what `status` and `doctor` say of the disk."""

import json
import shutil
from pathlib import Path

import pytest
from sqlalchemy import select, update

from console import doctor
from console.disk import Disk, disk
from db import retention
from db.clock import from_now
from db.schema import upgrade
from db.session import transaction
from db.tables import Audit, Job, JobState, Study, StudyState
from hilum.settings import settings
from hilum.store import INSTANCES, Store
from tests.conftest import SettingsChange
from tests.peers.studies import RECEIVED, receive
from tests.unit.test_cli import run
from worker.retention import remove_some

STUDY = RECEIVED.study_uid
MB = 1_000_000


@pytest.fixture
def site(hilum_env: SettingsChange) -> Path:
    """A Hilum that has received an image and is done with it; the image's file."""
    upgrade(settings().database)
    path = Store(settings().store).write(b"pixels", INSTANCES, "1")
    receive(path=path, accession_number="A1")
    with transaction() as session:
        session.execute(update(Job).values(state=JobState.DONE))
        session.execute(update(Study).values(state=StudyState.NOT_READ))
    return Store(settings().store).path(path)


def actions() -> list[tuple[str, str]]:
    with transaction() as session:
        return [(each.action, each.detail) for each in session.scalars(select(Audit))]


def test_a_study_is_put_on_hold_shown_so_and_released(site: Path) -> None:
    assert run("hold", "A1", "--reason", "court order 12/26")[0] == 0
    assert "on legal hold: court order 12/26" in run("show", "A1")[1]
    assert "court order 12/26" in run("studies", "--held")[1]
    assert "held" in run("studies")[1]
    assert "released" in run("release", "A1")[1]
    assert "was not on hold" in run("release", "A1")[1]
    assert run("studies", "--held")[1].strip() == "no studies"
    assert actions() == [("hold", "court order 12/26"), ("show", ""), ("release", "")]


def test_flagged_objects_go_when_a_person_has_looked_at_them_and_no_hold_keeps_them(site: Path) -> None:
    aside = Store(settings().store).write(b"other pixels", INSTANCES, "2")
    receive(path=aside, pixel_digest="b" * 64)
    run("hold", "A1", "--reason", "court order 12/26")
    assert "let go of 0 objects" in run("settle", "A1", "--reason", "the first is right")[1]
    run("release", "A1")
    assert "let go of 1 object of" in run("settle", "A1", "--reason", "the first is right")[1]
    while remove_some():
        pass
    assert not Store(settings().store).path(aside).exists() and site.exists()
    assert run("studies", "--flagged")[1].strip() == "no studies"
    assert actions()[-1] == ("settle", "the first is right")


def test_what_was_removed_is_told(site: Path) -> None:
    rule = retention.Rule(-1, keep_labelled=True)
    with transaction() as session:
        assert retention.remove_files(session, STUDY, rule)
    assert "its files were removed on" in run("show", "A1")[1]
    assert "files removed" in run("studies")[1]
    assert "its files are gone" in run("hold", "A1", "--reason", "late")[1]
    run("release", "A1")
    with transaction() as session:
        assert retention.remove_rows(session, STUDY, rule)
    with pytest.raises(Exception, match="because of its age"):
        run("show", STUDY)


def test_a_backup_is_made_verified_and_restored_by_commands(
    site: Path, tmp_path: Path, hilum_env: SettingsChange
) -> None:
    folder = str(tmp_path / "backup")
    other = Store(settings().store).write(b"other pixels", INSTANCES, "2")
    receive(uid="1.4.2", path=other, study_uid="1.2.2", series_uid="1.3.2")
    code, said = run("backup", folder, "--keep", "3")
    assert code == 0 and "2 files (" in said
    assert "s ago, 2 files, in" in " ".join(run("status")[1].split())
    assert run("backup", folder, "--verify") == (0, "the backup is whole\n")
    site.unlink()
    lost = str(site.relative_to(settings().store))
    code, said = run("backup", folder, "--keep", "1")
    assert code == 1 and lost in said
    _, lacking = sorted(Path(folder, "points").iterdir())
    code, said = run("backup", folder, "--verify")
    assert code == 1 and lost in said
    hilum_env(data_dir=tmp_path / "other", database_url="")
    assert lost in run("restore", str(lacking))[1].replace("\n", "")
    shutil.rmtree(lacking)
    ours = hilum_env(data_dir=tmp_path / "elsewhere", database_url="")
    code, said = run("restore", folder)
    assert code == 0 and "start, and run `hilum doctor`" in " ".join(said.split())
    assert (ours.store / site.relative_to(site.parents[3])).read_bytes() == b"pixels"
    [file] = [
        each for each in Path(folder, "files").rglob("*") if each.is_file() and each.stat().st_size == 6
    ]
    file.write_bytes(b"pixelz")
    code, said = run("backup", folder, "--verify")
    assert code == 1 and file.name in said.replace("\n", "")


def test_status_tells_how_full_the_disk_is(site: Path) -> None:
    told = json.loads(run("status", "--json")[1])
    free_mb = shutil.disk_usage(settings().store).free / MB
    assert abs(told["disk"]["free_mb"] - free_mb) < 1000
    assert told["disk"]["senders_kept_out_below_mb"] == 2 * settings().keep_free_mb
    assert told["disk"]["added_last_day_mb"] == 4, "the image and what is made of it"
    assert told["disk"]["days_left"] > 0
    assert told["backup"] is None


def test_what_arrived_before_yesterday_does_not_count(site: Path) -> None:
    with transaction() as session:
        assert disk(session, settings()).added_mb > 0
        session.execute(update(Study).values(last_received_at=from_now(-90_000)))
        assert disk(session, settings()).added_mb == 0
        assert disk(session, settings()).days_left is None


def test_the_days_until_senders_are_kept_out_are_a_straight_line() -> None:
    assert Disk(Path(), 1000, 600, 100, 50).days_left == 10
    assert Disk(Path(), 1000, 50, 100, 50).days_left == 0
    assert "senders are kept out" in Disk(Path(), 1000, 50, 100, 50).words()
    assert "in 10 days" in Disk(Path(), 1000, 600, 100, 50).words()


def test_a_disk_that_is_soon_full_is_for_the_doctor(site: Path, hilum_env: SettingsChange) -> None:
    def found() -> str:
        return doctor._store(settings()).remedy

    assert found() == ""
    free_mb = shutil.disk_usage(settings().store).free // MB
    hilum_env(refuse_below_mb=free_mb - 30)
    assert "add a disk" in found()
    hilum_env(refuse_below_mb=free_mb + 1000)
    assert "senders are kept out now" in found()
