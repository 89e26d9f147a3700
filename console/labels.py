"""`hilum labels`: what people said of images, from lists that they wrote, all of a list or nothing."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Group
from rich.text import Text
from sqlalchemy.orm import Session

from console.label_file import Line, Listed, WrongLabels, in_lines, write_labels
from console.tables import add, counted, table
from db import audit, images, verdicts
from db.images import Image
from db.tables import Verdict
from db.verdicts import Said, said_at

SOURCE = "csv"
_SHOWN = 100

NEW = "new"
SAME = "said before"
SUPERSEDES = "supersedes"
OUTDATED = "said otherwise since"


@dataclass(frozen=True)
class Change:
    """What a line would change for an image."""

    line: Line
    image: Image
    what: str
    """NEW, SAME, SUPERSEDES or OUTDATED, of what this author said."""
    before: str
    """What the author's standing verdict says; empty where there is none."""
    contradicts: tuple[str, ...]
    """Others of another opinion, each with it, the other lines of the list included."""

    @property
    def is_one(self) -> bool:
        """Whether anything changes."""
        return self.what in (NEW, SUPERSEDES)


def changes(session: Session, file: Path, listed: Listed) -> list[Change]:
    """Return what a list of labels that was read from a file would change, in its order.

    Raises WrongLabels with a line for every fault.
    """
    problems = dict(listed.problems)
    meant = _meant(session, listed.lines, problems)
    _require_one_word(meant, problems)
    if problems:
        faults = counted(len(problems), "line", "lines")
        raise WrongLabels(f"{file}: mend {faults}; nothing was taken:\n{in_lines(problems)}")
    return _compared(session, meant)


def take(session: Session, file: Path, found: Sequence[Change], *, actor: str) -> None:
    """Write down what changes, and who brought it."""
    said = [
        Said(
            each.image.uid,
            each.line.label,
            each.line.author,
            SOURCE,
            each.line.comment,
            said_at=each.line.said_at,
        )
        for each in found
        if each.is_one
    ]
    verdicts.add_all(session, said)
    detail = f"{file.name[:200]}: {summary(found)}"
    audit.note(session, actor=actor, action="labels import", detail=detail)


def export(session: Session, file: Path, *, actor: str) -> int:
    """Write all standing verdicts into a new file; return how many.

    Raises OSError, also when the file is there.
    """
    count = write_labels(file, verdicts.all_standing(session))
    audit.note(session, actor=actor, action="labels export", detail=f"{file.name[:200]}: {count} verdicts")
    return count


def summary(found: Sequence[Change]) -> str:
    """How many verdicts are new, and so on, in a line."""
    count = Counter(each.what for each in found)
    told = [f"{count[what]:,} {what}" for what in (NEW, SUPERSEDES, SAME, OUTDATED) if count[what]]
    against = sum(bool(each.contradicts) for each in found)
    return ", ".join(told + ([f"{against:,} of another opinion than others"] if against else []))


def changes_table(found: Sequence[Change]) -> Group:
    """A line for each change, the remarkable ones first where they are too many to show."""
    remarkable = [each for each in found if each.what in (SUPERSEDES, OUTDATED) or each.contradicts]
    plain = [each for each in found if each.what == NEW and not each.contradicts]
    shown = [*remarkable, *plain][:_SHOWN]
    made = table("", ["line", "image", "author", "label", "change", "others say"], numbers=["line"])
    for each in shown:
        what = f"{each.what} {each.before}" if each.before and each.what != SAME else each.what
        who = (str(each.line.number), each.image.uid, each.line.author)
        add(made, *who, each.line.label, what, "\n".join(each.contradicts))
    more = len(remarkable) + len(plain) - len(shown)
    return Group(*([made] if shown else []), *([Text(f"... and {more:,} more")] if more else []))


def _meant(session: Session, lines: Sequence[Line], problems: dict[int, str]) -> list[tuple[Line, Image]]:
    """Each line with every image that it means; what is wrong goes to the problems."""
    of_accession = images.of_accessions(session, {line.accession for line in lines if line.accession})
    known = {each.uid: each for each in images.known(session, {line.uid for line in lines if line.uid})}
    of_study: dict[str, list[Image]] = defaultdict(list)
    wanted = {line.study_uid for line in lines} | {uid for uids in of_accession.values() for uid in uids}
    studies = images.studies(session, wanted)
    for each in images.of_studies(session, studies):
        of_study[each.study_uid].append(each)
    meant: list[tuple[Line, Image]] = []
    for line in lines:
        admitted, because = _studies(line, of_accession, studies)
        named: list[Image] = []
        if because is None and line.uid:
            named, because = _image(line, admitted, known)
        elif because is None:
            named, because = _assessed(line, admitted, of_study)
        if because is None and any(each.is_phantom for each in named):
            because = "it is a phantom"
        if because is not None:
            problems[line.number] = because
            continue
        meant += [(line, each) for each in named]
    return meant


def _studies(line: Line, of_accession: dict[str, list[str]], known: set[str]) -> tuple[set[str], str | None]:
    """The studies that may be meant, none when the line names none, or what is wrong."""
    found = set(of_accession.get(line.accession, ()))
    if line.accession and not found:
        return found, f"no study has the accession number {line.accession!r}"
    if not line.study_uid:
        return found, None
    if line.study_uid not in known:
        return found, f"there is no study {line.study_uid}"
    if line.accession and line.study_uid not in found:
        return found, f"the study {line.study_uid} has another accession number than {line.accession!r}"
    return {line.study_uid}, None


def _image(line: Line, admitted: set[str], known: dict[str, Image]) -> tuple[list[Image], str | None]:
    image = known.get(line.uid)
    if image is None:
        return [], f"there is no image {line.uid}"
    if admitted and image.study_uid not in admitted:
        return [], f"the image {line.uid} is of another study than the line says"
    return [image], None


def _assessed(
    line: Line, admitted: set[str], of_study: dict[str, list[Image]]
) -> tuple[list[Image], str | None]:
    """The assessed images of the one study that is meant."""
    if len(admitted) > 1:
        return [], f"{len(admitted)} studies have the accession number {line.accession!r}: give the study_uid"
    [study_uid] = admitted
    assessed = [each for each in of_study[study_uid] if each.is_assessed]
    return assessed, None if assessed else f"no image of the study {study_uid} was assessed: name the image"


def _require_one_word(meant: Sequence[tuple[Line, Image]], problems: dict[int, str]) -> None:
    """Note a problem of each line in which an author speaks again of an image."""
    first: dict[tuple[str, str], Line] = {}
    for line, image in meant:
        before = first.setdefault((image.uid, line.author), line)
        if before is line or line.number in problems:
            continue
        is_same = before.label == line.label
        how = "says the same as" if is_same else f"contradicts ({before.label})"
        problems[line.number] = f"it {how} line {before.number}, of the same author and image"


def _compared(session: Session, meant: Sequence[tuple[Line, Image]]) -> list[Change]:
    standing: dict[str, list[Verdict]] = defaultdict(list)
    for verdict in verdicts.standing_on(session, {image.uid for _, image in meant}):
        standing[verdict.uid].append(verdict)
    listed: dict[str, list[Line]] = defaultdict(list)
    for line, image in meant:
        listed[image.uid].append(line)
    return [_change(line, image, standing[image.uid], listed[image.uid]) for line, image in meant]


def _change(line: Line, image: Image, standing: Sequence[Verdict], listed: Sequence[Line]) -> Change:
    mine = next((each for each in standing if each.author == line.author), None)
    said = {each.author: each.label for each in standing} | {each.author: each.label for each in listed}
    others = tuple(
        f"{author}: {label}"
        for author, label in sorted(said.items())
        if author != line.author and label != line.label
    )
    return Change(line, image, _what(line, mine), mine.label if mine else "", others)


def _what(line: Line, mine: Verdict | None) -> str:
    if mine is None:
        return NEW
    if mine.label == line.label and line.comment in ("", mine.comment):
        return SAME
    is_outdated = line.said_at is not None and line.said_at < said_at(mine)
    return OUTDATED if is_outdated else SUPERSEDES
