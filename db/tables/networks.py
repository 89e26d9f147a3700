"""What reads."""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from db.clock import now
from db.tables.base import Base, Words
from db.tables.states import NetworkState


class NetworkVersion(Base):
    """A network that this place has, by its digest."""

    __tablename__ = "network_versions"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    version: Mapped[str] = mapped_column(String(64))
    manifest: Mapped[dict[str, Any]]
    first_loaded_at: Mapped[datetime] = mapped_column(server_default=now())
    """When it came here."""
    state: Mapped[NetworkState] = mapped_column(default=NetworkState.CANDIDATE)
    path: Mapped[str] = mapped_column(Text, default="")
    """Its artefact's folder in the store; empty for one of before networks were kept there."""
    is_settings: Mapped[bool] = mapped_column(default=False)
    """Whether the settings brought it, so that another network in the settings takes its place."""
    run_id: Mapped[int | None] = mapped_column(ForeignKey("training_runs.id"))

    __table_args__ = (
        # one champion and one shadow, whoever promotes at the same time
        Index(
            "ix_network_versions_in_service",
            "state",
            unique=True,
            sqlite_where=state.in_(["champion", "shadow"]),
            postgresql_where=state.in_(["champion", "shadow"]),
        ),
    )


class NetworkChange(Base):
    """A change of what a network may do, or one person's word for it: who, when, why."""

    __tablename__ = "network_changes"

    id: Mapped[int] = mapped_column(primary_key=True)
    digest: Mapped[str] = mapped_column(ForeignKey("network_versions.digest"), index=True)
    action: Mapped[str] = mapped_column(String(16))
    """brought, approved, shadow, promoted, retired, rolled back, recalled, refused."""
    actor: Mapped[str] = mapped_column(String(128))
    because: Mapped[str] = mapped_column(Words, default="")
    at: Mapped[datetime] = mapped_column(server_default=now())
