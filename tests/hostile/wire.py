"""PDUs as bytes, and a caller who sends them as they are, without a library between."""

import contextlib
import socket
import struct
import time
from collections.abc import Sequence

from pydicom.uid import ExplicitVRLittleEndian

VERIFICATION = "1.2.840.10008.1.1"
ATTACKER, GENUINE = "127.0.0.1", "127.0.0.77"
"""Addresses of loopback: limits that are kept per address can tell one from the other."""

LAST, COMMAND = 0x02, 0x01
"""Bits of the Message Control Header, PS3.8 E.2."""
NO_DATA_SET = 0x0101
C_STORE_RQ, C_ECHO_RQ = 0x0001, 0x0030

Context = tuple[int, str, Sequence[str]]
"""Presentation Context ID, abstract syntax, transfer syntaxes."""

_NAMES = {2: "accepted", 3: "rejected", 6: "released", 7: "aborted"}
_FRAGMENT = 16_000
_UIDS_OF_COMMANDS = (0x0002, 0x0003, 0x1000, 0x1001)


def pdu(kind: int, content: bytes, *, length: int | None = None) -> bytes:
    """A PDU of this type, whose length may lie."""
    return struct.pack(">BBL", kind, 0, len(content) if length is None else length) + content


def item(kind: int, content: bytes, *, length: int | None = None) -> bytes:
    """An item or sub-item of an A-ASSOCIATE-RQ, whose length may lie (PS3.8 9.3.2)."""
    return struct.pack(">BBH", kind, 0, (len(content) if length is None else length) & 0xFFFF) + content


def proposal(number: int, abstract_syntax: str, transfer_syntaxes: Sequence[str]) -> bytes:
    """A presentation context item."""
    syntaxes = [
        item(0x30, abstract_syntax.encode()),
        *(item(0x40, each.encode()) for each in transfer_syntaxes),
    ]
    return item(0x20, bytes([number, 0, 0, 0]) + b"".join(syntaxes))


def associate(*contexts: Context, proposals: bytes = b"", user: bytes = b"", **head: bytes) -> bytes:
    """An A-ASSOCIATE-RQ PDU; `user` are more sub-items of the user information, `proposals` more items."""
    version = head.get("version", b"\0\x01")
    called, calling = head.get("called", b"HILUM").ljust(16), head.get("calling", b"MODALITY").ljust(16)
    information = item(0x51, struct.pack(">L", 16_384)) + item(0x52, b"1.2.826.0.1.3680043.10.1511") + user
    content = version + b"\0\0" + called + calling + bytes(32)
    content += head.get("application", item(0x10, b"1.2.840.10008.3.1.1.1"))
    content += b"".join(proposal(*each) for each in contexts) + proposals + item(0x50, information)
    return pdu(1, content)


def p_data(context_id: int, header: int, content: bytes) -> bytes:
    """A P-DATA-TF PDU with one fragment."""
    return pdu(4, struct.pack(">LBB", len(content) + 2, context_id, header) + content)


def command(elements: dict[int, bytes | int | str], *, group_length: int | None = None) -> bytes:
    """A command set: group 0000 in Implicit VR Little Endian (PS3.7 6.3.1), numbers as US."""
    encoded = b"".join(_element(*each) for each in sorted(elements.items()))
    return _element(0, struct.pack("<L", len(encoded) if group_length is None else group_length)) + encoded


def store_command(sop_class_uid: str, uid: str, *, number: int = 1, **changes: int | str | bytes) -> bytes:
    """The command set of a C-STORE; `changes` are elements by their number: `x0800=0x0101`."""
    elements: dict[int, bytes | int | str] = {
        0x0002: sop_class_uid,
        0x0100: C_STORE_RQ,
        0x0110: number,
        0x0700: 0,
        0x0800: 1,
        0x1000: uid,
    }
    return command(elements | {int(name[1:], 16): value for name, value in changes.items()})


def echo_command(number: int = 1) -> bytes:
    """The command set of a C-ECHO."""
    return command({0x0002: VERIFICATION, 0x0100: C_ECHO_RQ, 0x0110: number, 0x0800: NO_DATA_SET})


def store_message(
    sop_class_uid: str, uid: str, content: bytes, *, context_id: int = 1, number: int = 1
) -> bytes:
    """The PDUs of a C-STORE request."""
    pieces = [content[at : at + _FRAGMENT] for at in range(0, len(content), _FRAGMENT)] or [b""]
    headers = [0] * (len(pieces) - 1) + [LAST]
    request = p_data(context_id, LAST | COMMAND, store_command(sop_class_uid, uid, number=number))
    return request + b"".join(p_data(context_id, *each) for each in zip(headers, pieces, strict=True))


def storage(sop_class_uid: str, transfer_syntax_uid: str = ExplicitVRLittleEndian) -> bytes:
    """An A-ASSOCIATE-RQ for objects of one class, with context 1, and for C-ECHO, with context 3."""
    return associate((1, sop_class_uid, [transfer_syntax_uid]), (3, VERIFICATION, ["1.2.840.10008.1.2"]))


ABORT = pdu(7, bytes(4))
RELEASE = pdu(5, bytes(4))


class Caller:
    """A TCP connection to the listener."""

    def __init__(self, port: int, address: str = ATTACKER) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 10, source_address=(address, 0))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._read = bytearray()

    def send(self, content: bytes) -> bool:
        """Send these bytes; False when the listener has hung up."""
        try:
            self._socket.sendall(content)
        except OSError:
            return False
        return True

    def answer(self, patience_s: float) -> str:
        """What comes next: a word, a status like 0x0000, `closed`, or `silence`."""
        whole = self._pdu(time.monotonic() + patience_s)
        if whole is None:
            return "silence"
        return (
            (_status(whole) if whole[0] == 4 else _NAMES.get(whole[0], "something else"))
            if whole
            else "closed"
        )

    def is_closed(self, patience_s: float) -> bool:
        """Whether the listener hangs up within this time, whatever it says before."""
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            if self.answer(max(0.01, deadline - time.monotonic())) == "closed":
                return True
        return False

    def stop_sending(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def close(self, *, rudely: bool = False) -> None:
        """Close the connection, with a TCP reset when rudely."""
        if rudely:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def __enter__(self) -> "Caller":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _pdu(self, deadline: float) -> bytes | None:
        """The next PDU; empty at the end of the connection, None when none comes in time."""
        while len(self._read) < 6 or len(self._read) < 6 + int.from_bytes(self._read[2:6]):
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                some = self._socket.recv(65_536)
            except TimeoutError:
                return None
            except OSError:
                return b""
            if not some:
                return b""
            self._read += some
        size = 6 + int.from_bytes(self._read[2:6])
        whole, self._read = bytes(self._read[:size]), self._read[size:]
        return whole


def _status(whole: bytes) -> str:
    """The Status (0000,0900) of a response, PS3.7 E.1."""
    at = whole.find(b"\0\0\0\x09\x02\0\0\0")
    return f"0x{int.from_bytes(whole[at + 8 : at + 10], 'little'):04X}" if at > 0 else "a request"


def _element(number: int, value: bytes | int | str) -> bytes:
    content = struct.pack("<H", value) if isinstance(value, int) else value
    if isinstance(content, str):
        content = content.encode() + (b"\0" if number in _UIDS_OF_COMMANDS and len(content) % 2 else b"")
    return struct.pack("<HHL", 0, number, len(content)) + content
