"""What leaves a hospital: nothing of whoever it is of, and an image that can still be used."""

import io
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import DataElement, Dataset, FileDataset, dcmread
from pydicom.datadict import dictionary_VM, dictionary_VR, keyword_dict
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
)

from hilum.deidentification import _KEPT, age_years, deidentified
from hilum.eligibility import why_not_assessed
from hilum.phantom import phantom
from hilum.pseudonyms import Pseudonyms
from hilum.radiograph import pixel_hash, stored_values, to_display
from tests.unit.images import SCATTER, lut, radiograph

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")

NAMES = Pseudonyms(b"a key of thirty-two bytes, no more")
PATIENT = "4711"
DCIODVFY = Path(sys.executable).with_name("dciodvfy")


@pytest.fixture(autouse=True, scope="module")
def as_in_the_decoder() -> Iterator[None]:
    """Strangers' values are read and written as they are."""
    ours = pydicom.config.settings
    before = ours.reading_validation_mode, ours.writing_validation_mode
    ours.reading_validation_mode = ours.writing_validation_mode = pydicom.config.IGNORE
    yield
    ours.reading_validation_mode, ours.writing_validation_mode = before


def made_of(ds: Dataset) -> FileDataset:
    """The image as it leaves, read again from the bytes written."""
    return dcmread(io.BytesIO(written(deidentified(ds, stored_values(ds), NAMES, PATIENT))))


def written(ds: Dataset, **how: Any) -> bytes:
    file = io.BytesIO()
    ds.save_as(file, enforce_file_format=True, **how)
    return file.getvalue()


PLANTED = {
    "AE": "ZQSTATION",
    "AS": "ZQ9Y",
    "CS": "ZQCODE",
    "DA": "19610312",
    "DS": "8127364455",
    "DT": "19610312081455",
    "IS": "812736445",
    "LO": "ZQ^Hospital",
    "LT": "ZQ lives in Example Street 12",
    "OB": b"ZQ\0BYTES",
    "OB or OW": b"ZQ\0BYTES",
    "OW": b"ZQ\0WORDS",
    "PN": "ZQMuster^Eva",
    "SH": "ZQ-4711",
    "ST": "ZQ was seen by Dr. Example",
    "TM": "081455.123",
    "UC": "ZQ unlimited",
    "UI": "1.2.826.0.1.3680043.99.8127364455",
    "UN": b"ZQ\0HIDDEN",
    "UR": "http://zq.example/patient",
    "UT": "ZQ has a long history",
}
"""VR -> what identifies somebody in it."""
_TRACES = (b"ZQ", b"zq", b"19610312", b"081455", b"812736445", b"3680043.99")
_OURS_TO_CHOOSE = {
    *("SOPClassUID", "PixelData", "BitsStored", "Rows", "Columns", "PixelRepresentation", "HighBit"),
    *("PhotometricInterpretation", "NumberOfFrames"),
}
"""What has to be in order for an image to be decoded."""
_TAGS = [
    tag
    for keyword, tag in keyword_dict.items()
    if keyword not in _OURS_TO_CHOOSE and tag >> 16 > 2 and dictionary_VR(tag) in (*PLANTED, "SQ")
]
_SEQUENCES = [tag for tag in _TAGS if dictionary_VR(tag) == "SQ"]
_KEPT_SEQUENCES = [0x00283000, 0x00283010, 0x00082112, 0x00081140, 0x00540220, 0x00082218]


def planted_in(tag: int) -> DataElement:
    vr = dictionary_VR(tag)
    several = (
        dictionary_VM(tag) != "1" and isinstance(PLANTED[vr], str) and vr not in ("LT", "ST", "UT", "UR")
    )
    value = [PLANTED[vr]] * 2 if several else PLANTED[vr]
    return DataElement(tag, "OB" if vr == "OB or OW" else vr, value)


plain = st.sampled_from([tag for tag in _TAGS if dictionary_VR(tag) != "SQ"]).map(planted_in)
unknown = st.builds(
    lambda group, element, vr: DataElement(group << 16 | element, vr, PLANTED[vr]),
    st.sampled_from([0x0009, 0x0019, 0x0099, 0x5000, 0x6000, 0x6002, 0x0010, 0x7FE1, 0x4FFE]),
    st.integers(0x1000, 0xFFFE),
    st.sampled_from(["LO", "UN", "UT", "OB", "PN"]),
)
creators = st.builds(
    lambda element: DataElement(0x00090000 | element, "LO", "ZQ CREATOR"), st.integers(0x10, 0xFF)
)


def _of(elements: list[DataElement]) -> Dataset:
    ds = Dataset()
    for element in elements:
        ds[element.tag] = element
    return ds


def _nested(items: st.SearchStrategy[Dataset]) -> st.SearchStrategy[DataElement]:
    tags = st.one_of(st.sampled_from(_SEQUENCES), st.sampled_from(_KEPT_SEQUENCES), st.just(0x00091044))
    return st.builds(
        lambda tag, held: DataElement(tag, "SQ", held), tags, st.lists(items, min_size=1, max_size=2)
    )


leaves = st.one_of(plain, plain, unknown, creators)
datasets = st.recursive(
    st.lists(leaves, min_size=1, max_size=6).map(_of),
    lambda inner: st.lists(st.one_of(leaves, _nested(inner)), min_size=1, max_size=6).map(_of),
    max_leaves=12,
)


def traces_of(planted: Dataset, syntax: UID = ExplicitVRLittleEndian) -> list[bytes]:
    """What identifies somebody and is found in the bytes written, when this is added to a radiograph."""
    ds = radiograph()
    ds.update(planted)
    ds.file_meta.TransferSyntaxUID = syntax
    ds.file_meta.SourceApplicationEntityTitle = "ZQSTATION"
    ds.file_meta.PrivateInformationCreatorUID, ds.file_meta.PrivateInformation = UID("1.2.3"), b"ZQ\0HERE"
    ds.preamble = b"ZQ is a program" + bytes(113)
    stranger = dcmread(io.BytesIO(written(ds)))
    content = written(deidentified(stranger, stored_values(stranger), NAMES, PATIENT))
    assert content[:128] == bytes(128)
    return [trace for trace in _TRACES if trace in content]


def every_attribute() -> Dataset:
    """All of the standard's attributes that can hold what identifies somebody, each with that in it."""
    return _of([planted_in(tag) for tag in _TAGS if dictionary_VR(tag) != "SQ"])


def test_no_attribute_of_the_standard_lets_an_identifier_through() -> None:
    assert traces_of(every_attribute()) == []


@pytest.mark.parametrize("tag", _KEPT_SEQUENCES)
def test_no_attribute_of_an_item_lets_an_identifier_through(tag: int) -> None:
    held = every_attribute()
    held.LUTDescriptor, held.LUTData = [16, 0, 16], bytes(range(32)) + b"ZQ"
    assert traces_of(_of([DataElement(tag, "SQ", [held])])) == []


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(datasets, st.sampled_from([ExplicitVRLittleEndian, ImplicitVRLittleEndian]))
def test_nothing_that_identifies_somebody_is_among_the_bytes_written(planted: Dataset, syntax: UID) -> None:
    assert traces_of(planted, syntax) == []


NUMBERS = [keyword for keyword in _KEPT if dictionary_VR(keyword) in ("DS", "IS", "US", "SS", "US or SS")]


@pytest.mark.parametrize("number", ["4711815", "471181.5", "47.11815", "0.04711815", "-4711815", "1e300"])
def test_no_number_lets_a_telephone_number_through(number: str) -> None:
    stranger = radiograph()
    for keyword in NUMBERS:
        stranger[keyword] = DataElement(keyword, "DS", number)
    made = deidentified(stranger, stored_values(stranger), NAMES, PATIENT)
    assert [made[each].value for each in NUMBERS if "4711815" in str(made.get(each)).replace(".", "")] == []


@pytest.mark.parametrize(
    ("keyword", "said", "kept"),
    [
        ("KVP", "125.5", 125.5),
        ("KVP", "4711", None),
        ("KVP", ["120", "125"], None),
        ("ExposureInuAs", "12000", 12_000),
        ("ImagerPixelSpacing", ["0.1438879", "0.1438879"], [0.14389, 0.14389]),
        ("DistanceSourceToDetector", "1800", 1800),
        ("DistanceSourceToDetector", "19610312", None),
        ("InstanceNumber", "9999", 9999),
        ("InstanceNumber", "10000", None),
    ],
)
def test_a_number_is_kept_where_it_can_be_what_it_says(keyword: str, said: Any, kept: Any) -> None:
    assert made_of(radiograph(**{keyword: said})).get(keyword) == kept


def dated(day: str, time: str = "", **attributes: object) -> Dataset:
    return radiograph(
        StudyDate=day, StudyTime=time, StudyInstanceUID="1.2.3", SeriesInstanceUID="1.2.3.4", **attributes
    )


def moment_of(ds: Dataset) -> datetime:
    return datetime.strptime(ds.StudyDate + ds.StudyTime, "%Y%m%d%H%M%S")


def test_the_times_between_a_patients_studies_stay_what_they_were() -> None:
    first, second = (made_of(dated(*when)) for when in (("20240228", "235900"), ("20240301", "000130.5")))
    assert (moment_of(second) - moment_of(first)).total_seconds() == 86_400 + 150
    assert moment_of(first) - datetime(2024, 2, 28, 23, 59) == NAMES.shift(PATIENT)
    assert first.LongitudinalTemporalInformationModified == "MODIFIED"


@pytest.mark.parametrize("day", ["", "gestern", "20240230", "00010101", "2024"])
def test_what_is_no_date_is_left_empty(day: str) -> None:
    assert made_of(dated(day, "120000")).StudyDate == ""


def test_objects_still_refer_to_one_another() -> None:
    source = dated("20240301")
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
    item.PatientName = "ZQ"
    first, second = made_of(source), made_of(dated("20240301", SourceImageSequence=[item]))
    assert first.StudyInstanceUID == second.StudyInstanceUID != source.StudyInstanceUID
    assert first.SeriesInstanceUID == second.SeriesInstanceUID
    [reference] = second.SourceImageSequence
    assert (
        reference.ReferencedSOPInstanceUID
        == first.SOPInstanceUID
        == first.file_meta.MediaStorageSOPInstanceUID
    )
    assert reference.ReferencedSOPClassUID == ComputedRadiographyImageStorage and len(reference) == 2


@pytest.mark.parametrize(
    ("said", "age"),
    [
        ({"PatientAge": "061Y"}, 61),
        ({"PatientAge": "093Y"}, 90),
        ({"PatientAge": "018M"}, 1),
        ({"PatientAge": "", "PatientBirthDate": "19610312", "StudyDate": "20240311"}, 62),
        ({"PatientAge": "ZQ", "PatientBirthDate": "19200101", "StudyDate": "20240311"}, 90),
        ({"PatientAge": "", "PatientBirthDate": "20250101", "StudyDate": "20240311"}, None),
        ({"PatientAge": ""}, None),
    ],
)
def test_an_age_is_told_in_years_up_to_ninety_and_no_birth_date(
    said: dict[str, str], age: int | None
) -> None:
    made = made_of(radiograph(**said))
    assert made.PatientBirthDate == ""
    assert made.get("PatientAge") == (None if age is None else f"{age:03}Y")
    assert age_years(radiograph(**said)) == age


@pytest.mark.parametrize(
    "attributes",
    [
        {"PhotometricInterpretation": "MONOCHROME1"},
        {"WindowCenter": [2000, 300], "WindowWidth": [1500, 400], "VOILUTFunction": "SIGMOID"},
        {
            "RescaleSlope": "1.5",
            "RescaleIntercept": "-100",
            "PixelPaddingValue": 3,
            "PixelPaddingRangeLimit": 9,
        },
        {"ModalityLUTSequence": [lut(0, np.arange(4096)[::-1])], "PresentationLUTShape": "INVERSE"},
        {"VOILUTSequence": [lut(500, np.arange(3000) // 12, bits=8)]},
        {
            "PixelRepresentation": 1,
            "BitsStored": 16,
            "HighBit": 15,
            "VOILUTSequence": [lut(-9, np.arange(4096))],
        },
        {"ShutterShape": "RECTANGULAR", "ShutterLeftVerticalEdge": 10, "ShutterRightVerticalEdge": 100}
        | {"ShutterUpperHorizontalEdge": 5, "ShutterLowerHorizontalEdge": 90},
    ],
)
def test_the_image_looks_as_it_did(attributes: dict[str, Any]) -> None:
    ds = radiograph(**attributes)
    made = made_of(ds)
    assert pixel_hash(made) == pixel_hash(ds)
    assert np.array_equal(to_display(made), to_display(ds))
    assert why_not_assessed(made) is None


def test_pixels_of_eight_bits_and_an_odd_number_stay_what_they_were() -> None:
    stored = np.arange(99).reshape(9, 11)
    ds = radiograph(stored, BitsStored=8, HighBit=7)
    made = made_of(ds)
    assert np.array_equal(stored_values(made), stored) and made.BitsAllocated == 8
    assert len(made.PixelData) == 100


def test_an_overlay_in_the_high_bits_stays_behind() -> None:
    made = made_of(radiograph(SCATTER | 0x8000))
    assert np.array_equal(np.frombuffer(made.PixelData, "<u2").reshape(SCATTER.shape), SCATTER)


def test_a_table_of_a_big_endian_file_keeps_its_entries() -> None:
    entries = np.arange(4096)[::-1]
    item = lut(0, entries)
    item.LUTData = entries.astype(">u2").tobytes()
    ds = radiograph(VOILUTSequence=[item])
    ds.PixelData = SCATTER.astype(">u2").tobytes()
    ds.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    big = dcmread(io.BytesIO(written(ds, little_endian=False, implicit_vr=False)))
    made = made_of(big)
    kept = np.frombuffer(made.VOILUTSequence[0].LUTData, "<u2")
    assert np.array_equal(kept[: SCATTER.max() + 1], entries[: SCATTER.max() + 1])
    assert np.array_equal(to_display(made), to_display(big))


def test_a_table_has_no_room_for_what_does_not_belong_to_it() -> None:
    item = lut(0, np.arange(4096))
    item.LUTData += b"ZQMuster^Eva"
    item.LUTExplanation = "ZQ"
    [made] = made_of(radiograph(VOILUTSequence=[item])).VOILUTSequence
    assert len(made.LUTData) == 2 * 4096 and len(made) == 2


def test_what_no_pixel_uses_of_a_table_leaves_no_word() -> None:
    word = np.frombuffer(b"ZQMuster^Eva", "<u2")
    entries = np.minimum(np.arange(4096) * 3, 4095)
    entries[900 : 900 + word.size] = word % 2**12  # in a hole of the histogram
    stored = np.where((SCATTER >= 900) & (SCATTER < 1000), 0, SCATTER)
    ds = radiograph(
        stored,
        ModalityLUTSequence=[lut(0, entries), lut(0, word)],
        VOILUTSequence=[lut(0, np.append(np.arange(4096), word)), lut(0, word)],
    )
    made = made_of(ds)
    [first], [second] = made.ModalityLUTSequence, made.VOILUTSequence
    told = np.frombuffer(first.LUTData, "<u2"), np.frombuffer(second.LUTData, "<u2")
    assert set(told[0][900:1000]) == {4095} and set(told[1][4096:]) == {2**15 - 1}
    assert np.array_equal(to_display(made), to_display(ds))


def test_a_table_and_a_slope_that_is_no_whole_number_go_together() -> None:
    ds = radiograph(RescaleSlope="0.3333333", VOILUTSequence=[lut(0, np.arange(2000) % 1331)])
    made = made_of(ds)
    assert np.array_equal(to_display(made), to_display(ds))


def test_comments_in_a_compressed_stream_stay_behind() -> None:
    ds = phantom(1, "Normal", rows=200, columns=160)
    ds.compress(JPEGLSLossless, generate_instance_uid=False)
    [stream] = pydicom.encaps.generate_frames(ds.PixelData, number_of_frames=1)
    comment = b"\xff\xfe\x00\x0eZQMuster^Eva"
    ds.PixelData = pydicom.encaps.encapsulate([stream[:2] + comment + stream[2:]])
    content = written(made_of(ds))
    assert b"ZQ" in written(ds) and b"ZQ" not in content
    assert pixel_hash(dcmread(io.BytesIO(content))) == pixel_hash(ds)


def test_it_says_what_was_done() -> None:
    made = made_of(radiograph(BurnedInAnnotation="YES"))
    assert made.PatientIdentityRemoved == "YES" and made.PatientID == made.PatientName == NAMES.patient(
        PATIENT
    )
    codes = [
        (item.CodeValue, item.CodingSchemeDesignator) for item in made.DeidentificationMethodCodeSequence
    ]
    assert codes == [("113100", "DCM"), ("113107", "DCM"), ("113108", "DCM")]
    assert made.BurnedInAnnotation == "NO"


def errors_in(file: Path) -> set[str]:
    """What dciodvfy has against a file, without the values it quotes."""
    said = subprocess.run([DCIODVFY, file], capture_output=True, text=True, errors="replace")
    return {line for line in (said.stdout + said.stderr).splitlines() if line.startswith("Error")}


def test_a_phantom_is_as_valid_as_it_was(tmp_path: Path) -> None:
    made = deidentified(ds := phantom(2, "Other", rows=200, columns=160), stored_values(ds), NAMES, PATIENT)
    made.save_as(tmp_path / "made.dcm", enforce_file_format=True)
    assert errors_in(tmp_path / "made.dcm") == set()


def test_real_radiographs_get_no_new_errors_and_lose_their_patients(
    shared_data: Path, tmp_path: Path
) -> None:
    for file in sorted((shared_data / "dicom" / "chest").glob("*.dcm")):
        ds = dcmread(file)
        made = deidentified(ds, stored_values(ds), NAMES, PATIENT)
        made.save_as(tmp_path / "made.dcm", enforce_file_format=True)
        assert errors_in(tmp_path / "made.dcm") <= errors_in(file), file.name
        content = (tmp_path / "made.dcm").read_bytes()
        told = [ds.get(name) for name in ("PatientName", "PatientID", "StudyInstanceUID", "SOPInstanceUID")]
        assert [each for each in told if each and str(each).encode() in content] == []
        assert pixel_hash(made) == pixel_hash(ds)
