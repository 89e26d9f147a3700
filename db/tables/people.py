"""Who may do what, and who did what."""

from datetime import datetime

from sqlalchemy import JSON, ForeignKey, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from db.clock import now
from db.tables.base import Base, Uid
from db.tables.states import AccountRole


class Audit(Base):
    """What people did: who, when, what, to which study."""

    __tablename__ = "audit"

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(server_default=now())
    actor: Mapped[str] = mapped_column(String(128))
    action: Mapped[str] = mapped_column(String(64))
    study_uid: Mapped[str | None] = mapped_column(Uid, index=True)
    detail: Mapped[str] = mapped_column(Text, default="")


class Account(Base):
    """A person, or a program, that may use the console. Accounts are disabled, never removed."""

    __tablename__ = "accounts"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    """In small letters; it is the author of the account's verdicts, and the actor in the audit."""
    role: Mapped[AccountRole]
    password: Mapped[str] = mapped_column(Text, default="")
    """Argon2id with its salt and costs; empty until the person has chosen one."""
    language: Mapped[str] = mapped_column(String(8), default="")
    """en or fr; empty: the browser's."""
    created_at: Mapped[datetime] = mapped_column(server_default=now())
    disabled_at: Mapped[datetime | None]


class WebSession(Base):
    """A browser that has logged in."""

    __tablename__ = "web_sessions"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    """sha256 of the secret in the browser's cookie."""
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"), index=True)
    created_at: Mapped[datetime] = mapped_column(server_default=now())
    expires_at: Mapped[datetime] = mapped_column(index=True)


class ApiToken(Base):
    """What a program shows instead of a password."""

    __tablename__ = "api_tokens"

    id: Mapped[int] = mapped_column(primary_key=True)
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    """sha256 of the token."""
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"), index=True)
    name: Mapped[str] = mapped_column(String(64))
    """What it is for."""
    scopes: Mapped[list[str]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(server_default=now())
    expires_at: Mapped[datetime]
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class OneTimeLink(Base):
    """A link by which the person of an account chooses a password, once."""

    __tablename__ = "one_time_links"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    """sha256 of the secret in the link."""
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"), index=True)
    expires_at: Mapped[datetime] = mapped_column(index=True)
