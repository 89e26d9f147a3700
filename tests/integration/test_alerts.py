"""What a person should look at, on every database."""

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from typer.testing import CliRunner

import db.alerts
from console.alerts import rendered
from console.cli import app
from console.cli.terminal import out
from console.overview import overview
from db.session import transaction
from hilum.settings import settings
from tests.peers.broker import Broker


def _note(words: str, subject: str = "ROOM1") -> bool:
    with transaction() as session:
        return db.alerts.note(session, "drift", subject, words)


def test_an_alert_is_raised_once_and_renewed_while_it_is_so(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "db.alerts"):
        assert _note("images are darker") and not _note("images are much darker")
    assert caplog.text.count("alert: drift of ROOM1: images are darker") == 1
    with transaction() as session:
        [alert] = db.alerts.open(session)
    assert alert.words == "images are much darker" and alert.seen_at >= alert.raised_at


def test_an_alert_that_is_over_can_be_raised_again(database_url: str) -> None:
    _note("images are darker")
    with transaction() as session:
        assert db.alerts.end(session, "drift", "ROOM1") and not db.alerts.end(session, "drift", "ROOM1")
        assert db.alerts.open(session) == []
    assert _note("images are darker")
    with transaction() as session:
        assert [each.ended_at is None for each in db.alerts.all(session)] == [True, False]
        assert db.alerts.open(session, "constancy") == []


def test_of_several_who_see_the_same_at_once_one_raises_it(database_url: str) -> None:
    together = Barrier(4)

    def see(number: int) -> bool:
        together.wait()
        return _note(f"words {number}")

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(see, range(4))) == [False, False, False, True]
    with transaction() as session:
        assert len(db.alerts.open(session)) == 1


def test_the_terminal_lists_alerts_and_status_says_that_there_are_some(
    database_url: str, valkey: Broker, hilum_env: object
) -> None:
    _note("images are [red]darker\x1b[2J")
    listed = CliRunner().invoke(app, ["alerts", "--json"])
    assert listed.exit_code == 0
    [told] = json.loads(listed.output)
    assert (told["kind"], told["subject"], told["ended_at"]) == ("drift", "ROOM1", None)
    with transaction() as session, out.capture() as shown:
        out.print(rendered(db.alerts.open(session)))
    assert "[red]darker" in shown.get() and "\x1b[2J" not in shown.get()
    assert [each["subject"] for each in overview(settings())["alerts"]] == ["ROOM1"]
