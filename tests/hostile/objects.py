"""Data sets that are made to break whoever reads them, as bytes in Explicit VR Little Endian."""

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import chain
from random import Random

from PIL import Image
from pydicom import dcmread
from pydicom.encaps import generate_frames
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from tests.conftest import ROOT
from tests.hostile.mutation import mutated
from tests.integration.radiographs import new_uid, radiograph
from tests.peers.scu import Parcel, parcel

PIXELS = b"\xe0\x7f\x10\x00OW"
"""How the pixels of `radiograph` begin."""
UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = b"\xfe\xff\x00\xe0", b"\xfe\xff\x0d\xe0\0\0\0\0", b"\xfe\xff\xdd\xe0\0\0\0\0"
NESTED = 10_000
OUTSIDE = "hilum-evil"
"""Is part of every path that UIDs are made to be."""


SAMPLES = ROOT / "hilum" / "samples"
_STUDY_UID = b"\x20\0\x0d\0UI"
_OF_A_CT = {
    b"1.2.840.10008.5.1.4.1.1.2": b"1.2.840.10008.5.1.4.1.1.1",
    b"\x08\0\x60\0CS\x02\0CT": b"\x08\0\x60\0CS\x02\0CR",
    b"1.2.826.0.1.3680043.8.498.": b"1.2.826.0.1.3680043.8.497.",
    b"1.2.3.4.5.99999.": b"1.2.3.4.5.99998.",
}
"""What the malformed files say of themselves -> what a radiograph says."""


@dataclass(frozen=True)
class Hostile:
    """An object, and whether Success would be a lie about it."""

    parcel: Parcel
    refused: bool = True


def element(tag: int, vr: bytes, value: bytes, *, length: int | None = None, wide: bool = False) -> bytes:
    """A data element, whose length may lie; `wide` gives it 32 bits (PS3.5 7.1.2)."""
    size = len(value) if length is None else length
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr
    return head + (struct.pack("<xxL", size) if wide else struct.pack("<H", size & 0xFFFF)) + value


def before_pixels(whole: Parcel, more: bytes) -> Parcel:
    """The object with more elements before its pixels."""
    at = whole.content.index(PIXELS)
    return replace(whole, content=whole.content[:at] + more + whole.content[at:])


def encapsulated(codestream: bytes, syntax: UID, **changes: object) -> Parcel:
    """A chest radiograph whose pixels are this codestream (PS3.5 A.4)."""
    whole = parcel(radiograph(BodyPartExamined="CHEST", PatientAge="050Y", **changes))
    fragment = ITEM + struct.pack("<L", len(codestream) + len(codestream) % 2) + codestream
    fragment += b"\0" * (len(codestream) % 2)
    pixels = element(0x7FE00010, b"OB", b"", length=UNDEFINED, wide=True) + ITEM + bytes(4)
    content = whole.content[: whole.content.index(PIXELS)] + pixels + fragment + SEQUENCE_END
    return replace(whole, content=content, transfer_syntax_uid=syntax)


def deep_sequences() -> Iterator[Hostile]:
    """Sequences nested without end, with and without lengths, known, private and of VR UN."""
    for tag, vr in ((0x00400275, b"SQ"), (0x00081140, b"SQ"), (0x00091010, b"SQ"), (0x00081140, b"UN")):
        opening = element(tag, vr, b"", length=UNDEFINED, wide=True) + ITEM + b"\xff" * 4
        nested = opening * NESTED + (ITEM_END + SEQUENCE_END) * NESTED
        yield Hostile(before_pixels(parcel(radiograph()), nested))
        yield Hostile(before_pixels(parcel(radiograph()), opening * NESTED))
    yield Hostile(before_pixels(parcel(radiograph()), _with_lengths(NESTED)), refused=False)


def cut_short(cuts: Sequence[int]) -> Iterator[Hostile]:
    """A native and an encapsulated object, each cut off so many bytes before its end."""
    for lost in cuts:
        for whole in (parcel(radiograph()), encapsulated(b"\xff\xd8\xff\xd9" * 50, JPEGBaseline8Bit)):
            if lost < len(whole.content):
                yield Hostile(replace(whole, content=whole.content[: len(whole.content) - lost]))


def paths_for_uids() -> Iterator[Hostile]:
    """UIDs that are paths, in the data set, in the request, and in both."""
    climbs = [f"{'../' * depth}{OUTSIDE}" for depth in (1, 3, 8)]
    for path in [
        *climbs,
        f"/tmp/{OUTSIDE}",
        f"..\\..\\{OUTSIDE}",
        f"{OUTSIDE}\0.dcm",
        f"~/{OUTSIDE}",
        "1.2.3/..",
    ]:
        for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
            yield Hostile(_with_text(parcel(radiograph(**{keyword: "1.2.3.4.5.6.7"})), path))
        honest = parcel(radiograph())
        yield Hostile(replace(honest, uid=path))


def absurd_dimensions() -> Iterator[Hostile]:
    """More pixels than there are, none at all, and numbers that are none."""
    absurd: list[dict[str, object]] = [
        {"Rows": 65_535, "Columns": 65_535},
        {"Rows": 65_535, "Columns": 65_535, "NumberOfFrames": "2147483647"},
        {"NumberOfFrames": "99999999999"},
        {"SamplesPerPixel": 65_535},
        {"BitsAllocated": 65_535},
        {"BitsAllocated": 64},
    ]
    yield from (Hostile(parcel(radiograph(**each))) for each in absurd)
    harmless: list[dict[str, object]] = [
        {"Rows": 0, "Columns": 0},
        {"NumberOfFrames": "-1"},
        {"NumberOfFrames": "0"},
        {"BitsAllocated": 0},
        {"BitsStored": 65_535, "HighBit": 65_535},
        {"PixelRepresentation": 7},
        {"PhotometricInterpretation": "\x1b[2J"},
    ]
    chest = {"BodyPartExamined": "CHEST", "PatientAge": "050Y"}
    yield from (Hostile(parcel(radiograph(**chest, **each)), refused=False) for each in harmless)
    for rows in (0, 1, 65_535):
        changes = {"Rows": rows, "Columns": 65_535}
        yield Hostile(encapsulated(b"\xff\xd8\xff\xd9", JPEGBaseline8Bit, **changes), refused=False)


def polyglots() -> Iterator[Hostile]:
    """Files that are also programs or archives, sent with their head where a data set belongs."""
    for head in (b"MZ\x90\0", b"\x7fELF\x02\x01\x01", b"#!/bin/sh\n", b"PK\x03\x04", b"%PDF-1.7", b"<?php"):
        whole = parcel(radiograph())
        syntax = element(0x00020010, b"UI", b"1.2.840.10008.1.2.1\0")
        yield Hostile(replace(whole, content=head.ljust(128, b"\0") + b"DICM" + syntax + whole.content))
        yield Hostile(replace(whole, content=whole.content + head * 100), refused=False)


def odd_elements() -> Iterator[Hostile]:
    """Wrong group lengths, VRs that do not exist, and lengths that lie."""
    for length in (0, 1, 0xFFFF, 0xFFFFFFFE, UNDEFINED):
        group = element(0x00080000, b"UL", struct.pack("<L", length))
        whole = parcel(radiograph())
        yield Hostile(replace(whole, content=group + whole.content), refused=False)
    for vr in (b"ZZ", b"??", b"\0\0", b"ox", b"\xff\xff", b"OX", b"A1", b"  "):
        odd = element(0x00104000, vr, b"odd!")
        yield Hostile(before_pixels(parcel(radiograph()), odd), refused=False)
    for length in (1, 100_000, 0x7FFFFFFF, 0xFFFFFFFE):
        lie = element(0x00091010, b"OB", b"ab", length=length, wide=True)
        yield Hostile(before_pixels(parcel(radiograph()), lie), refused=length > 2)
        item = element(0x00081140, b"SQ", ITEM + struct.pack("<L", length) + b"abcd", wide=True)
        yield Hostile(before_pixels(parcel(radiograph()), item), refused=False)


def bombs() -> Iterator[Hostile]:
    """Little that unpacks to much: deflated, and codestreams that claim more pixels than their header."""
    whole = parcel(radiograph())
    claims = whole.content[: whole.content.index(PIXELS)] + element(
        0x7FE00010, b"OW", b"", length=1_000_000_000, wide=True
    )
    bomb = replace(whole, transfer_syntax_uid=DeflatedExplicitVRLittleEndian, content=_deflated(claims, 1000))
    yield Hostile(bomb)
    for rows in (1000, 60_000):
        sides = {"Rows": rows, "Columns": rows}
        for syntax, codestream in (
            (JPEG2000Lossless, _jpeg_2000(60_000)),
            (JPEGLSLossless, _jpeg_ls(65_535)),
            (JPEGBaseline8Bit, _jpeg(65_500)),
            (RLELossless, struct.pack("<16L", 2, 64, 64 + 40_000, *[0] * 13) + b"\x81\x00" * 40_000),
        ):
            yield Hostile(encapsulated(codestream, syntax, **sides), refused=False)


def as_radiograph(whole: Parcel) -> Parcel:
    """A CT of the malformed files as a chest radiograph, which is decoded where a CT is not."""
    content = whole.content
    for old, new in _OF_A_CT.items():
        content = content.replace(old, new)
    class_uid, uid = (each.encode() for each in (whole.sop_class_uid, whole.uid))
    for old, new in _OF_A_CT.items():
        class_uid, uid = class_uid.replace(old, new), uid.replace(old, new)
    chest = element(0x00180015, b"CS", b"CHEST ") + element(0x00185101, b"CS", b"PA")
    content = content.replace(_STUDY_UID, chest + _STUDY_UID, 1)
    return replace(whole, sop_class_uid=class_uid.decode(), uid=uid.decode(), content=content)


def broken_codestreams(rng: Random, of_each: int) -> Iterator[Hostile]:
    """Chest radiographs in every compressed transfer syntax, with one thing wrong in the codestream."""
    study_uid = new_uid()
    for path in sorted(SAMPLES.glob("*.dcm")):
        ds = dcmread(path)
        syntax = ds.file_meta.TransferSyntaxUID
        if not syntax.is_encapsulated:
            continue
        codestream = next(generate_frames(ds.PixelData, number_of_frames=1))
        header = {"Rows": 32, "Columns": 32, "BitsAllocated": ds.BitsAllocated, "BitsStored": ds.BitsStored}
        for _ in range(of_each):
            broken = encapsulated(mutated(codestream, rng), syntax, StudyInstanceUID=study_uid, **header)
            yield Hostile(broken, refused=False)


def all_of_them(cuts: Sequence[int]) -> dict[str, list[Hostile]]:
    """Every object by its kind."""
    return {
        "deep sequences": list(deep_sequences()),
        "objects cut short": list(cut_short(cuts)),
        "paths for UIDs": list(paths_for_uids()),
        "absurd dimensions": list(absurd_dimensions()),
        "polyglots": list(polyglots()),
        "odd elements": list(odd_elements()),
        "decompression bombs": list(bombs()),
    }


def _with_lengths(depth: int) -> bytes:
    """Nested sequences with defined lengths, which grow by a head each."""
    heads, size = [], 0
    for _ in range(depth):
        item = ITEM + struct.pack("<L", size)
        heads.append(element(0x00081140, b"SQ", b"", length=size + 8, wide=True) + item)
        size += 8 + 12
    return b"".join(chain(reversed(heads)))


def _with_text(whole: Parcel, text: str) -> Parcel:
    """The object with this text where 1.2.3.4.5.6.7 stood."""
    old = element(0, b"UI", b"1.2.3.4.5.6.7\0")[4:]
    value = text.encode() + b"\0" * (len(text) % 2)
    content = whole.content.replace(old, element(0, b"UI", value)[4:], 1)
    return replace(whole, uid=text if whole.uid == "1.2.3.4.5.6.7" else whole.uid, content=content)


def _deflated(head: bytes, megabytes: int) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    body = b"".join(packer.compress(bytes(1_000_000)) for _ in range(megabytes))
    packer_of_head = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer_of_head.compress(head) + packer_of_head.flush(zlib.Z_FULL_FLUSH) + body + packer.flush()


def _jpeg_2000(side: int) -> bytes:
    """A codestream of 64 x 64 whose SIZ segment (ISO/IEC 15444-1 A.5.1) claims one tile of this side."""
    buffer = BytesIO()
    Image.new("L", (64, 64)).save(buffer, "JPEG2000", no_jp2=True)
    small = bytearray(buffer.getvalue())
    at = small.index(b"\xff\x51") + 6
    for offset in (0, 4, 16, 20):  # Xsiz, Ysiz, XTsiz, YTsiz
        small[at + offset : at + offset + 4] = struct.pack(">L", side)
    return bytes(small)


def _jpeg_ls(side: int) -> bytes:
    """A JPEG-LS image of this side in one run: SOF55 and SOS of ISO/IEC 14495-1, and next to no data."""
    frame = b"\xff\xf7" + struct.pack(">HBHHB", 11, 16, side, side, 1) + b"\x01\x11\0"
    return b"\xff\xd8" + frame + b"\xff\xda\0\x08\x01\x01\0\0\0\0" + b"\x7f\xff" * 100 + b"\xff\xd9"


def _jpeg(side: int) -> bytes:
    """A baseline JPEG that claims this side and ends before its first scan."""
    frame = b"\xff\xc0" + struct.pack(">HBHHB", 11, 8, side, side, 1) + b"\x01\x11\0"
    return b"\xff\xd8" + frame + b"\xff\xda\0\x08\x01\x01\0\0\x3f\0" + bytes(100) + b"\xff\xd9"
