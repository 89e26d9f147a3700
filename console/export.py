"""`hilum export`: radiographs under pseudonyms in a folder, to train on elsewhere."""

import csv
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from tempfile import mkdtemp
from typing import Protocol

from rich.console import Console
from rich.progress import track

from console.tables import counted
from db import audit, exports
from db.exports import Candidate, Choice
from db.session import transaction
from hilum.errors import HilumError, Undecodable
from hilum.kernel import fsync
from hilum.pseudonyms import KEY_FILE, Deidentified, Pseudonyms, load

MANIFEST, UNLABELLED = "manifest.csv", "unlabelled.csv"
_IMAGES = "images"
_PAGE = 200
_ACTION = "export"
_COLUMNS = ("file", "class", "patient_id", "source_dataset", "view", "sex", "age", "sha256")
_STAYED_COLUMNS = ("study_uid", "sop_instance_uid", "because")


class CannotExport(HilumError):
    """The operator must name another folder or other studies."""


class Deidentify(Protocol):
    """Writes the image of a file under pseudonyms into another, or says why not; may raise Undecodable."""

    def __call__(
        self, path: Path, out: Path, names: Pseudonyms, patient_id: str, *, looked_at: bool = False
    ) -> Deidentified: ...


def pseudonyms(data_dir: Path, *, anew: bool = False) -> Pseudonyms:
    """Return the pseudonyms of this site; the key is made at the first export, or where it is lost, anew.

    Raises SettingsError when a person has to do something about the key.
    """
    return load(data_dir / KEY_FILE, was_used=not anew and _has_exported())


def lost_key(data_dir: Path) -> Path | None:
    """Where the key of earlier exports has to be put back; None when there was none, or it is there."""
    file = data_dir / KEY_FILE
    return file if not file.exists() and _has_exported() else None


def _has_exported() -> bool:
    with transaction() as session:
        return audit.has(session, _ACTION)


@dataclass(frozen=True)
class Means:
    """What an export is made with."""

    store: Path
    names: Pseudonyms
    deidentify: Deidentify
    looked_at: frozenset[str] = frozenset()
    """SOP Instance UIDs of images whose text a person has seen to be harmless."""

    def write(self, candidate: Candidate, out: Path) -> Deidentified:
        """Write an image into a file, or say why it stays."""
        instance = candidate.instance
        if candidate.stays_because is not None:
            return Deidentified(kept_back_because=candidate.stays_because)
        source, seen = self.store / instance.path, instance.uid in self.looked_at
        try:
            return self.deidentify(source, out, self.names, _patient(candidate), looked_at=seen)
        except Undecodable as error:
            return Deidentified(kept_back_because=str(error))
        except FileNotFoundError:
            return Deidentified(kept_back_because="its file is not there")


@dataclass(frozen=True)
class Outcome:
    """What went, as lines of a manifest, and what stayed, each with the reason."""

    out: Path
    went: Sequence[dict[str, str]]
    stayed: Sequence[tuple[Candidate, str]]
    studies: Mapping[str, bool]
    """Study Instance UID of each study that went -> whether a person has looked at its text."""

    @property
    def stayed_file(self) -> Path:
        """Where it is written, beside the folder and not in it: it names studies."""
        return self.out.with_name(f"{self.out.name}.stayed-behind.csv")


def export(choice: Choice, out: Path, means: Means, *, actor: str, terminal: Console) -> Outcome:
    """Write what may leave into a new folder, which appears when it is complete, and audit each study.

    It holds a file for each image, a manifest as training reads it, and a list, in the same form, of images
    that nobody labelled.

    Raises CannotExport when the folder is there already, nothing is chosen or nothing may leave, and OSError.
    """
    out = out.absolute()
    with transaction() as session:
        number = exports.count(session, choice)
    if not number:
        raise CannotExport("there are no such studies here")
    if out.exists():
        raise CannotExport(f"{out} is there already: name a folder that is not")
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        hidden = not terminal.is_terminal
        chosen = track(_chosen(choice), "exporting", number, console=terminal, transient=True, disable=hidden)
        outcome = _sorted_out(chosen, aside, out, means)
        _write_lists(outcome, aside)
        if not outcome.went:
            raise CannotExport(f"nothing of this may leave: {outcome.stayed_file} says why")
        _finish(outcome, aside, actor)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return outcome


def _chosen(choice: Choice) -> Iterator[Candidate]:
    """Page by page: on SQLite a transaction keeps everybody else from writing, the listener too."""
    after: str | None = ""
    while after is not None:
        with transaction() as session:
            page = exports.page(session, choice, after=after, most=_PAGE)
        yield from page
        after = page[-1].instance.uid if page else None


def _sorted_out(chosen: Iterable[Candidate], aside: Path, out: Path, means: Means) -> Outcome:
    went, stayed, studies = [], [], dict[str, bool]()
    (aside / _IMAGES).mkdir()
    for each in chosen:
        file = f"{_IMAGES}/{means.names.uid(each.instance.uid)}.dcm"
        told = means.write(each, aside / file)
        if told.kept_back_because is None:
            went.append(_line(each, file, told, means.names))
            study_uid, seen = each.study.study_uid, each.instance.uid in means.looked_at
            studies[study_uid] = seen or studies.get(study_uid, False)
        else:
            stayed.append((each, told.kept_back_because))
    went.sort(key=itemgetter("file"))  # by name, as the true UIDs would tell which patient came first
    return Outcome(out, went, stayed, studies)


def _patient(candidate: Candidate) -> str:
    """Who it is of; a study of nobody's stands for a patient."""
    return candidate.study.patient_id or candidate.study.study_uid


def _line(candidate: Candidate, file: str, told: Deidentified, names: Pseudonyms) -> dict[str, str]:
    said = (
        candidate.label,
        names.patient(_patient(candidate)),
        names.source(candidate.study.sender_ae),
        told.view if told.view in ("PA", "AP") else "",
        told.sex if told.sex in ("M", "F") else "",
        "" if told.age_years is None else str(told.age_years),
        told.sha256,
    )
    return dict(zip(_COLUMNS, (file, *said), strict=True))


def _write_lists(outcome: Outcome, aside: Path) -> None:
    labelled = [line for line in outcome.went if line["class"]]
    _write(aside / MANIFEST, _COLUMNS, (line.values() for line in labelled))
    _write(aside / UNLABELLED, _COLUMNS, (line.values() for line in outcome.went if not line["class"]))
    stayed = ((each.study.study_uid, each.instance.uid, because) for each, because in outcome.stayed)
    _write(outcome.stayed_file, _STAYED_COLUMNS, stayed)


def _write(file: Path, columns: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    file.touch(mode=0o600)
    with file.open("w", newline="", encoding="utf-8") as lines:
        csv.writer(lines).writerows([columns, *rows])
    fsync(file)


def _finish(outcome: Outcome, aside: Path, actor: str) -> None:
    """Audit what leaves, then let the folder appear: an audit too many is better than one too few."""
    for folder in (aside / _IMAGES, aside):
        fsync(folder)
    with transaction() as session:
        for study_uid, was_looked_at in sorted(outcome.studies.items()):
            detail = f"to {outcome.out.name}{', after a look at its text' * was_looked_at}"
            audit.note(session, actor=actor, action=_ACTION, study_uid=study_uid, detail=detail)
    os.rename(aside, outcome.out)  # noqa: PTH104 - onto a folder that another run made, it fails
    fsync(outcome.out.parent)


def read_uids(file: Path) -> frozenset[str]:
    """Return the SOP Instance UIDs in a file, one a line, or of a list of what stayed behind."""
    with file.open(newline="", encoding="utf-8-sig") as lines:
        rows = [row for row in csv.reader(lines) if row]
    place = _STAYED_COLUMNS.index("sop_instance_uid")
    return frozenset(row[place if len(row) > place else 0].strip() for row in rows)


def rendered(outcome: Outcome) -> str:
    """Return in words what went and what stayed, without naming anybody."""
    images = counted(len(outcome.went), "image", "images")
    patients = counted(len({line["patient_id"] for line in outcome.went}), "patient", "patients")
    labelled = sum(1 for line in outcome.went if line["class"])
    went = f"{images} of {patients} in {outcome.out}, {labelled} of them labelled"
    if not outcome.stayed:
        return went
    reasons = Counter(because.partition(" (")[0] for _, because in outcome.stayed)
    lines = [f"  {count} because {because}" for because, count in reasons.most_common()]
    stayed = counted(len(outcome.stayed), "object", "objects")
    return "\n".join([went, f"{stayed} stayed behind, listed in {outcome.stayed_file}:", *lines])
