"""What is said of doors that stand open."""

from pathlib import Path

import pytest

from console.exposure import exposures, risks
from hilum.settings import settings
from tests.conftest import SettingsChange


def test_on_a_machine_by_itself_nothing_is_open(hilum_env: SettingsChange) -> None:
    assert list(exposures(hilum_env())) == []
    here = hilum_env(broker_url="redis://localhost/0", database_url="postgresql+psycopg://a@127.0.0.1/b")
    assert [*exposures(here), *risks(here)] == []


def test_a_port_without_senders_is_open(hilum_env: SettingsChange) -> None:
    [(found, remedy)] = exposures(hilum_env(listener_host="0.0.0.0"))
    assert found == "anybody who reaches 0.0.0.0 may push"
    assert "[[senders]]" in remedy
    assert list(exposures(hilum_env(senders=[{"ae_title": "A"}]))) == []


@pytest.mark.parametrize(
    ("database", "broker", "count"),
    [
        ("postgresql+psycopg://a@db/b", "redis://:p@broker", 2),
        ("postgresql+psycopg://a@db/b?sslmode=require", "rediss://:p@broker", 1),
        ("postgresql+psycopg://a@db/b?sslmode=verify-full", "rediss://:p@broker", 0),
    ],
)
def test_what_goes_over_the_network_without_tls_is_told(
    hilum_env: SettingsChange, database: str, broker: str, count: int
) -> None:
    assert len(list(risks(hilum_env(database_url=database, broker_url=broker)))) == count


def test_a_file_with_a_password_that_others_can_read_is_told(hilum_env: SettingsChange) -> None:
    hilum_env()
    file = Path("hilum.toml")
    file.write_text('broker_url = "redis://:hunter2@localhost/0"')
    file.chmod(0o644)
    settings.cache_clear()
    [(found, remedy)] = exposures(settings())
    assert "hilum.toml holds a password" in found
    assert "hunter2" not in found
    assert "chmod 600" in remedy
    file.chmod(0o600)
    assert list(exposures(settings())) == []


def test_senders_that_may_call_without_tls_are_told(hilum_env: SettingsChange, tmp_path: Path) -> None:
    pem = tmp_path / "any.pem"
    senders = [{"ae_title": "OLD", "addresses": ["10.0.0.1"]}, {"ae_title": "NEW", "tls": True}]
    tls = {"tls_certificate": pem, "tls_key": pem, "tls_ca": pem, "listener_tls_port": 2762}
    assert list(risks(hilum_env(senders=senders, **tls, listener_host="0.0.0.0"))) == [
        "may call from any address: NEW",
        "may call without TLS: OLD",
    ]


def test_whom_and_what_the_settings_leave_open_otherwise_is_told(
    hilum_env: SettingsChange, tmp_path: Path
) -> None:
    key = tmp_path / "password"
    key.write_text("hunter2")
    key.chmod(0o644)
    places = [{"name": name, "ae_title": name, "host": name, "port": 104} for name in ("PACS", "localhost")]
    ours = hilum_env(broker_url="rediss://broker", destinations=places, database_password_file=key)
    assert list(risks(ours)) == [
        "called without TLS: PACS",
        "broker_url: whoever reaches the broker may use it, without a password",
        f"database_password_file: others on this machine can read {key}",
    ]


def test_a_bracket_in_a_password_is_none_of_an_address(hilum_env: SettingsChange) -> None:
    assert len(list(risks(hilum_env(database_url="postgresql+psycopg://a:p[w@db/b")))) == 1
    file = Path("hilum.toml")
    file.write_text('database_url = "postgresql+psycopg://a:p[w#@db/b"')
    file.chmod(0o644)
    settings.cache_clear()
    assert len(list(exposures(settings()))) == 1
