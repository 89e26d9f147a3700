"""The database's clock: the only one that leases and due times go by."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import DateTime, Dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import ColumnElement
from sqlalchemy.types import TypeDecorator


class Moment(TypeDecorator[datetime]):
    """A point in time: aware and in UTC in Python, comparable in SQL on every database."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class _FromNow(ColumnElement[datetime]):
    """The database's time, so many seconds from now."""

    type = Moment()
    inherit_cache = False

    def __init__(self, seconds: float) -> None:
        self.seconds = float(seconds)


@compiles(_FromNow, "sqlite")
def _sqlite(element: _FromNow, compiler: SQLCompiler, **kw: Any) -> str:
    # the same text form as SQLAlchemy's DateTime, microseconds included, so that texts compare as times
    return f"(strftime('%Y-%m-%d %H:%M:%f', 'now', '{element.seconds:+.3f} seconds') || '000')"


@compiles(_FromNow, "postgresql")
def _postgresql(element: _FromNow, compiler: SQLCompiler, **kw: Any) -> str:
    return f"(clock_timestamp() + interval '{element.seconds:.3f} seconds')"


def from_now(seconds: float) -> ColumnElement[datetime]:
    """The database's time, so many seconds from now; negative is the past."""
    return _FromNow(seconds)


def now() -> ColumnElement[datetime]:
    """The database's time."""
    return _FromNow(0)
