"""What is looked at again and again: drift, constancy, the ledger, and the alerts of all."""

from datetime import date, datetime
from typing import Any

from sqlalchemy import JSON, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from db.clock import now
from db.tables.base import AeTitle, Base, Words


class Alert(Base):
    """Something that a person should look at, from when it was first seen until it is over."""

    __tablename__ = "alerts"

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(32))
    """drift, constancy, training, ..."""
    subject: Mapped[str] = mapped_column(String(128))
    words: Mapped[str] = mapped_column(Words)
    raised_at: Mapped[datetime] = mapped_column(server_default=now())
    seen_at: Mapped[datetime] = mapped_column(server_default=now())
    """When it was last found to be so."""
    ended_at: Mapped[datetime | None] = mapped_column()

    __table_args__ = (
        Index(
            "ix_alerts_open",
            "kind",
            "subject",
            unique=True,
            sqlite_where=ended_at.is_(None),
            postgresql_where=ended_at.is_(None),
        ),
    )


class DriftReference(Base):
    """What the images of a sender and view were like at first: what later ones are compared with."""

    __tablename__ = "drift_references"

    sender_ae: Mapped[str] = mapped_column(AeTitle, primary_key=True)
    view: Mapped[str] = mapped_column(String(16), primary_key=True)
    network_digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    """The network that found what is compared; empty: of the images themselves, whoever reads them."""
    images: Mapped[int] = mapped_column(default=0)
    values: Mapped[dict[str, Any]]
    """Name -> what it was in each of these images."""
    until_finding: Mapped[int] = mapped_column(default=0)
    """The last finding that it was made of, or that came before it."""
    began_at: Mapped[datetime] = mapped_column(server_default=now())
    compared: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    """What the last look said: at, images, and of each name its distance; empty before the first."""


class DriftHold(Base):
    """A sender whose studies' results are held back, until a person ends it."""

    __tablename__ = "drift_holds"

    sender_ae: Mapped[str] = mapped_column(AeTitle, primary_key=True)
    because: Mapped[str] = mapped_column(Words)
    since: Mapped[datetime] = mapped_column(server_default=now())


class ConstancyRun(Base):
    """One going of the phantoms through the whole chain."""

    __tablename__ = "constancy_runs"

    slot: Mapped[str] = mapped_column(String(32), primary_key=True)
    """The day it is of, or the moment at which a person asked for it."""
    studies: Mapped[dict[str, Any]]
    """Phantom -> the Study Instance UID that it has this time."""
    began_at: Mapped[datetime] = mapped_column(server_default=now())
    sent_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    passed: Mapped[bool | None]
    words: Mapped[str] = mapped_column(Words, default="")
    """What was wrong; or what was recorded for the first time."""
    found: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    """Phantom -> what was found of it."""


class ConstancyRecord(Base):
    """What a network finds in a phantom, computed by an engine: what it must find each time."""

    __tablename__ = "constancy_records"

    network_digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    engine: Mapped[str] = mapped_column(String(96), primary_key=True)
    phantom: Mapped[str] = mapped_column(String(64), primary_key=True)
    found: Mapped[dict[str, Any]]
    recorded_at: Mapped[datetime] = mapped_column(server_default=now())


class LedgerDay(Base):
    """What a source PACS listed of one day's studies, and how far we are with them: the day's sum."""

    __tablename__ = "ledger_days"

    source: Mapped[str] = mapped_column(AeTitle, primary_key=True)
    day: Mapped[date] = mapped_column(primary_key=True)
    """The Study Date, as the source writes it."""
    counted_at: Mapped[datetime | None]
    """When the source last told what it has; the counts are of then."""
    not_asked_because: Mapped[str | None] = mapped_column(Words)
    """Why the source told nothing when it was last to be asked; empty when it did."""
    counts: Mapped[dict[str, Any]]
    """Step -> how many, `db.ledger.Counts`."""
    digest: Mapped[str] = mapped_column(String(64), default="")
    """sha256 of the SOP Instance UIDs that the source listed, sorted, a line each."""
