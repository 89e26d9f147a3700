"""A sender that sends what no client would: the bytes of a data set as they are, with any UID."""

import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import cast

from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import _read_file_meta_info, read_preamble
from pydicom.filewriter import write_dataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu_primitives import P_DATA

SUCCESS, OUT_OF_RESOURCES, NOT_ITS_CLASS, CANNOT_UNDERSTAND = 0x0000, 0xA700, 0xA900, 0xC000


@dataclass(frozen=True)
class Parcel:
    """One object as it travels: what the request says, and the encoded data set."""

    sop_class_uid: str
    uid: str
    content: bytes
    transfer_syntax_uid: str = ExplicitVRLittleEndian


def parcel(ds: Dataset) -> Parcel:
    """An object that is as it should be."""
    return Parcel(ds.SOPClassUID, ds.SOPInstanceUID, encoded(ds))


def encoded(ds: Dataset) -> bytes:
    """The data set in Explicit VR Little Endian."""
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, ds)
    return buffer.getvalue()


def parcel_of(path: Path) -> Parcel:
    """A file's data set as its bytes are; of a file without a readable head, all that it holds."""
    content = path.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with path.open("rb") as file:
                read_preamble(file, force=False)
                meta = _read_file_meta_info(file)
                names = [
                    meta.MediaStorageSOPClassUID,
                    meta.MediaStorageSOPInstanceUID,
                    meta.TransferSyntaxUID,
                ]
                if all(name.is_valid for name in names) and content[file.tell() :]:
                    return Parcel(str(names[0]), str(names[1]), content[file.tell() :], str(names[2]))
        except Exception:  # hostile files are made so that readers raise anything
            pass
    return Parcel(CTImageStorage, "1.2.3", content[132:] or content or b"\0")


@contextmanager
def association(
    port: int, parcels: Iterable[Parcel], *, calling: str = "MODALITY", called: str = "HILUM"
) -> Iterator[Association]:
    """An association for these objects; not established when it was rejected."""
    assoc = associate(port, parcels, calling=calling, called=called)
    try:
        yield assoc
    finally:
        if assoc.is_established:
            assoc.release()


def associate(
    port: int, parcels: Iterable[Parcel], *, calling: str = "MODALITY", called: str = "HILUM"
) -> Association:
    """An association that the caller must release."""
    ae = AE(calling)
    ae.network_timeout = ae.dimse_timeout = ae.acse_timeout = 60
    for sop_class_uid, syntax in {(each.sop_class_uid, each.transfer_syntax_uid) for each in parcels}:
        ae.add_requested_context(sop_class_uid, syntax)
    return ae.associate("127.0.0.1", port, ae_title=called)


def store(assoc: Association, each: Parcel, *, in_context_of: Parcel | None = None) -> int | None:
    """The status of a C-STORE; None when the association ended instead."""
    answer = reply(assoc, each, in_context_of=in_context_of)
    return None if answer is None else answer.Status


def reply(assoc: Association, each: Parcel, *, in_context_of: Parcel | None = None) -> C_STORE | None:
    """The response to a C-STORE; None when the association ended instead."""
    request, context_id = _request(each), _context_id(assoc, in_context_of or each)
    _pause(assoc)
    assoc.dimse.send_msg(request, context_id)
    _, answer = assoc.dimse.get_msg(block=True)
    assoc._reactor_checkpoint.set()
    return cast(C_STORE | None, answer)


def send(port: int, *parcels: Parcel, calling: str = "MODALITY", called: str = "HILUM") -> list[int | None]:
    """The statuses of these objects, sent on one association."""
    with association(port, parcels, calling=calling, called=called) as assoc:
        assert assoc.is_established, "the association was not accepted"
        return [store(assoc, each) for each in parcels]


def send_all(port: int, parcels: Sequence[Parcel]) -> list[int | str | None]:
    """For each object its status, None when it ended the association, or why it did not travel.

    One association carries them, and another one what comes after its end.
    """
    assoc, answers = associate(port, parcels), list[int | str | None]()
    for each in parcels:
        if not assoc.is_established:
            assoc = associate(port, parcels)
        try:
            answers.append(store(assoc, each))
        except LookupError:
            answers.append("its class or transfer syntax is not accepted")
        except ValueError:
            answers.append("no client could send it")
    if assoc.is_established:
        assoc.release()
    return answers


def fragments(assoc: Association, each: Parcel) -> list[P_DATA]:
    """A C-STORE request in the pieces that travel."""
    message = C_STORE_RQ()
    message.primitive_to_message(_request(each))
    return list(message.encode_msg(_context_id(assoc, each), 16_384))


def rejection(
    port: int, *parcels: Parcel, calling: str = "MODALITY", called: str = "HILUM"
) -> tuple[int | None, ...] | None:
    """Result, source and reason of the rejection of an association; None when it is accepted.

    It proposes Verification, unless there are parcels to be sent.
    """
    proposed = parcels or [Parcel("1.2.840.10008.1.1", "1.2.3", b"")]
    with association(port, proposed, calling=calling, called=called) as assoc:
        if assoc.is_established:
            return None
        answer = assoc.acceptor.primitive
        assert answer is not None, "no answer at all"
        return answer.result, answer.result_source, answer.diagnostic


def _request(each: Parcel) -> C_STORE:
    request = C_STORE()
    request.MessageID = 1
    request.AffectedSOPClassUID = each.sop_class_uid
    request.AffectedSOPInstanceUID = each.uid
    request.Priority = 2
    request.DataSet = BytesIO(each.content)
    return request


def _context_id(assoc: Association, each: Parcel) -> int:
    wanted = (UID(each.sop_class_uid), UID(each.transfer_syntax_uid))
    contexts = {(cx.abstract_syntax, cx.transfer_syntax[0]): cx.context_id for cx in assoc.accepted_contexts}
    return contexts[wanted] or 0


def _pause(assoc: Association) -> None:
    """Keep pynetdicom's own loop from taking the answer."""
    assoc._reactor_checkpoint.clear()
    while not assoc._is_paused:
        time.sleep(0.0005)
