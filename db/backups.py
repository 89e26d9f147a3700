"""The database in a file as of one moment, put back from it, and the lease that keeps files meanwhile."""

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import (
    URL,
    Connection,
    MetaData,
    Table,
    create_engine,
    func,
    literal,
    make_url,
    select,
    text,
    union_all,
    update,
)
from sqlalchemy.orm import Session

from db.clock import from_now, now
from db.session import engine
from db.tables import Backup, Base, Instance, Job, JobState, NetworkVersion, Report, ReportObject, Variant
from db.tables import Snapshot as LabelledImages
from hilum.errors import HilumError, SettingsError

_ROWS_AT_ONCE = 10_000
_VERSION = "alembic_version"
_OLD = (
    "if it is older than the server: install PostgreSQL's client (postgresql-client) of the server's version"
)


class DumpFailed(HilumError):
    """The operator must act: the database, or its own program, says why it cannot be copied or put back."""


@dataclass(frozen=True)
class Snapshot:
    """The database as of one moment: its file, and a connection that sees this moment and no later one."""

    file: Path
    connection: Connection


def begin(session: Session, folder: str, *, lease_s: float) -> int:
    """Write down that a backup begins, and return its number: no file is removed while its lease holds."""
    backup = Backup(folder=folder, lease_until=from_now(lease_s))
    session.add(backup)
    session.flush()
    return backup.id


def renew(session: Session, number: int, *, lease_s: float) -> bool:
    """Keep a backup's lease; False when it has run out, and files may be gone that it was to copy."""
    return _while_held(session, number, lease_until=from_now(lease_s))


def end(session: Session, number: int, *, files: int, size_bytes: int) -> bool:
    """Write down that a backup is whole, and let files go again; False when its lease had run out before."""
    return _while_held(session, number, lease_until=None, ended_at=now(), files=files, size_bytes=size_bytes)


def give_up(session: Session, number: int) -> None:
    """Let files go again: the backup has failed."""
    _while_held(session, number, lease_until=None)


def latest(session: Session) -> Backup | None:
    """The last backup that is whole, or None."""
    query = select(Backup).where(Backup.ended_at.is_not(None)).order_by(Backup.id.desc()).limit(1)
    return session.scalars(query).one_or_none()


@contextmanager
def snapshot(url: str, folder: Path) -> Iterator[Snapshot]:
    """Copy the database into a file of this folder while everybody goes on working with it.

    Raises
    ------
    SettingsError
        When pg_dump is not installed.
    DumpFailed
        When it, or SQLite, cannot do it.
    """
    if make_url(url).get_backend_name() == "sqlite":
        with _of_sqlite(make_url(url), folder / "database.sqlite") as made:
            yield made
    else:
        with _of_postgresql(url, folder / "database.dump") as made:
            yield made


def kind(url: str) -> str:
    """What a snapshot of this database can be put back into: sqlite or postgresql."""
    return make_url(url).get_backend_name()


def named_files(connection: Connection) -> Iterator[tuple[str, bool]]:
    """(path, whether it is a folder) of all that rows name in the store, as this connection sees them."""
    folder, file = literal(True), literal(False)
    here, rendered = Instance.removed_at.is_(None), Report.removed_at.is_(None)
    named = union_all(
        select(Instance.path, file).where(here),
        select(Variant.path, file),
        select(ReportObject.path, file).join(Report, ReportObject.report_id == Report.id).where(rendered),
        select(Instance.prepared_path, folder).where(Instance.prepared, Instance.prepared_path != ""),
        select(LabelledImages.path, file),
        select(NetworkVersion.path, folder).where(NetworkVersion.path != ""),
    )
    for row in connection.execute(named, execution_options={"yield_per": _ROWS_AT_ONCE}):
        yield row[0], row[1]


def is_empty(url: str) -> bool:
    """Whether nothing is in this database, or tables of ours alone in which nothing is."""
    file = make_url(url).database
    if kind(url) == "sqlite" and not Path(str(file)).exists():
        return True
    with engine(url).connect() as connection:
        tables = _tables(connection)
        ours = {*Base.metadata.tables, _VERSION}
        return tables.keys() <= ours and not any(
            connection.scalar(select(literal(1)).select_from(table).limit(1))
            for name, table in tables.items()
            if name != _VERSION
        )


def put_back(url: str, file: Path) -> None:
    """Make an empty database what a snapshot was; all of it, or nothing.

    Raises SettingsError when pg_restore is not installed, and DumpFailed when it fails.
    """
    if kind(url) == "sqlite":
        _put_back_sqlite(url, file)
        return
    with engine(url).begin() as connection:  # the dump makes the tables that it was made of
        MetaData().drop_all(connection, list(_tables(connection).values()))
    whole = ("--single-transaction", "--exit-on-error", "--no-owner", "--no-privileges")
    _run("pg_restore", make_url(url), *whole, str(file))


def settle(session: Session) -> None:
    """Free the work that was going on when the snapshot was made: who was at it is gone, and has not died."""
    at_work = update(Job).where(Job.state == JobState.WAITING)
    session.execute(at_work.values(lease_token=None, lease_until=None, rung_at=None))
    session.execute(update(Backup).values(lease_until=None))


def _tables(connection: Connection) -> dict[str, Table]:
    """What tables there are, by name, whatever version they are of."""
    there = MetaData()
    there.reflect(connection)
    return dict(there.tables)


def _while_held(session: Session, number: int, **values: object) -> bool:
    held = update(Backup).where(Backup.id == number, Backup.lease_until > now())
    return bool(session.execute(held.values(**values)).rowcount)  # type: ignore[attr-defined]


@contextmanager
def _of_sqlite(url: URL, to: Path) -> Iterator[Snapshot]:
    try:
        with closing(sqlite3.connect(str(url.database))) as ours, closing(sqlite3.connect(to)) as copy:
            ours.backup(copy)  # in one step: writers go on beside it, and none makes it begin anew
            copy.execute("PRAGMA journal_mode = DELETE")  # one file, with none beside it
            [said] = copy.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.Error as error:
        raise DumpFailed(f"{url.database} cannot be copied: {error}") from error
    if said != "ok":
        raise DumpFailed(f"{url.database} is damaged: {said}; do not back up over a good backup")
    copied = create_engine(f"sqlite:///{to}")
    try:
        with copied.connect() as connection:
            yield Snapshot(to, connection)
    finally:
        copied.dispose()


@contextmanager
def _of_postgresql(url: str, to: Path) -> Iterator[Snapshot]:
    with engine(url).connect() as anyhow:
        connection = anyhow.execution_options(isolation_level="REPEATABLE READ")
        # it waits for pg_dump and for files to be copied, and its snapshot ends with it
        connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        name = connection.execute(select(func.pg_export_snapshot())).scalar_one()
        whole = ("--format=custom", "--no-owner", "--no-privileges", f"--snapshot={name}", f"--file={to}")
        _run("pg_dump", make_url(url), *whole)
        yield Snapshot(to, connection)


def _put_back_sqlite(url: str, file: Path) -> None:
    target = Path(str(make_url(url).database))
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    aside = target.with_name(f"{target.name}.aside")
    shutil.copyfile(file, aside)
    aside.chmod(0o600)
    engine(url).dispose()
    for beside in ("-wal", "-shm"):  # of a database without tables: SQLite would take them for this one's
        target.with_name(target.name + beside).unlink(missing_ok=True)
    aside.replace(target)


def _run(program: str, url: URL, *arguments: str) -> None:
    """Run one of PostgreSQL's own programs; the password goes by the environment, where no `ps` shows it."""
    found = shutil.which(program)
    if found is None:
        raise SettingsError(f"{program} is not installed: install PostgreSQL's client (postgresql-client)")
    address = url.set(drivername="postgresql", password=None).render_as_string()
    secret = {"PGPASSWORD": str(url.password)} if url.password else {}
    ended = subprocess.run(  # noqa: S603 - PostgreSQL's own program, with an address of the settings
        [found, f"--dbname={address}", *arguments],
        env=os.environ | secret | {"LC_ALL": "C"},
        capture_output=True,
        text=True,
    )
    if ended.returncode:
        hint = f" ({_OLD})" * ("version" in ended.stderr)
        raise DumpFailed(f"{program}: {ended.stderr.strip()}{hint}")
