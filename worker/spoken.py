"""What a person says of images in a Key Object Selection or Structured Report: read, and believed nothing.

A Key Object Selection (TID 2010, PS3.16) says it of every image that it refers to: by its title, "Rejected
for Quality Reasons", or by its description, which names a class and nothing else. A Structured Report says
it by Finding (121071, DCM) content items with a code that stands for a class, in any container. Meant are
the images that such an item refers to, or else those beside it, or beside a container that it is in; or
else, of a report that says one thing only, all that it refers to.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone

from pydicom import Dataset
from pydicom.uid import KeyObjectSelectionDocumentStorage

from hilum.errors import Undecodable
from hilum.header import text
from hilum.labels import REJECTED, verdict_of, verdict_of_code
from hilum.uids import is_uid
from worker.decoder import Spoken

LARGEST_BYTES = 16_000_000
MOST_ITEMS = 20_000
DEEPEST = 32
MOST_IMAGES = 1000
LONGEST_NAME = 128

_DESCRIPTION = "113012"
_FINDING = "121071"
_OBSERVER_TYPE, _OBSERVER, _DEVICE = "121005", "121008", "121007"
_OUR_NAME = re.compile(r"\s*hilum\s*:", re.IGNORECASE)
_PLAIN_WORDS = re.compile(r"[A-Za-z0-9 _-]+\.?")
_REFERENCES = {"IMAGE", "COMPOSITE"}
_SAYS_NOTHING = "it names no class of ours"


@dataclass(frozen=True)
class _Item:
    """A content item, and where it stands."""

    ds: Dataset
    parents: tuple[Dataset, ...]
    """From the root to the container that it is in."""

    @property
    def kind(self) -> str:
        return text(self.ds, "ValueType")

    def is_called(self, value: str) -> bool:
        """Whether its concept name is this code of DICOM's own."""
        return _code(self.ds, "ConceptNameCodeSequence") == (value, "DCM")


def spoken(ds: Dataset) -> Spoken:
    """Return what an object says, its data set whole in memory.

    Raises Undecodable when it is larger than any person's word, or says that a device speaks and no person.
    """
    items = list(_items(ds))
    author = _author(ds, items)
    if not author and any(_is_a_device(item) for item in items):
        return Spoken("", "", {}, "a device says so, and no person")
    is_note = text(ds, "SOPClassUID") == KeyObjectSelectionDocumentStorage
    said, because = _of_note(ds, items) if is_note else _of_report(ds, items)
    labels, twofold = _agreed(said)
    if len(labels) > MOST_IMAGES:
        raise Undecodable(f"it speaks of more than {MOST_IMAGES} objects")
    if twofold:
        because = f"it says different things of {', '.join(twofold[:3])}"
    return Spoken(author, _said_at(ds), labels, because)


def _items(root: Dataset) -> Iterator[_Item]:
    """All content items below the root, in their order, within limits."""
    waiting: list[_Item] = [_Item(each, (root,)) for each in reversed(_children(root))]
    count = 0
    while waiting:
        item = waiting.pop()
        count += 1
        if count > MOST_ITEMS or len(item.parents) > DEEPEST:
            raise Undecodable(f"it has more than {MOST_ITEMS} content items, or they are nested too deep")
        yield item
        waiting += [_Item(each, (*item.parents, item.ds)) for each in reversed(_children(item.ds))]


def _children(ds: Dataset) -> list[Dataset]:
    return list(ds.get("ContentSequence") or ())


def _code(ds: Dataset, keyword: str) -> tuple[str, str]:
    for code in ds.get(keyword) or ():
        value = text(code, "CodeValue") or text(code, "LongCodeValue") or text(code, "URNCodeValue")
        return value, text(code, "CodingSchemeDesignator")
    return "", ""


def _of_note(ds: Dataset, items: Iterable[_Item]) -> tuple[list[tuple[str, str]], str | None]:
    """(SOP Instance UID, label) of what a Key Object Selection says, and why not more."""
    labels = {_described(item) for item in items if item.kind == "TEXT" and item.is_called(_DESCRIPTION)}
    named = {label for label in labels if label}
    if verdict_of_code(*_code(ds, "ConceptNameCodeSequence")) == REJECTED:
        named = {REJECTED}
    if len(named) > 1:
        return [], "it names several classes"
    if not named:
        return [], _SAYS_NOTHING
    [label] = named
    return [(uid, label) for item in items for uid in _referred(item.ds)], None


def _described(item: _Item) -> str | None:
    """The class that a description names and says nothing else: not "no pneumonia" nor "pneumonia?"."""
    said = _OUR_NAME.sub("", text(item.ds, "TextValue"), count=1)
    return verdict_of(said) if _PLAIN_WORDS.fullmatch(said) else None


def _of_report(ds: Dataset, items: list[_Item]) -> tuple[list[tuple[str, str]], str | None]:
    """(SOP Instance UID, label) of what a Structured Report says, and why not more."""
    findings = [(item, label) for item in items if (label := _found(item))]
    if not findings:
        return [], _SAYS_NOTHING
    said: list[tuple[str, str]] = []
    is_unclear = False
    for item, label in findings:
        meant = _meant(item)
        if not meant and len({each for _, each in findings}) == 1:
            meant = _all_referred(ds, items)
        is_unclear = is_unclear or not meant
        said += [(uid, label) for uid in meant]
    return said, "of which image it says so is not clear" if is_unclear else None


def _found(item: _Item) -> str | None:
    """The verdict in a content item; None when it is another item, or says what a number is of."""
    in_containers = all(text(parent, "ValueType") == "CONTAINER" for parent in item.parents[1:])
    if item.kind != "CODE" or not item.is_called(_FINDING) or not in_containers:
        return None
    return verdict_of_code(*_code(item.ds, "ConceptCodeSequence"))


def _meant(item: _Item) -> list[str]:
    """What the item refers to, or else what stands beside it, or beside the nearest container it is in."""
    for ds in (item.ds, *reversed(item.parents)):
        referred = [uid for child in _children(ds) for uid in _referred(child)]
        if referred:
            return referred
    return []


def _all_referred(ds: Dataset, items: Iterable[_Item]) -> list[str]:
    inside = [uid for item in items for uid in _referred(item.ds)]
    return inside or list(_evidence(ds))


def _evidence(ds: Dataset) -> Iterator[str]:
    for keyword in ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence"):
        for study in ds.get(keyword) or ():
            for series in study.get("ReferencedSeriesSequence") or ():
                for each in series.get("ReferencedSOPSequence") or ():
                    yield from _uid(each)


def _referred(ds: Dataset) -> list[str]:
    if text(ds, "ValueType") not in _REFERENCES:
        return []
    return [uid for each in ds.get("ReferencedSOPSequence") or () for uid in _uid(each)]


def _uid(reference: Dataset) -> list[str]:
    uid = text(reference, "ReferencedSOPInstanceUID")
    return [uid] if is_uid(uid) else []


def _agreed(said: Iterable[tuple[str, str]]) -> tuple[dict[str, str], list[str]]:
    """What is said of each object, and the objects of which different things are."""
    labels: dict[str, set[str]] = defaultdict(set)
    for uid, label in said:
        labels[uid].add(label)
    clear = {uid: next(iter(each)) for uid, each in labels.items() if len(each) == 1}
    return clear, sorted(labels.keys() - clear.keys())


def _author(ds: Dataset, items: Iterable[_Item]) -> str:
    """The person who speaks: the observer (TID 1003), else who verified it, wrote it, or made it."""
    names = [
        text(item.ds, "PersonName") for item in items if item.kind == "PNAME" and item.is_called(_OBSERVER)
    ]
    names += [text(each, "VerifyingObserverName") for each in ds.get("VerifyingObserverSequence") or ()]
    names += [text(each, "PersonName") for each in ds.get("AuthorObserverSequence") or ()]
    names.append(text(ds, "ContentCreatorName"))
    plain = (name.partition("=")[0].strip(" ^")[:LONGEST_NAME] for name in names)
    return next((name for name in plain if name.isprintable() and name), "")


def _is_a_device(item: _Item) -> bool:
    is_type = item.kind == "CODE" and item.is_called(_OBSERVER_TYPE)
    return is_type and _code(item.ds, "ConceptCodeSequence") == (_DEVICE, "DCM")


def _said_at(ds: Dataset) -> str:
    """When it was said. Without the zone hours may be missing, and a later word would seem an earlier one."""
    zone = re.fullmatch(r"([+-])(\d\d)(\d\d)", text(ds, "TimezoneOffsetFromUTC"))
    written = text(ds, "ContentDate") + text(ds, "ContentTime").partition(".")[0].ljust(6, "0")
    try:
        if zone is None:
            return ""
        ahead = timedelta(hours=int(zone[2]), minutes=int(zone[3])) * (-1 if zone[1] == "-" else 1)
        said = datetime.strptime(written, "%Y%m%d%H%M%S").replace(tzinfo=timezone(ahead))
        return said.astimezone(UTC).isoformat() if said <= datetime.now(UTC) else ""
    except (ValueError, OverflowError):
        return ""
