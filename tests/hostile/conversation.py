"""Genuine conversations with the listener, recorded from its callers, and what a fuzzer makes of them."""

import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit
from pynetdicom import AE
from pynetdicom.pdu_primitives import (
    AsynchronousOperationsWindowNegotiation,
    SCP_SCU_RoleSelectionNegotiation,
    SOPClassCommonExtendedNegotiation,
    SOPClassExtendedNegotiation,
    UserIdentityNegotiation,
)

from tests.hostile.mutation import mutated
from tests.hostile.objects import encapsulated
from tests.integration.radiographs import radiograph
from tests.peers.dcmtk import dcmsend, echoscu
from tests.peers.scu import parcel, send

CT = "1.2.840.10008.5.1.4.1.1.2"
"""Its objects are recorded and not read, so that fuzzing makes no work beyond the listener."""

Steps = list[list[bytes]]
"""PDUs of the caller; after each list of them the listener answered."""


@dataclass(frozen=True)
class Conversation:
    """What a caller said."""

    steps: Steps
    uid: bytes
    """Of the object that was sent; empty when there was none."""


class Recorder:
    """Stands between one caller and the listener and writes down what the caller says."""

    def __init__(self, port: int) -> None:
        self._listener = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self._said: list[bytearray] = [bytearray()]
        self._thread = threading.Thread(target=self._relay, daemon=True)
        self._thread.start()

    def steps(self) -> Steps:
        """What was said, once the caller has hung up."""
        self._thread.join(30)
        return [_pdus(bytes(said)) for said in self._said if said]

    def _relay(self) -> None:
        caller, _ = self._server.accept()
        listener = socket.create_connection(("127.0.0.1", self._listener))
        back = threading.Thread(target=self._answers, args=(listener, caller), daemon=True)
        back.start()
        with self._server, caller, listener:
            while some := caller.recv(65_536):
                self._said[-1] += some
                listener.sendall(some)
            listener.shutdown(socket.SHUT_WR)
            back.join(10)

    def _answers(self, listener: socket.socket, caller: socket.socket) -> None:
        try:
            while some := listener.recv(65_536):
                self._said.append(bytearray())
                caller.sendall(some)
        except OSError:
            return  # the caller has hung up


def record(port: int, folder: Path) -> list[Conversation]:
    """Conversations of DCMTK and pynetdicom: C-ECHO, C-STORE native and compressed, every negotiation."""
    small = {"SOPClassUID": CT, "Modality": "CT", "Rows": 16, "Columns": 16, "PixelData": bytes(512)}
    ds, other = radiograph(**small), radiograph(**small)
    path = folder / "genuine.dcm"
    other.file_meta = FileMetaDataset()
    other.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    other.save_as(path, enforce_file_format=True)
    packed = encapsulated(b"\xff\xd8\xff\xd9" * 20, JPEGBaseline8Bit, SOPClassUID=CT, Modality="CT")
    callers: list[tuple[Callable[[int], object], str]] = [
        (lambda port: echoscu(port), ""),
        (lambda port: send(port, parcel(ds)), ds.SOPInstanceUID),
        (lambda port: dcmsend(port, path), other.SOPInstanceUID),
        (lambda port: send(port, packed), packed.uid),
        (_negotiate, ""),
    ]
    return [_recorded(port, call, uid) for call, uid in callers]


def fuzzed(conversation: Conversation, rng: Random) -> list[bytes]:
    """The conversation with one PDU that is not as it was, and with a UID of its own."""
    steps = [[*step] for step in conversation.steps]
    step = rng.randrange(len(steps))
    at = rng.randrange(len(steps[step]))
    if rng.random() < 0.1:
        _disorder(steps, step, at, rng)
    else:
        steps[step][at] = mutated(steps[step][at], rng)
    fresh = bytes(rng.choice(b"123456789") for _ in conversation.uid[-12:])
    whole = [b"".join(step) for step in steps]
    if conversation.uid:
        whole = [each.replace(conversation.uid, conversation.uid[:-12] + fresh) for each in whole]
    return whole


def _recorded(port: int, call: Callable[[int], object], uid: str) -> Conversation:
    recorder = Recorder(port)
    call(recorder.port)
    return Conversation(recorder.steps(), uid.encode())


def _negotiate(port: int) -> None:
    """An association that asks for all that can be negotiated (PS3.7 D.3.3)."""
    identity = UserIdentityNegotiation()
    identity.user_identity_type = 2
    identity.primary_field, identity.secondary_field = b"name", b"word"
    role = SCP_SCU_RoleSelectionNegotiation()
    role.sop_class_uid, role.scu_role, role.scp_role = CT, True, True
    extended = SOPClassExtendedNegotiation()
    extended.sop_class_uid, extended.service_class_application_information = CT, b"\x02\0\x03\0\x01\0"
    common = SOPClassCommonExtendedNegotiation()
    common.sop_class_uid, common.service_class_uid = CT, "1.2.840.10008.4.2"
    window = AsynchronousOperationsWindowNegotiation()
    window.maximum_number_operations_invoked = window.maximum_number_operations_performed = 5
    ae = AE("NEGOTIATOR")
    ae.add_requested_context(CT)
    assoc = ae.associate(
        "127.0.0.1", port, ae_title="HILUM", ext_neg=[identity, role, extended, common, window]
    )
    if assoc.is_established:
        assoc.release()


def _pdus(said: bytes) -> list[bytes]:
    pdus = []
    while said:
        size = 6 + int.from_bytes(said[2:6])
        pdus.append(said[:size])
        said = said[size:]
    return pdus


def _disorder(steps: Steps, step: int, at: int, rng: Random) -> None:
    """One PDU is missing, comes twice, or comes elsewhere."""
    moved = steps[step][at]
    if rng.random() < 0.7:
        del steps[step][at]
    if rng.random() < 0.7:
        elsewhere = rng.choice(steps)
        elsewhere.insert(rng.randint(0, len(elsewhere)), moved)
