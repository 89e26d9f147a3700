"""A snapshot: the labelled images of a training, frozen, each in the part that its patient is in for ever.

The list in the store names nobody: instances, patients and sources stand under pseudonyms. Its name is the
digest of what it says, in an order of its own, so that the same verdicts give the same snapshot.
"""

import csv
import hashlib
import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from db import snapshots, verdicts
from db.tables import Part, Snapshot, Study
from hilum.errors import HilumError
from hilum.network import LABELS
from hilum.pseudonyms import Pseudonyms
from hilum.store import SNAPSHOTS, Store
from training.split import SplitLeaks, related

IN_ANOTHER_PART = "of a family in another part"
"""Why an image is left out: its patient shares an image with one who is in another part."""
_STRICTEST = (Part.TEST, Part.VALIDATION, Part.TRAIN)
"""Of the parts that a family's patients are in, the first one holds."""
_FILES = ("file", "class", "patient_id", "source_dataset", "view", "part")


class WrongSnapshot(HilumError):
    """The operator must act: a snapshot's list was altered, or this place cannot tell whom it means."""


class Row(NamedTuple):
    """A line of the list."""

    instance: str
    label: str
    patient: str
    source: str
    part: str


@dataclass(frozen=True)
class Image:
    """A labelled image before it has a part."""

    uid: str
    patient: str
    """As `db.tables.PatientPart` names them."""
    pixels: str
    """The same for the same image."""
    label: str


def patient_of(study: Study) -> str:
    """The name under which a study's patient has a part: it does not tell who it is."""
    return hashlib.sha256((study.patient_id or study.study_uid).encode()).hexdigest()


def parts_for(
    images: Sequence[Image], settled: Mapping[str, Part], shares: Sequence[float]
) -> tuple[dict[str, Part], set[str]]:
    """Return the part of every patient, and the patients whose images are to be left out.

    `settled` are the parts that patients have: nobody's is changed. Patients who share an image come into
    one part; where they are in several already, the test part holds, then validation, and the images of the
    others are left out. New patients fill up what a class lacks of its shares, in an order that nobody
    chooses. The order of the images plays no part.
    """
    family_of = _families(images)
    members: dict[str, set[str]] = defaultdict(set)
    labels: dict[str, int] = {}
    for image in images:
        family = family_of[image.patient]
        members[family].add(image.patient)
        label = LABELS.index(image.label)
        labels[family] = min(label, labels.get(family, label))
    known = {family: _settled_part(patients, settled) for family, patients in members.items()}
    part_of = {family: part for family, part in known.items() if part is not None}
    filled = Counter((labels[family], part) for family, part in part_of.items())
    for family in sorted(members.keys() - part_of.keys(), key=_shuffling):
        part = _most_lacking({each: filled[labels[family], each] for each in Part}, shares)
        part_of[family] = part
        filled[labels[family], part] += 1
    wanted = {patient: part_of[family] for patient, family in family_of.items()}
    parts = {patient: settled.get(patient, part) for patient, part in wanted.items()}
    return parts, {patient for patient, part in parts.items() if part is not wanted[patient]}


def _families(images: Sequence[Image]) -> dict[str, str]:
    """Patient -> the first of those that must stay together."""
    if not images:
        return {}
    patients = np.array([image.patient for image in images], np.str_)
    names = related(patients, np.array([image.pixels for image in images], np.str_))
    return dict(zip(patients.tolist(), names.tolist(), strict=True))


def _settled_part(patients: Iterable[str], settled: Mapping[str, Part]) -> Part | None:
    found = {settled[patient] for patient in patients if patient in settled}
    return next((part for part in _STRICTEST if part in found), None)


def _most_lacking(filled: Mapping[Part, int], shares: Sequence[float]) -> Part:
    wanted = 1 + sum(filled.values())
    return max(zip(Part, shares, strict=True), key=lambda each: round(each[1] * wanted - filled[each[0]], 9))[
        0
    ]


def _shuffling(name: str) -> bytes:
    return hashlib.sha256(f"part {name}".encode()).digest()


def freeze(
    session: Session, store: Store, pseudonyms: Pseudonyms, shares: tuple[float, float, float]
) -> Snapshot:
    """Return the snapshot of what people agree on now, kept in the store before the caller commits its row.

    Patients who are new get their part by `shares` (of train, validation and test).
    """
    made_at = snapshots.alone(session)
    left_out: dict[str, list[str]] = defaultdict(list)
    images: list[Image] = []
    sources: dict[str, str] = {}
    for each in verdicts.labelled(session):
        uid = each.instance.uid
        if each.left_out_because is not None:
            left_out[each.left_out_because].append(uid)
            continue
        sources[uid] = each.study.sender_ae
        pixels = each.instance.pixel_hash or uid
        images.append(Image(uid, patient_of(each.study), pixels, each.label))
    settled = snapshots.parts(session)
    parts, apart = parts_for(images, settled, shares)
    snapshots.settle(session, {patient: part for patient, part in parts.items() if patient not in settled})
    left_out[IN_ANOTHER_PART] += [image.uid for image in images if image.patient in apart]
    kept = [image for image in images if image.patient not in apart]
    require_apart([(image.patient, image.pixels, parts[image.patient]) for image in kept])
    content = _content(
        Row(
            pseudonyms.uid(image.uid),
            image.label,
            pseudonyms.patient(image.patient),
            pseudonyms.source(sources[image.uid]),
            parts[image.patient],
        )
        for image in kept
    )
    digest = hashlib.sha256(content).hexdigest()
    path = store.write(content, SNAPSHOTS, digest, suffix=".csv")
    counts = _counts((parts[image.patient], image.label, sources[image.uid]) for image in kept)
    said = {why: sorted(uids) for why, uids in sorted(left_out.items()) if uids}
    return snapshots.save(session, digest, path=path, counts=counts, left_out=said, made_at=made_at)


def require_apart(images: Iterable[tuple[str, str, str]]) -> None:
    """Raise SplitLeaks when of (patient, image, part) a patient or an image is in more than one part."""
    seen: dict[str, set[str]] = defaultdict(set)
    for patient, pixels, part in images:
        seen[f"patient {patient}"].add(part)
        seen[f"image {pixels}"].add(part)
    leaking = sum(len(parts) > 1 for parts in seen.values())
    if leaking:
        raise SplitLeaks(
            f"{leaking} patients or images would be in more than one part of the snapshot, so that a network "
            "would be tested on what it was trained on: look who changed the table patient_parts"
        )


def _content(rows: Iterable[Row]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Row._fields)
    writer.writerows(sorted(rows))
    return text.getvalue().encode()


def _counts(images: Iterable[tuple[str, str, str]]) -> dict[str, dict[str, dict[str, int]]]:
    counted: dict[str, dict[str, dict[str, int]]] = {part.value: {} for part in Part}
    for (part, label, source), count in sorted(Counter(images).items()):
        counted[part].setdefault(label, {})[source] = count
    return counted


def lacking(counts: Mapping[str, Mapping[str, object]]) -> list[str]:
    """What a snapshot's counts lack to be trained on, in words: a class to learn or to choose by."""
    return [
        f"no image of {label} is for {part}"
        for part in (Part.TRAIN, Part.VALIDATION)
        for label in LABELS
        if not counts[part].get(label)
    ] + ([] if counts[Part.TEST] else ["no image is for test"])


def rows(store: Store, snapshot: Snapshot) -> list[Row]:
    """Return the list of a snapshot, checked; WrongSnapshot when it is not the one that was frozen."""
    try:
        content = store.path(snapshot.path).read_bytes()
    except FileNotFoundError:
        content = b""
    if hashlib.sha256(content).hexdigest() != snapshot.digest:
        raise WrongSnapshot(
            f"{snapshot.path} of the store is gone or was altered: bring it back from a backup, or begin "
            "another training"
        )
    lines = csv.reader(io.StringIO(content.decode()))
    return [Row(*line) for line in list(lines)[1:]]


def list_files(
    session: Session, store: Store, pseudonyms: Pseudonyms, snapshot: Snapshot, file: Path
) -> None:
    """Write the images of a snapshot as a manifest that `training.reader` reads, with a column `part`.

    Images whose files were removed since are left out. Raises WrongSnapshot when the key of the pseudonyms is
    another one.
    """
    of_instance = {row.instance: row for row in rows(store, snapshot)}
    spoken = snapshots.spoken_of(session)
    rows_of = [(each, of_instance.get(pseudonyms.uid(each.uid))) for each in spoken]
    listed = [
        (each.path, row.label, row.patient, each.sender_ae, each.view, row.part)
        for each, row in rows_of
        if row is not None and each.is_there
    ]
    if not listed:
        raise WrongSnapshot(
            "no image of this snapshot is here: is pseudonyms.key in data_dir the one that it was made with?"
        )
    with file.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.writer(lines, lineterminator="\n")
        writer.writerow(_FILES)
        writer.writerows(listed)


def parts_of(manifest: Path) -> NDArray[np.str_] | None:
    """Return the column `part` of a manifest, (N,) in its order; None where there is none."""
    with manifest.open(newline="", encoding="utf-8-sig") as lines:
        table = csv.DictReader(lines)
        if "part" not in (table.fieldnames or ()):
            return None
        return np.array([line["part"] for line in table], np.str_)
