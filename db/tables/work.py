"""What is to be done."""

from datetime import datetime

from sqlalchemy import ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from db.clock import now
from db.tables.base import Base, Words
from db.tables.states import JobState


class Job(Base):
    """One piece of work: the record that the messages of the broker only remind of."""

    __tablename__ = "jobs"

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(32))
    subject: Mapped[str] = mapped_column(String(96))
    study_uid: Mapped[str | None] = mapped_column(ForeignKey("studies.study_uid"), index=True)
    state: Mapped[JobState] = mapped_column(default=JobState.WAITING)
    urgent: Mapped[bool] = mapped_column(default=False)
    generation: Mapped[int] = mapped_column(default=1)
    """Grows when the work is wanted again, so that work begun before does not count as done."""
    deaths: Mapped[int] = mapped_column(default=0)
    attempts: Mapped[int] = mapped_column(default=0)
    due_at: Mapped[datetime] = mapped_column(server_default=now())
    rung_at: Mapped[datetime | None]
    """When the bell on its way rings; empty when none is known to be."""
    lease_until: Mapped[datetime | None]
    lease_token: Mapped[str | None] = mapped_column(String(32))
    error: Mapped[str | None] = mapped_column(Words)
    created_at: Mapped[datetime] = mapped_column(server_default=now())
    done_at: Mapped[datetime | None]

    __table_args__ = (
        UniqueConstraint("kind", "subject"),
        # partial, so that the look for due work costs the same with a million studies done
        Index(
            "ix_jobs_waiting",
            "kind",
            "due_at",
            sqlite_where=state == "waiting",
            postgresql_where=state == "waiting",
        ),
        Index(
            "ix_jobs_unfinished",
            "kind",
            "state",
            "due_at",
            sqlite_where=state.not_in(["done"]),
            postgresql_where=state.not_in(["done"]),
        ),
    )


class Circuit(Base):
    """Whether a destination is being left alone for a while, because it is away."""

    __tablename__ = "circuits"

    destination: Mapped[str] = mapped_column(String(64), primary_key=True)
    failures: Mapped[int] = mapped_column(default=0)
    open_until: Mapped[datetime | None]
    error: Mapped[str | None] = mapped_column(Words)
