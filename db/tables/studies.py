"""What was received."""

from datetime import datetime

from sqlalchemy import ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from db.clock import now
from db.tables.base import AeTitle, Base, Uid, Words
from db.tables.states import Role, StudyState


class Study(Base):
    """One study as its sender described it."""

    __tablename__ = "studies"

    study_uid: Mapped[str] = mapped_column(Uid, primary_key=True)
    state: Mapped[StudyState] = mapped_column(default=StudyState.RECEIVED, index=True)
    sender_ae: Mapped[str] = mapped_column(AeTitle)
    urgent: Mapped[bool] = mapped_column(default=False)
    phantom: Mapped[bool] = mapped_column(default=False)
    patient_id: Mapped[str] = mapped_column(String(64), default="", index=True)
    patient_name: Mapped[str] = mapped_column(Text, default="")
    patient_birth_date: Mapped[str] = mapped_column(String(16), default="")
    patient_sex: Mapped[str] = mapped_column(String(16), default="")
    accession_number: Mapped[str] = mapped_column(String(64), default="", index=True)
    study_date: Mapped[str] = mapped_column(String(16), default="")
    study_description: Mapped[str] = mapped_column(Text, default="")
    first_received_at: Mapped[datetime] = mapped_column(server_default=now())
    last_received_at: Mapped[datetime] = mapped_column(server_default=now(), index=True)
    held_because: Mapped[str | None] = mapped_column(Words)
    """Why nothing of it is removed, whatever its age: a legal hold; empty when there is none."""
    files_removed_at: Mapped[datetime | None] = mapped_column()
    """When its files were removed; empty when there are any, of an image that came again for example."""
    prepared_removed_at: Mapped[datetime | None] = mapped_column()
    """When what was prepared of its images was removed; empty when there may be some."""

    instances: Mapped[list["Instance"]] = relationship(order_by="Instance.uid")

    __table_args__ = (
        Index(None, "sender_ae", "study_date"),
        # partial, so that the look for old files costs the same with a million studies whose files are gone
        Index(
            "ix_studies_with_files",
            "last_received_at",
            sqlite_where=files_removed_at.is_(None),
            postgresql_where=files_removed_at.is_(None),
        ),
        Index(
            "ix_studies_with_prepared",
            "last_received_at",
            sqlite_where=prepared_removed_at.is_(None),
            postgresql_where=prepared_removed_at.is_(None),
        ),
    )


class Series(Base):
    """One series of a study."""

    __tablename__ = "series"

    series_uid: Mapped[str] = mapped_column(Uid, primary_key=True)
    study_uid: Mapped[str] = mapped_column(ForeignKey("studies.study_uid"), index=True)
    modality: Mapped[str] = mapped_column(String(16), default="")
    series_description: Mapped[str] = mapped_column(Text, default="")


class Instance(Base):
    """One object we keep, and what became of it."""

    __tablename__ = "instances"

    uid: Mapped[str] = mapped_column(Uid, primary_key=True)
    study_uid: Mapped[str] = mapped_column(ForeignKey("studies.study_uid"), index=True)
    series_uid: Mapped[str] = mapped_column(ForeignKey("series.series_uid"), index=True)
    sop_class_uid: Mapped[str] = mapped_column(Uid)
    transfer_syntax_uid: Mapped[str] = mapped_column(Uid)
    role: Mapped[Role] = mapped_column(default=Role.IMAGE)
    sender_ae: Mapped[str] = mapped_column(AeTitle)
    path: Mapped[str] = mapped_column(Text)
    size_bytes: Mapped[int]
    pixel_digest: Mapped[str] = mapped_column(String(64))
    """sha256 of Pixel Data as it was received; of the whole data set when there is none."""
    received_at: Mapped[datetime] = mapped_column(server_default=now())
    removed_at: Mapped[datetime | None]
    """When its file was removed because of its age; empty while it is there."""
    view: Mapped[str] = mapped_column(String(16), default="")
    prepared: Mapped[bool] = mapped_column(default=False)
    """False once what was prepared is removed, too: it is made again when it is needed."""
    prepared_path: Mapped[str] = mapped_column(Text, default="")
    """Folder with display.png and input.npy; empty for what is not read."""
    pixel_hash: Mapped[str] = mapped_column(String(64), default="")
    """sha256 of the decoded pixels: the same image in another transfer syntax has the same."""
    not_assessed_because: Mapped[str | None] = mapped_column(Words)
    broken: Mapped[bool] = mapped_column(default=False)
    """Whether its pixels could not be decoded; the reason stands in not_assessed_because."""
    no_verdict_because: Mapped[str | None] = mapped_column(Words)
    """Of a note or report that was read for a person's verdict: why it brought none, or not all it says."""


class Variant(Base):
    """An object that came under a known UID, with other pixels or in another study: for people to see."""

    __tablename__ = "variants"

    id: Mapped[int] = mapped_column(primary_key=True)
    uid: Mapped[str] = mapped_column(ForeignKey("instances.uid"), index=True)
    study_uid: Mapped[str] = mapped_column(Uid)
    """The study that it says it belongs to, of which we may hold nothing."""
    pixel_digest: Mapped[str] = mapped_column(String(64))
    path: Mapped[str] = mapped_column(Text)
    sender_ae: Mapped[str] = mapped_column(AeTitle)
    received_at: Mapped[datetime] = mapped_column(server_default=now())

    __table_args__ = (UniqueConstraint("uid", "study_uid", "pixel_digest"),)
