"""What is said of doors that stand open."""

from pathlib import Path

import pytest

from console.exposure import exposures
from hilum.settings import settings
from tests.conftest import SettingsChange


def test_on_a_machine_by_itself_nothing_is_open(hilum_env: SettingsChange) -> None:
    assert list(exposures(hilum_env())) == []
    here = hilum_env(broker_url="redis://localhost/0", database_url="postgresql+psycopg://a@127.0.0.1/b")
    assert list(exposures(here)) == []


def test_a_port_without_senders_is_open(hilum_env: SettingsChange) -> None:
    [(found, remedy)] = exposures(hilum_env(listener_host="0.0.0.0"))
    assert found == "anybody who reaches 0.0.0.0 may push"
    assert "[[senders]]" in remedy
    assert list(exposures(hilum_env(senders=[{"ae_title": "A"}]))) == []


@pytest.mark.parametrize(
    ("database", "broker", "count"),
    [
        ("postgresql+psycopg://a@db/b", "redis://broker", 2),
        ("postgresql+psycopg://a@db/b?sslmode=require", "rediss://broker", 1),
        ("postgresql+psycopg://a@db/b?sslmode=verify-full", "rediss://broker", 0),
    ],
)
def test_what_goes_over_the_network_without_tls_is_told(
    hilum_env: SettingsChange, database: str, broker: str, count: int
) -> None:
    found = list(exposures(hilum_env(database_url=database, broker_url=broker)))
    assert len(found) == count
    assert [remedy for _, remedy in found] == [""] * count


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
    senders = [{"ae_title": "OLD"}, {"ae_title": "NEW", "tls": True}]
    tls = {"tls_certificate": pem, "tls_key": pem, "tls_ca": pem, "listener_tls_port": 2762}
    assert list(exposures(hilum_env(senders=senders, **tls))) == [("may call without TLS: OLD", "")]
