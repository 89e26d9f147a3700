"""The `hilum` command: what it says, and its exit status."""

import getpass
import json
import sqlite3
import subprocess
import sys
import tomllib
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import select
from typer.testing import CliRunner

from console import cli, overview
from console.cli import machine, terminal
from console.configuration import commented
from db import jobs, studies
from db.schema import upgrade
from db.session import transaction
from db.tables import Audit, JobState, Variant
from hilum.errors import SettingsError
from hilum.queue import CLASSIFY, COMMIT, PREPARE
from hilum.settings import Settings
from tests.conftest import ROOT, SettingsChange
from tests.peers.broker import Broker


def run(*arguments: str) -> tuple[int, str]:
    """Exit status and output of a command in this process; errors meant for `main` come out as they are."""
    result = CliRunner().invoke(cli.app, list(arguments))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def a_study(accession: str = "A1", study_uid: str = "1.2.3", patient_id: str = "P1") -> str:
    """A study that waits to be prepared."""
    received = studies.Received(
        uid=f"{study_uid}.1",
        study_uid=study_uid,
        series_uid=f"{study_uid}.2",
        sop_class_uid="1.2.840.10008.5.1.4.1.1.1.1",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        sender_ae="ROOM1",
        path="nowhere.dcm",
        size_bytes=1,
        pixel_digest="",
        patient_id=patient_id,
        accession_number=accession,
    )
    with transaction() as session:
        studies.record(session, received, settle_s=0)
    return study_uid


def states(study_uid: str) -> dict[str, JobState]:
    with transaction() as session:
        return {job.kind: job.state for job in jobs.of_study(session, study_uid)}


def fail_preparation(study_uid: str) -> None:
    with transaction() as session:
        claim = jobs.claim(session, PREPARE, study_uid, lease_s=30)
        assert claim is not None
        jobs.give_up(session, claim, because="no decoder for it")


def test_every_command_teaches_by_example() -> None:
    groups = [group.typer_instance for group in cli.app.registered_groups]
    commands = [command for group in groups if group for command in group.registered_commands]
    assert machine.up in [command.callback for command in commands]
    for command in commands:
        if command.callback is not machine.listener:
            assert "Examples" in (command.epilog or ""), command.callback
    code, text = run("--help")
    assert code == 0
    assert "hilum demo" in text


def test_a_wrong_setting_is_said_in_words_and_ends_with_2() -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "console.cli", "status"],
        env={"HILUM_LISTENER_PORT": "99999", "PATH": ""},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 2
    assert "listener_port" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_database_without_tables_is_said_in_words(hilum_env: SettingsChange) -> None:
    ours = hilum_env()
    answer = subprocess.run(
        [sys.executable, "-m", "console.cli", "studies"],
        env={"HILUM_DATA_DIR": str(ours.data_dir), "PATH": ""},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 1
    assert "hilum doctor" in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize(
    "command",
    [
        ("train", "hilum", "--out", "run"),
        ("evaluate", "--json", "figures.json"),
        ("data", "describe", "--out", "page"),
    ],
)
def test_a_manifest_without_its_folder_is_refused(command: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "labels.csv").touch()
    status, said = run(*command, "--manifest", str(tmp_path / "labels.csv"))
    assert (status, "files below a folder" in said) == (2, True), said


def test_the_file_of_init_holds_every_setting_with_its_default(hilum_env: SettingsChange) -> None:
    text = commented()
    assert all(line.startswith("#") for line in text.splitlines() if line)
    plain, _, tables = text.partition("# senders:")
    values = tomllib.loads(
        "\n".join(line[2:] for line in plain.splitlines() if line.startswith("# ") and " = " in line)
    )
    assert set(values) == set(Settings.model_fields) - {"senders", "destinations"}
    without_default = {name for name, field in Settings.model_fields.items() if field.default is None}
    given = Settings(
        **{name: value for name, value in values.items() if name not in without_default | {"data_dir"}}
    )
    for name in set(values) - without_default - {"data_dir"}:
        assert getattr(given, name) == getattr(hilum_env(), name), name
    assert "[[senders]]" in tables
    assert "[[destinations]]" in tables


def test_the_examples_of_init_are_a_valid_configuration(hilum_env: SettingsChange, tmp_path: Path) -> None:
    tables = "# senders:" + commented().partition("# senders:")[2]
    wanted = (
        line[2:] for line in tables.splitlines() if line.startswith("# ") and (" = " in line or "[[" in line)
    )
    (tmp_path / "hilum.toml").write_text("\n".join(line for line in wanted if not line.startswith("senders")))
    ours = hilum_env()
    assert ours.senders[0].destinations == ("pacs",)
    assert ours.destination("pacs") is not None


def test_init_replaces_nothing_unless_forced(tmp_path: Path) -> None:
    file = tmp_path / "hilum.toml"
    file.write_text("# mine")
    with pytest.raises(SettingsError, match="--force"):
        run("init", str(file))
    assert file.read_text() == "# mine"
    assert run("init", str(file), "--force")[0] == 0
    assert file.read_text() == commented()


def test_init_prints_every_setting_for_a_dash() -> None:
    assert run("init", "-") == (0, commented())


def in_a_process(*arguments: str, cwd: Path = ROOT, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "console.cli", *arguments],
        env={"PATH": "", "PYTHONPATH": str(ROOT), **variables},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("command", [("init", "/dev/null/hilum.toml"), ("up",), ("demo", "--once")])
def test_a_folder_that_cannot_be_written_is_said_in_words(command: tuple[str, ...]) -> None:
    answer = in_a_process(*command, HILUM_DATA_DIR="/dev/null/hilum")
    assert answer.returncode == 1
    assert "/dev/null" in answer.stderr and "Not a directory" in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize(
    "command",
    [
        ("status",),
        ("studies",),
        ("show", "A1"),
        ("replay", "A1"),
        ("cancel", "A1"),
        ("data", "describe", "--out", "page"),
    ],
)
def test_a_command_that_asks_makes_no_site(command: tuple[str, ...], tmp_path: Path) -> None:
    answer = in_a_process(*command, cwd=tmp_path)
    assert answer.returncode == 2
    assert f"there is no Hilum in {tmp_path / 'hilum-data'}" in answer.stderr
    assert "HILUM_CONFIG" in answer.stderr
    assert list(tmp_path.iterdir()) == []


def test_status_says_unknown_of_workers_that_do_not_answer(
    database_url: str, valkey: Broker, hilum_env: SettingsChange
) -> None:
    hilum_env(broker_url=valkey.url)
    a_study()
    code, text = run("status", "--json")
    view = json.loads(text)
    assert code == 0
    assert view["workers"] is None
    assert view["broker"]["prepare"] == 0
    assert view["studies"] == {"received": 1}
    assert view["work"][0] | {"oldest_s": 0} == {
        "kind": PREPARE,
        "state": "waiting",
        "count": 1,
        "oldest_s": 0,
    }
    assert "unknown: none answers" in run("status")[1]


def test_status_tells_what_it_knows_when_the_broker_is_away(database_url: str) -> None:
    a_study()
    assert "the broker does not answer" in run("status")[1]
    assert json.loads(run("status", "--json")[1])["broker"] is None


def test_a_study_is_found_by_accession_number_and_by_patient(database_url: str) -> None:
    study_uid = a_study(accession="A77")
    for text in (study_uid, "A77", "P1"):
        assert study_uid in run("show", text)[1]
    with transaction() as session:
        notes = [(note.action, note.study_uid, note.actor) for note in session.scalars(select(Audit))]
    assert notes == [("show", study_uid, getpass.getuser())] * 3, "who looks at a patient leaves a trace"
    assert "A77" in run("studies")[1]
    assert "A77" not in run("studies", "--state", "delivered")[1]
    with pytest.raises(terminal.NotThere, match="A78"):
        run("show", "A78")


def test_failed_work_is_done_again_and_the_audit_says_who_asked(database_url: str) -> None:
    study_uid = a_study()
    fail_preparation(study_uid)
    assert "no decoder for it" in run("show", study_uid)[1]
    assert PREPARE in run("replay", "A1")[1]
    assert states(study_uid) == {PREPARE: JobState.WAITING}
    with transaction() as session:
        [note] = session.scalars(select(Audit).where(Audit.action != "show"))
    assert (note.actor, note.action, note.study_uid) == (getpass.getuser(), "replay", study_uid)


def test_studies_whose_work_failed_are_listed_with_the_reason(database_url: str) -> None:
    failed, well = a_study("A1", "1.2.3"), a_study("A2", "1.2.4")
    assert run("studies", "--failed")[1] == "no studies\n"
    fail_preparation(failed)
    text = run("studies", "--failed")[1]
    assert failed in text and "no decoder for it" in text
    assert well not in text


def test_studies_with_a_flagged_object_are_listed_with_its_file(database_url: str) -> None:
    flagged, well = a_study("A1", "1.2.3"), a_study("A2", "1.2.4")
    with transaction() as session:
        for number, study_uid in enumerate((flagged, "1.2.9")):
            others = {"pixel_digest": "d", "path": f"aside{number}", "sender_ae": "ROOM2"}
            session.add(Variant(uid=f"{flagged}.1", study_uid=study_uid, **others))
    text = " ".join(run("studies", "--flagged")[1].split())
    words = (flagged, "other pixels", "another study: 1.2.9", "aside0", "aside1", "ROOM2")
    assert all(word in text for word in words), text
    assert f"{well}.1" not in text


def test_a_list_of_two_kinds_is_refused(database_url: str) -> None:
    assert run("studies", "--failed", "--flagged")[0] == 2


def test_all_that_failed_is_done_again_and_the_audit_has_each(database_url: str) -> None:
    uids = [a_study(f"A{number}", f"1.2.{number}") for number in range(3)]
    for study_uid in uids[:2]:
        fail_preparation(study_uid)
    assert run("replay", "--failed")[0] == 0
    assert [states(uid)[PREPARE] for uid in uids] == [JobState.WAITING] * 3
    with transaction() as session:
        assert {note.study_uid for note in session.scalars(select(Audit))} == set(uids[:2])
    assert "nothing has failed" in run("replay", "--failed")[1]


def test_failed_work_of_no_study_is_listed_and_done_again_like_any_other(database_url: str) -> None:
    with transaction() as session:
        jobs.want(session, COMMIT, "7", study_uid=None)
        claim = jobs.claim(session, COMMIT, "7", lease_s=30)
        assert claim is not None
        jobs.give_up(session, claim, because="MODALITY refuses the report")
    text = " ".join(run("studies", "--failed")[1].split())
    assert f"{COMMIT} 7, failed" in text and "MODALITY refuses the report" in text
    assert f"work of no study: to be done again: {COMMIT}" in run("replay", "--failed")[1]
    with transaction() as session:
        assert jobs.due(session, [COMMIT]) == 1


def test_several_studies_are_done_again_at_once(database_url: str) -> None:
    uids = [a_study(f"A{number}", f"1.2.{number}") for number in range(2)]
    for study_uid in uids:
        fail_preparation(study_uid)
    assert run("replay", "A0", uids[1])[0] == 0
    assert [states(uid)[PREPARE] for uid in uids] == [JobState.WAITING] * 2


def test_of_studies_named_wrongly_none_is_done_again(database_url: str) -> None:
    fail_preparation(a_study())
    with pytest.raises(terminal.NotThere, match="A9"):
        run("replay", "A1", "A9")
    assert states("1.2.3")[PREPARE] == JobState.FAILED
    assert run("replay")[0] == 2
    assert run("replay", "A1", "--failed")[0] == 2


def test_cancelled_work_stops_and_the_audit_says_who_asked(database_url: str) -> None:
    study_uid = a_study()
    assert "1 piece of work" in run("cancel", "A1")[1]
    assert states(study_uid) == {PREPARE: JobState.CANCELLED}
    with transaction() as session:
        [note] = session.scalars(select(Audit))
    assert (note.actor, note.action, note.study_uid) == (getpass.getuser(), "cancel", study_uid)


def test_what_names_two_studies_cancels_neither(database_url: str) -> None:
    uids = [a_study(study_uid="1.2.3"), a_study(study_uid="1.2.4")]
    with pytest.raises(terminal.NotThere, match="names 2 studies"):
        run("cancel", "P1")
    assert [states(uid)[PREPARE] for uid in uids] == [JobState.WAITING] * 2


def test_work_is_shown_by_kind_with_its_age(database_url: str) -> None:
    with transaction() as session:
        jobs.want(session, CLASSIFY, "x", study_uid=None, due_in_s=-7200)
    assert "2 h" in run("status")[1]


@pytest.fixture
def lite(hilum_env: SettingsChange) -> Path:
    """A SQLite database with our tables."""
    ours = hilum_env()
    upgrade(ours.database)
    return ours.data_dir / "hilum.sqlite"


def require_no_lock(database: Path) -> None:
    """Raise sqlite3.OperationalError when somebody holds the write lock."""
    with closing(sqlite3.connect(database, timeout=0, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")


def test_nobody_waits_for_the_broker_that_status_asks(
    lite: Path, valkey: Broker, hilum_env: SettingsChange, monkeypatch: pytest.MonkeyPatch
) -> None:
    hilum_env(broker_url=valkey.url)
    asked = []
    ask = overview.ask

    def asks(command: str) -> overview.Replies | None:
        require_no_lock(lite)
        asked.append(command)
        return ask(command)

    monkeypatch.setattr(overview, "ask", asks)
    run("status")
    assert asked == ["active", "active_queues"]


def test_nobody_waits_for_the_reader_of_show(lite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study_uid = a_study()
    shown = []

    def shows(*parts: object) -> None:
        require_no_lock(lite)
        shown.append(parts)

    monkeypatch.setattr(terminal.out, "print", shows)
    run("show", study_uid)
    assert len(shown) == 1


@pytest.mark.parametrize("more", [(), ("--folds", "2")])
def test_where_no_hilum_is_nothing_labelled_here_is_trained_on(
    hilum_env: SettingsChange, tmp_path: Path, more: tuple[str, ...]
) -> None:
    pytest.importorskip("torch")
    hilum_env(data_dir=tmp_path / "none")
    with pytest.raises(SettingsError, match="there is no Hilum in"):
        run("train", "hilum", "--out", str(tmp_path / "out"), *more)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("patient_id", ["X[/b]", "[red]X", "[link=http://a.example]X"])
def test_what_a_stranger_calls_a_patient_is_shown_as_it_is(database_url: str, patient_id: str) -> None:
    study_uid = a_study(patient_id=patient_id)
    assert patient_id in run("studies")[1]
    assert patient_id in run("show", study_uid)[1]


def test_what_a_stranger_calls_a_patient_does_not_steer_the_terminal(database_url: str) -> None:
    study_uid = a_study(patient_id="X\x1b[2J")
    assert "\x1b" not in run("studies")[1] + run("show", study_uid)[1]


def test_an_address_without_a_port_is_refused(tmp_path: Path) -> None:
    code, text = run("send", str(tmp_path), "--to", "pacs")
    assert code == 2
    assert "HOST:PORT" in text
