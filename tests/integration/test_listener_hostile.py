"""What the listener makes of objects that are broken, or made to break it."""

import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEGBaseline8Bit
from pynetdicom.pdu_primitives import P_DATA

from db.schema import upgrade
from db.session import engine
from db.tables import Instance
from tests.integration.radiographs import radiograph
from tests.peers.dcmtk import echoscu
from tests.peers.helpers import wait_for
from tests.peers.listener import Listener
from tests.peers.scu import (
    CANNOT_UNDERSTAND,
    NOT_ITS_CLASS,
    OUT_OF_RESOURCES,
    SUCCESS,
    Parcel,
    association,
    encoded,
    fragments,
    parcel,
    parcel_of,
    send,
    send_all,
    store,
)

REFUSED = {OUT_OF_RESOURCES, NOT_ITS_CLASS, CANNOT_UNDERSTAND}


@pytest.fixture(scope="module")
def listener(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listener]:
    """One listener that must outlive everything that is sent to it here."""
    folder = tmp_path_factory.mktemp("listener")
    upgrade(f"sqlite:///{folder / 'hilum.sqlite'}")
    running = Listener(folder, max_object_mb=64)
    yield running
    assert running.process.poll() is None, running.log
    running.stop()
    engine(running.database_url).dispose()


@pytest.mark.parametrize("uid", ["../../../evil", "1.2.3/4", "1.2.x", "", "1.2."])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_uid_that_is_none_is_refused_and_names_no_file(listener: Listener, uid: str) -> None:
    ds = radiograph(SOPInstanceUID=uid)
    with association(listener.port, [parcel(ds)]) as assoc:
        answer = store(assoc, replace(parcel(ds), uid=uid or "1.2.3"))
        assert answer == CANNOT_UNDERSTAND
        assert store(assoc, parcel(radiograph())) == SUCCESS
    assert not list(listener.folder.parent.rglob("*evil*"))


@pytest.mark.parametrize("missing", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"])
def test_an_object_without_its_uids_is_refused(listener: Listener, missing: str) -> None:
    ds = radiograph()
    whole = parcel(ds)
    delattr(ds, missing)
    before = listener.files("")
    assert send(listener.port, replace(whole, content=encoded(ds))) == [CANNOT_UNDERSTAND]
    assert listener.files("") == before


def test_a_data_set_of_another_object_or_class_is_refused(listener: Listener) -> None:
    ds = radiograph()
    assert send(listener.port, replace(parcel(ds), uid="1.2.3")) == [CANNOT_UNDERSTAND]
    computed = replace(parcel(ds), sop_class_uid="1.2.840.10008.5.1.4.1.1.1")
    with association(listener.port, [computed, parcel(ds)]) as assoc:
        assert store(assoc, computed) == NOT_ITS_CLASS
        assert store(assoc, computed, in_context_of=parcel(ds)) == NOT_ITS_CLASS
        assert store(assoc, replace(computed, sop_class_uid="31"), in_context_of=computed) == NOT_ITS_CLASS
        assert store(assoc, parcel(ds)) == SUCCESS


@pytest.mark.parametrize("lost_bytes", [1, 100, 8000, 8192, 8250])
def test_a_truncated_object_is_never_answered_with_success(listener: Listener, lost_bytes: int) -> None:
    whole = parcel(radiograph())
    assert send(listener.port, replace(whole, content=whole.content[:-lost_bytes])) == [CANNOT_UNDERSTAND]


def test_pixels_fewer_than_rows_and_columns_are_refused(listener: Listener) -> None:
    assert send(listener.port, parcel(radiograph(Rows=65))) == [CANNOT_UNDERSTAND]
    assert send(listener.port, parcel(radiograph(NumberOfFrames="2"))) == [CANNOT_UNDERSTAND]
    assert send(listener.port, parcel(radiograph(Rows=63))) == [SUCCESS]


def test_a_value_that_claims_four_gigabytes_is_refused(listener: Listener) -> None:
    whole = parcel(radiograph())
    length = (8192).to_bytes(4, "little")
    at = whole.content.index(b"\xe0\x7f\x10\x00OW") + 8
    assert whole.content[at : at + 4] == length
    claims = whole.content[:at] + b"\xfe\xff\xff\xff" + whole.content[at + 4 : at + 7]
    assert send(listener.port, replace(whole, content=claims)) == [CANNOT_UNDERSTAND]


@pytest.mark.parametrize("end", [b"", b"\xfe\xff\xdd\xe0", b"\xfe\xff\x0d\xe0\0\0\0\0"])
def test_encapsulated_pixels_without_their_end_are_refused(listener: Listener, end: bytes) -> None:
    whole = encapsulated()
    broken = replace(whole, content=whole.content[:-8] + end)
    assert send(listener.port, broken, whole) == [CANNOT_UNDERSTAND, SUCCESS]


def test_a_deflated_object_is_kept_and_a_bomb_is_refused(listener: Listener) -> None:
    ds = parcel(radiograph())
    deflated = replace(ds, transfer_syntax_uid=DeflatedExplicitVRLittleEndian)
    before_mb = listener.memory_mb
    claims = ds.content[:-8196] + (100_000_000).to_bytes(4, "little")
    bomb = replace(deflated, content=deflate(claims + bytes(100_000_000)))
    assert len(bomb.content) < 1_000_000
    garbage = replace(deflated, content=b"not deflated at all")
    cut = replace(deflated, content=deflate(ds.content)[:-20])
    good = replace(deflated, content=deflate(ds.content))
    answers = send(listener.port, bomb, garbage, cut, good)
    assert answers == [OUT_OF_RESOURCES, CANNOT_UNDERSTAND, CANNOT_UNDERSTAND, SUCCESS]
    assert listener.memory_mb < before_mb + 50


@pytest.mark.parametrize("depth", [100, 100_000])
def test_sequences_nested_without_end_are_refused(listener: Listener, depth: int) -> None:
    whole = parcel(radiograph())
    opening = b"\x40\x00\x75\x02SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    closing = b"\xfe\xff\x0d\xe0\0\0\0\0" + b"\xfe\xff\xdd\xe0\0\0\0\0"
    at = whole.content.index(b"\xe0\x7f\x10\x00OW")
    nested = whole.content[:at] + opening * depth + closing * depth + whole.content[at:]
    assert send(listener.port, replace(whole, content=nested)) == [CANNOT_UNDERSTAND]


def test_file_meta_information_inside_a_data_set_is_refused(listener: Listener) -> None:
    whole = parcel(radiograph())
    syntax = b"\x02\x00\x10\x00UI\x12\x001.2.840.10008.1.2\0"
    assert send(listener.port, replace(whole, content=syntax + whole.content)) == [CANNOT_UNDERSTAND]
    part_10 = bytes(128) + b"DICM" + syntax + whole.content
    assert send(listener.port, replace(whole, content=part_10)) == [CANNOT_UNDERSTAND]


def test_an_empty_data_set_is_refused(listener: Listener) -> None:
    assert send(listener.port, replace(parcel(radiograph()), content=b"\0" * 8)) == [CANNOT_UNDERSTAND]


def test_a_command_in_the_middle_of_an_object_ends_the_association(listener: Listener) -> None:
    ds = parcel(radiograph(Rows=512, Columns=512, PixelData=bytes(512 * 512 * 2)))
    with association(listener.port, [ds]) as assoc:
        command, first, *_ = fragments(assoc, ds)
        for each in (command, first, command):
            assoc.dul.send_pdu(each)
        wait_for(lambda: not assoc.is_established, 10, "the abort")
    wait_for(lambda: not listener.files("aside"), 10, "the half object's end")


@pytest.mark.parametrize("values", [[b""], [b"\x03" + b"\xff" * 10], [b"\x01" + bytes(100_000)] * 3])
def test_a_message_that_is_none_ends_the_association(listener: Listener, values: list[bytes]) -> None:
    ds = parcel(radiograph())
    with association(listener.port, [ds]) as assoc:
        for value in values:
            broken = P_DATA()
            broken.presentation_data_value_list = [[1, value]]  # type: ignore[list-item]
            assoc.dul.send_pdu(broken)
        wait_for(lambda: not assoc.is_established, 10, "the abort")
    assert echoscu(listener.port)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_real_file_is_kept_or_refused_with_a_reason(listener: Listener, shared_data: Path) -> None:
    files = sorted((shared_data / "dicom" / "variety").glob("*.dcm"))
    assert len(files) == 106
    parcels = [parcel_of(path) for path in files]
    before = listener.log.count("handlers: refused")
    answers = send_all(listener.port, parcels)
    assert answers.count(SUCCESS) >= 65
    assert None not in answers, "an object ended the association of all others"
    refused = [answer for answer in answers if answer in REFUSED]
    assert listener.log.count("handlers: refused") == before + len(refused)
    with listener.session() as session:
        for instance in session.query(Instance):
            assert (listener.store / instance.path).stat().st_size == instance.size_bytes


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_hostile_files_do_no_harm(listener: Listener, shared_data: Path) -> None:
    files = sorted((shared_data / "dicom" / "hostile").rglob("*.dcm"))
    parcels = [parcel_of(path) for path in files]
    assert len(parcels) > 400
    answers = send_all(listener.port, parcels)
    assert answers.count(SUCCESS) > 100
    assert listener.memory_mb < 300
    assert listener.files("aside") == []
    assert echoscu(listener.port)


def encapsulated() -> Parcel:
    ds = parcel(radiograph())
    at = ds.content.index(b"\xe0\x7f\x10\x00OW")
    pixels = b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\0\0\0\0"
    pixels += b"\xfe\xff\x00\xe0\x04\0\0\0\xff\xd8\xff\xd9" + b"\xfe\xff\xdd\xe0\0\0\0\0"
    return replace(ds, content=ds.content[:at] + pixels, transfer_syntax_uid=JPEGBaseline8Bit)


def deflate(content: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(content) + packer.flush()
