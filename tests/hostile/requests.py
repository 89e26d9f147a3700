"""Associations and messages that no client would ask for, as bytes."""

import struct
from collections.abc import Iterator

from pydicom.uid import ExplicitVRLittleEndian

from tests.hostile.wire import (
    ABORT,
    COMMAND,
    LAST,
    NO_DATA_SET,
    RELEASE,
    VERIFICATION,
    associate,
    command,
    echo_command,
    item,
    p_data,
    pdu,
    proposal,
    storage,
    store_command,
    store_message,
)
from tests.peers.scu import Parcel

Steps = list[bytes]
"""What a caller sends; after each it waits for an answer."""

_STORAGE = "1.2.840.10008.5.1.4.1.1.1.1"
_CONTEXT = (1, _STORAGE, [ExplicitVRLittleEndian])
_SUB_ITEMS = range(0x51, 0x5A)
_LENGTHS = (0, 1, 2, 5, 67, 68, 0x40000, 0x40001, 0x1000000, 0x7FFFFFFF, 0xFFFFFFFF)
_UNKNOWN = 0x0FFE


def lengths_before_an_association() -> Iterator[Steps]:
    """PDUs of every type, known and not, whose length lies."""
    for kind in (*range(9), 0x10, 0x7F, 0x80, 0xFF):
        for length in _LENGTHS:
            yield [pdu(kind, bytes(10), length=length)]


def odd_associations() -> Iterator[Steps]:
    """Requests with thousands of items, huge user information, lying sub-items and odd names."""
    for count in (129, 1000, 4000, 65_535):
        yield [associate(proposals=b"".join(_odd(number, ExplicitVRLittleEndian) for number in range(count)))]
        yield [associate(_CONTEXT, proposals=item(0x20, b"") * count)]
    yield [associate((1, _STORAGE, [ExplicitVRLittleEndian] * 2000))]
    yield [associate((1, _STORAGE, [f"1.2.{number}" for number in range(5000)]))]
    for kind in (*_SUB_ITEMS, 0x60, 0xFF):
        for content in (b"", b"\0", b"\xff\xff" + bytes(8), bytes(60_000), b"\0\x09" + b"1" * 9 + bytes(9)):
            yield [associate(_CONTEXT, user=item(kind, content))]
            yield [associate(_CONTEXT, user=item(kind, content, length=len(content) + 7))]
        yield [associate(_CONTEXT, user=item(kind, b"\0\x031.2\x01\x01") * 5000)]
    yield from ([associate(_CONTEXT, **head)] for head in _heads())
    for number in (0, 2, 254):
        yield [associate((number, _STORAGE, [ExplicitVRLittleEndian]))]
    yield [associate(_CONTEXT, _CONTEXT, _CONTEXT)]
    yield [associate((1, _STORAGE, []))]
    yield [associate((1, "", [""]))]
    yield [associate((1, "9" * 5000, [ExplicitVRLittleEndian]))]
    yield [associate()]
    yield [pdu(1, b"")]
    yield [pdu(1, bytes(68))]


def odd_messages(image: Parcel) -> Iterator[Steps]:
    """Messages out of order, of services that are not offered, with fields that do not exist."""
    begin, data = storage(image.sop_class_uid), p_data(1, LAST, image.content)
    request = store_command(image.sop_class_uid, image.uid)
    yield [begin, data]
    yield [begin, data + data]
    yield [begin, p_data(1, LAST | COMMAND, request) * 2 + data]
    yield [begin, p_data(1, LAST | COMMAND, request) + p_data(3, LAST, image.content)]
    yield [begin, p_data(5, LAST | COMMAND, request) + data]
    yield [begin, p_data(1, LAST | COMMAND, request), RELEASE, data]
    yield [begin, p_data(1, COMMAND, request), RELEASE]
    yield [begin, begin]
    yield [begin, p_data(1, LAST | COMMAND, request) + begin]
    yield [begin, pdu(2, bytes(68)), pdu(3, bytes(4)), pdu(6, bytes(4))]
    yield [RELEASE]
    yield [ABORT]
    yield [data]
    yield [
        begin,
        p_data(3, LAST | COMMAND, store_command(VERIFICATION, image.uid)) + p_data(3, LAST, b"\0\0"),
    ]
    yield [begin, p_data(3, LAST | COMMAND, store_command(VERIFICATION, image.uid, x0800=NO_DATA_SET))]
    yield [begin, p_data(1, LAST | COMMAND, echo_command())]
    yield [begin, p_data(1, LAST | COMMAND, store_command(image.sop_class_uid, image.uid, x0800=NO_DATA_SET))]
    yield from ([begin, p_data(1, LAST | COMMAND, each) + data] for each in _odd_commands(image))
    yield [begin, p_data(3, LAST | COMMAND, echo_command()) * 100, RELEASE]
    same = store_message(image.sop_class_uid, image.uid, image.content, number=7)
    yield [begin, same * 3 + same[:-100]]
    yield from ([begin, pdu(4, content)] for content in _odd_fragments())


def cut_off(whole: Steps, every: int) -> Iterator[Steps]:
    """The conversation until each byte, or each so-and-so-many."""
    for step, content in enumerate(whole):
        for end in range(0, len(content), every):
            yield [*whole[:step], content[:end]]


def _odd(number: int, transfer_syntax_uid: str) -> bytes:
    return proposal((2 * number + 1) % 256, f"1.2.{number}", [transfer_syntax_uid])


def _heads() -> Iterator[dict[str, bytes]]:
    for version in (b"\0\0", b"\xff\xff"):
        yield {"version": version}
    for application in (b"", item(0x10, b""), item(0x10, b"1.2.3"), item(0x10, b"9" * 64, length=3)):
        yield {"application": application}
    for name in (b" " * 16, b"\0" * 16, b"A\nB\x1b[2J", b"\xff" * 16, b"A\\B", b"$(id)`id`;"):
        yield {"calling": name}
        yield {"called": name}


def _odd_commands(image: Parcel) -> Iterator[bytes]:
    usual: dict[int, bytes | int | str] = {
        0x0002: image.sop_class_uid,
        0x0003: image.sop_class_uid,
        0x0110: 1,
        0x0120: 1,
        0x0700: 0,
        0x0800: 1,
        0x1000: image.uid,
        0x1001: image.uid,
    }
    fields = (0x0020, 0x0021, 0x0010, 0x0100, 0x0110, 0x0120, 0x0130, 0x0140, 0x0150, 0x0FFF, 0x8001, 0x8030)
    for field in (*fields, _UNKNOWN, 0, 0xFFFF):
        yield command(usual | {0x0100: field})
        yield command(
            {number: value for number, value in usual.items() if number != 0x0120} | {0x0100: field}
        )
    for group_length in (0, 1, 0xFFFF, 0xFFFFFFFF):
        yield command(usual | {0x0100: 1}, group_length=group_length)
    for odd in ({0x0110: b""}, {0x0110: b"\0" * 7}, {0x0800: b""}, {0x0100: b"\x01"}, {0x1000: b"1.2\\3.4"}):
        yield command(usual | {0x0100: 1} | odd)
    yield command(usual | {0x0100: 1, 0x5555: bytes(40_000)})
    yield command(usual | {0x0100: 1, 0x1030: b"\xff" * 16, 0x1031: b"\xff\xff"})
    yield b""
    yield bytes(8)
    yield b"\xff" * 100


def _odd_fragments() -> Iterator[bytes]:
    """Contents of a P-DATA-TF whose fragments lie about their lengths (PS3.8 9.3.5.1)."""
    for length in (0, 1, 2, 3, 1000, 0x7FFFFFFF, 0xFFFFFFFF):
        yield struct.pack(">LBB", length, 1, LAST | COMMAND) + echo_command()
    yield b""
    yield b"\0"
    yield struct.pack(">LBB", 2, 1, COMMAND) * 3000
    yield struct.pack(">LBB", 2, 1, 0xFF) * 100
    yield struct.pack(">LBB", 2, 1, 0) + struct.pack(">LBB", 2, 3, LAST)
