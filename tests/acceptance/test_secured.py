"""The whole system by TLS and with passwords from files: it works, and no secret is to be seen anywhere."""

import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hilum.queue import app
from tests.acceptance.conftest import MakeStudy, findings_of, study_uid, wait_until_over
from tests.conftest import SettingsChange
from tests.peers.certificates import Authority
from tests.peers.helpers import wait_for
from tests.peers.secured import SecuredBroker, SecuredPostgres
from tests.peers.system import System
from tests.unit.test_cli import run

SECRETS = ("planted-s3cret-of-the-broker", "planted-s3cret-of-the-database")


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[SecuredBroker]:
    (tmp_path / "redis").mkdir()
    started = SecuredBroker(tmp_path / "redis", Authority(tmp_path / "authority"), SECRETS[0])
    yield started
    started.stop()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[SecuredPostgres]:
    started = SecuredPostgres(Authority(tmp_path / "other-authority"), SECRETS[1])
    yield started
    started.stop()


@pytest.fixture
def system(
    start_system: Callable[..., System], broker: SecuredBroker, database: SecuredPostgres, tmp_path: Path
) -> System:
    for secret, name in zip(SECRETS, ("broker", "database"), strict=True):
        (tmp_path / f"{name}.password").write_text(f"{secret}\n")
    return start_system(
        broker_url=broker.url,
        broker_password_file=tmp_path / "broker.password",
        database_url=database.url,
        database_password_file=tmp_path / "database.password",
        log_level="DEBUG",
    )


@pytest.mark.timeout(600)
def test_everything_works_by_tls_with_the_least_rights_and_shows_no_secret(
    system: System,
    broker: SecuredBroker,
    make_study: MakeStudy,
    hilum_env: SettingsChange,
    tmp_path: Path,
) -> None:
    image = make_study(1)
    assert system.send(image).returncode == 0
    wait_until_over([study_uid(image)], 240)
    assert findings_of(study_uid(image))
    said = of_workers() | {
        "status": run("status")[1] + run("status", "--json")[1],
        "doctor": run("doctor")[1],
        "show": run("show", study_uid(image))[1],
        "report": app.bugreport(),
        "arguments": arguments_of_all(),
    }
    refuse_a_pickle(system, tmp_path / "made-by-a-pickle")
    assert [each for each in broker.denied() if each.startswith("hilum: ")] == []
    said["wrong passwords"] = of_wrong_passwords(hilum_env, tmp_path / "wrong.password")
    said["log"] = system.log()
    assert [(where, secret) for where, text in said.items() for secret in SECRETS if secret in text] == []


def of_workers() -> dict[str, str]:
    """What `celery inspect` shows of every worker."""
    asked = app.control.inspect(timeout=20)
    said = {what: str(getattr(asked, what)()) for what in ("conf", "stats", "report")}
    assert "rediss://hilum:**" in said["conf"]
    assert all("sweep@" in text for text in said.values())
    return said


def of_wrong_passwords(hilum_env: SettingsChange, file: Path) -> str:
    """What is said of passwords that broker and database do not take; they are no less secret."""
    file.write_text("-".join(SECRETS))
    hilum_env(broker_password_file=file, database_password_file=file)
    said = run("doctor")[1]
    assert "password authentication failed" in " ".join(said.split())
    return said


def refuse_a_pickle(system: System, evidence: Path) -> None:
    """A message that would run code when it is read is refused, and the worker works on."""
    with app.connection_for_write() as connection:
        connection.Producer().publish(
            pickle.dumps(Evil(evidence)),
            routing_key="sweep",
            content_type="application/x-python-serialize",
            content_encoding="binary",
            headers={"task": "worker.sweep", "id": "evil", "lang": "py"},
        )
    wait_for(lambda: "ContentDisallowed" in system.log(), 60, "the refusal")
    assert not evidence.exists()
    sweeper = f"sweep@{os.uname().nodename}"
    assert app.control.inspect([sweeper], timeout=20).ping() == {sweeper: {"ok": "pong"}}


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, evidence: Path) -> None:
        self._evidence = evidence

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self._evidence),)


def arguments_of_all() -> str:
    """The arguments of every process on this machine."""
    texts = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            texts.append(file.read_text(errors="replace"))
        except OSError:
            continue  # it has ended meanwhile
    return "\n".join(texts)
