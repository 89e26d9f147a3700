"""Reading a data set that nobody vouches for."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicom_listener.contents import Contents, read_contents
from dicom_listener.status import Refused
from tests.integration.radiographs import radiograph
from tests.peers.scu import encoded, parcel_of

Read = Callable[..., Contents]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def read(content: bytes, syntax: UID = ExplicitVRLittleEndian, most_mb: int = 8) -> Contents:
        path = tmp_path / "object"
        path.write_bytes(content)
        return read_contents(path, 0, syntax, most_mb=most_mb)

    return read


def test_the_pixels_have_a_digest_of_their_own(read: Read) -> None:
    ds = radiograph()
    first = read(encoded(ds))
    assert first.has_pixels
    ds.PatientID = "another"
    second = read(encoded(ds))
    ds.PixelData = b"\1" * 8192
    third = read(encoded(ds))
    assert first.pixel_digest == second.pixel_digest != third.pixel_digest
    assert len({first.digest, second.digest, third.digest}) == 3


def test_an_object_without_pixels_is_told_by_its_whole_data_set(read: Read) -> None:
    ds = radiograph(SOPClassUID="1.2.840.10008.5.1.4.1.1.88.34")
    del ds.PixelData
    first = read(encoded(ds))
    assert not first.has_pixels
    assert first.pixel_digest == first.digest
    icon = Dataset()
    icon.PixelData = bytes(8)
    icon["PixelData"].VR = "OW"
    ds.IconImageSequence = [icon]
    assert not read(encoded(ds)).has_pixels, "an icon is not what it is about"


def test_what_calls_itself_implicit_and_is_not_is_read_as_readers_do(read: Read) -> None:
    ds = radiograph()
    assert read(encoded(ds), ImplicitVRLittleEndian).header.PatientID == "4711"


def test_an_item_that_runs_past_its_sequence_is_refused(read: Read) -> None:
    item = Dataset()
    item.RequestedProcedurePriority = "HIGH"
    content = encoded(radiograph(RequestAttributesSequence=[item]))
    assert read(content).priorities == ("HIGH",)
    at = content.index(b"\x40\x00\x03\x10SH") + 6
    with pytest.raises(Refused, match="runs past the end"):
        read(content[:at] + b"\xf0\x00" + content[at + 2 :])


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cuts=st.lists(st.tuples(st.integers(0, 9000), st.binary(max_size=12)), max_size=6),
    syntax=st.sampled_from(
        [
            ExplicitVRLittleEndian,
            ImplicitVRLittleEndian,
            DeflatedExplicitVRLittleEndian,
            UID("1.2.840.10008.1.2.2"),
        ]
    ),
)
def test_whatever_comes_is_read_or_refused(read: Read, cuts: list[tuple[int, bytes]], syntax: UID) -> None:
    content = bytearray(EXAMPLE)
    for at, replacement in cuts:
        content[at : at + len(replacement)] = replacement
    try:
        read(bytes(content), syntax)
    except Refused:
        return


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_real_headers_read_as_pydicom_reads_them(read: Read, shared_data: Path) -> None:
    agreed = 0
    for path in sorted((shared_data / "dicom" / "variety").glob("*.dcm")):
        each = parcel_of(path)
        try:
            contents = read(each.content, UID(each.transfer_syntax_uid), 100)
        except Refused:
            continue
        agreed += 1
        ds = dcmread(path, stop_before_pixels=True)
        for word in ("PatientName", "StudyInstanceUID", "Modality", "Rows", "SpecificCharacterSet"):
            assert contents.header.get(word) == ds.get(word), (path.name, word)
    assert agreed > 70


EXAMPLE = encoded(
    radiograph(
        RequestAttributesSequence=[Dataset()], ReferencedImageSequence=[radiograph(PixelData=bytes(8192))]
    )
)
