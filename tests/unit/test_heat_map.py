from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import UID

from tests.unit.test_structured_report import (
    CREATED,
    NETWORK,
    assessed,
    dciodvfy_errors,
    dirty_headers,
    header,
    read_back,
    result,
    saved,
)
from worker.heat_map import heat_map_image
from worker.results import ReadImage
from worker.structured_report import structured_report

Gray = NDArray[np.uint8]
Heat = NDArray[np.float32]

COLD: Heat = np.zeros((7, 7), dtype=np.float32)


def gradient(height: int, width: int) -> Gray:
    """A radiograph for want of one: dark on the left, bright on the right."""
    row = np.linspace(40, 200, width).astype(np.uint8)
    return np.repeat(row[np.newaxis], height, axis=0)


def hot_at(row: int, column: int) -> Heat:
    heat = COLD.copy()
    heat[row, column] = 1
    return heat


def capture(image: ReadImage, display: Gray, heat: Heat, revision: int = 1) -> Dataset:
    return heat_map_image(image, display, heat, edition=str(revision), network=NETWORK, created=CREATED)


def coloured(ds: Dataset, width: int) -> NDArray[np.bool_]:
    """Where the radiograph, the first `width` columns, is tinted warm."""
    pixels = ds.pixel_array[:, :width].astype(int)
    warm: NDArray[np.bool_] = (pixels[..., 0] - pixels[..., 2]) > 60
    return warm


@pytest.fixture
def errors_of(tmp_path: Path) -> Callable[[Dataset], list[str]]:
    def errors(ds: Dataset) -> list[str]:
        path = tmp_path / "object.dcm"
        path.write_bytes(saved(ds))
        return dciodvfy_errors(path)

    return errors


@pytest.mark.parametrize("orientation", [["L", "F"], "", ["nonsense"], ["L", "F", "H"]])
def test_dciodvfy_finds_no_error(errors_of: Callable[[Dataset], list[str]], orientation: list[str]) -> None:
    source = header()
    source.add_new("PatientOrientation", "LO", orientation)
    assert errors_of(capture(assessed(source), gradient(300, 250), hot_at(3, 3))) == []


def test_it_is_a_derived_colour_image_with_its_source_and_burned_in_text() -> None:
    ds = read_back(capture(assessed(header()), gradient(300, 250), hot_at(3, 3)))
    assert list(ds.ImageType) == ["DERIVED", "SECONDARY"]
    assert (ds.PhotometricInterpretation, ds.BitsAllocated, ds.ConversionType) == ("RGB", 8, "WSD")
    assert ds.BurnedInAnnotation == "YES"
    [source] = ds.SourceImageSequence
    assert source.ReferencedSOPInstanceUID == "1.2.826.0.1.7.3"
    assert ds.DerivationCodeSequence[0].CodeMeaning == "Saliency"
    assert ds.StudyInstanceUID == "1.2.826.0.1.7.1"
    assert str(ds.PatientName) == "Müller^Jörg"
    assert ds.SeriesInstanceUID != "1.2.826.0.1.7.2" and UID(ds.SOPInstanceUID).is_valid


@pytest.mark.parametrize(("height", "width"), [(2500, 2048), (300, 400), (1024, 1024), (169, 700)])
def test_the_radiograph_has_1024_pixels_on_its_longer_side(height: int, width: int) -> None:
    ds = capture(assessed(header()), gradient(height, width), COLD)
    scale = 1024 / max(height, width)
    panel_width = ds.Columns - round(width * scale)
    assert panel_width == 336
    assert ds.Rows == max(round(height * scale), 640)


def test_the_heat_lies_over_its_cell_of_the_central_square() -> None:
    portrait = coloured(capture(assessed(header()), gradient(1024, 700), hot_at(0, 0)), 700)
    rows, columns = np.nonzero(portrait[:1024, :700] & (np.arange(1024) < 900)[:, np.newaxis])
    assert 162 <= rows.mean() <= 162 + 100  # the square begins 162 rows below the top, a cell is 100 pixels
    assert 0 <= columns.mean() <= 100
    landscape = coloured(capture(assessed(header()), gradient(700, 1024), hot_at(6, 6)), 1024)
    rows, columns = np.nonzero(landscape[:660])
    assert 600 <= rows.mean() <= 700
    assert 162 + 600 <= columns.mean() <= 162 + 700


def test_the_radiograph_stays_visible_under_the_greatest_heat() -> None:
    display = gradient(700, 700)
    display[:, 340:360] = 0  # a dark line through the heat
    pixels = capture(assessed(header()), display, np.ones((7, 7), dtype=np.float32)).pixel_array.astype(int)
    assert abs(pixels[300, 505] - pixels[300, 560]).max() > 20


def test_without_heat_the_radiograph_is_as_it_was() -> None:
    display = gradient(1024, 1024)
    pixels = capture(assessed(header()), display, COLD).pixel_array
    assert (pixels[200:800, 60:960] == display[200:800, 60:960, np.newaxis]).all()


def test_hotter_is_lighter() -> None:
    heats = (np.full((7, 7), level, dtype=np.float32) for level in (0.3, 0.6, 1.0))
    black: Gray = np.zeros((700, 700), dtype=np.uint8)
    light = [capture(assessed(header()), black, heat).pixel_array[300:600, 300:600].mean() for heat in heats]
    assert light == sorted(light)


def test_the_warning_stands_in_the_radiograph_and_in_the_panel() -> None:
    black: Gray = np.zeros((1024, 1024), dtype=np.uint8)
    pixels = capture(assessed(header()), black, COLD).pixel_array
    amber = (pixels == (255, 179, 64)).all(axis=-1)
    assert amber[960:1020, 400:624].sum() > 100
    assert (pixels[936:968, 1060:1325, 0] > 150).sum() > 300  # inside the frame


def test_no_word_in_the_pixels_says_who_the_patient_is() -> None:
    other = header(PatientName="Nobody^Else", PatientID="P-18", AccessionNumber="A-2", StudyID="S-2")
    display, heat = gradient(300, 250), hot_at(3, 3)
    one = capture(assessed(header()), display, heat)
    assert one.PixelData == capture(assessed(other), display, heat).PixelData


def test_the_panel_shows_what_was_found() -> None:
    display, heat = gradient(300, 250), hot_at(3, 3)
    image = assessed(header())
    others = (
        replace(image, label="Other"),
        replace(image, view="AP"),
        replace(image, probabilities={"Normal": 0.5, "Pneumonia": 0.5, "COVID-19": 0.0, "Other": 0.0}),
    )
    pixels = capture(image, display, heat).PixelData
    assert all(capture(other, display, heat).PixelData != pixels for other in others)
    titles = [capture(other, display, heat).pixel_array[50:110] for other in (image, others[0])]
    assert (titles[0] != titles[1]).any()


def test_the_same_arguments_give_the_same_bytes() -> None:
    display, heat = gradient(300, 250), hot_at(3, 3)
    once = saved(capture(assessed(header()), display, heat))
    assert saved(capture(assessed(header()), display, heat)) == once


def test_images_of_a_revision_share_a_series_and_revisions_do_not() -> None:
    display, heat = gradient(300, 250), hot_at(3, 3)
    one = capture(assessed(header()), display, heat)
    other = capture(assessed(header("1.2.826.0.1.7.9")), display, heat)
    later = capture(assessed(header()), display, heat, revision=2)
    assert one.SeriesInstanceUID == other.SeriesInstanceUID != later.SeriesInstanceUID
    assert len({one.SOPInstanceUID, other.SOPInstanceUID, later.SOPInstanceUID}) == 3


def test_what_is_made_of_a_lossy_or_phantom_image_says_so() -> None:
    source = header(LossyImageCompression="01", LossyImageCompressionRatio="10", QualityControlImage="YES")
    ds = capture(assessed(source), gradient(300, 250), COLD)
    assert (ds.LossyImageCompression, ds.LossyImageCompressionRatio) == ("01", 10)
    assert ds.QualityControlImage == "YES"
    assert capture(assessed(header()), gradient(300, 250), COLD).LossyImageCompression == "00"


@pytest.mark.parametrize(("written", "number"), [("7", 7), ("", 1), ("99999999999", 1)])
def test_it_takes_the_instance_number_of_its_source(written: str, number: int) -> None:
    source = header()
    source.add_new("InstanceNumber", "LO", written)
    assert read_back(capture(assessed(source), gradient(300, 250), COLD)).InstanceNumber == number


def test_the_report_refers_to_the_capture_of_each_image() -> None:
    image = assessed(header())
    ds = capture(image, gradient(300, 250), COLD)
    report = structured_report(replace(result(image), heat_maps=(ds,)))
    assert ds.SOPInstanceUID in str(report.ContentSequence)


def test_real_headers_are_captured_without_errors(
    shared_data: Path, errors_of: Callable[[Dataset], list[str]]
) -> None:
    for path in sorted((shared_data / "dicom" / "chest").glob("*.dcm")):
        if path.name.startswith("fo-dicom"):
            continue  # its own UID is invalid, and so is every reference to it
        source = dcmread(path, stop_before_pixels=True)
        assert errors_of(capture(assessed(source), gradient(300, 250), hot_at(3, 3))) == [], path.name


@given(dirty_headers)
@settings(max_examples=60, deadline=None)
def test_no_header_that_can_be_read_is_too_dirty_for_a_capture(source: Dataset) -> None:
    ds = read_back(capture(assessed(source), gradient(70, 60), hot_at(3, 3)))
    assert ds.pixel_array.shape == (ds.Rows, ds.Columns, 3)
