"""The file store: what is kept of a study on disk, written so that a crash leaves whole files only.

Every file is written aside on the same file system, fsynced, renamed, and its folder fsynced, before
a row that names it is committed. Names come from a hash of the UID, never from the UID itself.
"""

import hashlib
import os
import shutil
import stat
import time
from pathlib import Path

from hilum.errors import StoreFull
from hilum.kernel import fsync

INSTANCES = "instances"
PREPARED = "prepared"
DISPLAY_FILE, INPUT_FILE = "display.png", "input.npy"
"""What lies in the folder of an image that is prepared."""
REPORTS = "reports"
NETWORKS = "networks"
SNAPSHOTS = "snapshots"
FOLDERS = 256
"""Of each kind, by the first two digits of a name's digest."""
_ASIDE = "aside"
_LOST = "lost"
_MB = 1_000_000


class Store:
    """The folder of all files; paths in the database are relative to its root."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def aside(self) -> Path:
        """Where files are written before they are whole; on the store's file system, so that rename works."""
        folder = self.root / _ASIDE
        _make_durably(folder, self.root)
        return folder

    def named(self, kind: str, *names: str, suffix: str = ".dcm") -> str:
        """The relative path that a file of these names has."""
        return _relative(kind, *names) + suffix

    def path(self, relative: str) -> Path:
        """The file or folder of a path that the database holds."""
        return self.root / relative

    def place(self, aside: Path, kind: str, *names: str, suffix: str = ".dcm") -> str:
        """Move a whole file to its place and return its relative path; an older one is replaced.

        When this returns, file and name are on disk. Raises OSError when they cannot be.
        """
        relative = self.named(kind, *names, suffix=suffix)
        self._put(aside, relative)
        return relative

    def copy(self, file: Path, relative: str) -> None:
        """Copy a file to this relative path, as `place` does."""
        aside = self.aside / f"{os.getpid()}-{time.monotonic_ns()}"
        shutil.copyfile(file, aside)
        self._put(aside, relative)

    def _put(self, aside: Path, relative: str) -> None:
        target = self.root / relative
        _make_durably(target.parent, self.root)
        aside.chmod(0o600)  # whatever the umask of whoever wrote it
        fsync(aside)
        aside.replace(target)
        fsync(target.parent)

    def write(self, content: bytes, kind: str, *names: str, suffix: str = ".dcm") -> str:
        """Keep these bytes under these names and return the relative path."""
        aside = self.aside / f"{os.getpid()}-{time.monotonic_ns()}"
        aside.write_bytes(content)
        return self.place(aside, kind, *names, suffix=suffix)

    def folder(self, kind: str, *names: str) -> str:
        """Make a folder for these names and return its relative path."""
        relative = _relative(kind, *names)
        _make_durably(self.root / relative, self.root)
        return relative

    def remove_folder(self, kind: str, *names: str) -> None:
        """Remove the folder of these names with what it holds, if there is one."""
        shutil.rmtree(self.root / _relative(kind, *names), ignore_errors=True)

    def remove(self, relative: str) -> None:
        """Remove a file, or a folder with what it holds, so that it is gone after a crash, too."""
        target = self.root / relative
        if target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)
        if target.parent.is_dir():
            fsync(target.parent)

    def require(self, relative: str) -> None:
        """Raise FileNotFoundError when this file is not there."""
        (self.root / relative).stat()

    def holds(self, relative: str, size_bytes: int) -> bool:
        """Whether this file is there in its full size; raises OSError when the store does not tell."""
        try:
            return (self.root / relative).stat().st_size == size_bytes
        except FileNotFoundError:
            return False

    def lacks(self, relative: str) -> bool:
        """Whether a file is gone from its folder; of a store that is away as a whole nothing is known."""
        path = self.root / relative
        return path.parent.is_dir() and not path.exists()

    def require_free(self, keep_free_mb: int) -> None:
        """Raise StoreFull when less than this is free on the store's file system."""
        free_mb = shutil.disk_usage(self.aside).free // _MB
        if free_mb < keep_free_mb:
            raise StoreFull(f"{self.root} has {free_mb} MB free and keeps {keep_free_mb} MB: make room")

    def old(self, kind: str, number: int, *, older_than_s: float) -> list[str]:
        """Relative paths of what one of a kind's FOLDERS holds and has held for longer than this."""
        held = (self.root / kind / f"{number:02x}").glob("*/*")
        paths = [str(path.relative_to(self.root)) for path in held]
        return [path for path in paths if self.is_old(path, older_than_s=older_than_s)]

    def is_old(self, relative: str, *, older_than_s: float) -> bool:
        """Whether a file or folder is there, and nothing was written to it for longer than this."""
        try:
            return (self.root / relative).stat().st_mtime < time.time() - older_than_s
        except FileNotFoundError:
            return False

    def lose(self, relative: str) -> None:
        """Move a file that no row names out of the way, below the folder of what is lost, for a person."""
        path, target = self.root / relative, self.lost / relative
        _make_durably(target.parent, self.root)
        path.replace(target)
        fsync(target.parent)
        fsync(path.parent)

    @property
    def lost(self) -> Path:
        """Where received files lie that no row names, under their paths in the store; it may be missing."""
        return self.root / _LOST

    def lost_files(self) -> int:
        """How many received files lie there."""
        return sum(path.is_file() for path in self.lost.rglob("*"))

    def sweep_aside(self, older_than_s: float = 3600) -> int:
        """Remove what crashes left aside and return how many files that were."""
        before = time.time() - older_than_s
        left = [path for path in self.aside.iterdir() if _is_older(path, before)]
        for path in left:
            path.unlink(missing_ok=True)
        return len(left)


def _is_older(path: Path, moment_s: float) -> bool:
    try:
        found = path.stat()
    except FileNotFoundError:
        return False  # it has just been put into its place
    return stat.S_ISREG(found.st_mode) and found.st_mtime < moment_s


def _relative(kind: str, *names: str) -> str:
    digest = hashlib.sha256("/".join(names).encode()).hexdigest()
    return f"{kind}/{digest[:2]}/{digest[2:4]}/{digest[4:40]}"


def _make_durably(folder: Path, root: Path) -> None:
    """Make a folder and those above it, up to the root, so that their names outlast a crash."""
    if folder.is_dir():
        return
    if folder != root:
        _make_durably(folder.parent, root)
    folder.mkdir(mode=0o700, parents=folder == root, exist_ok=True)
    fsync(folder.parent)
