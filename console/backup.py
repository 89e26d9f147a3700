"""Backup and restore of the database and the file store, to one moment, while everything runs.

A backup folder holds one copy of each file under its sha256, and a folder for each point in time: the
database as of that moment, a list of the files that it names, and a manifest. The database comes first: what
a row names was on disk before the row was there, and nothing is removed while the backup's lease holds.
"""

import csv
import fcntl
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from sqlalchemy.exc import SQLAlchemyError

from console.tables import counted
from console.up import locked
from db import audit, backups, schema
from db.backups import Snapshot
from db.session import transaction
from hilum import __version__
from hilum.errors import HilumError
from hilum.kernel import fsync
from hilum.process import OWNER_ALONE
from hilum.settings import Settings
from hilum.store import Store

MANIFEST, LIST = "manifest.json", "files.csv"
_SAID = ("made_by", "kind", "tables", "database", "sha256", "missing")
LEASE_S = 120.0
_POOL, _POINTS = "files", "points"
_PART = ".part"
_DAMAGED = ".damaged"
_CHUNK, _MB = 1 << 20, 1_000_000
_NAMED = 20


class BackupError(HilumError):
    """The operator must act: the text says which folder or file is not as it has to be."""


class Entry(NamedTuple):
    """A file of the store as a backup holds it."""

    path: str
    size_bytes: int
    mtime_ns: int
    sha256: str


@dataclass(frozen=True)
class Outcome:
    """What a backup is made of; `missing` are files that rows name and that the store has not got."""

    point: Path
    files: int
    size_bytes: int
    copied: int
    copied_bytes: int
    missing: Sequence[str]
    damaged: Sequence[str] = ()
    """What is wrong with former points, so that more was copied than is new."""

    def words(self) -> str:
        """All but what is missing, in a line."""
        copied = f"{self.copied} copied ({self.copied_bytes / _MB:.1f} MB)"
        return f"{counted(self.files, 'file', 'files')} ({self.size_bytes / _MB:.1f} MB), of which {copied}"


def back_up(ours: Settings, folder: Path) -> Outcome:
    """Add a point to this backup folder; only files that changed since the last one are copied.

    Raises
    ------
    BackupError
        When the folder lies in the store, another backup is at it, the store has nothing of what rows name,
        or this one took so long without the database that files may have been removed meanwhile.
    DumpFailed
        When the database cannot be copied.
    """
    os.umask(OWNER_ALONE)
    _require_outside(folder, ours.store)
    with _alone(folder):
        for left in (folder / _POINTS).glob(f"*{_PART}"):
            shutil.rmtree(left)
        with _leased(folder) as lease:
            outcome = _make_point(ours, folder)
            lease.end(outcome)
    return outcome


def damages(folder: Path) -> list[str]:
    """What is wrong with a backup's newest point, or with the point given; nothing: it is whole.

    A damaged file is set aside, so that the next backup copies it anew.
    """
    point = _point(folder)
    wrong = _damaged_point(point)
    seen: set[str] = set()
    for entry in [] if wrong else _listed(point):
        if entry.sha256 not in seen and _sha256(_pooled(point, entry)) != entry.sha256:
            wrong.append(
                f"{_pooled(point, entry)}: {_set_aside(point, entry)}; it is {entry.path} of the store"
            )
        seen.add(entry.sha256)
    lost = _manifest(point)["missing"]
    return wrong + [f"{path} was not in the store when the backup was made" for path in lost]


def _set_aside(point: Path, entry: Entry) -> str:
    """Rename a damaged file of the pool; what is to be said of it."""
    file = _pooled(point, entry)
    try:
        with _alone(point.parent.parent):
            if _sha256(file) == entry.sha256:
                return "was damaged, and a backup has copied it anew meanwhile"
            file.rename(file.with_name(f"{file.name}{_DAMAGED}"))
    except FileNotFoundError:
        return "gone; the next backup copies it anew"
    except (BackupError, OSError) as error:
        return f"damaged, and stays so, as it cannot be set aside ({error})"
    return f"damaged, and renamed to *{_DAMAGED}; the next backup copies it anew"


def restore(ours: Settings, folder: Path) -> Outcome:
    """Put a backup's newest point, or the point given, into an empty database and an empty store.

    Files come first and are checked on their way; then the database, which gets this version's tables.

    Raises
    ------
    BackupError
        When something is there already, or the backup is damaged.
    DumpFailed
        When the database does not take it.

    Nothing is left of what was copied then, so that it can be tried again.
    """
    os.umask(OWNER_ALONE)
    point = _point(folder)
    with locked(ours.data_dir):
        _require_fitting(ours, point)
        with _all_or_nothing(point, Store(ours.store)) as store:
            copied = _put_files(point, store)
            backups.put_back(ours.database, point / _manifest(point)["database"])
        schema.upgrade(ours.database)
        with transaction() as session:
            backups.settle(session)
            audit.note(
                session, actor="restore", action="restore", detail=f"of {point.name}: {len(copied)} files"
            )
    size_bytes = sum(entry.size_bytes for entry in copied)
    missing = _manifest(point)["missing"]
    return Outcome(point, len(copied), size_bytes, len(copied), size_bytes, missing)


def keep_newest(folder: Path, count: int) -> int:
    """Remove all but so many points of a backup, and the files that only these had; how many points."""
    with _alone(folder):
        old, kept = _points(folder)[:-count], _points(folder)[-count:]
        wanted = {entry.sha256 for point in kept for entry in _listed(point)}
        for point in old:
            shutil.rmtree(point)
        for file in (folder / _POOL).glob("*/*"):
            if file.name not in wanted:
                file.unlink()
    return len(old)


class _Lease:
    """Keeps files from being removed, from a thread of its own, until the backup is whole."""

    def __init__(self, folder: Path) -> None:
        with transaction() as session:
            self._number = backups.begin(session, str(folder), lease_s=LEASE_S)
        self._over = threading.Event()
        threading.Thread(target=self._renew, name="backup lease", daemon=True).start()

    def end(self, outcome: Outcome) -> None:
        with transaction() as session:
            whole = backups.end(session, self._number, files=outcome.files, size_bytes=outcome.size_bytes)
        if not whole:
            shutil.rmtree(outcome.point)
            raise BackupError("the database was away for so long that files may be missing: back up again")

    def give_up(self) -> None:
        self._over.set()
        with transaction() as session:
            backups.give_up(session, self._number)

    def _renew(self) -> None:
        while not self._over.wait(LEASE_S / 6):
            try:
                with transaction() as session:
                    backups.renew(session, self._number, lease_s=LEASE_S)
            except SQLAlchemyError:
                continue  # whether the lease has run out meanwhile is asked at the end


@contextmanager
def _leased(folder: Path) -> Iterator[_Lease]:
    lease = _Lease(folder)
    try:
        yield lease
    finally:
        lease.give_up()


def _make_point(ours: Settings, folder: Path) -> Outcome:
    """Write a point aside, and give it its name once all of it is on disk."""
    points = folder / _POINTS
    name = datetime.now(UTC).strftime("%Y-%m-%dT%H%M%S.%fZ")
    aside = points / f"{name}{_PART}"
    aside.mkdir(parents=True)
    known, damaged = _known(folder)
    copies = _Copies(Store(ours.store), folder / _POOL, known)
    with backups.snapshot(ours.database, aside) as snapshot:
        entries = copies.of(snapshot)
        if copies.missing and not entries:
            raise BackupError(f"{ours.store} holds nothing of what the database names: is its disk mounted?")
        _write_list(aside / LIST, entries)
        _write_manifest(aside, backups.kind(ours.database), snapshot, entries, copies.missing)
    os.sync()  # every file and every name, before the name that says that they are there
    aside.rename(points / name)
    fsync(points)
    size_bytes = sum(entry.size_bytes for entry in entries)
    made = (copies.count, copies.size_bytes, copies.missing, damaged)
    return Outcome(points / name, len(entries), size_bytes, *made)


def _known(folder: Path) -> tuple[dict[str, Entry], list[str]]:
    """The files of the newest point whose list is whole, by path, and what is wrong with newer ones."""
    damaged: list[str] = []
    for point in reversed(_points(folder)):
        try:
            return {entry.path: entry for entry in _listed(point)}, damaged
        except BackupError as error:
            damaged.append(str(error))
    return {}, damaged


class _Copies:
    """The files of a point, of which those that the last point had are not copied again."""

    def __init__(self, store: Store, pool: Path, known: dict[str, Entry]) -> None:
        self.count = self.size_bytes = 0
        self.missing: list[str] = []
        self._store, self._pool, self._known = store, pool, known

    def of(self, snapshot: Snapshot) -> list[Entry]:
        """The files that a snapshot names, in the pool."""
        entries = []
        for path, is_folder in backups.named_files(snapshot.connection):
            for each in self._files(path) if is_folder else [path]:
                try:
                    entries.append(self._entry(each))
                except FileNotFoundError:
                    self.missing.append(each)
        return entries + list(self._lost())

    def _lost(self) -> Iterator[Entry]:
        """What no row names, and may be the only copy; a person may take it away at any time."""
        for file in sorted(self._store.lost.rglob("*")):
            with suppress(FileNotFoundError, IsADirectoryError):
                yield self._entry(str(file.relative_to(self._store.root)))

    def _files(self, folder: str) -> list[str]:
        found = [file for file in self._store.path(folder).glob("*") if not file.name.endswith(".aside")]
        if not found:
            self.missing.append(folder)
        return [f"{folder}/{file.name}" for file in sorted(found)]

    def _entry(self, path: str) -> Entry:
        with self._store.path(path).open("rb") as file:
            facts = os.fstat(file.fileno())
            known = self._known.get(path)
            same = known and (known.size_bytes, known.mtime_ns) == (facts.st_size, facts.st_mtime_ns)
            if known and same and self._is_pooled(known):
                return known
            self.count += 1
            self.size_bytes += facts.st_size
            return Entry(path, facts.st_size, facts.st_mtime_ns, self._copied(file))

    def _is_pooled(self, entry: Entry) -> bool:
        place = _place(self._pool, entry.sha256)
        return place.exists() and place.stat().st_size == entry.size_bytes

    def _copied(self, file: BinaryIO) -> str:
        self._pool.mkdir(exist_ok=True)
        aside = self._pool / f"copy{_PART}"
        with aside.open("wb") as copy:
            sha256 = _copy(file, copy)
        place = _place(self._pool, sha256)
        place.parent.mkdir(exist_ok=True)
        aside.replace(place)
        return sha256


def _copy(file: BinaryIO, to: BinaryIO) -> str:
    """Copy a file to its end and return its sha256."""
    digest = hashlib.sha256()
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
        to.write(chunk)
    return digest.hexdigest()


def _write_list(to: Path, entries: Iterable[Entry]) -> None:
    with to.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.writer(lines)
        writer.writerow(Entry._fields)
        writer.writerows(entries)


def _write_manifest(
    point: Path, kind: str, snapshot: Snapshot, entries: Sequence[Entry], missing: Sequence[str]
) -> None:
    said = {
        "made_by": f"Hilum {__version__}",
        "kind": kind,
        "tables": schema.revision(snapshot.connection),
        "database": snapshot.file.name,
        "sha256": {name: _sha256(point / name) for name in (snapshot.file.name, LIST)},
        "files": len(entries),
        "missing": list(missing),
    }
    (point / MANIFEST).write_text(json.dumps(said, indent=1), encoding="utf-8")


def _put_files(point: Path, store: Store) -> list[Entry]:
    """Copy a point's files into an empty store, and check them on their way."""
    entries = _listed(point)
    damaged = [
        f"{_pooled(point, entry)}, which is {entry.path} of the store"
        for entry in entries
        if not _put(_pooled(point, entry), store.path(entry.path), entry)
    ]
    if damaged:
        raise BackupError(_damaged(damaged))
    os.sync()
    return entries


@contextmanager
def _all_or_nothing(point: Path, empty: Store) -> Iterator[Store]:
    """A store into which a point's files are put, and that is empty again when something fails."""
    try:
        yield empty
    except BaseException:
        for kind in {entry.path.partition("/")[0] for entry in _listed(point)}:
            shutil.rmtree(empty.path(kind), ignore_errors=True)
        raise


def _put(source: Path, target: Path, entry: Entry) -> bool:
    """Copy one file into the store, with its time; False when it is not what the backup took."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with source.open("rb") as file, target.open("wb") as copy:
            is_whole = _copy(file, copy) == entry.sha256
    except FileNotFoundError:
        return False
    os.utime(target, ns=(entry.mtime_ns, entry.mtime_ns))  # so that the next backup knows it again
    return is_whole


def _require_fitting(ours: Settings, point: Path) -> None:
    if wrong := _damaged_point(point):
        raise BackupError(_damaged(wrong))
    manifest, kind = _manifest(point), backups.kind(ours.database)
    if manifest["kind"] != kind:
        raise BackupError(f"{point} is a backup of {manifest['kind']}, and database_url is {kind}")
    if not schema.is_known(manifest["tables"]):
        raise BackupError(f"{point} was made by a newer version, {manifest['made_by']}: install that one")
    if ours.store.exists() and any(each.is_file() for each in ours.store.rglob("*")):
        raise BackupError(f"{ours.store} is not empty: restore into an empty place, or move it away")
    if not backups.is_empty(ours.database):
        raise BackupError("the database is not empty: restore into an empty one, or move it away")


def _damaged_point(point: Path) -> list[str]:
    digests = _manifest(point)["sha256"]
    return [f"{point / name}" for name, sha256 in digests.items() if _sha256(point / name) != sha256]


def _damaged(files: Sequence[str]) -> str:
    return "\n".join(["the backup is damaged; nothing was restored:", *first(files)])


def _damaged_list(file: Path) -> str:
    return f"{file} is damaged: its point cannot be restored, remove it and name another"


def first(lines: Sequence[str]) -> list[str]:
    """As many lines as a person reads, and how many more there are."""
    more = [f"... and {len(lines) - _NAMED} more"] if len(lines) > _NAMED else []
    return [*lines[:_NAMED], *more]


def _sha256(file: Path) -> str:
    """The digest of a file; of one that is not there none at all."""
    try:
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except FileNotFoundError:
        return ""


def _points(folder: Path) -> list[Path]:
    """The points of a backup folder, the oldest first."""
    return sorted(path.parent for path in (folder / _POINTS).glob(f"*Z/{MANIFEST}"))


def _point(folder: Path) -> Path:
    """The point that is meant by a backup folder or by one of its points."""
    points = [folder] if (folder / MANIFEST).is_file() else _points(folder)
    if not points:
        raise BackupError(f"{folder} holds no backup")
    return points[-1].resolve()


def _pooled(point: Path, entry: Entry) -> Path:
    return _place(point.parent.parent / _POOL, entry.sha256)


def _place(pool: Path, sha256: str) -> Path:
    return pool / sha256[:2] / sha256


def _manifest(point: Path) -> dict[str, Any]:
    try:
        said = json.loads((point / MANIFEST).read_text(encoding="utf-8"))
        return {name: said[name] for name in _SAID}
    except (ValueError, KeyError, TypeError) as error:
        raise BackupError(_damaged_list(point / MANIFEST)) from error


def _listed(point: Path) -> list[Entry]:
    """The files of a point; raises BackupError when their list is damaged."""
    if _sha256(point / LIST) != _manifest(point)["sha256"].get(LIST):
        raise BackupError(_damaged_list(point / LIST))
    with (point / LIST).open(newline="", encoding="utf-8") as lines:
        return [
            Entry(row["path"], int(row["size_bytes"]), int(row["mtime_ns"]), row["sha256"])
            for row in csv.DictReader(lines)
        ]


def _require_outside(folder: Path, store: Path) -> None:
    if folder.resolve().is_relative_to(store):
        raise BackupError(f"{folder} lies in the file store itself: name a folder on another disk")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold a backup folder, which one process at a time may change."""
    (folder / _POINTS).mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BackupError(f"another backup to {folder} is running") from None
        yield
