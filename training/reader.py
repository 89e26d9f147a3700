"""Labelled images from where a hospital has them: a manifest, a folder for each class, or the database."""

import csv
import logging
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from db.session import transaction
from db.verdicts import Labelled, labelled_images
from hilum.errors import HilumError
from hilum.labels import label_of
from hilum.network import LABELS
from hilum.settings import settings
from hilum.store import Store
from training.cache import Cache, Found
from training.data import Images
from training.decoder import Header

log = logging.getLogger(__name__)

MANIFEST = "manifest.csv"
_WANTED = (
    f"name its images in a {MANIFEST} with the columns file and class, or put them into a folder for each "
    "class: normal, pneumonia, covid19, other"
)
_NAMED = 10
_SUFFIXES = ("", ".dcm", ".dicom", ".jpg", ".jpeg", ".png")

Listed = tuple[list["Entry"], list[str]]
"""Images, and what is wrong with others."""


class UnusableData(HilumError):
    """The operator must mend the data: the text names what cannot be used, and why."""


@dataclass(frozen=True)
class Entry:
    """An image as its collection describes it; what is empty there is taken from a DICOM file's header."""

    file: Path
    name: str
    """What its collection calls it."""
    label: int
    """Index into `hilum.network.LABELS`."""
    source: str
    patient: str = ""
    view: str = ""
    sex: str = ""
    age_years: str = ""
    sha256: str = ""


@dataclass(frozen=True)
class Collection:
    images: Images
    names: Sequence[str]
    """What people call each image: its file, or its SOP Instance UID."""
    folders: Path | None = None
    """Where the images lie in a folder for each class, and no other folder may be."""


def read(where: Path | None, *, manifest: Path | None = None, cache: Path | None = None) -> Images:
    """Return the images of a collection as the network's input, in its order; see `collect`."""
    return collect(where, manifest=manifest, cache=cache).images


def collect(where: Path | None, *, manifest: Path | None = None, cache: Path | None = None) -> Collection:
    """Return the images of a collection, DICOM, JPEG and PNG alike, and their names, in its order.

    `where` is a folder. The manifest given, or its own `manifest.csv`, lists the images: a CSV file with the
    columns file (a path below the folder) and class, and, as far as known, patient_id or patient,
    source_dataset or source, view, sex, age (years) and sha256. Without one, the images lie in a folder
    for each class. Without `where` they are the assessed images of the studies that people labelled, out
    of the database, and no phantoms. What a collection does not say a DICOM file says itself.

    What was decoded is kept for the next time in the folder `cache`; left out, in `default_cache`.

    Raises
    ------
    UnusableData
        One error for all files that are missing, cannot be read or have an unknown class.
    """
    entries, problems = _listed(where, manifest)
    found = Cache(cache or default_cache(where)).read([entry.file for entry in entries])
    _refuse(problems + _unreadable(entries, found))
    if not entries:
        raise UnusableData(f"{where or 'the database'} holds no labelled images: {_WANTED}")
    _warn_of_strangers(found.headers)
    folders = None if where is None or manifest or (where / MANIFEST).exists() else where
    return Collection(_images(entries, found), [entry.name for entry in entries], folders)


def default_cache(where: Path | None) -> Path:
    """Return the cache's folder: beside the images, where who may see them is settled.

    In the user's own cache when that cannot be written to, or is another user's; in the data folder for
    the database.
    """
    if where is None:
        return settings().data_dir / "training-cache"
    beside = where / ".hilum-cache"
    if os.access(beside if beside.exists() else where, os.W_OK) and _is_ours(beside):
        return beside
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hilum"


def _is_ours(folder: Path) -> bool:
    """Whether all there is in it is this user's: what another one decodes is theirs alone."""
    return not folder.exists() or all(
        each.stat().st_uid == os.geteuid() for each in (folder, *folder.iterdir())
    )


def _listed(where: Path | None, manifest: Path | None) -> Listed:
    if where is None and manifest is not None:
        raise UnusableData(f"{manifest} lists files of a folder: name that folder too")
    if where is None:
        return _of_database()
    if manifest or (where / MANIFEST).exists():
        return _of_manifest(where, manifest or where / MANIFEST)
    return _of_folders(where)


def _of_manifest(where: Path, manifest: Path) -> Listed:
    try:
        with manifest.open(newline="", encoding="utf-8-sig") as lines:  # a spreadsheet may write a BOM
            rows = csv.DictReader(lines)
            missing = {"file", "class"} - set(rows.fieldnames or ())
            if missing:
                raise UnusableData(f"{manifest} has no column {' and no '.join(sorted(missing))}: {_WANTED}")
            return _sorted_out(_of_row(where, row) for row in rows)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UnusableData(f"{manifest} is no CSV file in UTF-8 ({error}): save it as one") from error


def _sorted_out(listed: Iterable[Entry | str]) -> Listed:
    entries = list(listed)
    return (
        [entry for entry in entries if isinstance(entry, Entry)],
        [problem for problem in entries if isinstance(problem, str)],
    )


def _of_row(where: Path, row: dict[str, str | None]) -> Entry | str:
    """A manifest's row as an image, or what is wrong with it."""
    said = {name: (value or "").strip() for name, value in row.items() if isinstance(value, str)}
    name, label, age = said.get("file", ""), _label(said.get("class", "")), said.get("age", "")
    if not name:
        return "a row without a file"
    if not _is_below(name):
        return f"{name!r} is no path below the folder"
    if label is None:
        return f"{name}: {said.get('class', '')!r} is no class"
    if not re.fullmatch(r"(\d+(\.\d*)?)?", age):
        return f"{name}: {age!r} is no age in years"
    return Entry(
        where / name,
        name,
        label,
        source=said.get("source_dataset") or said.get("source") or _name(where.resolve().name),
        patient=said.get("patient_id") or said.get("patient", ""),
        view=_view(said.get("view", "")),
        sex=_sex(said.get("sex", "")),
        age_years=age,
        sha256=said.get("sha256", "").lower(),
    )


def _is_below(name: str) -> bool:
    """Whether a stranger's name of a file stays in its folder, and is a name at all."""
    return "\0" not in name and not Path(name).is_absolute() and ".." not in Path(name).parts


def _of_folders(where: Path) -> Listed:
    entries: list[Entry] = []
    problems = []
    for folder in sorted(where.iterdir()):
        label = _label(folder.name)
        if folder.name.startswith(".") or not folder.is_dir():
            continue
        if label is None:
            problems.append(f"{folder.name}/: the folder's name is no class")
            continue
        source = _name(where.resolve().name)
        entries += [
            Entry(file, _name(file.relative_to(where)), label, source) for file in _image_files(folder)
        ]
    return entries, problems


def _name(file: Path | str) -> str:
    """A file's name as text that can be written anywhere; not all names are UTF-8."""
    return os.fsencode(file).decode("utf-8", "replace")


def _image_files(folder: Path) -> list[Path]:
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and not file.name.startswith(".")]
    images = [file for file in files if _is_named_as_an_image(file)]
    if len(images) < len(files):
        log.warning("%s: %d files are passed over: no DICOM, JPEG or PNG", folder, len(files) - len(images))
    return images


def _is_named_as_an_image(file: Path) -> bool:
    """By its ending; DICOM files often have none, or end as a UID does."""
    return file.suffix.lower() in _SUFFIXES or file.suffix[1:].isdigit()


def _of_database() -> Listed:
    store = Store(settings().store)
    with transaction() as session:
        labelled = labelled_images(session)
    return _sorted_out(_of_verdict(store, each) for each in labelled)


def _of_verdict(store: Store, labelled: Labelled) -> Entry | str:
    label, study = _label(labelled.label), labelled.study
    if label is None:
        return f"{labelled.instance.uid}: {labelled.label!r} is no class"
    return Entry(
        store.path(labelled.instance.path),
        labelled.instance.uid,
        label,
        source=study.sender_ae,
        patient=study.patient_id or study.study_uid,
        view=_view(labelled.instance.view),
    )


def _label(name: str) -> int | None:
    """The label of a class or folder as an index; None when it is none."""
    label = label_of(name)
    return None if label is None else LABELS.index(label)


def _view(said: str) -> str:
    return said[:2].upper() if re.match(r"(PA|AP)\b", said.upper()) else ""


def _sex(said: str) -> str:
    return said[:1].upper() if said[:1].upper() in ("M", "F") else ""


def _unreadable(entries: Sequence[Entry], found: Found) -> list[str]:
    if found.problems:
        return [
            f"{each.name}: {found.problems[each.file]}" for each in entries if each.file in found.problems
        ]
    return [
        f"{entry.name}: its sha256 is not the manifest's: {header.sha256}"
        for entry, header in zip(entries, found.headers, strict=True)
        if entry.sha256 not in ("", header.sha256)
    ]


def _warn_of_strangers(headers: Sequence[Header]) -> None:
    """Of what a network may learn here and would never be asked at work: laterals, children, raw data."""
    reasons = Counter(header.not_assessed_because for header in headers if header.not_assessed_because)
    if reasons:
        log.warning(
            "%d of %d images would not be assessed at work, and are taken here all the same: %s. Take them "
            "out of the collection, unless they are meant.",
            reasons.total(),
            len(headers),
            "; ".join(f"{reason} ({count:,})" for reason, count in reasons.most_common()),
        )


def _refuse(problems: Sequence[str]) -> None:
    if not problems:
        return
    more = [f"... and {len(problems) - _NAMED:,} more"] if len(problems) > _NAMED else []
    raise UnusableData(
        f"mend or remove what cannot be used ({len(problems):,}):\n" + "\n".join([*problems[:_NAMED], *more])
    )


def _images(entries: Sequence[Entry], found: Found) -> Images:
    said = list(zip(entries, found.headers, strict=True))
    return Images(
        pixels=found.pixels,
        labels=np.array([entry.label for entry in entries], np.int64),
        sources=np.array([entry.source for entry in entries], np.str_),
        patients=_patients(said),
        digests=np.array([header.sha256 for header in found.headers], np.str_),
        views=np.array([entry.view or header.view for entry, header in said], np.str_),
        sexes=np.array([entry.sex or header.sex for entry, header in said], np.str_),
        ages_years=np.array(
            [float(entry.age_years or header.age_years or math.nan) for entry, header in said], np.float64
        ),
    )


def _patients(said: Sequence[tuple[Entry, Header]]) -> NDArray[np.str_]:
    """The patient of each image; where none is known the image stands for one."""
    unknown = sum(not (entry.patient or header.patient) for entry, header in said)
    if unknown:
        log.warning(
            "%d of %d images do not say whose they are: each counts as a patient of its own. Where two are "
            "of one person, the network may be tested on whom it was trained on, and its figures flatter: "
            "give patient_id in a manifest.",
            unknown,
            len(said),
        )
    return np.array(
        [entry.patient or header.patient or f"image-{header.sha256[:16]}" for entry, header in said], np.str_
    )
