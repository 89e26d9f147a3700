"""A list of labels as spreadsheets write it: read line by line, whatever it holds, and written."""

import csv
import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from db.tables import Verdict
from db.verdicts import said_at
from hilum.errors import HilumError
from hilum.labels import VERDICTS, verdict_of
from hilum.uids import is_uid

LARGEST_MB = 64
LONGEST_AUTHOR = 128
LONGEST_COMMENT = 2000
_MB = 1_000_000
NAMING = ("sop_instance_uid", "study_uid", "accession_number")
_OTHERS = ("label", "author", "comment", "time")
_WANTED = (
    f"it needs a first line with the column label and one or more of {', '.join(NAMING)}; "
    "author, comment and time may be there"
)
_REWRITTEN = re.compile(r"\d+([.,]\d+)?[eE]\+?\d+")
"""What a spreadsheet makes of a long number."""
_FORMULA = ("=", "+", "-", "@")
_NAMED = 50


class WrongLabels(HilumError):
    """The person who wrote the list must mend it: the text says each line's fault, and nothing was taken."""


@dataclass(frozen=True)
class Line:
    """One line of the list, whose form is right."""

    number: int
    """Of the file's lines, from 1."""
    uid: str
    study_uid: str
    accession: str
    label: str
    """One of `hilum.labels.VERDICTS`."""
    author: str
    comment: str
    said_at: datetime | None


@dataclass(frozen=True)
class Listed:
    """What a file holds."""

    lines: list[Line]
    problems: dict[int, str]
    """Number of a line -> what is wrong with it."""
    passed_over: list[str]
    """Columns that mean nothing here."""


def read_labels(file: Path, author: str) -> Listed:
    """Return the lines of a list; who said what does not say stands to `author`.

    Read are UTF-8, UTF-16 with a byte order mark, and Windows-1252; comma, semicolon or tab between columns.

    Raises WrongLabels for a file that is no such list, and OSError.
    """
    if file.stat().st_size > LARGEST_MB * _MB:
        raise WrongLabels(f"{file} is larger than {LARGEST_MB} MB: split it")
    text = _decoded(file)
    first, _, rest = text.partition("\n")
    skipped = 0
    if first.strip().lower().startswith("sep="):  # Excel's own word for the separator
        text, skipped = rest, 1
        first = rest.partition("\n")[0]
    rows = _rows(file, text, max(",;\t", key=first.count), skipped)
    _, header = next(rows, (0, []))
    columns = [re.sub(r"[^a-z]+", "_", name.strip().lower()) for name in header]
    if "label" not in columns or not set(NAMING) & set(columns) or _is_twofold(columns):
        raise WrongLabels(f"{file} is no list of labels: {_WANTED}")
    listed = Listed([], {}, [name for name in columns if name and name not in (*NAMING, *_OTHERS)])
    present = datetime.now(UTC)
    for number, row in rows:
        said = dict(zip(columns, row, strict=False))
        line = _line(number, said, author, present) if len(row) <= len(columns) else "it has too many columns"
        if isinstance(line, str):
            listed.problems[number] = line
        else:
            listed.lines.append(line)
    return listed


def write_labels(file: Path, rows: Iterable[tuple[Verdict, str]]) -> int:
    """Write verdicts with their Study Instance UIDs as `read_labels` reads them; return how many.

    Raises OSError, also when the file is there.
    """
    count = 0
    with file.open("x", newline="", encoding="utf-8-sig") as lines:
        file.chmod(0o600)
        writer = csv.writer(lines)
        writer.writerow(("sop_instance_uid", "study_uid", *_OTHERS))
        for verdict, study_uid in rows:
            said = (verdict.label, _harmless(verdict.author), _harmless(verdict.comment))
            writer.writerow((verdict.uid, study_uid, *said, said_at(verdict).isoformat()))
            count += 1
    return count


def in_lines(problems: dict[int, str]) -> str:
    """What is wrong, a line for each of the first, and how many there are."""
    told = [f"line {number}: {problems[number]}" for number in sorted(problems)]
    more = [f"... and {len(told) - _NAMED:,} more"] if len(told) > _NAMED else []
    return "\n".join([*told[:_NAMED], *more])


def _decoded(file: Path) -> str:
    content = file.read_bytes()
    is_wide = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    for encoding in ("utf-16",) if is_wide else ("utf-8-sig", "cp1252"):
        try:
            return content.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise WrongLabels(f"{file} is no text that can be read: save it as CSV in UTF-8")


def _rows(file: Path, text: str, separator: str, skipped: int) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not empty, each with the number of its first line."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    begins = 1
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                yield begins + skipped, row
            begins = reader.line_num + 1
    except csv.Error as error:
        raise WrongLabels(f"{file} is no CSV from line {begins + skipped} on ({error})") from error


def _is_twofold(columns: list[str]) -> bool:
    known = [name for name in columns if name in (*NAMING, *_OTHERS)]
    return len(known) > len(set(known))


def _line(number: int, said: dict[str, str], author: str, present: datetime) -> Line | str:
    """A row as a line, or what is wrong with it."""
    cells = {name: _plain(cell) for name, cell in said.items()}
    uid, study_uid, accession = (cells.get(name, "") for name in NAMING)
    label, who = verdict_of(cells.get("label", "")), cells.get("author", "") or author
    comment = " ".join(cells.get("comment", "").split())
    if because := _why_nothing_is_named(uid, study_uid, accession):
        return because
    if label is None:
        return f"{cells.get('label', '')[:40]!r} is none of {', '.join(VERDICTS)}"
    if len(who) > LONGEST_AUTHOR or len(comment) > LONGEST_COMMENT:
        return f"an author has at most {LONGEST_AUTHOR} characters and a comment {LONGEST_COMMENT}"
    if not (who + comment + accession).isprintable():
        return "it holds control characters"
    try:
        then = _moment(cells.get("time", ""))
    except (ValueError, OverflowError):
        return f"{cells['time'][:40]!r} is no time: write it like 2026-11-24 18:30"
    if then is not None and then > present:
        return f"{cells['time'][:40]!r} has still to come"
    return Line(number, uid, study_uid, accession, label, who, comment, then)


def _why_nothing_is_named(uid: str, study_uid: str, accession: str) -> str | None:
    named = [each for each in (uid, study_uid, accession) if each]
    if not named:
        return f"it names no image: {' or '.join(NAMING)} must be there"
    if rewritten := next((each for each in named if _REWRITTEN.fullmatch(each)), None):
        return f"{rewritten!r} is what a spreadsheet made of a number: format the column as text"
    if wrong := next((each for each in (uid, study_uid) if each and not is_uid(each)), None):
        return f"{wrong[:64]!r} is no UID"
    return None if len(accession) <= 64 else "an accession number has at most 64 characters"


def _plain(cell: str) -> str:
    """A cell without the spaces around it and the apostrophe that keeps a text from being a formula."""
    text = cell.strip()
    return text[1:] if text.startswith("'") and text[1:].startswith(_FORMULA) else text


def _harmless(text: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def _moment(written: str) -> datetime | None:
    """A point in time, which is of this machine's zone where it names none."""
    return datetime.fromisoformat(written).astimezone(UTC) if written else None
