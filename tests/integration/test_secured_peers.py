"""Broker and database by TLS: who is trusted, and what Hilum's user of the broker may not do."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from kombu.exceptions import OperationalError
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from db.session import transaction
from hilum.queue import SWEEP, depths, ring
from tests.conftest import SettingsChange
from tests.peers.certificates import Authority
from tests.peers.secured import SecuredBroker, SecuredPostgres

PASSWORD = "a password / with @ signs?"


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("stranger"))


@pytest.fixture(scope="module")
def broker(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredBroker]:
    started = SecuredBroker(tmp_path_factory.mktemp("redis"), authority, "secret")
    yield started
    started.stop()


@pytest.fixture(scope="module")
def database(authority: Authority) -> Iterator[SecuredPostgres]:
    started = SecuredPostgres(authority, PASSWORD)
    yield started
    started.stop()


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    return tmp_path / "password"


def test_a_broker_that_we_trust_takes_our_messages(
    broker: SecuredBroker, hilum_env: SettingsChange, password_file: Path
) -> None:
    password_file.write_text("secret\n")
    hilum_env(broker_url=broker.url, broker_password_file=password_file)
    assert ring(SWEEP, "1")
    assert depths()["sweep"] == 1


def test_a_broker_that_we_do_not_trust_gets_nothing(
    broker: SecuredBroker, stranger: Authority, hilum_env: SettingsChange, password_file: Path
) -> None:
    password_file.write_text("secret")
    anybodys = broker.url.partition("?")[0]
    for url in (
        f"{anybodys}?ssl_ca_certs={stranger.ca}",
        anybodys,
        broker.url.replace("127.0.0.1", "127.0.0.2"),
    ):
        hilum_env(broker_url=url, broker_password_file=password_file)
        with pytest.raises(OperationalError, match="CERTIFICATE_VERIFY_FAILED"):
            depths()


def test_the_user_of_the_example_may_do_no_more_than_it_needs(
    broker: SecuredBroker, authority: Authority
) -> None:
    with redis.Redis(
        port=broker.port, username="hilum", password="secret", ssl=True, ssl_ca_certs=str(authority.ca)
    ) as client:
        assert client.ping()
        for attempt in (
            client.flushall,
            client.config_get,
            client.acl_list,
            client.keys,
            client.client_list,
            lambda: client.set("another", "1"),
            lambda: client.publish("another", "1"),
        ):
            with pytest.raises(redis.exceptions.NoPermissionError):
                attempt()


def test_a_database_that_we_trust_answers_by_tls(
    database: SecuredPostgres, hilum_env: SettingsChange, password_file: Path
) -> None:
    password_file.write_text(PASSWORD)
    hilum_env(database_url=database.url, database_password_file=password_file)
    with transaction() as session:
        assert session.execute(text("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")).scalar()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("verify-full", "disable"), "no pg_hba.conf entry"),
        (("127.0.0.1", "localhost"), "does not match host name"),
    ],
)
def test_a_database_without_tls_or_of_another_name_is_not_used(
    database: SecuredPostgres,
    hilum_env: SettingsChange,
    password_file: Path,
    change: tuple[str, str],
    words: str,
) -> None:
    password_file.write_text(PASSWORD)
    hilum_env(database_url=database.url.replace(*change), database_password_file=password_file)
    with pytest.raises(DBAPIError, match=words) as caught, transaction() as session:
        session.execute(text("SELECT 1"))
    assert PASSWORD not in str(caught.value)


def test_a_database_of_a_strange_authority_is_not_used(
    database: SecuredPostgres,
    authority: Authority,
    stranger: Authority,
    hilum_env: SettingsChange,
    password_file: Path,
) -> None:
    password_file.write_text(PASSWORD)
    url = database.url.replace(str(authority.ca), str(stranger.ca))
    hilum_env(database_url=url, database_password_file=password_file)
    with pytest.raises(DBAPIError, match="certificate verify failed"), transaction() as session:
        session.execute(text("SELECT 1"))
