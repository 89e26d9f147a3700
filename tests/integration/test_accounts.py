"""Accounts and what they are known by: on both databases, and from the command line."""

import re

import pytest
from sqlalchemy import select, text, update
from typer.testing import CliRunner

from console.cli import app
from db import accounts
from db.accounts import AccountError, Scope
from db.clock import from_now
from db.session import engine, transaction
from db.tables import AccountRole, ApiToken, Audit, OneTimeLink, WebSession

READER, ADMINISTRATOR = AccountRole.READER, AccountRole.ADMINISTRATOR

pytestmark = pytest.mark.usefixtures("database_url")


def with_password(name: str, role: AccountRole = READER) -> int:
    """An account that has chosen a password; its id."""
    with transaction() as session:
        secret = accounts.new_link(session, accounts.add(session, name, role))
        account = accounts.use_link(session, secret, "hashed")
        assert account is not None
        return account.id


def log_in(account_id: int, password: str = "hashed") -> str | None:
    with transaction() as session:
        return accounts.begin_session(session, account_id, password, hours=1)


def known_by_session(secret: str | None) -> str | None:
    with transaction() as session:
        known = accounts.of_session(session, secret or "")
        return known.account.name if known else None


def known_by_token(secret: str) -> set[Scope] | None:
    with transaction() as session:
        known = accounts.of_token(session, secret)
        return set(known.scopes) if known else None


def token(name: str, *scopes: Scope) -> str:
    with transaction() as session:
        return accounts.new_token(session, accounts.find(session, name), "test", scopes, days=1)


def test_a_link_gives_a_password_once() -> None:
    with transaction() as session:
        secret = accounts.new_link(session, accounts.add(session, "marie", READER))
        first = accounts.use_link(session, secret, "one")
        second = accounts.use_link(session, secret, "two")
    assert first is not None
    assert (first.name, first.password, second) == ("marie", "one", None)


def test_a_link_ends_with_its_time_and_with_the_next_one() -> None:
    with transaction() as session:
        account = accounts.add(session, "marie", READER)
        older, newer = accounts.new_link(session, account), accounts.new_link(session, account)
        assert accounts.of_link(session, older) is None
        assert accounts.of_link(session, newer) is not None
        session.execute(update(OneTimeLink).values(expires_at=from_now(-1)))
        assert accounts.of_link(session, newer) is None
        assert accounts.use_link(session, newer, "late") is None


def test_a_new_password_ends_the_sessions_of_the_old_one() -> None:
    account_id = with_password("marie")
    session_of_old = log_in(account_id)
    assert known_by_session(session_of_old) == "marie"
    with transaction() as session:
        secret = accounts.new_link(session, accounts.find(session, "marie"))
        accounts.use_link(session, secret, "another")
    assert known_by_session(session_of_old) is None
    assert log_in(account_id, "hashed") is None


def test_a_session_ends_with_its_time_and_when_it_is_ended() -> None:
    account_id = with_password("marie")
    one, two = log_in(account_id), log_in(account_id)
    with transaction() as session:
        accounts.end_session(session, one or "")
    assert (known_by_session(one), known_by_session(two)) == (None, "marie")
    with transaction() as session:
        session.execute(update(WebSession).values(expires_at=from_now(-1)))
    assert known_by_session(two) is None
    log_in(account_id)
    with transaction() as session:
        assert len(session.scalars(select(WebSession)).all()) == 1, "what is over is forgotten"


def test_a_token_may_do_what_it_is_for_as_far_as_its_account_may() -> None:
    with_password("marie", ADMINISTRATOR)
    secret = token("marie", Scope.METRICS, Scope.READ)
    assert known_by_token(secret) == {Scope.METRICS, Scope.READ}
    with transaction() as session:
        accounts.find(session, "marie").role = READER
    assert known_by_token(secret) == {Scope.READ}
    with pytest.raises(AccountError, match="a reader may not metrics"):
        token("marie", Scope.METRICS)


def test_a_token_ends_with_its_time_and_when_it_is_revoked() -> None:
    with_password("marie")
    old, revoked = token("marie", Scope.READ), token("marie", Scope.READ)
    with transaction() as session:
        [(first, _), (second, name)] = accounts.tokens(session)
        assert name == "marie"
        session.execute(update(ApiToken).where(ApiToken.id == first.id).values(expires_at=from_now(-1)))
        assert accounts.revoke(session, second.id) == "test"
    assert (known_by_token(old), known_by_token(revoked)) == (None, None)
    with transaction() as session, pytest.raises(AccountError, match="no token"):
        accounts.revoke(session, second.id)


def test_the_use_of_a_token_is_noted_once_a_minute() -> None:
    with_password("marie")
    secret = token("marie", Scope.READ)
    known_by_token(secret)
    with transaction() as session:
        first = session.scalars(select(ApiToken.last_used_at)).one()
    known_by_token(secret)
    with transaction() as session:
        second = session.scalars(select(ApiToken.last_used_at)).one()
    assert first is not None
    assert second == first


def test_a_disabled_account_is_out_at_once_and_comes_back_without_its_tokens() -> None:
    account_id = with_password("marie")
    session_secret, token_secret = log_in(account_id), token("marie", Scope.READ)
    with transaction() as session:
        link = accounts.new_link(session, accounts.find(session, "marie"))
        accounts.disable(session, accounts.find(session, "marie"))
    assert (known_by_session(session_secret), known_by_token(token_secret)) == (None, None)
    assert log_in(account_id) is None
    with transaction() as session:
        assert accounts.of_link(session, link) is None
        with pytest.raises(AccountError, match="is disabled"):
            accounts.new_link(session, accounts.find(session, "marie"))
        accounts.enable(session, accounts.find(session, "marie"))
    assert known_by_session(log_in(account_id)) == "marie"
    assert known_by_token(token_secret) is None


@pytest.mark.parametrize("name", ["", "-x", "a b", "<script>", "a" * 65, "é"])
def test_a_name_that_cannot_be_one_is_refused(name: str) -> None:
    with transaction() as session, pytest.raises(AccountError, match="cannot be an account's name"):
        accounts.add(session, name, READER)


def test_names_are_one_whatever_their_case() -> None:
    with transaction() as session:
        accounts.add(session, "Marie", READER)
        assert accounts.find(session, "MARIE").name == "marie"
        with pytest.raises(AccountError, match="already"):
            accounts.add(session, "marie", READER)


def test_the_first_administrator_gets_links_until_anybody_has_a_password() -> None:
    with transaction() as session:
        first, again = accounts.first_link(session), accounts.first_link(session)
        assert first and again and accounts.of_link(session, first) is None
        [account] = accounts.listed(session)
        assert (account.name, account.role) == ("admin", ADMINISTRATOR)
        accounts.use_link(session, again, "hashed")
        assert accounts.first_link(session) is None


def test_no_secret_stands_in_the_database(database_url: str) -> None:
    account_id = with_password("marie")
    shown = [log_in(account_id) or "", token("marie", Scope.READ)]
    with transaction() as session:
        shown.append(accounts.new_link(session, accounts.find(session, "marie")))
    with engine(database_url).connect() as connection:
        rows = [
            str(row)
            for name in ("accounts", "web_sessions", "api_tokens", "one_time_links", "audit")
            for row in connection.execute(text(f"SELECT * FROM {name}"))
        ]
    assert len(rows) >= 4
    assert [secret for secret in shown if any(secret in row for row in rows)] == []


def run(*arguments: str) -> str:
    outcome = CliRunner().invoke(app, ["accounts", *arguments])
    if outcome.exception:
        raise outcome.exception
    return re.sub(r"\s+", " ", outcome.output).strip()


def test_accounts_and_tokens_are_looked_after_from_the_command_line() -> None:
    said = run("add", "Marie")
    assert "marie chooses a password here, once, within 24 hours: http://127.0.0.1:8080/link/" in said
    assert "has no password yet" in run("list")
    with transaction() as session:
        assert accounts.use_link(session, said.rpartition("/")[2], "hashed") is not None
    secret = run("token", "marie", "--for", "a script", "--scope", "read", "--scope", "verdict")
    assert known_by_token(secret) == {Scope.READ, Scope.VERDICT}
    listed = run("list")
    assert "may log in" in listed
    assert "a script marie read, verdict" in listed
    assert run("revoke", "1") == "revoked: the token for a script"
    assert run("disable", "marie") == "marie is disabled"
    assert "disabled since" in run("list")
    with pytest.raises(AccountError):
        run("link", "marie")
    run("enable", "marie")
    assert "/link/" in run("link", "marie")
    with transaction() as session:
        done = session.scalars(select(Audit.action).order_by(Audit.id)).all()
    assert done == [
        "account add",
        "token",
        "token revoke",
        "account disable",
        "account enable",
        "account link",
    ]
    with pytest.raises(AccountError, match="no account 'paul'"):
        run("link", "paul")
