"""What people said, and what was learnt from it."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Boolean, ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from db.clock import now
from db.tables.base import Base, Words
from db.tables.states import Part, RunState


class Verdict(Base):
    """What a person said of an image: a label with an author and a time."""

    __tablename__ = "verdicts"

    id: Mapped[int] = mapped_column(primary_key=True)
    uid: Mapped[str] = mapped_column(ForeignKey("instances.uid"), index=True)
    label: Mapped[str] = mapped_column(String(32))
    author: Mapped[str] = mapped_column(String(128))
    source: Mapped[str] = mapped_column(String(32))
    comment: Mapped[str] = mapped_column(Text, default="")
    supersedes: Mapped[int | None] = mapped_column(ForeignKey("verdicts.id"), index=True)
    origin: Mapped[str | None] = mapped_column(String(64))
    """What brought it, so that it is not brought twice: an object's UID, or a line's digest."""
    said_at: Mapped[datetime | None]
    """When the person said so, where that is known apart from when it came."""
    created_at: Mapped[datetime] = mapped_column(server_default=now(), index=True)

    __table_args__ = (Index(None, "uid", "origin", unique=True),)


class PatientPart(Base):
    """Which part a patient's images belong to; once in the test part, a patient stays there for ever."""

    __tablename__ = "patient_parts"

    patient: Mapped[str] = mapped_column(String(64), primary_key=True)
    """SHA-256 of the patient id, or of the Study Instance UID where there is none: the row names nobody."""
    part: Mapped[Part]
    since: Mapped[datetime] = mapped_column(server_default=now())


class Snapshot(Base):
    """The labelled images that one training used, frozen."""

    __tablename__ = "snapshots"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    path: Mapped[str] = mapped_column(Text)
    """The list in the store: instance, label, pseudonym of the patient, source, part."""
    counts: Mapped[dict[str, Any]]
    """Part -> class -> source -> how many images."""
    left_out: Mapped[dict[str, Any]]
    """Why -> SOP Instance UIDs of labelled images that are not in it."""
    made_at: Mapped[datetime] = mapped_column(server_default=now())


class TrainingRun(Base):
    """One training of a network, from its recipe to its artefact and the gate's verdict."""

    __tablename__ = "training_runs"

    id: Mapped[int] = mapped_column(primary_key=True)
    slot: Mapped[str | None] = mapped_column(String(32))
    """The night it is of, "2026-11-24": two beats make one run. Empty for one that a person began."""
    state: Mapped[RunState] = mapped_column(default=RunState.RUNNING)
    recipe: Mapped[dict[str, Any]]
    data_digest: Mapped[str] = mapped_column(String(64), default="")
    snapshot_digest: Mapped[str | None] = mapped_column(ForeignKey("snapshots.digest"))
    folder: Mapped[str] = mapped_column(Text, default="")
    """Where it works and keeps its checkpoints."""
    artefact: Mapped[str] = mapped_column(Text, default="")
    network_digest: Mapped[str] = mapped_column(String(64), default="")
    progress: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    """epoch, epochs, loss, images_per_s, left_s, and the history of epochs."""
    metrics: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    gate: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    """The gate's verdict, with every figure it rests on; see `training.gate`."""
    tracking: Mapped[str] = mapped_column(Text, default="")
    """Where experiment tracking has it."""
    succeeded: Mapped[bool] = mapped_column(Boolean, default=False)
    error: Mapped[str | None] = mapped_column(Words)
    started_at: Mapped[datetime] = mapped_column(server_default=now())
    ended_at: Mapped[datetime | None]

    __table_args__ = (Index(None, "slot", unique=True),)
