"""Connections and transactions: the caller owns the transaction, on SQLite and PostgreSQL alike."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

from hilum.settings import settings

BUSY_TIMEOUT_S = 30
_BEGIN_TRIES = 4
LONGEST_SILENCE_S = 15
"""After so long between two statements PostgreSQL ends a transaction, and what it holds is free."""
_SOON_NOTICED = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
"""What libpq is told, unless the URL says otherwise: where packets get lost it would wait for hours."""
_COMMON: dict[str, Any] = {"max_overflow": 40, "hide_parameters": True}  # of errors, which end up in logs


@contextmanager
def transaction() -> Iterator[Session]:
    """A session whose changes are committed together at the end of the block, or not at all.

    Raises sqlalchemy.exc.DBAPIError when the database is away.
    """
    with Session(engine(settings().database), expire_on_commit=False) as session, session.begin():
        yield session


def engine(url: str) -> Engine:
    """The connection pool of this process for this database; a forked child gets one of its own."""
    return _engine(url, os.getpid())


@cache
def _engine(url: str, pid: int) -> Engine:
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        told = {name: value for name, value in _SOON_NOTICED.items() if name not in parsed.query}
        server = create_engine(parsed, connect_args=told, pool_pre_ping=True, pool_recycle=1800, **_COMMON)
        event.listen(server, "connect", _limit_silence)
        return server
    if parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        Path(parsed.database).touch(mode=0o600)  # SQLite would let others read it
    lite = create_engine(parsed, connect_args={"timeout": BUSY_TIMEOUT_S}, **_COMMON)
    event.listen(lite, "connect", _set_pragmas)
    event.listen(lite, "begin", _begin_immediate)
    return lite


def _limit_silence(connection: Any, record: ConnectionPoolEntry) -> None:
    """Not as an option of the connection's start, which poolers between us and the server refuse."""
    with connection.cursor() as cursor:
        cursor.execute(f"SET idle_in_transaction_session_timeout = '{LONGEST_SILENCE_S}s'")
    connection.commit()


def _set_pragmas(connection: sqlite3.Connection, record: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # the driver begins nothing by itself: _begin_immediate does
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_immediate(connection: Connection) -> None:
    """Take the write lock at once: deferred transactions of several processes starve each other."""
    for attempt in range(1, _BEGIN_TRIES + 1):
        try:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            return
        except Exception as error:
            if attempt == _BEGIN_TRIES or "locked" not in str(error):
                raise
