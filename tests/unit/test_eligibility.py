"""Which headers let an image be read, and the reason for each that does not."""

from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import (
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    SecondaryCaptureImageStorage,
)

from hilum.eligibility import Reason, View, view_of, why_not_assessed
from tests.unit.images import radiograph


def code(value: str, meaning: str = "") -> list[Dataset]:
    item = Dataset()
    item.CodeValue, item.CodeMeaning, item.CodingSchemeDesignator = value, meaning, "SCT"
    return [item]


ELSEWHERE = code("69536005", "Head")
CHEST = code("816094009", "Chest")
SUPERSEDED_CHEST = code("T-D3000", "Thorax")


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"SOPClassUID": DigitalXRayImageStorageForPresentation, "Modality": "DX"},
        {"LossyImageCompression": "01"},
        {"NumberOfFrames": 1},
        {"QualityControlImage": "YES", "PatientID": "a phantom"},
        {"ViewPosition": "AP"},
    ],
)
def test_a_frontal_chest_of_an_adult_may_be_read(changed: dict[str, object]) -> None:
    assert why_not_assessed(radiograph(**changed)) is None


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"SOPClassUID": CTImageStorage, "Modality": "CT"}, Reason.NOT_CR_OR_DX),
        ({"Modality": "MG"}, Reason.NOT_CR_OR_DX),
        ({"SOPClassUID": ""}, Reason.NOT_CR_OR_DX),
        ({"SOPClassUID": SecondaryCaptureImageStorage}, Reason.SECONDARY_CAPTURE),
        ({"SOPClassUID": MultiFrameGrayscaleByteSecondaryCaptureImageStorage}, Reason.SECONDARY_CAPTURE),
        ({"SOPClassUID": DigitalXRayImageStorageForProcessing}, Reason.FOR_PROCESSING),
        ({"PresentationIntentType": "FOR PROCESSING"}, Reason.FOR_PROCESSING),
        ({"SamplesPerPixel": 3}, Reason.COLOUR),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, Reason.COLOUR),
        ({"NumberOfFrames": 2}, Reason.MULTI_FRAME),
        ({"BodyPartExamined": "HAND"}, Reason.OTHER_BODY_PART),
        ({"ViewPosition": "LL"}, Reason.LATERAL),
        ({"ViewPosition": "RAO"}, Reason.OTHER_VIEW),
        ({"ViewPosition": ""}, Reason.UNKNOWN_VIEW),
        ({"PatientAge": "015Y"}, Reason.CHILD),
    ],
)
def test_what_is_not_read_has_its_reason(changed: dict[str, object], reason: Reason) -> None:
    assert why_not_assessed(radiograph(**changed)) is reason


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"BodyPartExamined": "THORAX"}, None),
        ({"BodyPartExamined": "CHEST_PA"}, None),
        ({"BodyPartExamined": "TSPINE"}, Reason.OTHER_BODY_PART),
        ({"BodyPartExamined": "", "AnatomicRegionSequence": CHEST}, None),
        ({"BodyPartExamined": "", "AnatomicRegionSequence": SUPERSEDED_CHEST}, None),
        ({"BodyPartExamined": "", "AnatomicRegionSequence": code("1", "Lung")}, None),
        ({"BodyPartExamined": "CHEST", "AnatomicRegionSequence": ELSEWHERE}, Reason.OTHER_BODY_PART),
        ({"BodyPartExamined": "CHEST", "AnatomicRegionSequence": []}, None),
        ({"BodyPartExamined": "", "StudyDescription": "Thorax p.a."}, None),
        ({"BodyPartExamined": "UNKNOWN", "ProtocolName": "W033 Chest"}, None),
        ({"BodyPartExamined": "", "SeriesDescription": "Thoracic spine"}, Reason.OTHER_BODY_PART),
        ({"BodyPartExamined": "", "SeriesDescription": "Chest", "StudyDescription": "Abdomen"}, None),
        ({"BodyPartExamined": "", "StudyDescription": "Chest and abdomen"}, Reason.OTHER_BODY_PART),
        ({"BodyPartExamined": "", "StudyDescription": "No Finding"}, Reason.UNKNOWN_BODY_PART),
        ({"BodyPartExamined": ""}, Reason.UNKNOWN_BODY_PART),
    ],
)
def test_the_first_attribute_that_names_a_body_part_decides(
    changed: dict[str, object], reason: Reason | None
) -> None:
    assert why_not_assessed(radiograph(**changed)) is reason


@pytest.mark.parametrize(
    ("changed", "view"),
    [
        ({"ViewPosition": "PA"}, View.PA),
        ({"ViewPosition": "A.P."}, View.AP),
        ({"ViewPosition": "", "SeriesDescription": "Thorax p.a."}, View.PA),
        ({"ViewPosition": "", "SeriesDescription": "chest_ap_portable"}, View.AP),
        ({"ViewPosition": "", "ProtocolName": "Postero-anterior"}, View.PA),
        ({"ViewPosition": "", "SeriesDescription": "Thorax de face"}, View.FRONTAL),
        ({"ViewPosition": "", "SeriesDescription": "Chest PA/AP"}, View.FRONTAL),
        ({"ViewPosition": "", "SeriesDescription": "Chest PA and LAT"}, View.UNKNOWN),
        ({"ViewPosition": "", "StudyDescription": "Chest PA"}, View.UNKNOWN),
        ({"ViewPosition": "", "ViewCodeSequence": code("272479007")}, View.PA),
        ({"ViewPosition": "", "ViewCodeSequence": code("R-10206")}, View.AP),
        ({"ViewPosition": "", "ViewCodeSequence": code("399173006")}, View.LATERAL),
        ({"ViewPosition": "", "ViewCodeSequence": code("9", "left anterior oblique")}, View.OTHER),
        ({"ViewPosition": "", "ViewCodeSequence": []}, View.UNKNOWN),
        ({"ViewPosition": "RLD"}, View.OTHER),
        ({"ViewPosition": "", "SeriesDescription": "Thorax seitl. li."}, View.LATERAL),
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_the_view_is_found_where_it_is_told(changed: dict[str, object], view: View) -> None:
    assert view_of(radiograph(**changed)) is view


def test_a_text_that_says_lateral_outweighs_a_view_position_left_at_its_default() -> None:
    header = radiograph(ViewPosition="AP", SeriesDescription="CHEST LATERAL")
    assert why_not_assessed(header) is Reason.LATERAL


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"PatientAge": "016Y"}, None),
        ({"PatientAge": "061"}, None),
        ({"PatientAge": "008M"}, Reason.CHILD),
        ({"PatientAge": "200W"}, Reason.CHILD),
        ({"PatientAge": "900D"}, Reason.CHILD),
        ({"PatientAge": ""}, None),
        ({"PatientAge": "", "PatientBirthDate": "20100612", "StudyDate": "20260611"}, Reason.CHILD),
        ({"PatientAge": "", "PatientBirthDate": "20100612", "StudyDate": "20260612"}, None),
        ({"PatientAge": "", "PatientBirthDate": "20100612"}, None),
        ({"PatientAge": "", "PatientBirthDate": "20101399", "StudyDate": "20260612"}, None),
        ({"PatientAge": "061Y", "PatientBirthDate": "20200101", "StudyDate": "20260612"}, Reason.CHILD),
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_under_sixteen_by_age_or_by_dates_is_a_child(
    changed: dict[str, object], reason: Reason | None
) -> None:
    assert why_not_assessed(radiograph(**changed)) is reason


def test_the_reasons_end_the_sentence_that_a_report_begins() -> None:
    assert f"Not assessed, because {Reason.CHILD}." == (
        "Not assessed, because the patient is younger than 16 years."
    )


@pytest.mark.filterwarnings("ignore")  # of pydicom, on what real headers hold
def test_of_the_real_files_the_frontal_chests_alone_may_be_read(shared_data: Path) -> None:
    reasons = {
        path.name.split("__")[1][:9]: why_not_assessed(dcmread(path, stop_before_pixels=True))
        for path in (shared_data / "dicom" / "chest").iterdir()
    }
    assert reasons == {
        "RG1_JLSN.": None,
        "RG1_J2KI.": None,
        "dx_image.": Reason.LATERAL,
        "CR-Modali": Reason.OTHER_BODY_PART,
        "1.3.6.1.4": Reason.SECONDARY_CAPTURE,
    }
