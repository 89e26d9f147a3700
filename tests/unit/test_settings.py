"""What an operator may write, what wins, and what a mistake is called."""

import ctypes
import os
import subprocess
import sys
import traceback
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from sqlalchemy import make_url

from hilum.errors import SettingsError
from hilum.settings import Settings, settings
from tests.conftest import SettingsChange

CONFIGURATION = """
settle_s = 4.0
listener_ae_title = "READER"

[[senders]]
ae_title = "CT_ROOM"
destinations = ["archive"]
urgent = true

[[senders]]
ae_title = "WARD"

[[destinations]]
name = "archive"
ae_title = "ARCHIVE"
host = "pacs"
port = 104

[[destinations]]
name = "research"
ae_title = "RESEARCH"
host = "10.0.0.7"
port = 11112
final_when = "c-find"
"""


@pytest.fixture
def toml(hilum_env: SettingsChange) -> Path:
    """A configuration file in the working folder."""
    path = Path("hilum.toml")
    path.write_text(CONFIGURATION)
    settings.cache_clear()
    return path


def refusal() -> str:
    settings.cache_clear()
    with pytest.raises(SettingsError) as caught:
        settings()
    return str(caught.value)


def test_without_a_file_the_defaults_are_in_force(hilum_env: SettingsChange) -> None:
    in_force = hilum_env()
    assert in_force.settle_s == 2.0
    assert in_force.database.startswith("sqlite:///")
    assert in_force.broker == f"redis+socket://{in_force.data_dir}/valkey.sock"
    assert in_force.store == in_force.data_dir / "store"


def test_the_file_is_read_and_the_environment_goes_before_it(
    toml: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HILUM_SETTLE_S", "0.5")
    assert settings().listener_ae_title == "READER"
    assert settings().settle_s == 0.5


def test_a_file_elsewhere_is_named_by_a_variable(
    hilum_env: SettingsChange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere.toml"
    elsewhere.write_text("settle_s = 9")
    monkeypatch.setenv("HILUM_CONFIG", str(elsewhere))
    settings.cache_clear()
    assert settings().settle_s == 9
    monkeypatch.setenv("HILUM_CONFIG", "/not/there.toml")
    assert refusal() == "HILUM_CONFIG: there is no file /not/there.toml"


def test_settings_are_read_once_and_cannot_be_changed(toml: Path) -> None:
    assert settings() is settings()
    with pytest.raises(ValueError, match="frozen"):
        settings().settle_s = 1  # type: ignore[misc]


def test_an_unknown_key_is_refused_by_name(toml: Path) -> None:
    toml.write_text("setle_s = 4.0")
    assert "setle_s" in refusal()


def test_an_unknown_variable_is_refused_by_name(
    hilum_env: SettingsChange, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HILUM_SETLE_S", "4")
    assert refusal().startswith("HILUM_SETLE_S: there is no such setting; did you mean HILUM_SETTLE_S?")
    assert "docs/configuration.md" in refusal()


def test_a_file_that_is_not_toml_is_named(toml: Path) -> None:
    toml.write_text("settle_s: 4")
    assert refusal().startswith("hilum.toml: not TOML:")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("SETTLE_S", "soon", "settle_s: should be a valid number"),
        ("SETTLE_S", "-1", "settle_s: should be greater than or equal to 0 (in HILUM_SETTLE_S)"),
        ("LISTENER_PORT", "70000", "listener_port: should be less than or equal to 65535"),
        ("LISTENER_AE_TITLE", "SEVENTEEN_LETTERS", "listener_ae_title: an AE title has 1 to 16"),
        ("LISTENER_AE_TITLE", "A\\B", "no backslash"),
        ("LISTENER_AE_TITLE", "  ", "1 to 16"),
        ("DEVICE", "tpu", "device: should be 'auto', 'cpu' or 'cuda'"),
        ("SENDERS", '[{"ae_title": "A", "addresses": ["10.0.0"]}]', "sender A: addresses: '10.0.0' does not"),
        ("SENDERS", "PACS", "HILUM_SENDERS: should be a list in JSON, like"),
        ("SENDERS", "5", "senders: should be a valid tuple (in HILUM_SENDERS)"),
        ("SENDERS", "[5]", "sender number 1: should be a valid dictionary"),
        (
            "DATABASE_URL",
            "postgres://x:hunter2@y/z",
            "database_url: should be like postgresql+psycopg://user",
        ),
        ("DATABASE_URL", "nonsense", "database_url: should be like"),
        ("DATABASE_URL", "postgresql+psycopg://h:port/x", "database_url: should be like"),
        ("BROKER_URL", "rediss://broker?ssl_cert_reqs=none", "ssl_cert_reqs should be required"),
        ("BROKER_URL", "amqp://broker", "broker_url: should begin with redis://"),
        ("CONSOLE_URL", "hilum.hospital.example", "console_url: should be like https://"),
        ("CONSOLE_URL", "https://hospital.example/hilum", "console_url: should be like https://"),
        ("CONSOLE_URL", "https://a@hospital.example", "console_url: should be like https://"),
        ("CONSOLE_TLS_KEY", "key.pem", "console_tls_certificate and console_tls_key go together"),
        ("BROKER_URL", "redis://hilum:hunter2/x@host/0", "broker_url: the password must be percent-encoded"),
        ("BROKER_URL", "redis://hilum:1/hunter2@host/0", "broker_url: the password must be percent-encoded"),
        ("BROKER_URL", "redis://hilum:[hunter2@host/0", "broker_url: the password must be percent-encoded"),
        (
            "BROKER_URL",
            "redis://hilum:hunter2\u2100@host",
            "broker_url: the password must be percent-encoded",
        ),
        (
            "DATABASE_URL",
            "postgresql+psycopg://db/hilum?user=u&password=hunter2",
            "database_url: password cannot stand behind the question mark",
        ),
        ("DATABASE_URL", "postgresql://db/hilum?sslpassword=hunter2", "sslpassword cannot stand"),
        ("DATABASE_URL", "postgresql://db/hilum?passfile=/hunter2", "passfile cannot stand"),
    ],
)
def test_a_wrong_value_is_told_in_words(
    name: str, value: str, words: str, hilum_env: SettingsChange, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"HILUM_{name}", value)
    assert words in refusal()
    assert "hunter2" not in refusal()


def test_a_wrong_configuration_shows_no_secret_in_a_traceback(
    hilum_env: SettingsChange, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HILUM_DATABASE_URL", "postgres://x:hunter2@y/z")
    settings.cache_clear()
    with pytest.raises(SettingsError) as caught:
        settings()
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("written", "words"),
    [
        (
            "listener_prot = 104",
            "listener_prot: there is no such setting; did you mean listener_port? (in hilum",
        ),
        ("wholly_other = 1", "wholly_other: there is no such setting (in hilum.toml)"),
        ('listener_ae_title = ""', "listener_ae_title: an AE title has 1 to 16"),
    ],
)
def test_a_wrong_line_is_told_with_its_file(toml: Path, written: str, words: str) -> None:
    toml.write_text(written)
    assert words in refusal()


@pytest.mark.parametrize(
    ("right", "wrong", "words"),
    [
        (
            'final_when = "c-find"',
            'final_when = "soon"',
            "destination research: final_when: should be 'success'",
        ),
        ('final_when = "c-find"', "final = 1", "final: there is no such setting; did you mean final_when?"),
        ('name = "research"', "", "destination number 2: name: must be there (in hilum.toml)"),
        ("urgent = true", "urgent = 7", "sender CT_ROOM: urgent: should be a valid boolean"),
    ],
)
def test_a_wrong_line_of_a_sender_or_destination_is_told_with_its_name(
    toml: Path, right: str, wrong: str, words: str
) -> None:
    toml.write_text(CONFIGURATION.replace(right, wrong))
    assert words in refusal()


def test_folders_of_the_file_are_seen_from_there_wherever_it_is_read(
    hilum_env: SettingsChange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "site").mkdir()
    file = tmp_path / "site" / "hilum.toml"
    file.write_text('store_dir = "kept"')
    monkeypatch.delenv("HILUM_DATA_DIR")
    monkeypatch.setenv("HILUM_CONFIG", str(file.relative_to(tmp_path)))
    monkeypatch.setenv("HILUM_BROKER_URL", "redis://broker")  # its socket may be too deep here
    settings.cache_clear()
    assert settings().data_dir == file.parent / "hilum-data", "the default"
    assert settings().store == file.parent / "kept"
    monkeypatch.setenv("HILUM_DATA_DIR", "here")
    settings.cache_clear()
    assert settings().data_dir.resolve() == tmp_path / "here", "the environment's is seen from here"


def test_a_sender_whose_destination_is_misspelt_is_refused(toml: Path) -> None:
    toml.write_text(CONFIGURATION.replace('destinations = ["archive"]', 'destinations = ["archiv"]'))
    assert "sender CT_ROOM: there is no destination 'archiv'" in refusal()


def test_a_sender_that_the_ledger_asks_needs_an_address(toml: Path) -> None:
    toml.write_text(CONFIGURATION.replace("urgent = true", 'retrieve = "c-move"'))
    assert "sender CT_ROOM: retrieve needs its host" in refusal()


def test_a_destination_of_a_name_too_long_for_the_tables_is_refused(toml: Path) -> None:
    toml.write_text(CONFIGURATION.replace('"archive"', f'"{"a" * 65}"'))
    assert "at most 64 characters" in refusal()


def test_two_destinations_of_one_name_are_refused(toml: Path) -> None:
    toml.write_text(CONFIGURATION.replace('name = "research"', 'name = "archive"'))
    assert "two destinations have the same name" in refusal()


def test_a_folder_too_deep_for_the_brokers_socket_is_refused(
    hilum_env: SettingsChange, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HILUM_DATA_DIR", "/srv/" + "deep/" * 20)
    assert "data_dir: the path is too long" in refusal()
    monkeypatch.setenv("HILUM_BROKER_URL", "redis://broker")
    settings.cache_clear()
    assert settings().broker == "redis://broker"


def test_results_go_where_the_senders_rule_says_and_else_everywhere(toml: Path) -> None:
    def names(ae_title: str) -> list[str]:
        return [place.name for place in settings().destinations_of(ae_title)]

    assert names("CT_ROOM") == ["archive"]
    assert names("WARD") == ["archive", "research"], "it has no rule"
    assert names("STRANGER") == ["archive", "research"]


def test_a_sender_is_found_by_its_padded_ae_title(toml: Path) -> None:
    found = settings().sender("CT_ROOM         ")
    assert found is not None
    assert found.urgent
    assert settings().sender("CT_ROO") is None
    research = settings().destination("research")
    assert research is not None
    assert research.final_when == "c-find"
    assert settings().destination("nowhere") is None


def test_every_setting_says_what_it_is() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_a_password_may_stand_in_a_file_of_its_own(
    hilum_env: SettingsChange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "password"
    file.write_text("s/e:c@ret%\n")
    ours = hilum_env(
        database_url="postgresql+psycopg://hilum@db/hilum?sslmode=verify-full",
        database_password_file=file,
        broker_url="rediss://hilum@broker:6380/0?ssl_ca_certs=/ca.pem",
        broker_password_file=file,
    )
    assert make_url(ours.database).password == "s/e:c@ret%"
    assert ours.database.endswith("/hilum?sslmode=verify-full")
    broker = urlsplit(ours.broker)
    assert (broker.username, unquote(broker.password or ""), broker.port) == ("hilum", "s/e:c@ret%", 6380)
    assert broker.query == "ssl_ca_certs=/ca.pem&ssl_cert_reqs=required"
    assert "ret" not in repr(ours)
    monkeypatch.setenv("HILUM_BROKER_PASSWORD_FILE", "/not/there")
    assert "broker_password_file: cannot be read" in refusal()


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("listener_tls_port = 2762", "needs tls_certificate, tls_key and tls_ca"),
        ('tls_key = "key.pem"', "set both, or neither"),
        ('[[senders]]\nae_title = "A"\ntls = true', "sender A: it must call by TLS, and listener_tls_port"),
        ('[[senders]]\nae_title = "A"\ncertificate_sha256 = ["ab:cd"]', "64 hexadecimal digits"),
        ('[[senders]]\nae_title = "A"\nsop_classes = ["CTImageStorage"]', "named by its UID"),
        ('constancy_hour = 6\n[[senders]]\nae_title = "A"', "HILUM-CONSTANCY, which is no sender"),
        (
            '[[destinations]]\nname = "a"\nae_title = "A"\nhost = "a"\nport = 104\ntls = true',
            "needs tls_ca",
        ),
    ],
)
def test_tls_that_cannot_work_is_refused(toml: Path, written: str, words: str) -> None:
    toml.write_text(written)
    assert words in refusal()


def test_a_process_that_reads_settings_shows_its_environment_to_no_child(hilum_env: SettingsChange) -> None:
    reads = "import os; print(open(f'/proc/{os.getppid()}/environ').read())"
    owner_does = (
        "import subprocess, sys\n"
        "from hilum.settings import settings\n"
        "settings()\n"
        f"print(subprocess.run([sys.executable, '-c', {reads!r}], env={{}}, stderr=subprocess.STDOUT,"
        " stdout=subprocess.PIPE, text=True).stdout)\n"
    )
    environment = {**os.environ, "HILUM_BROKER_URL": "redis://:hunter2@localhost"}
    libc, drop, reading = ctypes.CDLL(None), 24, (19, 21, 38)  # prctl(2), capabilities(7): root may else
    shown = subprocess.run(
        [sys.executable, "-c", owner_does],
        env=environment,
        preexec_fn=lambda: [libc.prctl(drop, each) for each in reading],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "hunter2" not in shown.stdout
    assert "PermissionError" in shown.stdout
