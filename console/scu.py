"""What we do as a client: find files to send, C-STORE them, C-ECHO, and C-FIND what a PACS has."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import _config, build_context
from pynetdicom.association import Association
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from console.wrap import MANIFEST, PICTURES, manifest_lines, wrap
from hilum import pacs
from hilum.commitment import PUSH_MODEL
from hilum.errors import PacsUnavailable, Undecodable
from hilum.pacs import Peer

_config.STORE_SEND_CHUNKED_DATASET = True  # a file goes out byte for byte, never re-encoded

ECHO_TIMEOUT_S = 10
MOST_CONTEXTS = 126
"""Presentation contexts asked for in one association; PS3.8 9.3.2.2 has room for 128."""

_HEADER = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID")
_MEANINGS = {0xA7: "it has no room or cannot keep it now: send it again", 0xC0: "it cannot understand it"}
_NO_ANSWER = "the peer ended the association without an answer"

listener = pacs.listener


@dataclass(frozen=True)
class Outgoing:
    """A DICOM file on its way to a peer."""

    path: Path
    source: Path
    """The file people know: another one, when `path` is a picture wrapped as DX."""
    uid: str
    study_uid: str
    context: tuple[str, str]
    """SOP class and transfer syntax."""
    size_bytes: int
    agrees: bool = True
    """Whether the file's head names the object as the data set does; else it cannot go out byte for byte."""


@dataclass(frozen=True)
class Unusable:
    """A file that cannot be sent, and why."""

    source: Path
    because: str


@dataclass(frozen=True)
class PassedOver:
    """A file that was found in a folder, and is nothing to send."""

    source: Path
    because: str


Found = Outgoing | Unusable | PassedOver


def find(places: Sequence[Path], *, wrapped_in: Path) -> Iterator[Found]:
    """Yield every DICOM file in these files and folders, and every JPEG or PNG, wrapped as DX into a folder.

    What else a folder holds is to be passed over; a file that was named itself is unusable.
    """
    for place in places:
        lines = manifest_lines(place)
        for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if path.suffix.lower() in PICTURES:
                yield _picture(path, lines.get(path), wrapped_in)
            elif _is_dicom(path):
                yield described(path)
            elif path == place:
                yield Unusable(path, _neither(path))
            elif path.is_file() and path.name != MANIFEST:
                yield PassedOver(path, _neither(path))


def _neither(path: Path) -> str:
    if path.is_file() and not path.stat().st_size:
        return "empty"
    return "neither a DICOM file (it lacks the word DICM at byte 128) nor a JPEG or PNG picture"


def described(path: Path, source: Path | None = None) -> Outgoing | Unusable:
    """A DICOM file with what its header says."""
    try:
        ds = dcmread(path, stop_before_pixels=True, specific_tags=list(_HEADER))
        meta = ds.file_meta
        if not ds.get("SOPClassUID") or not ds.get("SOPInstanceUID"):
            return Unusable(source or path, "it holds no SOP instance, or one without a name")
        agrees = (
            meta.get("MediaStorageSOPClassUID") == ds.SOPClassUID
            and meta.get("MediaStorageSOPInstanceUID") == ds.SOPInstanceUID
        )
        return Outgoing(
            path,
            source or path,
            str(ds.SOPInstanceUID),
            str(ds.get("StudyInstanceUID", "")),
            (str(ds.SOPClassUID), str(meta.TransferSyntaxUID)),
            path.stat().st_size,
            agrees,
        )
    except Exception as error:  # the border with whoever made the file: a parser raises anything
        return Unusable(source or path, f"not readable as DICOM: {error}")


def send(files: Sequence[Outgoing], peer: Peer) -> Iterator[tuple[Outgoing, str | None]]:
    """Send files one after another and yield each with None, or with why it did not arrive.

    Raises PacsUnavailable when the peer does not take our association at all.
    """
    for group in by_contexts(files):
        contexts = dict.fromkeys(each.context for each in group)
        assoc = _associate(peer, contexts)
        for each in group:
            if not assoc.is_established:
                assoc = _associate(peer, contexts)
            because = _store(assoc, each)
            if because == _NO_ANSWER:
                assoc.abort()  # else the next file would wait for the end to be noticed
            yield each, because
        assoc.release()


def echo(peer: Peer) -> None:
    """Ask whether somebody is there (C-ECHO). Raises PacsUnavailable with the reason when not."""
    assoc = _associate(peer, [(Verification, ExplicitVRLittleEndian)], ECHO_TIMEOUT_S)
    status = assoc.send_c_echo()
    assoc.release()
    if not status or status.Status != pacs.SUCCESS:
        raise PacsUnavailable(f"{peer} takes our association but does not answer C-ECHO with Success")


def commits(peer: Peer) -> bool:
    """Whether the peer takes requests for storage commitment. Raises PacsUnavailable as `echo` does."""
    asked = [(Verification, ExplicitVRLittleEndian), (PUSH_MODEL, ExplicitVRLittleEndian)]
    assoc = _associate(peer, asked, ECHO_TIMEOUT_S)
    accepted = {context.abstract_syntax for context in assoc.accepted_contexts}
    assoc.release()
    return PUSH_MODEL in accepted


def found(peer: Peer, study_uid: str) -> set[str]:
    """SOP Instance UIDs that the peer has of a study, by C-FIND at IMAGE level.

    Raises PacsUnavailable when it does not answer.
    """
    assoc = _associate(peer, [(pacs.FIND, ExplicitVRLittleEndian)])
    try:
        return pacs.instances_found(assoc, study_uid, pacs.series_found(assoc, study_uid))
    finally:
        assoc.release()


def _picture(path: Path, line: dict[str, str] | None, wrapped_in: Path) -> Outgoing | Unusable:
    try:
        ds = wrap(path, line)
    except Undecodable as error:
        return Unusable(path, str(error))
    wrapped = wrapped_in / f"{ds.SOPInstanceUID}.dcm"
    ds.save_as(wrapped, enforce_file_format=True)
    return described(wrapped, path)


def _is_dicom(path: Path) -> bool:
    """Whether a file begins as PS3.10 7.1 says: 128 bytes of preamble, then DICM."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def by_contexts(files: Sequence[Outgoing]) -> Iterator[list[Outgoing]]:
    """Files in groups whose presentation contexts fit into one association."""
    group: list[Outgoing] = []
    contexts: set[tuple[str, str]] = set()
    for each in files:
        if len(contexts | {each.context}) > MOST_CONTEXTS:
            yield group
            group, contexts = [], set()
        group.append(each)
        contexts.add(each.context)
    if group:
        yield group


def _associate(
    peer: Peer, contexts: Iterable[tuple[str, str]], timeout_s: float = pacs.ANSWER_TIMEOUT_S
) -> Association:
    asked = [build_context(sop_class, syntax) for sop_class, syntax in contexts]
    return pacs.associate(peer, asked, timeout_s=timeout_s)


def _store(assoc: Association, each: Outgoing) -> str | None:
    """None when it arrived, else why not."""
    try:
        status = assoc.send_c_store(each.path if each.agrees else dcmread(each.path))
    except Exception as error:  # the border with whoever made the file: to encode it anew can raise anything
        return str(error)  # also that the peer accepts no such context, or has ended the association
    if not status:
        return _NO_ANSWER
    code = int(status.Status)
    if pacs.is_stored(code):
        return None
    comment = status.get("ErrorComment", "") or _MEANINGS.get(code >> 8, "refused")
    return f"0x{code:04X}: {comment}"
