"""What goes away, and what is kept elsewhere."""

from datetime import datetime

from sqlalchemy import BigInteger, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from db.clock import now
from db.tables.base import Base, Uid


class Removal(Base):
    """A file or folder of the store that no row names any more, and that is to be removed."""

    __tablename__ = "removals"

    path: Mapped[str] = mapped_column(String(255), primary_key=True)
    study_uid: Mapped[str | None] = mapped_column(Uid)


class RemovedStudy(Base):
    """What stays of a study whose rows were removed, so that its next report has another number."""

    __tablename__ = "removed_studies"

    study_uid: Mapped[str] = mapped_column(Uid, primary_key=True)
    revision: Mapped[int]
    removed_at: Mapped[datetime] = mapped_column(server_default=now())


class Backup(Base):
    """One backup; while its lease holds, no file is removed."""

    __tablename__ = "backups"

    id: Mapped[int] = mapped_column(primary_key=True)
    folder: Mapped[str] = mapped_column(Text)
    began_at: Mapped[datetime] = mapped_column(server_default=now())
    lease_until: Mapped[datetime | None] = mapped_column(index=True)
    ended_at: Mapped[datetime | None]
    """When it was whole; empty while it runs, and when it failed."""
    files: Mapped[int] = mapped_column(default=0)
    size_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
