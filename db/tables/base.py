"""What all tables have in common: their names for constraints, and the types of columns."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, Dialect, MetaData, String, Text
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.types import Enum, TypeDecorator

from db.clock import Moment
from db.tables.states import (
    AccountRole,
    DeliveryState,
    JobState,
    NetworkState,
    ObjectKind,
    Part,
    Role,
    RunState,
    StudyState,
)

Uid = String(64)
AeTitle = String(16)
LONGEST_WORDS = 2000


class Words(TypeDecorator[str]):
    """What strangers and their libraries say, fit to be kept and shown: printable, and not too long."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        if value is None:
            return None
        return "".join(each if each.isprintable() else " " for each in value[:LONGEST_WORDS])


def _enum(of: type[StrEnum]) -> Enum:
    """Kept as its value in a text column, so that a new member needs no migration."""
    return Enum(
        of,
        native_enum=False,
        length=16,
        create_constraint=False,
        values_callable=lambda e: [m.value for m in e],
    )


class Base(DeclarativeBase):
    """All tables, with constraint names that migrations can rely on."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy's own name for it
        datetime: Moment,
        dict[str, Any]: JSON,
        StudyState: _enum(StudyState),
        Role: _enum(Role),
        JobState: _enum(JobState),
        DeliveryState: _enum(DeliveryState),
        ObjectKind: _enum(ObjectKind),
        NetworkState: _enum(NetworkState),
        RunState: _enum(RunState),
        Part: _enum(Part),
        AccountRole: _enum(AccountRole),
    }
