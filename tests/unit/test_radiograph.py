"""Gray values, polarity, padding, crops and hashes of radiographs, and what decodes at all."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
from pydicom.uid import UID, JPEG2000Lossless, JPEGLSLossless, RLELossless

from hilum import radiograph as hilum_radiograph
from hilum.errors import NotARadiograph, Undecodable
from hilum.radiograph import (
    decodable_transfer_syntaxes,
    looks_like_a_frontal_chest,
    pixel_hash,
    stored_values,
    to_display,
)
from tests.unit.images import SCATTER, lut, radiograph

WINDOW = {"WindowCenter": "1800", "WindowWidth": "2400"}


def as_pydicom_shows(ds: Dataset) -> NDArray[np.float64]:
    """(Rows, Columns), 0 to 255, by pydicom's own functions."""
    shown = apply_voi_lut(apply_modality_lut(ds.pixel_array, ds), ds).astype(np.float64)
    low = ds.get("RescaleIntercept", 0)
    high = low + (2**ds.BitsStored - 1) * ds.get("RescaleSlope", 1)
    gray: NDArray[np.float64] = (shown - low) / (high - low) * 255
    return gray


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")  # in pydicom
@pytest.mark.parametrize("width", ["2400", "9"])
@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_a_window_shows_what_pydicom_shows(function: str, width: str) -> None:
    ds = radiograph(WindowCenter="1800", WindowWidth=width, VOILUTFunction=function)
    assert np.abs(to_display(ds) - as_pydicom_shows(ds)).max() <= 1


def test_the_window_is_in_rescaled_units() -> None:
    ds = radiograph(WindowCenter="-100", WindowWidth="900", RescaleSlope="0.5", RescaleIntercept="-1000")
    assert np.abs(to_display(ds) - as_pydicom_shows(ds)).max() <= 1


def test_of_several_windows_the_first_is_applied() -> None:
    several = radiograph(WindowCenter=["1800", "50"], WindowWidth=["2400", "60"])
    np.testing.assert_array_equal(to_display(several), to_display(radiograph(**WINDOW)))


def test_monochrome1_is_turned_over_so_that_bone_is_white() -> None:
    turned = radiograph(4095 - SCATTER, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_allclose(to_display(turned), to_display(radiograph()), atol=1)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_the_shape_inverse_turns_over_once_whatever_the_photometric_interpretation(photometric: str) -> None:
    plain = to_display(radiograph(**WINDOW))
    ds = radiograph(**WINDOW, PhotometricInterpretation=photometric, PresentationLUTShape="INVERSE")
    np.testing.assert_allclose(to_display(ds), 255 - plain.astype(int), atol=1)


def test_without_a_window_all_but_the_outermost_gray_values_are_told_apart() -> None:
    spiked = SCATTER // 8 + 1000
    spiked[0, :5] = 4095
    display = to_display(radiograph(spiked))
    assert (display.min(), display.max()) == (0, 255)
    assert np.unique(display).size > 200


def test_an_unusable_window_counts_as_none() -> None:
    stretched = to_display(radiograph())
    np.testing.assert_array_equal(to_display(radiograph(WindowCenter="", WindowWidth="")), stretched)
    np.testing.assert_array_equal(to_display(radiograph(WindowCenter="9", WindowWidth="-3")), stretched)


def test_a_voi_lut_goes_before_a_window_and_the_first_of_several_counts() -> None:
    rising, falling = np.arange(4096) * 16, np.arange(4096)[::-1]
    ds = radiograph(**WINDOW, VOILUTSequence=[lut(0, rising), lut(0, falling)])
    assert np.abs(to_display(ds) - SCATTER / 4095 * 255).max() <= 3


def test_a_voi_lut_that_states_too_many_bits_is_not_shown_dark() -> None:
    ds = radiograph(VOILUTSequence=[lut(0, np.arange(4096), bits=16)])
    assert to_display(ds).max() > 240


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_a_voi_lut_that_leaves_out_black_and_white_is_not_stretched(photometric: str) -> None:
    entries = 1024 + np.arange(4096) // 2  # from a quarter to three quarters of 12 bits
    ds = radiograph(VOILUTSequence=[lut(0, entries, bits=12)], PhotometricInterpretation=photometric)
    shown = entries[SCATTER] / 4095
    by_hand = (1 - shown if photometric == "MONOCHROME1" else shown) * 255
    assert np.abs(to_display(ds) - by_hand).max() <= 1


def test_all_of_a_voi_lut_counts_whatever_of_it_the_pixels_reach() -> None:
    dark = lut(0, np.arange(4096) // 4, bits=12)
    ds = radiograph(ModalityLUTSequence=[dark], VOILUTSequence=[lut(0, np.arange(4096), bits=12)])
    assert np.abs(to_display(ds) - SCATTER // 4 / 4095 * 255).max() <= 1


def test_a_voi_lut_that_is_too_short_counts_as_none() -> None:
    item = lut(0, np.arange(4096))
    item.LUTData = item.LUTData[:100]
    ds = radiograph(**WINDOW, VOILUTSequence=[item])
    np.testing.assert_array_equal(to_display(ds), to_display(radiograph(**WINDOW)))


def test_a_voi_lut_of_eight_bit_entries_is_read() -> None:
    item = lut(0, np.zeros(4096))
    item.LUTDescriptor = [4096, 0, 8]
    item.LUTData = (np.arange(4096) // 16).astype(np.uint8).tobytes()
    assert np.abs(to_display(radiograph(VOILUTSequence=[item])) - SCATTER / 4095 * 255).max() <= 3


def test_the_modality_lut_is_applied_before_the_window() -> None:
    curve = np.sqrt(np.arange(4096) / 4095) * 4095
    ds = radiograph(**WINDOW, ModalityLUTSequence=[lut(0, curve, bits=12)])
    by_hand = np.clip((curve.astype(int)[SCATTER] - 1799.5) / 2399 + 0.5, 0, 1) * 255
    assert np.abs(to_display(ds) - by_hand).max() <= 1


def test_signed_pixels_keep_their_sign() -> None:
    ds = radiograph(SCATTER - 2000, PixelRepresentation=1, WindowCenter="-200", WindowWidth="2400")
    assert stored_values(ds).min() == -2000
    np.testing.assert_array_equal(to_display(ds), to_display(radiograph(**WINDOW)))


def test_a_lut_descriptor_of_signed_pixels_may_be_read_as_unsigned() -> None:
    item = lut(0, np.arange(4096))
    item.LUTDescriptor = [4096, 2**16 - 2000, 12]
    ds = radiograph(SCATTER - 2000, PixelRepresentation=1, VOILUTSequence=[item])
    assert np.abs(to_display(ds) - SCATTER / 4095 * 255).max() <= 3


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless])
@pytest.mark.parametrize("signed", [0, 1])
def test_overlay_bits_in_a_compressed_stream_are_removed(syntax: UID, signed: int) -> None:
    stored = SCATTER - 2000 * signed
    overlaid = (stored & 0x0FFF) | 0x5000 * (SCATTER % 2)
    ds = radiograph(overlaid, BitsStored=16, HighBit=15, PixelRepresentation=signed)
    ds.compress(syntax, generate_instance_uid=False)
    ds.BitsStored, ds.HighBit = 12, 11
    assert np.array_equal(stored_values(ds), stored)


def test_overlay_bits_above_the_stored_ones_are_removed() -> None:
    ds = radiograph(SCATTER | 0xA000)
    np.testing.assert_array_equal(stored_values(ds), SCATTER)


def test_pixels_at_the_top_of_their_words_are_refused_and_not_guessed() -> None:
    with pytest.raises(Undecodable, match="High Bit"):
        to_display(radiograph(SCATTER << 4, HighBit=15))


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_pixel_padding_is_black_and_does_not_stretch_the_rest(photometric: str) -> None:
    padded = SCATTER // 4 + 500
    padded[40:50, 40:100] = 4000
    padded[50:60, 40:100] = 4005
    ds = radiograph(
        padded, PhotometricInterpretation=photometric, PixelPaddingValue=4005, PixelPaddingRangeLimit=4000
    )
    display = to_display(ds)
    assert np.all(display[40:60, 40:100] == 0)
    assert np.unique(display).size > 200


def test_what_the_rectangular_shutter_covers_is_cut_off() -> None:
    edges = {
        "LeftVerticalEdge": 11,
        "RightVerticalEdge": 110,
        "UpperHorizontalEdge": 6,
        "LowerHorizontalEdge": 95,
    }
    whole = to_display(radiograph(**WINDOW))
    for kind in ("Shutter", "Collimator"):
        ds = radiograph(**WINDOW, **{f"{kind}{edge}": value for edge, value in edges.items()})
        setattr(ds, f"{kind}Shape", "RECTANGULAR")
        np.testing.assert_array_equal(to_display(ds), whole[5:95, 10:110])


def test_collimator_edges_in_millimetres_are_not_believed() -> None:
    ds = radiograph(CollimatorShape="RECTANGULAR", CollimatorLeftVerticalEdge=-60)
    ds.CollimatorRightVerticalEdge, ds.CollimatorUpperHorizontalEdge = 60, 30
    ds.CollimatorLowerHorizontalEdge = 90
    assert to_display(ds).shape == SCATTER.shape


@pytest.mark.parametrize("border", [0, 100, 4095])
def test_blank_borders_are_cut_off_and_a_marker_in_one_stops_the_cut(border: int) -> None:
    framed = np.full((140, 160), border)
    framed[20:120, 20:140] = SCATTER // 2 + 1000
    window = {"WindowCenter": "2048", "WindowWidth": "4096"}
    assert to_display(radiograph(framed, **window)).shape == (100, 120)
    framed[5:15, 60:80] = 2000
    assert to_display(radiograph(framed, **window)).shape == (115, 120)


def test_an_image_that_is_nearly_all_border_is_left_whole() -> None:
    framed = np.zeros((140, 160), dtype=int)
    framed[60:70, 60:70] = 3000
    assert to_display(radiograph(framed, WindowCenter="2048", WindowWidth="4096")).shape == (140, 160)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "colour"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "colour"),
        ({"NumberOfFrames": 2}, "more than one frame"),
        ({"BitsAllocated": 32, "BitsStored": 32, "HighBit": 31}, "32 bits"),
    ],
)
def test_what_is_no_radiograph_is_named(changed: dict[str, object], reason: str) -> None:
    with pytest.raises(NotARadiograph, match=reason):
        to_display(radiograph(**changed))


def test_missing_pixels_are_undecodable() -> None:
    ds = radiograph()
    ds.PixelData = ds.PixelData[:200]
    with pytest.raises(Undecodable, match="less than expected"):
        to_display(ds)


def test_a_file_that_hides_its_transfer_syntax_is_undecodable() -> None:
    ds = radiograph()
    del ds.file_meta.TransferSyntaxUID
    with pytest.raises(Undecodable, match="Transfer Syntax"):
        to_display(ds)


@settings(deadline=None, max_examples=150)
@given(
    bits=st.integers(1, 16),
    signed=st.integers(0, 1),
    centre=st.floats(allow_nan=True, width=32),
    width=st.floats(allow_nan=True, width=32),
    slope=st.floats(-1e6, 1e6),
    padding=st.none() | st.integers(0, 65535),
)
def test_any_gray_scale_attributes_give_an_image(
    bits: int, signed: int, centre: float, width: float, slope: float, padding: int | None
) -> None:
    ds = radiograph(BitsStored=bits, HighBit=bits - 1, PixelRepresentation=signed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pydicom, on values that are too long for DICOM
        ds.WindowCenter, ds.WindowWidth, ds.RescaleSlope, ds.RescaleIntercept = centre, width, slope, 0
        if padding is not None:
            ds.add_new("PixelPaddingValue", "US", padding)
        display = to_display(ds)
    assert display.dtype == np.uint8
    assert display.size > 0


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless, RLELossless])
def test_the_hash_outlives_a_lossless_transfer_syntax(syntax: str) -> None:
    ds = radiograph()
    plain = pixel_hash(ds)
    ds.compress(syntax, generate_instance_uid=False)
    assert pixel_hash(ds) == plain


def test_the_hash_changes_with_one_pixel_and_with_the_shape() -> None:
    other = SCATTER.copy()
    other[7, 7] += 1
    hashes = {pixel_hash(radiograph(stored)) for stored in (SCATTER, other, SCATTER.reshape(120, 100))}
    assert len(hashes) == 3


def test_real_radiographs_look_like_frontal_chests(shared_data: Path) -> None:
    for path in sorted((shared_data / "cxr").rglob("*.jpg"))[::10]:
        assert looks_like_a_frontal_chest(np.asarray(Image.open(path).convert("L"))) is None, path.name


@pytest.mark.parametrize(
    ("display", "reason"),
    [
        (np.zeros((500, 500), dtype=np.uint8), "empty"),
        (np.resize(np.arange(256, dtype=np.uint8), (60, 500)), "60 pixels"),
        (np.resize(np.arange(256, dtype=np.uint8), (100, 500)), "strip"),
        (np.resize(np.arange(8, dtype=np.uint8), (500, 500)), "gray levels"),
    ],
)
def test_what_cannot_be_a_chest_is_named(display: NDArray[np.uint8], reason: str) -> None:
    assert reason in (looks_like_a_frontal_chest(display) or "")


def test_the_real_chests_show_dark_lungs_beside_a_white_spine(shared_data: Path) -> None:
    for name in ("dicom-test-files__RG1_JLSN.dcm", "pydicom-data__RG1_J2KI.dcm"):
        display = to_display(dcmread(shared_data / "dicom" / "chest" / name))
        middle = display[600:1000]
        assert middle[:, 800:950].mean() > middle[:, 350:550].mean() + 30


def test_a_panoramic_with_a_modality_lut_loses_its_black_frame(shared_data: Path) -> None:
    ds = dcmread(shared_data / "dicom" / "chest" / "fo-dicom__CR-ModalitySequenceLUT.dcm")
    assert to_display(ds).shape < (ds.Rows, ds.Columns)


def test_the_transfer_syntaxes_of_radiographs_are_proven_to_decode() -> None:
    proven = {str(uid).removeprefix("1.2.840.10008.1.2") for uid in decodable_transfer_syntaxes()}
    jpeg = {".4.50", ".4.57", ".4.70", ".4.80", ".4.81", ".4.90", ".4.91", ".4.201", ".4.202", ".4.203"}
    assert proven == {"", ".1", ".1.99", ".2", ".5"} | jpeg


def test_a_sample_that_does_not_decode_proves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in hilum_radiograph._SAMPLES.glob("htj2k*.dcm"):
        (tmp_path / path.name).write_bytes(path.read_bytes().replace(b"\xff\x93", b"\xff\x00"))
    monkeypatch.setattr(hilum_radiograph, "_SAMPLES", tmp_path)
    assert decodable_transfer_syntaxes() == []


def test_a_sample_that_decodes_to_something_else_proves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ds = dcmread(hilum_radiograph._SAMPLES / "explicit-little.dcm")
    ds.PixelData = ds.PixelData[::-1]
    ds.save_as(tmp_path / "explicit-little.dcm")
    monkeypatch.setattr(hilum_radiograph, "_SAMPLES", tmp_path)
    assert decodable_transfer_syntaxes() == []


def test_the_high_throughput_samples_are_high_throughput() -> None:
    for path in hilum_radiograph._SAMPLES.glob("htj2k*.dcm"):
        assert b"\xff\x50" in dcmread(path).PixelData, path.name  # CAP, of ISO/IEC 15444-15
