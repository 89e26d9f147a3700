"""Who may use the console, and by what they are known: passwords, sessions, tokens, one-time links.

Of every secret only a hash is kept. What is random needs no slow one: nobody guesses 256 bits.
"""

import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256

from sqlalchemy import ColumnElement, and_, delete, or_, select, update
from sqlalchemy.orm import Session

from db.clock import from_now, now
from db.tables import Account, AccountRole, ApiToken, OneTimeLink, WebSession
from db.upsert import insert
from hilum.errors import HilumError

FIRST_NAME = "admin"
"""The account that the first start makes."""
LINK_HOURS = 24
TOKEN_PREFIX = "hilum_"  # noqa: S105 - so that those who look for lost secrets know one of ours
_NAME = re.compile(r"[a-z0-9][a-z0-9._@-]{0,63}")
_TOKENS_USE_IS_NOTED_EVERY_S = 60
_SECONDS_AN_HOUR = 3600


class AccountError(HilumError):
    """The administrator must name another account, or another name for one."""


class Scope(StrEnum):
    """What may be done at the console."""

    READ = "read"
    """See studies, findings and networks."""
    VERDICT = "verdict"
    PREDICT = "predict"
    """Have an image read that is no study."""
    MANAGE = "manage"
    """Decide about networks, trainings, destinations and what failed."""
    METRICS = "metrics"
    """See counts, which name nobody."""


SCOPES: dict[AccountRole, frozenset[Scope]] = {
    AccountRole.READER: frozenset({Scope.READ, Scope.VERDICT, Scope.PREDICT}),
    AccountRole.ADMINISTRATOR: frozenset(Scope),
}


@dataclass(frozen=True)
class Known:
    """An account, and what it may do by what it has shown."""

    account: Account
    scopes: frozenset[Scope]


def add(session: Session, name: str, role: AccountRole) -> Account:
    """Make an account, which can do nothing until its person has chosen a password.

    Raises AccountError when the name is taken or cannot be one.
    """
    name = name.strip().casefold()
    if not _NAME.fullmatch(name):
        raise AccountError(
            f"{name!r} cannot be an account's name: up to 64 of a-z, 0-9, dot, dash, underscore and @, "
            "beginning with a letter or number"
        )
    made = insert(session, Account).values(name=name, role=role, password="", language="")
    if session.scalar(made.on_conflict_do_nothing().returning(Account.id)) is None:
        raise AccountError(f"there is an account {name} already")
    return find(session, name)


def find(session: Session, name: str) -> Account:
    """The account of this name; raises AccountError when there is none."""
    found = named(session, name)
    if found is None:
        raise AccountError(f"there is no account {name!r}: `hilum accounts list` shows those there are")
    return found


def named(session: Session, name: str) -> Account | None:
    """The account of this name, or None."""
    return session.scalar(select(Account).where(Account.name == name.strip().casefold()))


def listed(session: Session) -> list[Account]:
    """All accounts, by name."""
    return list(session.scalars(select(Account).order_by(Account.name)))


def disable(session: Session, account: Account) -> None:
    """Let an account do nothing any more, at once: its sessions, tokens and links end."""
    changed = update(Account).where(Account.id == account.id, Account.disabled_at.is_(None))
    session.execute(changed.values(disabled_at=now()))
    _end_sessions(session, account.id)
    session.execute(delete(OneTimeLink).where(OneTimeLink.account_id == account.id))
    valid = (ApiToken.account_id == account.id, ApiToken.revoked_at.is_(None))
    session.execute(update(ApiToken).where(*valid).values(revoked_at=now()))


def enable(session: Session, account: Account) -> None:
    """Let a disabled account log in again, by its old password; its tokens stay revoked."""
    session.execute(update(Account).where(Account.id == account.id).values(disabled_at=None))


def first_link(session: Session) -> str | None:
    """The secret of a link for the first administrator, or None once anybody has chosen a password."""
    if session.scalar(select(Account.id).where(Account.password != "").limit(1)) is not None:
        return None
    first = named(session, FIRST_NAME) or add(session, FIRST_NAME, AccountRole.ADMINISTRATOR)
    return new_link(session, first)


def new_link(session: Session, account: Account) -> str:
    """The secret of a new link, by which a password can be chosen once; older ones end.

    Raises AccountError for a disabled account.
    """
    if account.disabled_at is not None:
        raise AccountError(f"{account.name} is disabled: `hilum accounts enable {account.name}` first")
    _forget_expired(session)
    session.execute(delete(OneTimeLink).where(OneTimeLink.account_id == account.id))
    secret = secrets.token_urlsafe(32)
    session.execute(
        insert(session, OneTimeLink).values(
            digest=_digest(secret),
            account_id=account.id,
            expires_at=from_now(LINK_HOURS * _SECONDS_AN_HOUR),
        )
    )
    return secret


def of_link(session: Session, secret: str) -> Account | None:
    """Whose link this is, or None when it was used or is too old."""
    joined = select(Account).join(OneTimeLink, OneTimeLink.account_id == Account.id)
    return session.scalar(joined.where(_link(secret), Account.disabled_at.is_(None)))


def use_link(session: Session, secret: str, password: str) -> Account | None:
    """Give the link's account this (hashed) password and end its sessions; None when the link is none.

    Of two who use a link at once, one is given None.
    """
    used = delete(OneTimeLink).where(_link(secret)).returning(OneTimeLink.account_id)
    account_id = session.scalar(used)
    if account_id is None:
        return None
    account = session.get_one(Account, account_id)
    account.password = password
    _end_sessions(session, account_id)
    return account


def begin_session(session: Session, account_id: int, password: str, *, hours: float) -> str | None:
    """The secret of a new session; None when the account is disabled or its (hashed) password is another."""
    unchanged = (Account.id == account_id, Account.password == password, Account.disabled_at.is_(None))
    if session.scalar(select(Account.id).where(*unchanged).with_for_update()) is None:
        return None
    _forget_expired(session)
    secret = secrets.token_urlsafe(32)
    session.execute(
        insert(session, WebSession).values(
            digest=_digest(secret), account_id=account_id, expires_at=from_now(hours * _SECONDS_AN_HOUR)
        )
    )
    return secret


def of_session(session: Session, secret: str) -> Known | None:
    """Who has logged in with this session, or None when it is over."""
    joined = select(Account).join(WebSession, WebSession.account_id == Account.id)
    is_valid = and_(WebSession.digest == _digest(secret), WebSession.expires_at > now())
    account = session.scalar(joined.where(is_valid, Account.disabled_at.is_(None)))
    return None if account is None else Known(account, SCOPES[account.role])


def end_session(session: Session, secret: str) -> None:
    """Log a browser out."""
    session.execute(delete(WebSession).where(WebSession.digest == _digest(secret)))


def new_token(session: Session, account: Account, name: str, scopes: Iterable[Scope], *, days: float) -> str:
    """A new token for programs; what its account may not do, it may not either.

    Raises AccountError for a disabled account, and for a scope that its role has not.
    """
    wanted = sorted(set(scopes))
    beyond = [scope for scope in wanted if scope not in SCOPES[account.role]]
    if account.disabled_at is not None or beyond:
        because = f"a {account.role} may not {', '.join(beyond)}" if beyond else "it is disabled"
        raise AccountError(f"{account.name} cannot have such a token: {because}")
    secret = TOKEN_PREFIX + secrets.token_urlsafe(32)
    session.add(
        ApiToken(
            digest=_digest(secret),
            account_id=account.id,
            name=name,
            scopes=[str(scope) for scope in wanted],
            expires_at=from_now(days * 24 * _SECONDS_AN_HOUR),
        )
    )
    return secret


def of_token(session: Session, secret: str) -> Known | None:
    """Whose token this is and what it may do, or None when it is over; its use is noted once a minute."""
    is_valid = and_(
        ApiToken.digest == _digest(secret),
        ApiToken.expires_at > now(),
        ApiToken.revoked_at.is_(None),
        Account.disabled_at.is_(None),
    )
    joined = select(ApiToken, Account).join(Account, ApiToken.account_id == Account.id).where(is_valid)
    row = session.execute(joined).one_or_none()
    if row is None:
        return None
    token, account = row
    long_ago = or_(
        ApiToken.last_used_at.is_(None), ApiToken.last_used_at < from_now(-_TOKENS_USE_IS_NOTED_EVERY_S)
    )
    noted = update(ApiToken).where(ApiToken.id == token.id, long_ago).values(last_used_at=now())
    session.execute(noted.execution_options(synchronize_session=False))
    return Known(account, SCOPES[account.role] & {Scope(each) for each in token.scopes})


def tokens(session: Session) -> list[tuple[ApiToken, str]]:
    """The tokens that are not revoked, with their accounts' names, the oldest first."""
    joined = select(ApiToken, Account.name).join(Account, ApiToken.account_id == Account.id)
    rows = session.execute(joined.where(ApiToken.revoked_at.is_(None)).order_by(ApiToken.id))
    return [(row[0], row[1]) for row in rows]


def revoke(session: Session, number: int) -> str:
    """End a token and return what it was for; raises AccountError when there is none of this number."""
    valid = (ApiToken.id == number, ApiToken.revoked_at.is_(None))
    name: str | None = session.scalar(
        update(ApiToken).where(*valid).values(revoked_at=now()).returning(ApiToken.name)
    )
    if name is None:
        raise AccountError(f"there is no token {number}: `hilum accounts list` shows those there are")
    return name


def _digest(secret: str) -> str:
    return sha256(secret.encode()).hexdigest()


def _link(secret: str) -> ColumnElement[bool]:
    return and_(OneTimeLink.digest == _digest(secret), OneTimeLink.expires_at > now())


def _end_sessions(session: Session, account_id: int) -> None:
    session.execute(delete(WebSession).where(WebSession.account_id == account_id))


def _forget_expired(session: Session) -> None:
    session.execute(delete(WebSession).where(WebSession.expires_at < now()))
    session.execute(delete(OneTimeLink).where(OneTimeLink.expires_at < now()))
