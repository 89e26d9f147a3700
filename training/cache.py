"""Network inputs of files, decoded once and kept where they can be mapped into memory.

The cache is a folder of packs: `<name>.npy`, (K, 224, 224) uint8, and `<name>.csv`, what each image's file
says. A pack is known by its CSV file, which is renamed into place last; so a run that is killed leaves no
broken pack, and two runs at once do no harm. Images are known by their files' content: one that changed is
decoded anew, one that moved is not.
"""

import csv
import errno
import hashlib
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex
from typing import NamedTuple

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from hilum.errors import HilumError
from hilum.kernel import fsync
from hilum.radiograph import INPUT_SIZE, PREPROCESSING
from training.decoder import Header, decoded

_LAYOUT = 2  # of a pack's CSV file
_PACK = 1024  # images that are decoded before they are kept: the most that a kill costs
_SEEN = "seen"
_ODD_NAMES = "surrogateescape"  # of files, that are not UTF-8
_TRIES = 5
_FULL = (errno.ENOSPC, errno.EDQUOT)
_LEFT_ASIDE_S = 86_400
_UNUSED_S = 90 * 86_400


class CacheFull(HilumError):
    """The operator must make room for decoded images, or name another place for them."""


@dataclass(frozen=True)
class Found:
    """What became of some files, index for index."""

    headers: Sequence[Header] = ()
    pixels: NDArray[np.uint8] = field(default_factory=lambda: np.empty((0, INPUT_SIZE, INPUT_SIZE), np.uint8))
    """(N, 224, 224), mapped from the cache."""
    problems: dict[Path, str] = field(default_factory=dict)
    """Files that cannot be used, and why; where there are any, the rest is empty."""


class _Place(NamedTuple):
    pack: str
    row: int
    header: Header


class _Stamp(NamedTuple):
    """What tells, without reading a file, whether it is still the one that was read."""

    file: str
    size: str
    mtime_ns: str


class Cache:
    """Network inputs in a folder, which is made; it holds patients' images and is for its owner only."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / f"{PREPROCESSING}-{_LAYOUT}"
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._sweep()

    def _sweep(self) -> None:
        """Remove what crashes left, and the packs that nobody has asked for in a quarter of a year."""
        for file in self._folder.iterdir():
            is_half = file.suffix == ".aside" or (
                file.suffix == ".npy" and not file.with_suffix(".csv").exists()
            )
            kept_s = _LEFT_ASIDE_S if is_half else _UNUSED_S
            with suppress(FileNotFoundError):  # another run sweeps too
                if file.stat().st_mtime < time.time() - kept_s:
                    file.unlink()

    def read(self, files: Sequence[Path]) -> Found:
        """Return the network inputs of DICOM, JPEG and PNG files, in their order.

        Those not known yet are decoded, in as many processes as there are cores. Raises CacheFull when the
        disk is.
        """
        digests, problems = self._digests(files)
        if problems or not files:
            return Found(problems=problems)
        for _ in range(_TRIES):
            with suppress(FileNotFoundError, KeyError):  # another run has just put these packs together
                return self._gathered(digests)
        return self._gathered(digests)

    def _digests(self, files: Sequence[Path]) -> tuple[list[str], dict[Path, str]]:
        """The digest of each file, when all are in a pack; and what is wrong with those that cannot be."""
        places, seen = self._places(), self._seen()
        stamps, problems = _stamps(files)
        todo = [file for file, stamp in stamps.items() if seen.get(stamp) not in places]
        fresh: list[tuple[Header, NDArray[np.uint8]]] = []
        terminal = Console(stderr=True)
        try:
            for file, outcome in track(
                decoded(todo, places.keys()),
                "decoding",
                total=len(todo),
                console=terminal,
                disable=not (todo and terminal.is_terminal),
            ):
                if isinstance(outcome, str):
                    problems[file] = outcome
                    continue
                header, pixels = outcome
                seen[stamps[file]] = header.sha256
                fresh += [] if pixels is None else [(header, pixels)]
                if len(fresh) == _PACK:
                    self._keep(fresh)
                    fresh = []
        finally:  # Ctrl-C too costs nothing that was done
            self._keep(fresh)
            self._remember(seen)
        return [seen[stamps[file]] for file in files if file not in problems], problems

    def _keep(self, fresh: Sequence[tuple[Header, NDArray[np.uint8]]]) -> None:
        if fresh:
            self._write([header for header, _ in fresh], (pixels for _, pixels in fresh))

    def _gathered(self, digests: Sequence[str]) -> Found:
        """One pack of just these images in this order; it is made where it is not there yet."""
        places = self._places()
        found = [places[digest] for digest in digests]
        headers = [place.header for place in found]
        packs = {name: self._pixels(name) for name in {place.pack for place in found}}
        name = self._write(headers, (packs[place.pack][place.row] for place in found))
        self._drop(within=set(digests))
        for suffix in (".npy", ".csv"):
            os.utime(self._folder / f"{name}{suffix}")  # it is in use
        return Found(headers, self._pixels(name))

    def _pixels(self, name: str) -> NDArray[np.uint8]:
        # "c", and not "r", because torch warns of arrays that cannot be written to; the file stays as it is
        mapped: NDArray[np.uint8] = np.load(self._folder / f"{name}.npy", mmap_mode="c", allow_pickle=False)
        return mapped

    def _write(self, headers: Sequence[Header], images: Iterable[NDArray[np.uint8]]) -> str:
        """Make a pack, where there is none of these images yet, and return its name."""
        name = hashlib.sha256("".join(header.sha256 for header in headers).encode()).hexdigest()[:32]
        if (self._folder / f"{name}.csv").exists():
            return name
        aside = self._aside(f"{name}.npy")
        shape = (len(headers), INPUT_SIZE, INPUT_SIZE)
        with self._room(aside):
            pixels = open_memmap(aside, mode="w+", dtype=np.uint8, shape=shape)
            _allocate(aside)  # a full disk would end this process, once what is mapped is written to
            for row, image in enumerate(images):
                pixels[row] = image
            pixels.flush()
            fsync(aside)
        aside.replace(self._folder / f"{name}.npy")
        self._write_rows(f"{name}.csv", headers)
        return name

    def _write_rows(self, name: str, rows: Iterable[Sequence[str]]) -> None:
        aside = self._aside(name)
        with self._room(aside):
            with aside.open("w", newline="", encoding="utf-8", errors=_ODD_NAMES) as lines:
                csv.writer(lines).writerows(rows)
            fsync(aside)
        aside.replace(self._folder / name)

    @contextmanager
    def _room(self, aside: Path) -> Iterator[None]:
        """Say it in words, and remove what was begun, when there is no room for it."""
        try:
            yield
        except OSError as error:
            aside.unlink(missing_ok=True)
            if error.errno not in _FULL:
                raise
            raise CacheFull(
                f"there is no room for decoded images in {self._folder}: make some, or name another place "
                "with --cache"
            ) from error

    def _aside(self, name: str) -> Path:
        return self._folder / f"{name}.{token_hex(8)}.aside"

    def _places(self) -> dict[str, _Place]:
        """Digest -> where the image lies."""
        return {
            header.sha256: _Place(file.stem, row, header)
            for file in sorted(self._folder.glob("*.csv"))
            if file.with_suffix(".npy").exists()
            for row, header in enumerate(Header(*line) for line in _rows(file))
        }

    def _drop(self, *, within: set[str]) -> None:
        """Remove the packs that hold only some of these images; whoever has one mapped keeps it.

        A pack of all of them stays, in whatever order: its owner may be dropping this one.
        """
        for file in self._folder.glob("*.csv"):
            if within > {digest for digest, *_ in _rows(file)}:
                file.unlink(missing_ok=True)
                file.with_suffix(".npy").unlink(missing_ok=True)

    def _seen(self) -> dict[_Stamp, str]:
        """The digest of each file as it was when it was read."""
        return {_Stamp(*stamp): digest for *stamp, digest in _rows(self._folder / _SEEN)}

    def _remember(self, seen: dict[_Stamp, str]) -> None:
        self._write_rows(_SEEN, [(*stamp, digest) for stamp, digest in (self._seen() | seen).items()])


def _allocate(file: Path) -> None:
    with file.open("r+b") as content:
        os.posix_fallocate(content.fileno(), 0, file.stat().st_size)


def _rows(file: Path) -> list[list[str]]:
    try:
        with file.open(newline="", encoding="utf-8", errors=_ODD_NAMES) as lines:
            return list(csv.reader(lines))
    except FileNotFoundError:  # not made yet, or dropped by another run
        return []


def _stamps(files: Iterable[Path]) -> tuple[dict[Path, _Stamp], dict[Path, str]]:
    stamps, problems = {}, {}
    for file in files:
        try:
            found = file.stat()
        except OSError as error:
            problems[file] = error.strerror or str(error)
        else:
            stamps[file] = _Stamp(str(file.absolute()), str(found.st_size), str(found.st_mtime_ns))
    return stamps, problems
