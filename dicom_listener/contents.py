"""What a received data set holds: checked from its first byte to its last, in one pass and little memory.

A reader for files believes lengths, recurses into sequences and unpacks what it is given. Here every
length is compared with what is there, nesting is a counter, and unpacking has a limit.
"""

import hashlib
import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO

from pydicom import Dataset
from pydicom.filereader import read_dataset
from pydicom.uid import UID

from dicom_listener.status import CANNOT_UNDERSTAND, OUT_OF_RESOURCES, Refused
from hilum.phantom import PRIVATE_GROUP

_CHUNK = 1 << 18
_MB = 1_000_000
_LONGEST_VALUE = 1 << 16
_DEEPEST = 64
_MOST_ELEMENTS = 2_000_000
_UNDEFINED = 0xFFFFFFFF

_LONG_VRS = frozenset(
    (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
)
"""Explicit VRs with a length of 32 bits, PS3.5 7.1.2."""

_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_REQUEST_ATTRIBUTES, _PRIORITY = 0x00400275, 0x00401003
_PIXELS = frozenset((0x7FE00008, 0x7FE00009, 0x7FE00010))
_WANTED = frozenset(
    (
        0x00080005,  # Specific Character Set
        0x00080016,  # SOP Class UID
        0x00080018,  # SOP Instance UID
        0x00080020,  # Study Date
        0x00080050,  # Accession Number
        0x00080060,  # Modality
        0x00080070,  # Manufacturer
        0x00081030,  # Study Description
        0x0008103E,  # Series Description
        0x00081090,  # Manufacturer's Model Name
        0x00100010,  # Patient's Name
        0x00100020,  # Patient ID
        0x00100030,  # Patient's Birth Date
        0x00100040,  # Patient's Sex
        0x00181020,  # Software Versions
        0x00185101,  # View Position
        0x0020000D,  # Study Instance UID
        0x0020000E,  # Series Instance UID
        0x00280002,  # Samples per Pixel
        0x00280004,  # Photometric Interpretation
        0x00280008,  # Number of Frames
        0x00280010,  # Rows
        0x00280011,  # Columns
        0x00280100,  # Bits Allocated
        0x00280300,  # Quality Control Image
        _PRIORITY,
    )
)


@dataclass(frozen=True)
class Contents:
    """A whole data set, as far as it matters before its pixels are decoded."""

    header: Dataset
    """The elements that are recorded or say how many pixels there are."""
    digest: str
    """SHA-256 of the data set as it was sent."""
    pixel_digest: str
    """SHA-256 of the encoded pixels; of the data set when it has none."""
    has_pixels: bool
    priorities: tuple[str, ...]
    """Requested Procedure Priority (0040,1003), wherever it stood."""


def read_contents(path: Path, starts_at: int, transfer_syntax_uid: UID, *, most_mb: int) -> Contents:
    """Read the data set that starts at this byte of the file.

    Raises
    ------
    Refused
        CANNOT_UNDERSTAND when it is not whole or not a data set; OUT_OF_RESOURCES when it unpacks
        to more than `most_mb`.
    """
    with path.open("rb") as file:
        file.seek(starts_at)
        raw = _Hashed(file)
        source = _Source(_inflated(raw, most_mb) if transfer_syntax_uid.is_deflated else iter(raw.chunk, b""))
        walk = _Walk(source, transfer_syntax_uid)
        walk.run()
    header = walk.header()
    if walk.pixel_bytes is None:
        _require_no_image(header)
    elif not transfer_syntax_uid.is_encapsulated:
        _require_all_pixels(header, walk.pixel_bytes)
    digest = raw.digest.hexdigest()
    return Contents(
        header,
        digest,
        digest if walk.pixel_bytes is None else walk.pixel_digest.hexdigest(),
        walk.pixel_bytes is not None,
        tuple(walk.priorities),
    )


class _Hashed:
    """A file's chunks, hashed as they are read."""

    def __init__(self, file: IO[bytes]) -> None:
        self.digest = hashlib.sha256()
        self._file = file

    def chunk(self) -> bytes:
        content = self._file.read(_CHUNK)
        self.digest.update(content)
        return content


def _inflated(raw: _Hashed, most_mb: int) -> Iterator[bytes]:
    """The chunks of a deflated data set (PS3.5 A.5), until they come to more than `most_mb`."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    room = most_mb * _MB
    while not inflater.eof:
        packed = inflater.unconsumed_tail or raw.chunk()
        try:
            content = inflater.decompress(packed, _CHUNK)
        except zlib.error as error:
            raise Refused(CANNOT_UNDERSTAND, f"the data set cannot be inflated: {error}") from error
        if not packed and not content:
            raise Refused(CANNOT_UNDERSTAND, "the deflated data set ends too early")
        room -= len(content)
        if room < 0:
            raise Refused(OUT_OF_RESOURCES, f"the data set inflates to more than max_object_mb = {most_mb}")
        if content:
            yield content
    while raw.chunk():  # padding behind the deflated stream belongs to the digest
        pass


class _Source:
    """Bytes that are read once and in order."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._chunk = memoryview(b"")
        self.position = 0

    def some(self, most: int) -> memoryview:
        """The next bytes, at most so many; none at the end."""
        if not self._chunk:
            self._chunk = memoryview(next(self._chunks, b""))
        some, self._chunk = self._chunk[:most], self._chunk[most:]
        self.position += len(some)
        return some

    def read(self, length: int) -> bytes:
        """The next bytes, fewer at the end."""
        some = self.some(length)
        if len(some) == length:
            return bytes(some)
        content = bytearray(some)
        while some and len(content) < length:
            some = self.some(length - len(content))
            content += some
        return bytes(content)

    def pieces(self, length: int) -> Iterator[memoryview]:
        """All of the next bytes, piece by piece; raises Refused when there are fewer."""
        while length:
            some = self.some(length)
            if not some:
                raise Refused(
                    CANNOT_UNDERSTAND, f"the data set ends {length} bytes before its last value does"
                )
            length -= len(some)
            yield some

    def whole(self, length: int) -> bytes:
        """The next bytes; raises Refused when there are fewer."""
        return b"".join(self.pieces(length))


@dataclass(frozen=True)
class _Open:
    """A sequence, an item or encapsulated pixels whose end has not come yet."""

    tag: int
    ends_at: int | None
    """None: at its delimiter."""
    implicit: bool

    @property
    def is_item(self) -> bool:
        return self.tag == _ITEM


class _Walk:
    """One way through a data set, element by element."""

    def __init__(self, source: _Source, transfer_syntax_uid: UID) -> None:
        self.priorities: list[str] = []
        self.pixel_bytes: int | None = None
        """Of top-level pixels; None when there are none."""
        self.pixel_digest = hashlib.sha256()
        self._source = source
        self._kept = bytearray()
        self._implicit = transfer_syntax_uid.is_implicit_VR
        self._little = transfer_syntax_uid.is_little_endian
        self._order = "<" if self._little else ">"
        self._open: list[_Open] = []

    def run(self) -> None:
        """Go through all elements; raises Refused where they do not fit each other or the end."""
        for count in range(_MOST_ELEMENTS):
            self._close_full()
            head = self._source.read(8)
            if len(head) < 8:
                return self._require_closed()
            if count == 0:
                self._notice_encoding(head)
            self._step(head)
        raise Refused(CANNOT_UNDERSTAND, f"the data set has more than {_MOST_ELEMENTS} elements")

    def header(self) -> Dataset:
        """The elements that were kept, as pydicom reads them."""
        try:
            return read_dataset(BytesIO(self._kept), self._implicit, self._little)
        except Exception as error:  # the border with whoever sent it: odd bytes can raise anything
            raise Refused(CANNOT_UNDERSTAND, f"the header cannot be read: {type(error).__name__}") from error

    def _notice_encoding(self, head: bytes) -> None:
        """Some senders encode with explicit VR what they call implicit; readers notice, so do we."""
        if head[4:6].isalpha() and head[4:6].isupper():
            self._implicit = False

    def _step(self, head: bytes) -> None:
        group, element, length = struct.unpack(self._order + "HHL", head)
        tag = group << 16 | element
        if group == 0xFFFE:
            self._delimiter(tag, length)
        elif self._open and not self._open[-1].is_item:
            raise Refused(CANNOT_UNDERSTAND, f"there is an element {_name(tag)} where an item should begin")
        elif not self._open and group < 0x0008:
            # File Meta Information and commands do not travel in a data set, PS3.5 7.1
            raise Refused(CANNOT_UNDERSTAND, f"the data set holds {_name(tag)}, which belongs before it")
        else:
            self._element(tag, length, head)

    def _delimiter(self, tag: int, length: int) -> None:
        inside = self._open[-1] if self._open else None
        if tag == _ITEM and inside and not inside.is_item:
            self._item(inside, length)
        elif inside and inside.ends_at is None and tag == (_ITEM_END if inside.is_item else _SEQUENCE_END):
            self._open.pop()
        else:
            raise Refused(
                CANNOT_UNDERSTAND, f"the delimiter {_name(tag)} stands where nothing begins or ends"
            )

    def _item(self, inside: _Open, length: int) -> None:
        if inside.tag in _PIXELS:
            self._pass_over(length, self._is_top_level(inside))
        elif length == _UNDEFINED or inside.tag == _REQUEST_ATTRIBUTES:
            self._enter(_ITEM, length, inside.implicit)
        else:
            self._pass_over(length)

    def _element(self, tag: int, length: int, head: bytes) -> None:
        vr = b"" if self._inside_implicit() else head[4:6]
        if vr in _LONG_VRS:
            head += self._source.whole(4)
            (length,) = struct.unpack(self._order + "L", head[8:])
        elif vr.isalpha() and vr.isupper():
            (length,) = struct.unpack(self._order + "H", head[6:])
        else:
            vr = b""  # some senders switch to implicit VR midway; readers follow them, so do we
        if length == _UNDEFINED or (tag == _REQUEST_ATTRIBUTES and vr in (b"", b"SQ")):
            self._enter(tag, length, self._inside_implicit() or vr in (b"", b"UN"))  # UN: PS3.5 6.2.2
        elif tag in _PIXELS and not self._open:
            self._pass_over(length, is_pixels=True)
        elif length <= _LONGEST_VALUE and self._is_wanted(tag):
            self._keep(tag, head, self._source.whole(length))
        else:
            self._pass_over(length)

    def _enter(self, tag: int, length: int, implicit: bool) -> None:
        if len(self._open) >= 2 * _DEEPEST:
            raise Refused(CANNOT_UNDERSTAND, f"sequences are nested more than {_DEEPEST} deep")
        if tag in _PIXELS and not self._open:
            self.pixel_bytes = 0
        ends_at = None if length == _UNDEFINED else self._source.position + length
        self._open.append(_Open(tag, ends_at, implicit))

    def _pass_over(self, length: int, is_pixels: bool = False) -> None:
        for piece in self._source.pieces(length):
            if is_pixels:
                self.pixel_digest.update(piece)
        if is_pixels:
            self.pixel_bytes = (self.pixel_bytes or 0) + length

    def _is_wanted(self, tag: int) -> bool:
        if not self._open:
            return tag in _WANTED or tag >> 16 == PRIVATE_GROUP
        return tag == _PRIORITY and any(each.tag == _REQUEST_ATTRIBUTES for each in self._open)

    def _keep(self, tag: int, head: bytes, value: bytes) -> None:
        if tag == _PRIORITY:
            self.priorities.append(value.decode("ascii", "replace").strip(" \0"))
        if not self._open and len(self._kept) < 4 * _LONGEST_VALUE:
            self._kept += head + value

    def _close_full(self) -> None:
        while (
            self._open
            and (ends_at := self._open[-1].ends_at) is not None
            and self._source.position >= ends_at
        ):
            if self._source.position > ends_at:
                raise Refused(
                    CANNOT_UNDERSTAND, f"a value runs past the end of its {_name(self._open[-1].tag)}"
                )
            self._open.pop()

    def _require_closed(self) -> None:
        if self._open:
            raise Refused(CANNOT_UNDERSTAND, f"the data set ends inside {_name(self._open[0].tag)}")

    def _is_top_level(self, inside: _Open) -> bool:
        return len(self._open) == 1 and self._open[0] is inside

    def _inside_implicit(self) -> bool:
        return self._open[-1].implicit if self._open else self._implicit


def _require_no_image(header: Dataset) -> None:
    """Refuse an image that ends before its pixels begin."""
    if "Image Storage" in UID(str(header.get("SOPClassUID", ""))).name:
        raise Refused(CANNOT_UNDERSTAND, "the object is of an image class and has no pixels")


def _require_all_pixels(header: Dataset, pixel_bytes: int) -> None:
    """Refuse native pixels that are fewer than the header says (PS3.5 8.1.1); more are padding."""
    values = [_number(header, word, 1) for word in ("Rows", "Columns", "SamplesPerPixel", "NumberOfFrames")]
    expected = math.prod(values) * _number(header, "BitsAllocated", 8) / 8
    if "_422" in str(header.get("PhotometricInterpretation", "")):
        expected *= 2 / 3  # two pixels share their chrominance, PS3.3 C.7.6.3.1.2
    if pixel_bytes < int(expected):
        raise Refused(CANNOT_UNDERSTAND, f"the pixels have {pixel_bytes} of {int(expected)} bytes")


def _number(header: Dataset, keyword: str, otherwise: int) -> int:
    try:
        return int(header.get(keyword) or otherwise)
    except (TypeError, ValueError):
        return otherwise


def _name(tag: int) -> str:
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"
